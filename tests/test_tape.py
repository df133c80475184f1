"""The one recorder of hooks: what it keeps, that nothing of it stays, and that there is no other."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest
import torch
from tests.tolerance import close
from torch import nn

from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key
from leakscope.targets.looking.tape import (
    Doubled,
    copied,
    given_to,
    innermost,
    itself,
    listening,
    multiplied,
    named,
    recorded,
    rewritten,
    running,
)

PACKAGE = Path(__file__).parents[1] / "src" / "leakscope"
X = torch.rand(2, 4, generator=Key(1).generator())


def net(*layers):
    with Key(0).isolated():
        return nn.Sequential(nn.Linear(4, 3), *layers, nn.Linear(3, 2))


def hooks(module):
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def test_hooks_are_registered_in_the_tape_and_nowhere_else():
    """By the names of attributes, so that another way of writing the call is seen too."""
    where = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("register") and "forward" in node.attr
    }
    assert where == {"targets/looking/tape.py"}


def test_what_a_layer_is_given_and_returns_is_what_one_computes_by_hand():
    module = net(nn.Tanh())
    with recorded(module, ["0", "2"]) as calls:
        outputs = module(X)
    first = X @ module[0].weight.T + module[0].bias
    second = torch.tanh(first) @ module[2].weight.T + module[2].bias
    assert [call.name for call in calls] == ["0", "2"]
    close(calls[0].given, X)
    close(calls[0].returned, first.detach())
    close(calls[1].given, torch.tanh(first).detach())
    close(calls[1].returned, second.detach())
    close(outputs, second)
    assert [(*call.weights, call.bias) for call in calls] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]


def test_copies_are_made_before_a_layer_in_place_overwrites_them():
    module = net(nn.ReLU(inplace=True))
    first = (X @ module[0].weight.T + module[0].bias).detach()
    assert bool((first < 0).any()), "else the layer in place changes nothing"
    with recorded(module, ["0", "1"]) as calls:
        module(X)
    close(calls[0].returned, first)
    close(calls[1].given, first)
    close(calls[1].returned, first.clamp(min=0))


def test_the_tensors_themselves_are_in_the_graph_and_one_layers_output_is_the_nexts_input():
    module = net(nn.Tanh())
    with recorded(module, innermost(module), keep=itself) as calls:
        outputs = module(X)
    assert calls[1].given is calls[0].returned
    assert calls[2].given is calls[1].returned
    assert calls[2].returned is outputs
    (slope,) = torch.autograd.grad(outputs.sum(), calls[1].returned)
    close(slope, module[2].weight.detach().sum(0).expand(2, 3))
    kept = copied(calls[0].returned)
    assert not kept.requires_grad
    assert kept.data_ptr() != calls[0].returned.data_ptr()


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("as planned")


@pytest.mark.parametrize(
    "opened",
    [
        lambda module: recorded(module, innermost(module)),
        lambda module: listening(module, {"0": lambda given: None}),
        lambda module: rewritten(module, {"0": lambda given, returned: returned}),
    ],
    ids=["recorded", "listening", "rewritten"],
)
def test_nothing_stays_however_the_block_ends(opened):
    module = net(Failing())
    with opened(module):
        assert hooks(module) > 0
    with pytest.raises(RuntimeError, match="as planned"), opened(module):
        module(X)
    assert hooks(module) == 0
    with pytest.raises(AttributeError), recorded(module, ["0", "nothing"]):
        pass
    assert hooks(module) == 0, "those before the name that is wrong"


class Named(nn.Module):
    """Calls a layer by keyword, a recurrent one, one that calls itself, and one that is given no tensor."""

    def __init__(self):
        nn.Module.__init__(self)
        self.dense, self.recurrent, self.text, self.again = nn.Linear(4, 4), nn.GRU(4, 3), Length(), Again()

    def forward(self, x):
        hidden, _ = self.recurrent(self.dense(input=x))
        return hidden * self.text("four") + self.again(x, 2).sum()


class Length(nn.Module):
    def forward(self, text):
        return len(text)


class Again(nn.Module):
    def forward(self, x, times):
        return self(2 * x, times - 1) if times else x


def test_keywords_tuples_nested_calls_and_what_is_no_tensor():
    with Key(0).isolated():
        module = Named()
    with recorded(module, ["dense", "recurrent", "text", "again"]) as calls:
        module(X)
    assert [call.name for call in calls] == ["dense", "recurrent", "again", "again", "again"]
    close(calls[0].given, X)
    assert calls[1].returned.shape == (2, 3), "the outputs of a recurrent layer, not its last state"
    # the innermost call returns first; each is paired with what it was given itself
    assert [round(float((call.given / X).mean())) for call in calls[2:]] == [4, 2, 1]


class Looks(nn.Module):
    """A token looks at the others, then at other tokens."""

    def __init__(self, first):
        nn.Module.__init__(self)
        self.own, self.other = (nn.MultiheadAttention(4, 2, batch_first=first) for _ in range(2))

    def forward(self, x):
        return self.own(x, x, x)[0] + self.other(x, 2 * x, x)[0]


@pytest.mark.parametrize("first", [True, False])
def test_of_attentions_those_that_look_at_themselves_with_the_examples_first(first):
    tokens = torch.rand(2, 5, 4, generator=Key(2).generator())
    module = Looks(first)
    with recorded(module, named(module, nn.MultiheadAttention)) as calls:
        module(tokens if first else tokens.transpose(0, 1))
    assert [(call.name, call.weights, call.dense) for call in calls] == [("own", ("own.in_proj_weight",), True)]
    close(calls[0].given, tokens)


def test_what_is_returned_instead_goes_on_and_is_what_a_later_recorder_sees():
    module = net(nn.Tanh())
    with rewritten(module, {"1": lambda given, returned: 10 * given}), recorded(module, ["1", "2"]) as calls:
        outputs = module(X)
    first = (X @ module[0].weight.T + module[0].bias).detach()
    close(calls[0].returned, 10 * first)
    close(calls[1].given, 10 * first)
    close(outputs.detach(), 10 * first @ module[2].weight.detach().T + module[2].bias.detach())


def test_listeners_are_told_before_the_layer_runs():
    module, heard_of = net(nn.ReLU(inplace=True)), []
    with listening(module, {"1": lambda given: heard_of.append(float(given.detach().min()))}):
        module(X)
    assert heard_of[0] < 0


def test_a_multiplied_copy_keeps_its_names_its_hooks_when_it_is_copied_and_the_original():
    module = net()
    factor = torch.tensor([0.0, 1.0, 2.0])
    changed = multiplied(module, {"0": factor})
    wanted = (X @ module[0].weight.T + module[0].bias) * factor @ module[1].weight.T + module[1].bias
    for one in (changed, copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):  # noqa: S301, its own
        close(one(X), wanted)
        assert [name for name, _ in one.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert hooks(module) == 0


class Twice(nn.Module):
    def __init__(self):
        nn.Module.__init__(self)
        self.dense, self.ran = nn.Linear(4, 4), []

    def forward(self, x):
        once = self.dense(x.flatten(1))
        self.ran.append(1)
        again = self.dense(torch.tanh(once))
        self.ran.append(2)
        return again


@pytest.mark.parametrize("turn", [0, 1])
def test_a_run_ends_at_the_layer_and_call_that_it_is_for(turn):
    with Key(0).isolated():
        target = Target(Twice(), Images(1, 2, 2), 4)
    model, inputs = Doubled.of(target), X.double().reshape(2, 1, 2, 2)
    given = given_to(model, "dense", inputs, turn=turn)
    dense = model.module.dense
    once = torch.tanh(X.double() @ dense.weight.T + dense.bias)
    close(given, (X.double(), once.detach())[turn])
    assert model.module.ran == [1][:turn]
    assert hooks(model.module) == 0
    assert hooks(target.module) == 0


def test_a_running_model_is_a_double_of_the_target_in_the_graph():
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Images(1, 2, 2), 2)
    with running(target) as (model, calls):
        outputs = model(X.double().reshape(2, 1, 2, 2))
    assert outputs.dtype == torch.float64
    (slope,) = torch.autograd.grad(outputs.sum(), calls[0].module.weight)
    close(slope, X.double().sum(0).expand(2, 4))
    assert hooks(model.module) == 0
