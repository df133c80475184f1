"""A target on data that it does not take is refused from their texts, and only where the object refuses them too."""

from __future__ import annotations

import ast
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
import torch

import leakscope as ls
from leakscope.audit import affordable, telling
from leakscope.audit.files import Provenance, write_update
from leakscope.cli import names
from leakscope.cli.expressions import build
from leakscope.cli.plan_keys import FACTS
from leakscope.cli.rows import Family, Row, Trait
from leakscope.cli.text import data, fitting, installed, models, ranges, spelling
from leakscope.cli.text import plan as plans
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, BadPlan, LeakscopeError, MissingExtra
from leakscope.targets.recipes.imported import Imported

SPOKEN = "Spoken(speakers=2, each=2, shortest=1.0, longest=1.0)"
GIVEN = ("Digits(size=8)", "Digits(size=13)", "Photographs()", "Faces(size=32, channels=3)", "Sentences()", SPOKEN)
DOMAINS: dict[str, Any] = {
    "Digits(size=8)": ls.Images(1, 8, 8),
    "Digits(size=13)": ls.Images(1, 13, 13),
    "Photographs()": ls.Images(3, 32, 32),
    "Faces(size=32, channels=3)": ls.Images(3, 32, 32),
    "Sentences()": ls.Sentences().domain,
    SPOKEN: ls.Frames(26),
}
MADE = [
    *(row.example for row in names.rows(Family.TARGETS) if Trait.NEEDS_FILES not in row.traits),
    "DeepSpeech(hidden=8, coefficients=13)",
    "DeepSpeech(8, 1, 26)",
    "ViT(patch=13)",
    "LinearProbe(TextEncoder(), 3)",
    "Fitted(LeNet(), Digits(size=8), epochs=0)",
]


def complaint(ask: Any) -> str | None:
    try:
        ask()
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize("text", MADE)
def test_a_target_is_refused_from_its_text_exactly_where_building_it_is(text: str) -> None:
    small = text.replace("hidden=512", "hidden=8").replace("Fitted(LeNet(init_range=None), Digits(), epochs=1)",
                                                           "Fitted(LeNet(), Digits(), epochs=0)")  # fmt: skip
    recipe = build(small, Family.TARGETS)
    for given, domain in DOMAINS.items():
        inputs = fitting.source(given)
        assert inputs is not None
        said = complaint(lambda inputs=inputs: fitting.target(small, inputs, drawn=False))
        try:
            real = complaint(lambda domain=domain: recipe.build(domain, 10, key=ls.Key(0)))
        except MissingExtra:
            continue
        # Of a fitted target only the sizes of its data are read, not the number of classes.
        classes = "Fitted" in small and real is not None and "10 classes" in real
        assert (said is None) is (real is None) or (said is None and classes), (small, given, said, real)


@pytest.mark.parametrize("text", ["MLP()", "Linear()", "Trained(MLP(), 'a.pt')"])
@pytest.mark.parametrize("given", ["Sentences()", SPOKEN])
def test_a_dense_target_is_refused_ids_and_recordings_that_are_drawn_and_may_be_looked_at(
    text: str, given: str
) -> None:
    inputs = fitting.source(given)
    assert inputs is not None
    fitting.target(text, inputs, drawn=False)
    with pytest.raises(BadInput, match=r"takes feature vectors or images, and .* has (text|frames of speech)"):
        fitting.target(text, inputs, drawn=True)


@pytest.mark.parametrize("row", names.rows(Family.DATASETS), ids=lambda row: row.name)
def test_what_a_source_gives_is_what_its_domain_is(row: Row) -> None:
    made, read = build(row.example, Family.DATASETS), fitting.source(row.example)
    assert read is not None
    assert read.kind == type(made.domain).__name__
    assert read.sizes is None or read.sizes == (made.domain.shape if read.kind == "Images" else (26,))


def test_what_shows_no_domain_is_left_to_the_object(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    assert fitting.source(str(tmp_path)) is None
    (tmp_path / "one.wav").touch()
    assert fitting.source(str(tmp_path)) == fitting.Inputs("Frames", None, str(tmp_path))
    for text in ("mymodel:Net", "torchvision:resnet18", "Torchvision('resnet18')", "Imported('mymodel:Net')"):
        fitting.target(text, fitting.Inputs("Text", (1,), ""), drawn=True)
    assert fitting.domain("Frames(13)").sizes == (13,)
    assert fitting.domain("Frames()").sizes in (None, (26,))
    assert fitting.domain("Images(1, 2, width=3, mean=(0.5,), std=(1,))").sizes == (1, 2, 3)


def test_inputs_are_too_large_from_their_text_where_they_are_to_the_auditor() -> None:
    assert ranges.constant(fitting.EXAMPLE) == affordable.EXAMPLE
    for size in (8, 511, 512, 513, 100_000):
        inputs = fitting.source(f"Digits(size={size})")
        assert inputs is not None
        said = complaint(lambda inputs=inputs: fitting.affordable(inputs))
        real = complaint(lambda size=size: affordable.check_domain(ls.Images(1, size, size)))
        assert (said is None) is (real is None), (size, said, real)


PICTURES = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
SPEECH = Batch(torch.zeros(2, 4, 26), torch.ones(2, 3, dtype=torch.int64), torch.tensor([4, 4]), torch.tensor([3, 3]))


@pytest.mark.parametrize("name", [*FACTS])
@pytest.mark.parametrize(("given", "batch"), [("Digits(size=8)", PICTURES), (SPOKEN, SPEECH)])
def test_a_fact_is_refused_from_its_text_exactly_where_it_cannot_be_made(name: str, given: str, batch: Batch) -> None:
    inputs = fitting.source(given)
    assert inputs is not None
    said = complaint(lambda: fitting.told([name], inputs, 2))
    source = build(given, Family.DATASETS) if given.startswith("Digits") else None
    target = ls.MLP((2,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(0))
    if source is None and name in ("PublicStatistics", "Gallery", "BatchNormStatistics"):
        assert said is None  # the source tells its speakers
        return
    real = complaint(lambda: telling.tell([telling.kind_named(name)], target, batch, source=source))
    assert (said is None) is (real is None), (name, said, real)


@pytest.mark.parametrize(
    ("text", "batch"),
    [("BatchSize(2)", PICTURES), ("BatchSize(3)", PICTURES), ("TrueLabels((0, 0))", PICTURES),
     ("TrueLabels((0,))", PICTURES), ("Lengths((4, 4))", PICTURES), ("Lengths((4, 4))", SPEECH),
     ("Lengths((4,))", SPEECH), ("TrueTranscripts(((1, 1, 1), (1, 1, 1)))", SPEECH), ("TrueLabels((1,))", SPEECH)],
)  # fmt: skip
def test_a_value_that_is_refused_from_its_text_is_not_true_of_the_batch(text: str, batch: Batch) -> None:
    inputs = fitting.Inputs("Images" if batch is PICTURES else "Frames", None, "they")
    fact: Any = getattr(ls, text.partition("(")[0])(*ast.literal_eval(text[text.index("(") :].join("()")[:-1] + ",)"))
    assert (complaint(lambda: fitting.told([text], inputs, 2)) is None) is (fact.contradiction(batch) is None)


PLAN = 'title = "a"\nmechanisms = ["FedSGD()"]\n[[scene]]\ndataset = "{}"\ntarget = "{}"\nbatch_size = {}\n'


def test_a_plan_is_refused_where_a_scene_cannot_be_and_read_all_the_same() -> None:
    plans.parse(PLAN.format("Digits()", "LeNet()", 899), "p").fitting()
    for given in (("Digits()", "TextEncoder()", 1), ("Digits()", "LeNet()", 900), ("Sentences()", "LeNet()", 1)):
        written = plans.parse(PLAN.format(*given), "p")  # as `leakscope merge` and `report` have to read it
        with pytest.raises(BadPlan, match=r"p, line \d: scene\[0\]"):
            written.fitting()
    with pytest.raises(BadInput, match=r"^Digits\(\), DeepSpeech\(\): DeepSpeech\(\) takes frames"):
        plans.parse(PLAN.format("Digits()", "LeNet()", 1), "p", instead="DeepSpeech()").fitting()


@pytest.mark.parametrize(
    ("text", "whole"),
    [("idlg(evaluations=3e3)", "idlg(evaluations=3000)"), ("FedAvg(4.0, 1.0)", "FedAvg(4, 1.0)"),
     ("Shrink(steps=5e1)", "Shrink(steps=50)"), ("BatchSize(4.0)", "BatchSize(4)"), ("Clip(2.0)", "Clip(2.0)")],
)  # fmt: skip
def test_a_whole_float_stands_for_a_whole_number(text: str, whole: str) -> None:
    assert ast.unparse(spelling.read(text, "part", "Flat()")) == whole


@pytest.mark.parametrize(
    "text", ["idlg(evaluations=2.5)", "FedAvg(1e400, 1.0)", "FedAvg(1e30, 1.0)", "BatchSize(-4.0)"]
)
def test_no_other_float_does(text: str) -> None:
    with pytest.raises(BadInput):
        spelling.read(text, "part", "Flat()")


@pytest.mark.parametrize("name", [*ls.__all__, "Shrink", "LeNte", "nothing"])
def test_leakscope_s_root_gives_no_model_by_its_path(name: str) -> None:
    with pytest.raises(BadInput):
        models.findable(f"leakscope:{name}")
    found = getattr(ls, name, None)
    assert not isinstance(found, torch.nn.Module)
    assert not (isinstance(found, type) and issubclass(found, torch.nn.Module))
    if name in ("FedSGD", "LeNte", "score", "Shrink"):
        with pytest.raises(LeakscopeError):
            Imported(f"leakscope:{name}").build(ls.Images(1, 8, 8), 2, key=ls.Key(0))


def test_inner_modules_of_leakscope_are_read() -> None:
    models.findable("leakscope.targets.zoo.deepspeech:LSTM")
    models.findable("leakscope.targets:zoo")
    for path in ("leakscope.targets:zooo", "leakscope.targets.zoo.lenet.inner:Net"):
        with pytest.raises(BadInput, match=r"has no 'zooo'|no module 'leakscope.targets.zoo.lenet.inner'"):
            models.findable(path)
    with pytest.raises(BadInput, match=r"leakscope.targets.zoo.lenet has no 'LeNte'; did you mean 'LeNet\(\)'"):
        models.findable("leakscope.targets.zoo.lenet:LeNte")


def installed_as(folder: Path, name: str, text: str, *, needs: str = "", **more: str) -> None:
    """A package as pip leaves it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    )
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    for file, content in more.items():
        (info / file.replace("_json", ".json")).write_text(content)
    assert PathDistribution(info).files


@pytest.mark.parametrize(
    ("text", "more", "sure"),
    [
        ("class Thing: pass\n", {}, True),
        ("import json, no_such_package\n", {}, True),
        ("class Thing: pass\n", {"needs": "no_such_package>=1; extra == 'torch'"}, True),
        ("import torch\n", {}, False),
        ("def Thing(): return __import__('to' 'rch')\n# torch\n", {}, False),
        ("def Thing():\n    return made('timm')\n", {}, False),
        ("class Thing: pass\n", {"needs": "torch>=2"}, False),
        ("class Thing: pass\n", {"needs": "other_made"}, False),
        ("import other_made\n", {}, False),
        ("import nameless\n", {}, False),
        ("class Thing: pass\n", {"direct_url_json": "{}"}, False),
    ],
)
def test_a_package_has_no_models_only_where_nothing_of_it_knows_torch(
    text: str, more: dict[str, str], sure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    installed_as(tmp_path, "made_here", text, **more)
    installed_as(tmp_path, "other_made", "import torch\n", needs="torch")
    (tmp_path / "nameless.py").write_text("import torch\n")
    assert installed.modelless("made_here") is sure
    monkeypatch.chdir(tmp_path)  # what is in the current directory is the user's own
    assert not installed.modelless("made_here")


@pytest.mark.parametrize(
    "text",
    ["Digits(size=8)", "MnistSample()", "Faces()", "Faces(background=True)", "Synthetic((1, 2, 2), count=7)", SPOKEN],
)
def test_the_private_half_that_a_source_names_is_the_one_that_is_drawn_from(text: str) -> None:
    source = build(text, Family.DATASETS)
    assert source.most_private is not None
    assert len(source.draw(source.most_private, key=ls.Key(0)).reveal()) == source.most_private
    said = complaint(lambda: source.draw(source.most_private + 1, key=ls.Key(0)))
    assert said is not None
    # in the same words, and with the same number
    early = complaint(lambda: data.enough(text, source.most_private + 1))
    assert early is not None
    assert said.partition(" has ")[2] == early.partition(" has ")[2]


@pytest.mark.parametrize("text", ["Digits(size=1)", "MnistSample(size=1)", "Synthetic((1, 1, 1), count=20000)"])
def test_pictures_of_one_number_repeat_and_no_half_of_them_is_promised(text: str) -> None:
    source = build(text, Family.DATASETS)
    inputs = source.load().inputs
    # equal ones are on one side of the split, so that the private half may be the larger one: only drawing tells
    assert len(inputs.unique()) < len(inputs)
    assert source.most_private is None
    assert complaint(lambda: data.enough(text, len(inputs) // 2 + 1)) is None


def test_an_update_says_what_its_model_takes(tmp_path: Path) -> None:
    batch = ls.Digits(size=8).draw(1, key=ls.Key(0)).reveal()
    target = ls.MLP((4,)).build(ls.Images(1, 8, 8), 10, key=ls.Key(0))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(1))
    path = tmp_path / "u.safetensors"
    write_update(path, seen, Provenance("MLP((4,))"))
    given = fitting.of_update(path)
    assert given is not None
    assert (given.kind, given.sizes) == ("Images", (1, 8, 8))
    # whatever else is in it is the reader's to judge
    for text in (b"", b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 40):
        path.write_bytes(text)
        assert fitting.of_update(path) is None
