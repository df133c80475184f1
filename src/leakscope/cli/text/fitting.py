"""Whether a target takes what a source gives, and facts are of it, as far as their texts tell.

What a source gives is written behind the arrow of its `domain`; what a target takes are traits of its row, and of sizes
what the statements of its `build` say. Of anything else nothing is said: models of others, and a `domain` of their own.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from leakscope.cli.rows import Family, Trait
from leakscope.cli.text import contents, ranges, spelling
from leakscope.cli.text.index import row_named
from leakscope.cli.text.models import split
from leakscope.cli.text.signatures import signature
from leakscope.core import file_limits
from leakscope.core.errors import BadInput, LeakscopeError
from leakscope.homes import Home

IMAGES, FRAMES, TEXT, VECTORS = spelling.DOMAINS
WORDS = {IMAGES: "images", FRAMES: "frames of speech", TEXT: "text", VECTORS: "feature vectors"}
"""Kinds of inputs as messages call them."""

TAKES = {Trait.IMAGES: IMAGES, Trait.SPEECH: FRAMES, Trait.TEXT: TEXT}
"""Traits of targets that take one kind of inputs and refuse all others."""

SIZES: Mapping[str, Callable[..., tuple[int, ...]]] = {
    IMAGES: lambda channels, height, width: (channels, height, width),
    FRAMES: lambda coefficients: (coefficients,),
}
"""What stands for domains where only their sizes are asked for."""

COEFFICIENTS = "coefficients"
"""The field of `Frames`, and of targets that take them, which has to agree."""

EXAMPLE = Home("leakscope.audit.affordable", "EXAMPLE")
"""How much memory a number of one input may mean."""

FITTED = "Fitted"
"""The target that is trained on a source, for the classes of that source."""

LIST = ".csv"
"""The suffix of a list of recordings."""

VALUES = {"BatchSize": "count", "TrueLabels": "values", "Lengths": "values", "TrueTranscripts": "values"}
"""Facts that tell how many examples there are, with the field that does."""

SEQUENCES = {"Lengths": "lengths", "TrueTranscripts": "label_lengths"}
"""Facts of sequences, with the array of a file that holds them."""


@final
@dataclass(frozen=True)
class Inputs:
    """What inputs are. kind: the name of their domain. sizes: as `SIZES` has them, None where they are not known.

    said: the text that says so. classes: how many the examples have, None where that does not show.
    """

    kind: str
    sizes: tuple[int, ...] | None
    said: str
    classes: int | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.sizes or ()


def source(text: str) -> Inputs | None:
    """What the examples of a source are, of an expression, a folder or a CSV file; None where that does not show.

    >>> source("Digits(size=8)"), source("Sentences()")
    (Inputs(kind='Images', sizes=(1, 8, 8), said='Digits(size=8)'), Inputs(kind='Text', sizes=None, said='Sentences()'))
    """
    if Path(text).is_dir() or Path(text).suffix.lower() == LIST:
        spoken = not Path(text).is_dir() or contents.spoken(Path(text))
        return Inputs(FRAMES, None, text) if spoken else None
    tree = ast.parse(text.strip(), mode="eval").body
    return _of_call(tree) if isinstance(tree, ast.Call) else None


def domain(text: str) -> Inputs:
    """What the inputs are that --domain names.

    >>> domain("3x32x32")
    Inputs(kind='Images', sizes=(3, 32, 32), said='--domain 3x32x32')
    """
    tree = spelling.domain(text)
    assert isinstance(tree, ast.Call)
    kind, home = ast.unparse(tree.func), spelling.DOMAINS[ast.unparse(tree.func)]
    fields = SIZES[kind].__code__.co_varnames if kind in SIZES else ()
    return Inputs(kind, _whole([ranges.attribute(tree, home, name, {}) for name in fields]), f"--domain {text}")


def of_update(path: Path) -> Inputs | None:
    """What the model of an update takes, as its file says; None where it does not say so, which its reader judges."""
    try:
        said = json.loads((contents.header(path) or {})["__metadata__"]["leakscope"])["header"]
        found = domain(str(file_limits.parsed(said)["domain"]))
    except (ValueError, KeyError, TypeError, RecursionError, LeakscopeError):
        return None
    return Inputs(found.kind, found.sizes, str(path))


def affordable(inputs: Inputs) -> None:
    """Raises `BadInput` where one input is larger than any model of the limit takes, as `audit.affordable` does."""
    worth = ranges.constant(EXAMPLE)
    if inputs.kind == IMAGES and inputs.sizes is not None and isinstance(worth, int):
        size = " x ".join(map(str, inputs.sizes))
        file_limits.afford(f"a model for images of {size}, as {inputs.said} has them,", math.prod(inputs.sizes) * worth)


def target(text: str, inputs: Inputs, *, drawn: bool) -> None:
    """Raises `BadInput` where the target `text` surely refuses such inputs.

    drawn: the examples themselves are of this kind, with the labels that the sources of their kind have.

    >>> target("LeNet()", Inputs("Text", None, "Sentences()"), drawn=True)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: LeNet() takes images, and Sentences() has text; give a target and data of one kind
    """
    prefix, name = split(text)
    if not prefix:
        tree = ast.parse(name, mode="eval").body
        _judge(tree, inputs, drawn)
        _of_as_many_classes(tree, inputs)


def told(texts: Sequence[str], inputs: Inputs, count: int | None) -> None:
    """Raises `BadInput` where a fact cannot be of drawn examples. count: how many, None where it may be any number."""
    for text in texts:
        tree = spelling.fact(text)
        name = ast.unparse(tree.func if isinstance(tree, ast.Call) else tree)
        # Whose a vector is can be told as well, but it has no length.
        if (inputs.kind != FRAMES and name in SEQUENCES) or (inputs.kind in (IMAGES, TEXT) and name == "Gallery"):
            raise BadInput(f"{text} is of recordings, and {inputs.said} has {WORDS[inputs.kind]}; leave it out")
        if inputs.kind == FRAMES and name == "TrueLabels":
            raise BadInput(f"{text} is of classes, and {inputs.said} has transcripts; tell TrueTranscripts, or nothing")
        if inputs.kind == FRAMES and name == "Suspects":
            raise BadInput(f"{text} are two examples of one class, and {inputs.said} has transcripts; leave it out")
        if count is None or name not in VALUES or not isinstance(tree, ast.Call):
            continue
        said = ranges.attribute(tree, spelling.home(name, "fact"), VALUES[name], {})
        said = len(said) if isinstance(said, tuple) else said
        if isinstance(said, int) and said != count:
            raise BadInput(f"told {text}, but the batch has {count}; tell what is true or nothing")


def told_of_file(texts: Sequence[str], path: str) -> None:
    """Raises `BadInput` where a fact cannot be of the examples in a file, by the names of its arrays."""
    names = contents.tensors(path)
    for text in texts:
        tree = spelling.fact(text)
        array = SEQUENCES.get(ast.unparse(tree.func if isinstance(tree, ast.Call) else tree))
        if names is not None and array is not None and array not in names:
            raise BadInput(f"{text} is of recordings, and {path} has no {array}; leave it out")


def _judge(tree: ast.expr, inputs: Inputs, drawn: bool) -> None:
    """Of a target and of those that it is made of: all are built for the same inputs."""
    row = row_named(tree.func.id) if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) else None
    if row is None or row.family is not Family.TARGETS or not isinstance(tree, ast.Call):
        return
    said, home = file_limits.shortened(ast.unparse(tree)), Home(row.home, row.name)
    wanted = {kind for trait, kind in TAKES.items() if trait in row.traits}
    # A dense layer takes any numbers, but no ids of tokens; its classes are no transcripts, nor are lengths all alike.
    wanted |= {IMAGES, VECTORS} if drawn and Trait.FIXED in row.traits else set()
    if wanted and inputs.kind not in wanted:
        takes = " or ".join(sorted(WORDS[one] for one in wanted))
        raise BadInput(
            f"{said} takes {takes}, and {inputs.said} has {WORDS[inputs.kind]}; give a target and data of one kind"
        )
    if Trait.IMAGES in row.traits and inputs.sizes is not None:
        ranges.build(tree, home, inputs)
    if Trait.SPEECH in row.traits and inputs.sizes is not None:
        takes = ranges.attribute(tree, home, COEFFICIENTS, {})
        if isinstance(takes, int) and (takes,) != inputs.sizes:
            raise BadInput(
                f"{said} takes {takes} coefficients, and {inputs.said} has {inputs.sizes[0]}; make the two agree"
            )
    for part in (*tree.args, *(one.value for one in tree.keywords)):
        _judge(part, inputs, drawn)
        # Public data beside a target are what it is trained on, so that it takes the same.
        other = _of_call(part) if isinstance(part, ast.Call) else None
        if other is not None and differ(other, inputs):
            raise BadInput(f"{said} is made for {shown(other)}, and {inputs.said} has {shown(inputs)}; use one source")


def _of_as_many_classes(tree: ast.expr, inputs: Inputs) -> None:
    """Raises `BadInput` where a model is fitted to data of another number of classes than the audited ones.

    Of the outermost model alone: a probe on a fitted body has classes of its own.
    """
    if not isinstance(tree, ast.Call) or ast.unparse(tree.func) != FITTED or inputs.classes is None:
        return
    given = [
        _of_call(one) for one in (*tree.args, *(each.value for each in tree.keywords)) if isinstance(one, ast.Call)
    ]
    for one in given:
        if one is not None and one.classes is not None and one.classes != inputs.classes:
            raise BadInput(
                f"{file_limits.shortened(ast.unparse(tree))} is fitted to {one.classes} classes, and {inputs.said} has "
                f"{inputs.classes}; audit it on data of the same kind"
            )


def differ(one: Inputs, other: Inputs) -> bool:
    """Whether two are surely not the same, whatever their units."""
    return one.kind != other.kind or (None not in (one.sizes, other.sizes) and one.sizes != other.sizes)


def shown(inputs: Inputs) -> str:
    """As messages say it."""
    sizes = "" if inputs.sizes is None else f" of {' x '.join(map(str, inputs.sizes))}"
    return f"{WORDS[inputs.kind]}{sizes}"


def _of_call(call: ast.Call) -> Inputs | None:
    """What a call of a source, or of other public data, gives; None of everything else."""
    row = row_named(call.func.id) if isinstance(call.func, ast.Name) else None
    if row is None or signature(Home(row.home, row.name)) is None:
        return None
    home = Home(row.home, row.name)
    _, made = ranges.method(home, "domain")
    kind = None if made is None or made.returns is None else ast.unparse(made.returns)
    if kind not in WORDS:
        # One that wraps another gives what that one does, and says so of no kind in particular.
        inner = [one for one in (*call.args, *(each.value for each in call.keywords)) if isinstance(one, ast.Call)]
        found = _of_call(inner[0]) if kind is not None and len(inner) == 1 else None
        return None if found is None else Inputs(found.kind, found.sizes, ast.unparse(call), found.classes)
    sizes, classes = ranges.attribute(call, home, "domain", SIZES), ranges.attribute(call, home, "classes", {})
    known = classes if isinstance(classes, int) else None
    return Inputs(kind, _whole(sizes) if isinstance(sizes, tuple) else None, ast.unparse(call), known)


def _whole(sizes: Sequence[Any]) -> tuple[int, ...] | None:
    """The sizes, if all of them are known and can be; None of none."""
    known = all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in sizes)
    return tuple(sizes) if sizes and known else None
