"""What attacks from revealed features to pictures share: whether they apply, and whose features a model makes."""

from __future__ import annotations

import typing
from typing import Any

import torch

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.heads.reading import rows_fed
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Features, Inputs
from leakscope.core.errors import BadInput, LeakscopeError
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.running import as_run
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_tail import dense_tail

LEAST = 100
"""Public pictures below which they say too little of what pictures are like."""


def instance_of(attack: object) -> None:
    """Raises `BadInput` on what is no attack, and on one that declares claims of another kind than features."""
    if not isinstance(attack, AbstractAttack):
        raise BadInput(f"expected an attack that reveals features, got {attack!r}")
    kinds = _declared(attack)
    if kinds and Features not in kinds:
        named = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise BadInput(f"expected an attack that reveals features, got {attack!r}, which claims {named}")


def _declared(attack: AbstractAttack[Any, Any]) -> set[type]:
    """The kinds of claim that an attack says it makes; empty where it says none (`Auto` makes several)."""
    try:
        returned = typing.get_type_hints(type(attack)._attempt).get("return")
    # Names that only a type checker knows.
    except NameError:
        return set()
    (kind,) = typing.get_args(returned) or (Any,)
    kinds = typing.get_args(kind) or (kind,)
    return set(kinds) if all(isinstance(one, type) for one in kinds) else set()


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


def refuses(of: Attack[Features], mechanism: AbstractMechanism, target: Target, pool: Pool, key: Key) -> bool:
    """Whether the attack refuses even one public picture, told all that there is to know of it."""
    one = pool.batch.rows(torch.arange(1))
    one = Batch(one.inputs, torch.zeros(1, dtype=torch.int64))
    try:
        seen = observe(target, one, mechanism, key=key, tell=[BatchSize(1), TrueLabels((0,))])
    # One picture may be too few for a mechanism or a normalization, which says nothing of a batch.
    except (LeakscopeError, ValueError, RuntimeError):
        return False
    return of.refusal(seen) is not None


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
