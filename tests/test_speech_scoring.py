"""Scores of speech: wrong lengths, order, blind levels, and edit rates against another library."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.domains.speech import ENGLISH
from leakscope.numerics.edits import edits
from leakscope.scoring.case import Case
from leakscope.scoring.kinds.sequences import Sequences, mean_frame
from leakscope.scoring.kinds.transcripts import PrivateTranscripts, constant_transcripts, spelled


def batch_of(lengths: tuple[int, ...], seed: int = 0, said: tuple[str, ...] = ()) -> ls.Batch:
    """Utterances of four coefficients around 3, padding zero, each with its transcript."""
    texts = said or tuple("abcdefgh"[: 2 + place] for place in range(len(lengths)))
    labels = [torch.tensor(ENGLISH.encode(text)) for text in texts]
    frames = 3 + torch.randn(len(lengths), max(lengths), 4, generator=ls.Key(seed).generator())
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ls.Batch(
        frames * real[..., None],
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True),
        torch.tensor(lengths),
        torch.tensor([len(text) for text in texts]),
    )


def claim_of(frames: list[torch.Tensor], confidence: torch.Tensor | None = None) -> ls.Inputs:
    padded = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
    return ls.Inputs(padded, confidence=confidence, lengths=torch.tensor([len(one) for one in frames]))


def frames_in(batch: ls.Batch) -> list[torch.Tensor]:
    assert batch.lengths is not None
    return [row[:count] for row, count in zip(batch.inputs, batch.lengths.tolist(), strict=True)]


PUBLIC = batch_of((6, 9, 4), seed=9)
MEAN = torch.cat(frames_in(PUBLIC)).double().mean(0)


def error_of(claim: ls.Inputs, batch: ls.Batch) -> ls.Score:
    return ls.score(claim, batch, public=PUBLIC)["frame-error"]


def test_the_truth_has_no_error_in_any_order_and_chance_is_the_mean_public_frame() -> None:
    batch = batch_of((5, 3))
    found = error_of(claim_of(frames_in(batch)[::-1]), batch)
    by_hand = np.mean([float((one.double() - MEAN).abs().mean()) for one in frames_in(batch)])
    assert (found.value, found.exact, found.perfect) == (0.0, 2, 0.0)
    assert found.chance == pytest.approx(by_hand)
    assert torch.allclose(mean_frame(PUBLIC), MEAN)


def test_a_missing_frame_costs_what_the_mean_frame_costs_and_an_extra_one_neither_helps_nor_counts_as_exact() -> None:
    batch = batch_of((5,))
    (true,) = frames_in(batch)
    short, long = claim_of([true[:3]]), claim_of([torch.cat([true, true])])
    missing = float((true[3:].double() - MEAN).abs().sum()) / true.numel()
    assert error_of(short, batch).value == pytest.approx(missing)
    assert error_of(long, batch).value == 0
    assert (error_of(short, batch).exact, error_of(long, batch).exact) == (0, 0)
    (note,) = ls.score(long, batch, public=PUBLIC).notes
    assert "1 of 1 claimed sequences have a wrong length" in note
    assert error_of(claim_of([torch.zeros(0, 4) + true[:0]]), batch).value == pytest.approx(
        error_of(long, batch).chance
    )


def test_padding_is_no_frame() -> None:
    """The zeros after the end must neither count as recovered nor dilute an error."""
    batch = batch_of((2, 8))
    wrong = [one + 1 for one in frames_in(batch)]
    assert error_of(claim_of(wrong), batch).items == pytest.approx((1.0, 1.0))


def test_an_utterance_without_a_claim_scores_the_blind_guess_and_extra_claims_are_not_looked_at() -> None:
    batch = batch_of((5, 4))
    first, second = frames_in(batch)
    found = error_of(claim_of([second]), batch)
    assert found.items[1] == 0
    assert found.items[0] == pytest.approx(float((first.double() - MEAN).abs().mean()))
    many = claim_of([first + 1, second + 1, first, second], torch.tensor([0.9, 0.8, 0.1, 0.2]))
    assert error_of(many, batch).value == pytest.approx(1.0, abs=1e-6)


def test_claims_that_do_not_fit_are_refused_by_sentence() -> None:
    batch = batch_of((5,))
    for claim, words in (
        (ls.Inputs(batch.inputs), "claim frames with their lengths"),
        (ls.Inputs(torch.zeros(1, 5, 3), lengths=torch.tensor([5])), "do not fit"),
        (ls.Inputs(batch.inputs, lengths=torch.tensor([6])), "check both"),
        (ls.Labels(torch.tensor([1])), "sequences are compared with Inputs or Transcripts"),
    ):
        with pytest.raises(ls.BadInput, match=words):
            ls.score(claim, batch, public=PUBLIC, metrics=[])
    with pytest.raises(ls.BadInput, match="holds sequences"):
        ls.score(claim_of(frames_in(batch)), batch, public=PUBLIC, metrics=[ls.PSNR()])
    whole = ls.Batch(torch.rand(1, 5, 4), torch.tensor([0]))
    with pytest.raises(ls.BadInput, match="lengths"):
        ls.score(claim_of(frames_in(batch)), whole)


WORDS = st.text(alphabet="ab '", max_size=12)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS.filter(lambda text: text.strip() != ""))
def test_edit_rates_are_those_of_jiwer(claimed: str, true: str) -> None:
    pair = [ENGLISH.encode(claimed)], [ENGLISH.encode(true)]
    plain = " ".join(true.split()), " ".join(claimed.split())
    assert ls.CharacterErrorRate().items([ENGLISH.encode(plain[1])], [ENGLISH.encode(plain[0])])[0] == pytest.approx(
        jiwer.cer(*plain)
    )
    assert ls.WordErrorRate().items(*pair)[0] == pytest.approx(jiwer.wer(*plain))


def by_definition(one: tuple[object, ...], other: tuple[object, ...]) -> int:
    """Levenshtein's recursion as it is defined: jiwer counts by rapidfuzz too, so it is no second opinion."""
    if not one or not other:
        return len(one) + len(other)
    same = by_definition(one[1:], other[1:])
    return same if one[0] == other[0] else 1 + min(same, by_definition(one[1:], other), by_definition(one, other[1:]))


# what a hash cannot tell apart: 0 and 2**61 - 1, -1 and -2, and to rapidfuzz "a" and 97
ITEMS = st.lists(st.sampled_from([0, 2**61 - 1, -1, -2, "a", 97]), max_size=5).map(tuple)


@settings(max_examples=200, deadline=None)
@given(ITEMS, ITEMS)
def test_edits_are_those_of_the_definition_and_equal_hashes_are_not_equal_items(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    assert edits(one, other) == by_definition(one, other)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(one: str, two: str, three: str) -> None:
    assert (edits(one, two) == 0) is (one == two)
    assert edits(one, two) == edits(two, one)
    assert edits(one, three) <= edits(one, two) + edits(two, three)


def test_transcripts_are_paired_and_compared_with_the_best_constant() -> None:
    batch = batch_of((5, 6), said=("some girls", "a tired man"))
    said = tuple(ENGLISH.encode(text) for text in ("a tired man", "some girl"))
    scores = ls.score(ls.Transcripts(said), batch, public=PUBLIC)
    assert scores.pairing.partners == (1, 0)
    assert scores["character-error-rate"].items == pytest.approx((0.1, 0.0))
    assert scores["character-error-rate"].exact == 1
    assert scores["word-error-rate"].items == pytest.approx((0.5, 0.0))
    public = tuple(ENGLISH.encode(text) for text in ("ab", "abc", "abcd"))
    guesses = constant_transcripts(public)
    by_hand = min(np.mean([edits(g, t) / len(t) for t in (said[1] + ENGLISH.encode("s"), said[0])]) for g in guesses)
    assert scores["character-error-rate"].chance == pytest.approx(by_hand)
    shown = PrivateTranscripts().shown(ls.Transcripts(said[:1]), Case(batch))
    assert shown.transcripts == ("", spelled(said[0]))


def test_what_a_report_shows_is_paired_as_it_was_scored() -> None:
    batch = batch_of((5, 3))
    pair = Sequences().shown(claim_of(frames_in(batch)[1:]), Case(batch, public=PUBLIC)).frames
    assert pair is not None
    assert pair.claimed[0] is None
    assert pair.claimed[1] is not None
    assert torch.equal(pair.claimed[1], pair.original[1])
    assert [len(one) for one in pair.original] == [5, 3]


@pytest.mark.parametrize(("said", "counted"), [("", 0), ("s", 0), ("it ", 0), ("tia s", 1), ("nothing of that", 1)])
def test_a_word_of_a_sentence_is_no_claim_of_it(said: str, counted: int) -> None:
    """Who claims less than half of what was said excludes no more than who claims nothing."""
    true = ENGLISH.encode("it was so")
    batch = ls.Batch(torch.zeros(1, 9, 26), torch.tensor([true]), torch.tensor([9]), torch.tensor([len(true)]))
    claim = ls.Transcripts((tuple(ENGLISH.encode(said)),))
    assert ls.score(claim, batch, domain=ls.Frames(26))["character-error-rate"].claimed == counted
