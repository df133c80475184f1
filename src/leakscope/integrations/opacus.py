"""The steps of a running Opacus optimizer, as observations with their privacy event (extra "opacus")."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from leakscope.core.arguments import count, number
from leakscope.core.errors import BadInput, optional
from leakscope.core.facts import Fact
from leakscope.core.observation import Observation
from leakscope.core.release import Gradient
from leakscope.core.target import Target
from leakscope.mechanisms.compose import accounting
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.numerics import trees

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from opacus.optimizers import DPOptimizer

TESTED = "flat clipping in one process (clipping='flat', grad_sample_mode='hooks', 'functorch' or 'ew')"


@final
class Steps:
    """What an adversary sees of each step of a `DPOptimizer`: the clipped, noised gradient at the weights before it.

    Made by `watch`. seen: how many steps there were. observations: the newest of them, oldest first.
    """

    def __init__(self, target: Target, module: nn.Module, *, rate: float, facts: Sequence[Fact], keep: int) -> None:
        self._target, self._module, self._rate, self._facts = target, module, rate, tuple(facts)
        self._observations: deque[Observation] = deque(maxlen=keep)
        self._events: list[tuple[DPSGD, int]] = []
        self._undo: Callable[[], None] = lambda: None

    @property
    def seen(self) -> int:
        """The number of steps so far."""
        return sum(times for _, times in self._events)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The newest steps, oldest first, at most as many as are kept."""
        return tuple(self._observations)

    def event(self) -> DpEvent:
        """All steps so far, of an example that is known to be in each: what stands beside an attack on these steps."""
        return _together([mechanism.event(rounds=times) for mechanism, times in self._events])

    def training_event(self) -> DpEvent:
        """All steps so far, each with an example in it with probability `rate`: what Opacus's accountant counts."""
        return _together([mechanism.training_event(rounds=times) for mechanism, times in self._events])

    def stop(self) -> None:
        """Take the optimizer's hook back; what was seen stays."""
        self._undo()

    def _see(self, optimizer: DPOptimizer) -> None:
        """Runs after clipping, noise and division, before the weights change: `grad` is what is released."""
        mechanism = _mechanism(optimizer, self._rate)
        if self._events and self._events[-1][0] == mechanism:
            self._events[-1] = (mechanism, self._events[-1][1] + 1)
        else:
            self._events.append((mechanism, 1))
        named = dict(self._module.named_parameters())
        slopes = {n: torch.zeros_like(value) if value.grad is None else value.grad for n, value in named.items()}
        gradient = Gradient(trees.detached(slopes))
        self._observations.append(Observation(self._at_these_weights(), gradient, mechanism, self._facts))

    def _at_these_weights(self) -> Target:
        clean = copy.deepcopy(self._target.module)  # the module in training has Opacus's hooks on it
        clean.load_state_dict(self._module.state_dict())
        return dataclasses.replace(self._target, module=clean)


def watch(
    target: Target,
    model: nn.Module,
    optimizer: DPOptimizer,
    *,
    rate: float = 1.0,
    facts: Sequence[Fact] = (),
    keep: int = 1,
) -> Steps:
    """See each step of `optimizer` as an adversary who gets the private gradients does.

    target: made of the model before `PrivacyEngine.make_private`, whose module is free of hooks. model, optimizer:
    what `make_private` returned. rate: `sample_rate` of its data loader, 1 without Poisson sampling; it counts for
    `training_event` alone. facts: what else the adversary is told at every step. keep: how many observations to hold.
    The accountant's own hook goes on working.

    The mechanism is `DPSGD` with the optimizer's clip, noise and divisor at that step, so schedules are followed.
    A gradient that is not divided (`loss_reduction="sum"`) has the divisor 1.
    Raises `BadInput` for another kind of clipping or optimizer, for weights that are not the target's by name and
    shape, and where only some parameters are trained; `MissingExtra` without the package.
    """
    kinds = optional("opacus.optimizers", extra="opacus", purpose="watching an Opacus optimizer")
    if type(optimizer) is not kinds.DPOptimizer:
        raise BadInput(
            f"expected an opacus DPOptimizer with {TESTED}, got {type(optimizer).__name__}; other clipping is another "
            "mechanism"
        )
    module = _bare(model)
    _same(target, module)
    _all_trained(optimizer, module)
    steps = Steps(
        target,
        module,
        rate=number("rate", rate, low=0, high=1, low_open=True),
        facts=facts,
        keep=count("keep", keep),
    )
    _attach(steps, optimizer)
    return steps


def _together(parts: list[DpEvent]) -> DpEvent:
    dp = accounting()
    # nothing happened before the first step
    if not parts:
        return dp.NoOpDpEvent()
    return parts[0] if len(parts) == 1 else dp.ComposedDpEvent(parts)


def _attach(steps: Steps, optimizer: DPOptimizer) -> None:
    """An optimizer has room for one hook, which is the accountant's."""
    before = optimizer.step_hook

    def both(running: DPOptimizer) -> None:
        if before is not None:
            before(running)
        steps._see(running)

    def undo() -> None:
        if optimizer.step_hook is both:
            optimizer.attach_step_hook(before)

    steps._undo = undo
    optimizer.attach_step_hook(both)


def _mechanism(optimizer: Any, rate: float) -> DPSGD:
    batches = optimizer.accumulated_iterations
    divided = optimizer.loss_reduction == "mean"  # Opacus's own word
    return DPSGD(
        clip=optimizer.max_grad_norm,
        noise_multiplier=optimizer.noise_multiplier,
        expected=max(1, round(optimizer.expected_batch_size * batches)) if divided else 1,
        rate=min(1.0, rate * batches),
    )


def _bare(model: nn.Module) -> nn.Module:
    """The user's module inside the wrapper, whose names begin with `_module.`; another module as it is."""
    wrappers = optional("opacus.grad_sample", extra="opacus", purpose="watching an Opacus optimizer")
    while isinstance(model, wrappers.AbstractGradSampleModule):
        model = model._module
    return model


def _same(target: Target, module: nn.Module) -> None:
    wanted, got = ({n: tuple(v.shape) for n, v in m.state_dict().items()} for m in (target.module, module))
    odd = sorted(n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n))
    if odd:
        raise BadInput(
            f"the watched model and the target differ in {', '.join(odd[:4])}; make the target of the model that goes "
            "into make_private (Opacus's ModuleValidator.fix replaces layers: call it before)"
        )


def _all_trained(optimizer: Any, module: nn.Module) -> None:
    trained = {id(parameter) for parameter in optimizer.params}
    frozen = [name for name, parameter in module.named_parameters() if id(parameter) not in trained]
    if frozen:
        raise BadInput(
            f"the optimizer does not train {', '.join(frozen[:4])}, and clipping knows only what it trains; make both "
            "the target and the private model of the trained part, with the frozen one as a fixed preprocessing"
        )
