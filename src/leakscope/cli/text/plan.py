"""A plan file (TOML) as it is written: every key, type, name and number judged, and nothing imported that it names."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from leakscope.cli.plan_keys import FIELDS
from leakscope.cli.rows import Family
from leakscope.cli.text import fitting, spelling
from leakscope.cli.text.data import enough, pictures
from leakscope.cli.text.models import findable, model
from leakscope.cli.text.sheet import Keys, Said, Sheet, parsed, sheet_of
from leakscope.core import file_limits
from leakscope.core.arguments import LARGEST, is_number
from leakscope.core.errors import BadInput, BadPlan, MissingExtra, UnknownName

CELL = 16_384
"""Bytes that a planned cell takes with its controls."""

DEVICES = ("cpu", "cuda")
"""What a machine may have, as far as leakscope looks (`audit.resources.devices`)."""

ATTACK = "attack"
EMPTY = "the list is empty; name at least one, or leave the key out for what is usual or the plan's"
PLAN = "a plan, as described in docs/plan-file.md"


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
    sheet = sheet_of(path, PLAN)
    return parse(sheet.text, sheet.name, instead=instead)


def parse(text: str, name: str, *, instead: str | None = None) -> WrittenPlan:
    """The plan in `text`; `name` is what messages call the file. Raises `BadPlan`, of a bad `instead` `BadInput`."""
    sheet = Sheet(name, text)
    said = parsed(sheet)
    if "federations" in said and "mechanisms" not in said:
        raise sheet.bad("federations", "this is a plan of federations; run it with `leakscope federation`")
    if instead is not None:
        model(instead)
    return _Reader(sheet, instead).plan(said)


@final
@dataclass(frozen=True)
class _Reader:
    """Reads one file, key by key."""

    sheet: Sheet
    instead: str | None

    @property
    def keys(self) -> Keys:
        return Keys(self.sheet, FIELDS)

    def plan(self, said: dict[str, Any]) -> WrittenPlan:
        self.keys.known("", said)
        budget = self.keys.table(said, "budget")
        self.keys.known("budget", budget)
        resources = self.keys.table(said, "resources")
        self.keys.known("resources", resources)
        scenes = said.get("scene", [])
        if not isinstance(scenes, list) or not all(isinstance(scene, dict) for scene in scenes):
            raise self.sheet.bad("scene", "expected tables, each under [[scene]]")
        return WrittenPlan(
            sheet=self.sheet,
            title=self.keys.text(said, "title", "title"),
            seed=self.keys.whole(said, "seed", 0, low=0),
            trials=self.keys.whole(said, "trials", 8, low=1),
            batch_sizes=self._sizes(said, "batch_size") or (1,),
            told=self._told(said, "told"),
            mechanisms=self._expressions(said, "mechanisms", Family.PROTOCOLS),
            attacks=self._expressions(said, "attacks", Family.ATTACKS),
            metrics=self._expressions(said, "metrics", Family.METRICS),
            delta=self._delta(said),
            smallest=self._smallest(said),
            replaced=self.keys.switch(said, "replaced"),
            span=self._range(said),
            seconds=self._seconds(budget),
            evaluations=self._evaluations(budget),
            resources=self._resources(resources),
            scenes=tuple(self._scene(scene, f"scene[{i}]") for i, scene in enumerate(scenes)),
            instead=self.instead,
        )

    def _scene(self, said: dict[str, Any], here: str) -> WrittenScene:
        self.keys.known("scene", said)
        dataset = self.keys.text(said, "dataset", f"{here}.dataset")
        self.sheet.tried(f"{here}.dataset", spelling.expression, dataset, Family.DATASETS)
        target = self._target(said, here)
        return WrittenScene(
            place=here,
            name=self.keys.text(said, "name", f"{here}.name") if "name" in said else f"{dataset}, {target}",
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
        target = self.keys.text(said, "target", f"{here}.target")
        self.sheet.tried(f"{here}.target", model, target)
        return target

    def _told(self, said: dict[str, Any], place: str) -> Said:
        told = self.keys.texts(said, "told", place)
        for one in told:
            self.sheet.tried(place, spelling.kind, one)
        self.sheet.tried(place, spelling.once, tuple(told))
        return told

    def _expressions(self, said: dict[str, Any], place: str, family: Family) -> Said:
        key = place.rpartition(".")[2]
        given = self.keys.texts(said, key, place)
        # Of metrics none is a choice; elsewhere an empty list would run what nobody asked for.
        if said.get(key) == [] and family is not Family.METRICS:
            raise self.sheet.bad(place, EMPTY)
        for text in given:
            self.sheet.tried(place, spelling.expression, text, family)
        return given

    def _delta(self, said: dict[str, Any]) -> float:
        delta = self.keys.number(said, "delta", "delta", 1e-5)
        if not 0 < delta < 1:
            raise self.sheet.bad("delta", f"expected 0 < delta < 1, got {delta}")
        return float(delta)

    def _smallest(self, said: dict[str, Any]) -> tuple[tuple[str, float], ...]:
        table = self.keys.table(said, "smallest_leak")
        self.keys.known("smallest_leak", table)
        wanted = []
        for metric in table:
            gain = self.keys.number(table, metric, f"smallest_leak.{metric}", None)
            if not 0 < gain < math.inf:
                raise self.sheet.bad(f"smallest_leak.{metric}", f"expected a gain above 0 and finite, got {gain}")
            wanted.append((metric, float(gain)))
        return tuple(wanted)

    def _seconds(self, budget: dict[str, Any]) -> float | None:
        seconds: float | None = self.keys.number(budget, "seconds", "budget.seconds", None)
        if seconds is not None and not seconds > 0:
            raise self.sheet.bad("budget.seconds", f"expected a budget of more than 0 seconds, got {seconds}")
        return seconds

    def _evaluations(self, budget: dict[str, Any]) -> int | None:
        evaluations: int | None = self.keys.whole(budget, "evaluations", None, section="budget")
        if evaluations is not None and evaluations < 1:
            raise self.sheet.bad("budget.evaluations", f"expected a budget of at least 1 evaluation, got {evaluations}")
        return evaluations

    def _resources(self, said: dict[str, Any]) -> tuple[int, str, float | None, float | None]:
        """By the rules of `audit.resources`, which guards whoever makes one without a file."""
        threads: int = self.keys.whole(said, "threads", 1, section="resources", low=1)
        device = self.keys.text({"device": "cpu", **said}, "device", "resources.device")
        if not re.fullmatch(r"[a-z]+(:\d{1,3})?", device):
            raise self.sheet.bad("resources.device", f"expected a device such as cpu or cuda:0, got {device!r}")
        if device.partition(":")[0] not in DEVICES:
            raise self.sheet.bad("resources.device", str(UnknownName("device", device, DEVICES)))
        asked: list[float | None] = []
        for key in ("memory", "minutes"):
            value = self.keys.number(said, key, f"resources.{key}", None)
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
