"""What a guess that saw nothing scores on the same secret: the level that a claim has to beat."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs, Labels
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key, uniform
from leakscope.scoring.metrics.metric import AbstractInputMetric, AbstractLabelMetric, AbstractMetric
from leakscope.scoring.pairing import Truth, classes_of, displayed, pair_inputs
from leakscope.scoring.score import Direction


@final
@dataclass(frozen=True, eq=False)
class Blind:
    """What an adversary knows that sees no release: how many items, their domain, the classes, public data.

    low, high: the legal values of one input in the model's units, broadcast to its shape. frequencies: (C,) of the
    classes, from the public labels, or uniform where there are none.
    """

    count: int
    low: Tensor
    high: Tensor
    frequencies: NDArray[np.float64]
    public: Batch | None = None


def blind(
    count: int, shape: tuple[int, ...], *, classes: int, domain: AbstractDomain | None, public: Batch | None
) -> Blind:
    """The knowledge behind a blind guess of `count` inputs of `shape`; without a domain, values lie in [0, 1].

    Raises `BadInput` when the public inputs have another shape or are not finite.
    """
    if public is not None and tuple(public.inputs.shape[1:]) != shape:
        raise BadInput(f"public inputs of shape {tuple(public.inputs.shape[1:])} do not fit private ones of {shape}")
    like = torch.zeros(shape, dtype=torch.float64)
    low, high = (torch.zeros(()), torch.ones(())) if domain is None else domain.bounds(like)
    frequencies = np.full(classes, 1 / classes)
    if public is not None:
        public.checked()
        counts = np.bincount(classes_of(public.labels).numpy(), minlength=classes)
        frequencies = counts / counts.sum()
    return Blind(count, low.double().expand(shape), high.double().expand(shape), frequencies, public)


class AbstractGuess(ABC):
    """A way to guess without seeing anything. draws: over how many keyed draws its expectation is taken."""

    draws: ClassVar[int] = 1

    @abstractmethod
    def refusal(self, known: Blind) -> str | None:
        """What this guess would have to know, or None when it applies."""


class AbstractInputGuess(AbstractGuess):
    """Guesses the private inputs, in the model's units."""

    @abstractmethod
    def claim(self, known: Blind, *, key: Key) -> Inputs:
        """One guess of `known.count` inputs."""


class AbstractLabelGuess(AbstractGuess):
    """Guesses the private labels."""

    @abstractmethod
    def claim(self, known: Blind, *, key: Key) -> Labels:
        """One guess of `known.count` labels."""

    @final
    def refusal(self, known: Blind) -> str | None:
        """Labels can always be guessed: without public ones every class is equally likely."""
        del known
        return None


@final
@dataclass(frozen=True)
class MeanInput(AbstractInputGuess):
    """The mean of the public inputs, for every item: the best constant under squared error."""

    def refusal(self, known: Blind) -> str | None:
        """Needs public data."""
        return "the mean input needs public data" if known.public is None else None

    def claim(self, known: Blind, *, key: Key) -> Inputs:
        """`known.count` copies of the mean."""
        del key
        mean = _pool(known).mean(0, dtype=torch.float64).cpu()
        return Inputs(mean.expand(known.count, *mean.shape).clone())


@final
@dataclass(frozen=True)
class RandomInput(AbstractInputGuess):
    """Random public inputs, without repeating one while the pool lasts: the best guess of texture."""

    draws: ClassVar[int] = 8

    def refusal(self, known: Blind) -> str | None:
        """Needs public data."""
        return "a random input needs public data" if known.public is None else None

    def claim(self, known: Blind, *, key: Key) -> Inputs:
        """`known.count` members of the pool."""
        pool = _pool(known)
        generator = key.generator()
        order = torch.cat([torch.randperm(len(pool), generator=generator) for _ in range(-(-known.count // len(pool)))])
        return Inputs(pool[order[: known.count].to(pool.device)].double())


@final
@dataclass(frozen=True)
class UniformNoise(AbstractInputGuess):
    """Each value drawn from U[low, high) of the domain."""

    draws: ClassVar[int] = 2

    def refusal(self, known: Blind) -> str | None:
        """Needs a bounded domain."""
        return _unbounded(known)

    def claim(self, known: Blind, *, key: Key) -> Inputs:
        """`known.count` images of noise."""
        shares = uniform(torch.empty(known.count, *known.low.shape, dtype=torch.float64), key)
        return Inputs(known.low + shares * (known.high - known.low))


@final
@dataclass(frozen=True)
class Midpoint(AbstractInputGuess):
    """The middle of the domain's range, for images mid-gray, for every item."""

    def refusal(self, known: Blind) -> str | None:
        """Needs a bounded domain."""
        return _unbounded(known)

    def claim(self, known: Blind, *, key: Key) -> Inputs:
        """`known.count` gray images."""
        del key
        return Inputs(((known.low + known.high) / 2).expand(known.count, *known.low.shape).clone())


@final
@dataclass(frozen=True)
class FrequentLabel(AbstractLabelGuess):
    """The most frequent public label for every item; where several are equally frequent, one of them at random."""

    draws: ClassVar[int] = 64

    def claim(self, known: Blind, *, key: Key) -> Labels:
        """`known.count` times the same label."""
        ties = np.flatnonzero(known.frequencies == known.frequencies.max())
        return Labels(torch.full((known.count,), int(key.numpy().choice(ties)), dtype=torch.int64))


@final
@dataclass(frozen=True)
class RandomLabel(AbstractLabelGuess):
    """Labels drawn independently from the public frequencies."""

    draws: ClassVar[int] = 64

    def claim(self, known: Blind, *, key: Key) -> Labels:
        """`known.count` draws."""
        drawn = key.numpy().choice(len(known.frequencies), size=known.count, p=known.frequencies)
        return Labels(torch.from_numpy(drawn.astype(np.int64)))


@final
@dataclass(frozen=True)
class LikelyCounts(AbstractLabelGuess):
    """The counts g with the largest expected overlap sum_c E min(g_c, N_c), N_c ~ Binomial(B, frequency_c).

    For large batches far better than any single label: 256 of 10 equally frequent classes overlap by about 0.93 with a
    blind 25 or 26 of each. Built one label at a time by the largest P(N_c > g_c), which is optimal as these fall in
    g_c; equal ones are chosen at random.
    """

    draws: ClassVar[int] = 64

    def claim(self, known: Blind, *, key: Key) -> Labels:
        """`known.count` labels with these counts."""
        order = key.numpy().permutation(len(known.frequencies))
        shares = known.frequencies[order]
        guessed = np.zeros(len(shares), dtype=np.int64)
        gains = _exceeds(guessed, known.count, shares)
        for _ in range(known.count):
            best = int(gains.argmax())
            guessed[best] += 1
            gains[best] = _exceeds(guessed[[best]], known.count, shares[[best]])[0]
        return Labels(torch.from_numpy(np.repeat(order, guessed).astype(np.int64)))


INPUT_GUESSES: tuple[AbstractInputGuess, ...] = (MeanInput(), RandomInput(), UniformNoise(), Midpoint())
LABEL_GUESSES: tuple[AbstractLabelGuess, ...] = (FrequentLabel(), RandomLabel(), LikelyCounts())


@final
@dataclass(frozen=True)
class Level:
    """The chance level of one metric on one secret: value = mean of items, reached by `guess`.

    items: the guess's expected score on each private item, in the secret's order. guess: None for sequences, whose
    guesses are constants (`sequences.Blindly`).
    """

    value: float
    items: tuple[float, ...]
    guess: AbstractGuess | None = None


def levels(metrics: Iterable[AbstractMetric], truth: Truth, known: Blind, *, key: Key) -> dict[AbstractMetric, Level]:
    """For each metric the best score that a blind guess reaches in expectation over its own randomness.

    The best guess is chosen with the secret at hand, which can only raise the level. Guesses take the same path as
    claims. Raises `BadInput` when no guess applies (an unbounded domain without public data).
    """
    chosen = tuple(metrics)
    on_inputs = tuple(metric for metric in chosen if isinstance(metric, AbstractInputMetric))
    on_labels = tuple(metric for metric in chosen if isinstance(metric, AbstractLabelMetric))
    found: dict[AbstractMetric, Level] = {}
    for input_guess in INPUT_GUESSES if on_inputs else ():
        if input_guess.refusal(known) is None:
            _improve(found, _input_levels(input_guess, on_inputs, truth, known, key))
    for label_guess in LABEL_GUESSES if on_labels else ():
        _improve(found, _label_levels(label_guess, on_labels, truth, known, key))
    if len(found) < len(chosen):
        raise BadInput("no blind guess exists for an unbounded domain without public data; pass public=")
    return found


def _input_levels(
    guess: AbstractInputGuess, metrics: Sequence[AbstractInputMetric], truth: Truth, known: Blind, key: Key
) -> dict[AbstractMetric, Level]:
    rows: dict[AbstractMetric, list[tuple[float, ...]]] = {metric: [] for metric in metrics}
    for draw in range(guess.draws):
        claim = guess.claim(known, key=key.child(type(guess).__name__, draw))
        values = displayed(claim.values, truth.domain)[pair_inputs(claim, truth).known()[1]]
        for metric in metrics:
            rows[metric].append(metric.items(values, truth.inputs))
    return {metric: _level(drawn, guess) for metric, drawn in rows.items()}


def _label_levels(
    guess: AbstractLabelGuess, metrics: Sequence[AbstractLabelMetric], truth: Truth, known: Blind, key: Key
) -> dict[AbstractMetric, Level]:
    claims = [guess.claim(known, key=key.child(type(guess).__name__, draw)).values for draw in range(guess.draws)]
    return {metric: _level([metric.items(claim, truth.labels) for claim in claims], guess) for metric in metrics}


def _level(drawn: Sequence[tuple[float, ...]], guess: AbstractGuess) -> Level:
    items = tuple(math.fsum(column) / len(drawn) for column in zip(*drawn, strict=True))
    return Level(math.fsum(items) / len(items), items, guess)


def _improve(found: dict[AbstractMetric, Level], candidates: dict[AbstractMetric, Level]) -> None:
    for metric, level in candidates.items():
        sign = 1 if metric.direction is Direction.HIGHER else -1
        if metric not in found or sign * level.value > sign * found[metric].value:
            found[metric] = level


def _exceeds(counts: NDArray[np.int64], size: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    # P(N > g) for N ~ Binomial(size, share) is the regularized incomplete beta function I_share(g + 1, size - g).
    return np.asarray(special.betainc(counts + 1, np.maximum(size - counts, 1e-300), shares), dtype=np.float64)


def _pool(known: Blind) -> Tensor:
    if known.public is None:
        raise BadInput("this guess needs public data; ask its refusal first")
    return known.public.inputs.detach()


def _unbounded(known: Blind) -> str | None:
    bounded = bool(torch.isfinite(known.low).all() and torch.isfinite(known.high).all())
    return None if bounded else "the domain is unbounded, so it has neither a middle nor uniform noise"
