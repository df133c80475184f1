"""A learner for tests: it averages public images with a noise of its key, step by step, and writes down each step."""

from __future__ import annotations

import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from tests.audit_toys import Toy, toy_plan

from leakscope.attacks.preparing import AbstractLearner
from leakscope.audit.plan import Scene
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.effort import Progress
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource, _split
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key
from leakscope.targets.zoo.mlp import Linear

COUNT, SHAPE = 24, (1, 4, 4)


@functools.cache
def _public_places():
    """Which of COUNT different examples are public: the split depends on nothing else."""
    return _split(Halves(0, whole=True))[0]


@final
@dataclass(frozen=True)
class Halves(AbstractSource):
    """Public examples that are always the same, and private ones that follow from `private`."""

    private: int
    whole: bool = False

    @property
    def domain(self):
        return Images(*SHAPE)

    @property
    def classes(self):
        return 3

    def load(self):
        inputs = torch.rand(COUNT, *SHAPE, generator=Key(self.private).child("private").generator())
        if not self.whole:
            places = _public_places()
            inputs[places] = torch.rand(len(places), *SHAPE, generator=Key(0).child("public").generator())
        return Batch(inputs, torch.arange(COUNT) % 3)


@final
@dataclass(frozen=True)
class Pool:
    """Public images, as a learner is given them: its repr says which."""

    seed: int = 0

    def images(self):
        return torch.rand(8, *SHAPE, generator=Key(self.seed).child("pool").generator())


@final
@dataclass(frozen=True)
class Guesses(Toy):
    """Claims what the learner learned."""

    mean: object
    noise: object

    def __repr__(self):
        return "Guesses()"

    def _attempt(self, seen, read, *, key, clock, watch):
        return Attempt(repr(self), Outcome.CLAIMED, "as learned", Inputs(self.mean[None], torch.zeros(1).long()))


@final
@dataclass(frozen=True)
class Averages(AbstractLearner[Inputs]):
    """log: where each step leaves a line. dies: the step before which it kills its process, once. wrong: it cannot."""

    pool: object = Pool()
    log: str = ""
    steps: int = 4
    dies: int = -1
    pause: float = 0.0
    wrong: bool = False

    @property
    def citation(self):
        return ""

    def _prepare(self, setting, *, key, clock, watch):
        if self.wrong:
            raise BadInput("nothing can be learned from this pool")
        state = clock.saved() or {"step": 0, "sum": torch.zeros(SHAPE), "noise": ()}
        images = self.pool.images()
        for step in range(state["step"], self.steps):
            self._write(step)
            time.sleep(self.pause)
            drawn = float(torch.rand((), generator=key.child("step", step).generator()))
            state = {"step": step + 1, "sum": state["sum"] + images[step], "noise": (*state["noise"], drawn)}
            clock.keep(lambda state=state: state)
            watch(Progress((step + 1) / self.steps, 0.0))
        scale = setting.classes + len(repr(setting.mechanism))
        return {"mean": state["sum"] / (scale * self.steps), "noise": state["noise"]}

    def taught(self, learned):
        return Guesses(learned.state["mean"], learned.state["noise"])

    def _write(self, step):
        if not self.log:
            return
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{step}\n")
        if step == self.dies and not Path(f"{self.log}.died").exists():
            Path(f"{self.log}.died").touch()
            os.kill(os.getpid(), signal.SIGKILL)


def plan(*learners, **changes):
    scene = Scene("toy", Halves(1), Linear())
    return toy_plan(**{"scenes": (scene,), "attacks": learners, "trials": 3, **changes})
