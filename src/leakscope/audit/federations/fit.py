"""What a plan of federations cannot ask, said before a feature is computed: minutes of speech come before the rest."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from leakscope.attacks.attributes.signals import dense_layers, layer_of
from leakscope.audit.federations.asked import EMOTION, SPEAKER
from leakscope.audit.federations.plan import FederatedScene, FederationPlan, Shadows
from leakscope.bounds.user_level import promising
from leakscope.core.errors import BadPlan, LeakscopeError, NoSuchLayer, UnknownName
from leakscope.mechanisms.compose import accounting
from leakscope.mechanisms.running import unfit
from leakscope.numerics.rng import Key

Bad = Callable[[str, str], BadPlan]
"""What is wrong at a place such as `scene[0].dataset`, which who has read a file says with its line."""


def _bad(place: str, why: str) -> BadPlan:
    del place
    return BadPlan(why)


def check(plan: FederationPlan, bad: Bad = _bad) -> None:
    """Raises `BadPlan` where an attribute, a model, a signal, a protocol or a division of speakers fits no scene, and
    where delta promises nothing in one of them.

    What fits some scenes is a reason of the others' rows. Folders of recordings are listed, sound is not read.
    """
    halved = any(attribute != SPEAKER for attribute in plan.attributes)
    for place, scene in enumerate(plan.scenes):
        _divisible(scene, f"scene[{place}]", bad, halved=halved)
    for attribute in plan.attributes:
        _known(plan, attribute, bad)
    _promised(plan, bad)
    _somewhere(_built(plan, scene, f"scene[{place}].", bad) for place, scene in enumerate(plan.scenes))


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


def _divisible(scene: FederatedScene, place: str, bad: Bad, *, halved: bool) -> None:
    for key, source in (("dataset", scene.speakers), ("public", scene.public)):
        if source is None:
            continue
        try:
            said = Counter(one.speaker for one in source.recordings())
        except LeakscopeError as error:
            raise bad(f"{place}.{key}", str(error)) from None
        name, fewest = min(said.items(), key=lambda one: one[1])
        if fewest < scene.each:
            why = f"the scene {scene.name!r} divides each speaker in {scene.each} clients, and {name} has {fewest}"
            raise bad(f"{place}.each", f"{why} recordings; expected each <= {fewest}")
    if halved:
        try:
            _ = scene.sides
        except LeakscopeError as error:
            raise bad(f"{place}.dataset", str(error)) from None


def _known(plan: FederationPlan, attribute: str, bad: Bad) -> None:
    if attribute in (EMOTION, SPEAKER):
        return
    told = [set(scene.speakers.told) & set((scene.public or scene.speakers).told) for scene in plan.scenes]
    if not any(attribute in one for one in told):
        why = str(UnknownName("attribute of the speakers", attribute, {EMOTION, SPEAKER}.union(*told)))
        raise bad("attributes", why)


def _promised(plan: FederationPlan, bad: Bad) -> None:
    """Only after hours may a plan come to its noise, and a delta that promises nothing ends all of it."""
    for cell in plan.cells():
        if cell.federation.privacy is None:
            continue
        accounting()
        try:
            promising(plan.delta, clients=cell.people.clients(cell.attribute))
        except LeakscopeError as error:
            raise bad("delta", str(error)) from None


def _built(plan: FederationPlan, scene: FederatedScene, place: str, bad: Bad) -> Callable[[], None]:
    """Whether one of the scene's models can be built, trained as is said, and read by each attack's signals."""

    def tried() -> None:
        domain, classes = scene.speakers.domain, scene.speakers.classes
        models = scene.targets or plan.targets
        try:
            built = [one.build(domain, classes, key=Key(plan.seed).child("fit")) for one in models]
        except LeakscopeError as error:
            raise bad(f"{place if scene.targets else ''}targets", str(error)) from None
        for federation in scene.federations or plan.federations:
            for target in built:
                why = unfit(federation.step, target)
                if why is not None:
                    raise bad(f"{place if scene.federations else ''}federations", why)
        layers = [dense_layers(target) for target in built]
        for at, attack in enumerate(plan.attacks):
            for one in attack.signals if isinstance(attack, Shadows) else ():
                try:
                    _somewhere(functools.partial(layer_of, one, own) for own in layers)
                except BadPlan as error:
                    raise bad(f"attack[{at}].signals", str(error)) from None

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
