"""What an attack has shown of a mechanism: a lower confidence bound of its epsilon, from counts of trials.

Every function errs upward with at most the probability 1 - level, whatever the truth: what it returns is at most the
smallest e for which the release is (e, delta)-private against the game that was played.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from leakscope.core.arguments import count, number
from leakscope.core.errors import BadInput
from leakscope.numerics.intervals import clopper_pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lower_from_rates(
    found: tuple[int, int], alarms: tuple[int, int], *, delta: float, level: float = 0.95, thresholds: int = 1
) -> float:
    """ln((TPR - delta) / FPR) or ln((1 - FPR - delta) / (1 - TPR)), the larger, at the limits of both rates; >= 0.

    found: (true positives, trials with the contribution). alarms: (false positives, trials without it), all trials
    independent. Limits of Clopper and Pearson, each with error (1 - level) / 2 / thresholds; both directions use the
    same two limits, so they cost no more (Nasr et al. 2021, arXiv:2101.04535, section 4).
    thresholds: among how many fixed ones this was chosen after looking (Bonferroni). For a threshold that was chosen
    on other trials it is 1: `lower_from_scores` does that. Raises `BadInput` on impossible counts, delta or level.

    >>> round(lower_from_rates((90, 100), (5, 100), delta=1e-5), 2), lower_from_rates((9, 10), (9, 10), delta=1e-5)
    (1.99, 0.0)
    """
    wrong = (1 - _level(level)) / count("thresholds", thresholds)
    # An interval of level 1 - a has the error a / 2 on either side, which is the half that each limit gets.
    least = clopper_pearson(*_of("found", found), level=1 - wrong).low
    most = clopper_pearson(*_of("alarms", alarms), level=1 - wrong).high
    lost = _delta(delta)
    # P(A) <= exp(e) Q(A) + delta for A = "flagged", and with the parts exchanged for A = "not flagged".
    return max(0.0, _log_ratio(least - lost, most), _log_ratio(1 - most - lost, 1 - least))


def lower_from_scores(present: Sequence[float], absent: Sequence[float], *, delta: float, level: float = 0.95) -> float:
    """The bound of `lower_from_rates` for "score above the threshold", whose threshold every other trial chooses.

    present, absent: one score per independent trial with and without the contribution, in the order of the trials.
    Trials 0, 2, 4, ... choose the threshold, 1, 3, 5, ... are counted: they know nothing of the choice, so that it
    needs no correction. Raises `BadInput` below two trials of either kind or on scores that are not finite.

    >>> lower_from_scores(range(100, 200), range(100), delta=1e-5) > 2
    True
    """
    there, gone = _scores("present", present), _scores("absent", absent)
    threshold = _chosen(there[::2], gone[::2], delta, level)
    there, gone = there[1::2], gone[1::2]
    return lower_from_rates(
        (int((there > threshold).sum()), len(there)),
        (int((gone > threshold).sum()), len(gone)),
        delta=delta,
        level=level,
    )


def lower_from_guesses(right: int, guesses: int, *, chance: float, delta: float, level: float = 0.95) -> float:
    """The smallest e that allows as many right guesses: s <= exp(e) chance + delta and s <= 1 - exp(-e) (1 - chance -
    delta), for the limit s of Clopper and Pearson with error 1 - level; >= 0, infinite where no e allows them.

    right of `guesses` independent ones, each among candidates of which a guess that sees nothing is right with at most
    `chance`: 1 / K for K equally likely ones, the largest prior otherwise. Both inequalities are those of
    `upper.largest_share` for an (e, delta)-private release. Raises `BadInput` on impossible counts and
    probabilities.

    >>> round(lower_from_guesses(137, 300, chance=0.1, delta=1e-5), 2), lower_from_guesses(30, 300, chance=0.1, delta=0)
    (1.41, 0.0)
    """
    blind, lost = number("chance", chance, low=0, high=1), _delta(delta)
    share = clopper_pearson(*_of("right", (right, guesses)), level=1 - 2 * (1 - _level(level))).low
    return max(0.0, _log_ratio(share - lost, blind), _log_ratio(1 - blind - lost, 1 - share))


def _chosen(there: NDArray[np.float64], gone: NDArray[np.float64], delta: float, level: float) -> float:
    """The threshold with the largest bound on these trials."""
    # Denser toward both ends, where few false alarms are. More find nothing better, and each costs two limits.
    tail = np.logspace(-5, -2, 10)
    ranks = np.concatenate([tail, np.linspace(0, 1, 41), 1 - tail])
    tried = np.unique(np.quantile(np.concatenate([there, gone]), ranks, method="lower"))
    found = [(int((there > place).sum()), int((gone > place).sum())) for place in tried]
    bounds = [
        lower_from_rates((right, len(there)), (wrong, len(gone)), delta=delta, level=level) for right, wrong in found
    ]
    return float(tried[int(np.argmax(bounds))])


def _log_ratio(above: float, below: float) -> float:
    """ln(above / below); -inf where above says nothing, inf where no e makes `below` large enough."""
    if above <= 0:
        return -math.inf
    return math.log(above / below) if below > 0 else math.inf


def _scores(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 2 or not bool(np.isfinite(scores).all()):
        raise BadInput(f"expected at least two finite scores in {name}, one per trial; got shape {scores.shape}")
    return scores


def _of(name: str, counted: tuple[int, int]) -> tuple[int, int]:
    part, whole = counted
    whole = count(f"{name}, of", whole)
    return count(name, part, low=0, high=whole), whole


def _delta(delta: float) -> float:
    return number("delta", delta, low=0, high=1)


def _level(level: float) -> float:
    return number("level", level, low=0.5, high=1, low_open=True, high_open=True)
