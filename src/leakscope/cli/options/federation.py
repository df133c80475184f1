"""The options of `leakscope federation`: a plan of federations, run or gone on with. No torch here: help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakscope.cli import federation_keys
from leakscope.cli.ending import orderly
from leakscope.cli.text import federation as reading
from leakscope.core.errors import BadInput

KEYS = "\b\nKeys of the plan file (type; default):\n" + "\n".join(federation_keys.PAGES.lines())
PLAN_OF = "federation-plan.toml"
"""In the folder of a run: the plan as it was read."""


def federation(
    plan: Annotated[Path, typer.Argument(help="A TOML file; its keys are listed below.")],
    out: Annotated[Path | None, typer.Option(help="The folder of the run; runs/NAME OF THE PLAN by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")
    ] = False,
) -> None:
    """Train whole federations of speakers, attack each person by all that they send, and write a page.

    Features, rounds, what attacks have learned and every answer are kept in the folder: after Ctrl-C or a kill,
    --resume runs nothing twice.
    """
    with orderly():
        written = reading.read(plan)
        folder = out or Path("runs") / plan.stem
        begun = room(folder)
        if resume and not begun:
            raise BadInput(f"nothing to resume in {folder}: no federation has begun there; leave --resume out")
        if begun and not resume:
            raise BadInput(f"{folder} holds a run already; go on with --resume or choose another folder")
        from leakscope.cli.commands import federation as running

        raise typer.Exit(running.federation(written, folder, as_json=as_json))


def room(folder: Path) -> bool:
    """Whether a run has begun there. Raises `BadInput` where something else is."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; choose another folder")
    begun = (folder / PLAN_OF).is_file()
    if not begun and folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty and holds no run of federations; choose another folder")
    return begun
