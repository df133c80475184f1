"""A search's state in one file: written atomically, read without running code, and bound to what it is the state of."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import safetensors
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from leakscope.core.effort import AbstractCheckpoint, State
from leakscope.core.errors import BadInput
from leakscope.ledger.files import write_atomically

FORMAT = "leakscope search state 1"


@final
class StateFile(AbstractCheckpoint):
    """Keeps the state in the file `path` (safetensors; structure and numbers as JSON in its header).

    every: seconds between two saves, >= 0. A kill at any moment leaves the last whole state. The file is removed when
    the search ends by itself. Raises `BadInput` on every < 0 and on a file that is no state.
    """

    def __init__(self, path: Path | str, *, every: float = 60.0) -> None:
        if not every >= 0:
            raise BadInput(f"expected every >= 0 seconds, got {every}")
        self.path, self.every = Path(path), every
        self._owner = ""
        # The first save is `every` seconds after the start, not at once.
        self._saved_at = time.perf_counter()

    def open(self, owner: str) -> None:
        """Raises `BadInput` when the file holds the state of another attack, observation or key."""
        header = self._header()
        # To go on from another search's candidate would be a claim that nothing of this observation has earned.
        if header is not None and header["owner"] != owner:
            raise BadInput(
                f"{self.path} is the state of another attack, observation or key; give another path or delete it"
            )
        self._owner = owner

    def load(self) -> State | None:
        """The state as it was saved, tensors on the CPU."""
        header = self._header()
        if header is None:
            return None
        # Not torch.load: a state may come from another machine, and a pickle runs what code it holds.
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = unpacked(json.loads(header["layout"]), tensors)
        assert isinstance(state, dict)
        return state

    def due(self) -> bool:
        """Whether `every` seconds have passed."""
        return time.perf_counter() - self._saved_at >= self.every

    def save(self, state: State, *, seconds: float) -> None:
        """One atomic write."""
        tensors: dict[str, Tensor] = {}
        layout = packed(state, tensors)
        header = {
            "format": FORMAT,
            "owner": self._owner,
            # safetensors takes text only; repr brings back the same number.
            "seconds": repr(float(seconds)),
            "layout": json.dumps(layout),
        }
        # Written beside it and renamed: a kill in between leaves the state before, whole.
        write_atomically(self.path, save(tensors, header))
        self._saved_at = time.perf_counter()

    def seconds(self) -> float:
        """What earlier lives had spent when they saved last; 0 for none."""
        header = self._header()
        return 0.0 if header is None else float(header["seconds"])

    def close(self) -> None:
        """Remove the file."""
        # A search that ended before its first save has no file.
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _header(self) -> Mapping[str, str] | None:
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                # Only the header is read here, the tensors stay on disk.
                header: Mapping[str, str] = file.metadata() or {}
        except (safetensors.SafetensorError, OSError) as error:
            raise BadInput(f"{self.path} cannot be read as a search's state ({error}); delete it") from None
        if header.get("format") != FORMAT:
            raise BadInput(f"{self.path} is not a search's state of this version; give another path or delete it")
        return header


def packed(value: object, tensors: dict[str, Tensor]) -> Any:
    """`value` as plain JSON, its tensors moved to `tensors` under the names that stand in their places.

    >>> import torch
    >>> tensors = {}
    >>> layout = packed({"a": [torch.ones(2), 0.1, None]}, tensors)
    >>> unpacked(layout, tensors)
    {'a': [tensor([1., 1.]), 0.1, None]}
    """
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        # A clone of each: safetensors refuses tensors that share memory, and a search goes on writing to these.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        # Wrapped, so that a dict that happens to have a key "tensor" is not read as one.
        return {"dict": {str(name): packed(item, tensors) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        return [packed(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadInput(f"a search's state holds tensors, numbers and texts, got {type(value).__name__}")


def unpacked(layout: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `packed`; tuples come back as lists."""
    if isinstance(layout, list):
        return [unpacked(item, tensors) for item in layout]
    if isinstance(layout, dict):
        if "tensor" in layout:
            return tensors[layout["tensor"]]
        return {name: unpacked(item, tensors) for name, item in layout["dict"].items()}
    return layout
