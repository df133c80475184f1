"""The audited model as a pure function of its parameters."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter

from leakscope.core import labels
from leakscope.core.arguments import count as whole
from leakscope.core.arguments import instance
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.feed import AbstractFeed, Arguments, InputsOnly
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


class AbstractLoss(ABC):
    """The client's training loss; a mean over the batch."""

    @abstractmethod
    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of the model's `outputs` on `batch`."""

    def check(self, batch: Batch, classes: int) -> None:
        """Raises `BadInput` on labels that this loss cannot read, or would read as something else; by default on none.

        For the challenger, before a release: values are read here, so not inside a traced function. `core.labels`
        has the usual kinds.
        """
        del batch, classes

    def outputs(self, classes: int) -> int:
        """How many numbers it reads of each example; one for each class unless a loss says otherwise."""
        return classes

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """`inputs` (B, *shape) with labels that `check` lets pass, always the same: for a look at a model.

        By default class indices, or zeros for each output where the loss cannot read those.
        """
        indices = Batch(inputs, torch.arange(len(inputs), device=inputs.device) % classes)
        outputs = torch.zeros(len(inputs), classes, device=inputs.device)
        # A stranger's loss may raise anything; one that broadcasts (B, C) against (B,) warns and compares nonsense.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.check(indices, classes)
                self(outputs, indices)
        except Exception:  # noqa: BLE001
            return Batch(inputs, torch.zeros(len(inputs), classes, device=inputs.device))
        return indices


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

    def check(self, batch: Batch, classes: int) -> None:
        """Class indices or probabilities."""
        labels.classes_or_probabilities(batch, classes)

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Each class in turn."""
        return Batch(inputs, torch.arange(len(inputs), device=inputs.device) % classes)


def differentiable(module: nn.Module) -> None:
    """Raises `BadInput` for a module that no target can be made of: TorchScript, or lazy layers without weights."""
    if isinstance(module, torch.jit.ScriptModule):
        raise BadInput("the model is TorchScript, which torch.func cannot differentiate; give the Python module")
    lazy = [name for name, value in module.named_parameters() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise BadInput(f"{lazy[0]} of a lazy layer has no shape yet; run the model once on an input before")


UNCOPIED = (TypeError, RuntimeError, ValueError, AttributeError, pickle.PickleError)
"""What a copy of somebody else's module raises: of a traced function, an open file, a lock, a tensor in a graph."""


def _copied(module: nn.Module) -> nn.Module:
    """The copy. Raises `BadInput` where there is none, which names what cannot be copied, as Python says it."""
    try:
        return copy.deepcopy(module)
    except UNCOPIED as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"the model cannot be copied ({why}), so that it would be changed by the audit; let it hold layers and "
            "plain values only: a traced function (torch.jit.trace) as the Python function that it was, no open file, "
            "no generator, no tensor with a graph"
        ) from None


@final
@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """A model, what it takes, what it tells apart, and the loss that it was trained with.

    The module is copied, its parameters are frozen; the caller's own module is never changed.
    training: run the model in training mode (dropout layers drop, batch normalization uses batch statistics).
    feed: how the model is called on a batch and where it returns its logits; by default on the inputs alone.
    """

    module: nn.Module
    domain: AbstractDomain
    classes: int
    name: str = "custom"
    training: bool = False
    loss: AbstractLoss = field(default_factory=CrossEntropy)
    feed: AbstractFeed = field(default_factory=InputsOnly)

    def __post_init__(self) -> None:
        instance("module", self.module, nn.Module, "give the torch module itself")
        instance("domain", self.domain, AbstractDomain, "say what an input is, as in Images(3, 32, 32)")
        object.__setattr__(self, "classes", whole("classes", self.classes))
        instance("loss", self.loss, AbstractLoss, "give an object such as CrossEntropy() or SquaredError()")
        instance("feed", self.feed, AbstractFeed, "give an object such as InputsOnly()")
        differentiable(self.module)
        # a copy, so that neither an attack nor a later training step of the caller changes what was audited
        module = _copied(self.module).train(self.training)
        for parameter in module.parameters():
            # derivatives are taken by torch.func at given parameters; a graph from the own ones would only cost memory
            parameter.requires_grad_(False)
        object.__setattr__(self, "module", module)

    def __repr__(self) -> str:
        fed = "" if self.feed == InputsOnly() else f", {self.feed}"
        return f"Target({self.name}, {self.count():,} parameters, {self.classes} classes, {self.domain}{fed})"

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

    def outputs(self, parameters: Named, given: Tensor | Batch) -> Tensor:
        """The model's outputs at `parameters`, for inputs (B, *shape) or for a batch; differentiable in both.

        Inputs alone are enough unless the feed reads lengths or labels; see `AbstractFeed.arguments`.
        Raises `BadInput` when what the model returns holds no logits, or several.
        """
        # buffers are copies: what a pass in training mode writes to them must not reach the next pass
        state = {**parameters, **self.buffers()}

        def forward(call: Arguments) -> object:
            # Fused attention has no second derivative, which every search needs; the plain formula has, and gives the
            # same to rounding. The kernel of a call decides how it is differentiated, so the forward pass is enough.
            with sdpa_kernel(SDPBackend.MATH):
                returned: object = functional_call(self.module, state, call.by_place, call.by_name)
            return returned

        return self.feed.run(forward, given, self.classes)

    def through(self, module: nn.Module, given: Tensor | Batch) -> Tensor:
        """The outputs of `module`, a copy of the model with weights of its own, that is fed as the model is."""
        # not functional: a client trains a module, and the two routes must share no code but the feed
        return self.feed.run(lambda call: module(*call.by_place, **call.by_name), given, self.classes)

    def loss_at(self, parameters: Named, batch: Batch) -> Tensor:
        """The scalar training loss at `parameters`; differentiable in parameters, inputs and soft labels.

        Raises `BadInput` as `loss_of` and `outputs` do.
        """
        return self.loss_of(self.outputs(parameters, batch), batch)

    def loss_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar training loss of what the model returned. Raises `BadInput` unless it has one output per class."""
        # Fewer classes than outputs would be a loss over a part of them, more an index error far from its reason.
        if outputs.dim() > 1 and outputs.shape[-1] != self.loss.outputs(self.classes):
            raise BadInput(
                f"the model gives {outputs.shape[-1]} outputs, the target has {self.classes} classes; declare as many "
                "classes as there are outputs"
            )
        return self.loss(outputs, batch)

    def fingerprint(self) -> str:
        """A hash of the weights, the buffers, the mode and everything that was declared."""
        # buffers too: running statistics change the outputs as weights do
        weights = trees.fingerprint({**self.parameters(), **self.buffers()})
        said = f"{self.name}|{self.domain}|{self.classes}|{self.training}|{self.loss}|{weights}"
        # the usual feed is not named: searches that were interrupted before there were feeds go on
        return said if self.feed == InputsOnly() else f"{said}|{self.feed}"

    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.module.parameters()).device
