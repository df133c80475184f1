"""`leakscope report`: the page of a run, written anew; needs no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from leakscope.cli.ending import Exit
from leakscope.report.page_run import write_page


def report(folder: Path, *, redact: bool, coarse: bool, as_json: bool) -> Exit:
    """Write the page and print its path."""
    page = write_page(folder, redact=redact, coarse=coarse)
    if redact:
        # not by `console`, which loads torch
        said = f"note: {page.name} is redacted, the rest of {folder} is not; give away {page.name} alone"
        print(said, file=sys.stderr)
    print(json.dumps({"run": str(folder), "report": str(page)}) if as_json else page.resolve())
    return Exit.NO_LEAK_FOUND
