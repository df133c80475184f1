"""Models of torchvision and timm by name; what needs the packages is skipped where they are absent."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from tests.tolerance import close

from leakscope.cli.models import architecture
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.domains.vision import Images
from leakscope.integrations.timm import Timm
from leakscope.integrations.torchvision import Torchvision
from leakscope.numerics.rng import Key
from leakscope.targets.findings import Level
from leakscope.targets.vet import vet

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
    with pytest.raises(BadInput, match="did you mean 'resnet18'"):
        Torchvision("resnet81").build(COLOR, 7, key=Key(0))
    with pytest.raises(BadInput, match="would download weights"):
        architecture("torchvision:resnet18@weights=DEFAULT", 7)


@needs("torchvision")
def test_what_a_model_of_torchvision_lacks_is_said():
    target = Torchvision("resnet18", training=True).build(COLOR, 5, key=Key(0))
    found = {finding.about: finding.level for finding in vet(target)}
    assert found["batch normalization"] is Level.WARNING
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
    with pytest.raises(UnknownName, match="unknown timm model 'resnet81'; did you mean"):
        Timm("resnet81").build(GRAY, 4, key=Key(0))
