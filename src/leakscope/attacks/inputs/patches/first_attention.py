"""Exact images from the gradient of a transformer's patches, position embedding and first attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.patches.equations import (
    DEAD,
    Slopes,
    Solution,
    Spanned,
    attention_system,
    condition,
    embedding_system,
    solve,
    span_rank,
    span_system,
)
from leakscope.attacks.parts.reading.explained import explained
from leakscope.attacks.parts.reading.output_gradient import told_one
from leakscope.attacks.parts.reading.proof import bent, settled
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.patch_entry import PatchEntry, patch_entry

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative residual that counts as exact, by the dtype of the release, as for `LinearLayer`."""
STATEMENT = "|observed - gradient of the claimed image with the best label| / |observed|, over all parameters"
CAUTION = 4.0
"""By what an estimated error is multiplied before it counts: it is of one draw."""
PER_RESIDUAL = 10.0
"""Errors of pixels, in units of the range, that a proof of a residual of one stands for (`scoring.proved`)."""


@final
@dataclass(frozen=True)
class FirstAttention(AbstractAttack[tuple[PatchEntry, Solution], Inputs]):
    """The image of a batch of one, from linear equations at the entrance of a transformer; no label is needed.

    Tokens z_i = E p_i + c_i, i = 1..N, of d numbers; p_i (P values) is a patch, c_i holds the position embedding, whose
    gradient is G = dL/dz (N, d). Three sets of equations, each used where it holds:
    1. dL/dE = G^T P: the patch embedding is a dense layer with known errors. Needs rank G = N, hence N <= d.
    2. sum_W W^T dL/dW = G^T z over query, key and value (Lu et al. 2022, APRIL, theorem 1): only where z reaches the
       loss through them alone, without normalization or residual connection around the first attention; used where
       dL/dE was not released. Needs N <= d and P <= d.
    3. query, key and value are fed u_i = z_i or LayerNorm(z_i), which lie in the row space of their gradients: d - N
       equations for the P values of each patch. Needs N + P <= d, and neither G nor dL/dE.
    Which hold is found by running the model. Several examples, or several local steps, mix and are refused where told
    or seen in the rank. The certificate replays the whole gradient for the claimed image.
    There is none unless one example was told: the mean of similar images explains the gradient of all.
    Refuses, with the numbers, where no set has full rank.
    """

    @property
    def citation(self) -> str:
        """Lu et al. 2022."""
        return citations.APRIL

    def _read(self, seen: Observation) -> tuple[PatchEntry, Solution] | Refusal:
        return _solved(seen)

    def _attempt(
        self, seen: Observation, read: tuple[PatchEntry, Solution], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        del clock, watch
        entry, solution = read
        image = entry.image(solution.patches, seen.target.domain.shape)
        if not bool(torch.isfinite(image).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the equations have no finite solution")
        # Of any parameter: an embedding with weight normalization is made of two others, and none itself.
        like = next(iter(seen.target.parameters().values()))
        low, high = seen.target.domain.bounds(image)
        # Pixels lie in the range whatever rounding says; replayed and certified is the image as it is claimed.
        image = image.clamp(low, high).to(like)
        replayed = explained(seen, image)
        # Of the parameters alone: a buffer that stands first may be of another type.
        dtype = next(v for name, v in seen.release.by_name.items() if name in seen.target.parameters()).dtype
        sentence = f"one image from {solution.words}, condition {solution.condition:.1e}"
        if replayed is None:
            sentence += "; too many classes to replay it for a proof"
            return Attempt(repr(self), Outcome.CLAIMED, sentence, Inputs(image))
        # 0 for coarser dtypes: nothing is proved.
        tolerance = EXACT.get(dtype, 0.0)
        doubt = bent(seen)
        proving = told_one(seen) and doubt is None
        if not replayed.residual <= tolerance:
            sentence += f"; its gradient differs by {replayed.residual:.1e}: several examples, several steps, or noise"
        elif not proving:
            why = "it takes to be told of one example" if doubt is None else doubt.sentence
            sentence += f"; no proof: {why}"
        residual = replayed.residual
        if proving and residual <= tolerance:
            # A patch that gets hardly any attention leaves hardly any gradient: what explains the whole may miss it.
            residual = max(residual, CAUTION * _shaken(seen, solution, residual, key=key) / PER_RESIDUAL)
            if residual > tolerance:
                sentence += "; no proof: some patch leaves so little of the gradient that rounding moves it"
        certificate = Certificate.alike(residual, tolerance, STATEMENT) if proving else None
        confidence = torch.ones(1) if certificate is not None and certificate.holds else None
        # weights (1, C): the share of each label, of which a true image has one.
        claim = Inputs(image, replayed.weights.argmax(1), confidence=confidence)
        return settled(seen, Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate))


def _shaken(seen: Observation, solution: Solution, residual: float, *, key: Key) -> float:
    """By how much the patch that moves most does so, root mean square, when each released tensor moves by `residual`,
    or by its rounding where that is more, of its own root mean square; infinite where nothing is determined then."""
    stream, moved = key.child("shaken").generator(), {}
    for name, value in _read(seen).items():
        size = max(residual, torch.finfo(value.dtype).eps) * float(value.double().square().mean().sqrt())
        moved[name] = value.double() + size * torch.randn(value.shape, generator=stream, dtype=torch.float64)
    found = _solved(seen, moved)
    if isinstance(found, Refusal):
        return math.inf
    return float((found[1].patches - solution.patches).square().mean(1).sqrt().max())


def _read(seen: Observation) -> Named:
    """The gradient; buffers, which an update may hold besides, are no part of it."""
    return trees.select(seen.gradient().by_name, seen.target.parameters())


def _solved(seen: Observation, read: Named | None = None) -> tuple[PatchEntry, Solution] | Refusal:
    """The entrance and the patches, or why they are not determined. read: a gradient instead of the released one."""
    if seen.knows(BatchSize) and seen.told(BatchSize).count > 1:
        count = seen.told(BatchSize).count
        return Refusal(f"{count} examples share every gradient here; the equations hold for a batch of one")
    entry = patch_entry(seen.target)
    # float64: the rounding of float32 that `DEAD` cuts off is then that of the release alone.
    gradient = {name: value.double() for name, value in (read or _read(seen)).items()}
    stacked = _stacked(entry, gradient)
    # One example spans N directions at most. More are of several, unless all are filled (d, or the d - 1 that a
    # LayerNorm leaves): that is noise, or too many tokens, and may still leave the equations of G.
    if stacked is not None and entry.tokens < span_rank(stacked) < entry.dim - 1:
        rank = span_rank(stacked)
        return Refusal(f"the attention's gradient has rank {rank}, above the {entry.tokens} tokens of one example")
    slopes = _slopes(entry, gradient)
    # Solved once by G alone: the span's equations need the size of each token under a LayerNorm with shift.
    near = None if isinstance(slopes, Refusal) else solve(slopes, None, entry).patches
    spanned = _not_released() if stacked is None else span_system(entry, stacked, near)
    if isinstance(slopes, Refusal) and isinstance(spanned, Refusal):
        return Refusal(
            f"rank-deficient: by the position embedding: {slopes.sentence}; by the attention's span: {spanned.sentence}"
        )
    return entry, _best(slopes, spanned, entry)


def _not_released() -> Spanned | Refusal:
    return Refusal("its weights' gradients are not released")


def _best(slopes: Slopes | Refusal, spanned: Spanned | Refusal, entry: PatchEntry) -> Solution:
    return solve(
        None if isinstance(slopes, Refusal) else slopes, None if isinstance(spanned, Refusal) else spanned, entry
    )  # fmt: skip


def _stacked(entry: PatchEntry, gradient: Named) -> Tensor | None:
    """The released gradients of the readers, (rows, d), each scaled to norm 1 so that none drowns in another."""
    found = [gradient[name] for name in entry.readers if name in gradient]
    scaled = [one / torch.linalg.vector_norm(one) for one in found if bool(one.any())]
    return torch.cat(scaled) if scaled else None


def _slopes(entry: PatchEntry, gradient: Named) -> Slopes | Refusal:
    """The equations that need dL/dz, or why there are none of full rank."""
    if entry.position is None:
        return Refusal("no parameter is added to the tokens, whose gradient would be theirs")
    if entry.position not in gradient:
        return Refusal(f"the release lacks {entry.position}")
    if entry.tokens > entry.dim:
        return Refusal(f"{entry.tokens} tokens have at most rank {entry.dim}, the dimension")
    # A table made for longer inputs has rows beyond the N tokens, which get no gradient.
    position = gradient[entry.position].reshape(-1, entry.dim)[: entry.tokens]
    slope = position[entry.rows]
    # G^T P = B has one solution P only if the n rows of G are independent; the rank is counted for the sentence.
    if not condition(slope) < 1 / DEAD:
        values = torch.linalg.svdvals(slope)
        rank = int((values > DEAD * values[0]).sum())
        return Refusal(f"the gradient of the {len(slope)} patches has rank {rank}")
    # First choice, since it holds whatever comes after the tokens.
    if entry.embedding in gradient:
        return embedding_system(entry, position, gradient[entry.embedding].flatten(1))
    missing = [name for name in entry.readers if name not in gradient]
    # Past a residual connection G has parts that do not show in the readers' gradients.
    if not entry.attention_only or missing:
        why = f"{', '.join(missing)} are missing" if missing else "the tokens reach the loss past the attention too"
        return Refusal(f"the release lacks {entry.embedding}, and {why}")
    # P E^T would be known, but P follows only if the P columns of E (d, P) are independent.
    if entry.matrix.shape[1] > entry.dim:
        return Refusal(f"{entry.matrix.shape[1]} values per patch do not fit into {entry.dim} dimensions")
    if not condition(entry.matrix) < 1 / DEAD:
        # Patches that differ by what E maps to zero are the same tokens, with the same gradients but for dL/dE.
        return Refusal(f"{entry.embedding} maps different patches to the same tokens: its columns are dependent")
    return attention_system(entry, position, _product(entry, gradient))


def _product(entry: PatchEntry, gradient: Named) -> Tensor:
    """sum W^T dL/dW over the readers, (d, d)."""
    # dL/dW = sum_n delta_n z_n^T and dL/dz_n = sum_W W^T delta_n, so this is sum_n dL/dz_n z_n^T = G^T z.
    return torch.stack([entry.weights[name].T @ gradient[name] for name in entry.readers]).sum(0)
