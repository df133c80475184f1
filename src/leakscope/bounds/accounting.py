"""The privacy of a mechanism's event, by the dp-accounting package (extra "dp")."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leakscope.core.errors import BadInput, optional

if TYPE_CHECKING:
    from dp_accounting import DpEvent

DeltaOf = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What is lost at each of several epsilons."""
SCALE = 1e-5
"""The delta whose epsilon sets the grid where a whole curve is asked for."""
COARSE = 1e-3
"""That grid: probabilities are then within 1e-5, in a tenth of the time."""
GRID = 1e-4
"""Width of a cell of the privacy loss grid, as a fraction of a first estimate of epsilon."""


def epsilon(event: DpEvent, *, delta: float) -> float:
    """The least known e with P(out | with) <= exp(e) * P(out | without) + delta, and the same the other way round.

    An upper bound, in [0, inf]: the smaller of the privacy loss distribution's, rounded up (Koskela et al. 2020,
    arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380), and the Renyi bound (Mironov 2017, arXiv:1702.07476);
    infinite where a part of the event is `NonPrivateDpEvent`. Adjacency is the event's: one client's update, of `DPSGD`
    one example, is there or is not.
    delta: in the open interval (0, 1), usually below one over the number of clients.
    Raises `BadInput` on another delta or on an event that neither accountant knows, `MissingExtra` without the package.

    >>> from dp_accounting import GaussianDpEvent, NonPrivateDpEvent
    >>> round(epsilon(GaussianDpEvent(1.0), delta=1e-5), 2)
    4.38
    >>> epsilon(NonPrivateDpEvent(), delta=1e-5)
    inf
    """
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise BadInput(
            f"expected 0 < delta < 1, got {delta!r}; choose less than one over the number of clients, such as 1e-5"
        )
    # Both are upper bounds, hence the smaller one is.
    return min(_epsilon(accountant, delta) for accountant in _accountants(event, delta))


def deltas(event: DpEvent) -> DeltaOf:
    """The function e -> least known d with P(out | with) <= exp(e) P(out | without) + d, and the same swapped.

    Upper bounds in [0, 1], rounded up as `epsilon` is, for an array of e >= 0. Raises as `epsilon`.

    >>> from dp_accounting import GaussianDpEvent
    >>> deltas(GaussianDpEvent(1.0))(np.array([0.0, 1.0])).round(3)
    array([0.383, 0.127])
    """
    # The last one: the privacy loss is within its grid of the truth, and Renyi helps only where nothing else knows.
    accountant = _accountants(event, SCALE, grid=COARSE)[-1]

    def lost(places: NDArray[np.float64]) -> NDArray[np.float64]:
        # 1 is always true, also of what overflowed.
        return np.clip(np.nan_to_num(_lost(accountant, places), nan=1.0, posinf=1.0), 0.0, 1.0)

    return lost


def _accountants(event: DpEvent, delta: float, *, grid: float = GRID) -> list[Any]:
    """Those that know the event, after it; None for one whose numbers overflow. Raises `BadInput` where none does."""
    renyi, loss = (_package(name) for name in ("rdp", "pld"))
    found = []
    # First the cheap one: its size says how fine the grid of the other has to be.
    rdp = renyi.RdpAccountant()
    if rdp.supports(event):
        found.append(_after(rdp, event))
    first = _epsilon(found[0], delta) if found else math.inf
    # Relative to epsilon: on a fixed grid little noise would need billions of cells. Absolute where Renyi says nothing.
    width = grid * first if 0 < first < math.inf else 1e-4
    # Its default rounds losses up, so that what the grid adds is never on the wrong side.
    pld = loss.PLDAccountant(value_discretization_interval=width)
    if pld.supports(event):
        found.append(_after(pld, event))
    if not found:
        raise BadInput(
            f"neither accountant of dp-accounting knows {event!r}; give the mechanism an event that it knows"
        )
    return found


def _package(name: str) -> Any:
    return optional(f"dp_accounting.{name}", extra="dp", purpose="privacy accounting")


def _after(accountant: Any, event: DpEvent) -> Any:
    try:
        # With next to no noise exponentials overflow to infinity, which is the right answer there and no warning.
        with np.errstate(all="ignore"):
            return accountant.compose(event)
    except OverflowError:
        return None


def _epsilon(accountant: Any, delta: float) -> float:
    """The accountant's epsilon; infinite, which is an upper bound too, where its numbers overflow (absurd noise)."""
    try:
        with np.errstate(all="ignore"):
            return math.inf if accountant is None else float(accountant.get_epsilon(delta))
    except OverflowError:
        return math.inf


def _lost(accountant: Any, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The accountant's delta at each epsilon; 1, which is an upper bound too, where its numbers overflow."""
    if accountant is None:
        return np.ones_like(places)
    try:
        with np.errstate(all="ignore"):
            if isinstance(accountant, _package("pld").PLDAccountant):
                # one number instead of an array where nothing is private
                return np.ones_like(places) * np.asarray(accountant.get_delta(places), dtype=np.float64)
            return np.array([float(accountant.get_delta(float(place))) for place in places])
    except OverflowError:
        return np.ones_like(places)
