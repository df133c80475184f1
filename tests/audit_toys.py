"""Toy attacks and plans for the tests of the audit: each ends in its own way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import final

import torch

from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit.plan import Plan, Scene
from leakscope.core.attempt import Attempt, Cost, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Progress
from leakscope.core.facts import BatchSize
from leakscope.core.refusal import Refusal
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.targets.zoo.mlp import Linear


class Toy(AbstractAttack[None, Inputs]):
    @property
    def citation(self):
        return f"@misc{{{type(self).__name__}}}"

    def _read(self, seen):
        return None

    def gray(self, seen):
        return Inputs(torch.full((1, *seen.target.domain.shape), 0.5), torch.zeros(1, dtype=torch.int64))


@final
@dataclass(frozen=True)
class Guesses(Toy):
    pause: float = 0.0

    def _attempt(self, seen, read, *, key, clock, watch):
        time.sleep(self.pause)
        watch(Progress(1.0, 0.5))
        return Attempt(repr(self), Outcome.CLAIMED, "gray", self.gray(seen), cost=Cost(evaluations=3))


@final
@dataclass(frozen=True)
class Refuses(Toy):
    def _read(self, seen):
        return Refusal("refuses on principle")

    def _attempt(self, seen, read, *, key, clock, watch):
        raise AssertionError("an attack that refused was run")


@final
@dataclass(frozen=True)
class Needy(Toy):
    needs = frozenset({BatchSize})

    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.CLAIMED, "gray", self.gray(seen))


@final
@dataclass(frozen=True)
class Diverges(Toy):
    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.DIVERGED, "the loss grew beyond every bound")


@final
@dataclass(frozen=True)
class Crashes(Toy):
    on: int = -1

    def _attempt(self, seen, read, *, key, clock, watch):
        raise ZeroDivisionError("a bug of the attack")


@final
@dataclass(frozen=True)
class Dies(Toy):
    """Kills its own process, as a machine without memory does; with a `marker` only where none lies yet."""

    marker: str = ""

    def _attempt(self, seen, read, *, key, clock, watch):
        if not self.marker or not os.path.exists(self.marker):
            if self.marker:
                open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return Attempt(repr(self), Outcome.CLAIMED, "gray", self.gray(seen))


@final
@dataclass(frozen=True)
class Interrupts(Toy):
    """What a real search does on Ctrl-C: it ends early with the best so far."""

    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.INTERRUPTED, "stopped by a person", self.gray(seen))


@final
@dataclass(frozen=True)
class WritesToTheRelease(Toy):
    def _attempt(self, seen, read, *, key, clock, watch):
        next(iter(seen.release.by_name.values())).add_(1.0)
        return Attempt(repr(self), Outcome.CLAIMED, "gray", self.gray(seen))


@final
@dataclass(frozen=True)
class CountsThreads(Toy):
    """Says how many threads torch has while it runs."""

    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.CLAIMED, f"{torch.get_num_threads()} threads", self.gray(seen))


SEEN = []


@final
@dataclass(frozen=True)
class Looks(Toy):
    """Keeps what it saw, for the law of blindness."""

    def _attempt(self, seen, read, *, key, clock, watch):
        SEEN.append(seen)
        return Attempt(repr(self), Outcome.CLAIMED, "gray", self.gray(seen))


def toy_plan(**changes):
    scene = Scene("toy", Synthetic((1, 4, 4), classes=3, count=24), Linear())
    plain = {
        "title": "toys",
        "scenes": (scene,),
        "mechanisms": (FedSGD(),),
        "attacks": (LinearLayer(),),
        "trials": 3,
    }
    return Plan(**{**plain, **changes})
