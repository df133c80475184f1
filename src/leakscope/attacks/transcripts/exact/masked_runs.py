"""Runs of anybody's model over utterances, watched at some layers, with dropout masks that are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.tape import recorded, rewritten


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer was given and what it returned for all frames, (sum T_u, d) and (sum T_u, k) in float64."""

    given: Tensor
    returned: Tensor


def passed(target: Target, frames: Sequence[Tensor], masks: Named, names: Sequence[str]) -> dict[str, Seen]:
    """Each utterance (T_u, F) through the model by itself; dropout layers multiply with their mask (sum T_u, H)."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    start = 0
    # One by one, so that no utterance is padded to the length of another.
    for utterance in frames:
        here = {name: mask[start : start + len(utterance)] for name, mask in masks.items()}
        start += len(utterance)
        for name, call in _calls(target, utterance, here, names).items():
            parts[name].append(call)
    return {
        # The pass itself runs in the dtype of the model, as the client's did; only what is solved with is widened.
        name: Seen(*(torch.cat([flat(call[side]) for call in calls]).double().cpu() for side in (0, 1)))
        for name, calls in parts.items()
    }


def flat(values: Tensor) -> Tensor:
    """(1, T, d) to (T, d)."""
    return values.reshape(-1, values.shape[-1])


def _calls(target: Target, utterance: Tensor, masks: Named, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    like = next(target.module.parameters())
    with (
        masked(target, masks),  # before the recorder, which is to see what the masks leave
        recorded(target.module, names) as calls,
        Key(0).child("passed").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), utterance[None].to(like))
    return {call.name: (call.given, call.returned) for call in calls}


def dropouts(target: Target) -> list[tuple[str, nn.Module]]:
    """The dropout layers, by name."""
    return [(name, module) for name, module in target.module.named_modules() if isinstance(module, nn.Dropout)]


def masked(target: Target, masks: Named) -> AbstractContextManager[None]:
    """Inside the block, dropout layers multiply with their mask, or pass on what they are given."""
    return rewritten(target.module, {name: _masking(masks.get(name)) for name, _ in dropouts(target)})


def _masking(mask: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    def function(given: Tensor, returned: Tensor) -> Tensor:
        del returned  # what torch drew for itself
        return given if mask is None else given * mask.to(given).reshape(given.shape)

    return function
