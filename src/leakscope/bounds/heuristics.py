"""Simpler formulas of the literature for DP-SGD, each labeled: which of them are bounds and which are not."""

from __future__ import annotations

import math

from scipy.special import gammaln, logsumexp, ndtr, ndtri

from leakscope.core.arguments import count, number

ORDERS = range(2, 257)
"""Renyi orders that are tried, whole numbers, for which the sampled Gaussian has a finite sum."""


def limit_power(*, noise_multiplier: float, rate: float, steps: int, fpr: float) -> float:
    """Not a bound: Phi(Phi^-1(fpr) + mu), mu = q sqrt(T (exp(1 / s^2) - 1)).

    The power in the limit of many small steps, by the central limit theorem of composition (Dong, Roth & Su 2019,
    arXiv:1905.02383, section 5; Bu et al. 2020, arXiv:1911.11607). Where sampling is frequent and noise small it is far
    above the truth, and it may be below it.
    noise_multiplier: s > 0. rate: q in (0, 1]. steps: T >= 1. fpr: in [0, 1]. Raises `BadInput` on others.

    >>> round(limit_power(noise_multiplier=1.82, rate=0.5, steps=64, fpr=0.01), 3)
    0.519
    """
    s, q, t = _setting(noise_multiplier, rate, steps)
    false = number("fpr", fpr, low=0, high=1)
    # exp overflows for s below a 26th, where nothing is hidden
    mu = q * math.sqrt(t * math.expm1(1 / s**2)) if s > 0.05 else math.inf
    return float(ndtr(ndtri(false) + mu)) if 0 < false < 1 else false


def main_advantage(*, noise_multiplier: float, rate: float, steps: int, distance: float = 1.0) -> float:
    """Not a bound: erf(q sqrt(T) D / (2 sqrt(2) s)), the main term of the largest TPR - FPR.

    Cherubin et al. 2024 (USENIX Security), theorem 6: one minus Bayes security, up to a term of the order sqrt(q T) / s
    that is left out here and above 1 where sampling is frequent. For q = 1 it is exact.
    distance: D >= 0, how far the clipped gradients of both worlds are apart in units of the clip: 1 for membership
    (there or not), 2 for two records, less for two values of one attribute whose gradients are known to be near.
    noise_multiplier: s > 0. rate: q in (0, 1]. steps: T >= 1. Raises `BadInput` on others.

    >>> round(main_advantage(noise_multiplier=1.82, rate=0.5, steps=64), 3)
    0.728
    """
    s, q, t = _setting(noise_multiplier, rate, steps)
    apart = number("distance", distance, low=0)
    return math.erf(q * math.sqrt(t) * apart / (2 * math.sqrt(2) * s))


def renyi_share(*, noise_multiplier: float, rate: float, steps: int, chance: float) -> float:
    """A bound, and a loose one: min over orders a of (chance exp(R_a))^((a - 1) / a), in [chance, 1].

    The largest probability of a right guess or reconstruction (Balle et al. 2022, arXiv:2201.04845), where
    R_a = T / (a - 1) ln sum_k C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 s^2)) is the Renyi divergence of "with"
    from "without" (Mironov et al. 2019, arXiv:1908.10530, section 3.3). `upper.largest_share` is never larger.
    noise_multiplier: s > 0. rate: q in (0, 1]. steps: T >= 1. chance: in [0, 1]. Raises `BadInput` on others.

    >>> round(renyi_share(noise_multiplier=5.21, rate=0.5, steps=100, chance=0.01), 3)
    0.119
    """
    s, q, t = _setting(noise_multiplier, rate, steps)
    blind = number("chance", chance, low=0, high=1)
    if blind == 0:
        return 0.0
    found = 0.0
    for order in ORDERS:
        found = min(found, (order - 1) / order * (math.log(blind) + _renyi(s, q, t, order)))
    return max(blind, math.exp(found))


def _renyi(s: float, q: float, t: int, order: int) -> float:
    if q == 1:
        return t * order / (2 * s**2)
    ks = range(order + 1)
    terms = [
        float(gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1))
        + (order - k) * math.log1p(-q) + k * math.log(q) + k * (k - 1) / (2 * s**2)
        for k in ks
    ]  # fmt: skip
    return t / (order - 1) * float(logsumexp(terms))


def _setting(noise_multiplier: float, rate: float, steps: int) -> tuple[float, float, int]:
    return (
        number("noise_multiplier", noise_multiplier, low=0, low_open=True),
        number("rate", rate, low=0, high=1, low_open=True),
        count("steps", steps),
    )
