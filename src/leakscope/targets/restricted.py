"""A model of which only some parameters count as parameters: what need not be differentiated costs nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection

from torch import nn

from leakscope.core.errors import NoSuchLayer
from leakscope.core.target import Target


def only(target: Target, names: Collection[str]) -> Target:
    """The same function of its inputs, with the parameters `names`; all others are constants.

    Its gradient is that of the whole model at `names`, without a backward pass through what lies before them.
    Raises `NoSuchLayer` when a name is not a parameter.

    >>> import torch
    >>> from leakscope.domains.vision import Images
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    >>> list(only(Target(net, Images(1, 2, 2), 2), ["2.bias"]).parameters())
    ['2.bias']
    """
    known = target.parameters()
    odd = sorted(set(names) - known.keys())
    if odd:
        raise NoSuchLayer(f"{target.name} has no parameter {odd[0]}; it has {', '.join(sorted(known)[:6])}")
    if len(set(names)) == len(known):
        return target
    module = copy.deepcopy(target.module)
    kept = {id(parameter) for name, parameter in module.named_parameters() if name in names}
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if id(parameter) not in kept:  # by identity: a tied parameter counts under each of its names
                _freeze(part, name, parameter)
    return dataclasses.replace(target, module=module)


def _freeze(part: nn.Module, name: str, parameter: nn.Parameter) -> None:
    del part._parameters[name]
    part.register_buffer(name, parameter.detach())
