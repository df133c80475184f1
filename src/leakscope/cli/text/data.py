"""What may stand where data are asked for, as far as that shows in the text and on the disk."""

from __future__ import annotations

import difflib
from pathlib import Path

from leakscope.cli.rows import Family
from leakscope.cli.text import contents, spelling
from leakscope.cli.text.index import row_named, rows
from leakscope.core.errors import BadInput

LIST = ".csv"


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
