"""Folders of results, for their owner only. No numpy: the command line asks before anything is loaded."""

from __future__ import annotations

from pathlib import Path

PRIVATE = 0o700
"""Rights on folders of results: they show what was private, and on many machines new folders are open to everybody."""


def private_folder(path: Path) -> None:
    """Make the folder, and those above it, where they are not there: for their owner only. Others stay as they are."""
    for above in reversed((path, *path.parents)):
        if not above.is_dir():
            # exist_ok: another process may make it at the same moment; a file in its place still raises
            above.mkdir(mode=PRIVATE, exist_ok=True)
