"""Runs of anybody's model over utterances, watched at some layers, with dropout masks that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named


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
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, given: tuple[Tensor, ...], returned: Any) -> None:
            # A copy of what was given, because what follows may write into it in place. Recurrent layers return tuples.
            calls[name] = given[0].detach().clone(), (returned[0] if isinstance(returned, tuple) else returned).detach()

        return module.register_forward_hook(hook)

    handles = [masked(name, module, masks) for name, module in dropouts(target)]
    handles += [watch(name, target.module.get_submodule(name)) for name in names]
    like = next(target.module.parameters())
    try:
        # Dropout layers still draw before their hook replaces what they return; the global stream is not moved by it.
        with Key(0).child("passed").isolated(), torch.no_grad():
            target.outputs(target.parameters(), utterance[None].to(like))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def dropouts(target: Target) -> list[tuple[str, nn.Module]]:
    """The dropout layers, by name."""
    return [(name, module) for name, module in target.module.named_modules() if isinstance(module, nn.Dropout)]


def masked(name: str, module: nn.Module, masks: Named) -> torch.utils.hooks.RemovableHandle:
    """Makes a dropout layer multiply with its mask, or pass on what it is given."""

    def hook(_: nn.Module, given: tuple[Tensor, ...], __: Tensor) -> Tensor:
        return given[0] * masks[name].to(given[0]).reshape(given[0].shape) if name in masks else given[0]

    return module.register_forward_hook(hook)
