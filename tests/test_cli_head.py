"""`leakscope head`: somebody's head, backbone and folder of pictures, trained without leakscope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.attacks.inputs.heads import decoder, head_images
from leakscope.cli.main import app

SOURCE = """
import torch
from torch import nn

def body():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU())

def whole():
    return nn.Sequential(*body(), nn.Linear(48, 7))

def bare():
    return nn.Flatten()

def narrow():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.ReLU())

def scaled(by):
    net = body()
    net[1].weight.data.mul_(by)
    net[1].bias.data.mul_(by)
    return net

def huge():
    return scaled(1e30)

def tiny():
    return scaled(1e-25)

class Fails(nn.Linear):
    def forward(self, given):
        raise KeyError("inside")

def fails():
    return Fails(64, 48)
"""
DIGITS = ls.Digits(size=8)
FEW = ("--domain", "1x8x8", "--steps", "300", "--json")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a module of models and, for each digit, a folder of public pictures."""
    root = tmp_path_factory.mktemp("hospital")
    (root / "bodies_of_heads.py").write_text(SOURCE, encoding="utf-8")
    public = DIGITS.public()
    for row, (picture, label) in enumerate(zip(public.inputs, public.labels.tolist(), strict=True)):
        folder = root / "public" / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture[0] * 255).round().byte().numpy()).save(folder / f"{row}.png")
    return root


@pytest.fixture(autouse=True)
def _few(monkeypatch, place):
    monkeypatch.chdir(place)
    monkeypatch.setattr(head_images, "HEADS", 300)
    monkeypatch.setattr(head_images, "PICTURES", 1)
    monkeypatch.setattr(decoder, "WIDTH", 128)


def private() -> ls.Batch:
    """One of each digit."""
    batch = DIGITS.draw(400, key=ls.Key(0)).reveal()
    return batch.rows(torch.stack([(batch.labels == one).nonzero()[0, 0] for one in range(10)]))


def body() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU())


def trained(optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **options: float) -> nn.Linear:
    """A head by a loop of torch's own, as whoever publishes it would write it."""
    batch, net = private(), body()
    generator = torch.Generator().manual_seed(8)
    head = nn.Linear(48, 10)
    nn.init.normal_(head.weight, std=0.002, generator=generator)
    nn.init.zeros_(head.bias)
    steps = optimizer(head.parameters(), lr=0.1, **options)
    for _ in range(32):
        steps.zero_grad()
        nn.functional.cross_entropy(head(net(batch.inputs).detach()), batch.labels).backward()
        steps.step()
    return head


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["head", *map(str, arguments)], catch_exceptions=False)


def said(head: object, *more: object) -> dict[str, Any]:
    given = ("--backbone", "bodies_of_heads:body", "--public", "public", *FEW, "--out", "c.safetensors")
    result = call(head, *given, "--report", "page", *more)
    assert result.exit_code == 3, result.output
    return json.loads(result.stdout)


def picture(name: str) -> torch.Tensor:
    with Image.open(Path("page") / name) as file:
        return torch.from_numpy(np.array(file.convert("L"))).float() / 255


def test_a_head_file_becomes_pictures_nearer_than_what_the_public_shows():
    save_file(dict(trained().state_dict()), "head.safetensors")
    found = said("head.safetensors")
    assert found["outcome"] == "claimed"
    assert len(found["notes"]) == 1
    assert "SGD is assumed" in found["notes"][0]
    truth = private().inputs[:, 0]
    far = {
        kind: sum(float((picture(f"{kind}-{one + 1}.png") - truth[one]).square().mean()) for one in range(10))
        for kind in ("claim", "neighbor", "mean")
    }
    assert far["claim"] < 0.7 * far["neighbor"]
    # By public pictures of near features; so few of each class are not sharpened.
    assert said("head.safetensors", "--local")["outcome"] == "claimed"
    local = sum(float((picture(f"claim-{one + 1}.png") - truth[one]).square().mean()) for one in range(10))
    assert local < 0.7 * far["neighbor"]
    assert local != far["claim"]
    assert far["claim"] < 0.7 * far["mean"]
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "digit 3" in page
    assert "nearest public picture" in page
    assert "SGD is assumed" in page
    # the private pictures are nowhere needed: the claim file is what `score` compares with them
    assert Path("c.safetensors").is_file()


def test_the_whole_model_may_be_in_the_file_and_the_backbone_may_have_a_layer_of_its_own():
    head = trained()
    names = {"weight": "3.weight", "bias": "3.bias"}
    model = {**body().state_dict(), **{names[name]: value.detach() for name, value in head.state_dict().items()}}
    torch.save(model, "model.pt")
    np.savez("head.npz", head.weight.detach().numpy(), head.bias.detach().numpy())
    declared = ("--training", "HeadTraining(32, 0.1, init_std=0.002)")
    one = said("model.pt", "--backbone", "bodies_of_heads:whole", *declared)
    other = said("head.npz", *declared)
    assert one["outcome"] == other["outcome"] == "claimed"
    assert one["notes"] == other["notes"] == []


def test_a_head_of_fewer_features_than_it_is_compared_along_is_attacked():
    """Its axes were split into three bands, of which there are two."""
    weight = 0.05 * torch.randn(10, 2, generator=torch.Generator().manual_seed(84000))
    save_file({"weight": weight, "bias": torch.zeros(10)}, "narrow.safetensors")
    assert said("narrow.safetensors", "--backbone", "bodies_of_heads:narrow", "--local")["outcome"] == "claimed"


@pytest.mark.parametrize(("one", "why"), [("huge", "as large as"), ("tiny", "differ by")])
def test_a_backbone_whose_features_leave_the_numbers_is_refused(one, why):
    """As files read in the wrong units make them: the fit to the head ended in a traceback, or in rates of infinity."""
    save_file(dict(trained().state_dict()), "head.safetensors")
    found = said("head.safetensors", "--backbone", f"bodies_of_heads:{one}")
    assert found["outcome"] == "refused"
    assert why in found["sentence"]


def test_a_backbone_that_was_trained_along_is_refused():
    tuned = body()
    with torch.no_grad():
        tuned[1].weight.add_(0.01)
    torch.save({**tuned.state_dict(), **{f"head.{n}": v for n, v in trained().state_dict().items()}}, "tuned.pt")
    found = said("tuned.pt")
    assert found["outcome"] == "refused"
    assert found["report"] is None
    assert "1 of the 2 tensors" in found["sentence"]
    assert "fine-tuned" in found["sentence"]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: trained(torch.optim.Adam), "the sum of the biases"),
        (lambda: trained(torch.optim.SGD, momentum=0.9, weight_decay=0.5), "what the weights hold"),
    ],
)
def test_a_head_that_the_declared_training_does_not_make_is_attacked_with_the_reason(made, why):
    save_file(dict(made().state_dict()), "odd.safetensors")
    found = said("odd.safetensors", "--training", "HeadTraining(32, 0.1, init_std=0.002)")
    assert found["outcome"] == "claimed"
    assert any(why in one and "attacked all the same" in one for one in found["notes"]), found["notes"]


@pytest.mark.parametrize(
    "changed",
    [lambda w: torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) / 500, lambda w: w.roll(1, 0)],
    ids=["not trained", "rows in another order"],
)
@pytest.mark.parametrize("training", [(), ("--training", "HeadTraining(32, 1e-6, init_std=0.01)")])
def test_a_head_that_holds_nothing_of_its_examples_is_claimed_as_such(changed, training):
    head = trained()
    save_file({"weight": changed(head.weight.detach()), "bias": torch.zeros(10)}, "empty.safetensors")
    found = said("empty.safetensors", *training)
    assert found["outcome"] == "claimed"
    assert any("holds 0.0 %" in one and "another order" in one for one in found["notes"]), found["notes"]
    assert "holds 0.0 %" in " ".join(Path(found["report"]).read_text(encoding="utf-8").split())


def test_a_head_of_adam_is_read_where_adam_is_declared():
    save_file(dict(trained(torch.optim.Adam).state_dict()), "adam.safetensors")
    found = said("adam.safetensors", "--training", "HeadTraining(32, 0.1, init_std=0.002, optimizer=Adam())")
    assert found["outcome"] == "claimed"
    assert found["notes"] == []
    assert "read by a regression" in found["sentence"]


def test_what_cannot_be_is_said_before_torch_is_asked():
    save_file({"weight": torch.ones(10, 40), "bias": torch.zeros(10)}, "wide.safetensors")
    save_file({"0.weight": torch.zeros(8, 48), "0.bias": torch.zeros(8), "2.weight": torch.zeros(10, 8),
               "2.bias": torch.zeros(10)}, "two.safetensors")  # fmt: skip
    usual = ("--backbone", "bodies_of_heads:body", "--public", "public", "--domain", "1x8x8")
    for arguments, why in (
        (("none.safetensors", *usual), "no file none.safetensors"),
        (("wide.safetensors", *usual), "reads 40 features, bodies_of_heads:body returns 48"),
        (("two.safetensors", *usual), "2 matrices"),
        (("wide.safetensors", *usual, "--backbone", "VGGTiny()"), "--backbone-classes"),
        (("wide.safetensors", *usual, "--training", "FedSGD()"), "trains no head"),
        (("wide.safetensors", *usual, "--public", "nowhere/at/all"), "no folder"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2, result.output
        assert why in " ".join(result.output.split()), result.output


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda w: w * 0, "every weight"),
        (lambda w: w * 1e30, "expected at most 1e+12"),
        (lambda w: w.long(), "holds int64"),
        (lambda w: w > 0, "holds bool"),
        (lambda w: w * float("nan"), "not finite"),
    ],
)
def test_weights_that_no_training_leaves_are_said(changed, why):
    weight = 0.01 * torch.randn(10, 48, generator=torch.Generator().manual_seed(0))
    save_file({"weight": changed(weight), "bias": torch.zeros(10)}, "no head.safetensors")
    result = call(
        "no head.safetensors", "--backbone", "bodies_of_heads:body", "--public", "public", "--domain", "1x8x8"
    )
    assert result.exit_code == 2
    assert why in result.output


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--backbone", "bodies_of_heads:bare"), "has no parameters"),
        (
            ("--backbone", "bodies_of_heads:fails"),
            "bodies_of_heads:fails cannot be run on 2 pictures of 1x8x8: KeyError",
        ),
        (("--domain", "3x8x8"), "cannot be run on 2 pictures of 3x8x8"),
        (("--training", "HeadTraining(32, 1e300, init_std=0.1)"), "at a rate of 1e+300"),
        (("--training", "HeadTraining(32, 0.01, init_std=1e30)"), "first weights were 1e+30 large; give at most 1e+12"),
        (("--each", "1000000000000000"), "this machine has"),
        (("--each", "1000"), "need as many public pictures of each class, and the smallest has"),
        (("--out", "fit.safetensors"), "is a file that is read"),
        (("--report", "public/page"), "whose folders are classes"),
    ],
)
def test_what_does_not_fit_the_head_ends_in_a_sentence(more, why):
    save_file({"weight": 0.01 * torch.ones(10, 48), "bias": torch.zeros(10)}, "fit.safetensors")
    before = Path("fit.safetensors").read_bytes()
    usual = ("--backbone", "bodies_of_heads:body", "--public", "public", "--domain", "1x8x8")
    result = call("fit.safetensors", *usual, *more)
    assert result.exit_code == 2
    assert why in " ".join(result.output.split()), result.output
    assert Path("fit.safetensors").read_bytes() == before


def test_pictures_of_other_classes_do_not_fit(tmp_path):
    save_file({"weight": torch.ones(9, 48), "bias": torch.zeros(9)}, "nine.safetensors")
    result = call("nine.safetensors", "--backbone", "bodies_of_heads:body", "--public", "public", "--domain", "1x8x8")
    assert result.exit_code == 2
    assert "10 classes, the head tells 9 apart" in result.output
