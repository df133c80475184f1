"""A released classifier head in a file of somebody else: which of its tensors it is, and what the others tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.numerics.trees import Named
from leakscope.targets.files.foreign import AROUND, Foreign
from leakscope.targets.files.tensors import listed

SAME = 1e-6
"""Relative difference between a tensor of the file and the backbone's own that is rounding, whatever the file keeps."""

LARGEST = 1e12
"""Weights beyond which no training ended well, and whose squares and sums are soon beyond float32."""


@final
@dataclass(frozen=True, eq=False)
class ReleasedHead:
    """weight: (C, d), bias: (C,), float32. tuned: names of the backbone's tensors that the file has with other values.

    beside: how many of the backbone's tensors are in the file at all.
    """

    weight: Tensor
    bias: Tensor
    beside: int = 0
    tuned: tuple[str, ...] = ()


def released_head(found: Foreign, backbone: Named) -> ReleasedHead:
    """The one dense layer of a file that is not the backbone's, whose state dict is `backbone`.

    A file may hold the head alone, as a list of weight and bias or by any names, or the whole model: what stands in it
    under a name and in a shape of the backbone's is the backbone, and is compared with it.
    Raises `BadInput` where no single dense layer with bias is left.
    """
    if found.by_name is None:
        named = dict(zip(("weight", "bias"), found.listed, strict=False)) if len(found.listed) == 2 else {}
        if not named:
            raise BadInput(f"{found.path} holds {len(found.listed)} arrays, expected two, weight and bias, or names")
        return ReleasedHead(*_layer(found.path, named))
    mine, beside, tuned = {}, 0, []
    for name, value in found.by_name.items():
        own = next((backbone[one] for one in _bare(name) if one in backbone), None)
        if own is None or own.shape != value.shape:
            mine[name] = value
        elif own.is_floating_point():
            beside += 1
            if not _same(own, value):
                tuned.append(name)
    return ReleasedHead(*_layer(found.path, mine), beside, tuple(tuned))


def _same(own: Tensor, value: Tensor) -> bool:
    """Whether a tensor of the file is the backbone's, but for rounding: the file's own, which may be of 16 bits."""
    if not value.is_floating_point():
        return False
    coarse = torch.finfo(value.dtype)
    # Half of it is what rounding to the nearest leaves; subnormals are rounded by more than their share.
    rounded = coarse.eps * own.abs() + coarse.smallest_normal
    allowed = rounded.clamp_min(SAME * float(own.abs().max().clamp_min(1e-30)))
    # what is no number is within nothing
    return bool(((own - value.to(own)).abs() <= allowed).all())


def _bare(name: str) -> tuple[str, ...]:
    """The name, and without each of what stands before a model's names in checkpoints, and of a backbone inside."""
    around = (*AROUND, "body.", "backbone.", "encoder.", "features.")
    return (name, *(name.removeprefix(one) for one in around if name.startswith(one)))


def _layer(path: str, named: Named) -> tuple[Tensor, Tensor]:
    """Weight and bias. Raises `BadInput` where `named` is not one dense layer."""
    weights = [name for name, value in named.items() if value.dim() == 2]
    biases = [name for name, value in named.items() if value.dim() == 1]
    if len(weights) != 1:
        raise BadInput(
            f"{path} has {len(weights)} matrices that are not the backbone's, {listed(sorted(weights))}; heads are "
            "attacked that are one dense layer on the backbone's features: give --backbone the model up to that layer"
        )
    if len(biases) != 1 or len(named) != 2:
        others = sorted(named.keys() - set(weights))
        raise BadInput(
            f"{path} has {listed(others)} beside {weights[0]}, expected its bias alone; a head without bias, or with "
            "more layers, is not attacked"
        )
    for name, value in named.items():
        if not value.is_floating_point():
            raise BadInput(
                f"{name} in {path} holds {str(value.dtype).removeprefix('torch.')}, expected real floating point "
                "numbers; of a quantized head save the weights that it stands for"
            )
    weight, bias = named[weights[0]].float(), named[biases[0]].float()
    if len(weight) != len(bias) or len(weight) < 2:
        raise BadInput(
            f"{weights[0]} in {path} has shape {tuple(weight.shape)} and the bias {tuple(bias.shape)}; expected "
            "(classes, features) and (classes,) of at least 2 classes"
        )
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise BadInput(f"the head in {path} holds values that are not finite; its training diverged")
    size = float(weight.abs().max()) if weight.numel() else 1.0
    if size == 0:
        raise BadInput(f"every weight of the head in {path} is zero: it was not trained, or not saved")
    if size > LARGEST:
        raise BadInput(
            f"the head in {path} has weights of {size:.2g}, expected at most {LARGEST:g}; its training diverged"
        )
    return weight, bias
