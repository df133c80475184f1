"""The audited model as a pure function of its parameters."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedParameter

from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


class AbstractLoss(ABC):
    """The client's training loss; a mean over the batch."""

    @abstractmethod
    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of the model's `outputs` on `batch`."""


@final
@dataclass(frozen=True)
class CrossEntropy(AbstractLoss):
    """-mean_b sum_c q_bc log softmax(outputs)_bc with q = (1 - smoothing) * labels + smoothing / C.

    outputs: (B, C) logits. Labels may be class indices or probabilities.

    >>> round(CrossEntropy()(torch.zeros(2, 4), Batch(torch.zeros(2, 1), torch.tensor([0, 1]))).item(), 4)
    1.3863
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"expected 0 <= smoothing < 1, got {self.smoothing}")

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        return F.cross_entropy(outputs, batch.labels, label_smoothing=self.smoothing)


def differentiable(module: nn.Module) -> None:
    """Raises `BadInput` for a module that no target can be made of: TorchScript, or lazy layers without weights."""
    if isinstance(module, torch.jit.ScriptModule):
        raise BadInput("the model is TorchScript, which torch.func cannot differentiate; give the Python module")
    lazy = [name for name, value in module.named_parameters() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise BadInput(f"{lazy[0]} of a lazy layer has no shape yet; run the model once on an input before")


@final
@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """A model, what it takes, what it tells apart, and the loss that it was trained with.

    The module is copied, its parameters are frozen; the caller's own module is never changed.
    training: run the model in training mode (dropout layers drop, batch normalization uses batch statistics).
    """

    module: nn.Module
    domain: AbstractDomain
    classes: int
    name: str = "custom"
    training: bool = False
    loss: AbstractLoss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise BadInput(f"expected at least one class, got {self.classes}")
        differentiable(self.module)
        module = copy.deepcopy(self.module).train(self.training)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        object.__setattr__(self, "module", module)

    def __repr__(self) -> str:
        return f"Target({self.name}, {self.count():,} parameters, {self.classes} classes, {self.domain})"

    def count(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, without copying."""
        return {name: value.detach() for name, value in self.module.named_parameters()}

    def at(self, weights: Named) -> Target:
        """The same model at other weights, by name: every parameter, and buffers where they moved as well.

        Raises `BadInput` on a name that is missing or unknown, and on another shape.
        """
        module = copy.deepcopy(self.module)
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        lacking = sorted(dict(module.named_parameters()).keys() - weights.keys())
        odd = sorted(weights.keys() - own.keys())
        if lacking or odd:
            raise BadInput(
                f"the weights do not fit {self.name}: without {lacking[:4]}, unknown {odd[:4]}; give all of it"
            )
        with torch.no_grad():
            for name, value in weights.items():
                if value.shape != own[name].shape:
                    raise BadInput(f"{name}: expected {tuple(own[name].shape)}, got {tuple(value.shape)}")
                own[name].copy_(value)
        return dataclasses.replace(self, module=module)

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers by name: a forward pass in training mode writes to the copies only."""
        return trees.detached(dict(self.module.named_buffers()))

    def outputs(self, parameters: Named, inputs: Tensor) -> Tensor:
        """The model's outputs on `inputs` (B, *shape) at `parameters`; differentiable in both."""
        result: Tensor = functional_call(self.module, {**parameters, **self.buffers()}, (inputs,))
        return result

    def loss_at(self, parameters: Named, batch: Batch) -> Tensor:
        """The scalar training loss at `parameters`; differentiable in parameters, inputs and soft labels."""
        return self.loss(self.outputs(parameters, batch.inputs), batch)

    def fingerprint(self) -> str:
        """A hash of the weights, the buffers, the mode and everything that was declared."""
        weights = trees.fingerprint({**self.parameters(), **self.buffers()})
        return f"{self.name}|{self.domain}|{self.classes}|{self.training}|{self.loss}|{weights}"

    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.module.parameters()).device
