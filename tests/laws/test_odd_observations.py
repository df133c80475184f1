"""What strangers hand in: whatever release, mechanism and facts hold, every attack gives an answer in a sentence.

Crossed with every attack of the one table: `refusal` answers, `run` ends with an attempt, and neither raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built, observed, private
from tests.laws.test_unknown import EXACT
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.reading.explained import explained
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta, Gradient, Release
from leakscope.core.rounds import Round
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import ProtocolEffect
from leakscope.mechanisms.protocols.optimizers import ClientSGD

PLAIN = ls.FedSGD()


@final
@dataclass(frozen=True)
class Broken(AbstractProtocol):
    """A protocol whose own code was written for other updates, and whose effect is none."""

    said: Any = None

    @property
    def effect(self) -> ProtocolEffect:
        return self.said  # type: ignore[no-any-return]

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return PLAIN.release(target, batch, key=key)

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return PLAIN.replay(target, batch)

    def as_gradient(self, release: Release) -> Gradient:
        return Gradient({"bias": release.by_name["my.bias"]})


def beside(**foreign: Tensor) -> Callable[[ls.Observation], ls.Observation]:
    return lambda seen: sent(seen, {**seen.release.by_name, **foreign})


def sent(seen: ls.Observation, by_name: Any, mechanism: Any = PLAIN) -> ls.Observation:
    return ls.Observation(seen.target, Gradient(dict(by_name)), mechanism, seen.facts)


def moved(seen: ls.Observation, mechanism: Any, dtype: torch.dtype = torch.float32) -> ls.Observation:
    changed = {name: -0.1 * value.to(dtype) for name, value in seen.release.by_name.items()}
    return ls.Observation(seen.target, Delta(changed), mechanism, seen.facts)


def each(change: Callable[[Tensor], Tensor]) -> Callable[[ls.Observation], ls.Observation]:
    return lambda seen: sent(seen, {name: change(value) for name, value in seen.release.by_name.items()})


def told(*more: Any, without: tuple[type, ...] = ()) -> Callable[[ls.Observation], ls.Observation]:
    kinds = (*without, *(type(one) for one in more))
    return lambda seen: ls.Observation(
        seen.target, seen.release, seen.mechanism, (*(one for one in seen.facts if type(one) not in kinds), *more)
    )


def by(mechanism: Any) -> Callable[[ls.Observation], ls.Observation]:
    return lambda seen: ls.Observation(seen.target, seen.release, mechanism, seen.facts)


def at(change: Callable[[Tensor], Tensor]) -> Callable[[ls.Observation], ls.Observation]:
    return lambda seen: ls.Observation(
        seen.target,
        (Round(0, seen.release, {name: change(value) for name, value in seen.target.parameters().items()}),),
        seen.mechanism,
        seen.facts,
    )


ODD: dict[str, Callable[[ls.Observation], ls.Observation]] = {
    "buffers": beside(mean=torch.ones(3), steps=torch.tensor(3), empty=torch.zeros(0), on=torch.tensor([True])),
    "buffers first": lambda seen: sent(seen, {"mean": torch.ones(3).double(), **seen.release.by_name}),
    "complex": beside(phase=torch.ones(2, dtype=torch.complex64)),
    "eight bits": beside(scale=torch.ones(2).to(torch.float8_e4m3fn)),
    "a shape": beside(shape=torch.ones(2, device="meta")),
    "shapes": each(lambda value: value.to("meta")),
    "foreign NaN": beside(mean=torch.tensor([math.nan])),
    "zeros": each(torch.zeros_like),
    "ones": each(torch.ones_like),
    "huge": each(lambda value: value * (3e38 / float(value.abs().max().clamp_min(1e-30)))),
    "huge doubles": each(lambda value: value.double() * 1e305),
    "tiny": each(lambda value: value * 1e-44),
    "halves": each(lambda value: value.half()),
    "steps of a billionth": lambda seen: moved(seen, ls.FedAvg(1, 1e-9), torch.float16),
    "steps of nothing": lambda seen: moved(seen, ls.FedAvg(1, 1e-30), torch.float16),
    "steps of nothing, wide": lambda seen: moved(seen, ls.FedAvg(1, 1e-30)),
    "huge steps": lambda seen: moved(seen, ls.FedAvg(1, 1e30)),
    "many steps": lambda seen: moved(seen, ls.FedAvg(100_000, 1e-6)),
    "momentum": lambda seen: moved(seen, ls.FedAvg(2, 0.1, momentum=0.9)),
    "decay and buffers": lambda seen: ls.Observation(
        seen.target,
        Delta({**seen.release.by_name, "mean": torch.ones(3)}),
        ls.FedAvg(2, 0.1, optimizer=ClientSGD(weight_decay=0.1)),
        seen.facts,
    ),
    "as_gradient raises": by(Broken()),
    "effect of another kind": by(Broken("yes")),
    "dropout": by(PLAIN >> ls.Dropout(0.5)),
    "no class": told(ls.TrueLabels((99,))),
    "five labels": told(ls.TrueLabels((0, 1, 0, 1, 0))),
    "three lengths": told(ls.Lengths((4, 5, 6))),
    "no such label": told(ls.TrueTranscripts(((99,),))),
    "ten million": told(ls.BatchSize(10_000_000)),
    "weights of zero": at(torch.zeros_like),
    "huge weights": at(lambda value: torch.full_like(value, 1e38)),
}
"""How an ordinary observation becomes an odd one."""


READERS = {*EXACT, "EmbeddingRows", "LabelCounts", "FrameLikelihood", "SpeakerIdentity"}
"""The attacks that are run on all of it: those that read, and end by themselves."""
SEARCHED = {"dropout", "no class", "five labels", "no such label", "zeros", "buffers"}
"""What searches are run on too, as far as they do not refuse it."""


def partly(seen: ls.Observation) -> Iterator[tuple[str, ls.Observation]]:
    """Each tensor of the release left out, and each alone."""
    named = dict(seen.release.by_name)
    for name in named:
        yield f"without {name}", sent(seen, {n: v for n, v in named.items() if n != name} or named)
        yield f"only {name}", sent(seen, {name: named[name]})


def answers(row: Any, seen: ls.Observation, *, runs: bool = True) -> str | None:
    """What was raised, None where nothing was."""
    attack = built(row)
    try:
        found = attack.refusal(seen)
        assert found is None or isinstance(found, Refusal)
        if runs and found is None:
            attempt = attack.run(seen, key=ls.Key(1), budget=ls.Budget(evaluations=2))
            assert isinstance(attempt, ls.Attempt)
    except Exception as error:  # noqa: BLE001, each of them is what the law looks for
        return f"{type(error).__name__}: {error}"
    return None


# numpy says that squares of numbers near the largest overflow, and what comes of it is no number: said, not raised
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_no_odd_observation_makes_an_attack_raise(row: Any) -> None:
    seen = observed(row, PLAIN)
    # A search replays a candidate as often as it is told to; of these its refusal is the answer.
    runs = row.name in READERS
    raised = {name: answers(row, change(seen), runs=runs or name in SEARCHED) for name, change in ODD.items()}
    raised |= {name: answers(row, one, runs=runs) for name, one in partly(seen)}
    assert {name: error for name, error in raised.items() if error is not None} == {}


def test_what_is_refused_is_said() -> None:
    """One sentence for each kind of what no attack can read, and of what somebody else's code raised."""
    row = next(row for row in ATTACKS if row.name == "LinearLayer")
    for name, said in {
        "eight bits": "torch.float8_e4m3fn under 'scale'",
        "a shape": "no numbers under 'shape'",
        "complex": "torch.complex64 under 'phase'",
        "foreign NaN": "values that are not finite",
        "steps of nothing": "not finite in float16",
        "as_gradient raises": "cannot read this release as a gradient: KeyError: 'my.bias'",
        "dropout": "has no dropout layer",
        "no class": "the label 99, but the model has the classes 0 to 3",
        "five labels": "5 labels and BatchSize(1)",
        "three lengths": "3 lengths and BatchSize(1)",
        "no such label": "the label 99",
    }.items():
        refusal = built(row).refusal(ODD[name](observed(row, PLAIN)))
        assert refusal is not None, name
        assert said in refusal.sentence, name


def test_buffers_beside_an_update_take_no_proof_away() -> None:
    """The difference of two state dicts holds running statistics, of whatever type, which no replay gives."""
    proved = set()
    for row in ATTACKS:
        for name in ("buffers", "buffers first"):
            if row.name in EXACT:
                attempt = built(row).run(ODD[name](observed(row, PLAIN)), key=ls.Key(1))
                plain = built(row).run(observed(row, PLAIN), key=ls.Key(1))
                assert attempt.certificate == plain.certificate, (row.name, name)
                proved |= {row.name} if plain.certificate is not None and plain.certificate.holds else set()
    assert len(proved) >= 5, proved


def test_normalization_that_mixes_examples_is_no_model_for_dpsgd() -> None:
    """Its replay would raise within a search: said before, by every attack, and by the protocol itself."""
    with ls.Key(0).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    target = ls.Target(net, ls.Images(1, 8, 8), 4, training=True)
    zeros = Gradient({name: torch.zeros_like(value) for name, value in target.parameters().items()})
    seen = ls.Observation(target, zeros, ls.DPSGD(clip=1.0, noise_multiplier=0.0), (ls.BatchSize(2),))
    for attack in (ls.LinearLayer(), ls.idlg(), ls.LabelCounts()):
        refusal = attack.refusal(seen)
        assert refusal is not None
        assert "mixes the examples" in refusal.sentence


def test_numbers_whose_squares_are_infinite_are_refused_by_every_attack() -> None:
    """Found by fuzzing: an overflow in the middle of an attack, a warning to some and an exception to others."""
    for row in ATTACKS:
        plain = observed(row, PLAIN)
        for size in (1e155, 1e300):
            update = {name: value.double() * size for name, value in plain.release.by_name.items()}
            seen = sent(plain, update)
            refusal = built(row).refusal(seen)
            assert refusal is not None, row.name
            assert "which no update has" in refusal.sentence or "reads a" in refusal.sentence, refusal.sentence


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("facts", [(), (ls.BatchSize(1),), (ls.BatchSize(3),)], ids=["untold", "one", "three"])
def test_a_cross_entropy_over_one_class_is_refused_by_every_attack(facts: tuple[Any, ...], bias: bool) -> None:
    """p - y is zero: whatever is sent under its name is of another loss, and no second class is there to compare."""
    with ls.Key(0).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1, bias=bias))
    target = ls.Target(net, ls.Images(1, 8, 8), 1)
    update = {name: torch.randn(v.shape, generator=ls.Key(1).generator()) for name, v in target.parameters().items()}
    seen = ls.Observation(target, Gradient(update), PLAIN, facts)
    for row in ATTACKS:
        attack = built(row)
        missing = [kind for kind in attack.needs if not seen.knows(kind)]
        refusal = attack.refusal(seen)
        assert refusal is not None, row.name
        assert missing or Gradient not in attack.reads or "1 class under a cross entropy" in refusal.sentence, row.name
    # Of another loss one output is a model like any other.
    squared = ls.Target(net, ls.Images(1, 8, 8), 1, loss=ls.SquaredError())
    assert ls.LinearLayer().refusal(ls.Observation(squared, Gradient(update), PLAIN, facts)) is None


def passes_of(seen: ls.Observation, use: Callable[[], Any]) -> int:
    """How often the model, or a copy of it, is run."""
    runs = 0

    def counted(module: Any, given: Any) -> None:
        nonlocal runs
        runs += 1

    hook = seen.target.module.register_forward_pre_hook(counted)
    use()
    hook.remove()
    return runs


def test_a_search_for_the_order_of_tokens_ends_with_its_budget() -> None:
    """By passes over the model and not by the clock: a budget that is over allows for the reading alone."""
    row = next(row for row in ATTACKS if row.name == "EmbeddingSpan")
    attack, over = built(row), ls.Budget(seconds=1e-6)
    for name in ("momentum", "steps of nothing, wide"):
        seen = ODD[name](observed(row, PLAIN))
        assert attack.refusal(seen) is None
        reading = passes_of(seen, lambda seen=seen: attack.refusal(seen))
        spent = passes_of(seen, lambda seen=seen: attack.run(seen, key=ls.Key(1), budget=over))
        assert spent == reading, name
    plain = observed(row, PLAIN)  # or the law above would hold of what is never counted
    assert passes_of(plain, lambda: attack.run(plain, key=ls.Key(1))) > passes_of(plain, lambda: attack.refusal(plain))


def test_a_replay_of_candidates_ends_with_its_clock() -> None:
    row = next(row for row in ATTACKS if row.name == "EmbeddingSpan")
    seen = observed(row, PLAIN)
    assert explained(seen, private(row).inputs, clock=ls.Budget(seconds=60).start()) is not None
    assert explained(seen, private(row).inputs, clock=ls.Budget(seconds=1e-9).start()) is None
