"""The options of `leakscope train`: what attacks learn from public data. No torch here: help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakscope.cli.ending import LEGEND, orderly
from leakscope.cli.text.asked import Training
from leakscope.core.errors import BadInput

app = typer.Typer(
    name="train",
    help="Train what an attack uses, on the public half of a data set.",
    epilog=LEGEND,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def train() -> None:
    """Train what an attack uses, on the public half of a data set."""


@app.command(epilog=LEGEND)
def speaker(  # noqa: PLR0913, one argument for each option
    data: Annotated[
        str, typer.Option(metavar="SPEC", help="Speech that tells its speakers: 'Spoken()', a folder, a CSV.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the encoder goes to (.safetensors).")],
    width: Annotated[int, typer.Option(min=1, help="Filters of the first stage; the paper has 64.")] = 16,
    blocks: Annotated[int, typer.Option(min=1, help="Residual blocks per stage; the paper has 3.")] = 1,
    dimensions: Annotated[int, typer.Option(min=1, help="Of an embedding; the paper has 512.")] = 128,
    softmax: Annotated[int, typer.Option(min=0, help="Steps of naming the speakers.")] = 300,
    triplet: Annotated[int, typer.Option(min=0, help="Steps of telling them apart by the cosine.")] = 150,
    batch: Annotated[int, typer.Option(min=4, help="Utterances per step.")] = 32,
    rate: Annotated[float, typer.Option(help="The learning rate of Adam.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="All randomness follows from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint beside --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")] = False,
) -> None:
    """Train a Deep Speaker network that tells voices apart, for `SpeakerIdentity(encoder=ResCNN(FILE))`.

    With the sizes that are set it takes a minute or two. A checkpoint is written now and then; a training that was
    stopped and resumed ends with the same bytes.
    """
    with orderly():
        order = Training(data, out, resume=resume, as_json=as_json)
        order.check()
        if softmax + triplet < 1:
            raise BadInput("expected at least one step, got --softmax 0 --triplet 0; leave one of them out")
        if not rate > 0:
            raise BadInput(f"expected a learning rate > 0, got --rate {rate}")
        from leakscope.attacks.attributes.learning import Recipe
        from leakscope.attacks.attributes.rescnn import Shape
        from leakscope.cli.commands import train as training

        shape = Shape(width, blocks, dimensions)
        recipe = Recipe(softmax, triplet, batch, rate, seed)
        raise typer.Exit(training.speaker(order, shape, recipe))
