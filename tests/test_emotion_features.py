"""Features of emotional speech: normalization, cache, files of other programs, and a split that parts speakers."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_emotion_corpora import emodb, ravdess

import leakscope as ls
from leakscope.audit.telling import tell
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.datasets import partition
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.emotion import opensmile
from leakscope.datasets.emotion.normalization import limits, normalized

SPOKEN = ls.SpokenEmotions(speakers=4, each=2)
SMALL = ls.OpenSmile(ls.FeatureSet.EGEMAPS)
FEATURES = ls.EmotionFeatures(SPOKEN, SMALL, ls.Normalization.CORPUS)
per = pytest.mark.parametrize("how", list(ls.Normalization), ids=lambda how: how.value)


# --- normalization --------------------------------------------------------------------------------------------------

WHO = [("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"), ("a", "y"), ("b", "x"), ("b", "x")]
SPEAKERS, CORPORA = [one[0] for one in WHO], [one[1] for one in WHO]


def by_numpy(values: np.ndarray, how: ls.Normalization) -> np.ndarray:
    """One recording at a time, with numpy's own statistics of those that belong to it."""
    made = np.zeros_like(values)
    for place, (speaker, corpus) in enumerate(WHO):
        own = [values[at] for at, (s, c) in enumerate(WHO)
               if c == corpus and (s == speaker or how is not ls.Normalization.SPEAKER)]  # fmt: skip
        if how is ls.Normalization.RANGE:
            span = np.ptp(own, axis=0)
            made[place] = np.where(span == 0, 0, (values[place] - np.min(own, axis=0)) / np.maximum(span, 1e-300))
        else:
            made[place] = (values[place] - np.mean(own, axis=0)) / (np.std(own, axis=0) + 1e-5)
    return made


@per
def test_normalization_is_by_the_statistics_of_those_that_belong_together(how: ls.Normalization) -> None:
    values = 1e4 + 10 * torch.randn(7, 5, generator=ls.Key(1).generator())
    values[:, 3] = 7.0
    found = normalized(values, how, speakers=SPEAKERS, corpora=CORPORA)
    np.testing.assert_allclose(found.numpy(), by_numpy(values.double().numpy(), how), atol=1e-6)
    assert found[:, 3].eq(0).all(), "what never changes says nothing"
    assert found.dtype == torch.float32


@per
@given(seed=st.integers(0, 100), wild=st.booleans())
@settings(max_examples=15, deadline=None)
def test_no_normalized_value_lies_beyond_the_domain(how: ls.Normalization, seed: int, wild: bool) -> None:
    """Samuelson's inequality; a single outlier among zeros attains it."""
    values = torch.randn(7, 3, generator=ls.Key(seed).generator())
    if wild:
        values = torch.zeros(7, 3).index_fill(0, torch.tensor(seed % 7), 1e8)
    low, high = limits(how, speakers=SPEAKERS, corpora=CORPORA)
    found = normalized(values, how, speakers=SPEAKERS, corpora=CORPORA)
    assert float(found.min()) >= low - 1e-6
    assert float(found.max()) <= high + 1e-6


def test_a_single_recording_cannot_be_normalized_by_itself() -> None:
    with pytest.raises(BadInput, match="'c, b' has a single recording"):
        normalized(torch.rand(3, 2), ls.Normalization.SPEAKER, speakers="aab", corpora="ccc")


# --- the source -----------------------------------------------------------------------------------------------------


@per
def test_features_are_a_source(how: ls.Normalization) -> None:
    source = ls.EmotionFeatures(SPOKEN, SMALL, how)
    batch = source.load().checked()
    assert source.domain.fits(batch.inputs)
    assert batch.inputs.shape == (4 * 4 * 2, 88)
    low, high = source.domain.bounds(batch.inputs)
    assert bool(((batch.inputs >= low - 1e-6) & (batch.inputs <= high + 1e-6)).all())
    assert torch.bincount(batch.labels).tolist() == [8, 8, 8, 8]
    said = {one.name: one for one in source.annotations()}
    assert said["sex"].categories == ("female", "male")
    assert [said["sex"].values[at] for at in (0, 8, 16, 24)] == [0, 1, 0, 1]
    assert len(said["speaker"].categories) == 4
    assert eval(repr(source), vars(ls) | {name: getattr(ls, name) for name in ls.__all__}) == source


def test_nobody_is_public_and_private() -> None:
    source = ls.EmotionFeatures(ls.SpokenEmotions(speakers=10, each=1), SMALL)
    public = {one.name: one for one in source.public_annotations()}["speaker"].values
    private = source.draw(len(source.load()) - len(public), key=ls.Key(0)).annotation("speaker").values
    assert not set(public) & set(private)
    assert len(set(public)) == len(set(private)) == 5
    around = ls.Balanced(source)
    assert set(around.public_annotations()[0].values) == set(public), "a source around it splits as it does"


def test_equal_examples_bring_their_owners_to_one_side() -> None:
    """Ada said what Ben said, Ben what Cem said: none of them may be on another side than the others."""

    class Said(AbstractSource):
        domain, classes = ls.Vectors(1, 0, 9), 1

        def load(self) -> ls.Batch:
            return ls.Batch(torch.tensor([[1.0], [2], [2], [3], [3], [4], [5]]), torch.zeros(7, dtype=torch.int64))

        def owners(self) -> tuple[int, ...]:
            return (5, 5, 0, 0, 9, 2, 3)

    source = Said()
    public = set(source.public().inputs.flatten().tolist())
    assert public & {1.0, 2.0, 3.0} in ({1.0, 2.0, 3.0}, set())
    assert 0 < len(public) < 5


def test_speakers_are_chosen_and_normalized_among_themselves() -> None:
    names = sorted({one.speaker for one in SPOKEN.recordings()})[:2]
    half = ls.EmotionFeatures(SPOKEN, SMALL, ls.Normalization.CORPUS, speakers=tuple(names))
    assert {one.speaker for one in half.recordings()} == set(names)
    assert half.load().inputs.mean(0).abs().max() < 1e-5
    with pytest.raises(UnknownName, match=r"unknown speaker of SpokenEmotions.*'nobody'"):
        ls.EmotionFeatures(SPOKEN, SMALL, speakers=("nobody",)).load()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ls.EmotionFeatures(SMALL), "expected corpus to be of type AbstractCorpus"),
        (lambda: ls.EmotionFeatures(SPOKEN, SPOKEN), "expected features to be of type AbstractFeatures"),
        (lambda: ls.EmotionFeatures(SPOKEN, SMALL, "speakers"), "expected normalization to be one of speaker, corpus"),
        (lambda: ls.EmotionFeatures(SPOKEN, emotions=("happy",)), "expected at least two different emotions"),
        (lambda: ls.EmotionFeatures(SPOKEN, emotions=("happy", "glad")), "one of neutral, happy, sad, .* got 'glad'"),
        (lambda: ls.EmotionFeatures(SPOKEN, SMALL, emotions=("happy", "bored")).load(), "that is taken is bored"),
        (lambda: ls.OpenSmile("emobas"), "expected kind to be one of emobase, eGeMAPSv02, ComParE_2016"),
        (lambda: ls.SpokenEmotions(speakers=65), "expected 1 <= speakers <= 64, got 65"),
        (lambda: ls.SpokenEmotions("attic"), "expected style to be one of studio, telephone, room"),
        (lambda: ls.Combined((SMALL,)), "expected corpora, got OpenSmile"),
        (lambda: ls.FeatureFiles("x", 0), "expected width >= 1, got 0"),
        (lambda: ls.Vectors(0, 0, 1), "expected size >= 1, got 0"),
        (lambda: ls.Vectors(3, 1, 1), "expected low < high, got 1.0 and 1.0"),
        (lambda: ls.Vectors(3, 0, np.inf), "expected -inf <= high, got inf"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(wrong: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wrong()  # type: ignore[operator]


# --- openSMILE and the cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ls.FeatureSet), ids=lambda kind: kind.value)
def test_features_depend_on_the_recording_alone(kind: ls.FeatureSet) -> None:
    features = ls.OpenSmile(kind)
    forward, backward = features.of(SPOKEN, [0, 9]), features.of(SPOKEN, [9, 0])
    assert forward.shape == (2, features.size)
    assert forward.equal(backward.flip(0)), "openSMILE keeps nothing from one recording to the next"


def test_what_is_in_the_cache_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = ls.OpenSmile(ls.FeatureSet.EGEMAPS, cache=str(tmp_path / "new"))
    first = cached.of(SPOKEN, [0, 1])
    files = sorted((tmp_path / "new/eGeMAPSv02").glob("*.safetensors"))
    assert len(files) == 2
    asked: list[int] = []
    real = opensmile._computed
    monkeypatch.setattr(opensmile, "_computed", lambda *given: (asked.append(1), real(*given))[1])
    assert cached.of(SPOKEN, [0, 1]).equal(first)
    assert asked == []
    files[0].write_bytes(files[0].read_bytes()[:-1])  # cut short
    assert cached.of(SPOKEN, [0, 1]).equal(first)
    assert len(asked) == 1, "a damaged vector alone is computed anew"


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(MissingExtra, match=r"needs the package opensmile, .*pip install 'leakscope\[emotion\]'"):
        ls.OpenSmile(cache="nowhere").of(SPOKEN, [0])


def test_the_cache_tells_recordings_apart_that_differ_in_one_sample(tmp_path: Path) -> None:
    corpus = emodb(tmp_path / "emodb")
    first, second = (Path(one.path) for one in corpus.recordings()[:2])
    assert first.read_bytes() == second.read_bytes()
    second.write_bytes(second.read_bytes()[:-1] + b"\1")
    ls.OpenSmile(ls.FeatureSet.EGEMAPS, cache=str(tmp_path)).of(corpus, [0, 1, 0])
    ls.OpenSmile(ls.FeatureSet.EMOBASE, cache=str(tmp_path)).of(corpus, [0])
    assert [len(list((tmp_path / kind).iterdir())) for kind in ("eGeMAPSv02", "emobase")] == [2, 1]


def test_a_recording_of_which_nothing_can_be_computed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opensmile, "_extractor", lambda kind: lambda *_: np.full(88, np.nan, np.float32))
    with pytest.raises(BadInput, match=r"openSMILE gives .* of spoken studio 88 of 88 features that are not finite"):
        SMALL.of(SPOKEN, [0])


def test_features_of_other_programs_are_read(tmp_path: Path) -> None:
    corpus = emodb(tmp_path / "emodb")
    (tmp_path / "apc").mkdir()
    rows = np.random.default_rng(0).standard_normal((5, 3))
    for one, row in zip(corpus.recordings(), rows, strict=True):
        np.save(tmp_path / "apc" / f"{one.name}.npy", row)
    frames = np.stack([rows[0] - 1, rows[0] + 1]).astype(np.float16)  # of which the mean is row 0
    np.save(tmp_path / "apc/03a01Fa.npy", frames)
    features = ls.FeatureFiles(str(tmp_path / "apc"), 3)
    np.testing.assert_allclose(features.of(corpus, range(5)).numpy(), rows, atol=2e-3)
    source = ls.EmotionFeatures(corpus, features, ls.Normalization.CORPUS)
    assert source.load().inputs.shape == (4, 3), "boredom is none of the four emotions"

    path = tmp_path / "apc/08b03Wb.npy"
    whole, archive = path.read_bytes(), io.BytesIO()
    np.savez(archive, rows[0])
    for content, said in (
        (whole[:-1], "is no array that can be read"),
        (b"", "is no array that can be read"),
        (archive.getvalue(), "is no array that can be read"),
        (b"PK\x03\x04" + bytes(100), "is no array that can be read"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr':  '<f8'\n", "is no array that can be read"),
        (b"\x93NUMPY\x02\x00\x28\x23\x00\x00" + b"-" * 8999 + b"\n", "is no array that can be read"),
        (None, "no file 08b03Wb.npy below"),
        (np.array([1.0, np.nan, 0.0]), "holds numbers that are not finite"),
        (np.array([1.0, 1e300, 0.0]), r"08b03Wb\.npy holds numbers that are not finite in float32"),
        (np.zeros((2, 4)), r"holds \(2, 4\) float64, expected \(3,\) or \(frames, 3\) numbers"),
        (np.zeros((0, 3)), "expected"),
        (np.array([{}], dtype=object), "is no array that can be read"),
    ):
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content, allow_pickle=True)
        with pytest.raises(BadInput, match=said):
            features.of(corpus, range(5))
    path.write_bytes(whole)
    (tmp_path / "apc/again").mkdir()
    (tmp_path / "apc/again/08b03Wb.npy").write_bytes(whole)
    with pytest.raises(BadInput, match=r"08b03Wb.npy is there twice"):
        features.of(corpus, range(5))


def test_two_corpora_are_normalized_each_by_itself(tmp_path: Path) -> None:
    both = ls.Combined((ravdess(tmp_path / "r", (1, 3)), ravdess(tmp_path / "e", (1, 3))))
    with pytest.raises(BadInput, match="combined with itself"):
        ls.EmotionFeatures(both, SMALL).load()
    mixed = ls.Combined((SPOKEN, ls.SpokenEmotions(ls.Style.TELEPHONE, speakers=4, each=1)))
    source = ls.EmotionFeatures(mixed, SMALL, ls.Normalization.CORPUS)
    batch = source.load()
    for rows in (batch.inputs[:32], batch.inputs[32:]):
        assert float(rows.mean(0).abs().max()) < 1e-5
    assert {one.name for one in source.annotations()} == {"speaker", "sex", "corpus"}


# --- the embedded corpus, clients, folds ----------------------------------------------------------------------------


def test_emotions_are_heard_in_the_prosody_of_the_embedded_corpus() -> None:
    """By loudness, which openSMILE has no part in: angry above neutral above sad, in every style."""
    for style in ls.Style:
        corpus = ls.SpokenEmotions(style, speakers=4, each=3)
        level: dict[str, list[float]] = {}
        for place, one in enumerate(corpus.recordings()):
            samples = corpus.sound(place)
            assert samples.abs().max() < 1
            level.setdefault(one.emotion.value, []).append(float(samples.square().mean().log10() * 10))
        mean = {name: np.mean(values) for name, values in level.items()}
        assert mean["angry"] > mean["neutral"] + 2 > mean["sad"] + 4


def test_the_embedded_corpora_share_no_speaker_and_differ_in_sound() -> None:
    corpora = [ls.SpokenEmotions(style, speakers=10, each=1) for style in ls.Style]
    speakers = [{one.speaker for one in corpus.recordings()} for corpus in corpora]
    assert all(len(one) == 10 for one in speakers)
    assert not speakers[0] & speakers[1] | speakers[0] & speakers[2] | speakers[1] & speakers[2]
    assert len({one.speaker for one in ls.SpokenEmotions(speakers=64, each=1).recordings()}) == 64
    again = ls.SpokenEmotions(speakers=4, each=2, seed=0)
    assert again.sound(3).equal(SPOKEN.sound(3))
    assert not ls.SpokenEmotions(speakers=4, each=2, seed=1).sound(3).equal(SPOKEN.sound(3))


@given(owners=st.lists(st.integers(0, 5), min_size=1, max_size=40), each=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_clients_have_the_examples_of_one_owner(owners: list[int], each: int) -> None:
    fewest = min(owners.count(one) for one in owners)
    if fewest < each:
        with pytest.raises(BadInput, match=f"cannot be divided among {each} clients"):
            partition.by_owner(owners, each=each, key=ls.Key(0))
        return
    parts = partition.by_owner(owners, each=each, key=ls.Key(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(owners)))
    assert [len({owners[at] for at in part.tolist()}) for part in parts] == [1] * len(set(owners)) * each
    again = partition.by_owner(owners, each=each, key=ls.Key(0))
    assert all(one.equal(other) for one, other in zip(parts, again, strict=True))


def test_folds_hold_owners_out_once_each() -> None:
    owners = FEATURES.annotations()[0].values
    found = partition.owner_folds(owners, folds=4)
    assert sorted(at for _, held in found for at in held.tolist()) == list(range(len(owners)))
    for others, held in found:
        assert not {owners[at] for at in others.tolist()} & {owners[at] for at in held.tolist()}
    with pytest.raises(BadInput, match="4 owners cannot be held out in 5 folds"):
        partition.owner_folds(owners)


def test_a_gallery_shows_the_sex_of_others_where_nobody_is_in_both_halves() -> None:
    """One of speakers who are none of the private ones would make an attack fail that works."""
    secret = FEATURES.draw(4, key=ls.Key(0))
    target = ls.Linear().build(FEATURES.domain, FEATURES.classes, key=ls.Key(0))
    (told,) = tell([ls.Gallery], target, secret.reveal(), source=FEATURES)
    assert isinstance(told, ls.Gallery)
    assert told.attribute == "sex"
    assert told.members == {one.name: one.values for one in FEATURES.public_annotations()}["sex"]
    assert told.examples.inputs.equal(FEATURES.public().inputs)


def test_what_eight_recordings_say_is_recovered_from_one_gradient() -> None:
    """The positive control of this data: the exact attack on the recognizer of the literature, on emobase."""
    source = ls.EmotionFeatures(SPOKEN, ls.OpenSmile())
    target = ls.MLP((256, 128)).build(source.domain, source.classes, key=ls.Key(0))
    secret = source.draw(8, key=ls.Key(1))
    seen = ls.observe(target, secret.reveal(), ls.FedSGD(), key=ls.Key(2), tell=[ls.BatchSize(8)])
    attempt = ls.LowRank().run(seen, key=ls.Key(3))
    assert isinstance(attempt.claim, ls.Inputs), attempt.sentence
    assert attempt.certificate is not None
    assert all(attempt.certificate.proved)
    true = secret.reveal().inputs
    distance = torch.cdist(attempt.claim.values.double(), true.double()).min(0).values / true.norm(dim=1)
    assert float(distance.max()) < 1e-4
