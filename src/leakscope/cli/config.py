"""A plan file (TOML) becomes a `Plan`; what its keys mean is in `fields`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from leakscope.audit.plan import Attack, Plan, Scene
from leakscope.audit.resources import CPU, Resources
from leakscope.audit.telling import kind_named
from leakscope.cli.expressions import build
from leakscope.cli.models import recipe
from leakscope.cli.names import Family
from leakscope.cli.plan_keys import FIELDS
from leakscope.core.attempt import Budget
from leakscope.core.errors import BadInput, BadPlan, UnknownName
from leakscope.core.facts import Fact
from leakscope.core.mechanism import AbstractMechanism
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.scaled import Scaled
from leakscope.targets.recipes.architecture import AbstractArchitecture

Built = TypeVar("Built")


def read(path: Path, *, model: str | None = None) -> Plan:
    """The plan in the file `path`. model: one for every scene instead of its target, as `models.recipe` reads it.

    Raises `BadInput` when there is no such file, `BadPlan` with file, line and key for anything that cannot be run.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        hint = f"; there is {', '.join(near)} in {path.parent}" if near else ""
        raise BadInput(f"{path} is not a file; give a plan, as described in docs/plan-file.md{hint}")
    return parse(path.read_text(encoding="utf-8"), str(path), model=model)


def parse(text: str, name: str, *, model: str | None = None) -> Plan:
    """The plan in `text`; `name` is what messages call the file. Raises `BadPlan`."""
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPlan(f"{name}: not TOML: {error}") from None
    return _Reader(name, text, model).plan(said)


@final
@dataclass(frozen=True)
class _Reader:
    """Reads one file and says in it where a value stands."""

    name: str
    text: str
    model: str | None

    def plan(self, said: dict[str, Any]) -> Plan:
        self._known("", said)
        names: dict[str, str] = {}
        budget = self._table(said, "budget")
        self._known("budget", budget)
        resources = self._table(said, "resources")
        self._known("resources", resources)
        scenes = said.get("scene", [])
        if not isinstance(scenes, list) or not all(isinstance(scene, dict) for scene in scenes):
            raise self._bad("scene", "expected tables, each under [[scene]]")
        span = self._range(said)
        parts = {
            "title": self._text(said, "title", "title"),
            "seed": self._whole(said, "seed", 0),
            "trials": self._whole(said, "trials", 8),
            "batch_sizes": self._sizes(said, "batch_size") or (1,),
            "told": self._told(said, "told"),
            "mechanisms": self._mechanisms(said, "mechanisms", names),
            "attacks": self._attacks(said, "attacks", names),
            "metrics": tuple(
                self._try("metrics", build, one, Family.METRICS) for one in self._list(said, "metrics", "metrics")
            ),
            "delta": self._number(said, "delta", "delta", 1e-5),
            "budget": self._budget(budget),
            "resources": self._resources(resources),
            "scenes": tuple(self._scene(scene, i, span, names) for i, scene in enumerate(scenes)),
        }
        try:
            return Plan(**parts, names=tuple(sorted(names.items())))
        except BadInput as error:
            raise BadPlan(f"{self.name}: {error}") from None

    def _scene(self, said: dict[str, Any], place: int, span: tuple[float, float], names: dict[str, str]) -> Scene:
        here = f"scene[{place}]"
        self._known("scene", said)
        dataset = self._text(said, "dataset", f"{here}.dataset")
        source: AbstractSource = self._try(f"{here}.dataset", build, dataset, Family.DATASETS)
        if span != (0.0, 1.0):
            source = self._try("input_range", Scaled, source, *span)
        architecture, target = self._target(said, here, source.classes)
        name = self._text(said, "name", f"{here}.name") if "name" in said else f"{dataset}, {target}"
        return Scene(
            name=name,
            source=source,
            architecture=architecture,
            batch_sizes=self._sizes(said, "batch_size"),
            mechanisms=self._mechanisms(said, f"{here}.mechanisms", names),
            attacks=self._attacks(said, f"{here}.attacks", names),
            told=self._told(said, f"{here}.told") if "told" in said else None,
        )

    def _target(self, said: dict[str, Any], here: str, classes: int) -> tuple[AbstractArchitecture, str]:
        if self.model is not None:
            return recipe(self.model, classes), self.model
        target = self._text(said, "target", f"{here}.target")
        return self._try(f"{here}.target", recipe, target, classes), target

    def _told(self, said: dict[str, Any], place: str) -> tuple[type[Fact], ...]:
        return tuple(self._try(place, kind_named, fact) for fact in self._list(said, "told", place))

    def _mechanisms(self, said: dict[str, Any], place: str, names: dict[str, str]) -> tuple[AbstractMechanism, ...]:
        return self._built(said, place, Family.PROTOCOLS, names)

    def _attacks(self, said: dict[str, Any], place: str, names: dict[str, str]) -> tuple[Attack, ...]:
        return self._built(said, place, Family.ATTACKS, names)

    def _built(self, said: dict[str, Any], place: str, family: Family, names: dict[str, str]) -> tuple[Any, ...]:
        found = []
        for text in self._list(said, place.rpartition(".")[2], place):
            one = self._try(place, build, text, family)
            names.setdefault(repr(one), " ".join(text.split()))  # what a person wrote is what the report calls it
            found.append(one)
        return tuple(found)

    def _budget(self, said: dict[str, Any]) -> Budget:
        seconds = self._number(said, "seconds", "budget.seconds", None)
        evaluations = self._whole(said, "evaluations", None, section="budget")
        return self._try("budget", Budget, seconds, evaluations)

    def _resources(self, said: dict[str, Any]) -> Resources:
        threads = self._whole(said, "threads", 1, section="resources")
        memory = self._number(said, "memory", "resources.memory", None)
        minutes = self._number(said, "minutes", "resources.minutes", None)
        return self._try("resources", Resources, threads, said.get("device", CPU), memory, minutes)

    def _range(self, said: dict[str, Any]) -> tuple[float, float]:
        span = said.get("input_range", [0, 1])
        if not isinstance(span, list) or len(span) != 2 or not all(_is_number(one) for one in span):
            raise self._bad("input_range", f"expected two numbers such as [-1, 1], got {span!r}")
        return float(span[0]), float(span[1])

    def _sizes(self, said: dict[str, Any], key: str) -> tuple[int, ...]:
        value = said.get(key, [])
        sizes = value if isinstance(value, list) else [value]
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise self._bad(key, f"expected a whole number or a list of them, got {value!r}")
        return tuple(sizes)

    def _list(self, said: dict[str, Any], key: str, place: str) -> list[str]:
        value = said.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self._bad(place, f'expected a list of texts such as {key} = ["..."], got {value!r}')
        return value

    def _text(self, said: dict[str, Any], key: str, place: str) -> str:
        value = said.get(key)
        if value is None:
            raise self._bad(place, "is required and missing")
        if not isinstance(value, str):
            raise self._bad(place, f"expected a text in quotes, got {value!r}")
        return value

    def _whole(self, said: dict[str, Any], key: str, default: int | None, *, section: str = "") -> Any:
        value = said.get(key, default)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._bad(f"{section}.{key}" if section else key, f"expected a whole number, got {value!r}")
        return value

    def _number(self, said: dict[str, Any], key: str, place: str, default: float | None) -> Any:
        value = said.get(key, default)
        if value is not None and not _is_number(value):
            raise self._bad(place, f"expected a number, got {value!r}")
        return value

    def _table(self, said: dict[str, Any], key: str) -> dict[str, Any]:
        value = said.get(key, {})
        if not isinstance(value, dict):
            raise self._bad(key, f"expected a table under [{key}], got {value!r}")
        return value

    def _known(self, section: str, said: Mapping[str, object]) -> None:
        known = [one.key for one in FIELDS if one.section == section]
        for key in said:
            if key not in known:
                where = f"[{section}]" if section != "scene" else "[[scene]]"
                kind = f"key in {where}" if section else "key"
                raise BadPlan(f"{self.name}{self._line(key)}: {UnknownName(kind, key, known)}")

    def _try(self, place: str, make: Callable[..., Built], *given: Any) -> Built:
        """What `make` makes, or its complaint with the place in the file."""
        try:
            return make(*given)
        except BadInput as error:
            text = given[0] if given and isinstance(given[0], str) else None
            raise self._bad(place, str(error), text) from None

    def _bad(self, place: str, why: str, text: str | None = None) -> BadPlan:
        key = place.rpartition(".")[2].partition("[")[0]
        return BadPlan(f"{self.name}{self._line(key, text)}: {place}: {why}")

    def _line(self, key: str, text: str | None = None) -> str:
        """The line of a value or of a key, where it is the only such line; tomllib does not keep positions."""
        quoted = [i for i, line in enumerate(self.text.splitlines(), 1) if text and text in line]
        pattern = re.compile(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*(=|\])")
        lines = quoted or [i for i, line in enumerate(self.text.splitlines(), 1) if pattern.match(line)]
        return f", line {lines[0]}" if len(lines) == 1 else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
