"""Looks at a model and runs it, before an audit spends hours on something that cannot work."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput, NoSuchLayer, first_line
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy, Target
from leakscope.numerics import trees
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.dense_ends import output_layer, probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS, probed
from leakscope.targets.vetting.before_running import structure
from leakscope.targets.vetting.finding import Finding, Severity, some

KEY = Key(0).child("vet")
MANY_PARAMETERS = 50_000_000
MUCH_WORK = 2e9
"""Floating-point operations of one forward pass of one example; 1000 gradient evaluations then take a quarter hour."""
CPU_SPEED = 2e10
"""Operations per second of two ordinary cores, for the sentence only."""
PASSES = 10
"""One evaluation of a matching attack (a gradient of a gradient) in forward passes."""


@final
@dataclass(frozen=True, eq=False)
class _Seen:
    """The target and three random legal inputs."""

    target: Target
    inputs: Tensor
    outputs: Tensor


def vet(target: Target) -> tuple[Finding, ...]:
    """What stands between `target` and a meaningful audit; empty when nothing was found. The target is not changed.

    Runs the model some thirty times on two or three random inputs. Errors come first and end the search.

    >>> from leakscope.domains.vision import Images
    >>> vet(Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Images(1, 2, 2), 2))
    ()
    """
    instance("target", target, Target, "wrap a module: Target(module, domain, classes)")
    found = [*structure(target.module), *_parameters(target)]
    if any(finding.level is Severity.ERROR for finding in found):
        return tuple(found)
    inputs = probe_inputs(target, 3, key=KEY.child("inputs"))
    outputs = probed(target, inputs, key=KEY)
    if isinstance(outputs, Refusal):
        remedy = "declare the domain, the number of classes, the loss and the feed that the model has"
        return (*found, Finding(Severity.ERROR, "output shape", outputs.sentence, remedy))
    seen = _Seen(target, inputs, outputs)
    looks: tuple[Callable[[_Seen], Iterator[Finding]], ...] = (
        _finite, _probabilities, _coupling, _randomness, _in_place, _reach, _head, _derivatives, _vectorized, _work,
    )  # fmt: skip
    for look in looks:
        if inputs.is_floating_point() or look not in (_in_place, _derivatives, _vectorized):  # tokens have no slope
            found.extend(look(seen))
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.level)))


def _parameters(target: Target) -> Iterator[Finding]:
    parameters = target.parameters()
    if not parameters:
        yield Finding(
            Severity.ERROR, "parameters", "the model has no parameters, so it has no gradient", "give a model"
        )
    complex_ = [name for name, value in parameters.items() if value.is_complex()]
    if complex_:
        sentence = f"the parameters {some(complex_)} are {parameters[complex_[0]].dtype}: updates here are real numbers"
        remedy = "hold the real and the imaginary part as two parameters"
        yield Finding(Severity.ERROR, "parameter types", sentence, remedy)
    whole = [n for n, value in parameters.items() if not value.is_floating_point() and not value.is_complex()]
    if whole:
        sentence = f"the parameters {some(whole)} are {parameters[whole[0]].dtype}: they have no gradient"
        yield Finding(
            Severity.ERROR, "parameter types", sentence, "register them as buffers or convert the model by .float()"
        )
    short = [name for name, value in parameters.items() if value.is_floating_point() and value.element_size() < 4]
    if short:
        sentence = (
            f"the parameters {some(short)} are {parameters[short[0]].dtype}: rounding hides what attacks look for"
        )
        yield Finding(
            Severity.WARNING, "parameter types", sentence, "audit model.float(): it shows what exact clients leak"
        )
    infinite = [name for name, value in parameters.items() if not bool(torch.isfinite(value).all())]
    if infinite:
        sentence = f"the parameters {some(infinite)} hold values that are not finite"
        yield Finding(Severity.ERROR, "parameter values", sentence, "load weights from before the training diverged")


def _finite(seen: _Seen) -> Iterator[Finding]:
    bad = int((~torch.isfinite(seen.outputs)).sum())
    if bad:
        sentence = f"{bad} of {seen.outputs.numel()} outputs on legal inputs are not finite"
        yield Finding(Severity.ERROR, "output values", sentence, "check the weights and the domain's mean and std")


def _probabilities(seen: _Seen) -> Iterator[Finding]:
    sums = seen.outputs.sum(1)
    if seen.target.classes < 2 or not acts_as(seen.target.loss, CrossEntropy):
        return
    if bool((seen.outputs >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
        sentence = "the outputs are probabilities, but cross-entropy applies a softmax to logits"
        yield Finding(Severity.WARNING, "output values", sentence, "return the logits from before the softmax")


def _coupling(seen: _Seen) -> Iterator[Finding]:
    layers = [
        name
        for name, layer in seen.target.module.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]
    if layers:
        sentence = f"the batch normalization {some(layers)} uses the statistics of the private batch"
        remedy = "if clients freeze the statistics, set training=False; if they do not, expect weaker attacks on inputs"
        yield Finding(Severity.WARNING, "batch normalization", sentence, remedy)
        return
    one, other = (probed(seen.target, seen.inputs[[0, i]], key=KEY) for i in (1, 2))
    if isinstance(one, Tensor) and isinstance(other, Tensor) and _differ(one[0], other[0]):
        sentence = "the output on one example changes with the other examples of the batch"
        remedy = "attacks that take examples apart (linear, labels) do not hold; normalize each example by itself"
        yield Finding(Severity.WARNING, "coupled examples", sentence, remedy)


def _randomness(seen: _Seen) -> Iterator[Finding]:
    layers = [
        name
        for name, layer in seen.target.module.named_modules()
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0
    ]
    if layers:
        sentence = f"the dropout {some(layers)} is active: the adversary does not know which units were dropped"
        remedy = "set training=False to audit the model without dropout, or declare dropout as a defense"
        yield Finding(Severity.WARNING, "active dropout", sentence, remedy)
        return
    again = [probed(seen.target, seen.inputs, key=KEY.child("again", i)) for i in range(3)]
    if any(isinstance(outputs, Refusal) or _differ(outputs, seen.outputs) for outputs in again):
        sentence = "two forward passes on the same inputs give different outputs"
        yield Finding(
            Severity.WARNING, "random outputs", sentence, "set training=False, or take the random part out of forward"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by more than rounding in another order."""
    scale = float(torch.maximum(one.abs().max(), other.abs().max()))
    return float((one - other).abs().max()) > 1e3 * torch.finfo(one.dtype).eps * max(scale, 1e-30)


@final
class _Writes(TorchFunctionMode):
    """Collects the names of functions that write into a tensor that depends on the input."""

    def __init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor) and a.requires_grad and not isinstance(a, nn.Parameter)]
        before = [tensor._version for tensor in tensors]
        result = func(*args, **(kwargs or {}))
        if [tensor._version for tensor in tensors] != before:
            self.names.append(getattr(func, "__name__", str(func)))
        return result


def _in_place(seen: _Seen) -> Iterator[Finding]:
    module = copy.deepcopy(seen.target.module)
    given = seen.inputs.clone().requires_grad_(True) * 1.0  # not a leaf: autograd forbids writing to leaves
    before, writes = given.detach().clone(), _Writes()
    with KEY.isolated(), torch.enable_grad(), writes:
        seen.target.through(module, given)
    if not torch.equal(given.detach(), before):
        sentence = f"the model overwrites its input (by {writes.names[0] if writes.names else 'an operation in place'})"
        yield Finding(Severity.ERROR, "in-place operations", sentence, "build the layers with inplace=False")
    elif writes.names:
        sentence = f"activations are changed in place (by {', '.join(dict.fromkeys(writes.names))})"
        remedy = "build the layers with inplace=False: saved activations are read again by the second derivative"
        yield Finding(Severity.NOTE, "in-place operations", sentence, remedy)


def _reach(seen: _Seen) -> Iterator[Finding]:
    """Parameters that the loss does not depend on: by autograd, which knows no path to them."""
    target = seen.target
    parameters = {name: value.clone().requires_grad_(True) for name, value in target.parameters().items()}
    with KEY.isolated(), torch.enable_grad():
        loss = target.loss_at(parameters, target.loss.labeled(seen.inputs, target.classes))
    if not loss.requires_grad:
        sentence = "the loss does not depend on any parameter"
        yield Finding(
            Severity.ERROR, "gradient", sentence, "take torch.no_grad and .detach() out of the model's forward"
        )
        return
    try:
        slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    except FORWARD_ERRORS as error:
        # activation checkpoints run layers again on the way back, where the weights are no longer those given here
        sentence = f"the model has no gradient at given weights: {first_line(error)}"
        remedy = (
            "turn activation checkpoints off (torch.utils.checkpoint), which changes no number; check backward hooks"
        )
        yield Finding(Severity.ERROR, "gradient", sentence, remedy)
        return
    unused = [name for name, slope in zip(parameters, slopes, strict=True) if slope is None]
    if unused:
        sentence = f"the loss does not depend on {some(unused)}: their update is zero and says nothing"
        yield Finding(
            Severity.NOTE, "gradient", sentence, "nothing needs to change; where they should count, check forward"
        )


def _head(seen: _Seen) -> Iterator[Finding]:
    if not acts_as(seen.target.loss, CrossEntropy):
        return  # what attacks read from an output layer are the labels of cross-entropy
    try:
        layer = output_layer(seen.target)
    except NoSuchLayer as error:
        remedy = (
            "labels cannot be read from the output layer; where it is dense, make it a torch.nn.Linear that runs last"
        )
        yield Finding(Severity.WARNING, "output layer", str(error), remedy)
        return
    if layer.bias is None:
        sentence = f"the output layer {layer.name!r} has no bias, whose gradient gives away the counts of the labels"
        remedy = "nothing needs to change; attacks that read that gradient do not apply, the others have to be run"
        yield Finding(Severity.WARNING, "output bias", sentence, remedy)


@final
@dataclass(frozen=True)
class _Slope:
    """The derivative of <gradient, v> along a line: by autograd, by differences, and the size of rounding errors."""

    autograd: float
    differences: float
    rounding: float

    @property
    def agrees(self) -> bool:
        """Whether the two routes give one number."""
        larger = max(abs(self.autograd), abs(self.differences))
        return abs(self.autograd - self.differences) <= 1e-4 * larger + self.rounding

    @property
    def flat(self) -> bool:
        """Whether both are zero."""
        return max(abs(self.autograd), abs(self.differences)) <= self.rounding


def _slope(target: Target, inputs: Tensor, key: Key) -> _Slope:
    parameters = target.parameters()
    along = {name: normal(value, key.child("v", name)) for name, value in parameters.items()}
    direction = normal(inputs, key.child("u"))
    direction = direction / direction.norm()

    def projected(candidate: Tensor) -> Tensor:
        with KEY.isolated():
            batch = target.loss.labeled(candidate, target.classes)
            gradient = torch.func.grad(target.loss_at)(parameters, batch)
        return trees.dot(gradient, along)

    step = 1e-7
    by_autograd = float((torch.func.grad(projected)(inputs) * direction).sum())
    high, low = float(projected(inputs + step * direction)), float(projected(inputs - step * direction))
    return _Slope(by_autograd, (high - low) / (2 * step), 1e-14 * max(abs(high), abs(low)) / step)


def _slopes(target: Target, inputs: Tensor) -> list[_Slope]:
    """Up to three, until one convinces: a kink (ReLU) between the two ends spoils a difference now and then."""
    double = dataclasses.replace(target, module=copy.deepcopy(target.module).double())
    slopes: list[_Slope] = []
    while len(slopes) < 3 and not any(slope.agrees and not slope.flat for slope in slopes):
        slopes.append(_slope(double, inputs.double(), KEY.child("slope", len(slopes))))
    return slopes


def _derivatives(seen: _Seen) -> Iterator[Finding]:
    try:
        slopes = _slopes(seen.target, seen.inputs[:2])
    except (*FORWARD_ERRORS, BadInput) as error:
        sentence = f"the gradient cannot be differentiated again in double precision: {first_line(error)}"
        remedy = "write the layer with torch operations that keep the dtype (autograd functions need setup_context)"
        yield Finding(Severity.ERROR, "second derivative", sentence, remedy)
        return
    if all(slope.flat for slope in slopes):
        sentence = "the gradient does not change with the input, so that no search can follow it"
        remedy = "the inputs pass a step function, are rounded, or are detached; only attacks that do not search apply"
        yield Finding(Severity.WARNING, "second derivative", sentence, remedy)
    elif not any(slope.agrees for slope in slopes):
        sentence = (
            f"autograd says that the gradient changes by {slopes[0].autograd:.3g} along a line, "
            f"differences say {slopes[0].differences:.3g}"
        )
        remedy = "a layer's backward is not differentiable itself; write it with torch operations"
        yield Finding(Severity.ERROR, "second derivative", sentence, remedy)


def _vectorized(seen: _Seen) -> Iterator[Finding]:
    target, parameters = seen.target, seen.target.parameters()
    candidates = torch.stack([seen.inputs[:2], seen.inputs[1:]])

    def size(candidate: Tensor) -> Tensor:
        batch = target.loss.labeled(candidate, target.classes)
        return trees.norm(torch.func.grad(target.loss_at)(parameters, batch))

    try:
        with KEY.isolated():
            torch.func.vmap(torch.func.grad(size), randomness="different")(candidates)
    except FORWARD_ERRORS as error:
        sentence = f"candidates cannot be searched side by side: {first_line(error)}"
        remedy = (
            "restarts run one after the other; operations in place and Python branches on values are the usual reason"
        )
        yield Finding(Severity.NOTE, "vectorization", sentence, remedy)


def _work(seen: _Seen) -> Iterator[Finding]:
    if seen.inputs.device != torch.device("cpu"):
        return
    counter = FlopCounterMode(display=False)
    with counter:
        probed(seen.target, seen.inputs, key=KEY)
    operations, count = counter.get_total_flops() / len(seen.inputs), seen.target.count()
    if operations > MUCH_WORK or count > MANY_PARAMETERS:
        minutes = 1000 * PASSES * operations / CPU_SPEED / 60
        sentence = (
            f"one forward pass of one example takes {operations / 1e9:.3g} GFLOP, the model has {count:,} parameters: "
            f"on two cores 1000 gradient evaluations take about {minutes:.0f} minutes"
        )
        yield Finding(Severity.WARNING, "size", sentence, "use a GPU, smaller inputs or fewer evaluations")
