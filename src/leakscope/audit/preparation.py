"""What attacks learn from public data (`attacks.preparing`): once for each setting, kept beside the records.

Of all trials and all worker processes one learns, the others wait for it; a learner that was killed goes on where it
was saved last. What it costs is told apart from what the attempts cost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from leakscope.attacks.attack import Attack
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.preparing import AbstractLearner, Learned, Setting
from leakscope.audit.plan import Cell
from leakscope.core.effort import Budget, Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.ledger.lock import one_at_a_time
from leakscope.numerics.rng import Key

EVERY = 30.0
"""Seconds between two states of a learner on the disk: what a kill can cost, against writing all its weights."""


@final
@dataclass(frozen=True)
class Prepared:
    """An attack that is ready. fingerprint, seconds: of what it has learned; empty and 0 for one that learns nothing.

    seconds: of wall time in all lives of whoever learned it, once for everybody who uses it.
    """

    attack: Attack[Any]
    fingerprint: str = ""
    seconds: float = 0.0


@final
@dataclass(frozen=True)
class Shelf:
    """Where learned states lie: `folder`/FINGERPRINT.safetensors; None keeps them nowhere, so that each asker learns.

    every: seconds between two states on the way.
    """

    folder: Path | None = None
    every: float = EVERY

    def ready(self, learner: AbstractLearner[Any], setting: Setting, *, seed: int, watch: Watch) -> Prepared:
        """The learner's attack, with what it has learned: from the shelf, or by learning it now."""
        key = Key(seed).child("prepare", repr(learner))
        learned, seconds = self._learned(learner, setting, key, watch)
        return Prepared(learner.taught(learned), learned.fingerprint, seconds)

    def _learned(
        self, learner: AbstractLearner[Any], setting: Setting, key: Key, watch: Watch
    ) -> tuple[Learned, float]:
        if self.folder is None:
            clock = Budget().start()
            return learner.prepare(setting, key=key, clock=clock, watch=watch), clock.spent()
        name = learner.fingerprint(setting, key)
        found = self._kept(self.folder, name)
        if found is not None:
            return found
        with one_at_a_time(self.folder, name):
            found = self._kept(self.folder, name)  # another one may have learned it meanwhile
            if found is not None:
                return found
            half = self._opened(self.folder / f"{name}.half", name)
            clock = Budget().start().kept(half)
            learned = learner.prepare(setting, key=key, clock=clock, watch=watch)
            # Who was stopped for so long that another learned it too finds it here; the two are the same, as it is a
            # function of its name.
            found = self._kept(self.folder, name) or self._keep(self.folder, learned, clock)
            half.close()
            return found

    def _keep(self, folder: Path, learned: Learned, clock: Clock) -> tuple[Learned, float]:
        file = StateFile(folder / f"{learned.fingerprint}.safetensors")
        file.open(learned.fingerprint)
        seconds = clock.spent()
        file.save(learned.state, seconds=seconds)
        return learned, seconds

    def _kept(self, folder: Path, name: str) -> tuple[Learned, float] | None:
        file = self._opened(folder / f"{name}.safetensors", name)
        seconds = file.seconds()
        state = file.load()
        return None if state is None else (Learned(name, state), seconds)

    def _opened(self, path: Path, name: str) -> StateFile:
        """The file, whether or not there is one; a damaged one is moved aside first, and learned anew."""
        file = StateFile(path, every=self.every, whose="learner")
        try:
            file.open(name)
        except BadInput:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            file.open(name)
        return file


def prepared(cell: Cell, shelf: Shelf, watch: Watch) -> Prepared:
    """The cell's attack, ready to run. Of the cell it sees what is public: no source, no secret, no trial."""
    if not isinstance(cell.attack, AbstractLearner):
        return Prepared(cell.attack)
    source = cell.scene.source
    setting = Setting(cell.scene.architecture, source.domain, source.classes, cell.mechanism)
    return shelf.ready(cell.attack, setting, seed=cell.seed, watch=watch)
