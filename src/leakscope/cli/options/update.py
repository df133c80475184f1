"""The options of the commands for one update: `capture`, `attack`, `score`. No torch here: help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakscope.cli.ending import LEGEND, orderly
from leakscope.cli.text import asked
from leakscope.cli.text.asked import Kind

MODEL = """\b
What --model takes:
  DeepSpeech(hidden=512)      an expression, see `leakscope list targets`
  package.module:factory      your own torch.nn.Module: a class, a function, an instance
  torchvision:NAME timm:NAME  a model of an installed library"""


Model = Annotated[str, typer.Option(metavar="SPEC", help="The model; what it can be is listed below.")]
State = Annotated[str | None, typer.Option(metavar="FILE", help="Its weights: .safetensors, .pt or .npz.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")]
Pickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Also read files that only pickle can: this runs the code that is in them."),
]
Seed = Annotated[int, typer.Option(min=0, help="All randomness follows from it.")]


MOST = 1_000_000
"""Examples of one batch: more than any client's step is computed on, and than most sources have."""

Domain = Annotated[
    str | None, typer.Option(metavar="SPEC", help="What one input is, such as 3x32x32; else as the data say.")
]
Classes = Annotated[
    int | None, typer.Option(min=1, help="How many classes the model tells apart; else as many as the data have.")
]


def capture(  # noqa: PLR0913, one argument for each option
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the update goes to (.safetensors).")],
    secret: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the private examples go to, for `leakscope score`.")
    ] = None,
    mechanism: Annotated[str, typer.Option(help="What the client does; see `leakscope list protocols`.")] = "FedSGD()",
    data: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Whose data: an expression, a folder, a CSV file of recordings.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="FILE", help="Or the private examples themselves: inputs and labels by name.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="How many examples are drawn from --data; 1.")
    ] = None,
    tell: Annotated[
        list[str] | None, typer.Option(metavar="FACT", help="What the adversary is told besides, such as BatchSize.")
    ] = None,
    update: Annotated[str | None, typer.Option(metavar="FILE", help="An update that another program made.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="What the numbers of --update are.")] = None,
    before: Annotated[str | None, typer.Option(metavar="FILE", help="Or the weights before local training...")] = None,
    after: Annotated[str | None, typer.Option(metavar="FILE", help="...and after it.")] = None,
    state: State = None,
    domain: Domain = None,
    classes: Classes = None,
    seed: Seed = 0,
    weights_seed: Annotated[int, typer.Option(min=0, help="Weights are drawn from it where none are given.")] = 0,
    allow_pickle: Pickle = False,
    as_json: Json = False,
) -> None:
    """Write what the server sees of one client into a file, and the secret behind it into another.

    The update is computed from --data or --batch, or brought from elsewhere with --update or --before and --after.
    The update file holds the numbers, the mechanism and the facts that are told; nothing else of the secret.
    """
    with orderly():
        order = asked.Capture(
            # The weights before training are the server's own, and what the update is relative to.
            asked.Model(model, state or before, weights_seed, allow_pickle),
            asked.Private(data, batch, count, seed),
            asked.Elsewhere(update, kind, before, after),
            mechanism,
            tuple(tell or ()),
            out,
            secret,
            domain,
            classes,
            as_json,
        )
        order.check()
        from leakscope.cli.commands import capture as capturing

        raise typer.Exit(capturing.capture(order))


def attack(  # noqa: PLR0913, one argument for each option
    update: Annotated[Path, typer.Argument(help="A file that `leakscope capture` wrote.")],
    model: Model,
    state: State = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", metavar="ATTACK", help="Only this attack; may be given several times.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="What each search may spend.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="The same in evaluations of the gradient.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the claim goes to.")] = Path("claim.safetensors"),
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also a page with pictures and sounds of the claim.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Public examples of everybody who may be behind it, as --data.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where a search keeps its state, to be killed and go on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the state in --checkpoint.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write loss, distance and step size for TensorBoard.")
    ] = None,
    allow_pickle: Pickle = False,
    as_json: Json = False,
) -> None:
    """Recover what can be recovered from an update, without the secret, and write the claim.

    Every exact attack and every attack on labels is run, then, unless inputs are proved, the best search; each says
    why where it claims nothing. Ctrl-C ends a search with the best so far. Exits with 1 where a claim is proved by its
    own equations, else with 3: what is only claimed has to be scored.
    """
    with orderly():
        effort = asked.Effort(tuple(with_ or ()), seconds, evaluations, seed, checkpoint, resume, tensorboard)
        given = asked.Model(model, state, 0, allow_pickle)
        order = asked.Recovery(update, given, effort, out, gallery, report, as_json)
        order.check()
        from leakscope.cli.commands import attack as attacking

        raise typer.Exit(attacking.attack(order))


def score(
    claim: Annotated[Path, typer.Argument(help="A file that `leakscope attack` wrote.")],
    secret: Annotated[Path, typer.Argument(help="The file that `leakscope capture --secret` wrote.")],
    public: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Public data for blind guesses, as --data of capture.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="METRIC", help="Only this one; see `leakscope list metrics`.")
    ] = None,
    seed: Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also a page with the private examples and what was claimed of them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a claim with the secret: each metric with its interval and its chance level.

    Exits with 1 where something private was recovered beyond doubt, else with 3: one update cannot clear a mechanism.
    """
    with orderly():
        order = asked.Comparison(claim, secret, public, tuple(metric or ()), seed, report, as_json)
        order.check()
        from leakscope.cli.commands import score as scoring

        raise typer.Exit(scoring.score(order))


def register(app: typer.Typer) -> None:
    """Add the three commands."""
    for command, more in ((capture, f"{MODEL}\n\n{LEGEND}"), (attack, f"{MODEL}\n\n{LEGEND}"), (score, LEGEND)):
        app.command(epilog=more)(command)
