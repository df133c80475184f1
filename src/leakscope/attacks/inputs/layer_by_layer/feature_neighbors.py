"""The public pictures that come nearest to what a dense layer was fed: what a decoded picture is to be read beside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.heads.reading import rows_fed
from leakscope.attacks.inputs.layer_by_layer import public_pictures
from leakscope.attacks.inputs.layer_by_layer.revealed_features import RevealedFeatures
from leakscope.core.arguments import instance
from leakscope.core.attempt import ASSISTED, Attempt
from leakscope.core.claim import Features, Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key


@final
@dataclass(frozen=True)
class FeatureNeighbors(AbstractAttack[Ready[Any], Inputs]):
    """argmin over public x of |phi_l(x) - h_s|, h_s what the dense layer l was fed for sample s (`of`).

    The baseline of `FeatureImages`: a decoder that shows less than the nearest public picture shows nothing of its own.
    pool: public pictures of the model's size. of: the attack that reveals features; it refuses and fails for both.
    Raises `BadInput` on what is no pool or no attack. Nothing is proved of a picture.
    """

    pool: Pool
    of: Attack[Features] = field(default_factory=RevealedFeatures)

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Photographs())")
        public_pictures.instance_of(self.of)

    @property
    def citation(self) -> str:
        """That of the attack that reveals."""
        return self.of.citation

    def _read(self, seen: Observation) -> Ready[Any] | Refusal:
        return public_pictures.readied(self.pool, self.of, seen)

    def _attempt(self, seen: Observation, read: Ready[Any], *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        inner = read.within(key=key.child("of"), clock=clock, watch=watch)
        claim = public_pictures.revealed(inner, repr(self))
        if isinstance(claim, Attempt):
            return claim
        model, public = public_pictures.ran(seen), self.pool.batch.inputs
        like = next(iter(model.parameters().values()))
        known = rows_fed(model, claim.layer, public.to(like)).double().cpu()
        # differences and no product of norms: neighbors of a fresh net differ in the fourth digit
        places = torch.cdist(claim.values.double(), known, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        pictures = public[places.to(public.device)].cpu()
        off = public_pictures.away(model, claim, pictures)
        sentence = (
            f"{ASSISTED}of {len(self.pool)} public pictures the nearest to what {claim.layer} was fed, for each "
            f"of {len(claim)}{public_pictures.told_apart(off)}"
        )
        steps = (*inner.steps, inner.sentence)
        return Attempt(
            repr(self), inner.outcome, sentence, Inputs(pictures, claim.labels), cost=inner.cost, steps=steps
        )
