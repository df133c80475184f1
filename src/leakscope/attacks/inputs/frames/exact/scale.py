"""Whether the scale of frames is theirs: a weight and a bias sent in different scales make frames of another size."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.attacks.inputs.dense.silent_errors import Judged
from leakscope.attacks.inputs.frames.window.window_span import CLEAR
from leakscope.attacks.parts.reading.replayed import drops, halfway
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import keeps_model, known_weights
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.looking.tape import named, recorded, rewritten

Array = NDArray[np.float64]

SAME = {True: 1e-4, False: 3e-3}
"""Largest distance from the span of the second layer's gradient, by whether a gradient at known weights was sent. Exact
frames leave 1e-7 then, and up to 2e-3 after local steps."""
RESTED = 1e-4
"""Largest residual of a gradient that is zero at units at rest. Exact frames leave 1e-7, and 1e-5 after local steps."""
OTHER = {True: 1.02, False: 1.1}
"""A factor that the span has to tell from one, both ways: a check that could not fail would show nothing."""
ROUGH = 1.1
"""The same of units at rest: fewer than one in a hundred of them wakes within two percent."""
NEAR = {True: 1e-3, False: 2e-2}
"""How near its threshold a unit counts as awake, by the size of all units."""
SOME = 16
"""Units at rest, over all frames, from which they say something."""


def sized(seen: Observation, utterances: Sequence[Array], window: ContextWindow) -> float | Refusal:
    """To which factor the model itself shows the size of the frames: 1 exactly, infinite where nothing does.

    [dL/dW; dL/db] = sum_t [x_t; 1] delta_t^T: with dL/db c times as large, x_t / c and c delta_t explain the same, so
    the layer's own equations leave the scale open where tensors were scaled one by one (LARS, LAMB, a clip by tensor).
    The model ends this. What a later dense layer is fed at the claimed frames has to lie in the span of its gradient;
    where that says nothing, as behind dropout, a unit that is at rest at x_t has delta zero, whatever is dropped.
    Both are blind to a factor while all biases are zero: a rectified layer is then that factor times as large, and only
    what follows a recurrent layer is not.
    utterances: each (T, F). A refusal where the model contradicts them.
    """
    # Local steps move the weights; half of the way is where their mean is to second order.
    known = known_weights(seen.mechanism) is Answer.YES
    middle = seen.target if known else halfway(seen).target
    # A difference of weights is rounded at their last place, whichever weights its gradient is at.
    exact = known and not isinstance(seen.release, Delta)
    # A copy, since double() changes a module in place.
    target = dataclasses.replace(middle, module=copy.deepcopy(middle.module).double())
    best = math.inf
    for check, most, other in ((_spanned, SAME[exact], OTHER[exact]), (_resting, RESTED, ROUGH)):
        factors = (1.0, other, 1 / other)
        found = [check(seen, target, [f * frames for frames in utterances], window, f) for f in factors]
        # One residual for each layer that can be asked, alike for all factors.
        for left, larger, smaller in zip(*found, strict=True):
            if left > most:
                return Refusal(f"the declared model, run on these frames, is {left:.0e} from what was sent")
            # A check that could not fail shows nothing.
            if not min(larger, smaller) > most:
                continue
            # A span moves with the factor, and is exact where it fits; units wake one by one.
            best = min(best, 1.0 if exact and check is _spanned else other)
        if best < math.inf:
            break
    return best


def _resting(
    seen: Observation, target: Target, utterances: list[Array], window: ContextWindow, factor: float
) -> list[float]:
    """What is left of the layer's gradient where delta is zero at all units at rest; nothing where too few are.

    factor: f, for frames that are f times those claimed; dL/db is 1 / f of what was sent then, so that the ratio fits.
    """
    name = window.weight.rpartition(".")[0]
    if name not in named(target.module, nn.Linear):
        return []
    margin = NEAR[known_weights(seen.mechanism) is Answer.YES]
    awake, windows = [], []
    for frames in utterances:
        slopes = [_slopes(target, name, frames, shift) for shift in (0.0, margin, -margin)]
        if any(len(one) != len(frames) for one in slopes):
            return []
        awake.append(np.any([one != 0 for one in slopes], axis=0))
        around = np.pad(frames, ((window.left, window.right), (0, 0)))
        windows.append(np.stack([around[t : t + window.width].reshape(-1) for t in range(len(frames))]))
    weight, bias = window.read(seen.gradient().by_name)
    gradient = np.vstack([weight, bias / factor]).T
    live = np.linalg.norm(gradient, axis=1) > 0
    flags = np.vstack(awake)
    if int((~flags & live).sum()) < SOME:
        return []
    return [Judged(gradient, np.vstack(windows), flags, live).residual()]


def _slopes(target: Target, name: str, frames: Array, shift: float) -> Array:
    """(T, H): derivatives of random sums of the outputs by each unit's input; zero for a unit at rest."""
    outputs: list[Tensor] = []

    def start(fed: Tensor, returned: Tensor) -> Tensor:
        del fed
        away = shift * returned.detach().square().mean().sqrt()
        outputs.append((returned.detach() + away).requires_grad_(True))
        return outputs[-1]

    key = Key(0).child("resting")
    with rewritten(target.module, {name: start}), key.isolated(), quiet(target), torch.enable_grad():
        made = target.outputs(target.parameters(), torch.from_numpy(frames)[None].to(target.device()))
        (slope,) = torch.autograd.grad((made * normal(made, key)).sum(), outputs[0])
    return np.asarray(slope.reshape(-1, slope.shape[-1]).cpu().numpy(), dtype=np.float64)


def _spanned(
    seen: Observation, target: Target, utterances: list[Array], window: ContextWindow, factor: float
) -> list[float]:
    """How far what each later dense layer is fed is from the span of its gradient, unless that fills the space."""
    del factor
    if keeps_model(seen.mechanism) is not Answer.YES or drops(seen.target.module):
        return []
    first = window.weight.rpartition(".")[0]
    fed: dict[str, list[Array]] = {}
    for frames in utterances:
        key = Key(0).child("second")
        with recorded(target.module, named(target.module, nn.Linear)) as calls, key.isolated(), torch.no_grad():
            target.outputs(target.parameters(), torch.from_numpy(frames)[None].to(target.device()))
        names = [call.name for call in calls]
        for call in calls[names.index(first) + 1 if first in names else len(calls) :]:
            # Frame by frame: of a layer that is fed something else, nothing is known.
            if call.given.numel() == len(frames) * call.given.shape[-1]:
                fed.setdefault(call.weights[0], []).append(call.given.reshape(len(frames), -1).cpu().double().numpy())
    found = []
    # After steps each frame was there at two weights or more, which a second direction for each follows.
    turns = 1 if known_weights(seen.mechanism) is Answer.YES else 2
    for weight, parts in fed.items():
        gradient, units = seen.gradient().by_name.get(weight), np.vstack(parts)
        rank = turns * len(units)
        # Where these are nearly as many as units, every vector is spanned; a layer that is called twice sums up.
        if gradient is None or len(parts) != len(utterances) or 3 * rank > 2 * min(gradient.shape):
            continue
        sent = gradient.detach().double().cpu().numpy()
        _, sizes, rows = np.linalg.svd(sent, full_matrices=False)
        # Frames of which the model is nearly sure lie below rounding, and the span lacks their units: what was sent
        # lies in the span of all units even so.
        faint = turns == 1 and not sizes[rank - 1] > CLEAR * sizes[rank]
        found.append(_away(sent, np.linalg.qr(units.T)[0].T) if faint else _away(units, rows[:rank]))
    return found


def _away(rows: Array, basis: Array) -> float:
    """How far rows are from the span of orthonormal ones, relative to their norm."""
    return float(np.linalg.norm(rows - rows @ basis.T @ basis) / max(float(np.linalg.norm(rows)), 1e-300))
