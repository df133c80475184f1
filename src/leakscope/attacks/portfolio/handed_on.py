"""Which attacks `leakscope attack` runs when none is named, and which of their claims it hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from leakscope.attacks.attack import Attack
from leakscope.attacks.inputs.text.embedding_rows import EmbeddingRows
from leakscope.attacks.inputs.text.embedding_span import EmbeddingSpan
from leakscope.attacks.labels.counts import LabelCounts
from leakscope.attacks.labels.signs import LabelSigns
from leakscope.attacks.portfolio.auto import Auto
from leakscope.attacks.transcripts.exact.ctc import CtcTranscript
from leakscope.core.attempt import Attempt
from leakscope.core.claim import Attribute, Claim, Features, Labels, Transcripts
from leakscope.core.domain import AbstractDomain
from leakscope.core.facts import Gallery
from leakscope.core.observation import Observation
from leakscope.domains.speech import Frames
from leakscope.domains.text import Text
from leakscope.domains.vision import Images

Anything = Attack[Any]

SEARCHED = (Images, Frames)
"""Domains whose inputs are numbers that a search can move; tokens are not."""

LEAST: tuple[type[Claim], ...] = (Features, Labels, Attribute, Transcripts)
"""From the claim that says least to the one that says most; all other kinds claim the inputs themselves. What a layer
was fed is compared by running the model, which a file of the secret does not hold: so it is handed on last."""


@final
@dataclass(frozen=True)
class Offer:
    """An attack that could be tried, and what decides whether it is.

    speech: it reads utterances. claims: the kind of its claim. exact: it solves, and proves what it claims.
    """

    attack: Anything
    claims: type[Claim]
    exact: bool = False
    speech: bool = False


@final
@dataclass(frozen=True)
class Portfolio:
    """quick: run all of them. searches: run one after the other, and only where no inputs were proved before."""

    quick: tuple[Anything, ...]
    searches: tuple[Anything, ...]


def portfolio(seen: Observation, offers: Sequence[Offer]) -> Portfolio:
    """Every exact attack and every attack on labels, each with its own reason where it refuses; then `Auto`.

    The one function to replace by something cleverer.
    """
    speech = isinstance(seen.target.domain, Frames)
    listed = [offer for offer in offers if offer.speech is speech]
    exact = [offer.attack for offer in listed if offer.exact]
    labels = [offer.attack for offer in listed if offer.claims is Labels]
    # Who it was, where there is a lineup to choose from.
    who = [offer.attack for offer in listed if offer.claims is Attribute and seen.knows(Gallery)]
    # What is run where nothing was proved: searches, each from the best that was found before.
    return Portfolio((*exact, *labels, *who), (Auto(),) if isinstance(seen.target.domain, SEARCHED) else ())


def solved(attempt: Attempt[Claim]) -> bool:
    """Whether inputs are proved, so that nothing is left to be searched for; labels leave the inputs."""
    return attempt.certified and not isinstance(attempt.claim, LEAST)


def best(tried: Sequence[Attempt[Claim]]) -> Attempt[Claim] | None:
    """The claim to hand on: inputs before labels, then a proved one before others, the later of equals; or None."""
    # Compared from the left, False before True; the place comes last, so that the later of equals wins.
    ranked = [
        ((_told(one.claim), one.certified, place), one) for place, one in enumerate(tried) if one.claim is not None
    ]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def usual(domain: AbstractDomain) -> tuple[Anything, ...]:
    """What an audit tries where no attack is named: the portfolio, and whatever reads labels or words off the update.

    A verdict is about the mechanism, so it should not hang on the one attack that somebody happened to name.

    >>> from leakscope.domains.vision import Images
    >>> usual(Images(1, 8, 8))
    (Auto(evaluations=3000, exact=True, smooth=True), LabelCounts(ridge=3.0), LabelSigns())
    """
    if isinstance(domain, Text):
        return EmbeddingSpan(), EmbeddingRows(), LabelCounts(), LabelSigns()
    if isinstance(domain, Frames):
        return Auto(), CtcTranscript()
    return Auto(), LabelCounts(), LabelSigns()


def _told(claim: Claim) -> int:
    """How much a claim of this kind tells."""
    kind = type(claim)
    # More than any in `LEAST`: the inputs.
    return LEAST.index(kind) if kind in LEAST else len(LEAST)
