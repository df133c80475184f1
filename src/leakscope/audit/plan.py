"""What is to be found out: scenes, mechanisms, attacks and trials, and beside each cell its controls, planned here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from leakscope.attacks.attack import AbstractAttack
from leakscope.audit.blind import BlindGuess
from leakscope.audit.measures import SMALLEST
from leakscope.audit.resources import Resources
from leakscope.audit.telling import MAKERS
from leakscope.core.asking import noiseless_of, undefended_of
from leakscope.core.effort import Budget
from leakscope.core.errors import BadPlan
from leakscope.core.facts import Fact, Gallery, Suspects, TrueLabels
from leakscope.core.mechanism import AbstractMechanism
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.speech import Frames
from leakscope.domains.text import Text
from leakscope.ledger.identity import identity
from leakscope.ledger.record import CellSpec, Role
from leakscope.mechanisms.silencing import unsilenced
from leakscope.scoring.metrics.features import AbstractFeatureMetric
from leakscope.scoring.metrics.guesses import LabelAccuracy
from leakscope.scoring.metrics.metric import (
    AbstractLabelMetric,
    AbstractMetric,
    AbstractRankMetric,
    AbstractSequenceMetric,
    AbstractTokenMetric,
    AbstractTranscriptMetric,
)
from leakscope.scoring.metrics.pieces import PieceError
from leakscope.scoring.metrics.ranks import ReciprocalRank, TopFive, TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate, FrameError
from leakscope.scoring.metrics.tokens import TokenError
from leakscope.scoring.metrics.vision import PSNR
from leakscope.targets.recipes.architecture import AbstractArchitecture

Attack = AbstractAttack[Any, Any]

VERDICT_METRICS: tuple[AbstractMetric, ...] = (PSNR(), LabelAccuracy())
"""What verdicts are read from; scored in every audit."""
SPEECH_METRICS: tuple[AbstractMetric, ...] = (FrameError(), CharacterErrorRate(), PieceError())
"""What verdicts on speech are read from; scored in every scene of speech, where those above mean nothing."""
TEXT_KINDS = (AbstractTokenMetric, AbstractLabelMetric, AbstractFeatureMetric)
"""The families of metrics that can judge a claim about texts."""
TEXT_METRICS: tuple[AbstractMetric, ...] = (TokenError(), LabelAccuracy())
"""What verdicts on texts are read from; scored in every scene of text."""
PERSON_METRICS: tuple[AbstractMetric, ...] = (TopOne(), TopFive(), ReciprocalRank())
"""What verdicts on persons are read from, the first of them; scored where a `Gallery` is told."""


@final
@dataclass(frozen=True)
class Scene:
    """Whose data, and which model sees them.

    batch_sizes, mechanisms, attacks: this scene's own instead of the plan's; empty means the plan's.
    told: likewise, where None means the plan's, since telling nothing is a choice of its own.
    """

    name: str
    source: AbstractSource
    architecture: AbstractArchitecture
    batch_sizes: tuple[int, ...] = ()
    mechanisms: tuple[AbstractMechanism, ...] = ()
    attacks: tuple[Attack, ...] = ()
    told: tuple[type[Fact], ...] | None = None


@final
@dataclass(frozen=True)
class Cell:
    """One attempt: a scene, a mechanism, an attack, a trial. The unit of resuming and of sharding.

    resources: what it may use of the machine; no part of `spec`, hence of its identity. called: the attack as the plan
    calls it, for whoever watches; empty for its class.
    """

    role: Role
    scene: Scene
    mechanism: AbstractMechanism
    attack: Attack
    batch_size: int
    trial: int
    seed: int
    told: tuple[type[Fact], ...]
    metrics: tuple[AbstractMetric, ...]
    budget: Budget
    resources: Resources = field(default_factory=Resources)
    called: str = ""

    @property
    def spec(self) -> CellSpec:
        """What the ledger keeps: the reprs, which rebuild the objects."""
        return CellSpec(
            role=self.role,
            target=repr(self.scene.architecture),
            dataset=repr(self.scene.source),
            mechanism=repr(self.mechanism),
            attack=repr(self.attack),
            batch_size=self.batch_size,
            told=tuple(kind.__name__ for kind in self.told),
            metrics=tuple(repr(metric) for metric in self.metrics),
            trial=self.trial,
            seed=self.seed,
            seconds=self.budget.seconds,
            evaluations=self.budget.evaluations,
        )

    @property
    def identity(self) -> str:
        """The hash of what changes the answer."""
        return identity(self.spec)


@final
@dataclass(frozen=True)
class Group:
    """All trials of one scene, batch size, mechanism and attack, with their controls: one row of the report."""

    scene: Scene
    mechanism: AbstractMechanism
    attack: Attack
    batch_size: int
    audited: tuple[Cell, ...]
    undefended: tuple[Cell, ...]
    blind: tuple[Cell, ...]
    replaced: tuple[Cell, ...] = ()
    remaining: tuple[Cell, ...] = ()
    undefended_replaced: tuple[Cell, ...] = ()
    noiseless: tuple[Cell, ...] = ()

    def sides(self, role: Role) -> tuple[tuple[Cell, ...], ...]:
        """The cells that play this role, each side with one cell for each trial, in order, or none."""
        return {
            Role.AUDITED: (self.audited,),
            Role.UNDEFENDED: (self.undefended,),
            Role.BLIND: (self.blind,),
            # What the class tells undefended is not what it tells behind a defense: each side has its own.
            Role.REPLACED: (self.replaced, self.undefended_replaced),
            Role.REMAINING: (self.remaining,),
            Role.NOISELESS: (self.noiseless,),
        }[role]

    def cells(self, role: Role) -> tuple[Cell, ...]:
        """The trials that play this role."""
        return tuple(cell for side in self.sides(role) for cell in side)

    @property
    def own_control(self) -> bool:
        """Whether the mechanism is undefended, so that the audited cells are the positive control themselves."""
        return self.mechanism == self.mechanism.undefended

    @property
    def silent(self) -> bool:
        """Whether its noise is of size 0, so that the audited cells are the control without noise themselves."""
        return self.mechanism == noiseless_of(self.mechanism)

    @property
    def unsilenced(self) -> str:
        """Why it has no control without the noise that it declares; empty where it has, or where it declares none."""
        return unsilenced(self.mechanism)


@final
@dataclass(frozen=True)
class Plan:
    """Scenes crossed with mechanisms, attacks, batch sizes and trials.

    told: the kinds of facts that the adversary is told. budget: of each attempt. resources: of each cell.
    trials: draws of secret and weights; at least 3 are needed for an interval.
    metrics: what is scored besides `VERDICT_METRICS`. delta: at which epsilon is given. smallest: (metric, gain) pairs,
    the smallest leak of interest where it is not the usual one (`audit.evidence.SMALLEST`), in dB or as a share.
    replaced: whether each trial is also run on a release for which its first private example was exchanged for another
    of its class: what an attack scores there, it knows of the class and not of the example (`audit.cell`).
    names: (repr, name) pairs, what a person calls an attack or a mechanism.
    Raises `BadPlan` on anything that could not be run.
    """

    title: str
    scenes: tuple[Scene, ...]
    mechanisms: tuple[AbstractMechanism, ...]
    attacks: tuple[Attack, ...]
    metrics: tuple[AbstractMetric, ...] = ()
    batch_sizes: tuple[int, ...] = (1,)
    trials: int = 8
    seed: int = 0
    told: tuple[type[Fact], ...] = ()
    budget: Budget = field(default_factory=Budget)
    resources: Resources = field(default_factory=Resources)
    delta: float = 1e-5
    smallest: tuple[tuple[str, float], ...] = ()
    replaced: bool = False
    names: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        self._check()
        given = {metric.name for metric in self.metrics}
        missing = tuple(metric for metric in VERDICT_METRICS if metric.name not in given)
        object.__setattr__(self, "metrics", (*self.metrics, *missing))

    def told_in(self, scene: Scene) -> tuple[type[Fact], ...]:
        """The kinds of facts that the adversary is told in this scene, each once, in the order of their names."""
        kinds = self.told if scene.told is None else scene.told
        return tuple(sorted(set(kinds), key=lambda kind: kind.__name__))

    def metrics_in(self, scene: Scene) -> tuple[AbstractMetric, ...]:
        """What is scored in this scene; of speech, only what compares frames, words or persons; of text, tokens,
        labels or features.
        """
        if isinstance(scene.source.domain, Text):
            fitting = tuple(m for m in self.metrics if isinstance(m, TEXT_KINDS))
            known = {metric.name for metric in fitting}
            return (*fitting, *(metric for metric in TEXT_METRICS if metric.name not in known))
        if not isinstance(scene.source.domain, Frames):
            asked = Suspects in self.told_in(scene) and TopOne() not in self.metrics
            return (*self.metrics, TopOne()) if asked else self.metrics
        kinds = (AbstractSequenceMetric, AbstractTranscriptMetric, AbstractRankMetric, PieceError)
        chosen = tuple(metric for metric in self.metrics if isinstance(metric, kinds))
        always = (*SPEECH_METRICS, *(PERSON_METRICS if Gallery in self.told_in(scene) else ()))
        named = {metric.name for metric in chosen}
        return (*chosen, *(metric for metric in always if metric.name not in named))

    def _check(self) -> None:
        if not self.title.strip():
            raise BadPlan("the plan needs a title")
        if not self.scenes:
            raise BadPlan("the plan needs at least one scene: a dataset and a target")
        if not 0 < self.delta < 1:
            raise BadPlan(f"expected 0 < delta < 1, got {self.delta}")
        for metric, gain in self.smallest:
            if metric not in SMALLEST:
                raise BadPlan(f"no verdict is read from {metric!r}; a smallest leak is known of {', '.join(SMALLEST)}")
            if not 0 < gain < math.inf:
                raise BadPlan(f"expected a smallest leak of interest above 0, got {gain} for {metric}")
        if self.trials < 1:
            raise BadPlan(f"expected trials >= 1, got {self.trials}")
        if self.seed < 0:
            raise BadPlan(f"expected seed >= 0, got {self.seed}")
        for scene in self.scenes:
            self._check_scene(scene)
        names = [scene.name for scene in self.scenes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadPlan(f"scenes need different names; {', '.join(twice)} was given more than once")

    def _check_scene(self, scene: Scene) -> None:
        for what, own, common in (
            ("mechanism", scene.mechanisms, self.mechanisms),
            ("attack", scene.attacks, self.attacks),
            ("batch size", scene.batch_sizes, self.batch_sizes),
        ):
            chosen: Sequence[object] = own or common
            if not chosen:
                raise BadPlan(f"the scene {scene.name!r} has no {what}; give one to the plan or to the scene")
            if len({repr(one) for one in chosen}) < len(chosen):
                raise BadPlan(f"the scene {scene.name!r} lists the same {what} twice")
        strange = [kind.__name__ for kind in self.told_in(scene) if kind not in MAKERS]
        if strange:
            raise BadPlan(f"cannot tell {', '.join(strange)}; known: {', '.join(k.__name__ for k in MAKERS)}")
        small = [size for size in scene.batch_sizes or self.batch_sizes if size < 1]
        if small:
            raise BadPlan(f"expected batch sizes >= 1, got {small[0]} in the scene {scene.name!r}")
        for size in scene.batch_sizes or self.batch_sizes:
            # Asked for every size: it says which there can be.
            if scene.source.fixed(size) is not None and TrueLabels not in self.told_in(scene):
                # else who says what everybody knows would be a leak of labels
                raise BadPlan(f'{scene.source!r} makes the labels public; tell them: told = ["TrueLabels", ...]')

    def name(self, thing: object) -> str:
        """What a person calls an attack or a mechanism: its name in `names`, else its repr."""
        return dict(self.names).get(repr(thing), repr(thing))

    def groups(self) -> tuple[Group, ...]:
        """One group for each scene, batch size, mechanism and attack, in the plan's order."""
        return tuple(
            self._group(scene, mechanism, attack, size)
            for scene in self.scenes
            for size in scene.batch_sizes or self.batch_sizes
            for mechanism in scene.mechanisms or self.mechanisms
            for attack in scene.attacks or self.attacks
        )

    def cells(self) -> tuple[Cell, ...]:
        """Every cell once, trial by trial, so that an audit that is stopped early has something of every group.

        A cell that serves several groups or roles is planned once, under its first role: audited before
        undefended before blind.
        """
        # Trials outermost, then roles in their order: `setdefault` keeps the first role that a shared cell plays.
        by_identity: dict[str, Cell] = {}
        groups = self.groups()
        for trial in range(self.trials):
            for role in Role:
                for group in groups:
                    for cell in (one for side in group.sides(role) for one in side[trial : trial + 1]):
                        by_identity.setdefault(cell.identity, cell)
        return tuple(by_identity.values())

    def _group(self, scene: Scene, mechanism: AbstractMechanism, attack: Attack, size: int) -> Group:
        def trials(role: Role, mechanism: AbstractMechanism, attack: Attack) -> tuple[Cell, ...]:
            called = dict(self.names).get(repr(attack), "")
            given = (told, scored, self.budget, self.resources, called)
            first = Cell(role, scene, mechanism, attack, size, 0, self.seed, *given)
            return tuple(dataclasses.replace(first, trial=trial) for trial in range(self.trials))

        told, scored = self.told_in(scene), self.metrics_in(scene)
        # The blind guess never reads the release: on the undefended mechanism one cell serves all mechanisms.
        open_protocol = undefended_of(mechanism)
        blind = BlindGuess(scene.source, size)
        # An attack that solves undefended and searches behind a defense is shown to work by the search alone.
        left = attack.remaining if mechanism != open_protocol else None
        # What is sampled or clipped besides may be what an attack fails by, and then it says nothing of the noise.
        silent = noiseless_of(mechanism)
        quiet = () if silent in (None, mechanism, open_protocol) else (silent,)
        return Group(
            scene=scene,
            mechanism=mechanism,
            attack=attack,
            batch_size=size,
            audited=trials(Role.AUDITED, mechanism, attack),
            undefended=trials(Role.UNDEFENDED, open_protocol, attack),
            blind=trials(Role.BLIND, open_protocol, blind),
            replaced=trials(Role.REPLACED, mechanism, attack) if self.replaced else (),
            undefended_replaced=trials(Role.REPLACED, open_protocol, attack) if self.replaced else (),
            remaining=() if left is None else trials(Role.REMAINING, open_protocol, left),
            # What noise closes has no say in it: the way that is left has to work.
            noiseless=tuple(cell for one in quiet for cell in trials(Role.NOISELESS, one, left or attack)),
        )
