"""How often the intervals of few items hold the truth, over simulated samples whose truth is known.

    python benchmarks/interval_coverage.py [--quick] [--seed 0] [--repeats 20000]

A line for each kind of data and number of items (3, 4, 8, 16): the promise (at least 93 % of intervals that say 95 %),
the share measured, and how often the truth lies above and below. Exit code 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leakscope.numerics import intervals
from leakscope.numerics.intervals import Interval

PROMISE, COUNTS = 0.93, (3, 4, 8, 16)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A law with its mean, and the interval that is made for such data."""

    draw: Callable[[np.random.Generator, int], Floats]
    truth: float
    interval: Callable[[Floats], Interval]


def hits(probability: float) -> Kind:
    """Items that are right or wrong."""
    return Kind(
        lambda g, n: (g.random(n) < probability).astype(float), probability, lambda x: intervals.share(x[:, None])
    )


def batches(probability: float, together: float, size: int = 8) -> Kind:
    """Batches of hits: beta-binomial, where two items of a batch have the correlation `together`."""
    a, b = (p * (1 / together - 1) for p in (probability, 1 - probability))
    return Kind(
        lambda g, n: (g.random((n, size)) < g.beta(a, b, n)[:, None]).astype(float), probability, intervals.share
    )


def plain(draw: Callable[[np.random.Generator, int], Floats], truth: float) -> Kind:
    """Scores as they come."""
    return Kind(draw, truth, intervals.mean)


KINDS: dict[str, Kind] = {
    "normal": plain(lambda g, n: g.normal(1.0, 2.0, n), 1.0),
    "uniform": plain(lambda g, n: g.random(n), 0.5),
    "skewed to the right (exponential)": plain(lambda g, n: g.exponential(size=n), 1.0),
    "skewed to the left (exponential)": plain(lambda g, n: -g.exponential(size=n), -1.0),
    "log-normal, sigma 0.5": plain(lambda g, n: g.lognormal(0, 0.5, n), math.exp(0.125)),
    "Gumbel": plain(lambda g, n: g.gumbel(size=n), float(np.euler_gamma)),
    "binary, 10 %": hits(0.1),
    "binary, 30 %": hits(0.3),
    "binary, 50 %": hits(0.5),
    "binary, 90 %": hits(0.9),
    "batches of 8 hits, 30 %, correlation .1": batches(0.3, 0.1),
    "batches of 8 hits, 30 %, correlation .5": batches(0.3, 0.5),
    "batches of 8 hits, 10 %, correlation .1": batches(0.1, 0.1),
    "log-normal, sigma 1": plain(lambda g, n: g.lognormal(0, 1, n), math.exp(0.5)),
    "chi-squared, 1 degree": plain(lambda g, n: g.chisquare(1, n), 1.0),
}


def measured(kind: Kind, count: int, repeats: int, generator: np.random.Generator) -> tuple[float, float, float]:
    """The share of intervals that hold the truth, that lie below it, and that lie above it."""
    found = [kind.interval(kind.draw(generator, count)) for _ in range(repeats)]
    below = sum(one.high < kind.truth for one in found) / repeats
    above = sum(one.low > kind.truth for one in found) / repeats
    return 1 - below - above, below, above


def main() -> int:
    """Measure and print; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="2 000 repeats")
    chosen = parser.parse_args()
    repeats = 2000 if chosen.quick else chosen.repeats
    # Three standard errors of a share at the promise: an interval that keeps it is not called broken by luck.
    slack = 3 * math.sqrt(PROMISE * (1 - PROMISE) / repeats)
    broken = 0
    for name, kind in KINDS.items():
        for count in COUNTS:
            share, below, above = measured(kind, count, repeats, np.random.default_rng([chosen.seed, count]))
            failed = share < PROMISE - slack
            broken += failed
            print(
                f"{name:42} n = {count:2}  at least {PROMISE:.0%}  {share:6.1%}  "
                f"truth above {below:5.1%}, below {above:5.1%}"
                f"{'  BROKEN' if failed else ''}"
            )
    print(f"{broken} promises broken, {repeats} repeats, seed {chosen.seed}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
