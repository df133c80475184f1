"""Files of tensors that other programs wrote: safetensors, .npz and torch's own, without running what is in them."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.targets.looking.probe import first_line

MOST_BYTES = 2**34
"""Bytes that an archive may promise to unpack to: a few kilobytes can promise anything."""

UNREADABLE = (
    safetensors.SafetensorError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error, RuntimeError,
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError, MemoryError,
    ImportError, RecursionError,
)  # fmt: skip
"""What the readers raise on bytes that are not theirs; torch's and numpy's have no error of their own."""

SAVE_IT = "; save the state dict itself: torch.save(model.state_dict(), path), or safetensors.torch.save_file"


def content(path: Path, *, advice: str, allow_pickle: bool = False) -> object:
    """What is in the file: arrays by name for `.safetensors` and `.npz`; what torch saved for any other suffix.

    allow_pickle: also what only Python's pickle can read, which runs whatever code the file holds.
    Raises `BadInput`, ending in `advice`, when the file is cut short, damaged or of another kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old headers and protocols, which are read all the same
            if path.suffix == ".safetensors":
                return load_file(path)
            if path.suffix == ".npz":
                return _archive(path)
            # weights_only: torch's unpickler then knows tensors and containers, and no function that could run
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except BadInput:
        raise
    except UNREADABLE as error:
        raise BadInput(f"{path} cannot be read as plain tensors ({first_line(error)}){advice}") from error


def unpickled(path: Path, *, advice: str) -> object:
    """What is in a pickle; runs the code in it, so only for who asked for that. Raises `BadInput` as `content` does."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            return pickle.load(file)  # noqa: S301, asked for
    except UNREADABLE as error:
        raise BadInput(f"{path} cannot be read as plain tensors ({first_line(error)}){advice}") from error


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a file that holds a state dict and nothing else; never by pickle.

    Raises `BadInput` when the file is missing or damaged, would need pickle, or holds something besides.

    >>> state_dict(Path("absent.pt"))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: no file absent.pt; expected a state dict, saved by safetensors or torch.save
    """
    if not path.is_file():
        raise BadInput(f"no file {path}; expected a state dict, saved by safetensors or torch.save")
    found = content(path, advice=SAVE_IT)
    if not isinstance(found, Mapping):
        raise BadInput(f"{path} holds a {type(found).__name__}, expected a state dict; save model.state_dict()")
    others = sorted(str(name) for name, value in found.items() if not isinstance(value, Tensor | np.ndarray))
    if others:
        raise BadInput(f"{path} holds entries that are not tensors, {listed(others)}; save the state dict by itself")
    # a tensor as it is: a module's own `load_state_dict` may know kinds (quantized, sparse) that `plain` refuses
    return {
        name: value if isinstance(value, Tensor) else plain(str(path), f"{name!r}", value)
        for name, value in found.items()
    }


def plain(path: str, where: str, value: object) -> Tensor:
    """A tensor, off its graph and its device. Raises `BadInput` for what is none, or is sparse or quantized."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        array = np.asarray(value)
        # torch takes neither the other byte order nor negative strides
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        return value.detach().cpu()
    raise BadInput(f"{where} in {path} is a {type(value).__name__}, expected a plain array; save the state dict itself")


def listed(names: list[str]) -> str:
    """The first four names and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"]), listed([])
    ('a, b, c, d and 1 more', 'nothing')
    """
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _archive(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    # the sizes that the archive's own list promises, before anything of it is unpacked
    with zipfile.ZipFile(path) as archive:
        promised = sum(member.file_size for member in archive.infolist())
    if promised > MOST_BYTES:
        raise BadInput(
            f"{path} would unpack to {promised / 2**30:.0f} GiB, more than {MOST_BYTES / 2**30:.0f}; refused"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
