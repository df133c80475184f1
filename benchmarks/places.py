"""Places where nothing can be written, for `benchmarks/deliberate.py`: real ones, which only this process sees.

A process of the administrator may mount; its mounts are in a namespace of its own and go when it ends. Any other
process gets the next best: files that may not grow, and a folder of the system that takes none.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
from pathlib import Path

NEW_NAMESPACE, READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE, DETACH = 0x20000, 1, 32, 4096, 16384, 1 << 18, 2

_libc = ctypes.CDLL(None, use_errno=True)
_mounted: list[Path] = []


@functools.cache
def can_mount() -> bool:
    """Whether this process has, from now on, mounts that no other process sees."""
    try:
        _checked(_libc.unshare(NEW_NAMESPACE))
        _mount(None, Path("/"), None, RECURSIVE | PRIVATE, None)
    except (OSError, AttributeError):
        return False
    return True


def said() -> str:
    """Which of the two it is."""
    if can_mount():
        return "full disks are a tmpfs, read-only ones a bind mount"
    return "no right to mount: full disks are RLIMIT_FSIZE, the read-only one is /proc"


def full(place: Path, kilobytes: int) -> Path:
    """`place`, an existing folder with what is in it, on a disk that has room for so much more."""
    if not can_mount():
        # the error is another one (file too large), raised at the same moment
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return place
    held = [(path.relative_to(place), path.read_bytes()) for path in sorted(place.rglob("*")) if path.is_file()]
    # a tmpfs counts whole pages
    room = sum(-(-len(content) // 4096) * 4 for _, content in held) + kilobytes
    _mount("tmpfs", place, "tmpfs", 0, f"size={max(room, 4)}k")
    for path, content in held:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    if not room:
        (place / "filler").write_bytes(bytes(4096))
    return place


def read_only(place: Path) -> Path:
    """`place` itself where it may be mounted, else a folder of the system; no file can be made there."""
    if not can_mount():
        return Path("/proc")
    _mount(str(place), place, None, BIND, None)
    _mount(None, place, None, BIND | REMOUNT | READ_ONLY, None)
    return place


def forget() -> None:
    """Everything can be written again."""
    while _mounted:
        _checked(_libc.umount2(str(_mounted.pop()).encode(), DETACH))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _mount(source: str | None, place: Path, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source or "none", str(place), kind, data)]
    _checked(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]))
    if not flags & (REMOUNT | PRIVATE):
        _mounted.append(place)


def _checked(code: int) -> None:
    if code:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number))
