"""`leakscope train`: an encoder of voices, from public speech."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.attacks.attributes.learning import Course, Recipe, learn
from leakscope.attacks.attributes.rescnn import ResCNN, Shape, save
from leakscope.audit.telling import SPEAKER
from leakscope.cli import data
from leakscope.cli.console import say, watching
from leakscope.cli.ending import Exit
from leakscope.core.errors import BadInput


@final
@dataclass(frozen=True)
class Order:
    """What is trained on, where the result goes, and how it is told."""

    data: str
    out: Path
    resume: bool = False
    as_json: bool = False

    @property
    def checkpoint(self) -> Path:
        """Beside the result, until that is there."""
        return self.out.with_name(f"{self.out.name}.checkpoint")


def speaker(order: Order, shape: Shape, recipe: Recipe) -> Exit:
    """Train, write the encoder, and print how many of the utterances it has seen it names.

    Raises `BadInput` when something is in the way of --out, or the data does not tell its speakers.
    """
    _check(order)
    course = _course(order, shape, recipe)
    began = time.perf_counter()
    try:
        with watching(f"{len(course.names)} speakers, {recipe.steps} steps") as watch:
            learned = learn(course, checkpoint=str(order.checkpoint), watch=watch)
    except KeyboardInterrupt:
        say(f"the checkpoint is {order.checkpoint}; go on with --resume")
        raise
    save(learned.network, shape, str(order.out))
    order.checkpoint.unlink(missing_ok=True)
    said = {
        "encoder": repr(ResCNN(str(order.out))),
        "speakers": len(course.names),
        "utterances": len(course.utterances),
        "accuracy": learned.accuracy,
        "seconds": time.perf_counter() - began,
    }
    if order.as_json:
        print(json.dumps(said, indent=2))
    else:
        print(
            f"names {100 * learned.accuracy:.0f} % of {len(course.utterances)} public utterances of "
            f"{len(course.names)} speakers, which it has seen\nencoder: {said['encoder']}"
        )
    return Exit.NO_LEAK_FOUND


def _check(order: Order) -> None:
    if order.out.suffix != ".safetensors":
        raise BadInput(f"expected a file *.safetensors for --out, got {order.out}")
    if not order.out.parent.is_dir():
        raise BadInput(f"no folder {order.out.parent} for --out; make it first")
    if order.out.exists():
        raise BadInput(f"{order.out} is there already; remove it or choose another --out")
    if order.checkpoint.exists() and not order.resume:
        raise BadInput(f"{order.checkpoint} is there already; go on with --resume or remove it")


def _course(order: Order, shape: Shape, recipe: Recipe) -> Course:
    source = data.source(order.data)
    public, known = source.public(), [one for one in source.public_annotations() if one.name == SPEAKER]
    if not known or public.lengths is None:
        raise BadInput(f"{source!r} does not tell its speakers; use Spoken, LibriSpeech or a CSV with a column speaker")
    utterances = tuple(row[:count] for row, count in zip(public.inputs, public.lengths.tolist(), strict=True))
    return Course(utterances, known[0].values, shape, recipe)
