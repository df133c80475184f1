"""A law of the docstrings: what is documented as a field or an argument is one.

A docstring documents `name: what it is.` at the start of a sentence, several at once as `name, other: what they are.`
Only what a name does not say by itself is documented, so not every field is named; but what is named must exist.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

import leakscope
from leakscope.core.batch import Batch

NAME = r"`?[a-z_]\w*\*?`?"
NAMES = re.compile(
    rf"(?:^|(?<=[.;!?] )|(?<=[.;!?]\) ))({NAME}(?:(?:, and |, | and ){NAME})*)(?: \([A-Z][\w, ]*\))?: ", re.MULTILINE
)
"""Words in lower case before a colon, where a paragraph or a sentence begins; `trace_*` stands for several.

They may stand in backticks, be joined by `and`, and have a shape behind them: `waves (B, T): ...`.
"""

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
"""From a prompt to the next empty line."""

SYMBOLS = {
    "leakscope.scoring.metrics.guesses.LabelAccuracy": {"claimed_c", "true_c"},
    "leakscope.attacks.transcripts.exact.relaxing.relaxed": {"v"},
}
"""Symbols of the formula in the first line, which are explained like fields."""


def documented(docstring: str) -> list[str]:
    """The names that a docstring explains, its examples left out.

    >>> documented("A box.\\n\\nlow, high: its corners. Made by: nobody; size:\\n(N,). Raises `BadInput`: never.")
    ['low', 'high', 'size']
    >>> documented("A box.\\n\\n>>> {1: 2}\\n{1: 2}\\n\\n`low` (B,): one corner. high and size: more.")
    ['low', 'high', 'size']
    """
    prose = EXAMPLE.sub("", inspect.cleandoc(docstring))
    paragraphs = "\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", prose))
    lists = (found.group(1) for found in NAMES.finditer(paragraphs + " "))
    return [name.strip("`") for listed in lists for name in re.split(r", and |, | and ", listed)]


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(leakscope.__path__, "leakscope."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def known(owner: type) -> set[str]:
    """Whatever is one of a class: fields, attributes, properties, arguments of its methods; of a source, its batch."""
    found = {*dir(owner), *(name for one in owner.__mro__ for name in vars(one).get("__annotations__", {}))}
    if dataclasses.is_dataclass(owner):
        found |= {one.name for one in dataclasses.fields(owner)}
    if issubclass(owner, BaseModel):
        found |= set(owner.model_fields)
    methods = [value for one in owner.__mro__ for value in vars(one).values() if inspect.isfunction(value)]
    found |= {name for method in methods for name in arguments(method)}
    loads = any(method.__annotations__.get("return") == Batch.__name__ for method in methods)
    return found | ({one.name for one in dataclasses.fields(Batch)} if loads else set())


def own(module: Any) -> Iterator[Any]:
    """The classes, functions and methods that a module defines."""
    for value in vars(module).values():
        if getattr(value, "__module__", "") == module.__name__:
            yield from within(value)


def within(value: Any) -> Iterator[Any]:
    """A class and what is defined in it, or a function, out of whatever it is wrapped in; nothing else."""
    if inspect.isclass(value):
        yield value
        # a class that is only kept as an attribute is written elsewhere
        inner = (one for one in vars(value).values() if not inspect.isclass(one) or one.__module__ == value.__module__)
        yield from (found for one in inner for found in within(one) if found is not value)
        return
    for name in ("fget", "func", "__func__", "__wrapped__"):
        value = getattr(value, name, None) or value
    if inspect.isfunction(value):
        yield value


def strange(thing: Any) -> list[str]:
    """What the docstring of `thing` documents and `thing` does not have."""
    there = known(thing) if inspect.isclass(thing) else arguments(thing)
    there = there | SYMBOLS.get(f"{thing.__module__}.{thing.__qualname__}", set())
    return [name for name in documented(thing.__doc__ or "") if not fnmatch.filter(there, name)]


def test_what_is_documented_is_there() -> None:
    found = {
        f"{module.__name__}.{thing.__qualname__}": strange(thing)
        for module in modules()
        for thing in own(module)
        if not (inspect.isclass(thing) and issubclass(thing, enum.Enum)) and strange(thing)
    }
    assert found == {}, "a docstring explains what is not there; name the field, or begin the sentence otherwise"


def test_the_convention_is_used_and_read() -> None:
    """Else the law could hold because nothing is found."""
    counts = [len(documented(thing.__doc__ or "")) for module in modules() for thing in own(module)]
    assert sum(counts) > 400


@dataclasses.dataclass(frozen=True)
class Box:
    """A box, from low to high: an interval.

    low, high: its ends. width_*: how wide it is. An end may be
    open: nobody minds. color: gone since the paint was renamed.

    >>> {"shade": 1}
    {'shade': 1}

    `low` (B,): again. high and shade: after an example.
    """

    low: float
    high: float
    width_inside: float

    def shrunk(self, by: float) -> None:
        """Smaller. by: at each end; to: nothing."""

    @property
    def middle(self) -> float:
        """Between. to: nothing."""
        return (self.low + self.high) / 2

    @functools.cached_property
    def third(self) -> float:
        """Between. to: nothing."""
        return self.low

    @staticmethod
    @functools.lru_cache
    def unit(by: float) -> float:
        """One. by: how often. to: nothing."""
        return by

    @classmethod
    def made(cls, by: float) -> float:
        """Another. by: how often. to: nothing."""
        return by

    class Lid:
        """On top. to: nothing."""


def test_a_field_that_is_gone_is_seen() -> None:
    found = {thing.__qualname__.removeprefix("Box."): strange(thing) for thing in within(Box) if strange(thing)}
    assert documented(Box.__doc__ or "") == ["low", "high", "width_*", "color", "low", "high", "shade"]
    names = ("shrunk", "middle", "third", "unit", "made", "Lid")
    assert found == {"Box": ["color", "shade"], **{name: ["to"] for name in names}}
