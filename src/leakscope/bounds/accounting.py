"""The privacy of a mechanism's event, by the dp-accounting package (extra "dp")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from leakscope.core.errors import BadInput, optional

if TYPE_CHECKING:
    from dp_accounting import DpEvent

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
    renyi, loss = (_package(name) for name in ("rdp", "pld"))
    bounds = []
    # First the cheap one: its size says how fine the grid of the other has to be.
    rdp = renyi.RdpAccountant()
    if rdp.supports(event):
        bounds.append(_read(rdp, event, delta))
    # Relative to epsilon: on a fixed grid little noise would need billions of cells. Absolute where Renyi says nothing.
    width = GRID * bounds[0] if bounds and 0 < bounds[0] < math.inf else 1e-4
    # Its default rounds losses up, so that what the grid adds is never on the wrong side.
    pld = loss.PLDAccountant(value_discretization_interval=width)
    if pld.supports(event):
        bounds.append(_read(pld, event, delta))
    if not bounds:
        raise BadInput(
            f"neither accountant of dp-accounting knows {event!r}; give the mechanism an event that it knows"
        )
    # Both are upper bounds, hence the smaller one is.
    return min(bounds)


def _package(name: str) -> Any:
    return optional(f"dp_accounting.{name}", extra="dp", purpose="privacy accounting")


def _read(accountant: Any, event: DpEvent, delta: float) -> float:
    """The accountant's epsilon; infinite, which is an upper bound too, where its numbers overflow (absurd noise)."""
    try:
        # With next to no noise exponentials overflow to infinity, which is the right answer there and no warning.
        with np.errstate(all="ignore"):
            return float(accountant.compose(event).get_epsilon(delta))
    except OverflowError:
        return math.inf
