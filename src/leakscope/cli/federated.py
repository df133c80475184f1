"""A plan of federations becomes objects: what `cli.text.federation` has read and judged as text is made here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

from leakscope.attacks.attributes.decide import AbstractDecision
from leakscope.attacks.attributes.signals import AbstractSignal
from leakscope.audit.federations.plan import ALL, FederatedScene, FederationPlan, Recovered, Shadows
from leakscope.cli.calling import permit
from leakscope.cli.expressions import build
from leakscope.cli.models import recipe
from leakscope.cli.rows import Family
from leakscope.cli.text.federation import WrittenAttack, WrittenFederations, WrittenSpeakers
from leakscope.cli.text.sheet import Said
from leakscope.core.errors import BadInput, BadPlan
from leakscope.datasets.emotion.emotion_features import EmotionFeatures
from leakscope.mechanisms.federated.federation import Federation
from leakscope.targets.recipes.imported import Imported


def built(written: WrittenFederations) -> FederationPlan:
    """The plan as objects. Raises `BadPlan` for what shows only now, such as a value that its object does not take."""
    return _Builder(written).plan()


@final
@dataclass(frozen=True)
class _Builder:
    """names: repr -> what a person wrote, which is what the report calls it."""

    written: WrittenFederations
    names: dict[str, str] = field(default_factory=dict)

    def plan(self) -> FederationPlan:
        said = self.written
        scenes = tuple(self._scene(one) for one in said.scenes)
        classes = scenes[0].speakers.classes
        parts: dict[str, Any] = {
            "title": said.title,
            "scenes": scenes,
            "targets": self._targets(said.targets, classes),
            "federations": self._federations(said.federations),
            "attacks": tuple(self._attack(one) for one in said.attacks),
            "attributes": said.attributes,
            "updates": (*said.updates, ALL),
            "draws": said.draws,
            "seed": said.seed,
            "delta": said.delta,
            "smallest": said.smallest,
            "hold_out": said.hold_out,
            "shuffled": said.shuffled,
            "keep_rounds": said.keep_rounds,
        }
        try:
            return FederationPlan(**parts, names=tuple(sorted(self.names.items())))
        except BadInput as error:
            raise BadPlan(f"{said.sheet.name}: {error}") from None

    def _scene(self, said: WrittenSpeakers) -> FederatedScene:
        speakers = self._speakers(f"{said.place}.dataset", said.dataset)
        public = self._speakers(f"{said.place}.public", said.public) if said.public else None
        return FederatedScene(
            said.name,
            speakers,
            public,
            said.each,
            self._targets(said.targets, speakers.classes),
            self._federations(said.federations),
        )

    def _attack(self, said: WrittenAttack) -> Shadows | Recovered:
        if said.recovers:
            attack = self.written.sheet.tried(f"{said.place}.recovers", build, said.recovers, Family.ATTACKS)
            return Recovered(said.name, attack, said.rounds)
        signals = tuple(self._kind(f"{said.place}.signals", one, AbstractSignal) for one in said.signals)
        decision = self._kind(f"{said.place}.decision", said.decision, AbstractDecision)
        return Shadows(said.name, signals, decision, said.shadows, said.folds, said.leaked)

    def _speakers(self, place: str, text: str) -> EmotionFeatures:
        made = self.written.sheet.tried(place, build, text, Family.DATASETS)
        if not isinstance(made, EmotionFeatures):
            raise self.written.sheet.bad(place, f"expected EmotionFeatures(...), whose speakers are known, got {text}")
        return made

    def _targets(self, said: Said, classes: int) -> tuple[Any, ...]:
        found = []
        for text in said:
            one = self.written.sheet.tried(said.place, recipe, text, classes)
            # a plan is a file, perhaps of somebody else: what it names to call is asked as in an audit
            if isinstance(one, Imported):
                self.written.sheet.tried(said.place, permit, one)
            self.names.setdefault(repr(one), " ".join(text.split()))
            found.append(one)
        return tuple(found)

    def _federations(self, said: Said) -> tuple[Federation, ...]:
        found = []
        for text in said:
            one = self._kind(said.place, text, Federation)
            # what is held out is held out to be looked at, in the end at least
            if self.written.hold_out and not one.evaluate_every:
                one = replace(one, evaluate_every=one.rounds)
            self.names.setdefault(repr(one), " ".join(text.split()))
            found.append(one)
        return tuple(found)

    def _kind(self, place: str, text: str, kind: type[Any]) -> Any:
        made = self.written.sheet.tried(place, build, text, Family.PARTS)
        if not isinstance(made, kind):
            wanted = kind.__name__.removeprefix("Abstract").lower()
            raise self.written.sheet.bad(place, f"expected a {wanted}, got {text}; see `leakscope list parts`")
        return made
