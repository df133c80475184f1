"""Updates and weights that other programs wrote: read as plain tensors, fitted to the names of a model."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.numerics.trees import Named
from leakscope.targets.files.tensors import content, listed, plain, unpickled

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts put the state dict inside a checkpoint."""

AROUND = ("module.", "_module.", "model.", "_forward_module.")
"""What wrappers put in front of all names: DataParallel, Opacus' GradSampleModule, Lightning, its strategies."""

_INSIDE = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpoints put before the names of single layers."""

_PLAIN = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
_PICKLE = (".pkl", ".pickle")


@final
@dataclass(frozen=True, eq=False)
class Foreign:
    """What a file holds. by_name: tensors by name, or None where it is a bare list; listed: then its tensors."""

    path: str
    by_name: Named | None
    listed: tuple[Tensor, ...] = ()
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class ModelTensors:
    """The same under the names of a model: what is trained, what is not (running statistics), and what was done."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    notes: tuple[str, ...]


def read_foreign(path: str | Path, *, allow_pickle: bool = False) -> Foreign:
    """The tensors of a `.safetensors`, `.npz`, `.pt` (`.pth`, `.bin`, `.ckpt`) or, if allowed, `.pkl` file.

    Names `arr_0`, `arr_1`, ... of an `.npz` are no names: such a file is a list, as a list of arrays is.
    allow_pickle: also read what only Python's pickle can, which runs whatever code the file holds.
    Raises `BadInput` when the file is missing, damaged, of another kind, or holds something else than arrays.
    """
    place = Path(path)
    if not place.is_file():
        raise BadInput(f"no file {place}; expected .safetensors, .npz or .pt")
    trust = "" if allow_pickle else "; if it needs pickle and you trust who wrote it, --allow-pickle"
    advice = f": it is cut short, damaged or of another kind; save it again{trust}"
    if place.suffix in _PLAIN:
        return _sorted_out(str(place), content(place, advice=advice, trust=trust, allow_pickle=allow_pickle))
    if place.suffix not in _PICKLE:
        raise BadInput(f"{place} has the suffix {place.suffix!r}; expected .safetensors, .npz or .pt")
    if not allow_pickle:
        raise BadInput(
            f"{place} is a pickle: reading it runs whatever code is in it; save it as .safetensors or .npz, or give "
            "--allow-pickle if you trust who wrote it"
        )
    return _sorted_out(str(place), unpickled(place, advice=advice))


def _sorted_out(path: str, found: object) -> Foreign:
    notes: tuple[str, ...] = ()
    if isinstance(found, Mapping):
        inner = _inside(path, found)
        if inner is not None:
            found, notes = found[inner], (f"took {inner!r} out of the checkpoint",)
    elif isinstance(found, list | tuple) and (fit := [one for one in found if _arrays(one)]):
        # Flower's fit returns (arrays, number of examples, metrics)
        if len(fit) > 1:
            raise BadInput(f"{path} holds {len(fit)} lists of arrays; save the one that is the update")
        found, notes = fit[0], (f"took the list of {len(fit[0])} arrays out of it",)
    if isinstance(found, np.ndarray) and found.dtype == object:
        found = list(found)
    if isinstance(found, Mapping):
        named = {
            _name(path, name): plain(path, file_limits.shortened(repr(_name(path, name))), value)
            for name, value in found.items()
        }
        if named and all(re.fullmatch(r"arr_\d+", name) for name in named):
            order = sorted(named, key=lambda name: int(name.removeprefix("arr_")))
            return Foreign(path, None, tuple(named[name] for name in order), notes)
        if named:
            return Foreign(path, named, (), notes)
    if isinstance(found, Sequence) and not isinstance(found, str | bytes) and len(found):
        return Foreign(path, None, tuple(plain(path, f"entry {i}", value) for i, value in enumerate(found)), notes)
    raise BadInput(f"{path} holds {_kind(found)}, expected tensors by name or a list of arrays; save the state dict")


def _inside(path: str, found: Mapping[object, object]) -> object | None:
    """The key of the state dict inside a checkpoint: a usual one (`STATE_KEYS`), else the only one that holds arrays.

    Raises `BadInput` where several unusual ones do: which is the update is not to be guessed.
    """
    usual = next((key for key in STATE_KEYS if isinstance(found.get(key), Mapping)), None)
    if usual is not None or any(isinstance(value, Tensor | np.ndarray) for value in found.values()):
        return usual
    several = [key for key, value in found.items() if _arrays(value)]
    if len(several) > 1:
        raise BadInput(
            f"{path} holds several sets of arrays, {listed([str(one) for one in several])}; save one of them"
        )
    return several[0] if several else None


def _arrays(value: object) -> bool:
    """Whether it is arrays alone, by name or in a list: what the state of an optimizer is not."""
    if isinstance(value, Mapping):
        named = bool(value) and all(isinstance(name, str) for name in value)
        return named and all(isinstance(one, Tensor | np.ndarray) for one in value.values())
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Tensor | np.ndarray) for v in value)


def _name(path: str, name: object) -> str:
    if not isinstance(name, str):
        raise BadInput(
            f"{path} has {file_limits.shortened(repr(name))} among its names, expected texts; save model.state_dict()"
        )
    return name


def _kind(content: object) -> str:
    return "nothing" if isinstance(content, Mapping | Sequence) and not content else f"a {type(content).__name__}"


def for_model(found: Foreign, module: nn.Module) -> ModelTensors:
    """`found` under the names of `module`, parameters and buffers apart.

    A list is taken in the order of the state dict (as Flower sends it), of the same without its counters, or of the
    parameters alone. Prefixes that wrappers put before names are taken off (`AROUND`, `_orig_mod.` and the like), and
    any other one that stands before every parameter of the model. Names that the model does not have are left out, so
    are counters (0-d, such as `num_batches_tracked`) that became arrays of shape (0,) or (1,); names that are missing
    are allowed: all of it is said in `notes`.
    Raises `BadInput` on another shape, another count, no common name, or numbers that are not finite or no floats.
    """
    named, notes = _in_order(found, module) if found.by_name is None else _stripped(found.by_name, module)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    aliases = module.state_dict().keys() - parameters.keys() - buffers.keys()
    strange = [name for name in named if name not in parameters and name not in buffers and name not in aliases]
    if strange:
        notes = (*notes, f"left out {listed(strange)}, which the model does not have")
    named, lost = _counters(named, buffers)
    if lost:
        notes = (*notes, f"left out {listed(lost)}: counters that are not of the model's shape, no part of an update")
    known = {name: value for name, value in named.items() if name in parameters}
    if not known:
        raise BadInput(
            f"{found.path} has no name in common with the model: it has {listed(list(named))}, the model "
            f"{listed(list(parameters))}; give the model that this update belongs to"
        )
    rest = {name: value for name, value in named.items() if name in buffers}
    for name, value in {**known, **rest}.items():
        _check(found.path, name, value, {**parameters, **buffers}[name])
    missing = [name for name in parameters if name not in known]
    if missing:
        notes = (*notes, f"a partial update: it lacks {listed(missing)}")
    return ModelTensors({n: _kept(v, parameters[n]) for n, v in known.items()}, rest, (*found.notes, *notes))


def _in_order(found: Foreign, module: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    whole, trained = list(module.state_dict()), [name for name, _ in module.named_parameters()]
    count, buffers = len(found.listed), dict(module.named_buffers())
    # A known way around counters that become empty arrays is to leave them out before sending.
    uncounted = [name for name in whole if name not in buffers or buffers[name].dim()]
    names = {len(trained): trained, len(uncounted): uncounted, len(whole): whole}.get(count)
    if names is None:
        wanted = f"{len(whole)}" if len(whole) == len(trained) else f"{len(whole)} (or {len(trained)} without buffers)"
        raise BadInput(
            f"{found.path} is a list of {count} arrays without names, the model has {wanted}; give the model that they "
            "belong to, or save them by name"
        )
    return dict(zip(names, found.listed, strict=True)), (f"{count} arrays without names, taken in the model's order",)


def _counters(named: Named, buffers: Named) -> tuple[dict[str, Tensor], list[str]]:
    """Without the 0-d buffers that a library made arrays of none or one number of; and their names."""
    lost = [n for n, v in named.items() if n in buffers and not buffers[n].dim() and v.dim() and v.numel() < 2]
    return {name: value for name, value in named.items() if name not in lost}, lost


def _stripped(named: Named, module: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    known = module.state_dict().keys()
    renamed, changed = {}, []
    common = _common(named, module)
    for name, value in named.items():
        bare = name if name in known else _bare(name.removeprefix(common), known)
        if bare in renamed:
            raise BadInput(
                f"{file_limits.shortened(repr(name))} is there twice once wrappers are taken off; "
                "save the state dict of one model"
            )
        renamed[bare] = value
        if bare != name:
            changed.append(name.removesuffix(bare) if name.endswith(bare) else _INSIDE.findall(name)[0][1] + ".")
    if not changed:
        return renamed, ()
    return renamed, (f"took {', '.join(map(repr, sorted(set(changed))))} off {len(changed)} names",)


def _common(named: Named, module: nn.Module) -> str:
    """The one prefix, of no known wrapper, under which the file has every parameter of the model; else none.

    Every one: a layer of another model may be called as one of this. Raises `BadInput` where there are several.
    """
    trained = [name for name, _ in module.named_parameters()]
    if any(_bare(name, trained) in trained for name in named):
        return ""
    fronts = {name.removesuffix(trained[0]) for name in named if name.endswith(f".{trained[0]}")} if trained else set()
    whole = sorted(front for front in fronts if all(front + name in named for name in trained))
    if len(whole) > 1:
        raise BadInput(f"the file has the model several times, under {listed(whole)}; save the state dict of one model")
    return whole[0] if whole else ""


def _bare(name: str, known: Container[str]) -> str:
    """Without wrappers, as far as that gives a name of the model; else as it is."""
    bare = _INSIDE.sub("", name)
    while bare not in known:
        front = next((front for front in AROUND if bare.startswith(front)), None)
        if front is None:
            return name
        bare = bare.removeprefix(front)
    return bare


def _check(path: str, name: str, value: Tensor, wanted: Tensor) -> None:
    if value.shape != wanted.shape:
        raise BadInput(
            f"{name} has shape {tuple(value.shape)} in {path}, the model has {tuple(wanted.shape)}; give the model the "
            "sizes and the number of classes that it was trained with"
        )
    if wanted.is_floating_point() and not value.is_floating_point():
        raise BadInput(f"{name} in {path} is of {value.dtype}, expected floating point; undo the quantization first")
    if value.is_floating_point() and value.element_size() < 2:
        raise BadInput(f"{name} in {path} is of {value.dtype}, which holds 8 bits; save it as float16 or wider")
    if not bool(torch.isfinite(value).all()):
        raise BadInput(f"{name} in {path} holds numbers that are not finite: the training diverged; nothing is in them")


def _kept(value: Tensor, like: Tensor) -> Tensor:
    """Numbers narrower than the model's as they are, since exact attacks ask how coarse an update is; wider ones not.

    An array of float64 that was made of float32 has only its precision.
    """
    return value.to(like.dtype) if torch.finfo(value.dtype).eps < torch.finfo(like.dtype).eps else value


def load_tensors(module: nn.Module, values: ModelTensors, path: str) -> None:
    """Copy weights into `module`. Raises `BadInput` when a parameter is missing: weights must be whole."""
    missing = [name for name, _ in module.named_parameters() if name not in values.parameters]
    if missing:
        raise BadInput(f"{path} lacks {listed(missing)}; give a file with all weights of the model")
    with torch.no_grad():
        for name, own in (*module.named_parameters(), *module.named_buffers()):
            value = values.parameters.get(name, values.buffers.get(name))
            if value is not None:
                own.copy_(value)
