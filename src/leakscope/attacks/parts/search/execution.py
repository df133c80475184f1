"""How the gradient of an objective is computed: as it is written, as one flat graph, or compiled.

`torch.func` walks through Python, two levels of differentiation and often `vmap` at every step. The same step recorded
once as a flat list of kernels costs a third to a half less, and compiled with its pointwise parts fused two to seven
times less (`benchmarks/matching_step.py`). The choice is a function of the work that is planned, never of a stopwatch,
so that the same run takes the same course again and a resumed one goes on with the same bits.
"""

from __future__ import annotations

import dataclasses
import enum
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from leakscope.core.errors import UnusableMechanism
from leakscope.core.target import Target

Named = dict[str, Tensor]
Slope = Callable[[Named], tuple[Named, Tensor]]
"""A point (R, ...) to the gradients (R, ...) and the losses (R,)."""

RECORDING_PAYS = 600
"""Steps from which recording is worth its while: it costs 1 to 2 ms for each kernel and saves 4 to 8 us of it at every
step."""
MOST_KERNELS = 6000
"""A graph of more kernels takes longer to record than most searches last: recurrent nets, many local steps."""
PER_KERNEL, PER_FLOP = 8e-6, 5e-11
"""Seconds, roughly, of one CPU core; they only order courses, so a factor of two is of no account."""
COMPILING_PAYS = 90.0
"""Seconds of planned work from which 20 to 60 seconds of compilation are worth their while."""
AGREE = 1e-3
"""Largest relative difference between two courses at the start; rounding is 1e-6, a wrong graph is of order 1."""
WIDE = 128
"""Channels from which convolutions are faster with the channels innermost."""


@final
class Course(enum.Enum):
    """How a step is executed."""

    WRITTEN = "as written"
    RECORDED = "as one recorded graph"
    COMPILED = "compiled"


@final
@dataclass(frozen=True)
class Work:
    """One step in numbers, and how many are planned. seconds: the budget's, or None."""

    kernels: int
    flops: int
    steps: int
    seconds: float | None = None

    @property
    def planned_seconds(self) -> float:
        """Roughly what the steps take on one core, at most the budget.

        >>> round(Work(kernels=1000, flops=10**9, steps=100).planned_seconds, 3)
        5.8
        """
        wanted = self.steps * self._step
        # A search ends at the first bound, so the smaller one is what is planned.
        return wanted if self.seconds is None else min(wanted, self.seconds)

    @property
    def _step(self) -> float:
        # Small kernels cost their launch, large ones their arithmetic; the sum is at most twice the larger.
        return self.kernels * PER_KERNEL + self.flops * PER_FLOP

    def course(self, *, compiler: bool) -> Course:
        """What pays. compiler: whether there is one.

        >>> Work(kernels=240, flops=10**7, steps=1000).course(compiler=True)
        <Course.RECORDED: 'as one recorded graph'>
        """
        # Planned seconds by those of a step: how many steps there will be, also where it is the budget that ends them.
        if self.planned_seconds < RECORDING_PAYS * self._step or self.kernels > MOST_KERNELS:
            return Course.WRITTEN
        if compiler and self.planned_seconds > COMPILING_PAYS:
            return Course.COMPILED
        return Course.RECORDED


def prepared(slope: Slope, start: Named, *, steps: int, seconds: float | None) -> Slope:
    """`slope`, executed on the course that pays for `steps` evaluations within `seconds`.

    Falls back to the way it is written where the step cannot be recorded (its branches read values, as in a model whose
    forward asks `if x.max() > 1`) or where what was recorded does not agree with it at `start`.
    """
    # Before it is measured, which costs a step.
    if steps < RECORDING_PAYS:
        return slope
    work = measured(slope, start, steps=steps, seconds=seconds)
    course = work.course(compiler=has_compiler(start))
    return executed(slope, start, course)


def executed(slope: Slope, start: Named, course: Course) -> Slope:
    """`slope` on this course, or as written where that cannot be."""
    if course is Course.WRITTEN:
        return slope
    recorded = _recorded(slope, start)
    # Compared before it is used: a silent difference would be a search of something else, which finds nothing, and the
    # verdict would be that nothing leaks.
    if recorded is None or not _agree(slope, recorded, start):
        return slope
    if course is Course.RECORDED:
        return recorded
    # Of the recorded graph, which is flat: the compiler need not follow torch.func. Static shapes: those of a search
    # never change, and when restarts are given up this is called anew.
    compiled: Slope = torch.compile(recorded, dynamic=False)
    return compiled if _agree(slope, compiled, start) else recorded


def measured(slope: Slope, start: Named, *, steps: int, seconds: float | None) -> Work:
    """The work of `steps` steps, from one that is run and counted."""
    counter = FlopCounterMode(display=False)
    kernels = _Kernels()
    # By running, because only then is it known what vmap and two levels of differentiation make of it.
    with kernels, counter:
        slope(start)
    return Work(kernels.count, int(counter.get_total_flops()), steps, seconds)


def has_compiler(start: Named) -> bool:
    """Whether compiled code can be made for the device of `start`: a C++ compiler for a CPU, Triton for a GPU."""
    if next(iter(start.values())).device.type == "cpu":
        return shutil.which("g++") is not None or shutil.which("clang++") is not None
    return bool(torch.utils._triton.has_triton())


def laid_out(target: Target) -> Target:
    """The target with the weights of wide convolutions stored channels last, which is how they run fastest.

    The values are the same; sums may be rounded in another order.
    """
    convolutions = [m for m in target.module.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions or max(m.out_channels for m in convolutions) < WIDE:
        return target
    last = dataclasses.replace(target)  # which copies the module: the layout of the caller's stays
    last.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last


class _Kernels(TorchDispatchMode):
    """Counts what is sent to the device."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _recorded(slope: Slope, start: Named) -> Slope | None:
    """The step as a flat graph; None where its course depends on values.

    Recorded with fake tensors, which have shapes and no values: a branch on a value then raises here, where real
    tensors would burn the branch of this one start into the graph.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Weights and the observed gradient are closed over by the step: real among fake ones, constants of the
            # graph.
            return make_fx(slope, tracing_mode="fake", _allow_non_fake_inputs=True)(start)
    # What the recorder raises inside of a mechanism's replay arrives as the mechanism's failure.
    except (RuntimeError, UnusableMechanism):
        return None


def _agree(one: Slope, other: Slope, start: Named) -> bool:
    gradients, losses = one(start)
    try:
        gradients_too, losses_too = other(start)
    except RuntimeError:
        return False
    pairs = [(losses, losses_too), *((gradients[name], gradients_too[name]) for name in gradients)]
    # Relative to the largest entry, since small ones are differences of large ones. "<=" and not "<": a variable
    # without a gradient gives 0 on both sides. NaN compares as False.
    return all(bool((b - a).abs().max() <= AGREE * a.abs().max()) for a, b in pairs)
