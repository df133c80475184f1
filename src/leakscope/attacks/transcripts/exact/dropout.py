"""What dropout dropped, layer by layer: a unit that is active but has no error was dropped.

A dropout layer stands between a dense layer, whose inputs are known once the masks before it are, and what it feeds.
Least squares give the errors of the dense layer from its gradient: zero exactly where a unit is at rest or was dropped.
The gradient of what it feeds must then be explained by the masked units, row by row; a row that is not names the unit
whose mask is wrong somewhere, and its residual is in proportion to the errors of the frame in which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.attacks.transcripts.exact.alignment import Array
from leakscope.attacks.transcripts.exact.masked_runs import dropouts, flat, masked, passed
from leakscope.attacks.transcripts.exact.occupancy import stacked_gradient
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.target import Target
from leakscope.mechanisms.running import as_run
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import Call, innermost, itself, listening, recorded, rewritten

Mask = NDArray[np.bool_]

SILENT = 25.0
"""An error below this many standard deviations is taken for zero at first."""
LOUD = 1e4
"""One above this many is none in any case."""
OUTPUTS = 512
"""The next layer's strongest outputs, at least; they are enough to tell a wrong mask."""
ROUNDED = 5e-7
"""Relative residual of float32: nothing is left to explain."""
HELPS = 1e-3
"""Share of the squared residual that a change must explain."""
ROUNDS = 60


@final
@dataclass(frozen=True)
class Dropped:
    """A dropout layer, the dense layer before it, and the weight (outputs, units) of what it feeds."""

    name: str
    rate: float
    source: str
    bias: bool
    fed: str


@final
@dataclass(frozen=True, eq=False)
class Entries:
    """units: (T, H) what dropout returns where it keeps. kept: at first. open: which may turn out otherwise."""

    units: Array
    kept: Mask
    open: Mask


@final
@dataclass(frozen=True, eq=False)
class Peeled:
    """masks: by dropout layer (sum T_u, H), 0 or 1 / (1 - rate). residuals: relative, of what each layer feeds."""

    masks: dict[str, Tensor]
    residuals: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest residual; about 1e-7 where all masks are right and the update is not noised."""
        return max(self.residuals, default=0.0)


def active(target: Target) -> tuple[tuple[str, float], ...]:
    """The dropout layers that drop, with their rates. Raises `NoSuchLayer` for recurrent layers that drop inside."""
    for name, module in target.module.named_modules():
        if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
            raise NoSuchLayer(f"{name} drops between its layers, where nothing is seen of it")
    return tuple(
        (name, float(module.p))
        for name, module in dropouts(target)
        if isinstance(module, nn.Dropout) and module.training and module.p > 0
    )


def peeled(seen: Observation, frames: Sequence[Tensor]) -> Peeled:
    """The masks of all dropout layers that were active, in the order of the model, from the frames (T_u, F).

    Raises `NoSuchLayer` where a dropout layer does not stand between a dense layer and another one, or the release
    lacks their gradients.
    """
    masks: dict[str, Tensor] = {}
    residuals: list[float] = []
    # Which layers drop is public: the target as its mechanism runs it, not as it was handed over.
    target = as_run(seen.mechanism, seen.target)
    # In the order of the pass: the inputs of each layer are known once the masks before it are.
    for layer in _found(target, active(target)):
        missing = {f"{layer.source}.weight", layer.fed} - seen.release.by_name.keys()
        if missing:
            raise NoSuchLayer(
                f"the release lacks {' and '.join(sorted(missing))}, which tell what {layer.name} dropped"
            )
        mask, residual = _mask(seen, target, frames, masks, layer)
        masks[layer.name] = mask
        residuals.append(residual)
    return Peeled(masks, tuple(residuals))


def _mask(
    seen: Observation, target: Target, frames: Sequence[Tensor], masks: Named, layer: Dropped
) -> tuple[Tensor, float]:
    calls = passed(target, frames, masks, [layer.source, layer.name])
    inputs = calls[layer.source].given.numpy()
    gradient = stacked_gradient(seen, f"{layer.source}.weight", f"{layer.source}.bias" if layer.bias else None)
    if len(gradient) > inputs.shape[1]:
        # dL/db = sum_t delta_t: the bias is a weight on an input that is always 1.
        inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    # At least one equation to spare: noise is told from what the fit leaves.
    if len(inputs) >= inputs.shape[1]:
        raise NoSuchLayer(f"{len(inputs)} frames are more than the inputs of {layer.source} tell apart")
    # As many frames as units explain any gradient of what the layer feeds, with whatever masks.
    if len(inputs) >= calls[layer.name].given.shape[1]:
        width = calls[layer.name].given.shape[1]
        raise NoSuchLayer(f"{len(inputs)} frames are no fewer than the {width} units of {layer.name}: any masks fit")
    # Dropout in training divides by what it keeps, so that the mean stays.
    units = calls[layer.name].given.numpy() / (1 - layer.rate)
    awake = _awake(target, frames, masks, layer).numpy()
    certainty = _certainty(inputs, gradient)
    # A unit whose activation has no slope has no error, dropped or not: taken as kept, and left open where it returns
    # something (saturated). One that returns 0 (a resting ReLU) is the same either way, so it is not open.
    entries = Entries(units, (certainty > SILENT) | ~awake, (units != 0) & ((certainty < LOUD) | ~awake))
    kept, residual = settled(entries, stacked_gradient(seen, layer.fed, None))
    return torch.from_numpy(kept / (1 - layer.rate)), residual


def _certainty(inputs: Array, gradient: Array) -> Array:
    """The errors (T, H) of a dense layer in standard deviations, these from what its inputs leave of each column."""
    inverse = np.linalg.pinv(inputs)
    # dL/dW = sum_t x_t delta_t^T, solved for delta; each unit is a column with noise of its own.
    errors = inverse.T @ gradient
    # Of d + 1 equations for a unit T are taken by its errors.
    rest = np.linalg.norm(gradient - inputs.T @ errors, axis=0) / np.sqrt(inputs.shape[1] - len(inputs))
    deviation = np.linalg.norm(inverse, axis=0)[:, None] * rest
    # A unit that was dropped in all frames has no gradient at all: 0 / 0 is to be silent.
    return np.asarray(np.abs(errors) / np.maximum(deviation, 1e-300))


def settled(entries: Entries, gradient: Array) -> tuple[Mask, float]:
    """The masks that explain the gradient (H, outputs) of the next layer, and its relative residual.

    All rows are explained by errors (T, outputs) that they share. Changing an entry moves the residual along the error
    of its frame, in the row of its unit as far as the other rows leave that row free (1 - leverage); those that lower
    it most are changed, until the residual is that of rounding or none helps.
    """
    kept, units, found = entries.kept.copy(), entries.units, np.inf
    # Fewer columns are less work for each round, the strongest have the most signal; twice T tell T frames apart.
    gradient = gradient[:, np.argsort(-np.linalg.norm(gradient, axis=0))[: max(OUTPUTS, 2 * len(units))]]
    size = float(np.linalg.norm(gradient))
    if not size > 0:
        return kept, 0.0  # nothing came through the layer: any masks explain it, none has to be changed
    for _ in range(ROUNDS):
        # G = A^T E with A = units * kept (T, H): the residual (1 - Q Q^T) G needs no E.
        inside, triangle = np.linalg.qr((units * kept).T)
        seen = inside.T @ gradient
        rest = gradient - inside @ seen
        found = float(np.linalg.norm(rest)) / size
        if found <= ROUNDED:
            break
        # Not by substitution: a frame of which nothing was kept makes the triangle singular.
        errors = np.linalg.lstsq(triangle, seen, rcond=None)[0]
        # To change entry (t, h) by c adds c e_h E_t to the fit; what counts is (1 - Q Q^T) of it.
        effect = np.where(kept, -1.0, 1.0) * units * entries.open
        # |(1 - Q Q^T) e_h|^2, one minus the leverage of row h.
        free = 1 - (inside**2).sum(1)
        # |R|^2 - |R - c (1 - Q Q^T) e_h E_t|^2, where R^T (1 - Q Q^T) = R^T: positive where the change helps.
        gain = 2 * effect * (errors @ rest.T) - effect**2 * free * (errors**2).sum(1)[:, None]
        if not gain.max() > HELPS * (found * size) ** 2:
            break
        _change(kept, gain)
    return kept, found


def _change(kept: Mask, gain: Array) -> None:
    """Changes the entries of the largest gain, one in a row and frame, down to half the largest."""
    # Gains are those of one change by itself. Two in a row or in a frame share a residual or errors, so only one of
    # them; the rest waits for the next round.
    best = gain.max()
    while gain.max() > best / 2:
        frame, unit = np.unravel_index(int(gain.argmax()), gain.shape)
        kept[frame, unit] ^= True
        gain[frame], gain[:, unit] = 0.0, 0.0


def _awake(target: Target, frames: Sequence[Tensor], masks: Named, layer: Dropped) -> Tensor:
    """Where the activation between the dense layer and the dropout layer has a slope (sum T_u, H)."""
    slopes: list[Tensor] = []
    leaf: list[Tensor] = []

    def start(given: Tensor, returned: Tensor) -> Tensor:
        del given
        leaf[:] = [returned.detach().requires_grad_()]
        return leaf[0]

    def end(given: Tensor) -> None:
        # The activation acts entry by entry, so the gradient of the sum is the slope of each entry.
        (slope,) = torch.autograd.grad(given.sum(), leaf[0], allow_unused=True)
        slopes.append(flat(torch.zeros_like(leaf[0]) if slope is None else slope))

    module = target.module
    like, first = next(module.parameters()), 0
    with rewritten(module, {layer.source: start}), listening(module, {layer.name: end}):
        for utterance in frames:
            here = {name: mask[first : first + len(utterance)] for name, mask in masks.items()}
            first += len(utterance)
            # Masks differ from utterance to utterance, so these hooks do too.
            with masked(target, here), Key(0).child("passed").isolated(), torch.enable_grad():
                target.outputs(target.parameters(), utterance[None].to(like))
    return torch.cat(slopes) != 0


def _found(target: Target, dropping: Sequence[tuple[str, float]]) -> list[Dropped]:
    """The dropout layers in the order in which they are called, with their neighbors; found by running the model."""
    with (
        masked(target, {}),
        # the tensors themselves: what feeds what is told by identity
        recorded(target.module, innermost(target.module), keep=itself) as calls,
        Key(0).child("peel").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), probe_inputs(target, 1, key=Key(0).child("peel")))
    rates = dict(dropping)
    places = [place for place, call in enumerate(calls) if call.name in rates]
    names = [calls[place].name for place in places]
    shared = next((name for name in names if names.count(name) > 1), None)
    # Each call draws a mask of its own, and masks go by the layer's name.
    if shared is not None:
        raise NoSuchLayer(f"{shared} is called {names.count(shared)} times in a pass, each time with another mask")
    return [_between(calls, place, rates[calls[place].name]) for place in places]


def _between(calls: Sequence[Call], place: int, rate: float) -> Dropped:
    """Raises `NoSuchLayer` when the neighbors are not dense."""
    call = calls[place]
    before = [one for one in calls[:place] if isinstance(one.module, nn.Linear)]
    # The same object, not equal values: what was called next need not be what is fed.
    after = [one for one in calls[place + 1 :] if one.given is call.returned]
    weight = _weight(after[0].module, call.returned.shape[-1]) if after else None
    if not before or before[-1].returned.shape != call.given.shape or weight is None:
        raise NoSuchLayer(f"{call.name} does not stand between a dense layer and one that multiplies what it is given")
    source = before[-1]
    return Dropped(call.name, rate, source.name, source.module.bias is not None, f"{after[0].name}.{weight}")


def _weight(module: nn.Module, inputs: int) -> str | None:
    """The name of the weight that multiplies what a dense or recurrent layer is given."""
    known = dict(module.named_parameters(recurse=False))
    # Recurrent layers too: dL / d weight_ih = sum_t delta_t x_t^T, with delta of the gates in the place of the units.
    names = [name for name in ("weight", "weight_ih", "weight_ih_l0") if name in known]
    return names[0] if names and known[names[0]].dim() == 2 and known[names[0]].shape[1] == inputs else None
