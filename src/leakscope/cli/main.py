"""The entry point. What was asked is judged as text first (`cli.text`), and only then is imported what it needs.

So help, lists and every usage error answer at once: none of them waits for torch.
"""

from __future__ import annotations

import enum
import shlex
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, final

import typer
import typer.core

from leakscope.audit.shard import Shard
from leakscope.cli import plan_keys
from leakscope.cli.ending import LEGEND, Exit
from leakscope.cli.ending import orderly as _orderly
from leakscope.cli.options import bound as bound_options
from leakscope.cli.options import federation as federation_options
from leakscope.cli.options import head as head_options
from leakscope.cli.options import train as train_options
from leakscope.cli.options import update as update_options
from leakscope.cli.options.demo import Subject
from leakscope.cli.rows import family as family_named
from leakscope.cli.text import asked, files
from leakscope.cli.text import plan as reading
from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.version import VERSION

if TYPE_CHECKING:
    from leakscope.audit.engines.engine import AbstractEngine

# Our help is plain: for rich typer puts backslashes before brackets, which then nobody takes off.
typer.core.HAS_RICH = False

app = typer.Typer(
    name="leakscope",
    help="Measure what distributed training leaks: from one gradient or one federated update.",
    epilog=LEGEND,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@final
class Engine(enum.StrEnum):
    """Where cells run."""

    INLINE = "inline"
    PROCESSES = "processes"


MOST_WORKERS = 1024
"""Processes of one machine: a larger number is a slip, and would be answered by the machine."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout and nothing else.")]
Out = Annotated[Path | None, typer.Option(help="The folder of the run; runs/NAME OF THE PLAN by default.")]
EngineName = Annotated[Engine, typer.Option(help="One process, or several with one thread each.")]
Workers = Annotated[
    int | None, typer.Option(min=1, max=MOST_WORKERS, help="How many processes; one per processor by default.")
]
Model = Annotated[str | None, typer.Option(metavar="SPEC", help="The model; what it can be is listed below.")]

Cut = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the I-th of N parts, as 2/8; all may write to one folder at once, and each goes on with its own.",
    ),
]

PLAN_KEYS = "\b\nKeys of the plan file (type; default):\n" + "\n".join(plan_keys.PAGES.lines())


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    limit_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How much a file of somebody else may ask for beyond what it holds, such as 8GB; 1GB by default.",
        ),
    ] = None,
) -> None:
    """Options before the command."""
    if limit_memory is not None:
        with _orderly():
            file_limits.raise_limit(file_limits.bytes_of(limit_memory))
    if version:
        print(VERSION)
        raise typer.Exit(Exit.NO_LEAK_FOUND)


@app.command(epilog=LEGEND)
def demo(
    subject: Annotated[
        Subject,
        typer.Argument(metavar="[images|speech|emotion]", help="Faces and digits, synthetic speech, or speakers."),
    ] = Subject.IMAGES,
    out: Out = None,
    engine: EngineName = Engine.PROCESSES,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Show on real faces and digits what one gradient and one federated update reveal, in two or three minutes.

    With `speech`, what one gradient of a speech recognizer reveals, in about a minute; needs the extra `speech`.
    With `emotion`, what a federation of speakers reveals of their sex, plain and with user-level privacy, in one
    process and two minutes; needs the extra `emotion`.
    Goes on where an earlier demo was stopped. Exits with 0 when it ran to its end, whatever it found.
    """
    with _orderly():
        folder = out or Path("runs") / subject.folder
        if subject is Subject.EMOTION:
            federation_options.room(folder)
            from leakscope.cli.commands.demo import federated

            raise typer.Exit(federated(folder, as_json=as_json))
        files.room(folder, resume=True, shared=False)
        from leakscope.cli.commands import audit as auditing
        from leakscope.cli.commands import demo as demonstrating

        order = auditing.Order(folder, _engine(engine, workers), resume=True, as_json=as_json, again=_again())
        raise typer.Exit(demonstrating.demo(subject, order))


@app.command(epilog=f"{PLAN_KEYS}\n\n{update_options.MODEL}\n\n{LEGEND}")
def audit(  # noqa: PLR0913, one argument for each option
    plan: Annotated[Path, typer.Argument(help="A TOML file; its keys are listed below.")],
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the records that are in the folder.")] = False,
    engine: EngineName = Engine.PROCESSES,
    workers: Workers = None,
    model: Model = None,
    shard: Cut = None,
    as_json: Json = False,
) -> None:
    """Run a plan, every combination beside its undefended and its blind control. --model replaces its targets.

    With --shard, the exit code is 3 until the last part is done.
    """
    with _orderly():
        written = reading.read(plan, instead=model).findable().fitting()
        folder = out or Path("runs") / plan.stem
        part = None if shard is None else Shard.read(shard)
        files.room(folder, resume=resume, shared=part is not None)
        # A part begins where the others have or have not, so that its folder may be empty.
        if resume and part is None:
            files.begun(folder)
        from leakscope.cli.commands import audit as auditing

        order = auditing.Order(folder, _engine(engine, workers), resume, as_json, _again("--resume"), part)
        raise typer.Exit(auditing.audit(written, order))


@app.command(epilog=f"{update_options.MODEL}\n\n{LEGEND}")
def merge(
    plan: Annotated[Path, typer.Argument(help="The plan that all of them ran.")],
    runs: Annotated[list[Path], typer.Argument(help="The folders that `leakscope audit --shard` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder of the whole.")],
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Put shards that were run in folders of their own together: one run, one verdict, one page. Nothing is run."""
    with _orderly():
        written = reading.read(plan, instead=model)
        for run in runs:
            files.part(run)
        files.folder(out, "--out")
        from leakscope.cli.commands import merge as merging

        raise typer.Exit(merging.merge(merging.Order(written, tuple(runs), out, as_json)))


@app.command("list", epilog=LEGEND)
def list_(
    family: Annotated[
        str | None, typer.Argument(help="attacks, defenses, protocols, metrics, targets, datasets or parts; or all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what can stand in a plan."""
    with _orderly():
        from leakscope.cli.commands import list as listing

        raise typer.Exit(listing.list_names(None if family is None else family_named(family), as_json=as_json))


@app.command(epilog=LEGEND)
def report(
    run: Annotated[Path, typer.Argument(help="The folder of an audit, such as runs/demo.")],
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Leave out pictures, labels and texts of secrets, and scores of less than 5."),
    ] = False,
    coarse: Annotated[
        bool, typer.Option("--coarse-pictures", help="With --redact: 4 x 4 averages of each picture all the same.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the page of a run anew and print its path."""
    with _orderly():
        if coarse and not redact:
            raise BadInput("--coarse-pictures says what --redact leaves of pictures; give --redact too")
        files.run(run)
        from leakscope.cli.commands import report as reporting

        raise typer.Exit(reporting.report(run, redact=redact, coarse=coarse, as_json=as_json))


@app.command(epilog=f"{update_options.MODEL}\n\n{LEGEND}")
def doctor(  # noqa: PLR0913, one argument for each option
    model: Model = None,
    dataset: Annotated[
        str, typer.Option(metavar="SPEC", help="The dataset that the model is looked at with.")
    ] = asked.LOOKED_AT,
    domain: update_options.Domain = None,
    classes: update_options.Classes = None,
    update: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An update of the model, as `leakscope capture` writes it.")
    ] = None,
    state: update_options.State = None,
    allow_pickle: update_options.Pickle = False,
    as_json: Json = False,
) -> None:
    """Check this machine and, with --model, whether a model is fit for an audit; with --update, what it looks like."""
    with _orderly():
        look = asked.Examined(model, dataset, update, state, allow_pickle, domain, classes)
        look.check()
        from leakscope.cli.commands import doctor as examining

        raise typer.Exit(examining.doctor(look, as_json=as_json))


update_options.register(app)
app.command(epilog=f"{update_options.MODEL}\n\n{LEGEND}")(head_options.head)
app.command(epilog=LEGEND)(bound_options.bound)
app.command(epilog=f"{federation_options.KEYS}\n\n{LEGEND}")(federation_options.federation)
app.add_typer(train_options.app)


def _engine(name: Engine, workers: int | None) -> AbstractEngine:
    from leakscope.audit.engines.inline import Inline
    from leakscope.audit.engines.processes import Processes

    return {Engine.INLINE: Inline(), Engine.PROCESSES: Processes(workers)}[name]


def _again(*more: str) -> str:
    """The command line that goes on with this run."""
    given = sys.argv[1:]
    return shlex.join(["leakscope", *given, *(option for option in more if option not in given)])


@final
class _Unforeseen:
    """Python exits with 1 after a traceback, which is our code for a leak: a bug must not look like a finding."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
            raise SystemExit(Exit.INCOMPLETE)


def main() -> None:
    """Run the command line."""
    with _Unforeseen():
        app(prog_name="leakscope")


if __name__ == "__main__":
    main()
