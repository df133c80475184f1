"""Who spoke: what an input attack recovers is compared with recordings of everybody who may have."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.attributes.encoder import AbstractSpeakerEncoder
from leakscope.attacks.attributes.resemblyzer import Resemblyzer
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Attribute, Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact, Gallery
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key

SPEAKER = "speaker"


@final
@dataclass(frozen=True)
class SpeakerIdentity(AbstractAttack[Ready[Inputs], Attribute]):
    """score(g) = cos(e(recovered frames), mean of e over enrollments of speaker g), for all speakers of the `Gallery`.

    of: the attack that recovers the frames; it refuses and fails for both. encoder: e. enrollments: how many public
    utterances of each speaker are looked at, fewer where there are not so many. fold: which ones, so that a repeat
    looks at others: numbers fold * enrollments onward, beginning again at the end.
    Claims the nearest speaker of each utterance and the scores of all, -inf for those without a recording.
    The protocol of Dang et al. 2021, section 5 (their encoder is Deep Speaker, here `ResCNN`).
    Raises `BadInput` on enrollments < 1 or fold < 0.
    """

    of: Attack[Inputs] = field(default_factory=WindowedFrames)
    encoder: AbstractSpeakerEncoder = field(default_factory=Resemblyzer)
    enrollments: int = 1
    fold: int = 0

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Gallery})

    def __post_init__(self) -> None:
        if not isinstance(self.of, AbstractAttack) or not isinstance(self.encoder, AbstractSpeakerEncoder):
            raise BadInput(f"expected an attack and a speaker encoder, got {self.of!r} and {self.encoder!r}")
        if self.enrollments < 1 or self.fold < 0:
            raise BadInput(f"expected enrollments >= 1 and fold >= 0, got {self.enrollments} and {self.fold}")

    @property
    def citation(self) -> str:
        """Dang et al. 2021, and the sources of the parts."""
        parts = (citations.SPEECH_RECONSTRUCTION, self.encoder.citation, self.of.citation)
        return "\n\n".join(part for part in parts if part)

    def _read(self, seen: Observation) -> Ready[Inputs] | Refusal:
        gallery = seen.told(Gallery)
        if gallery.attribute != SPEAKER or gallery.examples.lengths is None:
            return Refusal(f"needs a gallery of speakers in utterances, was told one of {gallery.attribute!r}")
        if not seen.target.domain.fits(gallery.examples.inputs):
            return Refusal(f"the gallery holds frames that do not fit the target's domain {seen.target.domain}")
        return self.of.ready(seen)

    def _attempt(
        self, seen: Observation, read: Ready[Inputs], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Attribute]:
        # Under the same clock, and its checkpoint: comparing costs nothing beside the search.
        inner = read.within(key=key.child("of"), clock=clock, watch=watch)
        utterances = None if inner.claim is None else _utterances(inner.claim)
        outcome, sentence = inner.outcome, inner.sentence
        if inner.claim is not None and utterances is None:
            outcome, sentence = Outcome.REFUSED, f"{self.of!r} claims no utterances whose voice could be heard"
        if utterances is None:
            return Attempt(repr(self), outcome, sentence, cost=inner.cost, steps=inner.steps)
        claim, said = self.named(utterances, seen.told(Gallery))
        steps = (*inner.steps, sentence)
        return Attempt(repr(self), outcome, said, claim, cost=inner.cost, trace=inner.trace, steps=steps)

    def named(self, utterances: Sequence[Tensor], gallery: Gallery) -> tuple[Attribute, str]:
        """The claim about utterances (T_i, F), and a sentence about it. Their true frames give the ceiling."""
        return self._compared(self.encoder.of_frames(utterances), gallery)

    def _compared(self, embeddings: Tensor, gallery: Gallery) -> tuple[Attribute, str]:
        # By content, so that equal galleries of two cells share embeddings, and new weights in a file do not.
        people = _People(gallery.fingerprint(), self.encoder.version(), gallery)
        centers = enrolled(people, self.encoder, self.enrollments, self.fold)
        # Both are of length 1: the inner product is the cosine. A row of zeros is nobody, hence ruled out.
        scores = torch.where(centers.any(1), embeddings @ centers.T, -torch.inf)
        best = scores.argmax(1)
        # in quotes, so that a redacted page knows what to leave out
        names = ", ".join(repr(gallery.categories[place]) for place in best.tolist()[:4])
        count = int(centers.any(1).sum())
        short = sum(len(gallery.of(place)) < self.enrollments for place in range(len(gallery.categories)))
        less = f", {short} of them by fewer recordings or none" if short else ""
        sentence = f"nearest of {count} speakers, by {self.enrollments} recordings each{less}: {names}"
        return Attribute(SPEAKER, best, scores=scores), sentence


@final
@dataclass(frozen=True)
class _People:
    """A gallery that is equal to another one of the same content, for the same version of an encoder."""

    content: str
    version: str
    gallery: Gallery = field(compare=False)


@functools.lru_cache(maxsize=64)
def enrolled(people: _People, encoder: AbstractSpeakerEncoder, enrollments: int, fold: int) -> Tensor:
    """(G, D): the mean embedding of each speaker's chosen recordings at length 1; zero without any.

    Kept by the process, since every cell of an audit looks at the same ones.
    """
    gallery = people.gallery
    assert gallery.examples.lengths is not None
    lengths = gallery.examples.lengths.tolist()
    chosen = [picked(gallery.of(category), enrollments, fold) for category in range(len(gallery.categories))]
    # Embedding is most of the work, so only what was chosen is embedded.
    places = sorted({place for own in chosen for place in own})
    embeddings = encoder.of_frames([gallery.examples.inputs[place, : lengths[place]] for place in places])
    row = {place: at for at, place in enumerate(places)}
    nobody = torch.zeros_like(embeddings[0])
    return torch.stack(
        # At length 1 again: the mean of unit vectors is the shorter, the more a speaker's recordings differ.
        [F.normalize(embeddings[[row[p] for p in own]].mean(0), dim=0) if own else nobody for own in chosen]
    )


def picked(own: Sequence[int], enrollments: int, fold: int) -> tuple[int, ...]:
    """The recordings of a fold: `enrollments` from number fold * enrollments on, each once, all where there are fewer.

    >>> picked((7, 8, 9), 2, 0), picked((7, 8, 9), 2, 1), picked((7,), 2, 3)
    ((7, 8), (9, 7), (7,))
    """
    # No recording twice in a fold, however few there are.
    count = min(enrollments, len(own))
    return tuple(own[(fold * enrollments + at) % len(own)] for at in range(count))


def _utterances(claim: Inputs) -> list[Tensor] | None:
    # An utterance without frames has no voice, and the claim names one speaker for each.
    if claim.lengths is None or claim.values.dim() != 3 or bool((claim.lengths < 1).any()):
        return None
    return [row[:length] for row, length in zip(claim.values, claim.lengths.tolist(), strict=True)]
