"""Which claimed item is for which private one: by assignment, so that order cannot change a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import Claim, Inputs, Labels
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.secret import Secret
from leakscope.numerics.assign import assign
from leakscope.scoring.metrics.metric import saturated


@final
@dataclass(frozen=True, eq=False, repr=False)
class Truth:
    """The private batch as the referee looks at it.

    inputs: (B, *shape) float64 in display units. labels: (B,) int64, the most probable class of soft labels.
    Of sequences, inputs are (B, T, F), lengths the frames that are real, transcripts the labels that are, and `labels`
    is empty; otherwise lengths is None.
    """

    inputs: Tensor
    labels: Tensor
    domain: AbstractDomain | None
    lengths: tuple[int, ...] | None = None
    transcripts: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    def __len__(self) -> int:
        return int(self.inputs.shape[0])


@final
@dataclass(frozen=True)
class Pairing:
    """For each private item, in the secret's order, the place of its claimed one; None where nothing was claimed.

    extra: claimed items beyond the number of private ones, which are not looked at.

    >>> Pairing((1, None), extra=0).unclaimed
    (False, True)
    """

    partners: tuple[int | None, ...]
    extra: int = 0

    @property
    def unclaimed(self) -> tuple[bool, ...]:
        """Whether each private item went without a claim."""
        return tuple(partner is None for partner in self.partners)

    def known(self) -> tuple[list[int], list[int]]:
        """Places in the secret and in the claim of the items that have a partner."""
        pairs = [(place, partner) for place, partner in enumerate(self.partners) if partner is not None]
        return [place for place, _ in pairs], [partner for _, partner in pairs]


def reveal(secret: Secret | Batch, domain: AbstractDomain | None) -> Truth:
    """The truth in display units; `domain` None means that the inputs already are.

    Raises `BadInput` on values that are not finite and on a domain of another shape.
    """
    batch = (secret.reveal() if isinstance(secret, Secret) else secret).checked()
    if batch.lengths is not None and batch.label_lengths is not None:
        return _sequences(batch, batch.lengths.tolist(), batch.label_lengths.tolist(), domain)
    shape = tuple(batch.inputs.shape[1:])
    if domain is not None and not batch.holds_tokens and domain.shape != shape:
        raise BadInput(f"the secret has inputs of shape {shape}, the domain {domain} of {domain.shape}; pass its own")
    return Truth(displayed(batch.inputs, domain), classes_of(batch.labels), domain)


def _sequences(batch: Batch, lengths: list[int], letters: list[int], domain: AbstractDomain | None) -> Truth:
    if domain is not None and not domain.fits(batch.inputs):
        raise BadInput(f"the secret has sequences {tuple(batch.inputs.shape)}, which {domain} does not hold")
    said = tuple(tuple(row[:count]) for row, count in zip(batch.labels.tolist(), letters, strict=True))
    return Truth(displayed(batch.inputs, domain), torch.empty(0, dtype=torch.int64), domain, tuple(lengths), said)


def displayed(inputs: Tensor, domain: AbstractDomain | None) -> Tensor:
    """`inputs` (N, *shape) on the CPU in float64 display units."""
    # Copied: a domain that computes in place must not reach the secret.
    wide = inputs.detach().cpu().double().clone()
    return saturated(wide if domain is None else domain.to_display(wide))


def classes_of(labels: Tensor) -> Tensor:
    """(B,) class indices of hard (B,) or soft (B, C) labels, by the largest probability."""
    hard = labels.detach().cpu()
    return hard.clone() if hard.dim() == 1 else hard.flatten(1).argmax(1)


def kept(claim: Claim, count: int) -> list[int]:
    """The places of the claimed items that are judged: the `count` most confident ones.

    A claim of more items than there are private ones must not win by guessing everything. Where confidences tie or
    are missing (NaN ranks last), the claim's own order is its ranking.
    """
    assert claim.confidence is not None
    rank = claim.confidence.nan_to_num(nan=-1.0).tolist()
    chosen = sorted(range(len(claim)), key=lambda place: (-rank[place], place))[:count]
    return sorted(chosen)


def pair_inputs(claim: Inputs, truth: Truth) -> Pairing:
    """Pairs with the lowest total mean squared error in display units.

    Raises `BadInput` with both shapes when the claimed inputs do not have the shape of the private ones.
    """
    if claim.lengths is not None:
        raise BadInput("claimed sequences with lengths cannot be scored against inputs without; claim whole inputs")
    if tuple(claim.values.shape[1:]) != truth.shape:
        raise BadInput(
            f"claimed inputs of shape {tuple(claim.values.shape[1:])} do not fit private inputs of shape "
            f"{truth.shape}; claim inputs of the target's domain"
        )
    places = kept(claim, len(truth))
    values = displayed(claim.values[places], truth.domain)
    # Sorted by content first: among pairings of equal cost the same one is chosen in whatever order the items came.
    claimed_order, true_order = _by_content(values), _by_content(truth.inputs)
    left, right = values[claimed_order].flatten(1), truth.inputs[true_order].flatten(1)
    distances = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
    rows, columns = assign((distances.square() / max(left.shape[1], 1)).numpy())
    partners: list[int | None] = [None] * len(truth)
    for row, column in zip(rows, columns, strict=True):
        partners[true_order[column]] = places[claimed_order[row]]
    return Pairing(tuple(partners), len(claim) - len(places))


def pair_labels(claim: Labels, truth: Truth) -> Pairing:
    """Equal labels first, each used once; what is left over is paired in order, so that a report can show it."""
    places = kept(claim, len(truth))
    partners: list[int | None] = [None] * len(truth)
    waiting: dict[int, list[int]] = {}
    for place in places:
        waiting.setdefault(int(claim.values[place]), []).append(place)
    for item, label in enumerate(truth.labels.tolist()):
        if waiting.get(label):
            partners[item] = waiting[label].pop(0)
    rest = sorted(place for group in waiting.values() for place in group)
    for item, partner in enumerate(partners):
        if partner is None and rest:
            partners[item] = rest.pop(0)
    return Pairing(tuple(partners), len(claim) - len(places))


def _by_content(values: Tensor) -> list[int]:
    rows = [row.tobytes() for row in values.numpy()]
    return sorted(range(len(rows)), key=rows.__getitem__)
