"""The CTC occupancies behind an update, from the output layer's gradient and the frames that the model was fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from leakscope.attacks.transcripts.exact.alignment import Array, Evidence, Indices
from leakscope.attacks.transcripts.exact.masked_runs import passed
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import DenseLayer, output_layer
from leakscope.targets.losses import CTC, Reduction

CLEAR = 30.0
"""A probability that many standard deviations large has an error that can be told from noise."""


@final
@dataclass(frozen=True, eq=False)
class Spoken:
    """One utterance. probabilities: (T, C) of the classes. errors: (T, C), B times the gradient of the mean loss to the
    logits, which is (probabilities - occupancies) / n with n = 1 (`Reduction.SUM`) or the number of labels (`MEAN`),
    unless the update was scaled.
    noise: the standard deviation of the errors, if what the fit leaves of the gradient is alike in all its entries.
    """

    probabilities: Array
    errors: Array
    blank: int
    noise: float

    @property
    def letters(self) -> Indices:
        """The classes but for the blank."""
        return np.delete(np.arange(self.probabilities.shape[1]), self.blank)

    def evidence(self, divisor: float) -> Evidence:
        """With occupancies = probabilities - n errors, n the divisor."""
        # Minus: the errors are dL / d logits = (y - gamma) / n.
        seen = self.probabilities - divisor * self.errors
        letters = self.letters
        known = self.probabilities[:, letters], self.probabilities[:, self.blank]
        # The blank goes last, wherever the model has it. Noise of the errors is multiplied as they are.
        return Evidence(*known, seen[:, [*letters, self.blank]], divisor * self.noise)

    def divisor(self) -> tuple[float, float]:
        """n and its standard deviation, from the first frame and the last.

        They hold one label or the blank, so that elsewhere y = n error. A model that is sure of these frames leaves
        nothing elsewhere to tell n by.
        """
        # y = n e by least squares for 1 / n, since only the errors e are noisy: 1 / n = y . e / |y|^2.
        kept, seen = (np.concatenate(one) for one in zip(self._elsewhere(0), self._elsewhere(-1), strict=True))
        # No class stands out of the noise, or what does is noise: these frames do not tell n.
        if not (kept * seen).sum() > 0:
            return 1.0, np.inf
        found = float((kept**2).sum() / (kept * seen).sum())
        # The deviation of 1 / n is noise / |y|, and |d n| = n^2 |d (1 / n)|.
        return found, float(found**2 * self.noise / np.sqrt((kept**2).sum()))

    def _elsewhere(self, frame: int) -> tuple[Array, Array]:
        """Probabilities and errors of the classes that a frame does not hold: the two held ones have the least ratio.

        Only of those that stand out of the noise; the ratio of others is any number.
        """
        probabilities, errors = self.probabilities[frame], self.errors[frame]
        clear = np.flatnonzero(probabilities > CLEAR * self.noise)
        # e / y = (1 - gamma / y) / n: 1 / n where a class holds nothing, less where it holds something. The first frame
        # is in the first label or the blank before it, the last one likewise: two at most.
        empty = clear[np.argsort(errors[clear] / probabilities[clear])[2:]]
        return probabilities[empty], errors[empty]


@final
@dataclass(frozen=True, eq=False)
class Occupied:
    """The utterances in the order of their frames. residual: the share of the gradient that the inputs leave."""

    utterances: tuple[Spoken, ...]
    residual: float


def last_layer(seen: Observation) -> DenseLayer:
    """The output layer. Raises `NoSuchLayer` when there is none, or when its weight is not in the release."""
    layer = output_layer(seen.target)
    if layer.weight not in seen.release.by_name:
        raise NoSuchLayer(f"the release lacks {layer.weight}, the gradient of the output layer")
    return layer


def occupied(seen: Observation, frames: list[Tensor], masks: Named | None = None) -> Occupied | Refusal:
    """Errors e_t with dL/dW = sum_t e_t [h_t; 1]^T in the least squares, h_t what the output layer is fed.

    frames: (T_u, F) each. masks: for each dropout layer by name what it multiplies all frames (sum T_u, H) with.
    A sentence where there are more frames than the layer has inputs.
    """
    layer, loss = last_layer(seen), seen.target.loss
    assert isinstance(loss, CTC)
    # h_t and y_t by a pass of the known model; the logits are what the layer returned.
    call = passed(seen.target, frames, masks or {}, [layer.name])[layer.name]
    inputs, probabilities = call.given.numpy(), call.returned.softmax(1).numpy()
    gradient, count = stacked_gradient(seen, layer.weight, layer.bias), len(inputs)
    if gradient.shape[0] > layer.features:
        # dL/db = sum_t e_t: the bias is a weight on an input that is always 1.
        inputs = np.hstack([inputs, np.ones((count, 1))])
    # More unknown e_t than equations per class, and any occupancies would fit.
    if count > inputs.shape[1]:
        return Refusal(f"{count} frames are more than the {inputs.shape[1]} inputs of {layer.name} tell apart")
    errors = np.linalg.lstsq(inputs.T, gradient, rcond=None)[0]
    size = float(np.linalg.norm(gradient))
    if not size > 0:
        return Refusal(f"the gradient of {layer.weight} is zero")
    # Noise of one entry of the gradient, from what the fit leaves: it has taken T of the d rows of each column.
    rest = float(np.linalg.norm(inputs.T @ errors - gradient))
    spread = rest / np.sqrt(max(1, inputs.shape[1] - count) * gradient.shape[1])
    # e_t is row t of pinv(inputs)^T times the gradient, so noise reaches it by the norm of that row, which is large
    # where h_t is nearly in the span of the others. Times B, as the errors: the update is a mean over utterances.
    noise = len(frames) * spread * np.linalg.norm(np.linalg.pinv(inputs), axis=0)
    edges = np.cumsum([len(one) for one in frames])[:-1]
    parts = zip(*(np.split(one, edges) for one in (probabilities, len(frames) * errors, noise)), strict=True)
    utterances = [Spoken(y, error, loss.blank, float(np.sqrt(np.mean(each**2)))) for y, error, each in parts]
    return Occupied(tuple(utterances), rest / size)


def counted(seen: Observation) -> bool:
    """Whether the client's loss divides by the number of labels."""
    return acts_as(seen.target.loss, CTC) and seen.target.loss.reduction is Reduction.MEAN


def stacked_gradient(seen: Observation, weight: str, bias: str | None) -> Array:
    """[dL/dW; dL/db] of a dense layer as (d + 1, H), or (d, H) without a bias in the release."""
    by_name = seen.gradient().by_name
    names = [weight, bias] if bias is not None and bias in by_name else [weight]
    # torch keeps weights as (outputs, inputs). float64, so that least squares add no rounding to that of the update.
    return np.vstack([np.atleast_2d(by_name[name].detach().double().cpu().numpy().T) for name in names])
