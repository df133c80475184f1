"""What may stand where data are asked for: folders, files, names of data sets, judged by text and disk alone."""

from __future__ import annotations

import ast
import difflib
import math
from pathlib import Path

from leakscope.cli.rows import Family
from leakscope.cli.text import contents, fitting, ranges, spelling
from leakscope.cli.text.fitting import LIST as LIST
from leakscope.cli.text.index import row_named, rows
from leakscope.core import file_limits
from leakscope.core.errors import BadInput

RESIZED = 8
"""Bytes of a number of a picture that is made larger, as in `datasets.sources.images`: once and once within bounds."""


def data(text: str | None, *, sized: bool = True) -> None:
    """Raises `BadInput` unless `text` is None, a folder, a CSV file or an expression for a source.

    Of a folder names are looked at, of a CSV file its first line. sized: something says how large pictures are to be.
    """
    if text is None:
        return
    if Path(text).is_dir():
        contents.folder(Path(text), sized=sized)
        return
    if Path(text).suffix.lower() == LIST:
        if not Path(text).is_file():
            raise BadInput(f"no file {text}; give a CSV file of recordings, a folder, or an expression such as Faces()")
        contents.table(Path(text))
        return
    if "(" not in text and ("/" in text or Path(text).suffix):
        raise BadInput(f"no folder {text}; give a folder, a CSV file of recordings, or an expression such as Faces()")
    if text.isidentifier() and row_named(text) is None:
        near = difflib.get_close_matches(text, [row.name for row in rows(Family.DATASETS)], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}()?" if near else ";"
        raise BadInput(
            f"no folder {text} in the current directory, and no dataset of that name{hint} "
            "give a folder, a CSV file of recordings, or an expression such as Faces()"
        )
    spelling.expression(text, Family.DATASETS)


def drawn(text: str, count: int, *, domain: str | None, classes: int | None) -> None:
    """Raises `BadInput` where `count` examples of a source cannot be drawn, or not for a model of images.

    text, domain: as they were judged before. classes: of a model that is trained to tell them apart; None of others.
    """
    tree = None if Path(text).exists() else ast.parse(text.strip(), mode="eval").body
    if not isinstance(tree, ast.Call):
        return
    home = spelling.home(ast.unparse(tree.func), spelling.SINGULAR[Family.DATASETS])
    enough(text, count)
    given, wanted = fitting.source(text), None if domain is None else fitting.domain(domain)
    if given is not None and wanted is not None and fitting.differ(given, wanted):
        have, takes = fitting.shown(given), fitting.shown(wanted)
        raise BadInput(f"the data are {have}, the model takes {takes}; make --domain and the data agree")
    told = ranges.attribute(tree, home, "classes", {})
    is_sized = given is not None and given.kind == fitting.IMAGES and given.sizes is not None
    if is_sized and isinstance(told, int) and classes == 1 < told:
        # Its gradient is zero, whatever the input.
        raise BadInput(f"a model of 1 class tells nothing apart; give it as many classes as the data has: {told}")


def enough(text: str, count: int) -> None:
    """Raises `BadInput` where a source surely has fewer examples than `count`."""
    tree = None if Path(text).exists() else ast.parse(text.strip(), mode="eval").body
    if isinstance(tree, ast.Call):
        home = spelling.home(ast.unparse(tree.func), spelling.SINGULAR[Family.DATASETS])
        most, private = (ranges.attribute(tree, home, name, {}) for name in ("most", "most_private"))
        if isinstance(most, int) and count > most:
            raise BadInput(f"{text.strip()} has at most {most} examples, cannot draw {count}")
        if isinstance(private, int) and count > private:
            raise BadInput(f"{text.strip()} has {private} private examples, cannot draw {count}")


def pictures(text: str) -> None:
    """Raises `BadInput` where the pictures of a source, all that it surely has, would take more than the limit."""
    given = fitting.source(text)
    if given is None or given.kind != fitting.IMAGES or given.sizes is None or Path(text).exists():
        return
    tree = ast.parse(text.strip(), mode="eval").body
    assert isinstance(tree, ast.Call)
    home = spelling.home(ast.unparse(tree.func), spelling.SINGULAR[Family.DATASETS])
    most = ranges.attribute(tree, home, "most", {})
    if isinstance(most, int):
        said = f"{most} pictures of {' x '.join(map(str, given.sizes[1:]))}"
        file_limits.afford(said, RESIZED * most * math.prod(given.sizes))
