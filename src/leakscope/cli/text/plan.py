"""A plan file (TOML) as it is written: every key, type, name and number judged, and nothing imported that it names."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from leakscope.cli.plan_keys import FIELDS
from leakscope.cli.rows import Family
from leakscope.cli.text import fitting, spelling
from leakscope.cli.text.data import enough, pictures
from leakscope.cli.text.models import findable, model
from leakscope.core import file_limits
from leakscope.core.arguments import LARGEST, is_number
from leakscope.core.errors import BadInput, BadPlan, MissingExtra, UnknownName

CELL = 16_384
"""Bytes that a planned cell takes with its controls."""

DEVICES = ("cpu", "cuda")
"""What a machine may have, as far as leakscope looks (`audit.resources.devices`)."""

NESTED = 50
"""Deeper brackets are nobody's plan, and are refused before anything reads them."""

Built = TypeVar("Built")
ATTACK = "attack"
EMPTY = "the list is empty; name at least one, or leave the key out for what is usual or the plan's"
PLAN = "a plan, as described in docs/plan-file.md"


@final
@dataclass(frozen=True)
class Sheet:
    """A plan file that can say where something stands in it. name: what messages call it."""

    name: str
    text: str

    def tried(self, place: str, make: Callable[..., Built], *given: Any) -> Built:
        """What `make` makes, or its complaint with the place in the file. Raises `BadPlan`."""
        try:
            return make(*given)
        except BadInput as error:
            text = given[0] if given and isinstance(given[0], str) else None
            raise self.bad(place, str(error), text) from None

    def bad(self, place: str, why: str, text: str | None = None) -> BadPlan:
        """What is wrong at a place such as `scene[0].target`, with the line of its key, or of `text` in it."""
        key = place.rpartition(".")[2].partition("[")[0]
        return BadPlan(f"{self.name}{self.line(key, text)}: {place}: {why}")

    def line(self, key: str, text: str | None = None) -> str:
        """The line of a value or of a key, where it is the only such line; tomllib does not keep positions."""
        quoted = [i for i, line in enumerate(self.text.splitlines(), 1) if text and text in line]
        pattern = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*(=|\])")
        lines = quoted or [i for i, line in enumerate(self.text.splitlines(), 1) if pattern.match(line)]
        return f", line {lines[0]}" if len(lines) == 1 else ""


@final
@dataclass(frozen=True)
class Said:
    """Texts under one key, each of which will become an object. place: of the key in the file."""

    place: str
    texts: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


@final
@dataclass(frozen=True)
class WrittenScene:
    """One [[scene]]. place: `scene[0]`, for messages. told: None where the plan's counts."""

    place: str
    name: str
    dataset: str
    target: str
    batch_sizes: tuple[int, ...]
    mechanisms: Said
    attacks: Said
    told: Said | None


@final
@dataclass(frozen=True)
class WrittenPlan:
    """All that a plan file says. span: the input range. seconds, evaluations: of the budget.
    resources: threads, device, memory, minutes.

    instead: the model that stands for the targets of all scenes, as their texts say then; None where each has its own.
    Raises `BadPlan` where something is missing, or there twice.
    """

    sheet: Sheet
    title: str
    seed: int
    trials: int
    batch_sizes: tuple[int, ...]
    told: Said
    mechanisms: Said
    attacks: Said
    metrics: Said
    delta: float
    smallest: tuple[tuple[str, float], ...]
    replaced: bool
    span: tuple[float, float]
    seconds: float | None
    evaluations: int | None
    resources: tuple[int, str, float | None, float | None]
    scenes: tuple[WrittenScene, ...]
    instead: str | None = None

    def __post_init__(self) -> None:
        # The rules of `audit.plan.Plan`, which guards whoever makes one without a file.
        if not self.title.strip():
            raise self._bad("the plan needs a title")
        if not self.scenes:
            raise self._bad("the plan needs at least one scene: a dataset and a target")
        for scene in self.scenes:
            self._check_scene(scene)
        self._check_cells()
        names = [scene.name for scene in self.scenes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise self._bad(f"scenes need different names; {', '.join(twice)} was given more than once")

    def _check_scene(self, scene: WrittenScene) -> None:
        for what, own, common in (
            ("mechanism", scene.mechanisms.texts, self.mechanisms.texts),
            (ATTACK, scene.attacks.texts, self.attacks.texts),
            ("batch size", scene.batch_sizes, self.batch_sizes),
        ):
            chosen: tuple[object, ...] = own or common
            if not chosen and what != ATTACK:  # without one, those that are usual for the kind of data
                raise self._bad(f"the scene {scene.name!r} has no {what}; give one to the plan or to the scene")
            if len(set(chosen)) < len(chosen):
                raise self._bad(f"the scene {scene.name!r} lists the same {what} twice")

    def _check_cells(self) -> None:
        """All of them are laid out in memory before the first is run."""
        cells = 0
        for scene in self.scenes:
            mechanisms = len(scene.mechanisms.texts or self.mechanisms.texts)
            attacks = len(scene.attacks.texts or self.attacks.texts) or 1
            cells += self.trials * len(scene.batch_sizes or self.batch_sizes) * mechanisms * attacks
        file_limits.afford(f"{self.sheet.name}: a plan of {cells} cells", cells * CELL)

    def _bad(self, why: str) -> BadPlan:
        return BadPlan(f"{self.sheet.name}: {why}")

    def findable(self) -> WrittenPlan:
        """The plan itself. Raises `BadInput` or `MissingExtra` where the package of a target is not there."""
        for scene in self.scenes:
            try:
                findable(scene.target)
            except BadInput as error:
                raise BadInput(f"{scene.name}: {error}") from None
            except MissingExtra as error:
                raise MissingExtra(f"{scene.name}: {error}") from None
        return self

    def fitting(self) -> WrittenPlan:
        """The plan itself. Raises `BadPlan` or `BadInput` where all cells of a scene would fail alike.

        Where target or facts are not of its data, or there are too few of them.
        """
        for scene in self.scenes:
            inputs, key = fitting.source(scene.dataset), f"{scene.place}.target"
            sizes = scene.batch_sizes or self.batch_sizes
            self.sheet.tried(f"{scene.place}.batch_size", enough, scene.dataset, max(sizes))
            if inputs is None:
                continue
            self.sheet.tried(f"{scene.place}.dataset", fitting.affordable, inputs)
            self.sheet.tried(f"{scene.place}.dataset", pictures, scene.dataset)
            said = self.told if scene.told is None else scene.told
            self.sheet.tried(said.place, fitting.told, said.texts, inputs, None)
            if self.instead is None:
                self.sheet.tried(
                    key, lambda text, inputs=inputs: fitting.target(text, inputs, drawn=True), scene.target
                )
                continue
            try:
                fitting.target(scene.target, inputs, drawn=True)
            except BadInput as error:
                raise BadInput(f"{scene.name}: {error}") from None
        return self


def read(path: Path, *, instead: str | None = None) -> WrittenPlan:
    """The plan in the file `path`. instead: a model for every scene, instead of its target.

    Raises `BadInput` when there is no such file, `BadPlan` with file, line and key for anything that cannot be run.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = f"; there is {', '.join(near)} in {path.parent}" if near else ""
        raise BadInput(f"{path} is not a file; give a plan, as described in docs/plan-file.md{hint}")
    return parse(file_limits.text_of(path, PLAN), str(path), instead=instead)


def parse(text: str, name: str, *, instead: str | None = None) -> WrittenPlan:
    """The plan in `text`; `name` is what messages call the file. Raises `BadPlan`, of a bad `instead` `BadInput`."""
    if _nested(text) > NESTED:
        raise BadPlan(f"{name}: not TOML: brackets are nested more than {NESTED} deep; a plan needs two")
    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also of numbers that Python does not read
        raise BadPlan(f"{name}: not TOML: {file_limits.shortened(error, 200)}") from None
    if instead is not None:
        model(instead)
    return _Reader(Sheet(name, text), instead).plan(said)


def _nested(text: str) -> int:
    """How deep the brackets of a text are nested at most, those in strings counted too.

    Looked at first: at the depth where reading stops, whatever is freed just then fails as well, and says so beside us.

    >>> _nested("a = [[1], [2, [3]]]")
    3
    """
    steps = ((mark in "[{") - (mark in "]}") for mark in text if mark in "[]{}")
    return max(itertools.accumulate(steps), default=0)


@final
@dataclass(frozen=True)
class _Reader:
    """Reads one file, key by key."""

    sheet: Sheet
    instead: str | None

    def plan(self, said: dict[str, Any]) -> WrittenPlan:
        self._known("", said)
        budget = self._table(said, "budget")
        self._known("budget", budget)
        resources = self._table(said, "resources")
        self._known("resources", resources)
        scenes = said.get("scene", [])
        if not isinstance(scenes, list) or not all(isinstance(scene, dict) for scene in scenes):
            raise self.sheet.bad("scene", "expected tables, each under [[scene]]")
        return WrittenPlan(
            sheet=self.sheet,
            title=self._text(said, "title", "title"),
            seed=self._whole(said, "seed", 0, low=0),
            trials=self._whole(said, "trials", 8, low=1),
            batch_sizes=self._sizes(said, "batch_size") or (1,),
            told=self._told(said, "told"),
            mechanisms=self._expressions(said, "mechanisms", Family.PROTOCOLS),
            attacks=self._expressions(said, "attacks", Family.ATTACKS),
            metrics=self._expressions(said, "metrics", Family.METRICS),
            delta=self._delta(said),
            smallest=self._smallest(said),
            replaced=self._switch(said, "replaced"),
            span=self._range(said),
            seconds=self._seconds(budget),
            evaluations=self._evaluations(budget),
            resources=self._resources(resources),
            scenes=tuple(self._scene(scene, f"scene[{i}]") for i, scene in enumerate(scenes)),
            instead=self.instead,
        )

    def _scene(self, said: dict[str, Any], here: str) -> WrittenScene:
        self._known("scene", said)
        dataset = self._text(said, "dataset", f"{here}.dataset")
        self.sheet.tried(f"{here}.dataset", spelling.expression, dataset, Family.DATASETS)
        target = self._target(said, here)
        return WrittenScene(
            place=here,
            name=self._text(said, "name", f"{here}.name") if "name" in said else f"{dataset}, {target}",
            dataset=dataset,
            target=target,
            batch_sizes=self._sizes(said, "batch_size"),
            mechanisms=self._expressions(said, f"{here}.mechanisms", Family.PROTOCOLS),
            attacks=self._expressions(said, f"{here}.attacks", Family.ATTACKS),
            told=self._told(said, f"{here}.told") if "told" in said else None,
        )

    def _target(self, said: dict[str, Any], here: str) -> str:
        if self.instead is not None:
            return self.instead
        target = self._text(said, "target", f"{here}.target")
        self.sheet.tried(f"{here}.target", model, target)
        return target

    def _told(self, said: dict[str, Any], place: str) -> Said:
        told = self._list(said, "told", place)
        for one in told:
            self.sheet.tried(place, spelling.kind, one)
        self.sheet.tried(place, spelling.once, tuple(told))
        return told

    def _expressions(self, said: dict[str, Any], place: str, family: Family) -> Said:
        key = place.rpartition(".")[2]
        given = self._list(said, key, place)
        # Of metrics none is a choice; elsewhere an empty list would run what nobody asked for.
        if said.get(key) == [] and family is not Family.METRICS:
            raise self.sheet.bad(place, EMPTY)
        for text in given:
            self.sheet.tried(place, spelling.expression, text, family)
        return given

    def _delta(self, said: dict[str, Any]) -> float:
        delta = self._number(said, "delta", "delta", 1e-5)
        if not 0 < delta < 1:
            raise self.sheet.bad("delta", f"expected 0 < delta < 1, got {delta}")
        return float(delta)

    def _switch(self, said: dict[str, Any], key: str) -> bool:
        value = said.get(key, False)
        if not isinstance(value, bool):
            raise self.sheet.bad(key, f"expected true or false, got {file_limits.shortened(repr(value))}")
        return value

    def _smallest(self, said: dict[str, Any]) -> tuple[tuple[str, float], ...]:
        table = self._table(said, "smallest_leak")
        self._known("smallest_leak", table)
        wanted = []
        for metric in table:
            gain = self._number(table, metric, f"smallest_leak.{metric}", None)
            if not 0 < gain < math.inf:
                raise self.sheet.bad(f"smallest_leak.{metric}", f"expected a gain above 0 and finite, got {gain}")
            wanted.append((metric, float(gain)))
        return tuple(wanted)

    def _seconds(self, budget: dict[str, Any]) -> float | None:
        seconds: float | None = self._number(budget, "seconds", "budget.seconds", None)
        if seconds is not None and not seconds > 0:
            raise self.sheet.bad("budget.seconds", f"expected a budget of more than 0 seconds, got {seconds}")
        return seconds

    def _evaluations(self, budget: dict[str, Any]) -> int | None:
        evaluations: int | None = self._whole(budget, "evaluations", None, section="budget")
        if evaluations is not None and evaluations < 1:
            raise self.sheet.bad("budget.evaluations", f"expected a budget of at least 1 evaluation, got {evaluations}")
        return evaluations

    def _resources(self, said: dict[str, Any]) -> tuple[int, str, float | None, float | None]:
        """By the rules of `audit.resources`, which guards whoever makes one without a file."""
        threads: int = self._whole(said, "threads", 1, section="resources", low=1)
        device = self._text({"device": "cpu", **said}, "device", "resources.device")
        if not re.fullmatch(r"[a-z]+(:\d{1,3})?", device):
            raise self.sheet.bad("resources.device", f"expected a device such as cpu or cuda:0, got {device!r}")
        if device.partition(":")[0] not in DEVICES:
            raise self.sheet.bad("resources.device", str(UnknownName("device", device, DEVICES)))
        asked: list[float | None] = []
        for key in ("memory", "minutes"):
            value = self._number(said, key, f"resources.{key}", None)
            if value is not None and not 0 < value < math.inf:
                raise self.sheet.bad(f"resources.{key}", f"expected {key} > 0 and finite, got {value!r}")
            asked.append(value)
        return threads, device, asked[0], asked[1]

    def _range(self, said: dict[str, Any]) -> tuple[float, float]:
        span = said.get("input_range", [0, 1])
        if not isinstance(span, list) or len(span) != 2 or not all(is_number(one) for one in span):
            raise self.sheet.bad("input_range", f"expected two numbers such as [-1, 1], got {span!r}")
        low, high = float(span[0]), float(span[1])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise self.sheet.bad("input_range", f"expected a finite range with low < high, got [{low}, {high}]")
        return low, high

    def _sizes(self, said: dict[str, Any], key: str) -> tuple[int, ...]:
        value = said.get(key, [])
        sizes = value if isinstance(value, list) else [value]
        if said.get(key) == []:
            raise self.sheet.bad(key, EMPTY)
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise self.sheet.bad(key, f"expected a whole number or a list of them, got {value!r}")
        if any(abs(size) > LARGEST for size in sizes):
            raise self.sheet.bad(key, "expected whole numbers of at most 64 bits, got a longer one")
        small = [size for size in sizes if size < 1]
        if small:
            raise self.sheet.bad(key, f"expected batch sizes >= 1, got {small[0]}")
        return tuple(sizes)

    def _list(self, said: dict[str, Any], key: str, place: str) -> Said:
        value = said.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.sheet.bad(place, f'expected a list of texts such as {key} = ["..."], got {value!r}')
        return Said(place, tuple(value))

    def _text(self, said: dict[str, Any], key: str, place: str) -> str:
        value = said.get(key)
        if value is None:
            raise self.sheet.bad(place, "is required and missing")
        if not isinstance(value, str):
            raise self.sheet.bad(place, f"expected a text in quotes, got {value!r}")
        return value

    def _whole(
        self, said: dict[str, Any], key: str, default: int | None, *, section: str = "", low: int | None = None
    ) -> Any:
        value, place = said.get(key, default), f"{section}.{key}" if section else key
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.sheet.bad(place, f"expected a whole number, got {value!r}")
        if value is not None and abs(value) > LARGEST:
            raise self.sheet.bad(place, f"expected a whole number of at most 64 bits, got {len(str(value))} digits")
        if low is not None and value is not None and value < low:
            raise self.sheet.bad(place, f"expected {key} >= {low}, got {value}")
        return value

    def _number(self, said: dict[str, Any], key: str, place: str, default: float | None) -> Any:
        value = said.get(key, default)
        if value is not None and not is_number(value):
            raise self.sheet.bad(place, f"expected a number, got {file_limits.shortened(repr(value))}")
        return value

    def _table(self, said: dict[str, Any], key: str) -> dict[str, Any]:
        value = said.get(key, {})
        if not isinstance(value, dict):
            raise self.sheet.bad(key, f"expected a table under [{key}], got {value!r}")
        return value

    def _known(self, section: str, said: Mapping[str, object]) -> None:
        known = [one.key for one in FIELDS if one.section == section]
        for key in said:
            if key not in known:
                where = f"[{section}]" if section != "scene" else "[[scene]]"
                kind = f"key in {where}" if section else "key"
                raise BadPlan(f"{self.sheet.name}{self.sheet.line(key)}: {UnknownName(kind, key, known)}")
