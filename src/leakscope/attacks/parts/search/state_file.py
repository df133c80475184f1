"""States in files: written atomically, read without running code, and bound to what they are the state of.

One store for all that goes on after a kill: searches, trainings, and what an attack has learned from public data.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from pydantic import Field
from torch import Tensor

from leakscope.core.effort import AbstractCheckpoint, State
from leakscope.core.errors import BadInput, BadState
from leakscope.ledger import container
from leakscope.ledger.container import Header
from leakscope.numerics.arrays import as_arrays, as_tensors
from leakscope.version import VERSION

SEARCH = "attack, observation or key"
"""What decides a search: its state belongs to no other."""


@final
class StateHeader(Header):
    """Whose state it is (a hash), the seconds that were spent on it, and its structure.

    seconds are added to a running clock, so they are finite and not negative. layout: JSON with places for tensors, a
    text of its own: Python's JSON keeps the infinite losses of a search that has just begun.
    """

    kind: ClassVar[str] = container.STATE
    wanted: ClassVar[str] = "a state, as --checkpoint writes it"

    owner: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    layout: str


@final
class StateFile(AbstractCheckpoint):
    """Keeps the state in the file `path`, a container (`ledger.container`).

    every: seconds between two saves, >= 0. whose: what decides whose state it is, for messages. A kill at any moment
    leaves the last whole state. The file is removed when the search ends by itself. Raises `BadInput` on every < 0
    and on a file that is no state.
    """

    def __init__(self, path: Path | str, *, every: float = 60.0, whose: str = SEARCH) -> None:
        if not every >= 0:
            raise BadInput(f"expected every >= 0 seconds, got {every}")
        self.path, self.every, self._whose = Path(path), every, whose
        self._owner = ""
        # The first save is `every` seconds after the start, not at once.
        self._saved_at = time.perf_counter()
        # What `open` has read, until it is used: whoever goes on opens, asks for the seconds and loads, one reading.
        self._found: tuple[StateHeader, dict[str, Tensor]] | None = None

    def open(self, owner: str) -> None:
        """Raises `BadInput` when the file holds the state of something else."""
        found = self._read()
        # To go on from another search's candidate would be a claim that nothing of this observation has earned.
        if found is not None and found[0].owner != owner:
            raise BadInput(f"{self.path} is the state of another {self._whose}; give another path or delete it")
        self._owner, self._found = owner, found

    def load(self) -> State | None:
        """The state as it was saved, tensors on the CPU."""
        found = self._read()
        if found is None:
            return None
        self._found = None  # its tensors are the caller's from here on, who may write to them
        header, tensors = found
        try:
            state = unpacked(json.loads(header.layout), tensors)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadState(f"{self.path} does not hold the tensors that it describes ({error}); delete it") from None
        if not isinstance(state, dict):
            raise BadState(f"{self.path} holds a {type(state).__name__}, expected a state; delete it")
        return state

    def due(self) -> bool:
        """Whether `every` seconds have passed."""
        return time.perf_counter() - self._saved_at >= self.every

    def save(self, state: State, *, seconds: float) -> None:
        """One atomic write."""
        tensors: dict[str, Tensor] = {}
        layout = json.dumps(packed(state, tensors))
        arrays, narrow = as_arrays(tensors)
        header = StateHeader(
            leakscope=VERSION, bfloat16=narrow, owner=self._owner, seconds=float(seconds), layout=layout
        )
        container.write(self.path, header, arrays)
        self._found = None
        self._saved_at = time.perf_counter()

    def seconds(self) -> float:
        """What earlier lives had spent when they saved last; 0 for none."""
        found = self._read()
        return 0.0 if found is None else found[0].seconds

    def close(self) -> None:
        """Remove the file."""
        self._found = None
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _read(self) -> tuple[StateHeader, dict[str, Tensor]] | None:
        if self._found is not None:
            return self._found
        if not self.path.is_file():
            return None
        header, arrays = container.read(self.path, StateHeader, hint="; give another path or delete it")
        return header, as_tensors(arrays, header.bfloat16)


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
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, dict):
        # Wrapped, so that a dict that happens to have a key "tensor" is not read as one.
        return {"dict": {str(name): packed(item, tensors) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        return [packed(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadInput(f"a state holds tensors, numbers and texts, got {type(value).__name__}")


def unpacked(layout: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `packed`; tuples come back as lists."""
    if isinstance(layout, list):
        return [unpacked(item, tensors) for item in layout]
    if isinstance(layout, dict):
        if "tensor" in layout:
            return tensors[layout["tensor"]]
        return {name: unpacked(item, tensors) for name, item in layout["dict"].items()}
    return layout
