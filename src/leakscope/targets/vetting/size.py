"""How large a model will be, before it is built: a text of a few letters can name any width."""

from __future__ import annotations

import warnings

import torch

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import LeakscopeError
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.fitted import Fitted
from leakscope.targets.recipes.trained import Trained
from leakscope.targets.zoo.deepspeech import DeepSpeech
from leakscope.targets.zoo.efficientnet import EfficientNetLite0

GATES = 8
"""Of an LSTM: four, each with a matrix for its input and one for its state."""

OURS = "leakscope.targets.zoo"


def numbers(architecture: AbstractArchitecture, domain: AbstractDomain, classes: int) -> int | None:
    """How many parameters the model has; None where that shows only when it is built: models of other libraries.

    >>> from leakscope.domains.vision import Images
    >>> from leakscope.targets.zoo.mlp import MLP
    >>> numbers(MLP((10**6, 10**6)), Images(1, 8, 8), 10)
    1000076000010
    """
    if isinstance(architecture, Fitted | Trained):
        return numbers(architecture.architecture, domain, classes)
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
        # On this device tensors have shapes and no numbers: building costs nothing, and says the size exactly.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = architecture.build(domain, classes, key=Key(0))
    except LeakscopeError:
        return None  # said when it is built
    except (RuntimeError, OverflowError) as error:
        # torch counts bytes with 64 bits
        return 2**63 if "overflow" in str(error).lower() or isinstance(error, OverflowError) else None
    return sum(value.numel() for value in made.parameters().values())
