"""Writing a file so that a reader sees the old one or the new one and never half of it, and knows what was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from leakscope.ledger.folders import private_folder

Arrays = Mapping[str, NDArray[Any]]


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename over it; the folder entry is flushed too.

    A kill at any moment leaves either no file or the whole file, plus at worst a stray `.tmp` file. The file can be
    read by its owner only: records and pages show what was private.
    """
    private_folder(path.parent)
    # In the same folder, hence on the same disk: only there is a rename one step.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # Before the rename: a disk may write names before contents, and a power cut leave a name of nothing.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    # Without this the rename itself can be lost in a power cut. Not every system opens folders.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checksum(text: str, arrays: Arrays) -> str:
    """A hash of the text and of names, types, shapes and bytes of the arrays."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):  # a file keeps them in an order of its own
        value = arrays[name]
        digest.update(f"|{name}|{value.dtype}|{value.shape}|".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
