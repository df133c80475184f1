"""The limit on what files and plans may promise, sizes in archives and JSON first; what a file holds its reader reads.

No torch. A file of a few bytes can name any number, and promise to unpack to any size. What it holds may be read; what
it only promises may cost no more than a limit, which whoever trusts the file can raise.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from leakscope.core.errors import BadInput
from leakscope.version import VERSION

DEFAULT = 2**30
"""Bytes that a file may ask for beyond what it holds, unless `--limit-memory` says otherwise."""

LONGEST_TEXT = 2**26
"""Bytes of a plan, a list or a transcript: all that people write is shorter."""

PIECE = 2**20
"""Bytes that are unpacked at once."""

DIGITS = 19
"""Of a whole number in a text: as many as 64 bits hold; longer ones fit into no array, file or clock."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_limit: ContextVar[int] = ContextVar("limit", default=DEFAULT)


def limit() -> int:
    """Bytes that a file may ask for."""
    return _limit.get()


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Another limit, in bytes, inside the block.

    >>> with limited(2**40):
    ...     afford("it", 2**35)
    """
    token = _limit.set(most)
    try:
        yield
    finally:
        _limit.reset(token)


def raise_limit(most: int) -> None:
    """Another limit, in bytes, from now on: for a program that serves one command and ends."""
    _limit.set(most)


def bytes_of(text: str) -> int:
    """`8GB`, `512 MiB` or a number of bytes, in powers of 1024. Raises `BadInput`.

    >>> bytes_of("8GB") == 8 * 2**30, bytes_of("512MiB") == 2**29
    (True, True)
    """
    said = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if said is None or not float(said[1]):
        raise BadInput(f"expected a size such as 8GB, got {shortened(text)!r}")
    return int(float(said[1]) * _UNITS[said[2].upper()])


def memory() -> int:
    """Bytes of memory that are to be had here: what the system calls available; without a system that says so, 64 GiB.

    >>> memory() > 2**20
    True
    """
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 2**36
    found = re.search(r"MemAvailable:\s+(\d+) kB", said)
    return int(found[1]) * 1024 if found else 2**36


def size(count: float) -> str:
    """Bytes in words.

    >>> size(2**30), size(1500), size(12)
    ('1 GiB', '1.46 KiB', '12 bytes')
    """
    for unit, worth in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= worth:
            return f"{count / worth:.3g} {unit}"
    return f"{count:.0f} bytes"


def afford(what: str, count: float, *, held: float = 0) -> None:
    """Raises `BadInput` where `what` would take `count` bytes: more than the limit, and more than twice what is held.

    held: bytes of the file itself. They are there, so a large file may cost as much.

    >>> afford("the batch", 2**31)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: the batch would take 2 GiB, more than the 1 GiB that a file may ask for; if you \
trust who wrote it, raise that: leakscope --limit-memory 3GB COMMAND ...
    """
    if count > max(limit(), 2 * held):
        raise BadInput(
            f"{what} would take {size(count)}, more than the {size(limit())} that a file may ask for; if you trust who "
            f"wrote it, raise that: leakscope --limit-memory {int(count / 2**30) + 1}GB COMMAND ..."
        )


def parsed(text: str) -> Any:
    """What JSON of somebody else says. Raises `ValueError` where it is none, too deep, or has endless numbers.

    >>> parsed("1" * 400)
    Traceback (most recent call last):
    ValueError: a whole number of 400 digits, expected at most 19
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply; expected what leakscope writes") from None


def _whole(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > DIGITS:
        # Python reads 4 300 digits, and no float, array or file offset takes them.
        raise ValueError(f"a whole number of {digits} digits, expected at most {DIGITS}")
    return int(text)


def text_of(path: Path, what: str) -> str:
    """The text of a file that is a `what`. Raises `BadInput` where it is too long, no text, or cannot be read."""
    if not path.is_file():
        raise BadInput(f"{path} is not a file; expected {what}")
    try:
        with path.open("rb") as file:
            found = file.read(LONGEST_TEXT + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); expected {what}") from None
    if len(found) > LONGEST_TEXT:
        raise BadInput(f"{path} is longer than {size(LONGEST_TEXT)}; expected {what}")
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); expected {what}") from None


def unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of a zip archive, of which no more is unpacked than the limit allows.

    The sizes that the archive declares are not believed: bytes are counted as they come. Raises `BadInput` at the
    first that is too much, and what `zipfile` raises on what is no archive.
    """
    held = path.stat().st_size
    left = max(limit(), 2 * held)
    with zipfile.ZipFile(path) as archive:
        afford(f"{path}, unpacked,", sum(member.file_size for member in archive.infolist()), held=held)
        for member in archive.infolist():
            content = bytearray()
            with archive.open(member) as file:
                # In pieces: one large read unpacks as much at once, whatever is declared.
                while piece := file.read(PIECE):
                    content += piece
                    if len(content) > left:
                        afford(f"{path}, unpacked,", max(limit(), 2 * held) + 1, held=held)
            left -= len(content)
            yield member.filename, bytes(content)


def written_by(version: object) -> str:
    """Which version a file says wrote it, beside this one. version: of leakscope, as the file has it.

    >>> written_by("9.9.9").replace(VERSION, "0.2.0")
    'it says that leakscope 9.9.9 wrote it, this is 0.2.0; use the version that wrote it'
    """
    ours = f"it says that leakscope {shortened(version, 20)} wrote it, this is {VERSION}"
    return ours if version == VERSION else f"{ours}; use the version that wrote it"


def shortened(text: object, most: int = 80) -> str:
    """A text of somebody else as far as it fits into a sentence.

    >>> shortened("a" * 100, 10)
    'aaaaaaa...'
    """
    said = str(text)
    return said if len(said) <= most else f"{said[: most - 3]}..."
