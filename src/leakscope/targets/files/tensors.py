"""Tensor files of strangers (safetensors, .npz, torch's own), read within the memory limit and without running them."""

from __future__ import annotations

import io
import math
import pickle
import struct
import tokenize
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

from leakscope.core import file_limits
from leakscope.core.errors import BadInput, first_line

UNREADABLE = (
    safetensors.SafetensorError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error, RuntimeError,
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError, MemoryError,
    ImportError, RecursionError, SyntaxError, tokenize.TokenError,
)  # fmt: skip
"""What the readers raise on bytes that are not theirs; torch's and numpy's have no error of their own."""

SAVE_IT = "; save the state dict itself: torch.save(model.state_dict(), path), or safetensors.torch.save_file"


def content(path: Path, *, advice: str, trust: str = "", allow_pickle: bool = False) -> object:
    """What is in the file: arrays by name for `.safetensors` and `.npz`; what torch saved for any other suffix.

    trust: what more to say where the file may need pickle. allow_pickle: also what only Python's pickle can read, which
    runs whatever code the file holds.
    Raises `BadInput`, ending in `advice`, when the file is cut short, damaged or of another kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old headers and protocols, which are read all the same
            if path.suffix == ".safetensors":
                return load_file(path)
            if path.suffix == ".npz":
                return _archive(path)
            _zipped(path)
            # weights_only: torch's unpickler then knows tensors and containers, and no function that could run
            return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except BadInput:
        raise
    except UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and not allow_pickle:
            # torch tells at length, and in colors, how to run the code that is in the file.
            why = "holds something else than plain tensors, such as a whole module, or is damaged"
            raise BadInput(f"{path} {why}{SAVE_IT}{trust}") from error
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
        name: value if isinstance(value, Tensor) else plain(str(path), file_limits.shortened(repr(name)), value)
        for name, value in found.items()
    }


def plain(path: str, where: str, value: object) -> Tensor:
    """A tensor, off its graph and its device. Raises `BadInput` for what is none, or is sparse or quantized."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        array = np.asarray(value)
        # torch takes neither the other byte order nor negative strides
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized and not value.is_meta:
        # a view can repeat one stored number without end, and whatever reads it lays all of them out
        held = value.untyped_storage().nbytes()
        file_limits.afford(f"{where} in {path}", value.numel() * value.element_size(), held=held)
        return value.detach().cpu()
    raise BadInput(f"{where} in {path} is {_said(value)}, expected a plain array; save the state dict itself")


def _said(value: object) -> str:
    if isinstance(value, Tensor):
        kind = "quantized" if value.is_quantized else "without numbers" if value.is_meta else f"{value.layout}"
        return f"a Tensor that is {kind.removeprefix('torch.')}"
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def listed(names: list[str]) -> str:
    """The first four names and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"]), listed([])
    ('a, b, c, d and 1 more', 'nothing')
    """
    if not names:
        return "nothing"
    names = [file_limits.shortened(name) for name in names[:4]] + names[4:]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _archive(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removesuffix(".npy"): _array(name, content) for name, content in file_limits.unpacked(path)}


def _array(name: str, content: bytes) -> np.ndarray[Any, Any]:
    """One array. numpy reserves what its header says: that is compared with what is there before."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    wanted, held = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if min(shape, default=0) < 0 or wanted != held:
        raise ValueError(f"{name} holds {held} bytes, its shape {shape} and type {dtype} need {wanted}")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _zipped(path: Path) -> None:
    """Raises `BadInput` where torch's archive promises more than it may ask for: torch reserves that."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            promised = sum(member.file_size for member in archive.infolist())
        file_limits.afford(f"{path}, unpacked,", promised, held=path.stat().st_size)
