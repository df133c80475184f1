"""The options of `leakscope bound`: what no attack can pass. No torch here: help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakscope.cli.ending import orderly
from leakscope.cli.text.promise import Asked, Promise


def bound(  # noqa: PLR0913, one argument for each option
    sigma: Annotated[
        float | None, typer.Option(help="The noise multiplier: standard deviation of the noise over the clip.")
    ] = None,
    sampling_rate: Annotated[
        float, typer.Option(help="With which probability the sampler takes each example into a step; 1 is all.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the whole training.")] = 1,
    delta: Annotated[list[float] | None, typer.Option(help="Of epsilon; may be repeated. 1e-5 by default.")] = None,
    fpr: Annotated[
        list[float] | None,
        typer.Option(help="False positive rates to look at; may be repeated. 0.001, 0.01 and 0.1 by default."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="GOAL", help="Find sigma for tpr=0.1@0.01, advantage=0.2 or epsilon=8@1e-5."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the trade-off curve (.png, .pdf or .svg).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")
    ] = False,
) -> None:
    """Say what no attack on one example of a training with noise (DP-SGD) can pass, from its numbers alone.

    The sampling rate is what the sampler does and not batch size over examples: a loader of two batches is 1/2.
    """
    with orderly():
        promise = None if calibrate is None else Promise.read(calibrate)
        deltas, rates = tuple(delta or (1e-5,)), tuple(fpr or (0.001, 0.01, 0.1))
        order = Asked(sigma, sampling_rate, steps, deltas, rates, promise, figure, as_json)
        order.check()
        from leakscope.cli.commands import bound as bounding

        raise typer.Exit(bounding.bound(order))
