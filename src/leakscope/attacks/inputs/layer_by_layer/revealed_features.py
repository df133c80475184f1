"""What every dense layer at the end of a model was fed, sample by sample, from the output layer's rows down."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.layer_by_layer.layer_below import confirmed
from leakscope.attacks.inputs.layer_by_layer.one_layer import Fed, Mask, awake, fed, remasked
from leakscope.attacks.labels.rows.known_rows import KnownRows, known_rows, spread, told_rows
from leakscope.attacks.labels.rows.row_space import RowSpace, row_space
from leakscope.attacks.labels.rows.taken_apart import SPENT, UNEVEN, Apart, row_rounding, take_apart
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output
from leakscope.attacks.parts.reading.proof import MEAN, bent, miscounted, strange
from leakscope.attacks.parts.reading.unseen import OPEN, unseen
from leakscope.core.arguments import count
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Features
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import NoSuchLayer
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, clipped, keeps_inputs, keeps_ratios, known_weights
from leakscope.mechanisms.running import as_run
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import input_layer
from leakscope.targets.looking.dense_tail import TailLayer, dense_tail
from leakscope.targets.losses import NextToken

Array = NDArray[np.float64]

PROVED = 4e-4
"""Relative error of a layer's input, times `CAUTION`, up to which it is proved; `scoring.proved` holds it to 1e-3."""
EXACT = 1e-4
"""Relative distance of what is run forward from what was solved for that is rounding."""
CAUTION = 4.0
"""By what an estimated error is multiplied before it counts."""
LOOSEST = 0.05
"""However much is open of what the layer above was fed, it is no further than this from what is run forward."""
REPLAYED = 1e-4
"""Relative distance of a layer's replayed gradient from the one that was sent that is rounding of float32."""
SPREAD = 1e-3
"""Estimated error beyond which a row's own features are not claimed."""
BLURRED = 0.03
"""A layer whose inputs are less exact than this, as the worst case of rounding has it, is not taken: everything below
would be blurred. Where samples of one class are nearly equal to the output layer the worst case is a hundred times what
is, and their units differ further down."""
BALANCE = 1e-3
"""Relative distance of N, as the rows say it, from the number of samples found that is rounding."""
STATEMENT = (
    "4 times the error that rounding leaves in what the layer was fed, by the layer's own equation (1/N) sum delta_s "
    "a_s^T = dL/dW with known errors delta_s; and that, run forward from there, gives what the layers above were fed, "
    "each sample's error softmax(W h + b) - e_y, and the gradients of all these layers again: this proves what the "
    "layer was fed, and nothing of what went before"
)
ONE_FACTOR = (
    "; but for one factor for all samples, which is one unless the loss divides its logits by what was not declared"
)
"""What the statement gains without a bias at the output, where no layer below shows the size of the errors."""
NEARBY = ", and so it is of examples that are nearer to one another than what was sent is rounded"
"""What follows `MEAN`: of a model whose errors hardly change, that may be some hundredths of what it was fed."""
SHOWN = 0.1
"""Least size of a bias, relative to what it is added to, that shows a multiple of what the layer was fed."""
NEAR = 3.0
"""In units of `OPEN`: how far what the layer does not see may be from a mean, which is looked at besides the widest."""


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


@final
@dataclass(frozen=True)
class RevealedFeatures(AbstractAttack[Ends, Features]):
    """What a dense layer was fed for every example of a batch, from the output layer down; `layers`: how many.

    The rows g_s = softmax(W h_s + b) - e_(y_s) of the output layer's gradient are found as `RevealedLabels` finds them;
    with them its inputs are h = N (G^+)^T dL/dW. Then the errors of the dense layer below are known too, delta_s =
    (g_s W) * act'(z_s): zero where a unit was at rest or dropped, 1 / keep times as large elsewhere. So its inputs
    solve a linear system, A = N (Delta^+)^T dL/dW', as long as Delta has as many rows as samples; and so on down to the
    first dense layer, which behind convolutions is fed each image's feature map, and in a dense net the input itself.
    Which units were awake is read off h first, and then off the system's other solution, Delta = N (dL/dW' A^+)^T,
    which knows of no mask (`one_layer.remasked`).
    layers: 1 for what the output layer was fed, 2 for the dense layer below; None for as far down as it goes, through
    `Linear`, `ReLU` and `Dropout` alone. Raises `BadInput` below 1.
    Of a causal language model the samples are the places of all texts that have a next token: the hidden state that the
    head was fed there, and the next token as its label; where texts differ in length, those of one length at most.
    Refuses where the weights moved or a defense changed entries one by one, and without more classes than twice the
    samples and a label. Neither batch size nor labels are needed.
    """

    layers: int | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", count("layers", self.layers))

    @property
    def citation(self) -> str:
        """Dang et al. 2021, whose row space it begins with."""
        return citations.RLG

    def _read(self, seen: Observation) -> Ends | Refusal:
        if known_weights(seen.mechanism) is not Answer.YES:
            return Refusal("the weights moved during local steps, and each sample's error is that at other ones")
        if bends(seen.mechanism) is not Answer.NO or keeps_ratios(seen.mechanism) is Answer.NO:
            return Refusal("a defense changed entries one by one, and the gradient is no sum over samples any more")
        output = read_output(seen, tokens=True)
        if isinstance(output, Refusal):
            return output
        if output.weight is None:
            return Refusal(f"the release lacks {output.layer.weight}, the output layer's weight")
        # A fixed key: whether an attack refuses may not depend on the trial's.
        space = row_space(output.weight.cpu().numpy().T, Key(0).child("rows").numpy())
        if isinstance(space, str):
            return Refusal(space)
        classes = len(space.scale)
        if classes <= 2 * space.rank + 1:
            return Refusal(
                f"{classes} classes are too few for {space.rank} samples: their errors come apart with more than twice "
                "as many classes as samples, and one for each label"
            )
        return Ends(output, space, dense_tail(as_run(seen.mechanism, seen.target)))

    def _attempt(self, seen: Observation, read: Ends, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Features]:
        tries = 0

        def stop() -> bool:
            nonlocal tries
            tries += 1
            watch(Progress(clock.fraction(tries, 1000), 0.0, f"{tries} rows tried"))
            return clock.exhausted(tries)

        known = known_rows(seen.target, read.output, read.space)
        bias = None if read.output.bias is None else read.output.bias.cpu().numpy()
        apart = take_apart(known, bias, key.child("rows").numpy(), stop=stop, told=told_rows(seen))
        if len(apart.rows) < read.space.rank:
            return self._some(read, known, apart, spent=stop())
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
        down = Down(seen, read, sample, np.array([one.error for one in apart.rows]))
        reached = down.run(self.layers)
        if reached is None:
            return self._some(read, known, apart)
        return self._claimed(seen, read, apart, reached)

    def _claimed(self, seen: Observation, read: Ends, apart: Apart, reached: Reached) -> Attempt[Features]:
        """What the deepest layer that was reached was fed, with a certificate unless something speaks against it."""
        many = np.array(apart.times)
        values = torch.from_numpy(np.repeat(reached.values, many, 0))
        labels = torch.from_numpy(np.repeat(np.array([one.label for one in apart.rows]), many))
        why = _doubted(seen, read, apart)
        if why is None and reached.sized is False:
            why = "the gradient of the layer below the output layer is that of errors of another size"
        certificate, untold = None, 0
        if why is None:
            # Samples of one error need not be of one feature: what moves no logit that counts is not in the gradient,
            # and what is found of them is their mean.
            alone, told = many == 1, seen.knows(BatchSize)
            if not told:
                # Then two of one error are one sample to everybody, of which what the layer does not see is a mean.
                blind = _blind(seen, read, reached)
                untold = int((alone & blind & (reached.residuals <= PROVED)).sum())
                alone &= ~blind
            residuals = tuple(np.repeat(np.where(alone, reached.residuals, np.inf), many).tolist())
            statement = STATEMENT if reached.sized else STATEMENT + ONE_FACTOR
            statement = statement if told else statement + MEAN + NEARBY
            certificate = Certificate(residuals, (PROVED,) * len(residuals), statement)
        sure = None
        if certificate is not None and any(certificate.proved):
            sure = torch.tensor([1.0 if one else float("nan") for one in certificate.proved])
        name, depth = reached.layer, reached.depth
        sentence = f"{apart.count} samples apart; what {name} was fed, {depth} of {len(read.tail)} dense layers down"
        if reached.ended is not None:
            sentence += f"; not further: {reached.ended}"
        if why is not None:
            sentence += f"; no proof: {why}"
        if untold:
            # Else an infinite residual would read as if the equations did not hold.
            sentence += (
                f"; {untold} of them would be proved if BatchSize was told: {name} does not see all that it is fed, "
                "and what was found may be the mean of several"
            )
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Features(name, values, labels, sure), certificate)

    def _some(self, read: Ends, known: KnownRows, apart: Apart, *, spent: bool = False) -> Attempt[Features]:
        """The rows that were found, where they are not all: each one's own features, as exact as they are known."""
        good = [one for one in apart.rows if CAUTION * spread(known, one.features, one.label, one.misfit) <= SPREAD]
        found = f"{len(apart.rows)} of {read.space.rank} samples came apart{SPENT if spent else ''}"
        if not good:
            why = "" if spent else ": others are too nearly equal, or too sure"
            sentence = f"{found}, none of them to a thousandth{why}"
            return Attempt(repr(self), Outcome.DIVERGED, sentence)
        values = torch.from_numpy(np.array([read.space.left @ one.features for one in good]))
        labels = torch.tensor([one.label for one in good])
        why = "which takes all" if len(apart.rows) < read.space.rank else "for the others' errors are too nearly equal"
        sentence = f"{found}; what {read.tail[0].name} was fed for {len(good)} of them; no proof, {why}"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Features(read.tail[0].name, values, labels))


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


def _blind(seen: Observation, read: Ends, reached: Reached) -> NDArray[np.bool_]:
    """(S,) whether what the layer was fed may be a mean of what it does not tell apart."""
    target, layer = seen.target, read.tail[reached.depth - 1]
    values = torch.from_numpy(reached.values)
    weight = target.parameters()[layer.weight].detach().cpu()
    bias = None if layer.bias is None else target.parameters()[layer.bias].detach().cpu()
    if _first(target) == layer.weight:
        # Fed the input itself, which the domain bounds.
        images = values.reshape(len(values), *target.domain.shape)
        low, high = (one.cpu().expand(images.shape).flatten(1) for one in target.domain.bounds(images))
        return unseen(weight, bias, values, (low, high)).numpy()
    # The domain bounds images, and not what is fed to a layer; behind a rectifier it is not negative.
    most = 2 * values.abs().amax(1, keepdim=True).expand_as(values)
    rectified = reached.depth < len(read.tail) and read.tail[reached.depth].relu
    least = torch.zeros_like(values) if rectified else -most
    # Far apart a faint layer sees two apart, and not those that are nearer to their mean.
    near = NEAR * OPEN * torch.linalg.vector_norm(values, dim=1, keepdim=True) / math.sqrt(values.shape[1])
    wide, narrow = (least, most), (torch.maximum(values - near, least), values + near)
    return (unseen(weight, bias, values, wide) | unseen(weight, bias, values, narrow)).numpy()


def _first(target: Target) -> str | None:
    """The weight of the dense layer that is fed the input itself, if there is one."""
    try:
        return input_layer(target).weight
    except NoSuchLayer:
        return None


def _doubted(seen: Observation, read: Ends, apart: Apart) -> str | None:
    """Why equations that hold are no proof; None where nothing speaks against."""
    refusal = bent(seen)
    if refusal is not None:
        return refusal.sentence
    if keeps_inputs(seen.mechanism) is not Answer.YES:
        return "the client may have changed its inputs"
    if apart.open:
        return f"{UNEVEN}; it would be proved if BatchSize was told"
    why = miscounted(seen, apart.count, "samples", each=not acts_as(seen.target.loss, NextToken))
    if why is not None:
        return why
    if clipped(seen) is not Answer.NO:
        return "a clip may have scaled the update, and with it what the layers were fed"
    # Equal samples say N / m, of which N is known to as much as each says.
    if abs(apart.samples - apart.count) > BALANCE * apart.count:
        return f"what was sent is {apart.count / apart.samples:.4g} times the mean over the samples found"
    if len(read.space.scale) <= 2 * read.space.rank + len({one.label for one in apart.rows}):
        return "with so few classes other errors of samples might explain the gradient as well"
    return strange(seen)
