"""From features to pictures by what public pictures of near features show: in closed form, sharpened."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.decoder import HELD, PART, Lessons
from leakscope.core.effort import State
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key

LANDMARKS, EXAMPLES = 3000, 20000
"""Estimates whose neighborhoods span the pictures, and estimates that are learned from, at most: the time is EXAMPLES
LANDMARKS^2, half a minute, and the state LANDMARKS (features + pixels) numbers. All pictures as landmarks find about as
much, at a state of hundreds of megabytes. Of tens of thousands of small pictures the network of `decoder` learns more.
"""
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Of the ridge, that are tried; the width is the median distance, half and twice of which did not differ."""
GAINS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
"""By which what distinguishes a picture from its class is multiplied, that are tried."""
RATE, PAIRS = 0.01, 1000
"""Of false positives, at which held-out pictures are told apart; and how many pairs of a class that takes at least."""
JITTER = 1e-5
"""On the diagonal of the landmarks' kernel, which float32 leaves singular."""


def learned(lessons: Lessons, *, key: Key) -> State:
    """x = m_c + g (k(r, L) a), r = sign(z) sqrt|z| of the estimate z, k(r, l) = exp(-|r - l|^2 / median), c its class.

    In it a is kernel ridge regression of pictures less their class's mean m_c, on the span of `LANDMARKS` (Nystroem):
    one estimate each of pictures that `key` draws. The root evens out what a few large features would decide alone.
    The mean picture of all that have such features, which has the least squared error, is a blur that resembles any
    plain picture: of strengths and gains g those are taken that find most held-out pictures, by the rule by which a
    picture counts as found, nearer to the truth than 99 % of what is decoded of others of its class. Where too few of
    each class can be held out, the strength of the least squared error, and g = 1.
    Raises `BadInput` where nothing or what is not finite is to be learned from.
    """
    if not len(lessons.estimates) or not bool(torch.isfinite(lessons.estimates).all()):
        raise BadInput(f"expected finite estimates to learn pictures of, got {tuple(lessons.estimates.shape)}, not all "
                       "of them finite")  # fmt: skip
    order = torch.randperm(len(lessons.estimates), generator=key.generator())
    which = torch.arange(len(order)) if lessons.which is None else lessons.which
    ones = order[_first(which[order])]
    pixels, roots = lessons.pictures.flatten(1), rooted(lessons.estimates)
    means = pixels.new_zeros(lessons.many, pixels.shape[1]).index_add_(0, lessons.classes, pixels)
    means /= torch.bincount(lessons.classes, minlength=lessons.many).clamp_min(1).unsqueeze(1)
    landmarks = roots[ones[:LANDMARKS]]
    near = _squared(landmarks[:1000], landmarks[:1000])
    scale = near[~torch.eye(len(near), dtype=torch.bool)].median() if len(near) > 1 else near.new_ones(())
    scale = torch.where(scale > 0, scale, 1.0)
    own = torch.exp(-_squared(landmarks, landmarks) / scale).double()
    own.diagonal().add_(JITTER)
    span = torch.linalg.cholesky(own).float()
    held = which[order] % HELD == 0

    def sums(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of products of what spans, and of these with pictures; in parts, as all of it would be gigabytes."""
        within = torch.zeros(len(span), len(span), dtype=torch.float64)
        across = torch.zeros(len(span), pixels.shape[1], dtype=torch.float64)
        for part in rows.split(PART):
            spanned = _spanned(roots[part], landmarks, span, scale)
            within += spanned.T @ spanned
            across += spanned.T @ (pixels[part] - means[lessons.classes[part]])
        return within, across

    given = sums(order[:EXAMPLES][~held[:EXAMPLES]])
    rest = sums(order[:EXAMPLES][held[:EXAMPLES]])
    tried = ones[which[ones] % HELD == 0][: EXAMPLES // HELD]
    classes, true = lessons.classes[tried], pixels[tried] - means[lessons.classes[tried]]
    shown = _spanned(roots[tried], landmarks, span, scale) if len(tried) else landmarks[:0]
    enough = bool(len(tried)) and _pairs(classes, lessons.many) >= PAIRS
    best, strength, gain = -math.inf, 1.0, 1.0
    for one in STRENGTHS if len(tried) else ():
        made = shown @ _solved(*given, one)
        for times in GAINS if enough else (1.0,):
            # cut off where the claim is, around each class's mean
            cut = (means[classes] + times * made).clamp(lessons.low, lessons.high) - means[classes]
            score = told_apart(cut, true, classes) if enough else -float((cut - true).square().mean())
            if score > best:
                best, strength, gain = score, one, times
    weights = _solved(given[0] + rest[0], given[1] + rest[1], strength)
    dual = torch.linalg.solve_triangular(span.T, weights, upper=True)
    return {"means": means, "landmarks": landmarks, "dual": gain * dual, "scale": float(scale),
            "strength": strength, "gain": gain}  # fmt: skip


def decoded(
    state: dict[str, Any], limits: tuple[float, float], estimates: Tensor, classes: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """(n, *shape): the pictures that what was `learned` makes of estimates (n, d) of (n,) classes, in [low, high]."""
    roots, (low, high) = rooted(estimates), limits
    kernels = [torch.exp(-_squared(part, state["landmarks"]) / state["scale"]) for part in roots.split(PART)]
    found: Tensor = state["means"][classes] + torch.cat(kernels) @ state["dual"]
    return found.clamp(low, high).reshape(-1, *shape)


def told_apart(made: Tensor, true: Tensor, classes: Tensor) -> float:
    """The share of pictures (n, pixels) nearer to the truth than `RATE` of those made of others of their class are.

    As the benchmark asks it of heads: one bound for each class, of all pairs.
    """
    shares = []
    for one in classes.unique().tolist():
        errors = _squared(true[classes == one], made[classes == one])
        if len(errors) > 1:
            others = errors[~torch.eye(len(errors), dtype=torch.bool)]
            # by rank: `quantile` takes no more than 16 million
            bound = others.kthvalue(max(1, math.ceil(RATE * len(others)))).values
            shares.append((errors.diagonal() < bound).float().mean())
    return float(torch.stack(shares).mean())


def rooted(features: Tensor) -> Tensor:
    """sign(z) sqrt|z|."""
    return features.sign() * features.abs().sqrt()


def _first(which: Tensor) -> Tensor:
    """The first place of each number, in the order of places."""
    order = torch.sort(which, stable=True)
    new = torch.ones(len(which), dtype=torch.bool)
    new[1:] = order.values[1:] != order.values[:-1]
    return order.indices[new].sort().values


def _pairs(classes: Tensor, many: int) -> int:
    counts = torch.bincount(classes, minlength=many)
    return int((counts * (counts - 1)).min())


def _squared(one: Tensor, other: Tensor) -> Tensor:
    products = one @ other.T
    distances: Tensor = one.square().sum(1, keepdim=True) + other.square().sum(1) - 2 * products
    return distances.clamp_min(0)


def _spanned(roots: Tensor, landmarks: Tensor, span: Tensor, scale: Tensor) -> Tensor:
    """(n, L): features whose products are the kernel's, within the landmarks' span."""
    kernel = torch.exp(-_squared(roots, landmarks) / scale)
    spanned: Tensor = torch.linalg.solve_triangular(span, kernel.T, upper=False).T
    return spanned


def _solved(within: Tensor, across: Tensor, strength: float) -> Tensor:
    shifted = within.clone()
    shifted.diagonal().add_(strength)
    found: Tensor = torch.cholesky_solve(across, torch.linalg.cholesky(shifted)).float()
    return found
