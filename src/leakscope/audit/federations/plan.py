"""A plan of federations: scenes of speakers, models, federations and attacks, crossed, each beside its controls."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, final

from leakscope.attacks.attack import Attack
from leakscope.attacks.attributes.decide import AbstractDecision
from leakscope.attacks.attributes.recovered import AttributeOfVectors
from leakscope.attacks.attributes.shadow import ShadowUpdates, counted
from leakscope.attacks.attributes.signals import AbstractSignal
from leakscope.audit.federations.asked import CLIENT, EMOTION, SPEAKER, Asked, People, halves
from leakscope.core.arguments import count, number
from leakscope.core.asking import noiseless_of, undefended_of
from leakscope.core.claim import Inputs
from leakscope.core.errors import BadInput, BadPlan
from leakscope.datasets.emotion.emotion_features import EmotionFeatures
from leakscope.ledger.played import Part, PlayedSpec
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.federated.federation import MOST_ROUNDS, Federation
from leakscope.mechanisms.federated.user_level import UserLevel
from leakscope.targets.recipes.architecture import AbstractArchitecture

CONTROLS = (Part.UNDEFENDED, Part.NOISELESS)
"""Rows that are there for others, and not twice."""
ALL = 0
"""Stands for all updates of a client."""
MOST_DRAWS, MOST_TAKEN, MOST_PARTS = 10_000, 1_000, 1_000
"""Draws of some updates, rounds that vectors are recovered of, clients of a speaker: beyond them nobody waits."""


@final
@dataclass(frozen=True)
class Shadows:
    """An attack that learns of shadow federations: all of `ShadowUpdates` but who is public and what is played."""

    name: str
    signals: tuple[AbstractSignal, ...]
    decision: AbstractDecision
    shadows: int = 5
    folds: int = 4
    leaked: int = 0

    def __post_init__(self) -> None:
        counted(self.shadows, self.folds, self.leaked)

    def on(self, asked: Asked, federation: Federation) -> Attack[Any]:
        """The attack on this federation."""
        return ShadowUpdates(
            asked.pool, federation, asked.attribute, asked.owner, self.signals, self.decision, self.shadows, self.folds,
            self.leaked, CLIENT,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Recovered:
    """An attack that recovers the vectors themselves and judges those: `AttributeOfVectors`, by `rounds` of a client's
    rounds, which it takes for all of them: the same vectors come in every round, and each costs seconds.
    """

    name: str
    of: Attack[Inputs]
    rounds: int = 2

    def __post_init__(self) -> None:
        count("rounds", self.rounds, high=MOST_TAKEN)

    def on(self, asked: Asked, federation: Federation) -> Attack[Any]:
        """The attack; what is played says nothing to it."""
        del federation
        return AttributeOfVectors(asked.pool, asked.attribute, asked.owner, self.of)


@final
@dataclass(frozen=True)
class FederatedScene:
    """Speakers, and who of them is known. public: others, of whom shadows are played; None halves `speakers`, and each
    half is attacked by what was learned of the other. each: clients that a speaker is divided in. targets, federations:
    this scene's own instead of the plan's.
    """

    name: str
    speakers: EmotionFeatures
    public: EmotionFeatures | None = None
    each: int = 1
    targets: tuple[AbstractArchitecture, ...] = ()
    federations: tuple[Federation, ...] = ()

    def __post_init__(self) -> None:
        count("each", self.each, high=MOST_PARTS)

    @property
    def sides(self) -> tuple[tuple[EmotionFeatures, EmotionFeatures], ...]:
        """(public, private) of each direction."""
        if self.public is not None:
            return ((self.public, self.speakers),)
        first, second = halves(self.speakers)
        return ((first, second), (second, first))


@final
@dataclass(frozen=True)
class FederatedCell:
    """One attack on one federation in one direction: the unit of resuming."""

    part: Part
    scene: FederatedScene
    people: People
    target: AbstractArchitecture
    federation: Federation
    attack: Shadows | Recovered
    attribute: str
    updates: tuple[int, ...]
    draws: int
    seed: int

    @property
    def spec(self) -> PlayedSpec:
        """What decides the answer. An undefended cell is its own control: the part is not in it."""
        return PlayedSpec(
            public=repr(self.people.public), private=repr(self.people.private), target=repr(self.target),
            federation=repr(self.federation), attack=repr(self.attack), attribute=self.attribute,
            each=self.people.each, hold_out=self.people.hold_out, updates=self.updates,
            draws=self.draws, shuffled=self.people.shuffled, seed=self.seed,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class FederatedGroup:
    """All directions of one attack on one federation: a row. control: the row that it is compared with, if any.

    noiseless: the same without its noise, on which the attack has to work as well; empty where that is the control.
    """

    part: Part
    cells: tuple[FederatedCell, ...]
    control: tuple[FederatedCell, ...] = ()
    noiseless: tuple[FederatedCell, ...] = ()


@final
@dataclass(frozen=True)
class FederationPlan:
    """Scenes crossed with targets, federations, attacks and attributes.

    attributes: what is asked: "sex" or another annotation of the speakers, "emotion", "speaker" (`asked`). updates: by
    how many updates of a client is claimed, `ALL` among them; fewer are drawn `draws` times. delta: of epsilon.
    smallest: the gain over chance that *no leak found* must exclude. hold_out: share of each client's recordings that
    the model is judged on, 0 for none. shuffled: attributes that are shuffled over persons are asked beside.
    keep_rounds: updates stay in the folder. names: (repr, name), what a person calls targets and federations.
    Raises `BadPlan` on what could not be run.
    """

    title: str
    scenes: tuple[FederatedScene, ...]
    targets: tuple[AbstractArchitecture, ...]
    federations: tuple[Federation, ...]
    attacks: tuple[Shadows | Recovered, ...]
    attributes: tuple[str, ...] = ("sex",)
    updates: tuple[int, ...] = (ALL,)
    draws: int = 10
    seed: int = 0
    delta: float = 1e-3
    smallest: float = 0.2
    hold_out: float = 0.2
    shuffled: bool = False
    keep_rounds: bool = True
    names: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise BadPlan("the plan needs a title")
        for what, given in (("scene", self.scenes), ("attack", self.attacks), ("attribute", self.attributes)):
            if not given:
                raise BadPlan(f"the plan needs at least one {what}")
        for what, given in (("scenes", self.scenes), ("attacks", self.attacks)):
            called = [one.name for one in given]
            if len(set(called)) < len(called):
                raise BadPlan(f"{what} need different names; one was given twice")
        if len(set(self.attributes)) < len(self.attributes):
            raise BadPlan("an attribute is asked twice")
        try:
            for one in self.updates:
                count("updates", one, low=0, high=MOST_ROUNDS)
            count("draws", self.draws, high=MOST_DRAWS)
            number("delta", self.delta, low=0, high=1, low_open=True, high_open=True)
            number("smallest", self.smallest, low=0, high=1, low_open=True, high_open=True)
            number("hold_out", self.hold_out, low=0, high=1, high_open=True)
            count("seed", self.seed, low=0)
        except BadInput as error:
            raise BadPlan(str(error)) from None
        # the verdict is of persons by all that they sent
        object.__setattr__(self, "updates", tuple(sorted({*self.updates, ALL}, key=lambda one: (one == ALL, one))))
        for scene in self.scenes:
            if not (scene.targets or self.targets) or not (scene.federations or self.federations):
                raise BadPlan(f"the scene {scene.name!r} has no target or no federation; give one to it or to the plan")

    def name(self, thing: object) -> str:
        """What a person calls a target or a federation."""
        return dict(self.names).get(repr(thing)) or (written(thing) if isinstance(thing, Federation) else repr(thing))

    def groups(self) -> tuple[FederatedGroup, ...]:
        """The rows in the plan's order, controls behind what they are of; a control of several rows comes once."""
        found: dict[str, FederatedGroup] = {}
        for scene in self.scenes:
            for target in scene.targets or self.targets:
                for federation in scene.federations or self.federations:
                    # attributes before attacks: those of one federation are attacked while it is at hand
                    for attribute in self.attributes:
                        for attack in self.attacks:
                            for one in self._rows(scene, target, federation, attack, attribute):
                                key = f"{one.part.value} {[cell.spec.identity for cell in one.cells]}"
                                found.setdefault(key, one)
        audited = {str([c.spec.identity for c in one.cells]) for one in found.values() if one.part is Part.AUDITED}
        # an undefended federation that the plan names, or one without noise, is a row already
        return tuple(
            one
            for one in found.values()
            if one.part not in CONTROLS or str([c.spec.identity for c in one.cells]) not in audited
        )

    def cells(self) -> tuple[FederatedCell, ...]:
        """Every cell once, those of one federation together."""
        cells = {cell.spec.identity: cell for group in self.groups() for cell in group.cells}
        worlds: dict[str, list[FederatedCell]] = {}
        for cell in cells.values():
            worlds.setdefault(world_of(cell), []).append(cell)
        return tuple(cell for own in worlds.values() for cell in own)

    def _rows(
        self,
        scene: FederatedScene,
        target: AbstractArchitecture,
        federation: Federation,
        attack: Shadows | Recovered,
        attribute: str,
    ) -> list[FederatedGroup]:
        plain = undefended(federation)
        # who is to be recognized is public and private: there is one direction, of all speakers
        sides = ((scene.speakers, scene.speakers),) if attribute == SPEAKER else scene.sides

        def cells(part: Part, played: Federation, shuffled: bool) -> tuple[FederatedCell, ...]:
            return tuple(
                FederatedCell(
                    part, scene, People(public, private, scene.each, self.hold_out, shuffled), target, played, attack,
                    attribute, self.updates, self.draws, self.seed,
                )
                for public, private in sides
            )  # fmt: skip

        mine, control = cells(Part.AUDITED, federation, False), cells(Part.UNDEFENDED, plain, False)
        silent = noiseless(federation)
        quiet = () if silent in (None, plain) else cells(Part.NOISELESS, silent, False)
        rows = [FederatedGroup(Part.AUDITED, mine, control if plain != federation else (), quiet)]
        if plain != federation:
            rows.append(FederatedGroup(Part.UNDEFENDED, control))
        if quiet:
            rows.append(FederatedGroup(Part.NOISELESS, quiet))
        # names that are shuffled are names all the same
        if self.shuffled and attribute != SPEAKER:
            rows.append(FederatedGroup(Part.SHUFFLED, cells(Part.SHUFFLED, federation, True), mine))
        return rows


def undefended(federation: Federation) -> Federation:
    """The same without any defense: each sends what its protocol gives, and is seen alone."""
    step = undefended_of(federation.step)
    assert isinstance(step, AbstractProtocol | Defended)
    return replace(federation, step=step, privacy=None, secure=1)


def noiseless(federation: Federation) -> Federation | None:
    """The same without its noise, clipped and summed as it is; None where it has none.

    What an attack fails by may be the clip, or the sum, and then its failure says nothing of the noise.
    """
    step, privacy = noiseless_of(federation.step), federation.privacy
    quiet = privacy if privacy is None else replace(privacy, noise_multiplier=0.0)
    if step is None and quiet == privacy:
        return None
    assert isinstance(step, AbstractProtocol | Defended | None)
    return replace(federation, step=federation.step if step is None else step, privacy=quiet)


def world_of(cell: FederatedCell) -> str:
    """Tells apart what is played: cells that differ in the attack alone, or in which attribute of a speaker is asked,
    attack the same rounds.
    """
    # shuffled people differ in what is known of them, which a store compares
    kind = cell.attribute if cell.attribute in (EMOTION, SPEAKER) or cell.people.shuffled else "speakers"
    return repr((cell.people, cell.target, cell.federation, kind, cell.seed))


def written(federation: Federation) -> str:
    """A federation that nobody has written, such as a control, as one would write it: without what goes without saying.

    >>> from leakscope.mechanisms.protocols.fedsgd import FedSGD
    >>> written(Federation(FedSGD(), rounds=40, weighted=False, privacy=UserLevel(0.5, 0.0), evaluate_every=40))
    'Federation(FedSGD(), rounds=40, weighted=False, privacy=UserLevel(0.5, 0.0))'
    """
    parts = [repr(federation.step)]
    for one in dataclasses.fields(federation)[1:]:
        value = getattr(federation, one.name)
        # What is looked at on the way changes nothing of what is sent.
        if value != one.default and one.name != "evaluate_every":
            private = isinstance(value, UserLevel) and value == UserLevel(value.clip, value.noise_multiplier)
            said = f"UserLevel({value.clip}, {value.noise_multiplier})" if private else repr(value)
            parts.append(f"{one.name}={said}")
    return f"Federation({', '.join(parts)})"
