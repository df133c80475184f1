"""Units that were at rest while the client computed its update stay at rest while the adversary replays it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.core.attempt import Attempt
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.looking.tape import multiplied


@final
@dataclass(frozen=True)
class AtRest(AbstractAttack["Silenced", Inputs]):
    """`attack`, on a model in which the units with zero gradient give zero.

    A unit of a dense layer, other than the last, is at rest when its bias gradient and all gradients of its incoming
    weights are exactly zero: it was dropped, or dead, at every frame of every example. In the attack's own passes its
    output is multiplied by zero, so that a candidate cannot wake it. Saturated units (beyond `relu_clip`) have no
    gradient either and are silenced although they gave the clip. Where no unit is at rest it is `attack` itself: noise
    on the update hides them all, and where a defense may set entries to zero, no row of zeros says anything.
    """

    attack: Attack[Inputs]

    @property
    def remaining(self) -> Attack[Any]:
        """The attack inside, or what defenses leave of that: where nothing is at rest any more, it is all there is."""
        return self.attack.remaining or self.attack

    @property
    def citation(self) -> str:
        """That of the attack inside."""
        return self.attack.citation

    def _read(self, seen: Observation) -> Silenced | Refusal:
        # On the release as it is: whether an entry is zero does not depend on a scale.
        # Where zeros may be the defense's own, no row says that its unit was at rest.
        known = bends(seen.mechanism) is Answer.NO
        rest = units_at_rest(seen.target, seen.release.by_name) if known else {}
        ready = self.attack.ready(dataclasses.replace(seen, target=silent(seen.target, rest)))
        return ready if isinstance(ready, Refusal) else Silenced(ready, rest)

    def _attempt(self, seen: Observation, read: Silenced, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        attempt = read.ready.within(key=key, clock=clock, watch=watch)
        counts = ", ".join(f"{int(units.sum())} of {len(units)} in {name}" for name, units in read.rest.items())
        note = f"units at rest: {counts or 'none'}"
        return dataclasses.replace(attempt, attack=repr(self), steps=(*attempt.steps, note))


@final
@dataclass(frozen=True, eq=False)
class Silenced:
    """The attack inside, on the model with silent units; which these are, by layer."""

    ready: Ready[Inputs]
    rest: dict[str, Tensor]


def units_at_rest(target: Target, update: Named) -> dict[str, Tensor]:
    """Per dense layer with a bias, other than the last: which outputs (bool) have no gradient at all; layers with none
    are left out.

    >>> import torch
    >>> from leakscope.domains.vision import Images
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> update = {"1.weight": torch.tensor([[0.0] * 4, [1.0] * 4]), "1.bias": torch.tensor([0.0, 1.0])}
    >>> units_at_rest(Target(net, Images(1, 2, 2), 2), update)
    {'1': tensor([ True, False])}
    """
    try:
        # A class without any gradient is no unit at rest: silencing a logit would change the others' probabilities.
        last = output_layer(target).name
    except NoSuchLayer:
        last = None
    found = {}
    for name, module in target.module.named_modules():
        weight, bias = f"{name}.weight", f"{name}.bias"
        if isinstance(module, nn.Linear) and name != last and weight in update and bias in update:
            # dL/dW_i = sum_t delta_ti x_t^T and dL/db_i = sum_t delta_ti, all delta_ti zero. Exactly, without a
            # tolerance: dropout and dead ReLUs multiply by 0, and a sum of zeros is not rounded.
            still = (update[weight] == 0).all(1) & (update[bias] == 0)
            if bool(still.any()):
                found[name] = still
    return found


def silent(target: Target, rest: dict[str, Tensor]) -> Target:
    """The target with the outputs of these units multiplied by zero; parameters keep their names."""
    if not rest:
        return target
    likes = {name: next(target.module.get_submodule(name).parameters()) for name in rest}
    awake = {name: (~units).to(likes[name]) for name, units in rest.items()}
    return dataclasses.replace(target, module=multiplied(target.module, awake))
