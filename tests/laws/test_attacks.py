"""The laws of the design, crossed with every attack of the one table."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch
from tests import test_spoken_words
from torch import nn

import leakscope as ls
from leakscope.attacks.attack import Attack
from leakscope.cli.names import Family, Row, Trait, rows, vocabulary
from leakscope.core.facts import Fact
from leakscope.core.refusal import Refusal

ROOT = Path(__file__).parents[2]
SHAPE = (1, 8, 8)
# Attacks on released heads, and those that learn of persons or pictures, have the same laws beside their toys.
APART = {Trait.READS_WEIGHTS, Trait.NEEDS_PERSONS, Trait.LEARNS}
ATTACKS = [row for row in rows(Family.ATTACKS) if not APART & row.traits]
"""Those that read an update; the laws of those that read a released model are in `test_heads`."""
PUBLIC: dict[str, Any] = {name: getattr(ls, name) for name in ls.__all__} | vocabulary()
MECHANISMS: list[Any] = [ls.FedSGD(), ls.FedAvg(steps=2, lr=0.05), ls.FedSGD() >> ls.GaussianNoise(1e-3)]


def net(row: Row) -> ls.Target:
    """A small target on which the attack can work: dense input, dense output, batch norm where it is needed."""
    if Trait.DECODER in row.traits:
        return ls.ListenAttendSpell(2, 8, 1, 8, 16, 1, 8, 5).build(ls.Frames(5), 24, key=ls.Key(0))
    if Trait.SPEECH in row.traits:
        return ls.DeepSpeech(hidden=64, context=4, coefficients=5, dropout=0.2).build(ls.Frames(5), 6, key=ls.Key(0))
    if Trait.TEXT in row.traits:
        return ls.TextDecoder(dim=32, heads=2).build(ls.Text(30, 6), 2, key=ls.Key(0))
    if Trait.PATCHES in row.traits:
        return ls.ViT(patch=2, dim=32, depth=1, heads=2).build(_domain(), 4, key=ls.Key(0))
    if row.name == "FeatureInversion":
        # Fewer features than pixels leave open what the picture is, and without a convolution nothing is searched.
        with ls.Key(0).isolated():
            seen = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)]
            return ls.Target(nn.Sequential(*seen), _domain(), 4)
    with ls.Key(0).isolated():
        middle: list[nn.Module] = [nn.Linear(64, 32), nn.ReLU()]
        if Trait.NEEDS_BATCH_NORM in row.traits:
            middle = [nn.BatchNorm2d(1), nn.Flatten(), *middle]
        return ls.Target(nn.Sequential(*middle, nn.Linear(32, 4)) if len(middle) > 2 else _dense(middle), _domain(), 4)


def _dense(middle: list[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *middle, nn.Linear(32, 4))


def _domain() -> ls.Images:
    return ls.Images(*SHAPE)


def built(row: Row) -> Attack[Any]:
    """The row's example with a search that ends at once."""
    attack: Attack[Any] = eval(row.example, PUBLIC)
    return shortened(attack)


def shortened(attack: Attack[Any], steps: int = 12) -> Attack[Any]:
    if isinstance(attack, ls.AtRest | ls.AssumedLengths | ls.PooledHead):
        return dataclasses.replace(attack, attack=shortened(attack.attack, steps))
    if isinstance(attack, ls.SoftTranscript):
        return dataclasses.replace(attack, iterations=3 if steps == 12 else 3 * steps, width=20)
    if isinstance(attack, ls.TranscriptMatching):
        return dataclasses.replace(attack, rounds=2 if steps == 12 else steps)
    if isinstance(attack, ls.RelaxedWords):
        steps = 15 if steps == 12 else 3 * steps
        unchanged = 9 if steps == 15 else 300
        return dataclasses.replace(attack, restarts=8, halve=2, steps=steps, decay_steps=steps, unchanged=unchanged)
    if isinstance(attack, ls.SpokenWords) and attack.matching is not None:
        return dataclasses.replace(attack, matching=shortened(attack.matching, steps))
    if isinstance(attack, ls.Auto):
        return ls.Auto(evaluations=5 * steps)
    if isinstance(attack, ls.FeatureInversion):
        return ls.FeatureInversion(steps=steps)
    if not isinstance(attack, ls.GradientInversion):
        return attack
    search = attack.search
    if isinstance(search, ls.Together):
        return dataclasses.replace(attack, search=ls.Together(dataclasses.replace(search.of, steps=steps)))
    if isinstance(search, ls.Adam):
        return dataclasses.replace(attack, search=dataclasses.replace(search, steps=steps))
    if isinstance(search, ls.DirectSearch):
        directions = 7 if steps < 100 else 63
        return dataclasses.replace(attack, search=dataclasses.replace(search, iterations=steps, directions=directions))
    assert isinstance(search, ls.LBFGS)
    return dataclasses.replace(attack, search=dataclasses.replace(search, evaluations=steps if steps > 100 else 4))


def secret(seed: int = 0) -> ls.Batch:
    return ls.Synthetic(shape=SHAPE, classes=4, count=24).draw(1, key=ls.Key(seed)).reveal()


def utterances(count: int = 1, seed: int = 0) -> ls.Batch:
    """Random frames of different lengths, with transcripts of two characters."""
    lengths = torch.tensor([12 + 3 * place for place in range(count)])
    frames = torch.randn(count, int(lengths.max()), 5, generator=ls.Key(seed).child("frames").generator())
    inside = torch.arange(frames.shape[1]) < lengths[:, None]
    return ls.Batch(frames * inside[..., None], torch.tensor([[1, 2]] * count), lengths, torch.tensor([2] * count))


def private(row: Row, seed: int = 0) -> ls.Batch:
    if Trait.TEXT in row.traits:
        ids = torch.randint(1, 30, (1, 6), generator=ls.Key(seed).child("text").generator())
        return ls.Batch(ids, torch.zeros(1, dtype=torch.int64))
    if row.name == "SoftTranscript":  # more frames than these leave it hills on which it ends as rounding decides
        return short(utterances(seed=seed), frames=5)
    if Trait.SPEECH in row.traits and Trait.SEARCH in row.traits:
        return short(utterances(seed=seed))
    return utterances(seed=seed) if Trait.SPEECH in row.traits else secret(seed)


def observed(row: Row, mechanism: Any, seed: int = 0) -> ls.Observation:
    return ls.observe(net(row), private(row, seed), mechanism, key=ls.Key(seed), tell=facts(row))


def facts(row: Row) -> list[Fact]:
    """What every attack here is told: the size of the batch, and a lineup where it needs one."""
    words = [ls.TrueTranscripts(((1, 2),)), ls.Lengths((4,))] if Trait.NEEDS_TRANSCRIPTS in row.traits else []
    return [ls.BatchSize(1), *([lineup(row)] if Trait.NEEDS_GALLERY in row.traits else []), *words]


def short(batch: ls.Batch, frames: int = 4) -> ls.Batch:
    """A few large frames: as many unknowns as a search settles in some hundred steps."""
    lengths = torch.tensor([frames] * len(batch))
    return ls.Batch(3 * batch.inputs[:, :frames], batch.labels, lengths, batch.label_lengths)


PERSONS = ("ada", "ben", "cy", "di")


def lineup(row: Row) -> ls.Gallery:
    """Three utterances or pictures of each of four persons, each person around a point of their own."""
    shown = [of_person(row, person, seed) for person in range(len(PERSONS)) for seed in (11, 12, 13)]
    return ls.Gallery("speaker", PERSONS, tuple(place // 3 for place in range(len(shown))), joined(shown))


def of_person(row: Row, person: int, seed: int) -> ls.Batch:
    """One utterance, or one picture without a class."""
    voice, said = ls.Key(person).child("voice").generator(), ls.Key(seed).child("said", person).generator()
    if Trait.SPEECH in row.traits:
        frames = torch.randn(5, generator=voice) + 0.5 * torch.randn(1, 12, 5, generator=said)
        return ls.Batch(frames, torch.tensor([[1, 2]]), torch.tensor([12]), torch.tensor([2]))
    picture = torch.rand(SHAPE, generator=voice) + 0.1 * torch.randn(1, *SHAPE, generator=said)
    return ls.Batch(picture.clamp(0, 1), torch.tensor([0]))


def joined(batches: Sequence[ls.Batch]) -> ls.Batch:
    """Examples of one size after each other."""
    parts = [[getattr(one, field.name) for one in batches] for field in dataclasses.fields(ls.Batch)]
    return ls.Batch(*(None if part[0] is None else torch.cat(part) for part in parts))


def numbers(attempt: ls.Attempt[Any]) -> list[float]:
    claim = attempt.claim
    if claim is None:
        return []
    if isinstance(claim, ls.Pieces):
        return [float(index) for piece in claim.pieces for index in (*piece, -1)]
    if isinstance(claim, ls.Tokens):
        return [token for one in claim.sequences for token in one]
    if isinstance(claim, ls.Transcripts):
        return [float(label) for one in claim.labels for label in one]
    labels = [] if getattr(claim, "labels", None) is None else claim.labels.flatten().tolist()
    scores = [] if getattr(claim, "scores", None) is None else claim.scores.flatten().tolist()
    return claim.values.flatten().tolist() + labels + scores


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_an_applicable_attack_runs_and_a_refused_one_has_a_reason(row: Row) -> None:
    """Refusals are true: where an attack does not refuse it runs; without what it needs it refuses by name."""
    attack, seen = built(row), observed(row, ls.FedSGD())
    assert attack.refusal(seen) is None
    assert attack.run(seen, key=ls.Key(1)).outcome in (ls.Outcome.CLAIMED, ls.Outcome.DIVERGED)
    if Trait.NEEDS_BATCH_SIZE in row.traits:
        untold = ls.Observation(seen.target, seen.release, seen.mechanism)
        attempt = attack.run(untold, key=ls.Key(1))
        assert attempt.outcome is ls.Outcome.REFUSED
        assert "BatchSize" in attempt.sentence
        assert not forced(attack, untold)


def forced(attack: Attack[Any], seen: ls.Observation) -> bool:
    """Whether the attack claims anything when it is forced past its refusal."""
    try:
        read = attack._read(seen)
        if isinstance(read, Refusal):
            return False
        attempt = attack._attempt(seen, read, key=ls.Key(1), clock=ls.Budget().start(), watch=lambda progress: None)
    except ls.NotTold:
        return False
    return attempt.claim is not None


UNFIT: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "scalars": (torch.Tensor.sum, "of another model"),
    "flattened": (lambda value: value[None].flatten() if value.dim() > 1 else value[None], "of another model"),
    "one dimension more": (lambda value: value[None], "of another model"),
    "no elements": (lambda value: value[:0], "of another model"),
    "transposed": (lambda value: value.t() if value.dim() == 2 else value, "of another model"),
    "truncated": (lambda value: value[:-1], "of another model"),
    "whole numbers": (torch.Tensor.long, "real floating point"),
    "truth values": (lambda value: value != 0, "real floating point"),
    "complex": (lambda value: value.to(torch.complex64), "real floating point"),
}
"""What a file can hold under the right names, and a part of the sentence with which it is refused."""


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_a_release_that_no_client_computes_is_refused_and_nothing_raises(row: Row) -> None:
    """Shapes and types of another model, and a change of weights beside a protocol that sends gradients."""
    attack, seen = built(row), observed(row, ls.FedSGD())
    gradient = seen.release.by_name
    for change, said in UNFIT.values():
        sent = ls.Gradient({name: change(value) for name, value in gradient.items()})
        refusal = attack.refusal(ls.Observation(seen.target, sent, seen.mechanism, seen.facts))
        assert refusal is not None
        assert said in refusal.sentence
    delta = ls.Delta({name: -0.1 * value for name, value in gradient.items()})
    found = attack.run(ls.Observation(seen.target, delta, seen.mechanism, seen.facts), key=ls.Key(1))
    assert found.outcome is ls.Outcome.REFUSED
    assert "FedSGD releases a Gradient" in found.sentence


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_what_autograd_follows_is_read_by_its_values(row: Row) -> None:
    attack, seen = built(row), observed(row, ls.FedSGD())
    followed = ls.Gradient({name: value.clone().requires_grad_() for name, value in seen.release.by_name.items()})
    again = ls.Observation(seen.target, followed, seen.mechanism, seen.facts)
    assert again.fingerprint() == seen.fingerprint()
    assert not any(value.requires_grad for value in again.release.by_name.values())
    assert attack.refusal(again) is None


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=repr)
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_keys_rule_and_nothing_else_is_touched(row: Row, mechanism: Any) -> None:
    attack, seen = built(row), observed(row, mechanism)
    before = seen.fingerprint()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, again = attack.run(seen, key=ls.Key(1)), attack.run(seen, key=ls.Key(1))
    assert numbers(first) == numbers(again)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert states[2] == random.getstate()
    assert seen.fingerprint() == before
    if Trait.SEARCH in row.traits and first.claim is not None:
        assert numbers(attack.run(seen, key=ls.Key(2))) != numbers(first)


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_blindness_the_claim_is_a_function_of_the_observation(row: Row) -> None:
    """Equal observations give equal claims, wherever they come from; other observations give other claims."""
    seen = observed(row, ls.FedSGD())
    copy = ls.Observation(
        ls.Target(seen.target.module, seen.target.domain, seen.target.classes, seen.target.name, loss=seen.target.loss),
        ls.Gradient({name: value.clone() for name, value in seen.release.by_name.items()}),
        ls.FedSGD(),
        tuple(facts(row)),
    )
    attack = built(row)
    assert numbers(attack.run(seen, key=ls.Key(1))) == numbers(attack.run(copy, key=ls.Key(1)))
    if Trait.CLAIMS_INPUTS in row.traits or Trait.CLAIMS_ATTRIBUTES in row.traits:
        other = observed(row, ls.FedSGD(), seed=5)
        assert numbers(attack.run(other, key=ls.Key(1))) != numbers(attack.run(seen, key=ls.Key(1)))


@final
@dataclass(frozen=True)
class Loudness(ls.AbstractSpeakerEncoder):
    """A second encoder, for laws that need one."""

    citation: ClassVar[str] = ""

    def version(self) -> str:
        return repr(self)

    def of_frames(self, utterances: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.stack([one.double()[:, :2].mean(0) for one in utterances]), dim=1)

    def of_sound(self, recordings: Sequence[torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError


OTHER: dict[str, Any] = {
    "attack": ls.speech_matching(steps=7),
    "frames": ls.speech_matching(steps=7),
    "spelling": ls.Listed(("aa", "bb")),
    "of": ls.WindowedFrames(polish=False),
    "encoder": Loudness(),
    "distance": ls.L1(),
    "prior": 0.5 * ls.TotalVariation(),
    "space": ls.Squashed(),
    "start": ls.Gray(0.9),
    "search": ls.Adam(lr=0.01, steps=9),
    "labeling": ls.Inferred(ls.LabelSigns()),
    "restarts": 2,
    "ridge": 1e-6,
    "window": ls.ContextWindow("layer_1.weight", "layer_1.bias", features=5, left=3, right=5),
    "polish": False,
    "evaluations": 90,
    "speech": ls.SpeechPrior(spread=0.3),
    "depth": 1,
    "steps": 1,
    "shrink": ls.Shrink(steps=1, improvement=0.99, factor=0.1, smallest=0.01),
    "width": 2,
    "first": None,
    "second": ls.LinearPrograms(depth=100.0),
    "layers": 1,
    "beam": 0,
    "language": test_spoken_words.Texts(((1, 2),)),
    "matching": ls.RelaxedWords(restarts=8, halve=2, steps=15, decay_steps=15, unchanged=9),
    "length": 3,
    "least_lr": 0.05,
    "most": 1.0,
    "decay_start": 5,
    "decay_steps": 10,
}


def altered(value: Any) -> Any:
    """Another value of the same kind, for the fields of attacks that this file has never heard of."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 * value + 0.1
    raise AssertionError(f"write another value for {value!r} into OTHER")


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_every_field_speaks(row: Row) -> None:
    """No option does nothing: another value changes the repr and the numbers."""
    attack, seen = built(row), observed(row, ls.FedSGD())
    four = ls.Synthetic(shape=SHAPE, classes=4, count=24).draw(11, key=ls.Key(0)).reveal()
    if Trait.SPEECH in row.traits and Trait.SEARCH not in row.traits:
        seen = observed(row, ls.FedSGD() >> ls.Quantize(bits=16))  # coarse enough for what refines
    elif Trait.TEXT not in row.traits and not isinstance(attack, ls.GradientInversion | ls.AtRest | ls.AssumedLengths):
        seen = ls.observe(net(row), four, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(11)])
    # An expected update exists only where updates are means, and what was fed only where nothing is rounded.
    if isinstance(attack, ls.SoftTranscript | ls.RelaxedWords):
        seen = observed(row, ls.FedSGD())
    if isinstance(attack, ls.AttributeClassifier):  # a gallery is told, and one example comes apart of four classes
        seen = observed(row, ls.FedSGD())
    if isinstance(attack, ls.Auto):  # what is solved exactly needs no evaluations
        seen = observed(row, ls.FedSGD() >> ls.GaussianNoise(1e-3))
    if isinstance(attack, ls.SpokenWords):  # a beam is asked where a piece is open, here well beyond rounding
        said = test_spoken_words.utterances(0, 1)
        seen = ls.observe(test_spoken_words.target(0.8), said, ls.FedSGD(), key=ls.Key(0))
    # Rows come apart where there are more classes than twice the samples.
    if isinstance(attack, ls.RevealedLabels | ls.RLG | ls.FeatureInversion | ls.RevealedFeatures):
        wide = ls.MLP((32,)).build(ls.Images(*SHAPE), 40, key=ls.Key(0))
        few = ls.Synthetic(shape=SHAPE, classes=40, count=80).draw(4, key=ls.Key(1)).reveal()
        seen = ls.observe(wide, few, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(4)])
    for field in dataclasses.fields(attack):
        other = OTHER[field.name] if field.name in OTHER else altered(getattr(attack, field.name))
        if field.name == "labeling" and attack.labeling != ls.Joint():
            other = ls.Joint()
        if field.name == "search" and isinstance(attack.search, ls.Adam):
            other = ls.LBFGS(evaluations=9)
        if field.name == "of" and isinstance(attack, ls.AttributeClassifier):
            other = ls.RevealedFeatures(2)
        if field.name == "of" and isinstance(attack, ls.RelaxedWords):
            other = ls.SoftmaxInputs()
        if field.name == "matching":  # behind noise there are no rows to follow
            seen = observed(row, ls.FedSGD() >> ls.GaussianNoise(1e-3))
        if field.name == "smooth":  # L-BFGS is for what is searched, and for what has no noise
            attack, seen = dataclasses.replace(attack, exact=False), observed(row, ls.FedSGD())
        changed = dataclasses.replace(attack, **{field.name: other})
        assert repr(changed) != repr(attack)
        one, two = attack.run(seen, key=ls.Key(1)), changed.run(seen, key=ls.Key(1))
        differs = (
            numbers(one) != numbers(two) or one.sentence != two.sentence or one.cost.evaluations != two.cost.evaluations
        )
        assert differs, f"{field.name} does nothing"


@pytest.mark.parametrize(
    ("search", "field", "other"),
    [
        (ls.Adam(steps=30), "lr", 0.01),
        (ls.Adam(steps=30), "steps", 20),
        (ls.Adam(steps=30), "signed", True),
        (ls.Adam(steps=30), "decay", ()),
        (ls.Adam(steps=60, lr=1e-6), "patience", ls.Patience(20, 0.5)),
        (ls.Adam(steps=30), "halving", (0.2,)),
        (ls.Together(ls.Adam(steps=30)), "of", ls.Adam(steps=20)),
        (ls.Bfloat16(ls.Adam(steps=30)), "of", ls.Adam(steps=20)),
        (ls.Together(ls.Adam(steps=30)), "weight", 0.5),
        (ls.Together(ls.Adam(steps=30), weight=0.5), "every", 3),
        (ls.LBFGS(evaluations=30), "lr", 0.1),
        (ls.LBFGS(evaluations=30), "evaluations", 10),
        (ls.LBFGS(evaluations=30), "history", 1),
        (ls.LBFGS(evaluations=30), "line_search", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_of_a_search_speaks(search: Any, field: str, other: Any) -> None:
    row = next(row for row in ATTACKS if row.name == "idlg")
    seen = observed(row, ls.FedSGD())
    restarts = 4 if field == "halving" or isinstance(search, ls.Together) else 1
    attack = ls.GradientInversion(ls.Squared(), search=search, labeling=ls.Inferred(ls.LabelSigns()), restarts=restarts)
    changed = dataclasses.replace(attack, search=dataclasses.replace(search, **{field: other}))
    assert numbers(attack.run(seen, key=ls.Key(1))) != numbers(changed.run(seen, key=ls.Key(1))) or (
        attack.run(seen, key=ls.Key(1)).cost.evaluations != changed.run(seen, key=ls.Key(1)).cost.evaluations
    )


@pytest.mark.parametrize("row", [row for row in ATTACKS if Trait.CLAIMS_INPUTS in row.traits], ids=lambda row: row.name)
def test_it_can_work(row: Row) -> None:
    """On its positive control every input attack beats the best blind guess by 3 dB."""
    seen, truth = observed(row, ls.FedSGD()), private(row)
    attack = shortened(eval(row.example, PUBLIC), steps=400)
    if Trait.SPEECH in row.traits:
        public = utterances(2, 7) if Trait.SEARCH not in row.traits else short(utterances(2, 7))
        error = ls.score(attack.run(seen, key=ls.Key(1)).claim, truth, public=public)["frame-error"]
        assert error.value < 0.7 * error.chance
        return
    psnr = ls.score(attack.run(seen, key=ls.Key(1)).claim, truth, domain=_domain())["psnr"]
    assert psnr.value > psnr.chance + 3


@pytest.mark.parametrize("row", [row for row in ATTACKS if Trait.CLAIMS_TOKENS in row.traits], ids=lambda row: row.name)
def test_attacks_on_text_can_work(row: Row) -> None:
    """On its positive control every attack on texts finds no token that is not there, and at most the last one not."""
    seen, truth = observed(row, ls.FedSGD()), private(row)
    score = ls.score(built(row).run(seen, key=ls.Key(1)).claim, truth, metrics=[ls.TokenError()])["token-error"]
    assert score.value < 0.2


@pytest.mark.parametrize("row", [row for row in ATTACKS if Trait.CLAIMS_LABELS in row.traits], ids=lambda row: row.name)
def test_label_attacks_can_work(row: Row) -> None:
    right = 0
    for seed in range(8):
        seen, truth = observed(row, ls.FedSGD(), seed), secret(seed)
        right += int(built(row).run(seen, key=ls.Key(1)).claim.values.tolist() == truth.labels.tolist())
    assert right == 8


@pytest.mark.parametrize(
    "row", [row for row in ATTACKS if Trait.CLAIMS_TRANSCRIPTS in row.traits], ids=lambda row: row.name
)
def test_transcript_attacks_can_work(row: Row) -> None:
    attack, seen = shortened(eval(row.example, PUBLIC), steps=60), observed(row, ls.FedSGD())
    assert attack.run(seen, key=ls.Key(1)).claim.labels == ((1, 2),)


@pytest.mark.parametrize(
    "row", [row for row in ATTACKS if Trait.CLAIMS_ATTRIBUTES in row.traits], ids=lambda row: row.name
)
def test_attribute_attacks_can_work(row: Row) -> None:
    """On its positive control the person is named, whoever it is."""
    for person in range(len(PERSONS)):
        batch = of_person(row, person, 1)
        seen = ls.observe(net(row), batch, ls.FedSGD(), key=ls.Key(0), tell=facts(row))
        claim = built(row).run(seen, key=ls.Key(1)).claim
        secret = ls.Secret(batch, (ls.Annotation("speaker", (person,), PERSONS),))
        found = ls.score(claim, secret)["top-1"]
        assert (found.value, found.chance) == (1.0, 0.25)


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_attacks_cite_their_source(row: Row) -> None:
    """An attack without a source says in its card that there is none."""
    if not built(row).citation:
        source = (ROOT / row.card).read_text(encoding="utf-8").partition("## Source")[2]
        assert "None: leakscope's own." in source
        return
    assert "@" in built(row).citation
    assert "year" in built(row).citation


@pytest.mark.parametrize(
    "distance",
    [
        ls.Squared(),
        ls.L1(),
        ls.Cosine(),
        ls.Weighted(ls.Squared(), 1.0, 2.0),
        ls.Layers(ls.L1(), ("a",)),
        ls.OnSupport(ls.L1()),
    ],
    ids=repr,
)
def test_distances_vanish_at_the_truth_and_nowhere_near_it(distance: Any) -> None:
    generator = ls.Key(0).generator()
    there = {"a": torch.randn(4, generator=generator), "b": torch.randn(3, generator=generator)}
    away = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in there.items()}
    assert float(distance(there, there)) == pytest.approx(0, abs=1e-6)
    assert float(distance(away, there)) > 1e-4
    slope = torch.func.grad(lambda tree: distance(tree, there))(away)
    assert all(bool(torch.isfinite(value).all()) for value in slope.values())
