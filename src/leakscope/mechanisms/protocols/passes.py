"""A training pass as both readers need it: the client's in its own module, the adversary's without randomness."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.numerics.trees import Named


def own_module(target: Target) -> nn.Module:
    """The client's own trainable copy of the model, layer by layer in the mode that the target has."""
    return copy.deepcopy(target.module).requires_grad_(True)


def client_gradient(module: nn.Module, target: Target, batch: Batch) -> dict[str, Tensor]:
    """Backward through the module; the gradients are left in `.grad` for an optimizer and returned by name.

    The pass is on a copy of the batch: a model that begins with an in-place layer must not write to the secret.
    A parameter that the loss does not reach has gradient zero. Raises `BadInput` when it reaches none.
    """
    copied = dataclasses.replace(batch, inputs=batch.inputs.detach().clone(), labels=batch.labels.detach().clone())
    # to None, not to zero: a parameter that the loss does not reach is then told apart below
    module.zero_grad(set_to_none=True)
    loss: object = target.loss_of(target.through(module, copied), copied)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        shown = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise BadInput(
            f"{target.loss!r} returns {shown}, expected a tensor with one real number, the mean of the batch"
        )
    if not loss.requires_grad:
        raise BadInput("the loss does not depend on any parameter; check the model's forward")
    loss.backward()
    named = dict(module.named_parameters())
    # zero, and not absent: a client sends a tensor for each parameter, whatever the loss reached
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.detach() for n, p in named.items()}


def replayed_gradient(target: Target, parameters: Named, batch: Batch) -> dict[str, Tensor]:
    """The same by functional differentiation, differentiable in the batch; inside `quiet` without randomness."""

    def loss(at: Named) -> Tensor:
        # copied inside: torch.func lets an in-place layer write only to what the differentiated function made
        return target.loss_at(at, batch.with_inputs(batch.inputs.clone()))

    gradient: dict[str, Tensor] = torch.func.grad(loss)(parameters)
    return gradient


def reached(target: Target, batch: Batch) -> frozenset[str]:
    """The parameters on which the loss depends, by autograd, which knows no path to the others; see `quiet`.

    On a batch of the same size and shape with constant inputs, since a candidate may be differentiated or mapped over.
    """
    # ones and not zeros: a text of token 0 is all padding
    inputs = torch.ones(batch.inputs.shape, dtype=batch.inputs.dtype, device=batch.inputs.device)
    start = target.parameters()

    def paths() -> frozenset[str]:
        values = {name: value.detach().clone().requires_grad_(True) for name, value in start.items()}
        with torch.enable_grad():
            loss = target.loss_at(values, target.loss.labeled(inputs, target.classes))
            slopes = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
        return frozenset(name for name, slope in zip(values, slopes, strict=True) if slope is not None)

    # torch.func refuses autograd inside of its transforms, in which searches replay; which those are is each thread's
    with ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(paths).result()


def sum_of(shares: list[dict[str, Tensor]], name: str) -> Tensor:
    """The sum over examples or micro-batches of the entry `name`."""
    return torch.stack([share[name] for share in shares]).sum(0)


@contextlib.contextmanager
def quiet(target: Target) -> Iterator[None]:
    """Inside the block, a pass of the target draws nothing and records nothing.

    Dropout is off, and normalization layers in training mode use the batch's statistics without updating the
    running ones, which no pass in training mode reads (and which `vmap` could not update). The settings of the
    target's own module are put back at the end; `functional_call` swaps its tensors likewise, so a target was
    never for two threads at once. Randomness that is not in a torch layer (a call of `functional.dropout` in a
    model's forward) is out of reach and stays.
    """
    with contextlib.ExitStack() as undo:
        for module in target.module.modules():
            if not module.training:
                continue
            # its own flag, not the model's: normalization layers keep their mode
            if isinstance(module, _DropoutNd):
                _set(undo, module, "training", False)
            elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
                # not the flag: fast kernels give a backward in training mode only; the rate alone decides what drops
                _set(undo, module, "dropout", 0.0)
            elif isinstance(module, _BatchNorm | _InstanceNorm):
                # without running statistics the batch's are used, which is what training mode does anyway
                _set(undo, module, "running_mean", None)
                _set(undo, module, "running_var", None)
        yield


def _set(undo: contextlib.ExitStack, module: nn.Module, name: str, value: object) -> None:
    undo.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
