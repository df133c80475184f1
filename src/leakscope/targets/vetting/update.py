"""Looks at an update, before attacks spend hours on something that holds nothing for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from leakscope.core.errors import NoSuchLayer
from leakscope.core.release import Release
from leakscope.core.target import Target
from leakscope.targets.looking.dense_ends import DenseLayer, input_layer, output_layer
from leakscope.targets.vetting.finding import Finding, Severity, some
from leakscope.targets.vetting.numbers import halved, looks

ENTRIES = "update entries"
"""What findings are about that the numbers alone show."""


def vet_update(target: Target, release: Release) -> tuple[Finding, ...]:
    """What stands between an update and a meaningful attack on it; empty when nothing was found.

    Errors come first. Looks at names and numbers, and at which layers touch input and output; runs the model once.

    >>> from torch import nn
    >>> from leakscope.core.release import Gradient
    >>> from leakscope.domains.vision import Images
    >>> target = Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Images(1, 2, 2), 2)
    >>> vet_update(target, Gradient({"1.weight": torch.zeros(2, 4), "1.bias": torch.zeros(2)}))[0].sentence
    'every number of the update is zero: nothing was trained'
    """
    found = [*_numbers(release), *_names(target, release)]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.level)))


def _numbers(release: Release) -> Iterator[Finding]:
    values = release.by_name
    infinite = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if infinite:
        sentence = f"the update of {some(infinite)} holds numbers that are not finite"
        yield Finding(Severity.ERROR, "update values", sentence, "the training diverged; take an earlier round")
    elif not any(bool((value != 0).any()) for value in values.values()):
        sentence = "every number of the update is zero: nothing was trained"
        yield Finding(
            Severity.ERROR, "update values", sentence, "check that it is of a client that trained, and after it did"
        )
    else:
        for look in looks(release):
            yield Finding(Severity.WARNING, ENTRIES, look.sentence, look.remedy)
    short = [name for name, value in values.items() if value.is_floating_point() and value.element_size() < 4]
    if short:
        sentence = f"the update of {some(short)} is {values[short[0]].dtype}: attacks in closed form ask for float32"
        yield Finding(
            Severity.WARNING, "update types", sentence, "take the update before it was rounded, if there is one"
        )

    for look in halved(release):
        yield Finding(Severity.WARNING, "update types", look.sentence, look.remedy)


def _names(target: Target, release: Release) -> Iterator[Finding]:
    known = target.parameters()
    strange = [name for name in release.by_name if name not in known]
    if strange:
        sentence = f"the update has {some(strange)}, which the model has not"
        yield Finding(Severity.ERROR, "update names", sentence, "give the model that the update belongs to")
        return
    missing = [name for name in known if name not in release.by_name]
    if missing:
        sentence = f"a partial update: {len(missing)} of {len(known)} tensors are missing, {some(missing)}"
        yield Finding(Severity.WARNING, "partial update", sentence, _left(target, set(release.by_name)))


def _left(target: Target, names: set[str]) -> str:
    """What attacks can still read, by the layers that touch input and output."""
    first, last = _layer(target, first=True), _layer(target, first=False)
    if first is not None and {first.weight, first.bias} <= names:
        return "the dense layer that reads the input is there: inputs in closed form still apply"
    if last is not None and names <= {last.weight, last.bias}:
        return "it is the output layer alone: labels can be read, inputs only by a search through the whole model"
    if all(target.parameters()[name].dim() < 2 for name in names):
        return "it is biases and scales alone: nothing in closed form reads inputs from them; match what there is"
    if last is not None and last.weight not in names:
        return "the output layer is missing: attacks on labels do not apply; match what there is"
    return "attacks that read a missing layer refuse; match what there is"


def _layer(target: Target, *, first: bool) -> DenseLayer | None:
    try:
        return input_layer(target) if first else output_layer(target)
    except NoSuchLayer:
        return None
