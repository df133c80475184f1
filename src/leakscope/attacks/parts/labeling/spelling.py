"""Transcripts that nobody told: guessed once, or changed again and again while the inputs are searched."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.parts.labeling.labeling import AbstractLabeling, Spelled, spells
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput
from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.domains.speech import ENGLISH
from leakscope.numerics.ctc import frames_needed
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC

RATE = 0.3
"""Characters per frame of 20 ms: 15 a second, as English is read."""

Losses = Callable[[Spelled], Tensor]
"""Candidate transcripts, labels (C, B, L), to their losses (C,)."""
Text = tuple[int, ...]


def letters(seen: Observation) -> tuple[int, ...]:
    """The classes that are characters: all but the blank. Raises `BadInput` where the labels are no transcripts."""
    loss = seen.target.loss
    if not acts_as(loss, CTC):
        raise BadInput(f"{seen.target.name} is not trained on transcripts")
    # The blank is CTC's own: no transcript has one.
    return tuple(label for label in range(seen.target.classes) if label != loss.blank)


class AbstractSpelling(AbstractLabeling):
    """A labeling that changes the transcripts during a search; needs to know the lengths, told or found.

    every: inputs are searched for so many steps, then the transcripts are changed once.
    """

    every: int

    @abstractmethod
    def respelled(self, now: Spelled, losses: Losses, *, seen: Observation, key: Key) -> Spelled:
        """Transcripts (B, L) with a loss not above that of `now`; L stays as it is."""


def _refused(seen: Observation) -> Refusal | None:
    return None if spells(seen) else Refusal(f"{seen.target.name} is not trained on transcripts")


def _drawn(seen: Observation, rate: float, key: Key) -> list[Text]:
    """Random characters, `rate` per frame, as many as CTC can place."""
    known = letters(seen)
    made = []
    for item, frames in enumerate(seen.told(Lengths).values):
        # half of the frames always suffice: the worst case is one blank between any two
        count = min(max(1, round(rate * frames)), (frames + 1) // 2)
        # By utterance: one more in the batch does not change the guesses of the others.
        chosen = torch.randint(len(known), (count,), generator=key.child("letters", item).generator())
        made.append(tuple(known[i] for i in chosen.tolist()))
    return made


def _checked_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise BadInput(f"expected a rate above 0 and at most 1 character per frame, got {rate}")


@final
@dataclass(frozen=True)
class Guessed(AbstractLabeling):
    """Random characters, `rate` of them per frame, never changed: what the transcript is worth to the attack."""

    rate: float = RATE

    def __post_init__(self) -> None:
        _checked_rate(self.rate)

    def refusal(self, seen: Observation) -> Refusal | None:
        """Where labels are no transcripts."""
        return _refused(seen)

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Spelled:
        """The guess."""
        del budget
        return Spelled.of(_drawn(seen, self.rate, key))


@final
@dataclass(frozen=True)
class Listed(AbstractSpelling):
    """The best of `texts`: every `every` steps, `samples` of them are tried for one utterance, drawn by key.

    texts: in the alphabet of `domains.speech.ENGLISH`. Raises `BadInput` on no texts, other characters, or counts
    below 1. Texts with characters that the model lacks, or too long for the utterance, are never chosen.
    """

    texts: tuple[str, ...]
    samples: int = 10
    every: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple(self.texts))
        if not self.texts or self.samples < 1 or self.every < 1:
            raise BadInput(
                f"expected at least one text, samples >= 1 and every >= 1, got {len(self.texts)}, {self.samples} and "
                f"{self.every}"
            )
        for text in self.texts:
            ENGLISH.encode(text)

    def refusal(self, seen: Observation) -> Refusal | None:
        """Where labels are no transcripts, or no text can be spelled."""
        return _refused(seen) or (None if self._known(seen) else Refusal("the model spells none of the listed texts"))

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Spelled | Refusal:
        """One of the texts that fit, for each utterance; the room is that of the longest."""
        del budget
        known = self._known(seen)
        # For the longest of all, fitting or not: L must not change when another text is tried later.
        room = max(len(text) for text in known)
        chosen = []
        for item, frames in enumerate(seen.told(Lengths).values):
            fitting = [text for text in known if _needed(text) <= frames]
            if not fitting:
                return Refusal(f"no listed text fits {frames} frames")
            # Among those that CTC can place in so many frames; any other has an infinite loss.
            drawn = torch.randint(len(fitting), (1,), generator=key.child("listed", item).generator())
            chosen.append(fitting[int(drawn)])
        return Spelled.of(chosen, room=room)

    def respelled(self, now: Spelled, losses: Losses, *, seen: Observation, key: Key) -> Spelled:
        """The best of some texts and what there was."""
        known = self._known(seen)
        generator = key.generator()
        # One utterance in a step: those of the others stay, so that a lower loss is this one's doing.
        item = int(torch.randint(len(now.lengths), (1,), generator=generator))
        order = torch.randperm(len(known), generator=generator)[: self.samples].tolist()
        current = now.transcripts()
        frames = seen.told(Lengths).values[item]
        tried = [known[i] for i in order if _needed(known[i]) <= frames]
        # What there was comes first, so that it wins among equals, and the loss never rises.
        return _best(now, item, [current[item], *tried], losses)[0]

    def _known(self, seen: Observation) -> list[Text]:
        allowed = set(letters(seen))
        encoded = [ENGLISH.encode(text) for text in self.texts]
        return [text for text in encoded if set(text) <= allowed]


@final
@dataclass(frozen=True)
class Edits(AbstractSpelling):
    """Begins with random characters (`rate` per frame); every `every` steps one place of one utterance is changed.

    All characters are tried at a place drawn by key and the best is kept. resize: also all characters inserted there,
    and the deletion. width, rounds: a beam; each change is `rounds` edits long and keeps the `width` best on the way.
    width = rounds = 1 without resize is the alternation of single characters of the original system.
    Raises `BadInput` on counts below 1 or a rate outside (0, 1].
    """

    every: int = 10
    width: int = 1
    rounds: int = 1
    resize: bool = False
    rate: float = RATE

    def __post_init__(self) -> None:
        if self.every < 1 or self.width < 1 or self.rounds < 1:
            raise BadInput(f"expected every, width and rounds >= 1, got {self.every}, {self.width} and {self.rounds}")
        _checked_rate(self.rate)

    def refusal(self, seen: Observation) -> Refusal | None:
        """Where labels are no transcripts."""
        return _refused(seen)

    def labels(self, seen: Observation, *, key: Key, budget: Budget) -> Spelled:
        """Random characters, with room for as many again."""
        del budget
        drawn = _drawn(seen, self.rate, key)
        longest = max(len(text) for text in drawn)
        # Tensors keep their size in a search, so insertions need room from the beginning.
        return Spelled.of(drawn, room=2 * longest if self.resize else longest)

    def respelled(self, now: Spelled, losses: Losses, *, seen: Observation, key: Key) -> Spelled:
        """The best of the beam after the last round, or what there was."""
        generator = key.generator()
        item = int(torch.randint(len(now.lengths), (1,), generator=generator))
        frames, room = seen.told(Lengths).values[item], now.labels.shape[1]
        beam = [now.transcripts()[item]]
        best = now
        for _ in range(self.rounds):
            # A share and not a place: the texts of a beam may have become unequally long, and are changed alike.
            share = float(torch.rand(1, generator=generator))
            # Only what fits the room and CTC. A dict and no set: its order is that of the edits, in every run.
            edited = (text for one in beam for text in self._edited(one, share, letters(seen)))
            tried = dict.fromkeys(text for text in edited if len(text) <= room and _needed(text) <= frames)
            # The beam itself is among them: a round that finds nothing better keeps what there is.
            best, beam = _best(now, item, list(dict.fromkeys([*beam, *tried])), losses, keep=self.width)
        return best

    def _edited(self, text: Text, share: float, known: tuple[int, ...]) -> Iterable[Text]:
        place = math.floor(share * len(text))
        head, tail = text[:place], text[place + 1 :]
        if text:
            yield from ((*head, letter, *tail) for letter in known)
        if self.resize:
            # One place more than letters: before the first up to after the last.
            gap = math.floor(share * (len(text) + 1))
            yield from ((*text[:gap], letter, *text[gap:]) for letter in known)
            if len(text) > 1:
                yield (*head, *tail)


def _needed(text: Text) -> int:
    spelled = Spelled.of([text])
    return int(frames_needed(spelled.labels, spelled.lengths)[0])


def _best(now: Spelled, item: int, texts: list[Text], losses: Losses, *, keep: int = 1) -> tuple[Spelled, list[Text]]:
    """`now` with the best of `texts` for one utterance, and the `keep` best texts; the first wins among equals."""
    tried = Spelled.of(texts, room=now.labels.shape[1])
    # (C, B, L): the loss is that of the whole batch, in which one utterance is exchanged.
    labels = now.labels.cpu().expand(len(texts), *now.labels.shape).clone()
    lengths = now.lengths.cpu().expand(len(texts), *now.lengths.shape).clone()
    labels[:, item], lengths[:, item] = tried.labels, tried.lengths
    # NaN and infinite both last: two arguments, since by default +inf becomes a number.
    found = losses(Spelled(labels, lengths)).cpu().nan_to_num(math.inf, math.inf)
    order = found.argsort(stable=True)[:keep].tolist()
    return Spelled(labels[order[0]], lengths[order[0]]), [texts[i] for i in order]
