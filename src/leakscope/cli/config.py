"""A plan file (TOML) becomes a `Plan`: what `cli.text.plan` has read and judged as text is made into objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from leakscope.attacks.portfolio.handed_on import usual
from leakscope.audit.affordable import check_model, check_step
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.resources import Resources
from leakscope.audit.telling import kind_named
from leakscope.cli.expressions import build
from leakscope.cli.models import recipe
from leakscope.cli.rows import Family
from leakscope.cli.text import plan as text_of
from leakscope.cli.text.plan import WrittenPlan, WrittenScene
from leakscope.cli.text.sheet import Said
from leakscope.core import file_limits
from leakscope.core.domain import AbstractDomain
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput, BadPlan
from leakscope.core.facts import Fact
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.scaled import Scaled
from leakscope.targets.recipes.architecture import AbstractArchitecture

WHOLE = (0.0, 1.0)
"""The input range that needs no change of units."""


def read(path: Path, *, model: str | None = None) -> Plan:
    """The plan in the file `path`. model: one for every scene instead of its target, as `models.recipe` reads it.

    Raises `BadInput` when there is no such file, `BadPlan` with file, line and key for anything that cannot be run.
    """
    return built(text_of.read(path, instead=model))


def parse(text: str, name: str, *, model: str | None = None) -> Plan:
    """The plan in `text`; `name` is what messages call the file. Raises `BadPlan`."""
    return built(text_of.parse(text, name, instead=model))


def built(written: WrittenPlan) -> Plan:
    """The plan as objects. Raises `BadPlan` for what shows only now, such as a value that its object does not take."""
    return _Builder(written).plan()


def _affordable(scene: Scene, plan: Plan) -> None:
    """Raises `BadInput` where the scene asks for more memory than a plan may ask for."""
    takes, classes = scene.source.domain, scene.source.classes
    weights = check_model(scene.architecture, takes, classes)
    for mechanism in scene.mechanisms or plan.mechanisms:
        for examples in scene.batch_sizes or plan.batch_sizes:
            # Whoever runs a plan has chosen it, and the estimate is generous: a recognizer's eight steps take three.
            with file_limits.limited(4 * file_limits.limit()):
                check_step(mechanism, takes, examples, weights)


@final
@dataclass(frozen=True)
class _Builder:
    """names: repr -> what a person wrote, which is what the report calls it."""

    written: WrittenPlan
    names: dict[str, str] = field(default_factory=dict)

    def plan(self) -> Plan:
        said = self.written
        parts: dict[str, Any] = {
            "title": said.title,
            "seed": said.seed,
            "trials": said.trials,
            "batch_sizes": said.batch_sizes,
            "told": self._told(said.told),
            "mechanisms": self._built(said.mechanisms, Family.PROTOCOLS),
            "attacks": self._built(said.attacks, Family.ATTACKS),
            "metrics": tuple(self._one(said.metrics.place, text, Family.METRICS) for text in said.metrics),
            "delta": said.delta,
            "smallest": said.smallest,
            "replaced": said.replaced,
            "budget": Budget(said.seconds, said.evaluations),
            "resources": Resources(*said.resources),
            "scenes": tuple(self._scene(scene) for scene in said.scenes),
        }
        try:
            made = Plan(**parts, names=tuple(sorted(self.names.items())))
        except BadInput as error:
            raise BadPlan(f"{said.sheet.name}: {error}") from None
        for scene, place in zip(made.scenes, said.scenes, strict=True):
            said.sheet.tried(place.place, _affordable, scene, made)
        return made

    def _scene(self, said: WrittenScene) -> Scene:
        source: AbstractSource = self._one(f"{said.place}.dataset", said.dataset, Family.DATASETS)
        if self.written.span != WHOLE:
            source = self.written.sheet.tried("input_range", Scaled, source, *self.written.span)
        return Scene(
            name=said.name,
            source=source,
            architecture=self._architecture(said, source.classes),
            batch_sizes=said.batch_sizes,
            mechanisms=self._built(said.mechanisms, Family.PROTOCOLS),
            attacks=self._attacks(said, source.domain),
            told=None if said.told is None else self._told(said.told),
        )

    def _attacks(self, said: WrittenScene, domain: AbstractDomain) -> tuple[Any, ...]:
        """Those of the scene; where neither it nor the plan names any, those that are usual for its kind of data."""
        if said.attacks.texts or self.written.attacks.texts:
            return self._built(said.attacks, Family.ATTACKS)
        return usual(domain)

    def _architecture(self, said: WrittenScene, classes: int) -> AbstractArchitecture:
        if self.written.instead is not None:
            return recipe(said.target, classes)  # of the command line: there is no place in the file to name
        made: AbstractArchitecture = self.written.sheet.tried(f"{said.place}.target", recipe, said.target, classes)
        return made

    def _told(self, said: Said) -> tuple[type[Fact], ...]:
        return tuple(self.written.sheet.tried(said.place, kind_named, text) for text in said)

    def _built(self, said: Said, family: Family) -> tuple[Any, ...]:
        found = []
        for text in said:
            one = self._one(said.place, text, family)
            self.names.setdefault(repr(one), " ".join(text.split()))
            found.append(one)
        return tuple(found)

    def _one(self, place: str, text: str, family: Family) -> Any:
        return self.written.sheet.tried(place, build, text, family)
