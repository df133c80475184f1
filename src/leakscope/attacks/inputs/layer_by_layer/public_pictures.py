"""What attacks from revealed features to pictures share: whether they apply, and whose features a model makes."""

from __future__ import annotations

from typing import Any

import torch

from leakscope.attacks.attack import Attack, Ready
from leakscope.attacks.inputs.heads.reading import rows_fed
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Features, Inputs
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.running import as_run
from leakscope.numerics import trees
from leakscope.targets.looking.dense_tail import dense_tail

LEAST = 100
"""Public pictures below which they say too little of what pictures are like."""


def readied(pool: Pool, of: Attack[Features], seen: Observation) -> Ready[Any] | Refusal:
    """The attack that reveals features, ready, or why no picture is made of them: no pictures, or no features."""
    public = pool.batch
    if public.lengths is not None or public.inputs.dim() != 4 or not public.inputs.is_floating_point():
        return Refusal(f"makes pictures of features, and {pool!r} holds none: give a pool of public pictures")
    if not seen.target.domain.fits(public.inputs):
        return Refusal(
            f"the pool {pool!r} holds pictures of {tuple(public.inputs.shape[1:])}, the model takes "
            f"{seen.target.domain}; give public pictures of that size"
        )
    if len(pool) < LEAST:
        return Refusal(f"the pool holds {len(pool)} public pictures, and {LEAST} at least say what pictures are like")
    found = of.ready(seen)
    return Refusal(f"features are not revealed: {found.sentence}") if isinstance(found, Refusal) else found


def revealed(inner: Attempt[Any], name: str) -> Features | Attempt[Inputs]:
    """The features that were claimed, or the attempt of the attack `name` that ends without them."""
    claim = inner.claim
    if isinstance(claim, Features) and len(claim):
        return claim
    outcome = inner.outcome if claim is None else Outcome.DIVERGED
    said = inner.sentence if claim is None else f"{inner.attack} claims {type(claim).__name__}"
    return Attempt(name, outcome, f"features are not revealed: {said}", cost=inner.cost, steps=inner.steps)


def ran(seen: Observation) -> Target:
    """The model as the client ran it, dropout included."""
    return as_run(seen.mechanism, seen.target)


def described(model: Target) -> str:
    """A hash of all that makes the features of the dense layers at the end of a model, and how these are joined.

    The output layer's own weight and bias are left out: what it is fed does not depend on them.
    Raises `NoSuchLayer` without a dense output layer.
    """
    tail = dense_tail(model)
    own = {tail[0].weight, tail[0].bias}
    held = {name: value for name, value in model.parameters().items() if name not in own}
    return f"{trees.fingerprint({**held, **model.buffers()})} {tail!r}"


def away(model: Target, claim: Features, pictures: torch.Tensor) -> float | None:
    """Median over the pictures of |phi(x_s) - h_s| / |h_s| at the claim's layer; None where dropout decides it."""
    if any(layer.keep < 1 for layer in dense_tail(model)):
        return None
    like = next(iter(model.parameters().values()))
    fed = rows_fed(model, claim.layer, pictures.to(like)).double().cpu()
    true = claim.values.double()
    return float(((fed - true).norm(dim=1) / true.norm(dim=1).clamp_min(1e-300)).median())


def told_apart(off: float | None) -> str:
    """The sentence of `away`, without a truth to compare with: features that agree are no picture that does."""
    return "" if off is None else f"; run through the model they give these features to {off:.0%} (median)"
