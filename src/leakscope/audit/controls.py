"""The blind control: what a guess scores that never looked at the release."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.core.attempt import Attempt, Cost, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Inputs, Labels, Tokens, Transcripts
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Gallery
from leakscope.core.observation import Observation
from leakscope.core.release import AbstractRelease, Delta, Gradient, Weights
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.text import sequences_of
from leakscope.numerics.rng import Key
from leakscope.scoring.metrics.tokens import TokenError
from leakscope.scoring.sequences import constant_transcripts, mean_frame, transcripts_of
from leakscope.scoring.texts import POOL, constant_texts

SENTENCE = "guessed from public data without looking"


@final
@dataclass(frozen=True)
class BlindGuess(AbstractAttack[None, Inputs | Tokens]):
    """claim = (mean of the public inputs) x count, labels drawn from the public ones; the release is not read.

    The mean is the single guess with the least expected squared error, hence the hardest blind guess to beat in
    MSE and PSNR. One claim serves attacks on inputs and attacks on labels alike. Of sequences it claims the mean frame
    for as many frames as public ones have on average, `words` serves attacks on transcripts and `persons` attacks
    on who it was.

    source: only its public part is used. count: the number of private examples, given away to the guess.
    Raises `BadInput` when count < 1.
    """

    source: AbstractSource
    count: int

    # it looks at nothing, so nothing is asked of what there is to look at
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Gradient, Delta, Weights})
    asks: ClassVar[Asks] = Asks.NOTHING
    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"expected a count of at least 1, got {self.count}")

    @property
    def citation(self) -> str:
        """None: it is no published attack."""
        return ""

    def _read(self, seen: Observation) -> None:
        return None

    def _attempt(
        self, seen: Observation, read: None, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs | Tokens]:
        public = self.source.public()
        if public.lengths is not None:
            return Attempt(repr(self), Outcome.CLAIMED, SENTENCE, self._frames(public, public.lengths), cost=Cost())
        if public.holds_tokens:
            return Attempt(repr(self), Outcome.CLAIMED, SENTENCE, self._text(public), cost=Cost())
        mean = public.inputs.mean(0, keepdim=True)
        chosen = torch.randint(len(public), (self.count,), generator=key.child("labels").generator())
        claim = Inputs(mean.expand(self.count, *mean.shape[1:]).clone(), public.labels[chosen])
        return Attempt(repr(self), Outcome.CLAIMED, SENTENCE, claim, cost=Cost())

    def _frames(self, public: Batch, lengths: Tensor) -> Inputs:
        count = round(float(lengths.double().mean()))
        mean = mean_frame(public).to(public.inputs.dtype)
        return Inputs(mean.expand(self.count, count, -1).clone(), lengths=torch.full((self.count,), count))

    def _text(self, public: Batch) -> Tokens:
        """Of texts the constant guess with the least `TokenError` on public ones."""
        known = sequences_of(public.inputs[:POOL])
        best = min(constant_texts(public), key=lambda guess: math.fsum(TokenError().items([guess] * len(known), known)))
        return Tokens((best,) * self.count)

    def labels(self, *, key: Key) -> Labels:
        """Of texts labels drawn from the public ones, for attacks that claim labels."""
        public = self.source.public().labels
        return Labels(public[torch.randint(len(public), (self.count,), generator=key.child("labels").generator())])

    def words(self) -> Transcripts:
        """Of sequences: the public transcript that is nearest to the others, for every one."""
        nearest = constant_transcripts(transcripts_of(self.source.public()))[1]
        return Transcripts((nearest,) * self.count)

    def persons(self, gallery: Gallery) -> Attribute:
        """For every item a ranking that prefers nobody of those who are in the gallery."""
        there = torch.full((len(gallery.categories),), -torch.inf)
        there[torch.tensor(gallery.members)] = 0.0
        values = torch.full((self.count,), gallery.members[0])
        return Attribute(gallery.attribute, values, scores=there.expand(self.count, -1).clone())
