"""What a plan of federations cannot ask, said before a feature is computed: minutes of speech come before the rest."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from leakscope.attacks.attributes.signals import dense_layers, layer_of
from leakscope.audit.federations.asked import EMOTION, SPEAKER
from leakscope.audit.federations.plan import FederatedScene, FederationPlan, Shadows
from leakscope.core.errors import BadInput, BadPlan, LeakscopeError, NoSuchLayer, UnknownName
from leakscope.mechanisms.running import unfit
from leakscope.numerics.rng import Key


def check(plan: FederationPlan) -> None:
    """Raises `BadPlan` where an attribute, a model, a signal, a protocol or a division of speakers fits no scene.

    What fits some scenes is a reason of the others' rows. Folders of recordings are listed, sound is not read.
    """
    for scene in plan.scenes:
        _divisible(scene)
    for attribute in plan.attributes:
        _known(plan, attribute)
    _somewhere(_built(plan, scene) for scene in plan.scenes)


def of_this_plan(plan: FederationPlan, records: Path, *, begun: FederationPlan | None = None) -> None:
    """Raises `BadPlan` where the folder of records holds cells that the plan has not: its page would lose them.

    begun: the plan that the folder was begun with, which counts as long as it has no record.
    """
    own = {cell.spec.identity for cell in plan.cells()}
    there = [path.stem for path in sorted(records.glob("*.json"))] if records.is_dir() else []
    if begun is not None:
        there = list(dict.fromkeys([*there, *(cell.spec.identity for cell in begun.cells())]))
    strange = [name for name in there if name not in own]
    if strange:
        raise BadPlan(
            f"{records.parent} is of another plan: {len(strange)} of its {len(there)} cells are not in this one; "
            "a plan that is gone on with may only gain cells, so choose another folder"
        )


def _divisible(scene: FederatedScene) -> None:
    for source in {scene.speakers, *((scene.public,) if scene.public is not None else ())}:
        said = Counter(one.speaker for one in source.recordings())
        name, fewest = min(said.items(), key=lambda one: one[1])
        if fewest < scene.each:
            raise BadPlan(
                f"the scene {scene.name!r} divides each speaker in {scene.each} clients, and {name} has "
                f"{fewest} recordings; expected each <= {fewest}"
            )


def _known(plan: FederationPlan, attribute: str) -> None:
    if attribute in (EMOTION, SPEAKER):
        return
    told = [set(scene.speakers.told) & set((scene.public or scene.speakers).told) for scene in plan.scenes]
    if not any(attribute in one for one in told):
        raise BadPlan(str(UnknownName("attribute of the speakers", attribute, {EMOTION, SPEAKER}.union(*told))))


def _built(plan: FederationPlan, scene: FederatedScene) -> Callable[[], None]:
    """Whether one of the scene's models can be built, trained as is said, and read by each attack's signals."""

    def tried() -> None:
        domain, classes = scene.speakers.domain, scene.speakers.classes
        models = scene.targets or plan.targets
        built = [one.build(domain, classes, key=Key(plan.seed).child("fit")) for one in models]
        for federation in scene.federations or plan.federations:
            for target in built:
                why = unfit(federation.step, target)
                if why is not None:
                    raise BadInput(why)
        layers = [dense_layers(target) for target in built]
        for attack in plan.attacks:
            for one in attack.signals if isinstance(attack, Shadows) else ():
                _somewhere(functools.partial(layer_of, one, own) for own in layers)

    return tried


def _somewhere(tries: Iterable[Callable[[], object]]) -> None:
    """Raises `BadPlan` with the first complaint where none of them works."""
    said = ""
    for one in tries:
        try:
            one()
            return
        except (LeakscopeError, NoSuchLayer) as error:
            said = said or str(error)
    if said:
        raise BadPlan(said)
