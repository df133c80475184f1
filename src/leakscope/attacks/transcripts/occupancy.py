"""The CTC occupancies behind an update, from the output layer's gradient and the frames that the model was fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from leakscope.attacks.transcripts.chain import Array, Evidence, Indices
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.anatomy import DenseLayer, output_layer
from leakscope.targets.losses import CTC, Reduction


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
        seen = self.probabilities - divisor * self.errors
        letters = self.letters
        known = self.probabilities[:, letters], self.probabilities[:, self.blank]
        return Evidence(*known, seen[:, [*letters, self.blank]], divisor * self.noise)

    def divisor(self) -> float:
        """n, from the first frame and the last: they hold one label or the blank, so that elsewhere y = n error."""
        probabilities, errors = self.probabilities[[0, -1]], self.errors[[0, -1]]
        empty = np.argsort(errors / np.maximum(probabilities, 1e-30), axis=1)[:, 2:]
        kept, seen = np.take_along_axis(probabilities, empty, 1), np.take_along_axis(errors, empty, 1)
        return float((kept**2).sum() / max((kept * seen).sum(), 1e-30))


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


def occupied(seen: Observation, frames: list[Tensor], masks: Named | None = None) -> Occupied | str:
    """Errors e_t with dL/dW = sum_t e_t [h_t; 1]^T in the least squares, h_t what the output layer is fed.

    frames: (T_u, F) each. masks: for each dropout layer by name what it multiplies all frames (sum T_u, H) with.
    A sentence where there are more frames than the layer has inputs.
    """
    layer, loss = last_layer(seen), seen.target.loss
    assert isinstance(loss, CTC)
    given, logits = [], []
    start = 0
    for utterance in frames:
        here = slice(start, start + len(utterance))
        start += len(utterance)
        fed, said = passed(seen.target, utterance, layer, {n: m[here] for n, m in (masks or {}).items()})
        given.append(fed)
        logits.append(said)
    inputs, gradient = np.vstack(given), _gradient(seen, layer)
    if gradient.shape[0] > layer.features:
        inputs = np.hstack([inputs, np.ones((start, 1))])
    if start > inputs.shape[1]:
        return f"{start} frames are more than the {inputs.shape[1]} inputs of {layer.name} tell apart"
    errors = np.linalg.lstsq(inputs.T, gradient, rcond=None)[0]
    size = float(np.linalg.norm(gradient))
    if not size > 0:
        return f"the gradient of {layer.weight} is zero"
    rest = float(np.linalg.norm(inputs.T @ errors - gradient))
    spread = rest / np.sqrt(max(1, inputs.shape[1] - start) * gradient.shape[1])
    amplified = spread * np.linalg.norm(np.linalg.pinv(inputs), axis=0)
    utterances, start = [], 0
    for said in logits:
        here = slice(start, start + len(said))
        start += len(said)
        noise = len(frames) * float(np.sqrt(np.mean(amplified[here] ** 2)))
        scaled = np.asarray(len(frames) * errors[here], dtype=np.float64)
        utterances.append(Spoken(_softmax(said), scaled, loss.blank, noise))
    return Occupied(tuple(utterances), rest / size)


def counted(seen: Observation) -> bool:
    """Whether the client's loss divides by the number of labels."""
    return isinstance(seen.target.loss, CTC) and seen.target.loss.reduction is Reduction.MEAN


def passed(target: Target, frames: Tensor, layer: DenseLayer, masks: Named) -> tuple[Array, Array]:
    """What `layer` is fed (T, d) and what it returns (T, C) for one utterance (T, F), in float64; dropout layers
    multiply with their mask, or with 1."""
    calls: list[tuple[Tensor, Tensor]] = []
    like = next(target.module.parameters())

    def watch(_: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        calls.append((given[0].detach(), returned.detach()))

    def drop(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, given: tuple[Tensor, ...], __: Tensor) -> Tensor:
            return given[0] * masks[name].to(given[0]).reshape(given[0].shape) if name in masks else given[0]

        return module.register_forward_hook(hook)

    handles = [target.module.get_submodule(layer.name).register_forward_hook(watch)]
    handles += [drop(name, module) for name, module in target.module.named_modules() if isinstance(module, nn.Dropout)]
    try:
        with Key(0).child("passed").isolated(), torch.no_grad():
            target.outputs(target.parameters(), frames[None].to(like))
    finally:
        for handle in handles:
            handle.remove()
    given, returned = calls[-1]
    return given[0].double().cpu().numpy(), returned[0].double().cpu().numpy()


def _gradient(seen: Observation, layer: DenseLayer) -> Array:
    """[dL/dW; dL/db] as (d + 1, C), or (d, C) without a bias in the release."""
    by_name = seen.gradient().by_name
    rows = [by_name[layer.weight].detach().double().cpu().numpy().T]
    if layer.bias is not None and layer.bias in by_name:
        rows.append(by_name[layer.bias].detach().double().cpu().numpy()[None])
    return np.vstack(rows)


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))
