from __future__ import annotations

import math
import pickle
import random
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.tolerance import close, close_trees
from torch import nn

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.release import Gradient
from leakscope.core.target import Target
from leakscope.domains.speech import Frames
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.recipes.trained import Trained
from leakscope.targets.vetting import model as vetting
from leakscope.targets.vetting.before_running import bare, frozen
from leakscope.targets.vetting.finding import Severity
from leakscope.targets.vetting.model import vet
from leakscope.targets.vetting.update import vet_update
from leakscope.targets.zoo.convnet import ConvNet
from leakscope.targets.zoo.deepspeech import DeepSpeech
from leakscope.targets.zoo.fit import Activation
from leakscope.targets.zoo.lenet import LeNet
from leakscope.targets.zoo.mlp import MLP, Linear
from leakscope.targets.zoo.resnet import ResNet20

RGB = Images(3, 32, 32)
ZOO = [LeNet(), LeNet(None, Activation.TANH), ConvNet(), ConvNet(4), ResNet20(), MLP(), MLP((9,), 0.5), Linear()]
zoo = pytest.mark.parametrize("family", ZOO, ids=repr)


def conv(before, after, kernel, bias=True):
    return before * after * kernel**2 + after * bias


@pytest.mark.parametrize(
    ("family", "classes", "count"),
    [
        # 32 -> 16 -> 8 -> 8: the dense layer reads 12 * 8 * 8
        (LeNet(), 100, conv(3, 12, 5) + 2 * conv(12, 12, 5) + (768 + 1) * 100),
        # 32 -> 32 -> 16 -> 16 -> 8: the dense layer reads 64 * 8 * 8
        (ConvNet(), 10, conv(3, 16, 3) + conv(16, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3) + (4096 + 1) * 10),
        (
            ResNet20(),
            10,
            conv(3, 16, 3, bias=False) + 6 * conv(16, 16, 3, bias=False)
            + conv(16, 32, 3, bias=False) + 5 * conv(32, 32, 3, bias=False)
            + conv(32, 64, 3, bias=False) + 5 * conv(64, 64, 3, bias=False)
            + 2 * (7 * 16 + 6 * 32 + 6 * 64) + (64 + 1) * 10,
        ),
        (MLP((256, 128)), 10, 3073 * 256 + 257 * 128 + 129 * 10),
        (Linear(), 100, 3073 * 100),
    ],
)  # fmt: skip
def test_parameters_are_as_many_as_counted_by_hand(family, classes, count):
    assert family.build(RGB, classes, key=Key(0)).count() == count


def test_the_counts_that_the_literature_and_the_specification_name():
    assert LeNet().build(RGB, 100, key=Key(0)).count() == 85_036
    assert ConvNet().build(RGB, 10, key=Key(0)).count() == 73_802  # "about 74 k"
    assert ResNet20().build(RGB, 10, key=Key(0)).count() == 269_722  # "0.27 M" in He et al., table 6


@zoo
def test_weights_are_a_function_of_the_key_and_global_streams_stay(family):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    one, again, other = (family.build(RGB, 5, key=Key(seed)).fingerprint() for seed in (0, 0, 1))
    assert one == again != other
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@zoo
def test_repr_rebuilds(family):
    assert eval(repr(family)) == family
    assert family.build(RGB, 5, key=Key(0)).name == repr(family)


@zoo
def test_vmapped_forward_is_looped_forward(family):
    target = family.build(RGB, 5, key=Key(0))
    inputs = torch.rand(3, 2, 3, 32, 32, generator=Key(1).generator())
    together = torch.func.vmap(target.outputs, in_dims=(None, 0))(target.parameters(), inputs)
    looped = torch.stack([target.outputs(target.parameters(), each) for each in inputs])
    assert together.shape == (3, 2, 5)
    close(together, looped, loosened=10, because="up to 19 convolutions that sum in another order")


@zoo
def test_functional_gradient_is_the_modules_own(family):
    target = family.build(RGB, 5, key=Key(0))
    batch = Batch(torch.rand(2, 3, 32, 32, generator=Key(1).generator()), torch.tensor([4, 0]))
    got = torch.func.grad(target.loss_at)(target.parameters(), batch)
    module = target.module.requires_grad_(True)
    F.cross_entropy(module(batch.inputs), batch.labels).backward()
    close_trees(got, {name: p.grad for name, p in module.named_parameters()}, loosened=10, because="float32, 19 layers")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.sampled_from(ZOO))
@settings(max_examples=25, deadline=None)
def test_any_image_size_and_class_count_is_taken(height, width, channels, classes, family):
    target = family.build(Images(channels, height, width), classes, key=Key(0))
    assert target.outputs(target.parameters(), torch.zeros(2, channels, height, width)).shape == (2, classes)
    assert not target.module.training


@pytest.mark.parametrize("reach", [0.5, 0.01])
def test_lenet_is_uniform_within_its_range_biases_included(reach):
    target = LeNet(reach).build(RGB, 100, key=Key(0))
    for name, value in target.parameters().items():
        assert value.abs().max() <= reach, name
        assert value.abs().max() > 0.7 * reach, name  # 12 draws stay below with probability 0.7 ** 12 = 1.4 %
    dense = target.parameters()["7.weight"] / reach
    assert abs(float(dense.mean())) < 0.02
    assert abs(float(dense.var()) - 1 / 3) < 0.01


def test_without_a_range_torch_initializes():
    value = LeNet(None).build(RGB, 100, key=Key(0)).parameters()["7.weight"]
    assert value.abs().max() <= 1 / math.sqrt(768)


def test_lenet_layers_are_those_of_the_specification():
    layers = list(LeNet().build(RGB, 100, key=Key(0)).module)
    assert [layer.stride for layer in layers if isinstance(layer, nn.Conv2d)] == [(2, 2), (2, 2), (1, 1)]
    assert {layer.kernel_size for layer in layers if isinstance(layer, nn.Conv2d)} == {(5, 5)}
    assert {layer.padding for layer in layers if isinstance(layer, nn.Conv2d)} == {(2, 2)}
    assert sum(isinstance(layer, nn.Sigmoid) for layer in layers) == 3


@pytest.mark.parametrize("activation", list(Activation))
def test_the_activation_is_used_and_leaves_its_argument_alone(activation):
    wanted = {
        "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
        "softplus": F.softplus, "gelu": F.gelu, "silu": F.silu,
    }[activation.value]  # fmt: skip
    x = torch.linspace(-2, 2, 5)
    before = x.clone()
    close(activation.layer()(x), wanted(x))
    assert torch.equal(x, before)
    for kind in (LeNet, ConvNet, ResNet20, MLP):
        family = kind(activation=activation)
        kinds = [type(layer) for layer in family.build(RGB, 3, key=Key(0)).module.modules()]
        assert type(activation.layer()) in kinds
        assert eval(repr(family)) == family


def test_resnet_is_the_residual_sum_by_an_independent_route():
    """The same weights through functional calls written out from section 4.2."""
    target = ResNet20().build(RGB, 10, key=Key(0))
    state = {name: value.double() for name, value in target.module.state_dict().items()}
    inputs = torch.rand(2, 3, 32, 32, generator=Key(1).generator(), dtype=torch.float64)

    def normalized(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / torch.sqrt(var + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]

    x = normalized(F.conv2d(inputs, state["0.weight"], padding=1), "1").relu()
    for block in range(9):
        stride, place = (2 if block in (3, 6) else 1), f"{3 + block}"
        inner = normalized(F.conv2d(x, state[f"{place}.conv1.weight"], padding=1, stride=stride), f"{place}.bn1").relu()
        inner = normalized(F.conv2d(inner, state[f"{place}.conv2.weight"], padding=1), f"{place}.bn2")
        if stride == 2:
            x = torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], dim=1)
        x = (x + inner).relu()
    wanted = x.mean((2, 3)) @ state["14.weight"].T + state["14.bias"]
    double = Target(target.module.double(), RGB, 10)
    close(double.outputs(double.parameters(), inputs), wanted)


def test_resnet_weights_have_the_variance_of_he_et_al():
    weight = ResNet20().build(RGB, 10, key=Key(0)).parameters()["11.conv2.weight"]  # 64 inputs, 3 x 3
    assert abs(float(weight.var()) * 64 * 9 / 2 - 1) < 0.05


def test_dropout_drops_in_training_mode_only_and_never_at_rate_zero():
    def spread(family):
        target = family.build(RGB, 5, key=Key(0))
        inputs = torch.rand(1, 3, 32, 32, generator=Key(1).generator())
        outputs = []
        for seed in (0, 1):
            with Key(seed).isolated():
                outputs.append(target.outputs(target.parameters(), inputs))
        return float((outputs[0] - outputs[1]).abs().max())

    assert spread(MLP(dropout=0.5)) == 0
    assert spread(MLP(dropout=0.0, training=True)) == 0
    assert spread(MLP(dropout=0.5, training=True)) > 0
    assert sum(isinstance(layer, nn.Dropout) for layer in MLP().build(RGB, 5, key=Key(0)).module) == 2


def test_training_resnet_normalizes_by_the_batch():
    inputs = torch.rand(2, 3, 32, 32, generator=Key(1).generator())
    moved = torch.cat([inputs[:1], 1 - inputs[1:]])
    for training in (False, True):
        target = ResNet20(training=training).build(RGB, 5, key=Key(0))
        first, second = (target.outputs(target.parameters(), x)[0] for x in (inputs, moved))
        assert bool((first - second).abs().max() > 1e-3) is training


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LeNet(0.0), "positive finite init_range or None, got 0.0"),
        (lambda: LeNet(float("inf")), "got inf"),
        (lambda: ConvNet(0), "width >= 1, got 0"),
        (lambda: MLP((3, 0)), r"widths >= 1, got \(3, 0\)"),
        (lambda: MLP(dropout=1.0), "0 <= dropout < 1, got 1.0"),
        (lambda: Linear().build(RGB, 0, key=Key(0)), "at least one class, got 0"),
        (lambda: LeNet().build(Row(), 2, key=Key(0)), r"takes images .* got inputs of shape \(6,\); use MLP or Linear"),
    ],
)
def test_impossible_models_are_refused(make, says):
    with pytest.raises(BadInput, match=says):
        make()


class Row(Images):
    """A domain whose inputs are vectors."""

    def __init__(self):
        pass

    shape = (6,)

    def __repr__(self):
        return "Row()"

    def bounds(self, like):
        return torch.zeros(6).to(like), torch.ones(6).to(like)


def test_dense_models_take_vectors():
    assert MLP((4,)).build(Row(), 3, key=Key(0)).count() == 7 * 4 + 5 * 3


# ---- weights from files


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_trained_weights_come_from_the_file(tmp_path, suffix):
    path = str(tmp_path / f"weights{suffix}")
    trained = ResNet20().build(RGB, 4, key=Key(9))
    trained.module[1].running_mean.add_(3.0)
    state = trained.module.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    family = Trained(ResNet20(), path)
    target = family.build(RGB, 4, key=Key(0))
    found = target.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert found["1.running_mean"].min() == 3
    assert eval(repr(family)) == family
    assert target.name == repr(family)
    assert not any(p.requires_grad for p in target.module.parameters())
    assert Trained(ResNet20(training=True), path).build(RGB, 4, key=Key(0)).training


class Opened:
    def __reduce__(self):
        return (exec, ("import sys; sys.opened = True",))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = Linear().build(RGB, 4, key=Key(0)).module.state_dict()
    path = tmp_path / "w.pt"

    def refused(content, says, classes=4):
        torch.save(content, path)
        with pytest.raises(BadInput, match=says):
            Trained(Linear(), str(path)).build(RGB, classes, key=Key(0))

    refused(state, r"1.weight has shape \(4, 3072\) .* the model has \(5, 3072\)", classes=5)
    refused({"1.weight": state["1.weight"]}, "it lacks 1.bias and has besides nothing")
    refused({**state, "2.bias": torch.zeros(1)}, "it lacks nothing and has besides 2.bias")
    refused({f"module.{k}": v for k, v in state.items()}, r"prefix 'module.': save model.module.state_dict\(\)")
    refused({**state, "1.bias": torch.tensor([0, 1, 2, math.nan])}, "1.bias .* not finite")
    refused({"state_dict": state, "epoch": 3}, "not tensors, epoch, state_dict; save the state dict by itself")
    refused([1, 2], "holds a list, expected a state dict")
    refused({"w": Opened()}, "holds something else than plain tensors")
    assert not hasattr(sys, "opened")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_cannot_be_read_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(BadInput, match=r"no file .* expected a state dict"):
        Trained(Linear(), str(path)).build(RGB, 4, key=Key(0))
    state = Linear().build(RGB, 4, key=Key(0)).module.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2], pickle.dumps(Opened(), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="plain tensors"):
            Trained(Linear(), str(path)).build(RGB, 4, key=Key(0))
    assert not hasattr(sys, "opened")


# ---- anybody's model

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 3, bias: bool = True):
        super().__init__()
        self.dense = nn.Linear(12, width, bias=bias)
    def forward(self, x):
        return self.dense(x.flatten(1))

def factory(width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width))

instance = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
number = 3
class Holder:
    Inner = Net
def pair():
    return nn.Linear(1, 1), 3
def whole():
    net = factory()
    net.register_parameter("steps", nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False))
    return net
def lists():
    class Two(Net):
        def forward(self, x):
            return [Net.forward(self, x), Net.forward(self, x)]
    return Two()
"""
SMALL = Images(3, 2, 2)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with `mymodel.py` and `mypackage/nets.py` in it."""
    (tmp_path / "mymodel.py").write_text(MODEL)
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "nets.py").write_text(MODEL)
    (tmp_path / "needy.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mymodel", "mypackage.nets", "mypackage", "needy"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("path", ["mymodel:Net", "mymodel:factory", "mymodel:Holder.Inner", "mypackage.nets:Net"])
def test_classes_and_functions_are_built_from_the_key(path):
    before = torch.get_rng_state()
    one, again, other = (Imported(path).build(SMALL, 3, key=Key(seed)).fingerprint() for seed in (0, 0, 1))
    assert one == again != other
    assert torch.equal(before, torch.get_rng_state())
    assert Imported(path, (("width", 5),)).build(SMALL, 5, key=Key(0)).count() == 13 * 5
    assert eval(repr(Imported(path))) == Imported(path)


@pytest.mark.usefixtures("here")
def test_an_instance_keeps_its_weights_and_its_mode():
    target = Imported("mymodel:instance", training=True).build(SMALL, 3, key=Key(0))
    theirs = sys.modules["mymodel"].instance
    close_trees(target.parameters(), {k: v.detach() for k, v in theirs.named_parameters()})
    assert target.training
    assert not Imported("mymodel:instance").build(SMALL, 3, key=Key(0)).training
    assert all(p.requires_grad for p in theirs.parameters()), "the caller's module is not changed"
    first = target.fingerprint()
    del sys.modules["mymodel"]
    torch.rand(5)
    assert Imported("mymodel:instance", training=True).build(SMALL, 3, key=Key(7)).fingerprint() == first


def test_arguments_and_weights_are_used(here):
    save_file({"dense.weight": torch.full((3, 12), 0.5)}, here / "w.safetensors")
    built = Imported("mymodel:Net", {"width": 3, "bias": False}, state="w.safetensors").build(SMALL, 3, key=Key(0))
    close_trees(built.parameters(), {"dense.weight": torch.full((3, 12), 0.5)})
    by_pairs = Imported("mymodel:Net", (("width", 3), ("bias", False)), state="w.safetensors")
    assert by_pairs == Imported("mymodel:Net", {"bias": False, "width": 3}, state="w.safetensors")
    assert eval(repr(by_pairs)) == by_pairs


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Imported("mymodel.Net"),
            "factory, got 'mymodel.Net'; for example mymodel:Net",
        ),
        (lambda: Imported("mymodel:"), "expected package.module:factory"),
        (lambda: Imported(":Net"), "expected package.module:factory"),
        (lambda: Imported("my model:Net"), "expected package.module:factory"),
        (lambda: Imported("mymodle:Net"), r"no module 'mymodle' in the current directory .* holds mymodle.py"),
        (lambda: Imported("mypackage.net:Net"), "no module 'mypackage.net'"),
        (lambda: Imported("needy:Net"), "importing needy needs a_package_that_nobody_has, which is not installed"),
        (lambda: Imported("mymodel:Nett"), "mymodel has no 'Nett'; did you mean 'Net'?"),
        (lambda: Imported("mymodel:zzzzzz"), "mymodel has no 'zzzzzz'; check the name"),
        (lambda: Imported("mymodel:number"), "is a int, expected a module, its class or a function"),
        (lambda: Imported("mymodel:pair"), "returned a tuple, expected a torch.nn.Module"),
        (lambda: Imported("mymodel:Net", {"wide": 3}), "does not take the arguments .*wide"),
        (lambda: Imported("mymodel:instance", {"width": 3}), "is a module already and takes no arguments"),
        (
            lambda: Imported("mymodel:Net", {"width": 4}),
            r"\(2, 3, 2, 2\) into \(2, 4\), expected logits \(2, 3\)",
        ),
        (lambda: Imported("mymodel:lists"), "returns a list, expected one tensor"),
        (lambda: Imported("mymodel:whole"), "parameters that are not floating point"),
        (lambda: Imported("torch.nn:Identity"), "has no parameters"),
        (lambda: Imported("mymodel:Net", state="absent.pt"), "no file absent.pt"),
    ],
)
def test_what_cannot_be_imported_says_why(make, says):
    with pytest.raises(BadInput, match=says):
        make().build(SMALL, 3, key=Key(0))


@pytest.mark.usefixtures("here")
def test_a_domain_that_does_not_fit_is_refused_by_running_the_model():
    with pytest.raises(BadInput, match=r"fails on inputs of shape \(2, 1, 2, 2\): RuntimeError"):
        Imported("mymodel:Net").build(Images(1, 2, 2), 3, key=Key(0))


# ---- vetting


def dense(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), *layers, nn.Linear(8, 4))


class Function(nn.Module):
    """A dense net around a function of its activations."""

    def __init__(self, inner, before=lambda x: x, after=lambda x: x):
        super().__init__()
        self.one, self.two, self.inner, self.before, self.after = (
            nn.Linear(12, 8),
            nn.Linear(8, 4),
            inner,
            before,
            after,
        )

    def forward(self, x):
        return self.after(self.two(self.inner(self.one(self.before(x).flatten(1)))))


class OnceDifferentiable(torch.autograd.Function):
    """tanh whose backward forgets that it depends on the input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output.detach())
        ctx.slope = 1 - output.detach() ** 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.slope


class OldStyle(torch.autograd.Function):
    """A function without setup_context, which torch.func cannot differentiate."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def spoiled(module):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = math.nan
    return module


def with_whole_numbers(module):
    module.register_parameter("steps", nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))
    return module


def written(x):
    x.mul_(0.5)
    return x


def sliced(x):
    room = torch.zeros(len(x), 8, dtype=x.dtype)
    room[:, :] = x
    return room


def centered(x):
    return x - x.mean(0)


def tried(x):
    return x if x.sum() > 0 else x * 2


def flat_conv():
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten())


def linear(inputs=12, outputs=4, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs, bias=bias))


def hidden_bias_missing():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8, bias=False), nn.Tanh(), nn.Linear(8, 4))


def around(inner=torch.tanh, **rest):
    return lambda: Function(inner, **rest)


def no_statistics():
    return dense(nn.BatchNorm1d(8, track_running_stats=False))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 4, dtype=torch.complex64))

    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.weight).real


class Logits:
    def __init__(self, logits):
        self.logits = logits


def tied():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 4))
    module[3].weight = module[1].weight
    return module


def with_spare(module):
    module.spare = nn.Linear(3, 3)
    return module


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that another package takes this over
        return torch.ao.quantization.quantize_dynamic(dense(), {nn.Linear})


@dataclass
class Defect:
    """A module with the defect, one without it, and the finding that tells them apart."""

    sick: Callable[[], nn.Module]
    healthy: Callable[[], nn.Module]
    level: Severity
    about: str
    words: str
    training: bool = False


E, W, N = Severity.ERROR, Severity.WARNING, Severity.NOTE
SECOND, INPLACE = "second derivative", "in-place operations"
DEFECTS = {
    "no parameters": Defect(nn.Flatten, dense, E, "parameters", "no parameters"),
    "whole numbers": Defect(
        lambda: with_whole_numbers(dense()), dense, E, "parameter types", "'steps' are torch.int64"
    ),
    "complex": Defect(Complex, dense, E, "parameter types", "'weight' are torch.complex64"),
    "parallel": Defect(lambda: nn.DataParallel(dense()), dense, E, "wrapper", "wrapped in DataParallel"),
    "compiled": Defect(lambda: torch.compile(dense()), dense, E, "wrapper", "begin with '_orig_mod.'"),
    "quantized": Defect(quantized, dense, E, "quantized layers", "'1', '2' are quantized"),
    "one tensor twice": Defect(tied, dense, N, "shared parameters", "'1.weight', '3.weight' are one tensor"),
    "not reached": Defect(
        lambda: with_spare(around()()), around(), N, "gradient", "'spare.weight', 'spare.bias': their"
    ),
    "no gradient": Defect(
        around(torch.no_grad()(torch.tanh), after=torch.detach), dense, E, "gradient", "any parameter"
    ),
    "dictionary": Defect(
        around(after=lambda y: {"logits": y, "other": -y}),
        around(after=lambda y: {"logits": y, "loss": y.sum()}),
        E,
        "output shape",
        r"it has logits \(3, 4\), other \(3, 4\): name the right one, as in feed=InputsOnly\(pick='logits'\)",
    ),
    "object": Defect(
        around(after=lambda y: Logits(y[:, :3])), around(after=Logits), E, "output shape", r"it has logits \(3, 3\)"
    ),
    "tuple": Defect(
        around(after=lambda y: (y, y)), around(after=lambda y: (y, None)), E, "output shape", r"InputsOnly\(pick=0\)"
    ),
    "nothing": Defect(
        around(after=lambda y: None), around(), E, "output shape", "returns a NoneType, expected one tensor of logits"
    ),
    "a class per step": Defect(
        around(after=lambda y: y[:, None].expand(-1, 5, -1)), around(), E, "output shape", r"loss of sequences \(CTC\)"
    ),
    "half precision": Defect(lambda: dense().bfloat16(), dense, W, "parameter types", "torch.bfloat16"),
    "nan weight": Defect(lambda: spoiled(dense()), dense, E, "parameter values", "'1.weight' hold"),
    "classes": Defect(lambda: linear(outputs=5), linear, E, "output shape", r"into \(3, 5\)"),
    "input size": Defect(lambda: linear(inputs=11), linear, E, "output shape", "fails on"),
    "overflow": Defect(around(lambda x: x / 0), around(lambda x: x / 2), E, "output values", "not finite"),
    "softmax": Defect(
        around(after=lambda x: x.softmax(1)),
        around(after=lambda x: x.log_softmax(1)),
        W,
        "output values",
        "probabilities",
    ),
    "batch statistics": Defect(
        lambda: dense(nn.BatchNorm1d(8)),
        lambda: dense(nn.LayerNorm(8)),
        W,
        "batch normalization",
        "'2' uses",
        training=True,
    ),
    "no running statistics": Defect(
        no_statistics, lambda: dense(nn.BatchNorm1d(8)), W, "batch normalization", "'2' uses"
    ),
    "coupling": Defect(
        around(centered), around(lambda x: x - x.mean(1, keepdim=True)), W, "coupled examples", "changes with the other"
    ),
    "dropout": Defect(
        lambda: dense(nn.Dropout(0.1)),
        lambda: dense(nn.Dropout(0.0)),
        W,
        "active dropout",
        "'2' is active",
        training=True,
    ),
    "functional dropout": Defect(
        around(lambda x: F.dropout(x, 0.5)),
        around(lambda x: F.dropout(x, 0.5, False)),
        W,
        "random outputs",
        "different",
    ),
    "numpy noise": Defect(
        around(lambda x: x + np.random.rand()), around(lambda x: x + 0.5), W, "random outputs", "different"
    ),
    "in-place layer": Defect(lambda: dense(nn.ReLU(inplace=True)), lambda: dense(nn.ReLU()), N, INPLACE, "by relu"),
    "in-place function": Defect(around(written), around(lambda x: x * 0.5), N, INPLACE, "by mul_"),
    "overwritten input": Defect(
        around(before=written), around(before=lambda x: x * 0.5), E, INPLACE, r"overwrites its input \(by mul_"
    ),
    "no output bias": Defect(lambda: linear(bias=False), hidden_bias_missing, W, "output bias", "'1' has no bias"),
    "no dense output": Defect(flat_conv, dense, W, "output layer", "does not end in"),
    "something after it": Defect(around(after=lambda x: 2 * x), around(), W, "output layer", "does not end in"),
    "wrong second derivative": Defect(around(OnceDifferentiable.apply), around(), E, SECOND, "differences say"),
    "no second derivative": Defect(
        around(OldStyle.apply), around(lambda x: x * 2), E, SECOND, "cannot be differentiated"
    ),
    "step function": Defect(around(before=torch.round), around(torch.relu), W, SECOND, "does not change"),
    "branch on values": Defect(around(tried), around(torch.abs), N, "vectorization", "side by side"),
    "write into new room": Defect(around(sliced), around(torch.clone), N, "vectorization", "side by side"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_seen_and_only_where_it_is(name):
    defect = DEFECTS[name]
    with Key(3).isolated():
        sick, healthy = defect.sick(), defect.healthy()
    found = [f for f in vet(Target(sick, SMALL, 4, training=defect.training)) if f.about == defect.about]
    assert [finding.level for finding in found] == [defect.level]
    assert re.search(defect.words, found[0].sentence), found[0].sentence
    assert found[0].remedy
    healed = vet(Target(healthy, SMALL, 4, training=defect.training))
    assert defect.about not in {finding.about for finding in healed}, healed


@pytest.mark.parametrize("training", [False, True])
def test_speech_is_vetted_with_its_own_loss(training):
    sentence = {
        f.about for f in vet(DeepSpeech(hidden=8, dropout=0.1, training=training).build(Frames(26), 29, key=Key(0)))
    }
    assert sentence == ({"active dropout"} if training else set())
    with Key(0).isolated():
        short = nn.Linear(26, 28)  # one class less than declared
    (found,) = vet(Target(short, Frames(26), 29, loss=CTC()))
    assert "expected logits (3, '...', 29)" in found.sentence


def test_frozen_parameters_are_asked_of_the_module_itself():
    module = dense()
    assert list(frozen(module)) == []
    module[1].requires_grad_(False)
    (found,) = frozen(module)
    assert "'1.weight', '1.bias' do not require a gradient" in found.sentence


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda m: torch.compile(nn.DataParallel(m))])
def test_wrappers_are_taken_off(wrap):
    module = dense()
    assert bare(wrap(module)) is module
    assert bare(module) is module


def test_what_no_target_can_be_made_of_says_why():
    with pytest.raises(BadInput, match=r"1\.weight of a lazy layer has no shape yet; run the model once"):
        Target(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), SMALL, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(dense())
    with pytest.raises(BadInput, match=r"is TorchScript, .* give the Python module"):
        Target(scripted, SMALL, 4)


# ---- vetting an update


def update(*names, value=1.0):
    # Numbers that differ: entries of one size are a finding of their own.
    wide = {name: value * torch.randn_like(own) for name, own in Target(dense(), SMALL, 4).parameters().items()}
    return Gradient({name: wide[name] for name in names} if names else wide)


@pytest.mark.parametrize(
    ("release", "level", "about", "words"),
    [
        (update(value=0.0), E, "update values", "every number of the update is zero"),
        (update(value=math.nan), E, "update values", "'1.weight', '1.bias', '2.weight' and 1 more holds numbers"),
        (Gradient({"1.weight": torch.ones(1).bfloat16()}), W, "update types", "is torch.bfloat16"),
        (Gradient({"9.weight": torch.ones(1)}), E, "update names", "'9.weight', which the model has not"),
        (update("2.weight", "2.bias"), W, "partial update", "2 of 4 tensors are missing, '1.weight', '1.bias'"),
    ],
)
def test_each_defect_of_an_update_is_seen(release, level, about, words):
    found = {f.about: f for f in vet_update(Target(dense(), SMALL, 4), release)}
    assert found[about].level is level
    assert words in found[about].sentence
    assert found[about].remedy


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (("1.weight", "1.bias"), "inputs in closed form still apply"),
        (("2.weight", "2.bias"), "the output layer alone: labels can be read"),
        (("2.bias",), "the output layer alone: labels can be read"),
        (("1.bias", "2.bias"), "biases and scales alone"),
        (("1.weight", "2.bias"), "the output layer is missing"),
        (("1.weight", "2.weight", "2.bias"), "attacks that read a missing layer refuse"),
    ],
)
def test_a_partial_update_says_what_is_left(names, left):
    (found,) = vet_update(Target(dense(), SMALL, 4), update(*names))
    assert left in found.remedy


def test_a_whole_update_has_no_findings():
    assert vet_update(Target(dense(), SMALL, 4), update()) == ()


def test_size_is_counted_in_operations_and_parameters(monkeypatch):
    monkeypatch.setattr(vetting, "MUCH_WORK", 1e5)
    module = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    (size,) = [f for f in vet(Target(module, Images(3, 8, 8), 4)) if f.about == "size"]
    # two operations per multiply-add: 64 places x 9 x 3 x 64, and the dense layer
    assert f"takes {2 * (64 * 9 * 3 * 64 + 64 * 4) / 1e9:.3g} GFLOP" in size.sentence
    assert size.level is Severity.WARNING
    monkeypatch.setattr(vetting, "MUCH_WORK", 1e9)
    assert "size" not in {f.about for f in vet(Target(module, Images(3, 8, 8), 4))}
    monkeypatch.setattr(vetting, "MANY_PARAMETERS", module[0].weight.numel())
    assert "size" in {f.about for f in vet(Target(module, Images(3, 8, 8), 4))}


@zoo
def test_the_zoo_is_healthy(family):
    assert vet(family.build(RGB, 5, key=Key(0))) == ()


def test_max_pooling_and_many_relus_are_no_defects():
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 4),
    )  # fmt: skip
    assert vet(Target(module, RGB, 4)) == ()


def test_vetting_changes_nothing_and_repeats_itself():
    target = Target(dense(nn.BatchNorm1d(8), nn.Dropout(0.5)), SMALL, 4, training=True)
    before, state = target.fingerprint(), torch.get_rng_state()
    first = vet(target)
    assert first == vet(target)
    assert target.fingerprint() == before
    assert torch.equal(state, torch.get_rng_state())
    assert not any(layer._forward_hooks for layer in target.module.modules())


def test_errors_come_first():
    with Key(0).isolated():
        module = Function(OnceDifferentiable.apply, after=lambda x: 2 * x)
    levels = [finding.level for finding in vet(Target(module, SMALL, 4))]
    assert levels == sorted(levels, key=list(Severity).index)
    assert levels[0] is Severity.ERROR
    assert len(levels) >= 2
