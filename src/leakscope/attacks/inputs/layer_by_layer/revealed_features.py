"""What every dense layer at the end of a model was fed, sample by sample, from the output layer's rows down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.layer_by_layer.descent import CAUTION, Ends, Reached, descend
from leakscope.attacks.labels.rows.known_rows import KnownRows, known_rows, spread, told_rows
from leakscope.attacks.labels.rows.row_space import row_space
from leakscope.attacks.labels.rows.taken_apart import SPENT, UNEVEN, Apart, take_apart
from leakscope.attacks.parts.reading.output_gradient import read_output
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
from leakscope.targets.looking.dense_tail import dense_tail
from leakscope.targets.losses import NextToken

Array = NDArray[np.float64]

PROVED = 4e-4
"""Relative error of a layer's input, times `CAUTION`, up to which it is proved; `scoring.proved` holds it to 1e-3."""
SPREAD = 1e-3
"""Estimated error beyond which a row's own features are not claimed."""
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
NEAR = 3.0
"""In units of `OPEN`: how far what the layer does not see may be from a mean, which is looked at besides the widest."""


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
        reached = descend(seen, read, known, apart, self.layers)
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
