"""A plan of federations is run: each is played once, kept in the folder and attacked; nothing is done twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from leakscope.attacks.attack import Attack
from leakscope.attacks.preparing import AbstractLearner
from leakscope.audit.federated import Game, Rows, Seen, check, setting, shown
from leakscope.audit.federations import fit
from leakscope.audit.federations.asked import Asked
from leakscope.audit.federations.findings import epsilons, summarized
from leakscope.audit.federations.plan import ALL, FederatedCell, FederationPlan, Recovered, world_of
from leakscope.audit.preparation import Shelf
from leakscope.core import file_limits
from leakscope.core.effort import Watch, unwatched
from leakscope.core.errors import BadInput, LeakscopeError
from leakscope.core.target import Target
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.ledger.lock import one_at_a_time
from leakscope.ledger.played import ClaimRows, PlayedRecord, PlayedSummary, UtilityRecord
from leakscope.mechanisms.federated.federation import Played
from leakscope.mechanisms.federated.round_files import RoundFiles
from leakscope.numerics.rng import Key

SUMMARY = "federation.json"
RECORDS, ROUNDS, PREPARED, DAMAGED = "records", "rounds", "prepared", "damaged"
Tell = Callable[[str], None]


@final
@dataclass(frozen=True)
class Finished:
    """What came of it. whole: whether all cells are there; interrupted by Ctrl-C, some are not."""

    summary: PlayedSummary
    whole: bool


def run(plan: FederationPlan, folder: Path, *, tell: Tell, watch: Watch = unwatched) -> Finished:
    """Run what is not in `folder` yet, a cell at a time, and write the summary. After Ctrl-C, of what there is.

    A kill costs a round of a federation, and half a minute of what an attack learns. What failed is tried again, as its
    data may have been mended. One process at a time: a second
    one in the same folder waits for the cell that is run. Raises what spoils all cells; what ends a
    single cell becomes its record. Raises `BadPlan` where the plan asks what no scene can tell, and where the folder
    holds cells that the plan has not.
    """
    fit.check(plan)
    fit.of_this_plan(plan, folder / RECORDS)
    private_folder(folder)
    cells = plan.cells()
    done: dict[str, PlayedRecord] = {}
    whole, worlds = True, _Worlds(folder)
    try:
        for place, cell in enumerate(cells, 1):
            name = cell.spec.identity
            with one_at_a_time(folder, name):
                found = kept(folder, name)
                # What failed may be mended: a file that was not there, an extra that was not installed.
                if found is None or found.failed:
                    tell(f"[{place}/{len(cells)}] {titled(plan, cell)}")
                    found = _attacked(plan, cell, worlds.of(cell), folder, watch)
                    write_atomically(folder / RECORDS / f"{name}.json", found.model_dump_json().encode())
            done[name] = found
            last = place == len(cells) or world_of(cells[place]) != world_of(cell)
            if last and not plan.keep_rounds:
                shutil.rmtree(folder / ROUNDS / _name(world_of(cell)), ignore_errors=True)
    except KeyboardInterrupt:
        whole = False
        done |= {c.spec.identity: r for c in cells for r in [kept(folder, c.spec.identity)] if r is not None}
    summary = summarized(plan, done)
    write_atomically(folder / SUMMARY, summary.model_dump_json(indent=2).encode())
    return Finished(summary, whole)


def kept(folder: Path, name: str) -> PlayedRecord | None:
    """The record of a cell; None where there is none. One that is not what was written is moved aside and made anew."""
    path = folder / RECORDS / f"{name}.json"
    if not path.is_file():
        return None
    try:
        text = file_limits.text_of(path, "a record of a federation")
        file_limits.parsed(text)
        found = PlayedRecord.model_validate_json(text)
        if found.spec.identity != name:
            raise ValueError("the record of another cell")
    except (ValidationError, ValueError, LeakscopeError):
        private_folder(folder / DAMAGED)
        os.replace(path, folder / DAMAGED / path.name)
        return None
    return found


def titled(plan: FederationPlan, cell: FederatedCell) -> str:
    """The cell in words."""
    parts = (cell.scene.name, plan.name(cell.target), plan.name(cell.federation), cell.attack.name, cell.attribute)
    return " · ".join((*parts, cell.part.value))


@final
@dataclass(frozen=True, eq=False)
class _World:
    """A federation that cells have in common: its people by question, its first model, where its rounds lie."""

    cell: FederatedCell
    store: RoundFiles
    target: Target
    key: Key
    # filled at first use: people are the same for all attributes of speakers, what is public of them is not
    asked: dict[str, Asked]
    played: list[Played]

    def people(self, attribute: str) -> Asked:
        """Of this question."""
        if attribute not in self.asked:
            self.asked[attribute] = self.cell.people.asked(attribute, key=self.key.child("people"))
        return self.asked[attribute]

    def play(self, asked: Asked, watch: Watch) -> Played:
        """The federation, from where its folder stands."""
        if not self.played:
            key = self.key.child("private")
            self.played.append(
                self.cell.federation.run(self.target, asked.private, key=key, into=self.store, watch=watch)
            )
        return self.played[0]


@final
class _Worlds:
    """The world of the last cell, which the next one most often has too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: tuple[str, _World] | None = None

    def of(self, cell: FederatedCell) -> _World:
        """The one that the cell attacks."""
        name = world_of(cell)
        if self._last is None or self._last[0] != name:
            # who is who and first weights hang on the people alone, so that all federations of them can be compared
            key = Key(cell.seed).child("federations", repr(replace(cell.people, shuffled=False)))
            source = cell.people.private
            target = cell.target.build(source.domain, source.classes, key=key.child("weights", repr(cell.target)))
            store = RoundFiles(self.folder / ROUNDS / _name(name))
            self._last = (name, _World(cell, store, target, key, {}, []))
        return self._last[1]


def _name(world: str) -> str:
    return hashlib.blake2b(world.encode(), digest_size=8).hexdigest()


def _attacked(plan: FederationPlan, cell: FederatedCell, world: _World, folder: Path, watch: Watch) -> PlayedRecord:
    """The record of a cell, whatever comes of it. Raises only what no attack is the cause of."""
    began = time.perf_counter()
    try:
        asked = world.people(cell.attribute)
    except LeakscopeError as error:
        # too few recordings for this question may be enough for another
        return PlayedRecord(spec=cell.spec, sentence=str(error), seconds=time.perf_counter() - began, failed=True)
    # what promises nothing spoils all rows, and is no reason of this one
    epsilons(cell.federation, clients=len(asked.private), delta=plan.delta)
    told = asked.private.annotation(cell.attribute)
    made: dict[str, Any] = {"spec": cell.spec, "categories": told.categories, "clients": len(asked.private)}
    try:
        attack: Attack[Any] = cell.attack.on(asked, cell.federation)
        source = cell.people.private
        game = Game(cell.target, source.domain, source.classes, cell.federation, attack, cell.attribute, asked.game)
        check(game, asked.private)
        # first, and of the setting alone: what is learned cannot depend on a private update
        if isinstance(attack, AbstractLearner):
            shelf = Shelf(folder / PREPARED)
            known = setting(game, len(asked.private))
            attack = shelf.ready(attack, known, seed=cell.seed, watch=watch).attack
        history = world.play(asked, watch).history
        claims, silent = _claimed(replace(game, attack=attack), asked, world, cell)
        sentence = "" if claims else (silent[0] if silent else "nobody took part")
        made |= {
            "claims": claims,
            "silent": silent,
            "sentence": sentence,
            "history": tuple(UtilityRecord(number=h.number, accuracy=h.accuracy, uar=h.uar) for h in history),
            "citation": attack.citation,
        }
    except LeakscopeError as error:
        made |= {"sentence": str(error), "failed": True}
    return PlayedRecord(**made, seconds=time.perf_counter() - began)


def _claimed(
    game: Game, asked: Asked, world: _World, cell: FederatedCell
) -> tuple[tuple[ClaimRows, ...], tuple[str, ...]]:
    """By each number of updates; and who of all was not claimed about."""
    key, seen = world.key.child("attack", repr(cell.attack)), Seen(world.target, world.store)
    # who recovers what a client has takes a few rounds for all of them
    few = (cell.attack.rounds,) if isinstance(cell.attack, Recovered) else ()
    rows = shown(game, asked.private, seen, key=key, updates=few or cell.updates, draws=1 if few else cell.draws)
    try:
        found = tuple(
            ClaimRows(
                updates=updates,
                truth=own.truth,
                scores=tuple(tuple(float(one) for one in row) for row in own.scores),
                persons=tuple(_persons(own, asked)),
            )
            for updates, own in zip((ALL,) if few else cell.updates, rows, strict=True)
            if own.names
        )
    except ValidationError as error:
        # such as scores that are no numbers, or of people of one category: no claim, and a reason of this cell alone
        raise BadInput(f"what the attack claims cannot be judged: {error.errors()[0]['msg']}") from None
    return found, rows[-1].silent


def _persons(rows: Rows, asked: Asked) -> Iterator[str]:
    """Names, so that both directions of a scene can be put together."""
    for place, name in zip(rows.persons, rows.names, strict=True):
        yield name if asked.game is None else asked.private.annotation(asked.game).categories[place]
