"""The trade-off between finding and false alarm that an event leaves, from its hockey-stick divergences.

For laws P and Q of a release and a real e, H(e) = sup_A P(A) - exp(e) Q(A) is the hockey-stick divergence. A test that
raises the alarm on A has TPR = P(A) <= exp(e) Q(A) + H(e) = exp(e) FPR + H(e): each e bounds every test by a line, and
the smallest of all lines is the power of the best test (convex duality; Dong, Roth & Su 2019, arXiv:1905.02383,
proposition 2.12).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from leakscope.bounds.accounting import COARSE, SCALE, DeltaOf, deltas, epsilon
from leakscope.core.arguments import instance, number
from leakscope.core.errors import BadInput, optional

if TYPE_CHECKING:
    from dp_accounting import DpEvent

CELLS = 40
"""Values of e that are compared at once, each time between the neighbors of the best."""
ROUNDS = 5
FURTHEST = 50.0
"""The largest |e| that is tried where nothing else ends the range: exp(-50) is below rounding of a probability."""


@final
class Question(enum.StrEnum):
    """Which of the two laws raises false alarms. With sampling, or several terms of noise, it makes a difference."""

    EITHER = "either"
    """The larger power of both ways round: what the mechanism allows whatever is asked."""
    PRESENT = "present"
    """Is it in? False alarms are raised by releases without it, finds by releases with it."""


@final
@dataclass(frozen=True, eq=False)
class TradeOff:
    """The best tests between P (what is found) and Q (what raises false alarms).

    divergence: e -> H(e) or more, for an array of real e; each value in [0, 1].

    >>> from dp_accounting import GaussianDpEvent
    >>> curve = trade_off(GaussianDpEvent(1.0))
    >>> round(curve.power(0.01), 3), round(curve.advantage, 3)
    (0.092, 0.383)
    """

    divergence: DeltaOf

    def power(self, fpr: float) -> float:
        """The largest true positive rate at this false positive rate, in [fpr, 1]: 1 - f(fpr), f = T(Q, P).

        fpr: in [0, 1]. Raises `BadInput` on another.
        """
        rate = number("fpr", fpr, low=0, high=1)
        # exp(e) FPR >= 1 says nothing, so the lines end where that begins.
        end = min(FURTHEST, -math.log(rate)) if rate > 0 else FURTHEST
        # Apart, since H may have a corner at 0, where the larger of the two ways round changes.
        best = min(self._lowest(rate, -FURTHEST, 0.0), self._lowest(rate, 0.0, end))
        # A test that ignores the release has TPR = FPR, so nothing below that is a bound; only rounding could go there.
        return min(1.0, max(rate, best))

    def _lowest(self, rate: float, low: float, high: float) -> float:
        """The smallest of the lines over an interval, on which they fall and then rise."""
        best = math.inf
        for _ in range(ROUNDS):
            places = np.linspace(low, high, CELLS + 1)
            values = np.exp(places) * rate + self.divergence(places)
            at = int(values.argmin())
            # Each line bounds by itself: to miss the lowest costs tightness, never truth.
            best = min(best, float(values[at]))
            low, high = float(places[max(0, at - 1)]), float(places[min(CELLS, at + 1)])
        return best

    @property
    def advantage(self) -> float:
        """The largest TPR - FPR of any test, in [0, 1]: the total variation H(0), the same both ways round."""
        return float(self.divergence(np.zeros(1))[0])

    def exchanged(self) -> TradeOff:
        """The same with P and Q exchanged: H'(e) = 1 - exp(e) + exp(e) H(-e), by the complement of the alarm's set."""

        def divergence(places: NDArray[np.float64]) -> NDArray[np.float64]:
            return _probable(1 - np.exp(places) * (1 - self.divergence(-places[::-1])[::-1]))

        return TradeOff(divergence)


def trade_off(event: DpEvent, *, question: Question = Question.EITHER) -> TradeOff:
    """The trade-off of an event, in its own adjacency, computed once for any number of rates.

    question: where not `EITHER`, of events made of Gaussian and Laplace noise and of Poisson samples of them.
    All values are rounded up. Raises `BadInput` on other events and `MissingExtra` without the package.

    >>> from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    >>> event = PoissonSampledDpEvent(0.5, GaussianDpEvent(1.0))
    >>> [round(trade_off(event, question=question).power(0.6), 3) for question in Question]
    [0.784, 0.747]
    """
    instance("question", question, Question, "give Question.EITHER or Question.PRESENT")
    if question is Question.EITHER:
        return _either(event)
    return TradeOff(_composed(event))


def _either(event: DpEvent) -> TradeOff:
    """From deltas of e >= 0, which hold both ways round; for e < 0 with the laws exchanged."""
    lost = deltas(event)

    def divergence(places: NDArray[np.float64]) -> NDArray[np.float64]:
        size = np.abs(places)
        # The accountant wants them in order, which sizes of both signs are not.
        order = np.argsort(size)
        found = np.empty_like(size)
        found[order] = lost(size[order])
        return _probable(np.where(places >= 0, found, 1 - np.exp(places) * (1 - found)))

    return TradeOff(divergence)


def _composed(event: DpEvent) -> DeltaOf:
    """H of "with" against "without", from the divergences of each step at the points of a grid, convolved.

    The accountant of dp-accounting knows both ways round and tells only the larger; its parts know one. Between the
    points H is replaced by chords of a convex function, hence rounded up (Doroshenko et al. 2022, arXiv:2207.04380).
    """
    first = epsilon(event, delta=SCALE)
    if math.isinf(first):
        return np.ones_like
    distribution = optional("dp_accounting.pld.pld_pmf", extra="dp", purpose="privacy accounting")
    # As in `accounting`: relative to epsilon, so that little noise needs no more cells than much.
    width, whole = COARSE * max(first, COARSE), None
    for loss, times in _losses(event, 1):
        ends = loss.connect_dots_bounds()
        low, high = math.floor(ends.epsilon_lower / width), math.ceil(ends.epsilon_upper / width)
        values = loss.get_delta_for_epsilon(np.arange(low, high + 1) * width)
        step = distribution.create_pmf_pessimistic_connect_dots_fixed_gap(width, low, high, values).self_compose(times)
        whole = step if whole is None else whole.compose(step)
    if whole is None:
        return lambda places: _probable(1 - np.exp(places))
    return lambda places: _probable(np.asarray(whole.get_delta_for_epsilon(places), dtype=np.float64))


def _losses(event: DpEvent, times: int) -> Iterator[tuple[Any, int]]:
    """The noises of an event, "with" above "without", and how often each is added. Raises `BadInput` as above."""
    dp = optional("dp_accounting", extra="dp", purpose="privacy accounting")
    made = optional("dp_accounting.pld.privacy_loss_mechanism", extra="dp", purpose="privacy accounting")
    if isinstance(event, dp.SelfComposedDpEvent):
        yield from _losses(event.event, event.count * times)
        return
    if isinstance(event, dp.ComposedDpEvent):
        for part in event.events:
            yield from _losses(part, times)
        return
    if isinstance(event, dp.NoOpDpEvent):
        return
    sampled = isinstance(event, dp.PoissonSampledDpEvent)
    rate, noise = (event.sampling_probability, event.event) if sampled else (1.0, event)
    for kind, loss in ((dp.GaussianDpEvent, made.GaussianPrivacyLoss), (dp.LaplaceDpEvent, made.LaplacePrivacyLoss)):
        if isinstance(noise, kind):
            # REMOVE: the law with the contribution stands above the one without it.
            remove = made.AdjacencyType.REMOVE
            yield loss(noise.noise_multiplier, sampling_prob=rate, adjacency_type=remove), times
            return
    raise BadInput(f"which way round is asked is not known of {event!r}; ask with Question.EITHER, which holds both")


def _probable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(values, nan=1.0, posinf=1.0), 0.0, 1.0)
