"""An attack on a whole federation: played with private clients, each of whom is attacked by all that it sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.attributes.shadow import AttributeOfUpdates, ShadowUpdates
from leakscope.attacks.preparing import AbstractLearner, Setting
from leakscope.core.arguments import instance
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Attribute, Scale
from leakscope.core.domain import AbstractDomain
from leakscope.core.effort import Budget, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.rounds import Round
from leakscope.core.target import Target
from leakscope.mechanisms.compose import AbstractProtocol, Defended
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.server import BESIDE
from leakscope.mechanisms.federated.stores import AbstractStore, RoundsInMemory
from leakscope.mechanisms.population import Population
from leakscope.numerics.rng import Key
from leakscope.scoring.persons import People
from leakscope.targets.recipes.architecture import AbstractArchitecture

DRAWS = 10
"""Draws of some of a client's updates, as published (Feng et al. 2022)."""
Scores = np.ndarray[tuple[int], np.dtype[np.float64]]


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
    Under secure aggregation a client is attacked by the means that it is in, and only by an attack that has learned of
    such means (`ShadowUpdates` with a federation of the same secure). `shown` is the same in parts.
    Raises `UnknownName` where the population does not tell the attribute or the owner. Raises `BadInput` where the
    attack has learned of another kind of sums; where a pool of it has other categories of the attribute, or one of the
    private people (where people are to be recognized, one of their examples); where what is claimed is another
    attribute or has no log-probabilities, where nothing is claimed of anybody, and as `Federation.run`.
    """
    check(game, private)
    # First, and of the setting alone: what is learned cannot depend on a private update.
    attack = game.attack
    if isinstance(attack, AbstractLearner):
        prepared = attack.prepare(
            setting(game, len(private)), key=key.child("prepare"), clock=Budget().start(), watch=watch
        )
        attack = attack.taught(prepared)
    target = game.architecture.build(game.domain, game.classes, key=key.child("weights"))
    rounds = RoundsInMemory() if store is None else store
    game.federation.run(target, private, key=key.child("private"), into=rounds, watch=watch)
    found = shown(dataclasses.replace(game, attack=attack), private, Seen(target, rounds), key=key.child("attack"))[0]
    if not found.names:
        raise BadInput(
            f"nothing was claimed of any client; the first: {found.silent[0] if found.silent else 'nobody took part'}"
        )
    return Claims(People(found.truth, np.stack(found.scores), found.persons), found.names, found.silent)


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """A federation that was played: its first model, and every round."""

    target: Target
    rounds: AbstractStore


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """What was claimed, a row for each claim: the true category, log-probabilities (G,), whose client, which client.

    silent: a sentence for each client of whom nothing was claimed.
    """

    truth: tuple[int, ...]
    scores: tuple[Scores, ...]
    persons: tuple[int, ...]
    names: tuple[str, ...]
    silent: tuple[str, ...] = ()


def shown(
    game: Game, private: Population, seen: Seen, *, key: Key, updates: Sequence[int] = (0,), draws: int = DRAWS
) -> tuple[Rows, ...]:
    """Attack each client by what it sent, once for each number in `updates`: by so many of its updates, 0 for all.

    Fewer are drawn `draws` times; a client that sent no more than so many is attacked once, by all. What is drawn
    follows from key, client and number, and not from the attack. Raises as `played`, but for that nothing may be
    claimed.
    """
    truth = private.annotation(game.attribute)
    persons = tuple(range(len(private))) if game.owner is None else private.annotation(game.owner).values
    sent = _sent(seen.rounds, secure=game.federation.secure > 1)
    rows: list[list[tuple[int, Scores, int, str]]] = [[] for _ in updates]
    silent: list[list[str]] = [[] for _ in updates]
    for name, size, value, person in zip(private.names, private.sizes, truth.values, persons, strict=True):
        if name not in sent:
            continue
        whole = Observation(seen.target, _rounds(seen.rounds, sent[name]), game.federation.sends(size, len(private)))
        some = _parts_of(game.attack, whole)
        for place, number in enumerate(updates):
            for turn, chosen in enumerate(_draws(len(whole.rounds), number, draws, key.child("draws", name, number))):
                attempt = some(chosen, key.child(name) if turn == 0 else key.child(name, turn))
                if attempt.outcome is not Outcome.CLAIMED or attempt.claim is None:
                    silent[place].append(f"{name}: {attempt.sentence}")
                    break
                scores = _scores(attempt.claim, game.attribute, len(truth.categories))
                rows[place].append((value, scores, person, name))
    made = []
    for own, others in zip(rows, silent, strict=True):
        values, scores_of, whose, names = zip(*own, strict=True) if own else ((), (), (), ())
        made.append(Rows(values, scores_of, whose, names, tuple(others)))
    return tuple(made)


Some = Callable[[Sequence[int], Key], Attempt[Attribute]]
"""An attack on some rounds of an observation, by their places."""


def _parts_of(attack: Attack[Attribute], whole: Observation) -> Some:
    """Of `AttributeOfUpdates` each update is read once, however often it is drawn; others look at each draw anew."""

    def observed(chosen: Sequence[int]) -> Observation:
        return Observation(whole.target, tuple(whole.rounds[place] for place in chosen), whole.mechanism)

    found = attack.ready(whole) if isinstance(attack, AttributeOfUpdates) else None
    if not isinstance(found, Ready):
        return lambda chosen, key: attack.run(observed(chosen), key=key)

    def read(chosen: Sequence[int], key: Key) -> Attempt[Attribute]:
        # a row of each signal for each round, in their order
        rows = tuple(part[list(chosen)] for part in found.read)
        return Ready(found.attack, observed(chosen), rows).run(key=key, clock=Budget().start())

    return read


def check(game: Game, private: Population) -> None:
    """Raises as `played` where what is claimed could not be compared, or is known beforehand."""
    private.annotation(game.attribute)
    if game.owner is not None:
        private.annotation(game.owner)
    secure, learner = game.federation.secure, game.attack
    if isinstance(learner, AttributeOfUpdates):
        learner = learner.learner
    learned = learner.federation.secure if isinstance(learner, ShadowUpdates) else 1
    # not by whether names are found: a client may be called as a mean is
    if secure != learned:
        raise BadInput(
            f"with secure={secure} only means of clients are seen, and the attack has learned of secure={learned}; "
            "give ShadowUpdates a federation with the same secure"
        )
    for pool in _pools(game.attack):
        _check_pool(game, pool, private)


def setting(game: Game, clients: int) -> Setting:
    """What the adversary learns for: the model, and what each of so many clients does, its share of the noise too."""
    return Setting(game.architecture, game.domain, game.classes, _sent_by_all(game.federation, clients))


def _sent(rounds: AbstractStore, *, secure: bool) -> dict[str, list[tuple[int, str]]]:
    """By client: in which rounds there is something of it, and under which name."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number in rounds.numbers():
        for sender in rounds.senders(number):
            for name in sender.split(BESIDE) if secure else (sender,):
                found.setdefault(name, []).append((number, sender))
    return found


def _rounds(store: AbstractStore, sent: Sequence[tuple[int, str]]) -> list[Round]:
    found = []
    for number, sender in sent:
        one = store.load(number, (sender,))
        found.append(Round(number, one.releases[sender], one.weights))
    return found


def _draws(count: int, updates: int, draws: int, key: Key) -> list[list[int]]:
    """Places of the rounds of each draw, rising.

    >>> _draws(3, 0, 10, Key(0)), _draws(3, 4, 10, Key(0)), len(_draws(3, 1, 10, Key(0)))
    ([[0, 1, 2]], [[0, 1, 2]], 10)
    """
    if updates == 0 or updates >= count:
        return [list(range(count))]
    return [
        sorted(torch.randperm(count, generator=key.child(turn).generator())[:updates].tolist()) for turn in range(draws)
    ]


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
    # who is to be recognized among known persons has to be known, by other examples
    recognized = game.attribute == game.owner
    if game.owner is not None and game.owner in known and not recognized:
        own, other = private.annotation(game.owner), known[game.owner]
        both = {own.categories[at] for at in own.values} & {other.categories[at] for at in other.values}
    rows = {_content(row) for row in pool.batch.inputs}
    quantified = any if recognized else all
    whole = [quantified(_content(row) in rows for row in batch.inputs) for batch in private.clients]
    same = [name for name, known_by_heart in zip(private.names, whole, strict=True) if known_by_heart]
    # who was learned of is recognized, and says nothing of what updates say of a stranger
    if both or same:
        what = min(both) if both else f"{'an' if recognized else 'every'} example of {same[0]}"
        raise BadInput(
            f"{what} is public and private; attack people of whom nothing was learned, and where two people of "
            "different corpora have one name, name them apart, as Combined((Ravdess(...),)) does"
        )


def _content(row: Tensor) -> bytes:
    # by bytes: NumPy has no bfloat16
    return row.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _scores(claim: Attribute, attribute: str, categories: int) -> Scores:
    """(G,) log-probabilities of the one client."""
    fine = claim.name == attribute and claim.scores is not None and claim.scale is Scale.LOG_PROBABILITY
    if not fine or claim.scores is None or tuple(claim.scores.shape) != (1, categories):
        raise BadInput(
            f"expected one row of log-probabilities of {categories} categories of {attribute!r}, got a claim about "
            f"{claim.name!r}; use an attack that claims the attribute of a client, such as ShadowUpdates"
        )
    return np.asarray(claim.scores[0].double().numpy())
