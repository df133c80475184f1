"""Models of torchvision and timm by name; what needs the packages is skipped where they are absent."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.tolerance import close
from typer.testing import CliRunner

from leakscope.attacks.labels.revealed import RevealedLabels
from leakscope.attacks.labels.signs import LabelSigns
from leakscope.cli.ending import Exit
from leakscope.cli.main import app
from leakscope.cli.models import architecture
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.core.facts import BatchSize
from leakscope.domains.vision import Images
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.vetting.finding import Severity
from leakscope.targets.vetting.model import vet

COLOR, GRAY = Images(3, 32, 32), Images(1, 32, 32)


def needs(package):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed: pip install 'leakscope[models]'")


def test_arguments_come_after_an_at_and_are_read_as_numbers_where_they_are():
    assert (
        str(Timm("a", {"b": 1, "a": 2})) == "Timm(name='a', arguments=(('a', 2), ('b', 1)), state=None, training=False)"
    )
    assert eval(repr(Torchvision("a", {"b": 0.5}))) == Torchvision("a", (("b", 0.5),))


@pytest.mark.parametrize("kind", [Torchvision, Timm])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pretrained": True}, "pretrained=True would download weights, .* --state"),
        ({"weights": "DEFAULT"}, "weights='DEFAULT' would download"),
        ({"num_classes": 10}, "num_classes follows from the data"),
        ({"classes": 10}, "classes follows from the data"),
    ],
)
def test_nothing_is_downloaded_and_classes_are_said_once(kind, arguments, says):
    with pytest.raises(BadInput, match=says):
        kind("resnet18", arguments)
    assert kind("resnet18", {"pretrained": False}).arguments == (("pretrained", False),)


@pytest.mark.parametrize("kind", [Torchvision, Timm])
def test_without_the_package_the_error_says_what_to_install(kind, monkeypatch):
    for package in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails as if it were not there
    with pytest.raises(MissingExtra, match=r"the model 'resnet18' needs .* pip install 'leakscope\[models\]'"):
        kind("resnet18").build(COLOR, 10, key=Key(0))


@needs("torchvision")
def test_a_torchvision_model_is_built_from_the_key_and_takes_weights_of_a_file(tmp_path):
    recipe = architecture("torchvision:squeezenet1_1@dropout=0.25", 7)
    assert recipe == Torchvision("squeezenet1_1", {"dropout": 0.25})
    one, again, other = (recipe.build(COLOR, 7, key=Key(seed)) for seed in (0, 0, 1))
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert one.name == repr(recipe)
    assert one.outputs(one.parameters(), torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    path = str(tmp_path / "w.safetensors")
    save_file(one.module.state_dict(), path)
    loaded = Torchvision("squeezenet1_1", {"dropout": 0.25}, path).build(COLOR, 7, key=Key(5))
    close(loaded.parameters()["features.0.weight"], one.parameters()["features.0.weight"])
    with pytest.raises(UnknownName, match="unknown torchvision model 'resnet81'; did you mean 'resnet18'"):
        Torchvision("resnet81").build(COLOR, 7, key=Key(0))
    with pytest.raises(BadInput, match="would download weights"):
        architecture("torchvision:resnet18@weights=DEFAULT", 7)


@needs("torchvision")
def test_what_a_model_of_torchvision_lacks_is_said():
    target = Torchvision("resnet18", training=True).build(COLOR, 5, key=Key(0))
    found = {finding.about: finding.level for finding in vet(target)}
    assert found["batch normalization"] is Severity.WARNING
    with pytest.raises(BadInput, match=r"expected input.* to have 3 channels, but got 1 channels"):
        Torchvision("resnet18").build(GRAY, 5, key=Key(0))


@needs("torchvision")
def test_the_missing_operators_are_declared_and_still_fail_when_called():
    """In a process of its own, since an import happens once."""
    code = (
        "import sys, torch\n"
        "from leakscope.integrations.torchvision import declare_operators\n"
        "declare_operators(); import torchvision\n"
        "if not torchvision.extension._has_ops():\n"
        "    try: torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "    except (NotImplementedError, RuntimeError): print('refused')\n"
        "else: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "refused", done.stderr


@needs("timm")
def test_a_timm_model_takes_gray_pictures_and_other_sizes():
    recipe = architecture("timm:vit_tiny_patch16_224@img_size=32", 4)
    assert recipe == Timm("vit_tiny_patch16_224", {"img_size": 32})
    target = recipe.build(GRAY, 4, key=Key(0))
    assert target.outputs(target.parameters(), torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    assert target.name == repr(recipe)
    with pytest.raises(UnknownName, match="unknown timm model 'resnet81'; did you mean 'resnet18'"):
        Timm("resnet81").build(GRAY, 4, key=Key(0))


# --- what the label attacks read ------------------------------------------------------------------------------------

FAMILIES = {
    "torchvision:resnet18": "fc",
    "timm:vgg11@num_features=64": "head.fc",
    "torchvision:densenet121": "classifier",
    "torchvision:efficientnet_b0": "classifier.1",
    "torchvision:mobilenet_v2": "classifier.1",
    "torchvision:mobilenet_v3_small": "classifier.3",
    "timm:mobilenetv1_100": "classifier",
    "timm:legacy_xception": "fc",
    "timm:convnext_atto": "head.fc",
    "timm:vit_tiny_patch16_224@img_size=32": "head",
}
"""The last dense layer of each family of backbones, as its library calls it."""


def skipped_without_its_library(name):
    package = name.partition(":")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'leakscope[models]'")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_dense_layer_of_each_family_is_found_and_gives_its_labels(name):
    skipped_without_its_library(name)
    target = architecture(name, 7).build(COLOR, 7, key=Key(0))
    layer = output_layer(target)
    assert layer.name == FAMILIES[name]
    batch = Batch(torch.rand(1, 3, 32, 32, generator=Key(1).generator()), torch.tensor([5]))
    seen = observe(target, batch, FedSGD(), key=Key(2), tell=[BatchSize(1)])
    # By autograd at the logits, which knows of no layer: dL/dz = p - y is dL/db.
    logits = target.outputs(target.parameters(), batch.inputs).detach().requires_grad_()
    (error,) = torch.autograd.grad(F.cross_entropy(logits, batch.labels), logits)
    close(seen.gradient().by_name[layer.bias], error[0])
    assert LabelSigns().run(seen, key=Key(3)).claim.values.tolist() == [5]


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnetv2_50"])
def test_a_network_that_ends_in_a_convolution_is_refused_in_a_sentence(name):
    skipped_without_its_library(name)
    target = architecture(name, 7).build(COLOR, 7, key=Key(0))
    batch = Batch(torch.rand(1, 3, 32, 32, generator=Key(1).generator()), torch.tensor([5]))
    seen = observe(target, batch, FedSGD(), key=Key(2))
    refused = RevealedLabels().refusal(seen)
    assert refused is not None
    assert "does not end in a dense layer (torch.nn.Linear)" in refused.sentence


# --- in an audit ----------------------------------------------------------------------------------------------------

SMALL = """\
title = "somebody's network"
trials = 1
mechanisms = ["FedSGD()"]
attacks = ["LabelSigns()"]

[[scene]]
name = "colors"
dataset = "Synthetic((3, 32, 32), classes=3, count=12)"
target = "Linear()"
"""


def audited(folder, *more, plan=SMALL):
    """A command line of its own, since the engine and the page are part of what is tested."""
    path = folder / "plan.toml"
    path.write_text(plan)
    out = folder / f"run-{len(list(folder.iterdir()))}"
    result = CliRunner().invoke(app, ["audit", str(path), "--out", str(out), "--engine", "inline", "--json", *more])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result, out


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_without_the_extra_an_audit_says_so_before_anything_is_run(name, tmp_path, monkeypatch):
    for package in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    named = audited(tmp_path, "--model", name)
    planned = audited(tmp_path, plan=SMALL.replace("Linear()", name))
    for result, out in (named, planned):
        assert result.exit_code == Exit.USAGE
        assert "colors: the model 'resnet18' needs the package" in result.stderr
        assert "pip install 'leakscope[models]'" in result.stderr
        assert not out.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing_of_mine:Net", "colors: no module 'nothing_of_mine' in the current directory"),
        ("torch.nn:Lniear", "torch has parts of models, and none that is one"),
        ("LeNte()", "unknown target 'LeNte'; did you mean 'LeNet'"),
        ("MLP((8,), wdths=3)", "unknown argument of MLP 'wdths'; did you mean 'widths'"),
        ("timm:a b", "expected timm:NAME such as timm:resnet18"),
    ],
)
def test_a_model_that_is_not_there_is_one_error_and_not_a_page_of_crashes(name, says, tmp_path):
    for result, out in (audited(tmp_path, "--model", name), audited(tmp_path, plan=SMALL.replace("Linear()", name))):
        assert result.exit_code == Exit.USAGE
        assert says in result.stderr
        assert not out.exists()


@needs("torchvision")
def test_an_audit_takes_models_of_torchvision_by_option_and_by_plan(tmp_path):
    result, _ = audited(tmp_path, "--model", "torchvision:squeezenet1_1@dropout=0.25")
    named = json.loads(result.stdout)["summary"]
    result, _ = audited(tmp_path, plan=SMALL.replace("Linear()", "torchvision:squeezenet1_1@dropout=0.25"))
    planned = json.loads(result.stdout)["summary"]
    for summary in (named, planned):
        (group,) = summary["groups"]
        assert group["target"] == repr(Torchvision("squeezenet1_1", {"dropout": 0.25}))
        assert "crashed" not in group["sentence"]
    assert [g["members"] for g in named["groups"]] == [g["members"] for g in planned["groups"]], "the same cells"
    result, out = audited(tmp_path, "--model", "torchvision:resnet81")
    assert "colors: unknown torchvision model 'resnet81'; did you mean 'resnet18'" in result.stderr
    assert not out.exists()


@needs("timm")
def test_an_audit_takes_models_of_timm_by_option(tmp_path):
    result, _ = audited(tmp_path, "--model", "timm:vit_tiny_patch16_224@img_size=32")
    (group,) = json.loads(result.stdout)["summary"]["groups"]
    assert group["target"] == repr(Timm("vit_tiny_patch16_224", {"img_size": 32}))
    assert "crashed" not in group["sentence"]
    result, _ = audited(tmp_path, "--model", "timm:vit_tny")
    assert "colors: unknown timm model 'vit_tny'; did you mean 'gcvit_tiny'" in result.stderr
