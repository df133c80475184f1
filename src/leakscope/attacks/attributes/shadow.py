"""What kind of person sends these updates: learned from federations of public persons, played by the adversary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.attributes.decide import AbstractDecision, Logistic, together
from leakscope.attacks.attributes.experts import Study, Updates, judged, learned, tuned
from leakscope.attacks.attributes.signals import AbstractSignal, ClassInputs, Dense, dense_layers, signal
from leakscope.attacks.preparing import AbstractLearner, Learned, Setting
from leakscope.core.arguments import count, instance
from leakscope.core.asking import gradient_of
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Attribute, Scale
from leakscope.core.effort import Clock, Progress, State, Watch
from leakscope.core.errors import BadInput, LeakscopeError
from leakscope.core.mechanism import AbstractMechanism, AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.federated.federation import MOST_ROUNDS, Federation, Sampling
from leakscope.mechanisms.federated.server import BESIDE
from leakscope.mechanisms.federated.stores import AbstractSink, Cast, Sent
from leakscope.mechanisms.federated.user_level import NoiseBy
from leakscope.mechanisms.population import Population
from leakscope.numerics.rng import Key

HALF = 2**16
"""Numbers of a signal beyond which it is kept in half precision until it is learned from: a thousand updates of a layer
of 256 x 988 are half a gigabyte then."""
MOST_SHADOWS, MOST_FOLDS = 10_000, 1_000
"""Beyond them a number is a slip of the pen, and would run for years."""


def counted(shadows: object, folds: object, leaked: object) -> tuple[int, int, int]:
    """The three counts of `ShadowUpdates`, checked. Raises `BadInput`."""
    told = count("leaked", leaked, low=0, high=MOST_ROUNDS)
    played, parts = count("shadows", shadows, high=MOST_SHADOWS), count("folds", folds, low=0, high=MOST_FOLDS)
    if parts == 1:
        raise BadInput("one fold would leave everybody out; give at least 2, or 0 for none")
    return played, parts, told


@final
@dataclass(frozen=True)
class ShadowUpdates(AbstractLearner[Attribute]):
    """log P(attribute | updates) by what the updates of public persons say, in federations that the adversary plays.

    pool: public examples whose annotations tell `owner` and `attribute`; each owner is a client, and has one attribute.
    client: the annotation that tells the clients where an owner is several of them, as who is divided in ten; None
    where each is one.
    federation: how it is played; its `step` is exchanged for the mechanism that is attacked, defenses and noise
    included, so that what is learned is of updates as they are sent: an adaptive attack. signals: what is read of each
    update. decision: how a category is learned of a signal, normalized by its mean and deviation (+ 1e-5) over shadow
    updates. shadows: federations, each from first weights of its own. folds: parts of the public persons who are left
    out in turn, to see how often the attack is right about somebody new, and how much updates of one person repeat
    each other; 0 for neither, which then counts all updates of a person as one. leaked: so many of the global models
    that are seen with the updates, evenly over the rounds, from each of which every public client sends once more: what
    was learned is tuned to these updates (`AbstractDecision.tuned`), anew for each client that is attacked. 0 for none.
    Several signals are joined by `experts.judged`, several updates of the observed client by `decide.together`.
    Feng et al. 2021 (arXiv:2112.13416), section 3.3, whose network on the update of a layer is `UpdateNetwork` on
    `RawUpdate()`, and 2022 (arXiv:2204.02500), who tune it to leaked models; `ClassInputs` with logistic regression is
    this project's.
    Raises `BadInput` on no signals, on shadows < 1, on a single fold, on leaked < 0, and on leaked models under
    secure aggregation.
    """

    pool: Pool
    federation: Federation
    attribute: str = "sex"
    owner: str = "speaker"
    signals: tuple[AbstractSignal, ...] = (ClassInputs(),)
    decision: AbstractDecision = field(default_factory=Logistic)
    shadows: int = 5
    folds: int = 4
    leaked: int = 0
    client: str | None = None

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(EmotionFeatures(SpokenEmotions()))")
        instance("federation", self.federation, Federation, "write Federation(FedSGD(), rounds=60)")
        instance("decision", self.decision, AbstractDecision, "write Logistic()")
        for name in ("attribute", "owner", *(() if self.client is None else ("client",))):
            instance(name, getattr(self, name), str, "name an annotation of the pool")
        shadows, folds, leaked = counted(self.shadows, self.folds, self.leaked)
        object.__setattr__(self, "leaked", leaked)
        if self.leaked and self.federation.secure > 1:
            raise BadInput("leaked models tune what is known of single clients, of whom secure aggregation shows none")
        object.__setattr__(self, "signals", tuple(self.signals))
        if not self.signals:
            raise BadInput("expected at least one signal, such as ClassInputs()")
        for one in self.signals:
            instance("each signal", one, AbstractSignal, "write ClassInputs()")
        object.__setattr__(self, "shadows", shadows)
        object.__setattr__(self, "folds", folds)

    @property
    def citation(self) -> str:
        """Feng et al. 2021."""
        return citations.EMOTION

    def taught(self, learned: Learned) -> AttributeOfUpdates:
        """The attack with what was learned."""
        return AttributeOfUpdates(self, learned)

    def _prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch) -> State:
        try:
            people, federation = self.people(), self.played_by(setting.mechanism)
            people.annotation(self.attribute)
            played = self._shadows(setting, people, federation, key=key, clock=clock, watch=watch)
            updates = self.updates(played, people)
            study = Study(self.decision, self.folds, key.child("study"), clock, watch)
            return learned(updates, study) | {"categories": list(people.annotation(self.attribute).categories)}
        except LeakscopeError as error:
            # an audit that plans this attack beside others gets its reason with each trial
            return {"unfit": str(error)}

    def people(self) -> Population:
        """The public clients. Raises `BadInput` and `UnknownName` as `Population.of_owners`."""
        return Population.of_owners(self.pool.batch, self.pool.annotations, owner=self.client or self.owner)

    def updates(self, played: Played, people: Population) -> Updates:
        """What was read, with whose it is: updates of all clients of one owner are one person's."""
        known, owners = people.annotation(self.attribute), torch.tensor(people.annotation(self.owner).values)
        members = torch.tensor(known.values)[played.clients]
        return Updates(played.vectors, played.shapes, members, owners[played.clients], len(known.categories))

    def played_by(self, mechanism: AbstractMechanism) -> Federation:
        """The federation of clients who do this. Raises `BadInput` where no client of a federation could."""
        if not isinstance(mechanism, AbstractProtocol | Defended):
            raise BadInput(f"{mechanism!r} is nothing that clients of a federation send round after round")
        # clip and share of the noise are in what is attacked: a second time, shadows would be shorter and noisier than
        # what they are to explain; what the server adds is in nothing that a client sends
        privacy = self.federation.privacy
        kept = privacy if privacy is not None and privacy.by is NoiseBy.SERVER else None
        return dataclasses.replace(self.federation, step=mechanism, privacy=kept)

    def _shadows(
        self, setting: Setting, people: Population, federation: Federation, *, key: Key, clock: Clock, watch: Watch
    ) -> Played:
        state = clock.saved() or {"done": 0, "vectors": [], "clients": []}
        vectors, clients = list(state["vectors"]), list(state["clients"])
        layers: tuple[Dense, ...] = ()
        for turn in range(self.shadows):
            target = setting.architecture.build(setting.domain, setting.classes, key=key.child("weights", turn))
            layers = dense_layers(target)
            if turn < int(state["done"]):
                continue
            sink = Reading(self.signals, federation, people, layers)
            federation.run(target, people, key=key.child("shadow", turn), into=sink)
            # By Poisson sampling nobody may take part.
            if sink.persons:
                vectors.append([torch.stack(own) for own in sink.vectors])
            clients += sink.persons
            clock.keep(_kept(turn + 1, vectors, clients))
            watch(Progress((turn + 1) / (self.shadows + 1), 0.0, f"played {turn + 1} of {self.shadows} federations"))
        if not vectors:
            raise BadInput(
                f"nobody took part in {self.shadows} shadow federations of {len(people)} public clients; raise rounds, "
                "fraction or shadows"
            )
        joined = tuple(torch.cat([turn[place] for turn in vectors]) for place in range(len(self.signals)))
        return Played(joined, tuple(layers[one.layer - 1].shape for one in self.signals), torch.tensor(clients))


@final
@dataclass(frozen=True, eq=False)
class Played:
    """What the signals read of all shadow federations: (N, n_k) for each, the shape of its layer, and whose (N,)."""

    vectors: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]
    clients: Tensor


@final
@dataclass(frozen=True, eq=False)
class AttributeOfUpdates(AbstractAttack[tuple[Tensor, ...], Attribute]):
    """What `ShadowUpdates` teaches: the signals and what was learned of them. Made by `ShadowUpdates.taught`."""

    learner: ShadowUpdates
    learned: Learned

    several: ClassVar[bool] = True

    def __repr__(self) -> str:
        return repr(self.learner)

    @property
    def citation(self) -> str:
        """The learner's."""
        return self.learner.citation

    def _read(self, seen: Observation) -> tuple[Tensor, ...] | Refusal:
        state = self.learned.state
        if "unfit" in state:
            return Refusal(str(state["unfit"]))
        layers, own = dense_layers(seen.target), seen.target.parameters()
        rows = []
        for one in seen.rounds:
            # Of the weights that the client started from: a later round is at others.
            weights = one.weights or own
            update = gradient_of(seen.step, one.release, weights).by_name
            rows.append([signal(each, update, weights, layers).float() for each in self.learner.signals])
        return tuple(torch.stack([row[place] for row in rows]) for place in range(len(self.learner.signals)))

    def _attempt(
        self, seen: Observation, read: tuple[Tensor, ...], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Attribute]:
        state, name = self.learned.state, self.learner.attribute
        if self.learner.leaked:
            state = self._tuned(seen, key=key, clock=clock, watch=watch)
        scores = together(judged(self.learner.decision, state, read), float(state["repeats"]))
        best = int(scores.argmax())
        claim = Attribute(name, torch.tensor([best]), scores=scores[None], scale=Scale.LOG_PROBABILITY)
        count = len(seen.rounds)
        said = f"{name!r} by {count} update{'s' if count > 1 else ''}: {state['categories'][best]!r}"
        if "of" in state:
            said += f"; learned of {state['of']} public persons, of whom {state['right']} are named right when left out"
        if self.learner.leaked:
            said += f"; tuned to {min(self.learner.leaked, count)} of the global models"
        return Attempt(repr(self), Outcome.CLAIMED, said, claim)

    def _tuned(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch) -> State:
        """What was learned, brought further by what public clients send from the models of these rounds."""
        learner, layers = self.learner, dense_layers(seen.target)
        people = learner.people()
        # everybody sends: who takes part in the rounds that are seen says nothing of public people
        federation = dataclasses.replace(
            learner.played_by(seen.mechanism), fraction=1.0, sampling=Sampling.FIXED, secure=1
        )
        sink = Reading(learner.signals, federation, people, layers)
        chosen = torch.linspace(0, len(seen.rounds) - 1, min(learner.leaked, len(seen.rounds))).round().long()
        for turn, place in enumerate(chosen.tolist()):
            weights = seen.rounds[place].weights or seen.target.parameters()
            sent = federation.play(seen.target.at(weights), people, turn, key=key.child("leaked"))
            sink.keep(Sent(turn, weights, sent))
        shapes = tuple(layers[one.layer - 1].shape for one in learner.signals)
        played = Played(tuple(torch.stack(own) for own in sink.vectors), shapes, torch.tensor(sink.persons))
        study = Study(learner.decision, 0, key.child("study"), clock, watch)
        return tuned(self.learned.state, learner.updates(played, people), study)


@final
class Reading(AbstractSink):
    """Reads each update as it comes and forgets it: a list of vectors for each signal, and whose each update is."""

    def __init__(
        self, signals: tuple[AbstractSignal, ...], federation: Federation, people: Population, layers: tuple[Dense, ...]
    ) -> None:
        self.signals, self.people, self.layers = signals, people, layers
        self.steps = [federation.sends(size, len(people)) for size in people.sizes]
        self.vectors: list[list[Tensor]] = [[] for _ in signals]
        self.persons: list[int] = []

    def begin(self, cast: Cast) -> None:
        """From the start."""
        del cast

    def keep(self, sent: Sent) -> None:
        """A mean of several clients is an example of each of them: what it says of one is learned, however little.

        Raises `BadInput` where it is of clients who do different things, or of something that is no gradient.
        """
        for name, release in sent.releases.items():
            members = [name] if name in self.people.names else name.split(BESIDE)
            places = [self.people.names.index(one) for one in members]
            step = self.steps[places[0]]
            if any(self.steps[place] != step for place in places):
                raise BadInput(f"the mean of {name} is of different numbers of steps, and cannot be read as a gradient")
            if not isinstance(step, AbstractStep):
                raise BadInput(f"what {step!r} releases cannot be read as a gradient")
            update = gradient_of(step, release, sent.weights).by_name
            for own, one in zip(self.vectors, self.signals, strict=True):
                found = signal(one, update, sent.weights, self.layers)
                own += [found.half() if len(found) > HALF else found.float()] * len(places)
            self.persons += places


def _kept(done: int, vectors: list[list[Tensor]], clients: list[int]) -> Callable[[], State]:
    return lambda: {"done": done, "vectors": vectors, "clients": clients}
