"""The way down from the output layer's rows: what each dense layer was fed, and what speaks against it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.inputs.layer_by_layer.layer_below import confirmed
from leakscope.attacks.inputs.layer_by_layer.one_layer import Fed, Mask, awake, fed, remasked
from leakscope.attacks.labels.rows.known_rows import KnownRows
from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.attacks.labels.rows.taken_apart import Apart, row_rounding
from leakscope.attacks.parts.reading.output_gradient import OutputGradient
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped
from leakscope.targets.looking.dense_tail import TailLayer
from leakscope.targets.losses import NextToken

Array = NDArray[np.float64]

EXACT = 1e-4
"""Relative distance of what is run forward from what was solved for that is rounding."""
CAUTION = 4.0
"""By what an estimated error is multiplied before it counts."""
LOOSEST = 0.05
"""However much is open of what the layer above was fed, it is no further than this from what is run forward."""
REPLAYED = 1e-4
"""Relative distance of a layer's replayed gradient from the one that was sent that is rounding of float32."""
BLURRED = 0.03
"""A layer whose inputs are less exact than this, as the worst case of rounding has it, is not taken: everything below
would be blurred. Where samples of one class are nearly equal to the output layer the worst case is a hundred times what
is, and their units differ further down."""
SHOWN = 0.1
"""Least size of a bias, relative to what it is added to, that shows a multiple of what the layer was fed."""


@final
@dataclass(frozen=True, eq=False)
class Ends:
    """output: what was sent of the output layer. space: of its weight gradient. tail: the dense layers, as run."""

    output: OutputGradient
    space: RowSpace
    tail: tuple[TailLayer, ...]


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """What is the same for every layer: labels (S,), N by the rows, and what of dL/dW^T each row's rounding is (S,)."""

    labels: NDArray[np.int64]
    samples: float
    times: Array
    rounding: Array


def descend(seen: Observation, read: Ends, known: KnownRows, apart: Apart, layers: int | None) -> Reached | None:
    """`layers` dense layers down from all rows of the output layer, or as far as it goes for None.

    None where not even what the output layer was fed is determined.
    """
    samples = apart.samples if clipped(seen) is not Answer.NO else float(apart.count)
    times = np.array(apart.times, float)
    if acts_as(seen.target.loss, NextToken):
        # A place of a longer text weighs less in the mean, by as much as its row says.
        times = samples / np.array([one.parts for one in apart.rows])
    sample = Sample(
        np.array([one.label for one in apart.rows], np.int64),
        samples,
        times,
        np.array([row_rounding(known, one) for one in apart.rows]),
    )
    return Down(seen, read, sample, np.array([one.error for one in apart.rows])).run(layers)


@final
@dataclass(frozen=True, eq=False)
class Reached:
    """layer: its name, `depth` from the output. values: (S, d). residuals: (S,). ended: why not further, or None.

    sized: whether the size of the errors is confirmed; None where nothing confirms or contradicts it.
    """

    layer: str
    depth: int
    values: Array
    residuals: Array
    ended: str | None
    sized: bool | None


@final
class Down:
    """From the output layer's rows (S, C) down; float64 throughout."""

    def __init__(self, seen: Observation, read: Ends, sample: Sample, rows: Array) -> None:
        self.target, self.read, self.sample, self.rows = seen.target, read, sample, rows
        self.gradient = {name: value.double().cpu().numpy() for name, value in seen.gradient().by_name.items()}
        self.parameters = {n: v.detach().double().cpu().numpy() for n, v in seen.target.parameters().items()}

    def run(self, layers: int | None) -> Reached | None:
        """As far down as asked, or as it goes; None where not even what the output layer was fed is determined."""
        tail, many = self.read.tail, self.sample.times[:, None]
        top = fed(self.gradient[tail[0].weight], many * self.rows, self.sample.samples, self.sample.rounding)
        # One layer more than asked: run forward, what it was fed says what the asked one was fed, more exactly.
        most = len(tail) if layers is None else min(layers + 1, len(tail))
        above, masks, ended = [top], list[Mask](), None
        errors = self.rows
        for upper, lower in itertools.pairwise(tail[:most]):
            ended = self._lacks(lower)
            if ended is not None:
                break
            full = errors @ self.parameters[upper.weight] / lower.keep
            mask = np.ones(full.shape, bool)
            if lower.relu or lower.keep < 1:
                start = awake(above[-1].values) if lower.relu else np.abs(above[-1].values) > 0
                mask = remasked(self.gradient[lower.weight], many * full, start, self.sample.samples)
            errors = full * mask
            if np.linalg.matrix_rank(errors) < len(errors):
                ended = f"the errors of {lower.name} do not tell the samples apart"
                break
            below = fed(self.gradient[lower.weight], many * errors, self.sample.samples, self.sample.rounding)
            if not float(np.median(below.off)) <= BLURRED:
                ended = f"what {lower.name} was fed is known to {float(np.median(below.off)):.0e} only"
                break
            above.append(below)
            masks.append(mask)
        return self._reached(above, masks, layers, ended)

    def _lacks(self, lower: TailLayer) -> str | None:
        if lower.weight not in self.gradient or not self.gradient[lower.weight].any():
            return f"the gradient of {lower.weight} was not sent"
        if lower.bias is not None and lower.bias not in self.parameters:
            return f"{lower.name} shares its bias with another layer"
        if len(self.rows) > min(self.gradient[lower.weight].shape):
            return f"{lower.name} is too narrow for {len(self.rows)} samples"
        return None

    def _reached(self, above: list[Fed], masks: list[Mask], layers: int | None, ended: str | None) -> Reached | None:
        """The asked layer, or the deepest one, with what speaks against each sample."""
        depth = len(above) if layers is None else min(layers, len(above))
        if layers is not None and len(above) >= layers:
            ended = None
        apart, ahead = np.zeros(len(self.rows)), list[Array]()
        for place, mask in enumerate(masks):
            upper, lower = above[place], above[place + 1]
            # Each layer's inputs, run forward, have to be what the layer above was fed.
            forward, wrong = self._forward(self.read.tail[place + 1], lower.values, mask)
            size = np.maximum(np.linalg.norm(forward, axis=1), 1e-300)
            away = np.linalg.norm(forward - upper.values, axis=1) / size
            # What the layer above leaves open itself contradicts nothing.
            open_ = np.maximum(np.minimum(CAUTION * upper.off, LOOSEST), EXACT)
            apart = np.maximum(apart, np.where(away <= open_, 0.0, away))
            apart[wrong] = np.inf
            ahead.append(forward)
        apart = np.maximum(apart, self._row_check(ahead[0] if ahead else above[0].values))
        values, own = above[depth - 1].values, CAUTION * above[depth - 1].off
        if len(above) > depth:
            # What is run forward is about as exact as what it is run from; where that is better it is taken.
            better = above[depth].off < above[depth - 1].off
            values = np.where(better[:, None], ahead[depth - 1], values)
            own = np.minimum(own, CAUTION * above[depth].off)
        if not float(np.median(own)) <= CAUTION * BLURRED:
            return None
        residuals = np.maximum(np.maximum(own, apart), self._replay(above, ahead))
        sized = self._sized(above[0], ahead)
        return Reached(self.read.tail[depth - 1].name, depth, values, residuals, ended, sized)

    def _sized(self, top: Fed, ahead: list[Array]) -> bool | None:
        """Whether something shows that the errors are as large as the declared loss makes them.

        dL/dW = (1 / N) sum_s (e_s / T) h_s^T is that of features h / T, at which W gives the logits that a loss with
        the temperature T makes of h: a bias at the output would give others, and so does one further below.
        """
        # `_replay` compares these, and `_forward` adds those.
        if self.read.tail[0].bias in self.gradient:
            return True
        for layer, forward in zip(self.read.tail[1:], ahead, strict=False):
            if layer.bias is None:
                continue
            added = float(np.linalg.norm(self.parameters[layer.bias]))
            if layer.bias in self.gradient or added >= SHOWN * float(np.linalg.norm(forward, axis=1).min()):
                return True
        shares = self.sample.times[:, None] / self.sample.samples
        return confirmed(self.target, self.gradient, top.values, shares * self.rows, CAUTION * top.off)

    def _forward(self, layer: TailLayer, inputs: Array, mask: Mask) -> tuple[Array, Mask]:
        """What the layer above is fed, and for which samples the mask is not that of these inputs."""
        z = inputs @ self.parameters[layer.weight].T
        if layer.bias is not None:
            z = z + self.parameters[layer.bias]
        slack = EXACT * np.abs(z).max(1, keepdims=True)
        wrong = (mask & (z < -slack)).any(1) if layer.relu else np.zeros(len(z), bool)
        if layer.keep == 1:
            # Whoever is awake is not at rest: a unit that was dropped, and not declared to be, shows here.
            wrong |= (~mask & (z > slack)).any(1) if layer.relu else (~mask).any(1)
        return np.where(mask, z, 0.0) / layer.keep, wrong

    def _row_check(self, features: Array) -> Array:
        """(S,) how far the softmax at the features is from each row; 0 within `EXACT`."""
        last = self.read.tail[0]
        z = features @ self.parameters[last.weight].T
        if last.bias is not None:
            z = z + self.parameters[last.bias]
        shares = np.exp(z - z.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        smoothing = self.read.output.smoothing
        shares -= smoothing / shares.shape[1]
        shares[np.arange(len(shares)), self.sample.labels] -= 1 - smoothing
        away = np.linalg.norm(shares - self.rows, axis=1) / np.maximum(np.linalg.norm(self.rows, axis=1), 1e-300)
        return np.where(away <= EXACT, 0.0, away)

    def _replay(self, above: list[Fed], ahead: list[Array]) -> float:
        """0 where the gradients of all layers that were used are replayed, biases included; else how far they are.

        Also from what is run forward, and not only from what each gradient itself was solved for.
        """
        worst = 0.0
        for place, (layer, one) in enumerate(zip(self.read.tail, above, strict=False)):
            worst = max(worst, one.replayed)
            if place < len(ahead):
                sent = self.gradient[layer.weight]
                away = sent - one.errors.T @ ahead[place] / self.sample.samples
                worst = max(worst, float(np.linalg.norm(away) / np.linalg.norm(sent)))
            if layer.bias is None or layer.bias not in self.gradient:
                continue
            terms = one.errors / self.sample.samples
            sent = self.gradient[layer.bias]
            # Terms may cancel to rounding, as of a sum of p - y, so their own size counts.
            size = max(float(np.linalg.norm(np.abs(terms).sum(0))), 1e-300)
            worst = max(worst, float(np.linalg.norm(terms.sum(0) - sent)) / size)
        return 0.0 if worst <= REPLAYED else worst
