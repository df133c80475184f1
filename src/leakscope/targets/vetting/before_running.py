"""What can be said of a module before it is run: wrapped, quantized, shared, frozen."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from leakscope.targets.vetting.finding import Finding, Severity, some

QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
"""Where torch keeps layers whose weights are no parameters; their packed weights have no gradient."""


def bare(module: nn.Module) -> nn.Module:
    """The module inside `DataParallel`, `DistributedDataParallel` and `torch.compile`; another one as it is.

    >>> layer = nn.Linear(1, 1)
    >>> bare(nn.DataParallel(layer)) is layer
    True
    """
    while True:
        if isinstance(module, nn.DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(module, OptimizedModule):
            module = module._orig_mod
        else:
            return module


def structure(module: nn.Module) -> Iterator[Finding]:
    """What a `Target` of this module still shows."""
    if isinstance(module, nn.DataParallel | DistributedDataParallel):
        sentence = f"the model is wrapped in {type(module).__name__}, which torch.func cannot call"
        yield Finding(Severity.ERROR, "wrapper", sentence, "give the model inside: model.module")
    elif isinstance(module, OptimizedModule):
        sentence = "the model is compiled: its names begin with '_orig_mod.', and its layers cannot be looked at"
        yield Finding(Severity.ERROR, "wrapper", sentence, "give the model inside: model._orig_mod")
    rounded = [name for name, layer in module.named_modules() if type(layer).__module__.startswith(QUANTIZED)]
    quantized = [name for name in rounded if name.rpartition(".")[0] not in rounded]  # without what they are made of
    if quantized:
        sentence = f"the layers {some(quantized)} are quantized: their weights are no parameters and have no gradient"
        remedy = (
            "audit the model that is trained, before quantization; for rounded updates there is the defense Quantize"
        )
        yield Finding(Severity.ERROR, "quantized layers", sentence, remedy)
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for shared in names.values():
        if len(shared) > 1:
            sentence = f"{some(shared)} are one tensor: the update has it once, as {shared[0]!r}"
            remedy = "nothing needs to change; attacks that read one layer see the sum of what its uses give"
            yield Finding(Severity.NOTE, "shared parameters", sentence, remedy)


def frozen(module: nn.Module) -> Iterator[Finding]:
    """Parameters that are not trained. To be asked of the module itself: a `Target` freezes its copy of all."""
    names = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    if names:
        sentence = f"the parameters {some(names)} do not require a gradient, so clients do not send one for them"
        remedy = (
            "a simulated audit sends the gradient of every parameter and shows more than such clients leak; capture an "
            "update of a real client, which lacks them"
        )
        yield Finding(Severity.WARNING, "frozen parameters", sentence, remedy)
