"""An attack on a whole federation: played with private clients, each of whom is attacked by all that it sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Attack
from leakscope.attacks.preparing import AbstractLearner, Setting
from leakscope.core.arguments import instance
from leakscope.core.attempt import Outcome
from leakscope.core.claim import Attribute, Scale
from leakscope.core.domain import AbstractDomain
from leakscope.core.effort import Budget, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.stores import AbstractStore, RoundsInMemory
from leakscope.mechanisms.population import Population
from leakscope.numerics.rng import Key
from leakscope.scoring.persons import People
from leakscope.targets.recipes.architecture import AbstractArchitecture


@final
@dataclass(frozen=True)
class Game:
    """What everybody knows: which model on which data, how it is trained, how it is attacked, and what is asked.

    architecture, domain, classes: of the model. federation: how the private clients train it. attack: on what one
    client sent; a learner is prepared once, before anything private is played. attribute: what it claims of each.
    owner: the annotation of the population that says whose each client is, since all clients of one person are right or
    wrong together; None where each is another's.
    Raises `BadInput` on what is no attack.
    """

    architecture: AbstractArchitecture
    domain: AbstractDomain
    classes: int
    federation: Federation
    attack: Attack[Attribute]
    attribute: str = "sex"
    owner: str | None = "speaker"

    def __post_init__(self) -> None:
        instance("architecture", self.architecture, AbstractArchitecture, "write EmotionNet()")
        instance("federation", self.federation, Federation, "write Federation(FedSGD(), rounds=60)")
        instance("attack", self.attack, AbstractAttack, "write ShadowUpdates(pool(...), federation)")


@final
@dataclass(frozen=True, eq=False)
class Claims:
    """people: of every client of whom something was claimed, truth, scores and whose it is. names: of these clients.

    silent: a sentence for each client who sent something and of whom nothing was claimed. Whoever never took part has
    sent nothing, and is in neither.
    """

    people: People
    names: tuple[str, ...]
    silent: tuple[str, ...] = ()


def played(
    game: Game, private: Population, *, key: Key, store: AbstractStore | None = None, watch: Watch = unwatched
) -> Claims:
    """Play the federation of the private clients, then attack each by all of its rounds.

    store: where the rounds lie, such as `RoundFiles(folder)`, which keeps memory flat; in memory where none is given.
    Raises `UnknownName` where the population does not tell the attribute or the owner. Raises `BadInput` on secure > 1;
    where a pool of the attack has other categories of the attribute, or one of the private people; where what is
    claimed is another attribute or has no log-probabilities, where nothing is claimed of anybody, and as
    `Federation.run`.
    """
    truth = private.annotation(game.attribute)
    persons = range(len(private)) if game.owner is None else private.annotation(game.owner).values
    if game.federation.secure > 1:
        # not by whether names are found: a client may be called as a mean is
        raise BadInput(
            f"with secure={game.federation.secure} only means of clients are seen, whose attribute is nobody's; attack "
            "them by themselves, or audit secure=1"
        )
    for pool in _pools(game.attack):
        _check_pool(game, pool, private)
    # First, and of the setting alone: what is learned cannot depend on a private update.
    attack = game.attack
    if isinstance(attack, AbstractLearner):
        setting = Setting(game.architecture, game.domain, game.classes, _sent_by_all(game.federation, len(private)))
        attack = attack.taught(attack.prepare(setting, key=key.child("prepare"), clock=Budget().start(), watch=watch))
    target = game.architecture.build(game.domain, game.classes, key=key.child("weights"))
    rounds = RoundsInMemory() if store is None else store
    game.federation.run(target, private, key=key.child("private"), into=rounds, watch=watch)
    sent = {name for number in rounds.numbers() for name in rounds.senders(number)}
    values, whose, scores, names, silent = [], [], [], [], []
    for name, size, value, person in zip(private.names, private.sizes, truth.values, persons, strict=True):
        if name not in sent:
            continue
        mechanism = game.federation.sends(size, len(private))
        seen = Observation(target, rounds.rounds_of(name), mechanism)
        attempt = attack.run(seen, key=key.child("attack", name))
        if attempt.outcome is not Outcome.CLAIMED or attempt.claim is None:
            silent.append(f"{name}: {attempt.sentence}")
            continue
        scores.append(_scores(attempt.claim, game.attribute, len(truth.categories)))
        values.append(value)
        whose.append(person)
        names.append(name)
    if not values:
        raise BadInput(f"nothing was claimed of any client; the first: {silent[0] if silent else 'nobody took part'}")
    return Claims(People(values, np.stack(scores), whose), tuple(names), tuple(silent))


def _sent_by_all(federation: Federation, clients: int) -> AbstractProtocol | Defended:
    """What each client does, its share of the noise included, which the adversary knows and learns with."""
    step, privacy = federation.step, federation.privacy
    return step if privacy is None else privacy.on(step, federation.present(clients))


def _pools(attack: object) -> Iterator[Pool]:
    """What this attack has learned of or will learn of, and those that it is made of."""
    parts: Iterable[object] = attack if isinstance(attack, tuple) else ()
    # an attack of somebody else's need not be a dataclass
    if dataclasses.is_dataclass(attack) and not isinstance(attack, type):
        parts = [getattr(attack, one.name) for one in dataclasses.fields(attack)]
    for one in parts:
        if isinstance(one, Pool):
            yield one
        elif isinstance(one, AbstractAttack | tuple):
            yield from _pools(one)


def _check_pool(game: Game, pool: Pool, private: Population) -> None:
    """Raises `BadInput` where places of categories mean something else, and where a private person is public too."""
    known, truth = {one.name: one for one in pool.annotations}, private.annotation(game.attribute)
    public = known.get(game.attribute)
    # claims and truth are compared by place: in another order who is always right would be wrong of everybody
    if public is not None and public.categories != truth.categories:
        raise BadInput(
            f"the private people's {game.attribute!r} is one of {truth.categories}, the public ones' of "
            f"{public.categories}; annotate both with the same categories in one order"
        )
    both: set[str] = set()
    if game.owner is not None and game.owner in known:
        own, other = private.annotation(game.owner), known[game.owner]
        both = {own.categories[at] for at in own.values} & {other.categories[at] for at in other.values}
    rows = {_content(row) for row in pool.batch.inputs}
    whole = [all(_content(row) in rows for row in batch.inputs) for batch in private.clients]
    same = [name for name, known_by_heart in zip(private.names, whole, strict=True) if known_by_heart]
    # who was learned of is recognized, and says nothing of what updates say of a stranger
    if both or same:
        what = min(both) if both else f"every example of {same[0]}"
        raise BadInput(
            f"{what} is public and private; attack people of whom nothing was learned, and where two people of "
            "different corpora have one name, name them apart, as Combined((Ravdess(...),)) does"
        )


def _content(row: Tensor) -> bytes:
    # by bytes: NumPy has no bfloat16
    return row.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _scores(claim: Attribute, attribute: str, categories: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(G,) log-probabilities of the one client."""
    fine = claim.name == attribute and claim.scores is not None and claim.scale is Scale.LOG_PROBABILITY
    if not fine or claim.scores is None or tuple(claim.scores.shape) != (1, categories):
        raise BadInput(
            f"expected one row of log-probabilities of {categories} categories of {attribute!r}, got a claim about "
            f"{claim.name!r}; use an attack that claims the attribute of a client, such as ShadowUpdates"
        )
    return np.asarray(claim.scores[0].double().numpy())
