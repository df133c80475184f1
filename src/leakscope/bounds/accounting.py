"""The privacy of a mechanism's event, by the dp-accounting package (extra "dp")."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from leakscope.core.arguments import count
from leakscope.core.errors import BadInput, optional
from leakscope.mechanisms.compose import accounting

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from leakscope.mechanisms.protocols.dpsgd import DPSGD

DeltaOf = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What is lost at each of several epsilons."""
SCALE = 1e-5
"""The delta whose epsilon sets the grid where a whole curve is asked for."""
COARSE = 5e-4
"""That grid: probabilities are then within 1e-5 of one step and 2e-4 of a hundred, in a fifth of the time."""
GRID = 1e-4
"""Width of a cell of the privacy loss grid, as a fraction of a first estimate of epsilon."""
CELLS = 2**19
"""About as many cells at most for the losses of one step, seconds: a quarter of them left epsilon 2 % above where it is
2e-4. Of rare samples epsilon may be next to nothing at a delta while one of them loses thousands, whose cells at the
width of that epsilon would take hours."""


@final
class Accountant(enum.StrEnum):
    """How an epsilon is computed. Each is an upper bound; the first is the sharper one wherever it is known."""

    PLD = "pld"
    """Privacy loss distributions (Koskela et al. 2020, arXiv:1906.03049), convolved on a grid that rounds up."""
    RDP = "rdp"
    """Renyi divergences (Mironov 2017, arXiv:1702.07476), added up order by order."""


def training_event(step: DPSGD, *, steps: int) -> DpEvent:
    """`steps` steps of DP-SGD on Poisson samples, each example in each of them with probability `step.rate`.

    The three numbers that decide are said: `step.noise_multiplier`, `step.rate` and steps. The rate is the sampler's
    own: a loader of batches of N - 1 has two of them, and an engine that takes one over their number samples at 1/2.
    `step.expected`, by which the noisy sum is divided, is no part of the event, but has to be a public constant.
    Raises `BadInput` for steps < 1, and where the sum of a Poisson sample is divided by its own secret size.

    >>> from leakscope.mechanisms.protocols.dpsgd import DPSGD
    >>> round(epsilon(training_event(DPSGD(4.0, 1.82, expected=5, rate=0.5), steps=64), delta=10**-1.1), 2)
    5.03
    """
    count("steps", steps)
    if step.rate < 1 and step.expected is None:
        raise BadInput(
            "the size of a Poisson sample is secret and cannot divide its sum; give DPSGD(..., expected=n, rate=q) "
            "with a constant n that everybody may know"
        )
    return step.training_event(rounds=steps)


def epsilon(event: DpEvent, *, delta: float, accountant: Accountant | None = None) -> float:
    """The least known e with P(out | with) <= exp(e) * P(out | without) + delta, and the same the other way round.

    An upper bound, in [0, inf]: the smaller of the privacy loss distribution's, rounded up (Koskela et al. 2020,
    arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380), and the Renyi bound (Mironov 2017, arXiv:1702.07476);
    infinite where a part of the event is `NonPrivateDpEvent`. Adjacency is the event's: one client's update, of `DPSGD`
    one example, is there or is not.
    delta: in the open interval (0, 1), usually below one over the number of clients.
    accountant: the bound of this one alone, to compare with what others print; None is the smaller of both.
    Raises `BadInput` on another delta or on an event that no such accountant knows, `MissingExtra` without the package.

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
    found = _accountants(event, delta)
    if accountant is None:
        # Both are upper bounds, hence the smaller one is.
        return min(_epsilon(one, delta) for one in found.values())
    if accountant not in found:
        raise BadInput(f"the accountant {accountant.value!r} does not know {event!r}; leave it out, or give another")
    return _epsilon(found[accountant], delta)


def deltas(event: DpEvent) -> DeltaOf:
    """The function e -> least known d with P(out | with) <= exp(e) P(out | without) + d, and the same swapped.

    Upper bounds in [0, 1], rounded up as `epsilon` is, for an array of e >= 0. Raises as `epsilon`.

    >>> from dp_accounting import GaussianDpEvent
    >>> deltas(GaussianDpEvent(1.0))(np.array([0.0, 1.0])).round(3)
    array([0.383, 0.127])
    """
    # The last one: the privacy loss is within its grid of the truth, and Renyi helps only where nothing else knows.
    accountant = list(_accountants(event, SCALE, grid=COARSE).values())[-1]

    def lost(places: NDArray[np.float64]) -> NDArray[np.float64]:
        # 1 is always true, also of what overflowed.
        return np.clip(np.nan_to_num(_lost(accountant, places), nan=1.0, posinf=1.0), 0.0, 1.0)

    return lost


def _accountants(event: DpEvent, delta: float, *, grid: float = GRID) -> dict[Accountant, Any]:
    """Those that know the event, after it; None for one whose numbers overflow. Raises `BadInput` where none does."""
    renyi, loss = (_package(name) for name in ("rdp", "pld"))
    found = {}
    # First the cheap one: its size says how fine the grid of the other has to be.
    rdp = renyi.RdpAccountant()
    if rdp.supports(event):
        found[Accountant.RDP] = _after(rdp, event)
    first = _epsilon(found[Accountant.RDP], delta) if found else math.inf
    # Relative to epsilon: on a fixed grid little noise would need billions of cells. Absolute where Renyi says nothing.
    width = max(grid * first if 0 < first < math.inf else 1e-4, widest(event))
    # Its default rounds losses up, so that what the grid adds is never on the wrong side.
    pld = loss.PLDAccountant(value_discretization_interval=width)
    if pld.supports(event):
        found[Accountant.PLD] = _after(pld, event)
    if not found:
        raise BadInput(
            f"neither accountant of dp-accounting knows {event!r}; give the mechanism an event that it knows"
        )
    return found


def widest(event: DpEvent) -> float:
    """The width of a grid at which `CELLS` hold what one step of the event loses; 0 where no noise is known of it."""
    dp = accounting()
    if isinstance(event, dp.ComposedDpEvent):
        return max(map(widest, event.events), default=0.0)
    if isinstance(event, dp.SelfComposedDpEvent | dp.PoissonSampledDpEvent):
        return widest(event.event)
    noise = getattr(event, "noise_multiplier", 0.0)
    if not noise > 0:
        return 0.0
    # (2 x - 1) / (2 s^2) at ten deviations, beyond which exp(-50) is left, where the grid of dp-accounting ends
    most = 1 / noise if isinstance(event, dp.LaplaceDpEvent) else 0.5 / noise / noise + 10 / noise
    return most / CELLS if math.isfinite(most) else 0.0


def _package(name: str) -> Any:
    return optional(f"dp_accounting.{name}", extra="dp", purpose="privacy accounting")


def _after(accountant: Any, event: DpEvent) -> Any:
    try:
        # With next to no noise exponentials overflow to infinity, which is the right answer there and no warning.
        with quietly():
            return accountant.compose(event)
    except OverflowError:
        return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without numpy's warnings, and without one for each Renyi order that is left out: the others bound as well."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        log.setLevel(before)


def _epsilon(accountant: Any, delta: float) -> float:
    """The accountant's epsilon; infinite, which is an upper bound too, where its numbers overflow (absurd noise)."""
    try:
        with quietly():
            return math.inf if accountant is None else float(accountant.get_epsilon(delta))
    except OverflowError:
        return math.inf


def _lost(accountant: Any, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The accountant's delta at each epsilon; 1, which is an upper bound too, where its numbers overflow."""
    if accountant is None:
        return np.ones_like(places)
    try:
        with quietly():
            if isinstance(accountant, _package("pld").PLDAccountant):
                # one number instead of an array where nothing is private
                return np.ones_like(places) * np.asarray(accountant.get_delta(places), dtype=np.float64)
            return np.array([float(accountant.get_delta(float(place))) for place in places])
    except OverflowError:
        return np.ones_like(places)
