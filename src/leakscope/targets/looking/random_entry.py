"""Whether a model draws at random in front of the first layer: what that is fed need not be the input then."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import listening, named

READERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)
"""The layers that multiply what they are given: the first of them is what attacks read an input from. A normalization
in front of it is none, since what is drawn behind that still stands in front of the first layer."""
OWN = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""Generators that a module may keep for itself."""
PROBES = 2
RUNS, ROWS = 8, 6
"""Looks at what the first layer is fed in training mode, and inputs in each: of a draw that changes one entry in twenty
some show."""


def draws_first(target: Target) -> bool:
    """Whether anything is drawn before the first layer, or before a layer that is fed the input, in either mode.

    By the state of the generators: a draw that changes one input in three changes nothing in most probes. Of generators
    that nothing holds, what the first layer is given in several runs shows those that act often; of rarer ones a proof
    can only say that it assumes none (`runs_known_code`). True as well where
    the model fails in the mode that it is not in, and its own mode shows none. In training mode also of a model that
    was declared to be in eval mode, whose client may err.

    >>> from leakscope import Images
    >>> net = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(4, 2), nn.Dropout(0.1))
    >>> draws_first(Target(net, Images(1, 2, 2), 2)), draws_first(Target(net[::2], Images(1, 2, 2), 2))
    (True, False)
    """
    modes = (target, dataclasses.replace(target, training=True))
    return any(_draws(one) for one in modes) or _varies(modes[1])


def runs_known_code(target: Target) -> bool:
    """Whether all layers are torch's own or this library's, without hooks: then what they draw from is watched.

    Code of others may make a generator anew, or read a clock, and act once in a thousand runs: looks at the model are a
    test of that and no proof.

    >>> from leakscope import Images
    >>> class Own(nn.Flatten):
    ...     __module__ = "client"
    >>> nets = [nn.Sequential(one, nn.Linear(4, 2)) for one in (nn.Flatten(), Own())]
    >>> [runs_known_code(Target(net, Images(1, 2, 2), 2)) for net in nets]
    [True, False]
    """
    return all(_known(one) for one in target.module.modules())


def _known(module: nn.Module) -> bool:
    """Whether a layer runs the forward of a class of torch or of this library, and nothing around it."""
    # A class that torch makes of another's, as for parametrizations, is named as torch's: so all that it inherits from
    # is asked. Compiled and traced modules are torch's by name, and run what was compiled.
    kinds = [kind.__module__ for kind in type(module).__mro__ if issubclass(kind, nn.Module)]
    own = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    return not own and all(kind.startswith(("torch.nn.", "torch.ao.", "leakscope.")) for kind in kinds)


def _varies(target: Target) -> bool:
    """Whether the first layer is fed something else in another run: by a generator of a file, a list, or made anew."""
    key = Key(0).child("varies")
    inputs = probe_inputs(target, ROWS, key=key)
    runs = list[Tensor]()
    names = named(target.module, *READERS)
    with key.isolated(), torch.no_grad():
        for _ in range(RUNS):
            fed = list[Tensor]()

            def heard(given: Tensor, fed: list[Tensor] = fed) -> None:
                if not fed:
                    fed.append(given.detach().clone())

            with listening(target.module, dict.fromkeys(names, heard)), contextlib.suppress(*FORWARD_ERRORS):
                target.outputs(target.parameters(), inputs)
            runs += fed
    return any(one.shape != runs[0].shape or not torch.equal(one, runs[0]) for one in runs)


def _draws(target: Target) -> bool:
    key = Key(0).child("drawn")
    inputs = probe_inputs(target, PROBES, key=key)
    flat, found = inputs.flatten(), list[bool]()

    with key.isolated(), torch.no_grad():
        start = _state(target.module, inputs.device)

        def heard(given: Tensor) -> None:
            entry = given.numel() == len(flat) and torch.equal(given.flatten(), flat)
            # Behind the first layer a draw is no matter, unless it changes what another layer is fed of the input.
            if not found or (entry and not found[-1]):
                found.append(_state(target.module, inputs.device) != start)

        names = named(target.module, *READERS)
        with listening(target.module, dict.fromkeys(names, heard)), contextlib.suppress(*FORWARD_ERRORS):
            target.outputs(target.parameters(), inputs)
        # Of a model without a layer of a known kind all of the run counts.
        return any(found) if found else _state(target.module, inputs.device) != start


def _state(module: nn.Module, device: torch.device) -> tuple[object, ...]:
    """The states of all generators that a model can draw from, those that its modules keep for themselves included."""
    held: list[object] = [torch.get_rng_state(), random.getstate(), np.random.get_state()]
    if device.type == "cuda":
        held.append(torch.cuda.get_rng_state(device))
    held += [_own(value) for one in module.modules() for value in _kept(one) if isinstance(value, OWN)]
    return tuple(_plain(one) for one in held)


def _kept(module: nn.Module) -> Iterator[object]:
    """What a module has at hand: its attributes, what lists and dicts of them hold, and the names of its file."""
    # Layers of torch draw from the generators that are watched anyway.
    forward = getattr(type(module).forward, "__globals__", {})
    for value in (
        *vars(module).values(),
        *(() if forward.get("__name__", "").startswith("torch.") else forward.values()),
    ):
        yield value
        if type(value) in (list, tuple, dict):
            yield from value.values() if isinstance(value, dict) else value


def _own(generator: object) -> object:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()  # type: ignore[attr-defined]


def _plain(state: object) -> object:
    """As something that compares as a whole, which arrays do not."""
    if isinstance(state, Tensor):
        return state.numpy().tobytes()
    if isinstance(state, np.ndarray):
        return state.tobytes()
    if isinstance(state, dict):
        return tuple((name, _plain(value)) for name, value in state.items())
    return tuple(_plain(one) for one in state) if isinstance(state, tuple) else state
