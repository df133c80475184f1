"""A plan of federations as it is written: every key, type, name and number judged, and nothing imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from leakscope.cli.federation_keys import FIELDS
from leakscope.cli.rows import Family, Trait
from leakscope.cli.text import kinds, ranges, spelling
from leakscope.cli.text.index import row_named
from leakscope.cli.text.models import findable, model
from leakscope.cli.text.sheet import Keys, Said, Sheet, parsed, sheet_of
from leakscope.cli.text.signatures import signature
from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.homes import Home

PLAN = "a plan of federations, as described in docs/federation-plan.md"
EMPTY = "the list is empty; name at least one"
MOST_UPDATES, MOST_DRAWS = 10**6, 10_000
"""As many as a federation may have rounds, and as `audit.federations.plan` allows."""
OBJECTS = "leakscope.audit.federations.plan"
"""Whose classes say which numbers a plan may hold; judged as their source says (`ranges`), not imported."""


@final
@dataclass(frozen=True)
class Wanted:
    """What stands under a key. called: in words, with an article. example: how one is written. home: of its class."""

    called: str
    example: str
    family: Family
    home: Home

    def expression(self, text: str) -> None:
        """Raises `BadInput` where the text is of another kind, before anything is said of its arguments."""
        name = text.partition("(")[0].strip()
        row = row_named(name)
        if row is not None and not kinds.may_be(Home(row.home, row.name), self.home):
            raise BadInput(
                f"expected {self.called}, got {file_limits.shortened(text)!r}; write for example {self.example}"
            )
        spelling.expression(text, self.family)


FEDERATION = Wanted(
    "a federation",
    "Federation(FedSGD(), rounds=60)",
    Family.PARTS,
    Home("leakscope.mechanisms.federated.federation", "Federation"),
)
SIGNAL = Wanted(
    "a signal", "ClassInputs(1)", Family.PARTS, Home("leakscope.attacks.attributes.signals", "AbstractSignal")
)
DECISION = Wanted(
    "a decision", "Logistic()", Family.PARTS, Home("leakscope.attacks.attributes.decide", "AbstractDecision")
)
SPEAKERS = Wanted(
    "EmotionFeatures(...), whose speakers are known",
    "EmotionFeatures(SpokenEmotions(speakers=32, each=3))",
    Family.DATASETS,
    Home("leakscope.datasets.emotion.emotion_features", "EmotionFeatures"),
)


@final
@dataclass(frozen=True)
class WrittenAttack:
    """One [[attack]]. recovers: empty where it learns of shadows."""

    place: str
    name: str
    signals: tuple[str, ...]
    decision: str
    shadows: int
    folds: int
    leaked: int
    recovers: str
    rounds: int


@final
@dataclass(frozen=True)
class WrittenSpeakers:
    """One [[scene]]. public: empty where the speakers are halved."""

    place: str
    name: str
    dataset: str
    public: str
    each: int
    targets: Said
    federations: Said


@final
@dataclass(frozen=True)
class WrittenFederations:
    """All that a plan of federations says."""

    sheet: Sheet
    title: str
    seed: int
    attributes: tuple[str, ...]
    updates: tuple[int, ...]
    draws: int
    smallest: float
    delta: float
    hold_out: float
    shuffled: bool
    keep_rounds: bool
    targets: Said
    federations: Said
    attacks: tuple[WrittenAttack, ...]
    scenes: tuple[WrittenSpeakers, ...]


def read(path: Path) -> WrittenFederations:
    """The plan in a file. Raises `BadInput` when there is none, `BadPlan` with file, line and key for what is wrong."""
    return parse(sheet_of(path, PLAN))


def parse(sheet: Sheet) -> WrittenFederations:
    """The plan on a sheet. Raises `BadPlan`."""
    said = parsed(sheet)
    for key in ("mechanisms", "trials"):
        if key in said and "federations" not in said:
            raise sheet.bad(key, "this is a plan for `leakscope audit`, and not of federations; run it with that")
    return _Reader(sheet).plan(said)


@final
@dataclass(frozen=True)
class _Reader:
    """Reads one file, key by key."""

    sheet: Sheet

    @property
    def keys(self) -> Keys:
        return Keys(self.sheet, FIELDS)

    def plan(self, said: dict[str, Any]) -> WrittenFederations:
        keys = self.keys
        keys.known("", said)
        made = WrittenFederations(
            sheet=self.sheet,
            title=self._filled(said, "title", "title"),
            seed=keys.whole(said, "seed", 0, low=0),
            attributes=self._attributes(said),
            updates=self._updates(said),
            draws=self._draws(said),
            smallest=self._share(said, "smallest_leak", 0.2, least=False),
            delta=self._share(said, "delta", 0.001, least=False),
            hold_out=self._share(said, "hold_out", 0.2, least=True),
            shuffled=keys.switch(said, "shuffled"),
            keep_rounds=keys.switch(said, "keep_rounds", usual=True),
            targets=self._targets(said, "targets"),
            federations=self._parts(said, "federations", "federations", FEDERATION),
            attacks=tuple(self._attack(one, f"attack[{i}]") for i, one in enumerate(self._tables(said, "attack"))),
            scenes=tuple(self._scene(one, f"scene[{i}]") for i, one in enumerate(self._tables(said, "scene"))),
        )
        self._different(made.attacks)
        self._different(made.scenes)
        for scene in made.scenes:
            for key, own, common in (
                ("targets", scene.targets, made.targets),
                ("federations", scene.federations, made.federations),
            ):
                if not own.texts and not common.texts:
                    raise self.sheet.bad(f"{scene.place}.{key}", EMPTY)
        return made

    def _tables(self, said: dict[str, Any], key: str) -> list[dict[str, Any]]:
        found = said.get(key, [])
        if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
            raise self.sheet.bad(key, f"expected tables, each under [[{key}]], at least one")
        return found

    def _attack(self, said: dict[str, Any], here: str) -> WrittenAttack:
        keys = self.keys
        keys.known("attack", said)
        recovers = keys.text({"recovers": "", **said}, "recovers", f"{here}.recovers")
        for other in ("signals", "decision", "shadows", "folds", "leaked") if recovers else ("rounds",):
            if other in said:
                why = "has no meaning with recovers" if recovers else "has a meaning with recovers alone"
                raise self.sheet.bad(f"{here}.{other}", f"{why}; leave one of them out")
        if recovers:
            self.sheet.tried(f"{here}.recovers", _recovers, recovers)
        signals = self._parts({"signals": ["ClassInputs()"], **said}, "signals", f"{here}.signals", SIGNAL)
        decision = keys.text({"decision": "Logistic()", **said}, "decision", f"{here}.decision")
        self.sheet.tried(f"{here}.decision", DECISION.expression, decision)
        usual = recovers or f"{' + '.join(signals)}, {decision}"
        made = WrittenAttack(
            place=here,
            name=self._filled({"name": usual, **said}, "name", f"{here}.name"),
            signals=signals.texts,
            decision=decision,
            shadows=keys.whole(said, "shadows", 5, section=here, low=1),
            folds=keys.whole(said, "folds", 4, section=here, low=0),
            leaked=keys.whole(said, "leaked", 0, section=here, low=0),
            recovers=recovers,
            rounds=keys.whole(said, "rounds", 2, section=here, low=1),
        )
        numbers = {"rounds": made.rounds} if recovers else {n: getattr(made, n) for n in ("shadows", "folds", "leaked")}
        self.sheet.tried(here, self._numbers, "Recovered" if recovers else "Shadows", numbers)
        return made

    def _scene(self, said: dict[str, Any], here: str) -> WrittenSpeakers:
        keys = self.keys
        keys.known("scene", said)
        dataset = keys.text(said, "dataset", f"{here}.dataset")
        public = keys.text({"public": "", **said}, "public", f"{here}.public")
        for key, text in (("dataset", dataset), ("public", public)):
            if text or key == "dataset":
                self.sheet.tried(f"{here}.{key}", SPEAKERS.expression, text)
        each = keys.whole(said, "each", 1, section=here, low=1)
        self.sheet.tried(f"{here}.each", self._numbers, "FederatedScene", {"each": each})
        return WrittenSpeakers(
            place=here,
            name=self._filled({"name": dataset, **said}, "name", f"{here}.name"),
            dataset=dataset,
            public=public,
            each=each,
            targets=self._targets(said, f"{here}.targets"),
            federations=self._parts(said, "federations", f"{here}.federations", FEDERATION),
        )

    def _draws(self, said: dict[str, Any]) -> int:
        found: int = self.keys.whole(said, "draws", 10, low=1)
        if found > MOST_DRAWS:
            raise self.sheet.bad("draws", f"expected draws <= {MOST_DRAWS}, got {found}")
        return found

    def _filled(self, said: dict[str, Any], key: str, place: str) -> str:
        """A text that is not blank: it is what a page or a row is called."""
        found: str = self.keys.text(said, key, place)
        if not found.strip():
            raise self.sheet.bad(place, f"is blank; write what it is to be called, such as {key} = 'speakers'")
        return found

    def _attributes(self, said: dict[str, Any]) -> tuple[str, ...]:
        given = self._given({"attributes": ["sex"], **said}, "attributes", "attributes").texts
        for name in given:
            if given.count(name) > 1:
                raise self.sheet.bad("attributes", f"{file_limits.shortened(name)!r} is asked twice; name it once")
        return given

    def _different(self, made: tuple[WrittenAttack, ...] | tuple[WrittenSpeakers, ...]) -> None:
        """Raises `BadPlan` where two have one name: rows are told apart by it."""
        called: dict[str, str] = {}
        for one in made:
            if called.setdefault(one.name, one.place) != one.place:
                first, name = called[one.name], file_limits.shortened(one.name)
                raise self.sheet.bad(one.place, f"is called {name!r} as {first} is; give each a name of its own")

    def _targets(self, said: dict[str, Any], place: str) -> Said:
        given = self._given(said, "targets", place)
        for text in given:
            self.sheet.tried(place, model, text)
            self.sheet.tried(place, findable, text)
        return given

    def _parts(self, said: dict[str, Any], key: str, place: str, wanted: Wanted) -> Said:
        given = self._given(said, key, place)
        for text in given:
            self.sheet.tried(place, wanted.expression, text)
        return given

    def _numbers(self, name: str, given: dict[str, object]) -> None:
        """Raises `BadInput` as the class of this name does for these fields; the others are not known."""
        home = Home(OBJECTS, name)
        taken = signature(home)
        assert taken is not None
        ranges.check(home, (), {**dict.fromkeys(taken.parameters, ranges.OPAQUE), **given})

    def _given(self, said: dict[str, Any], key: str, place: str) -> Said:
        given = self.keys.texts(said, key, place)
        if said.get(key) == []:
            raise self.sheet.bad(place, EMPTY)
        return given

    def _updates(self, said: dict[str, Any]) -> tuple[int, ...]:
        value = said.get("updates", [])
        if not isinstance(value, list) or not all(type(one) is int and 1 <= one <= MOST_UPDATES for one in value):
            got = file_limits.shortened(repr(value))
            raise self.sheet.bad(
                "updates", f"expected whole numbers above 0, at most {MOST_UPDATES}, such as [1, 5, 10], got {got}"
            )
        return tuple(value)

    def _share(self, said: dict[str, Any], key: str, usual: float, *, least: bool) -> float:
        value = float(self.keys.number(said, key, key, usual))
        if not (0 < value < 1 or (least and value == 0)):
            raise self.sheet.bad(
                key, f"expected a number from 0 to 1, {'1' if least else 'both'} excluded, got {value}"
            )
        return value


def _recovers(text: str) -> None:
    """Raises `BadInput` where it is no attack on inputs: of what else it claims nobody's vectors are judged."""
    row = row_named(text.partition("(")[0].strip())
    if row is not None and (row.family is not Family.ATTACKS or Trait.CLAIMS_INPUTS not in row.traits):
        raise BadInput(f"expected an attack that claims inputs, got {text!r}; write for example LowRank()")
    spelling.expression(text, Family.ATTACKS)
