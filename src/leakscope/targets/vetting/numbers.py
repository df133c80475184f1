"""What the numbers of an update say of how it was made, whatever was declared: signs, pruning, levels, clips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.release import TELLING, Release, half_in_disguise
from leakscope.numerics import trees
from leakscope.numerics.trees import Named
from leakscope.targets.vetting.finding import some

ENOUGH = 32
"""Entries from which a pattern is no chance: fewer say nothing."""
ALIKE = 0.02
"""Relative distance of two sizes that counts as none: Adam's epsilon makes that much of small gradients."""
MOST = 0.9
"""Share of the entries that has to show a pattern."""
BOUND = 1e-5
"""Relative distance of two norms, or of a norm and a round number, that counts as none; some float32 roundings, and
what torch's own clip leaves, C n / (n + 1e-6)."""
ROUND = ((10.0, BOUND), (100.0, BOUND / 10))
"""Round numbers below each of these, and how near is near. Of norms that are even on a logarithmic scale, a share of
18 r / log 10 lies within r of a number of one digit, and ten times as many of one of two. So each is one honest update
in thirteen thousand: at one nearness for both it would be one in twelve hundred."""
CROWDED = 0.01
"""Share of the entries within twice the smallest nonzero size, above which smaller ones are missing. Of numbers whose
density does not vanish at zero, few lie there: the smallest of n is near 1 / n of the median."""
SIZE = 1e-5
"""Relative distance of two sizes that are one but for rounding."""
LEVELS = 257
"""Most levels, with zero, that are looked for: those of 8 bits and a sign."""
STEP = 1e-3
"""Largest distance from a level, in steps."""


@final
@dataclass(frozen=True)
class Look:
    """One thing that the numbers show: what was seen (`sentence`), and which mechanism to declare (`remedy`)."""

    sentence: str
    remedy: str


def looks(release: Release) -> tuple[Look, ...]:
    """How an update seems to have been changed, by its numbers alone; empty where it looks like a sum of gradients.

    A look is a suspicion and no proof: black and white pictures can give entries of one size, too.

    >>> from leakscope.core.release import Gradient
    >>> looks(Gradient({"weight": torch.ones(8, 8)}))[0].sentence
    'nearly all entries of the update have one size, as signs and first steps of Adam have'
    """
    values = {n: v.detach().double() for n, v in release.by_name.items() if bool((v != 0).any())}
    if not trees.finite(values):
        return ()  # the attacks say so
    found = [*_sizes(values), *_grid(values), *_support(values)] if values else []
    # Signs are levels, and levels leave no small entries, so the first look says it all.
    return (*found[:1], *_norms(values))


def halved(release: Release) -> tuple[Look, ...]:
    """Which numbers were rounded to half precision on their way and stored wider: autocast, a half model, compression.

    >>> from leakscope.core.release import Gradient
    >>> halved(Gradient({"w": torch.linspace(0, 1, 99).half().float()}))[0].sentence
    "all numbers of 'w' can be written in torch.float16: they were computed or sent in half precision"
    """
    values = {n: v.detach() for n, v in release.by_name.items()}
    whole = half_in_disguise(values)
    # Each by itself too: autocast keeps some layers in float32.
    kinds = {name: whole or half_in_disguise({name: value}) for name, value in values.items()}
    wide = [name for name, kind in kinds.items() if kind is not None and values[name].element_size() > 2]
    if not wide:
        return ()
    kind = " or ".join(sorted({str(kinds[name]) for name in wide}))
    return (
        Look(
            f"all numbers of {some(wide)} can be written in {kind}: they were computed or sent in half precision",
            "declare nothing, there is no such mechanism; attacks in closed form ask for float32, so train without "
            "autocast, or take the update before it was rounded",
        ),
    )


def halved_before(gradient: Named, rounding: Named) -> tuple[Look, ...]:
    """The same of the gradient of one step, read from weights that were rounded themselves, by `rounding` each entry.

    Only entries whose rounding is far below the distance of two numbers of half precision say anything.
    """
    for kind in (torch.bfloat16, torch.float16):
        telling, near = 0, True
        for name, value in gradient.items():
            clear = 8 * rounding[name] < value.abs() * torch.finfo(kind).eps / 2
            telling += int(clear.sum())
            near = near and bool(((value - value.to(kind).to(value)).abs() <= rounding[name])[clear].all())
        if near and telling >= TELLING:
            return (
                Look(
                    f"the step is one by a gradient whose numbers can be written in {kind}: it was computed in half "
                    "precision, as under autocast",
                    "declare nothing, there is no such mechanism; attacks in closed form ask for float32, so train "
                    "without autocast",
                ),
            )
    return ()


def one_size(values: Tensor) -> bool:
    """Whether nearly all nonzero entries have the same size, to within two percent."""
    sizes = values.abs()[values != 0]
    return len(sizes) > 0 and float(((sizes / sizes.median() - 1).abs() <= ALIKE).double().mean()) >= MOST


def _sizes(values: Named) -> Iterator[Look]:
    # Together and not tensor by tensor: one step of Adam is as large everywhere. Scaled signs differ by tensor.
    joined = torch.cat([value.flatten() for value in values.values()])
    wide = [value for value in values.values() if value.numel() >= ENOUGH]
    if (joined.numel() >= ENOUGH and one_size(joined)) or (wide and all(one_size(value) for value in wide)):
        yield Look(
            "nearly all entries of the update have one size, as signs and first steps of Adam have",
            "declare FedAvg(steps, lr, optimizer=Adam()) with its constants, or Sign() behind the protocol",
        )


def _support(values: Named) -> Iterator[Look]:
    wide = {name: value for name, value in values.items() if value.dim() > 1 and value.numel() >= ENOUGH}
    pruned = [name for name, value in wide.items() if _pruned(value)]
    if pruned and 2 * len(pruned) >= len(wide):
        yield Look(
            "small entries of the update are exactly zero, and the others are all large: it was pruned",
            "declare Prune(...) behind the protocol, with the share that was set to zero",
        )


def _pruned(value: Tensor) -> bool:
    """Zeros between nonzero entries, and no small ones. Units at rest and black pixels are rows and columns instead."""
    table = value.flatten(1)
    zero = table == 0
    inner = table[~zero.all(1)][:, ~zero.all(0)]
    sizes = inner[inner != 0].abs()
    if len(sizes) < ENOUGH or len(sizes) == inner.numel():
        return False
    # Each size once: two black and white pictures leave a unit three sizes and a zero, all of them many times over.
    sizes = sizes.log().div(SIZE).round().unique().mul(SIZE).exp()
    if len(sizes) < ENOUGH:
        return False
    crowd = int((sizes <= 2 * sizes.min()).sum())
    return crowd > max(ENOUGH // 4, CROWDED * len(sizes))


def _grid(values: Named) -> Iterator[Look]:
    wide = [value for value in values.values() if value.numel() >= ENOUGH]
    if wide and all(_leveled(value) for value in wide):
        yield Look(
            "the entries of the update lie on few equally spaced levels: it was quantized",
            "declare Quantize(bits) behind the protocol",
        )


def _leveled(value: Tensor) -> bool:
    sizes = value.abs().flatten().unique()
    sizes = sizes[sizes > 0]
    if len(sizes) == 1:
        # Zero and one level of either sign, as few bits leave of a tensor with one large entry.
        return True
    if not 1 < len(sizes) <= min(LEVELS, value.numel() // 4):
        return False
    # Of what two roundings make of one level, the difference is no step.
    gaps = sizes.diff()
    gaps = gaps[gaps > STEP * gaps.max()]
    steps = sizes / gaps.min()
    return bool(steps.max() <= LEVELS) and float((steps - steps.round()).abs().max()) <= STEP * max(1, len(sizes))


def _norms(values: Named) -> Iterator[Look]:
    norms = sorted(float(torch.linalg.vector_norm(value)) for value in values.values())
    norms = [norm for norm in norms if 0 < norm < math.inf]  # squares leave the range of float64
    alike = any(b - a <= BOUND * b for a, b in itertools.pairwise(norms[-3:]))
    if len(norms) > 1 and (alike or _round(norms[-1])):
        yield Look(
            "tensors of the update have one norm, or the largest a round one: each may have been clipped by itself",
            "no mechanism of the library clips tensor by tensor: declare your own, as CONTRIBUTING.md shows",
        )


def _round(norm: float) -> bool:
    """Whether it is a number of one digit or two, as bounds that people choose are, by less than chance explains."""
    # 1 to 10, or 10 to 100, of a unit
    lead = norm / 10.0 ** math.floor(math.log10(norm))
    given = ((lead * most / 10, near) for most, near in ROUND)
    # torch's own clip leaves C n / (n + 1e-6), below its bound by as much as 1e-6 / n, n >= the norm.
    return any(-near * one <= round(one) - one <= max(near, min(BOUND, 1e-6 / norm)) * one for one, near in given)
