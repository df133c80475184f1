"""How large a model will be, before its weights are there: a text of a few letters can name any width."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from leakscope.core import file_limits
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, LeakscopeError
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.fitted import Fitted
from leakscope.targets.recipes.trained import Trained
from leakscope.targets.zoo.deepspeech import DeepSpeech
from leakscope.targets.zoo.efficientnet import EfficientNetLite0

GATES = 8
"""Of an LSTM: four, each with a matrix for its input and one for its state."""

OURS = "leakscope.targets.zoo"

LAYER = 2**13
"""Numbers that a tensor counts for at least: what Python keeps of it and of its layer, and the time to make both."""

HELD = 8
"""Bytes that one number of a model takes at least: the weight and its gradient."""

UNCOUNTED = 2**27
"""Numbers up to which a model of somebody else is simply built: half a GiB of weights."""

BEYOND = 2**63
"""Numbers of a model that are more than torch counts."""

_NO_ROOM = ("allocate memory", "not enough memory", "overflow")
"""What torch says of a tensor that is too large; it has no error of its own for that."""


@final
class Enough(Exception):
    """A model that is being built has more numbers than was asked about. cost: as many were counted."""

    def __init__(self, cost: int) -> None:
        self.cost = cost
        super().__init__(f"more than {cost} numbers")


@final
@dataclass
class Count:
    """numbers: of the parameters so far. cost: those of buffers too, and at least `LAYER` for each tensor."""

    numbers: int = 0
    cost: int = 0


@contextmanager
def counted(most: float = math.inf) -> Iterator[Count]:
    """Counts what the layers that are made inside the block hold. Raises `Enough` as soon as it costs more than `most`.

    A layer names its tensors before it fills them, so that little memory is touched for the one that is too large.

    >>> with counted() as found:
    ...     layer = nn.Linear(1000, 1000)
    >>> found
    Count(numbers=1001000, cost=1008192)
    """
    found, here = Count(), threading.get_ident()

    def add(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != here:
            return
        found.cost += max(value.numel(), LAYER)
        found.numbers += value.numel() * isinstance(value, nn.Parameter)
        if found.cost > most:
            raise Enough(found.cost)

    hooks: list[Any] = [
        register_module_parameter_registration_hook(add),
        register_module_buffer_registration_hook(add),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def numbers(
    architecture: AbstractArchitecture, domain: AbstractDomain, classes: int, *, most: float = math.inf
) -> int | None:
    """How many parameters the model has; None where that shows only when it is built: models of other libraries.

    most: no more are counted, and a model that has more of them, or too many layers, is said to have that many.

    >>> from leakscope.domains.vision import Images
    >>> from leakscope.targets.zoo.mlp import MLP
    >>> numbers(MLP((10**6, 10**6)), Images(1, 8, 8), 10)
    1000076000010
    """
    if isinstance(architecture, Fitted | Trained):
        return numbers(architecture.architecture, domain, classes, most=most)
    if not type(architecture).__module__.startswith(OURS):
        return None
    if isinstance(architecture, DeepSpeech):
        # It takes its memory from the processor by name, whatever device is current: counted instead.
        width = architecture.hidden
        fed = (2 * architecture.context + 1) * architecture.coefficients
        return width * (fed + (GATES + 3) * width + classes)
    if isinstance(architecture, EfficientNetLite0):
        return None  # of one size, and its weights lie in a file
    try:
        with _without_numbers(), counted(most) as found:
            architecture.build(domain, classes, key=Key(0))
    except LeakscopeError:
        return None  # said when it is built
    except Enough as error:
        return error.cost
    except (RuntimeError, OverflowError) as error:
        return BEYOND if _too_large(error) else None
    return found.numbers


@contextmanager
def _without_numbers() -> Iterator[None]:
    # On this device tensors have shapes and no numbers: building costs nothing, and says the size exactly.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _too_large(error: BaseException) -> bool:
    return isinstance(error, MemoryError | OverflowError) or any(words in str(error).lower() for words in _NO_ROOM)


def fitting(build: Callable[[], Any], what: str) -> Any:
    """What `build` returns: a model that nobody knows the size of. what: what to call it.

    A large one is counted on the device without numbers first, where it can be built there, and while its layers are
    made in any case. Raises `BadInput` where its weights and their gradient are more than the memory of this machine.

    >>> fitting(lambda: nn.Linear(2**30, 2**30), "it")
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: it has more than ... numbers, which take ... with their gradient; this machine \
has ...: give a smaller model
    """
    try:
        with counted(UNCOUNTED):
            return build()
    except Enough:
        pass  # it takes long: worth a count
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not _too_large(error):
            raise
    most = file_limits.memory() // HELD
    try:
        with _without_numbers(), counted(most):
            build()
    except Enough as error:
        raise _refused(what, error.cost) from None
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        # What else it says is of this device, on which not all code runs.
        if "overflow" in str(error).lower():
            raise _refused(what, BEYOND) from None
    try:
        with counted(most):
            return build()
    except Enough as error:
        raise _refused(what, error.cost) from None


def _refused(what: str, count: int) -> BadInput:
    return BadInput(
        f"{what} has more than {count:.3g} numbers, which take {file_limits.size(count * HELD)} with their gradient; "
        f"this machine has {file_limits.size(file_limits.memory())}: give a smaller model"
    )
