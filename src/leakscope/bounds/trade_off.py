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

from leakscope.bounds.accounting import COARSE, SCALE, deltas, epsilon, widest
from leakscope.core.arguments import instance, number
from leakscope.core.errors import BadInput, optional

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Array = NDArray[np.float64]

FURTHEST = 50.0
"""The largest |e|: exp(-50) is below rounding of a probability."""
_SIDE = np.concatenate([np.geomspace(1e-6, 1.0, 8000, endpoint=False), np.linspace(1.0, FURTHEST, 24_501)])
PLACES = np.concatenate([-_SIDE[::-1], [0.0], _SIDE])
"""The e at which lines are drawn: dense near 0, where the lowest ones lie if there is much noise. Any set of them is a
bound; of this one the lowest is within 1e-5 of the lowest of all, and 1e-4 where losses have atoms (Laplace)."""
_RATIOS = np.exp(PLACES)
LEAST = 0.1
"""The epsilon below which the grid of one way round is not made finer."""


@final
class Question(enum.StrEnum):
    """Which of the two laws raises false alarms. With sampling, or several terms of noise, it makes a difference."""

    EITHER = "either"
    """At least the larger power of both ways round: what the mechanism allows whatever is asked.

    At each e the larger H of both is taken, and the envelope of that may lie above both curves: a test that is best for
    one way round at one slope and for the other at another need not exist.
    """
    PRESENT = "present"
    """Is it in? False alarms are raised by releases without it, finds by releases with it."""
    ABSENT = "absent"
    """Is it out? The other way round."""


@final
@dataclass(frozen=True, eq=False)
class TradeOff:
    """The best tests between P (what is found) and Q (what raises false alarms).

    divergences: H(e) or more for each e of `PLACES`, in [0, 1].

    >>> from dp_accounting import GaussianDpEvent
    >>> curve = trade_off(GaussianDpEvent(1.0))
    >>> round(curve.power(0.01), 3), round(curve.advantage, 3)
    (0.092, 0.383)
    """

    divergences: Array

    def power(self, fpr: float) -> float:
        """The largest true positive rate at this false positive rate, in [fpr, 1]: 1 - f(fpr), f = T(Q, P).

        fpr: in [0, 1]. Raises `BadInput` on another.
        """
        rate = number("fpr", fpr, low=0, high=1)
        lowest = float((_RATIOS * rate + self.divergences).min())
        # A test that ignores the release has TPR = FPR, so nothing below that is a bound; only rounding could go there.
        return min(1.0, max(rate, lowest))

    @property
    def advantage(self) -> float:
        """The largest TPR - FPR of any test, in [0, 1]: the total variation H(0), the same both ways round."""
        return float(self.divergences[len(_SIDE)])


def trade_off(event: DpEvent, *, question: Question = Question.EITHER) -> TradeOff:
    """The trade-off of an event, in its own adjacency, computed once for any number of rates.

    question: where not `EITHER`, of events made of Gaussian and Laplace noise and of Poisson samples of them.
    All values are rounded up. Raises `BadInput` on other events and `MissingExtra` without the package.

    >>> from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    >>> event = PoissonSampledDpEvent(0.5, GaussianDpEvent(1.0))
    >>> [round(trade_off(event, question=question).power(0.6), 3) for question in Question]
    [0.784, 0.747, 0.784]
    """
    instance("question", question, Question, "give Question.EITHER, PRESENT or ABSENT")
    if question is not Question.EITHER:
        return TradeOff(_probable(_one_way(event, question)))
    # The accountant's deltas hold both ways round, so that for e < 0 H(e) = 1 - exp(e) + exp(e) H(-e), laws exchanged.
    lost = deltas(event)(np.append(0.0, _SIDE))
    return TradeOff(_probable(np.concatenate([(1 - np.exp(-_SIDE) * (1 - lost[1:]))[::-1], lost])))


def _one_way(event: DpEvent, question: Question) -> Array:
    """From the divergences of each step at the points of a grid, convolved.

    The accountant of dp-accounting knows both ways round and tells only the larger; its parts know one. Between the
    points H is replaced by chords of a convex function, hence rounded up (Doroshenko et al. 2022, arXiv:2207.04380).
    """
    first = epsilon(event, delta=SCALE)
    if math.isinf(first):
        return np.ones_like(PLACES)
    # As in `accounting` relative to epsilon, so that little noise needs no more cells than much; and not below, where
    # samples are rare and one of them still loses much: the losses of a step would lie on millions of cells.
    width, whole = max(COARSE * max(first, LEAST), widest(event)), None
    try:
        for loss, times in _losses(event, 1, question):
            step = _step(loss, width).self_compose(times)
            whole = step if whole is None else whole.compose(step)
    except OverflowError:
        return np.ones_like(PLACES)
    if whole is None:
        return np.asarray(1 - np.exp(PLACES), dtype=np.float64)
    return np.asarray(whole.get_delta_for_epsilon(PLACES), dtype=np.float64)


def _step(loss: Any, width: float) -> Any:
    """The distribution of a loss on a grid of this width, rounded up."""
    distribution = optional("dp_accounting.pld.pld_pmf", extra="dp", purpose="privacy accounting")
    ends = loss.connect_dots_bounds()
    low, high = math.floor(ends.epsilon_lower / width), math.ceil(ends.epsilon_upper / width)
    values = loss.get_delta_for_epsilon(np.arange(low, high + 1) * width)
    # Short ones are kept in another form, which those of other lengths cannot be convolved with.
    return distribution.create_pmf_pessimistic_connect_dots_fixed_gap(width, low, high, values).to_dense_pmf()


def _losses(event: DpEvent, times: int, question: Question) -> Iterator[tuple[Any, int]]:
    """The noises of an event, this way round, and how often each is added. Raises `BadInput` as `trade_off`."""
    dp = optional("dp_accounting", extra="dp", purpose="privacy accounting")
    made = optional("dp_accounting.pld.privacy_loss_mechanism", extra="dp", purpose="privacy accounting")
    if isinstance(event, dp.SelfComposedDpEvent):
        yield from _losses(event.event, event.count * times, question)
        return
    if isinstance(event, dp.ComposedDpEvent):
        for part in event.events:
            yield from _losses(part, times, question)
        return
    if isinstance(event, dp.NoOpDpEvent):
        return
    if isinstance(event, dp.GaussianDpEvent):
        # Distances add up as squares do: T steps are one with s / sqrt(T), without an error of the grid in each.
        event, times = dp.GaussianDpEvent(event.noise_multiplier / math.sqrt(times)), 1
    sampled = isinstance(event, dp.PoissonSampledDpEvent)
    rate, noise = (event.sampling_probability, event.event) if sampled else (1.0, event)
    for kind, loss in ((dp.GaussianDpEvent, made.GaussianPrivacyLoss), (dp.LaplaceDpEvent, made.LaplacePrivacyLoss)):
        if isinstance(noise, kind):
            # In REMOVE the law with the contribution stands above the one without it, which is P above Q.
            way = made.AdjacencyType.REMOVE if question is Question.PRESENT else made.AdjacencyType.ADD
            yield loss(noise.noise_multiplier, sampling_prob=rate, adjacency_type=way), times
            return
    raise BadInput(f"which way round is asked is not known of {event!r}; ask with Question.EITHER, which holds both")


def _probable(values: Array) -> Array:
    # 1 is always true, also of what overflowed
    return np.clip(np.nan_to_num(values, nan=1.0, posinf=1.0), 0.0, 1.0)
