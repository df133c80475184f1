"""Tensors as numpy has them and back, exactly: what a file can hold that is read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.numerics.trees import Named


def as_arrays(named: Named) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Arrays by name, and the names of those that were bfloat16, which numpy has not.

    They become float32: every bfloat16 is one, with 16 more bits of mantissa that are zero, so nothing is lost.

    >>> as_arrays({"w": torch.ones(1, dtype=torch.bfloat16)})
    ({'w': array([1.], dtype=float32)}, ('w',))
    """
    plain = {name: value.detach().cpu() for name, value in named.items()}
    narrow = tuple(name for name, value in plain.items() if value.dtype is torch.bfloat16)
    return {name: (v.float() if name in narrow else v).numpy() for name, v in plain.items()}, narrow


def as_tensors(arrays: Mapping[str, NDArray[Any]], narrow: Sequence[str]) -> dict[str, Tensor]:
    """The inverse of `as_arrays`; the tensors share no memory with the arrays.

    >>> as_tensors(*as_arrays({"w": torch.ones(1, dtype=torch.bfloat16)}))
    {'w': tensor([1.], dtype=torch.bfloat16)}
    """
    made = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    return {name: value.bfloat16() if name in narrow else value for name, value in made.items()}
