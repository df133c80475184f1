"""Claims of whole inputs: compared in display units, each with the private one that it is nearest to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Inputs, Labels
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key, uniform
from leakscope.scoring.case import Case, displayed
from leakscope.scoring.chance import AbstractGuess, keys
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, Paired, Shown, filled
from leakscope.scoring.metrics.metric import AbstractInputMetric, AbstractMetric
from leakscope.scoring.metrics.vision import MSE, PSNR, SSIM
from leakscope.scoring.pairing import Pairing, assigned
from leakscope.scoring.proved import least_psnr

RANDOM_DRAWS = 8
"""Over how many draws of random public inputs their expectation is taken: texture differs much between them."""
NOISE_DRAWS = 2
"""The same of uniform noise, whose error hardly differs from draw to draw."""
CHUNK = 1024
"""Public inputs that are compared at once, for the memory that they take."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class InputTruth:
    """The private inputs (B, *shape) float64 in display units, and the domain that makes display units."""

    inputs: Tensor
    domain: AbstractDomain | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.inputs.shape[1:])

    def __len__(self) -> int:
        return int(self.inputs.shape[0])


@final
@dataclass(frozen=True, eq=False)
class MeanInput(AbstractGuess[Inputs]):
    """The mean of the public inputs (P, *shape), for every item: the best constant under squared error."""

    pool: Tensor
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Inputs]]:
        """`count` copies of the mean."""
        del key
        # In float64: a float32 sum over thousands of images would round away the last digits of the level.
        mean = self.pool.mean(0, dtype=torch.float64).cpu()
        yield 1.0, Inputs(mean.expand(self.count, *mean.shape).clone())


@final
@dataclass(frozen=True, eq=False)
class RandomInput(AbstractGuess[Inputs]):
    """Random public inputs, without repeating one while the pool lasts: the best guess of texture."""

    pool: Tensor
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Inputs]]:
        """`count` members of the pool, drawn `RANDOM_DRAWS` times."""
        size = len(self.pool)
        for one in keys(self, key, RANDOM_DRAWS):
            generator = one.generator()
            # Whole permutations, as many as are needed: no item is repeated before all were used.
            order = torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-self.count // size))])
            yield 1 / RANDOM_DRAWS, Inputs(self.pool[order[: self.count].to(self.pool.device)].double())


@final
@dataclass(frozen=True, eq=False)
class UniformNoise(AbstractGuess[Inputs]):
    """Each value drawn from U[low, high) of the domain; low, high: (*shape) float64, in the model's units."""

    low: Tensor
    high: Tensor
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Inputs]]:
        """`count` images of noise, drawn `NOISE_DRAWS` times."""
        for one in keys(self, key, NOISE_DRAWS):
            shares = uniform(torch.empty(self.count, *self.low.shape, dtype=torch.float64), one)
            yield 1 / NOISE_DRAWS, Inputs(self.low + shares * (self.high - self.low))


@final
@dataclass(frozen=True, eq=False)
class Midpoint(AbstractGuess[Inputs]):
    """The middle of the domain's range, for images mid-gray, for every item."""

    low: Tensor
    high: Tensor
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Inputs]]:
        """`count` gray images."""
        del key
        yield 1.0, Inputs(((self.low + self.high) / 2).expand(self.count, *self.low.shape).clone())


def fitting_public(public: Batch, shape: tuple[int, ...]) -> Batch:
    """The public batch, where its inputs are of this shape and finite. Raises `BadInput` otherwise."""
    if tuple(public.inputs.shape[1:]) != shape:
        raise BadInput(f"public inputs of shape {tuple(public.inputs.shape[1:])} do not fit private ones of {shape}")
    return public.checked()


def bounds(shape: tuple[int, ...], domain: AbstractDomain | None) -> tuple[Tensor, Tensor]:
    """The least and the largest legal value of each entry, in the model's units; [0, 1] without a domain."""
    like = torch.zeros(shape, dtype=torch.float64)
    low, high = (torch.zeros(()), torch.ones(())) if domain is None else domain.bounds(like)
    return low.double().expand(shape), high.double().expand(shape)


def input_guesses(count: int, shape: tuple[int, ...], case: Case) -> tuple[AbstractGuess[Inputs], ...]:
    """What can be guessed of `count` inputs: the public mean and random public ones, uniform noise and the middle.

    Without public data only the latter two; in an unbounded domain only the former. Raises `BadInput` on public inputs
    of another shape.
    """
    found: list[AbstractGuess[Inputs]] = []
    if case.public is not None:
        pool = fitting_public(case.public, shape).inputs.detach()
        found += [MeanInput(pool, count), RandomInput(pool, count)]
    low, high = bounds(shape, case.domain)
    # Noise has texture, the middle the least error of all that knows nothing: neither is always better.
    if bool(torch.isfinite(low).all() and torch.isfinite(high).all()):  # else there is neither middle nor noise
        found += [UniformNoise(low, high, count), Midpoint(low, high, count)]
    return tuple(found)


@final
@dataclass(frozen=True)
class WholeInputs(AbstractKind[Inputs, InputTruth, AbstractInputMetric]):
    """Inputs of one shape. Their labels, where the claim has them, are a claim of their own."""

    claims: ClassVar[type[AbstractClaim]] = Inputs
    default: ClassVar[tuple[AbstractMetric, ...]] = (MSE(), PSNR(), SSIM())

    @property
    def examples(self) -> tuple[Inputs, ...]:
        """One image."""
        return (Inputs(torch.zeros(1, 1, 2, 2)),)

    def holds(self, claim: AbstractClaim) -> bool:
        """Inputs without lengths."""
        return isinstance(claim, Inputs) and claim.lengths is None

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of whole inputs."""
        return isinstance(metric, AbstractInputMetric)

    def truth(self, claim: Inputs, case: Case) -> InputTruth:
        """The private inputs in display units. Raises `BadInput` where they are sequences."""
        del claim
        batch = case.batch()
        if batch.lengths is not None:
            raise BadInput("the secret holds sequences, the claim whole inputs; claim frames with their lengths")
        return InputTruth(displayed(batch.inputs, case.domain), case.domain)

    def pair(self, claim: Inputs, truth: InputTruth) -> Pairing:
        """Pairs with the lowest total mean squared error in display units.

        Raises `BadInput` with both shapes when the claimed inputs do not have the shape of the private ones.
        """
        if tuple(claim.values.shape[1:]) != truth.shape:
            raise BadInput(
                f"claimed inputs of shape {tuple(claim.values.shape[1:])} do not fit private inputs of shape "
                f"{truth.shape}; claim inputs of the target's domain"
            )
        shown: dict[int, Tensor] = {}

        def content(places: list[int]) -> list[bytes]:
            # In display units, as the errors are, and only of what is judged: a claim may hold thousands of items.
            shown.update(zip(places, displayed(claim.values[places], truth.domain), strict=True))
            return [_bytes(shown[place]) for place in places]

        def costs(rows: list[int], columns: list[int]) -> NDArray[np.float64]:
            left = torch.stack([shown[place] for place in rows]).flatten(1)
            right = truth.inputs[columns].flatten(1)
            # Differences, not |a|^2 + |b|^2 - 2ab: that cancels where a claim is nearly exact, just where it matters.
            distances = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
            # Squared, as the score is: one large distance may not be traded for two middling ones.
            squared: NDArray[np.float64] = (distances.square() / max(left.shape[1], 1)).numpy()
            return squared

        return assigned(claim, [_bytes(one) for one in truth.inputs], content, costs)

    def guesses(self, at: Comparison[Inputs, InputTruth], case: Case) -> Sequence[AbstractGuess[Inputs]]:
        """See `input_guesses`."""
        return input_guesses(len(at.truth), at.truth.shape, case)

    def items(self, metric: AbstractInputMetric, at: Comparison[Inputs, InputTruth], blind: Sequence[float]) -> Judged:
        """The metric of each pair; an input that was not claimed scores the blind guess."""
        places, partners = at.pairing.known()
        # Display units: an error in the units of a normalized model would weigh channels by their standard deviation.
        claimed, true = displayed(at.claim.values[partners], at.truth.domain), at.truth.inputs[places]
        return Judged(filled(blind, places, metric.items(claimed, true)), metric.exact(claimed, true))

    def nearest(
        self, metric: AbstractInputMetric, at: Comparison[Inputs, InputTruth], public: Batch
    ) -> tuple[float, ...]:
        """The PSNR of the public input with the least squared error to each private one."""
        truth = at.truth
        if metric != PSNR() or not len(truth):
            return ()
        pool, wanted = fitting_public(public, truth.shape).inputs, truth.inputs.flatten(1)
        best, found = torch.full((len(truth),), math.inf, dtype=torch.float64), truth.inputs.clone()
        for part in pool.split(CHUNK):
            shown = displayed(part, truth.domain)
            # To choose one of many the quick formula will do: what it cancels is far below one decibel.
            away, place = torch.cdist(wanted, shown.flatten(1)).min(1)
            nearer = away < best
            best, found[nearer] = torch.minimum(best, away), shown[place[nearer]]
        return metric.items(found, truth.inputs)

    def right(self, claim: Inputs, truth: InputTruth, tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether some private input is within `proved.least_psnr` of it."""
        if not len(claim) or not len(truth):
            return (False,) * len(claim)
        values, count = displayed(claim.values, truth.domain).flatten(1), math.prod(truth.shape)
        away = torch.cdist(values, truth.inputs.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        # Root mean square of the nearest one; the least PSNR is the largest of it.
        nearest = (away.min(1).values / math.sqrt(max(count, 1))).tolist()
        return tuple(
            one <= 10 ** (-least_psnr(tolerance) / 20) for one, tolerance in zip(nearest, tolerances, strict=True)
        )

    def carried(self, claim: Inputs, case: Case) -> Labels | None:
        """The labels that the inputs bring along."""
        del case
        if claim.labels is None:
            return None
        return Labels(claim.labels.detach().cpu().long(), claim.confidence)

    def notes(self, at: Comparison[Inputs, InputTruth], metrics: Sequence[AbstractInputMetric]) -> tuple[str, ...]:
        """What the metrics say of inputs of this shape."""
        said = (metric.note(at.truth.shape) for metric in metrics)
        return tuple(note for note in said if note is not None)

    def shown(self, claim: Inputs, case: Case) -> Shown:
        """Originals beside their claims, and the label that each claimed input brings along."""
        # One pairing for both: the label beside a picture is the one that was claimed with it.
        at = self.compared(claim, case)
        labels: tuple[int, ...] = ()
        if claim.labels is not None:
            labels = tuple(-1 if place is None else int(claim.labels[place]) for place in at.pairing.partners)
        return Shown(inputs=_paired(at), labels=labels)

    def control(self, outsider: Outsider, *, key: Key) -> Inputs | None:
        """The public mean for every item, each with a random public label; nothing of sequences and of texts.

        The mean is the single guess with the least expected squared error, hence the hardest to beat in MSE and PSNR.
        Where the labels are fixed, that is the mean of each item's class, and the labels are no guess.
        """
        public, count = outsider.public, outsider.count
        if public.lengths is not None or public.holds_tokens:
            return None
        if outsider.labels is not None:
            whole = public.inputs.mean(0)
            own = [public.inputs[public.labels == one] for one in outsider.labels.tolist()]
            # a class without a public example is guessed as any
            return Inputs(torch.stack([one.mean(0) if len(one) else whole for one in own]), outsider.labels)
        mean = public.inputs.mean(0, keepdim=True)
        # Independent draws with the public frequencies: a fixed label would be right for all items or for none.
        chosen = torch.randint(len(public), (count,), generator=key.child("labels").generator())
        return Inputs(mean.expand(count, *mean.shape[1:]).clone(), public.labels[chosen])


def paired(claim: Inputs, case: Case) -> Paired:
    """Originals and their claims in the secret's order, in display units. Raises as `score`."""
    return _paired(WholeInputs().compared(claim, case))


def _paired(at: Comparison[Inputs, InputTruth]) -> Paired:
    truth, (places, partners) = at.truth, at.pairing.known()
    low, high = bounds(truth.shape, truth.domain)
    # The middle of a range without ends is no number: zero is shown, and `unclaimed` says that it means nothing.
    middle = ((low + high) / 2).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    shown = displayed(middle.expand_as(truth.inputs), truth.domain)
    shown[places] = displayed(at.claim.values[partners], truth.domain)
    return Paired(truth.inputs, shown, at.pairing.unclaimed)


def _bytes(values: Tensor) -> bytes:
    raw: bytes = values.numpy().tobytes()
    return raw
