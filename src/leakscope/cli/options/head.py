"""The options of `leakscope head`: pictures out of a released classifier head. No torch here: help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakscope.cli.ending import orderly
from leakscope.cli.options import update
from leakscope.cli.text import asked
from leakscope.cli.text.released import Released


def head(  # noqa: PLR0913, one argument for each option
    file: Annotated[
        Path, typer.Argument(metavar="HEAD", help="The head, or the whole model: .safetensors, .npz, .pt.")
    ],
    backbone: Annotated[
        str, typer.Option(metavar="SPEC", help="The public model that the head was trained on, as --model below.")
    ],
    public: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Public pictures of the head's classes: a folder with one subfolder per class, in order.",
        ),
    ],
    domain: Annotated[str, typer.Option(metavar="SPEC", help="What the backbone takes, such as 3x32x32.")],
    state: Annotated[
        str | None, typer.Option(metavar="FILE", help="The backbone's public weights: .safetensors, .pt or .npz.")
    ] = None,
    backbone_classes: Annotated[
        int | None, typer.Option(min=1, help="Of the backbone's own task; a module of yours says it itself.")
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="As 'HeadTraining(32, 0.01, init_std=0.002)'; rates are fitted to the head without."
        ),
    ] = None,
    each: Annotated[int, typer.Option(min=1, help="How many examples of each class it was trained on.")] = 1,
    steps: Annotated[
        int, typer.Option(min=1, help="Of the decoder's training; fewer are quicker, and blurred.")
    ] = 5000,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Decode by public pictures of near features and not by a network: for photographs. No steps.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the claim goes to.")] = Path("claim.safetensors"),
    report: Annotated[Path, typer.Option(metavar="FOLDER", help="Where page and pictures go to.")] = Path("head"),
    seed: update.Seed = 0,
    allow_pickle: update.Pickle = False,
    as_json: update.Json = False,
) -> None:
    """Show which pictures a released classifier head on a public backbone was trained on, from its file alone.

    For each class the page has the picture that the head gives away, beside the public picture that is nearest to it
    and the mean of the class: what does not go beyond these two is not from the head. Takes some minutes.
    Nothing is proved, so that the exit code is 3; it is said where the head is not one that such a training makes.
    """
    with orderly():
        model = asked.Model(backbone, state, 0, allow_pickle)
        order = Released(
            file, model, public, domain, backbone_classes, training, each, steps, out, report, seed, as_json, local
        )
        order.check()
        from leakscope.cli.commands import head as attacking

        raise typer.Exit(attacking.head(order))
