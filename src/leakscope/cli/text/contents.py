"""What files and folders of somebody else hold, as far as names and headers tell: no array is read, and no torch."""

from __future__ import annotations

import csv
import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leakscope.core.errors import BadInput

LONGEST = 100 * 2**20
"""Bytes of a safetensors header; the library refuses longer ones."""

TORCH = frozenset({".pt", ".pth", ".bin", ".ckpt"})
MAGIC = ((0x1950A86A20F9469CFC6C).to_bytes(10, "little"), str(0x1950A86A20F9469CFC6C).encode())
"""What a file of `torch.save` begins with where it is no archive: a number, as pickles of bytes and of text have it."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
SOUNDS = frozenset({".wav", ".flac", ".ogg"})
SPOKEN = ".trans.txt"
COLUMNS = ("wav_filename", "wav_filesize", "transcript")
FIELDS = ("inputs", "labels", "lengths", "label_lengths")
"""As in the sources of pictures and of speech, and in `cli.data`, which need torch; a test compares them."""


def cut(path: Path, said: Mapping[str, Any]) -> str:
    """What is wrong where a safetensors file has not as many bytes as its header says; empty where nothing is.

    said: the header: for each array, where its bytes begin and end, counted from the end of the header.
    """
    with path.open("rb") as file:
        there = path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    try:
        wanted = max((int(one["data_offsets"][1]) for name, one in said.items() if name != "__metadata__"), default=0)
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return "its header does not say where its arrays are"
    return "" if there == wanted else f"its header says {wanted} bytes of arrays, {there} are there"


def header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            # safetensors: eight bytes with the length of the header, least first, then the header as JSON
            length = int.from_bytes(file.read(8), "little")
            said = json.loads(file.read(length)) if length <= min(LONGEST, path.stat().st_size) else None
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def tensors(path: str | None) -> frozenset[str] | None:
    """The names of the arrays in a file; None where only its reader can tell. Raises `BadInput` where it has none."""
    place = Path(path or "")
    if path is None or not place.is_file():
        return None
    if place.suffix == ".safetensors":
        said = header(place)
        return _damaged(path) if said is None or cut(place, said) else frozenset(said.keys() - {"__metadata__"})
    with place.open("rb") as file:
        start = file.read(64)
    # What is packed begins so, and ends with a list of what is in it.
    if zipfile.is_zipfile(place):
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
        # A list that is there and cannot be read: cut, of a later version, with names or fields of no length.
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error):
            return _damaged(path)
        return frozenset(one.removesuffix(".npy") for one in names) if place.suffix == ".npz" else None
    packed = start.startswith(b"PK") or not start
    if packed or (place.suffix == ".npz" and not start.startswith((b"\x93NUMPY", b"\x80"))):
        return _damaged(path)
    # Where there is no archive torch reads two other formats, of versions before 1.6.
    if place.suffix in TORCH and not (any(one in start for one in MAGIC) or _is_tar(place)):
        return _damaged(path)
    return None


def _is_tar(place: Path) -> bool:
    try:
        with tarfile.open(place, "r:"):
            return True
    except tarfile.TarError:
        return False


def _damaged(path: str) -> frozenset[str]:
    raise BadInput(f"{path} cannot be read: it is cut short, damaged or of another kind; save it again")


def batch(path: str | None) -> None:
    """Raises `BadInput` where a file holds no batch by the names of its arrays."""
    names = tensors(path)
    if names is None or {"inputs", "labels"} <= names <= set(FIELDS):
        return
    listed = ", ".join(sorted(one for one in names if not re.fullmatch(r"arr_\d+", one)))
    raise BadInput(
        f"{path} holds {listed or 'arrays without names'}, expected inputs and labels (and lengths and label_lengths "
        "of sequences), such as numpy.savez writes by name"
    )


def folder(path: Path, *, sized: bool) -> None:
    """Raises `BadInput` where a folder has nothing to draw from. sized: --domain says of what size pictures are."""
    if sized and next(_useful(path), None) is not None:
        return
    found = set(_useful(path))
    if not found:
        raise BadInput(
            f"{path} holds neither pictures ({', '.join(sorted(PICTURES))}) nor sound ({', '.join(sorted(SOUNDS))})"
        )
    if not found & {SPOKEN, *SOUNDS}:
        raise BadInput(f"the pictures of {path} can be of any size; say what the model takes, with --domain 3x32x32")


def spoken(path: Path) -> bool:
    """Whether a folder is read as recordings, whatever else is in it."""
    return any(kind in {SPOKEN, *SOUNDS} for kind in _useful(path))


def _useful(path: Path) -> Iterator[str]:
    for one in path.rglob("*"):
        kind = SPOKEN if one.name.endswith(SPOKEN) else one.suffix.lower()
        if kind in {SPOKEN, *SOUNDS, *PICTURES} and one.is_file():
            yield kind


def table(path: Path) -> None:
    """Raises `BadInput` where the first line of a CSV file does not name the columns of recordings."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            named = next(csv.reader(file), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no CSV file in UTF-8 ({error}); write it again") from None
    missing = [column for column in COLUMNS if column not in named]
    if missing:
        raise BadInput(f"{path} lacks the columns {missing}; expected {', '.join(COLUMNS)} in the first line")
