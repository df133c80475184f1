"""Models that fail half way and domains that are none of the model's: `run` of every attack ends with a sentence.

The releases are honest ones; what is handed in beside them is altered. That a bug of ours is not hidden by it is tested
as well: what leakscope's own code raises on names and types passes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built, observed
from torch import Tensor

import leakscope as ls
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.core.domain import AbstractDomain, rangeless
from leakscope.core.effort import Clock, Watch
from leakscope.core.refusal import Refusal
from leakscope.numerics import trees


class Own(Exception):
    """Of a kind that no list of errors holds."""


@dataclass(frozen=True)
class Loose(AbstractDomain):
    """A domain by what it answers."""

    size: Any
    ends: Any

    @property
    def shape(self) -> Any:
        return self.size

    def fits(self, inputs: Tensor) -> bool:
        return True

    def bounds(self, like: Tensor) -> Any:
        return self.ends

    def to_display(self, inputs: Tensor) -> Tensor:
        return inputs


UNIT = (torch.tensor(0.0), torch.tensor(1.0))
Change = Callable[[ls.Target], ls.Target]


def domain(of: Callable[[ls.Target], AbstractDomain]) -> Change:
    return lambda target: dataclasses.replace(target, domain=of(target))


def sized(size: Any) -> Change:
    return domain(lambda target: Loose(size, UNIT))


def within(ends: Any) -> Change:
    return domain(lambda target: Loose(target.domain.shape, ends))


def failing(calls: int, error: Exception) -> Change:
    """A model that is itself for some calls, and raises from then on."""

    def changed(target: ls.Target) -> ls.Target:
        module, made = copy.deepcopy(target.module), []

        def forward(self: Any, *given: Any, **named: Any) -> Any:
            made.append(1)
            if len(made) > calls:
                raise error
            return type(target.module).forward(self, *given, **named)

        module.__class__ = type("Failing", (type(target.module),), {"forward": forward})
        return dataclasses.replace(target, module=module)

    return changed


ODD: dict[str, Change] = {
    "images of another size": domain(lambda target: ls.Images(3, 40, 40)),
    "half a pixel": sized((2.5,)),
    "no pixel": sized((0,)),
    "a thousand million": sized((10**9,)),
    "no bounds": within(None),
    "bounds that are numbers": within((0.0, 1.0)),
    "bounds of another size": within((torch.zeros(7), torch.ones(7))),
    "bounds the wrong way round": within(UNIT[::-1]),
    "other classes": lambda target: dataclasses.replace(target, classes=3),
    "KeyError in the third call": failing(2, KeyError("h")),
    "an error of its own in the ninth": failing(8, Own("no idea")),
}


@pytest.mark.parametrize("name", ODD)
def test_every_attack_ends_with_a_sentence(name: str) -> None:
    ended = []
    for row in ATTACKS:
        honest = observed(row, ls.FedSGD())
        seen = ls.Observation(ODD[name](honest.target), honest.release, honest.mechanism, honest.facts)
        attempt = built(row).run(seen, key=ls.Key(0), budget=ls.Budget(evaluations=4))
        assert attempt.sentence, row.name
        ended.append(attempt.outcome)
    assert {ls.Outcome.REFUSED, ls.Outcome.DIVERGED} & set(ended), "nothing was odd about it"


@final
@dataclass(frozen=True)
class Doing(AbstractAttack[None, ls.Inputs]):
    """An attack by what it does."""

    done: Callable[[Clock], Any] = dataclasses.field(repr=False)

    @property
    def citation(self) -> str:
        return ""

    def _read(self, seen: ls.Observation) -> Refusal | None:
        return None

    def _attempt(
        self, seen: ls.Observation, read: None, *, key: ls.Key, clock: Clock, watch: Watch
    ) -> ls.Attempt[ls.Inputs]:
        self.done(clock)
        return ls.Attempt("", ls.Outcome.DIVERGED, "came to its end")


def told_of(name: str) -> ls.Observation:
    return observed(next(row for row in ATTACKS if row.name == name), ls.FedSGD())


def test_a_bug_in_our_own_code_passes() -> None:
    with pytest.raises(TypeError):
        Doing(lambda clock: trees.fingerprint(5)).run(told_of("LinearLayer"), key=ls.Key(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("of a watch"), Own("of its own kind")])
def test_what_the_caller_s_watch_and_checkpoint_raise_passes(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*given: Any, **named: Any) -> None:
        raise error

    attack, seen = built(next(row for row in ATTACKS if row.name == "idlg")), told_of("idlg")
    with pytest.raises(type(error), match=str(error)):
        attack.run(seen, key=ls.Key(0), watch=raises, budget=ls.Budget(evaluations=4))
    monkeypatch.setattr(StateFile, "save", raises)
    with pytest.raises(type(error), match=str(error)):
        attack.run(seen, key=ls.Key(0), checkpoint=StateFile("state", every=0), budget=ls.Budget(evaluations=4))


def test_memory_that_ran_out_leaves_the_checkpoint_and_an_end_removes_it(tmp_path: Path) -> None:
    def kept(clock: Clock) -> None:
        clock.keep(lambda: {"best": torch.ones(2)})

    def fails(clock: Clock) -> None:
        kept(clock)
        raise MemoryError

    for done, left in ((fails, True), (kept, False)):
        attempt = Doing(done).run(
            told_of("LinearLayer"), key=ls.Key(0), checkpoint=StateFile(tmp_path / "state", every=0)
        )
        assert attempt.outcome is ls.Outcome.DIVERGED
        assert (tmp_path / "state").is_file() is left


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (UNIT, None),
        ((torch.tensor(-float("inf")), torch.tensor(float("inf"))), None),
        ((torch.zeros(4), torch.ones(4)), None),
        (None, "expected two tensors"),
        ((0.0, 1.0), "expected two tensors"),
        ((torch.zeros(7), torch.ones(7)), "the shapes (7,) and (7,), expected what stretches to (4,)"),
        ((torch.tensor(float("nan")), torch.tensor(1.0)), "not below"),
        (UNIT[::-1], "not below"),
    ],
)
def test_what_is_no_range_is_said(ends: Any, said: str | None) -> None:
    found = rangeless(Loose((4,), ends), (4,))
    assert found is None if said is None else found is not None and said in found
