"""Whether what runs in front of a model's first layer changes inputs; a limit of brightness changes some of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.target import Target
from leakscope.domains.text import Text
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.random_entry import READERS
from leakscope.targets.looking.tape import listening, named

TRACED = 6
"""Noise inputs by which each entry of what a layer is fed is traced to the entry of the input that it is."""
FACTORS = (0.0, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 2.0, 4.0, 16.0)
"""By which inputs are darkened, brightened, and drawn toward or away from their mean."""
ROWS = 16
"""Of a larger claim, how many inputs are tried: a copy of each variant is made of all."""
EXCHANGED = 4096
"""Texts with one token exchanged that are tried, of all claims together; all of them in small vocabularies."""
TOGETHER = 512
"""Texts that are run at once."""
SAME_VECTOR = 1e-9
"""Largest relative change of vectors in float64 that is rounding."""
SAME = 1e-4
"""Largest change, relative to the domain's range, that is none: a clamp to rounded ends of the range."""


def alters_inputs(target: Target, inputs: Tensor, *, readers: tuple[str, ...] = ()) -> bool:
    """Whether a layer that is fed the entries of an input, each in its place, is fed others for some legal input.

    What was read from the first layer is fed to it again as it is by whatever leaves its own results alone, as a limit
    of brightness or of the norm does, and a replay hides that the private input was another. So the model is run on the
    claim darkened, brightened, with more and with less contrast, negative, mirrored and in parts, on constants and on
    noise, in batches of the claim's size, `ROWS` at most. A test and no proof: code that acts on others is not seen.

    inputs: the claim (B, *shape), B >= 1. readers: names of the layers that are watched, of those that are fed all of
    the input; all layers where empty. True as well where none is fed the input's own entries, or the model fails.

    >>> from leakscope import Images
    >>> claim, fronts = torch.full((1, 1, 4, 4), 0.5), (torch.nn.Identity(), torch.nn.Hardtanh(0, 0.9))
    >>> nets = [torch.nn.Sequential(front, torch.nn.Flatten(), torch.nn.Linear(16, 2)) for front in fronts]
    >>> [alters_inputs(Target(net, Images(1, 4, 4), 2), claim) for net in nets]
    [False, True]
    """
    like = next(target.module.parameters())
    inputs = inputs[:ROWS].detach().to(like.device)
    inputs = inputs.to(like.dtype) if inputs.is_floating_point() else inputs
    try:
        places = _places(target, readers or named(target.module, *READERS), inputs)
        return not places or any(_altered(target, places, one) for one in _variants(target, inputs))
    except FORWARD_ERRORS:
        # Code that fails on a legal input does something with it.
        return True


def alters_tokens(target: Target, texts: Sequence[tuple[int, ...]], embedding: str) -> bool:
    """Whether the table that tokens are looked up in is given others for some text, as by code that replaces a word.

    The model is run on every token of the vocabulary, each in some text, on each claimed text with each of its tokens
    exchanged for each other one (`EXCHANGED` of these at most, drawn evenly), with two of them, as many again and
    neighbors first, and on the texts themselves. Whatever becomes of another text the claimed one is among these where
    one word is replaced, one word beside another, or two together. A test and no proof. embedding: the table's
    parameter. False where it is no layer's, which nothing can listen to.

    >>> from leakscope import Text
    >>> class Replaces(torch.nn.Sequential):
    ...     def forward(self, ids):
    ...         return super().forward(torch.where(ids == 3, 4, ids))
    >>> nets = [kind(torch.nn.Embedding(9, 2), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    ...         for kind in (torch.nn.Sequential, Replaces)]
    >>> [alters_tokens(Target(net, Text(9, 2), 2), [(4, 7)], "0.weight") for net in nets]
    [False, True]
    """
    name, _, parameter = embedding.rpartition(".")
    if parameter != "weight" or name not in named(target.module, torch.nn.Embedding):
        return False
    assert isinstance(target.domain, Text)
    tried: dict[int, list[Tensor]] = {}
    for ids in _exchanged(target.domain, texts):
        tried.setdefault(ids.shape[1], []).append(ids)
    try:
        for several in tried.values():
            for ids in torch.cat(several).to(target.device()).split(TOGETHER):
                given = _fed(target, (name,), ids).get(name)
                if given is None or given.shape != ids.shape or not torch.equal(given, ids):
                    return True
    except FORWARD_ERRORS:
        return True
    return False


def alters_vectors(
    domain: Text, texts: Sequence[tuple[int, ...]], fed: Callable[[Tensor], Tensor], table: Tensor
) -> bool:
    """Whether a layer is fed anything else than `table` (V, T, d) says of a token at its place, for some text.

    The texts of `alters_tokens`. The table is of texts of one token only, so that what depends on the tokens beside
    shows. fed: ids (N, T) to (N, T, d) float64. True as well where it fails. A test and no proof.
    """
    slack = SAME_VECTOR * float(table.abs().max())
    try:
        for ids in _exchanged(domain, texts):
            for some in ids.split(TOGETHER):
                wanted = table[some.to(table.device), torch.arange(some.shape[1], device=table.device)]
                given = fed(some).to(wanted)
                # Not `>`, which NaN would pass.
                if given.shape != wanted.shape or not float((given - wanted).abs().max()) <= slack:
                    return True
    except FORWARD_ERRORS:
        return True
    return False


def _exchanged(domain: Text, texts: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
    """Texts (N, T) of tokens 1 to V - 1, as `alters_tokens` says."""
    generator = Key(0).child("exchanged").generator()
    unlike = [torch.tensor([text]) for text in sorted(set(texts))]
    every = 1 + torch.randperm(domain.vocabulary - 1, generator=generator)
    for text in unlike:
        length = text.shape[1]
        yield text
        # Filled up with tokens from the beginning again.
        missing = -len(every) % length
        yield torch.cat([every, every.repeat(missing // len(every) + 1)[:missing]]).reshape(-1, length)
        count = length * (domain.vocabulary - 1)
        most = max(1, EXCHANGED // len(unlike))
        chosen = torch.randperm(count, generator=generator)[:most]
        rows = text.repeat(len(chosen), 1)
        rows[torch.arange(len(chosen)), chosen % length] = 1 + chosen // length
        yield rows
        # Two at once, as code has it that replaces two words that stand together: neighbors first.
        for gap in range(1, length):
            count = (length - gap) * (domain.vocabulary - 1) ** 2
            few = count <= most
            chosen = torch.arange(count) if few else torch.randint(count, (most,), generator=generator)
            most -= len(chosen)
            if not len(chosen):
                break
            rows, at, tokens = text.repeat(len(chosen), 1), torch.arange(len(chosen)), chosen // (length - gap)
            rows[at, chosen % (length - gap)] = 1 + tokens % (domain.vocabulary - 1)
            rows[at, chosen % (length - gap) + gap] = 1 + tokens // (domain.vocabulary - 1)
            yield rows


@final
@dataclass(frozen=True, eq=False)
class _Place:
    """Of each entry of what a layer is fed (M,): the entry of the input that it is, or -1, and `constant` (M,)."""

    entry: Tensor
    constant: Tensor

    def of(self, inputs: Tensor) -> Tensor:
        """What the layer should be fed (M,)."""
        return torch.where(self.entry < 0, self.constant, inputs.flatten()[self.entry])


def _places(target: Target, names: tuple[str, ...], inputs: Tensor) -> dict[str, _Place]:
    """For each layer that is fed every entry of the input, and constants besides, which of them stands where."""
    noise = [_noise(target, inputs, turn) for turn in range(TRACED)]
    runs = [_fed(target, names, one) for one in noise]
    rows = torch.stack([one.flatten() for one in noise])
    found = {}
    for name in names:
        fed = [run[name] for run in runs if name in run]
        if len(fed) == TRACED and len({one.shape for one in fed}) == 1:
            place = _traced(rows, torch.stack([one.flatten() for one in fed]))
            if place is not None:
                found[name] = place
    return found


def _traced(rows: Tensor, fed: Tensor) -> _Place | None:
    """rows: (P, n) inputs, fed: (P, M) what a layer was given; None unless each entry is one of n or a constant."""
    names, wanted = _named(rows), _named(fed)
    order = names.argsort()
    at = torch.searchsorted(names[order], wanted).clamp(max=len(order) - 1)
    entry = order[at]
    own, constant = (rows[:, entry] == fed).all(0), (fed == fed[0]).all(0)
    if not bool((own | constant).all()) or len(entry[own].unique()) < rows.shape[1]:
        return None
    return _Place(torch.where(own, entry, -1), fed[0])


def _named(columns: Tensor) -> Tensor:
    """(P, n) to one number for each column (n,), the same for equal columns: so it is summed in one order."""
    weights = torch.rand(len(columns), generator=Key(0).child("columns").generator(), dtype=torch.float64)
    total = torch.zeros_like(columns[0], dtype=torch.float64)
    for weight, row in zip(weights.tolist(), columns.double(), strict=True):
        total = total + weight * row
    return total


def _altered(target: Target, places: dict[str, _Place], inputs: Tensor) -> bool:
    """Whether one of the layers is fed something else than the entries of these inputs."""
    fed = _fed(target, tuple(places), inputs)
    slack = 0.0
    if inputs.is_floating_point():
        low, high = target.domain.bounds(inputs)
        slack = SAME * float((high - low).max())
    return any(
        name not in fed
        or fed[name].numel() != len(place.entry)
        # Not `>`, which NaN would pass.
        or not float((fed[name].flatten() - place.of(inputs)).abs().max()) <= slack
        for name, place in places.items()
    )


class _HeardError(Exception):
    """All layers that are watched have been called, and the rest of the model is not asked for."""


def _fed(target: Target, names: tuple[str, ...], inputs: Tensor) -> dict[str, Tensor]:
    """What each of these layers is given at its first call."""
    fed: dict[str, Tensor] = {}

    def heard(name: str, given: Tensor) -> None:
        fed.setdefault(name, given.detach().clone())
        if len(fed) == len(names):
            raise _HeardError

    def listener(name: str) -> Callable[[Tensor], None]:
        return lambda given: heard(name, given)

    with (
        listening(target.module, {name: listener(name) for name in names}),
        Key(0).child("altered").isolated(),
        torch.no_grad(),
        contextlib.suppress(_HeardError),
    ):
        target.outputs(target.parameters(), inputs)
    return fed


def _noise(target: Target, inputs: Tensor, turn: int) -> Tensor:
    """Noise of the inputs' shape within the domain, of any number of frames."""
    if inputs.shape[1:] == tuple(target.domain.shape):
        return probe_inputs(target, len(inputs), key=Key(0).child("noise", turn))
    generator = Key(0).child("noise", turn).generator(inputs.device)
    low, high = target.domain.bounds(inputs)
    return low + (high - low) * torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)


def _variants(target: Target, inputs: Tensor) -> Iterator[Tensor]:
    """The claim and legal inputs that are other than it in any one respect, (B, *shape) each."""
    low, high = target.domain.bounds(inputs)
    noise = [_noise(target, inputs, TRACED + turn) for turn in range(TRACED)]
    yield from noise
    sides = tuple(range(1, inputs.dim()))
    # Mirrored, moved, constant in each row: code may look at places rather than at values.
    yield from (inputs.flip(side) for side in sides)
    yield from (inputs.roll(inputs.shape[side] // 2, side) for side in sides)
    if not inputs.is_floating_point():
        yield from (inputs, inputs.flatten(1)[:, :1].expand_as(inputs), inputs.sort(-1).values)
        yield from (torch.zeros_like(inputs) + low, torch.zeros_like(inputs) + high)
        return
    for one in (inputs, noise[0]):
        # In units of the range, and clamped: rounding may have left a claim outside.
        unit = ((one - low) / (high - low)).clamp(0, 1)
        mean = unit.mean(sides, keepdim=True)
        half = torch.linspace(0, 1, unit[0].numel(), device=unit.device).reshape(unit[:1].shape) < 0.5
        made = [
            1 - unit,
            (unit > mean).to(unit),
            unit.sort(-1).values,
            unit * half,
            1 - (1 - unit) * half,
            unit * ~half,
        ]
        for factor in FACTORS:
            # Darker, brighter from above, and with another contrast around the mean.
            made += [factor * unit, 1 - factor * (1 - unit), mean + factor * (unit - mean)]
        yield from (low + (high - low) * each.clamp(0, 1) for each in made)
        # In the model's own units too, of which a norm is measured.
        yield from ((factor * one).clamp(low, high) for factor in FACTORS)
