"""From features to pictures by what public pictures of near features show: in closed form, sharpened."""

from __future__ import annotations

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
STRENGTH = 0.3
"""Of the ridge. The least squared error is at 1 to 3, where every direction of pictures is held back that is explained
in part; 0.03 to 0.3 find as many as each other once directions are enlarged, and 3 a quarter less (seed 20270201). The
width is the median distance, half and twice of which did not differ."""
SHARPER = 0.25
"""A direction of which the share e of the variance is explained is enlarged to e^-1/4 times: halfway from the mean
picture (e^0, the least squared error) to the spread of pictures (e^-1/2). Found of 1 000 photographs, development seed
20270201: 0.102 with e^0, 0.146 with e^-1/4, 0.147 with e^-1/2 at twice the error, 0.123 with one factor for all."""
EXPLAINED = 0.01
"""The least share that is believed. Of less hardly anything comes back, and its noise grows all the same: 0.003 finds
as many (0.157 with STRENGTH 0.03, where 0.01 finds 0.151) at an error above that of the class mean."""
DIRECTIONS, SEEN = 300, 5000
"""Main directions of pictures that have a share of their own, and pictures that they are taken from: of photographs of
3 x 32 x 32 nothing of the others is explained."""
NEAR = 1.25
"""Directions whose variances' ranks are within this factor have one share: each by itself is known to a tenth only."""
FEWEST = 300
"""Pictures that have to be held out for a share to be read off them; with fewer nothing is sharpened."""
JITTER = 1e-5
"""On the diagonal of the landmarks' kernel, which estimates that are nearly the same leave singular."""


def learned(lessons: Lessons, *, key: Key) -> State:
    """x = m_c + S (k(r, L) a), r = sign(z) sqrt|z| of the estimate z, k(r, l) = exp(-|r - l|^2 / median), c its class.

    The kernel ridge regression is that of pictures less their class's mean m_c, on the span of `LANDMARKS` (Nystroem),
    one estimate each of pictures that `key` draws. The root evens out what a few large features would decide alone.
    S: the mean picture of all that have such features is a blur that resembles any plain picture, and is found least.
    So the main directions of pictures are enlarged by the less, the more is explained of each of them, as pictures show
    that are held out (`SHARPER`). The identity where fewer than `FEWEST` can be held out.
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
    own = torch.exp(-_squared(landmarks, landmarks) / scale)
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
    weights = _solved(given[0] + rest[0], given[1] + rest[1])
    dual = torch.linalg.solve_triangular(span.T, weights, upper=True)
    if len(tried) >= FEWEST:
        some = ones[:SEEN]
        around = pixels[some] - means[lessons.classes[some]]
        axes = _directions(around, key.child("directions"))
        # without what is held out, of which it would know too much
        made = _spanned(roots[tried], landmarks, span, scale) @ _solved(*given)
        dual = _sharpened(dual, axes, made, pixels[tried] - means[lessons.classes[tried]])
    return {"means": means, "landmarks": landmarks, "dual": dual, "scale": float(scale)}


def _directions(around: Tensor, key: Key) -> Tensor:
    """(pixels, k): main directions of pictures around their means, from the one with the most variance on."""
    most = min(DIRECTIONS, *around.shape)
    # a randomized decomposition: of large pictures the whole one would take hours
    with key.isolated():
        _, sizes, axes = torch.svd_lowrank(around, q=most, niter=2)
    return axes[:, sizes > 0]


def _sharpened(dual: Tensor, axes: Tensor, made: Tensor, true: Tensor) -> Tensor:
    """dual S, S = sum_j f_j v_j v_j^T and the least f on all that is across, f_j = e_j^-1/4.

    e_j = <made, true> / <true, true> along v_j, of pictures (n, pixels) around their means: of a posterior mean the
    share of the variance that it explains, and of what is made at random 0.
    """
    one, other = made @ axes, true @ axes
    hits, all_of = (one * other).sum(0).double().cumsum(0), other.square().sum(0).double().cumsum(0)
    place = torch.arange(len(hits))
    first, last = (place / NEAR).long(), (place * NEAR).long().clamp(max=len(hits) - 1)

    def within(sums: Tensor) -> Tensor:
        return sums[last] - torch.where(first > 0, sums[(first - 1).clamp_min(0)], 0.0)

    share = within(hits) / within(all_of).clamp_min(torch.finfo(torch.float64).tiny)
    factor = (share.clamp(EXPLAINED, 1.0) ** -SHARPER).to(dual)
    across = EXPLAINED**-SHARPER
    found: Tensor = across * dual + (dual @ axes) * (factor - across) @ axes.T
    return found


def decoded(
    state: dict[str, Any], limits: tuple[float, float], estimates: Tensor, classes: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """(n, *shape): the pictures that what was `learned` makes of estimates (n, d) of (n,) classes, in [low, high]."""
    roots, (low, high) = rooted(estimates), limits
    landmarks, scale = state["landmarks"], float(state["scale"])
    kernels = [torch.exp(-_squared(part, landmarks) / scale).float() for part in roots.split(PART)]
    found: Tensor = state["means"][classes] + torch.cat(kernels) @ state["dual"]
    return found.clamp(low, high).reshape(-1, *shape)


def rooted(features: Tensor) -> Tensor:
    """sign(z) sqrt|z|."""
    return features.sign() * features.abs().sqrt()


def _first(which: Tensor) -> Tensor:
    """The first place of each number, in the order of places."""
    order = torch.sort(which, stable=True)
    new = torch.ones(len(which), dtype=torch.bool)
    new[1:] = order.values[1:] != order.values[:-1]
    return order.indices[new].sort().values


def _squared(one: Tensor, other: Tensor) -> Tensor:
    """(n, L) float64: squared distances.

    In float32 they are wrong by 1e-6, a tenth of `JITTER`, and of thousands of landmarks the least eigenvalue by more:
    the kernel had no root where features are few, or where noise leaves of an estimate little but its class's mean.
    """
    one, other = one.double(), other.double()
    distances: Tensor = one.square().sum(1, keepdim=True) + other.square().sum(1) - 2 * one @ other.T
    return distances.clamp_min_(0)


def _spanned(roots: Tensor, landmarks: Tensor, span: Tensor, scale: Tensor) -> Tensor:
    """(n, L): features whose products are the kernel's, within the landmarks' span."""
    kernel = torch.exp(-_squared(roots, landmarks) / scale).float()
    spanned: Tensor = torch.linalg.solve_triangular(span, kernel.T, upper=False).T
    return spanned


def _solved(within: Tensor, across: Tensor) -> Tensor:
    shifted = within.clone()
    shifted.diagonal().add_(STRENGTH)
    found: Tensor = torch.cholesky_solve(across, torch.linalg.cholesky(shifted)).float()
    return found
