"""`leakscope train`: an encoder of voices, from public speech."""

from __future__ import annotations

import json
import time

from leakscope.attacks.attributes.learning import Course, Recipe, learn
from leakscope.attacks.attributes.rescnn import ResCNN, Shape, save
from leakscope.cli import data
from leakscope.cli.console import say, watching
from leakscope.cli.ending import Exit
from leakscope.cli.text.asked import Training
from leakscope.core.annotation import SPEAKER
from leakscope.core.errors import BadInput


def speaker(order: Training, shape: Shape, recipe: Recipe) -> Exit:
    """Train, write the encoder, and print how many of the utterances it has seen it names.

    Raises `BadInput` when the data does not tell its speakers.
    """
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


def _course(order: Training, shape: Shape, recipe: Recipe) -> Course:
    source = data.source(order.data)
    public, known = source.public(), [one for one in source.public_annotations() if one.name == SPEAKER]
    if not known or public.lengths is None:
        raise BadInput(f"{source!r} does not tell its speakers; use Spoken, LibriSpeech or a CSV with a column speaker")
    utterances = tuple(row[:count] for row, count in zip(public.inputs, public.lengths.tolist(), strict=True))
    return Course(utterances, known[0].values, shape, recipe)
