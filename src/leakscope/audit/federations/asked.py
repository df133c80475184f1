"""What is asked of persons, and who is known and who is private for it.

Of an attribute such as the sex: public speakers are others than private ones. Of the emotion: a client is one speaker's
recordings in one emotion, and speakers are others too. Of the speaker: who it is among known ones, whose other
recordings are public.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from leakscope.core.annotation import Annotation
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.owners import by_owner
from leakscope.core.pool import Pool
from leakscope.datasets.emotion.emotion_features import EmotionFeatures
from leakscope.mechanisms.population import Population
from leakscope.numerics.rng import Key

SPEAKER, EMOTION, CLIENT = "speaker", "emotion", "client"
KNOWN = 3
"""Public clients of each speaker who is to be recognized, besides the private one: two are the least to learn from."""


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A question with its people. pool: what is public, its annotations telling attribute, owner and client.

    private: the clients that are attacked. owner: the annotation of the pool that makes a person. game: the annotation
    of the private clients that makes one, None where each client is one.
    """

    attribute: str
    pool: Pool
    private: Population
    owner: str
    game: str | None


@final
@dataclass(frozen=True)
class People:
    """Who is public and who is private. each: clients that a speaker is divided in. hold_out: share of each client.

    shuffled: the attribute is drawn anew over persons, in both, so that no update tells it.
    """

    public: EmotionFeatures
    private: EmotionFeatures
    each: int = 1
    hold_out: float = 0.2
    shuffled: bool = False

    def asked(self, attribute: str, *, key: Key) -> Asked:
        """The people of this question. What is drawn of a speaker follows from the key alone.

        Raises `BadInput` where there are too few recordings, `UnknownName` where nobody tells the attribute.
        """
        if attribute == SPEAKER:
            return self._speaker(key)
        sides = []
        for source in (self.public, self.private):
            known = [*source.annotations(), _emotion(source)]
            whose = _named(known, SPEAKER)
            if attribute == EMOTION:
                known.append(crossed(whose, _named(known, EMOTION), CLIENT))
            else:
                _named(known, attribute)
                known.append(_divided(whose, self.each, key.child("clients")))
            owner = CLIENT if attribute == EMOTION else SPEAKER
            if self.shuffled:
                # of the people, whichever side they are on: attacked by each other, both halves have one truth
                known = _shuffled(known, attribute, owner, key.child("shuffled", repr(source)))
            sides.append((source.load(), tuple(known)))
        (batch, annotations), (mine, own) = sides
        people = Population.of_owners(mine, own, owner=CLIENT)
        return Asked(
            attribute, Pool(batch, annotations), self._held(people, key), owner, None if attribute == EMOTION else owner
        )

    def clients(self, attribute: str) -> int:
        """How many are private, without a feature being computed. Raises as the source's `recordings`."""
        said = {(one.speaker, one.emotion if attribute == EMOTION else None) for one in self.private.recordings()}
        return len(said) * (1 if attribute in (EMOTION, SPEAKER) else self.each)

    def _speaker(self, key: Key) -> Asked:
        if self.shuffled:
            raise BadInput("names that are shuffled over speakers are names all the same; shuffle another attribute")
        batch, known = self.private.load(), self.private.annotations()
        whose = _named(known, SPEAKER)
        divided = _divided(whose, KNOWN + 1, key.child("known"))
        known = (*known, divided)
        mine = torch.tensor([divided.categories[one].endswith(f" {KNOWN}") for one in divided.values])
        rows, others = mine.nonzero().flatten(), (~mine).nonzero().flatten()
        pool = Pool(batch.rows(others), tuple(one.rows(others.tolist()) for one in known))
        people = Population.of_owners(batch.rows(rows), tuple(one.rows(rows.tolist()) for one in known), owner=CLIENT)
        return Asked(SPEAKER, pool, self._held(people, key), CLIENT, SPEAKER)

    def _held(self, people: Population, key: Key) -> Population:
        return people.held_out(self.hold_out, key=key.child("held")) if self.hold_out else people


def halves(source: EmotionFeatures) -> tuple[EmotionFeatures, EmotionFeatures]:
    """Of each sex every other speaker by name: accents and kinds of voices are on both sides then.

    Statistics of the normalization are each half's own.
    """
    by_sex: dict[str, list[str]] = {}
    for one in source.recordings():
        by_sex.setdefault(one.sex.value, []).append(one.speaker)
    names = [sorted(set(own)) for own in by_sex.values()]
    first, second = (tuple(name for own in names for name in own[side::2]) for side in (0, 1))
    if not second:
        raise BadInput(
            f"{source!r} has {len(first)} speakers, one of each sex at most, who are no two halves; give public speech"
        )
    return replace(source, speakers=first), replace(source, speakers=second)


def crossed(first: Annotation, second: Annotation, name: str) -> Annotation:
    """The annotation of pairs: `ada happy`. Of pairs that occur alone, in the order of both categories.

    >>> crossed(Annotation("a", (0, 1, 0), ("x", "y")), Annotation("b", (1, 1, 0), ("p", "q")), "c")
    Annotation(name='c', values=(1, 2, 0), categories=('x p', 'x q', 'y q'), per=<Per.EXAMPLE: 'example'>)
    """
    pairs = list(zip(first.values, second.values, strict=True))
    there = sorted(set(pairs))
    names = tuple(f"{first.categories[a]} {second.categories[b]}" for a, b in there)
    return Annotation(name, tuple(there.index(one) for one in pairs), names)


def _named(known: list[Annotation] | tuple[Annotation, ...], name: str) -> Annotation:
    for one in known:
        if one.name == name:
            return one
    raise UnknownName("attribute of the speakers", name, [one.name for one in known])


def _emotion(source: EmotionFeatures) -> Annotation:
    names = tuple(one.value for one in source.emotions)
    return Annotation(EMOTION, tuple(source.load().labels.tolist()), names)


def _divided(whose: Annotation, each: int, key: Key) -> Annotation:
    """Each speaker's recordings among so many clients."""
    parts = [0] * len(whose.values)
    for place, rows in enumerate(by_owner(whose.values, each=each, key=key)):
        for row in rows.tolist():
            parts[row] = place % each
    numbers = Annotation("part", tuple(parts), tuple(str(one) for one in range(each)))
    return crossed(whose, numbers, CLIENT)


def _shuffled(known: list[Annotation], attribute: str, owner: str, key: Key) -> list[Annotation]:
    """The attribute in another order over the owners. Raises `BadInput` where an owner has several."""
    told, whose = _named(known, attribute), _named(known, owner)
    of_owner: dict[int, int] = {}
    for who, value in zip(whose.values, told.values, strict=True):
        if of_owner.setdefault(who, value) != value:
            raise BadInput(f"{whose.categories[who]} has several values of {attribute!r}; it must be one")
    names = sorted(of_owner)
    order = torch.randperm(len(names), generator=key.generator()).tolist()
    drawn = {name: of_owner[names[order[place]]] for place, name in enumerate(names)}
    other = Annotation(attribute, tuple(drawn[who] for who in whose.values), told.categories)
    return [other if one.name == attribute else one for one in known]
