"""What is judged from text alone: the rows, signatures and kinds of the objects, and nothing heavy is loaded for it.

The oracle is what is imported: the table, `inspect.signature`, enumerations, headers, suffixes.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from typer.testing import CliRunner

from leakscope.cli import data, expressions, models, names
from leakscope.cli.expressions import build
from leakscope.cli.main import app
from leakscope.cli.rows import Family, Row, Trait
from leakscope.cli.text import contents, files, index, ranges, signatures, spelling
from leakscope.cli.text import data as data_text
from leakscope.cli.text import federation as federation_text
from leakscope.cli.text import models as model_texts
from leakscope.cli.text import plan as plan_text
from leakscope.cli.text.asked import Kind
from leakscope.cli.text.signatures import members, objects_of, signature
from leakscope.core.errors import BadInput, BadPlan, DamagedRecord, LeakscopeError, UnknownName
from leakscope.datasets.sources import folder, speech, transcribed
from leakscope.domains.vision import Images
from leakscope.homes import Home
from leakscope.ledger import container
from leakscope.ledger.exchange import ClaimHeader, ReleaseKind, SecretHeader, UpdateHeader
from leakscope.ledger.record import Summary
from leakscope.numerics.rng import Key
from leakscope.targets.files import foreign
from leakscope.targets.recipes.imported import Imported
from leakscope.version import VERSION

ROOT = Path(__file__).parents[1]
COMMAND_LINE = runpy.run_path(str(ROOT / "benchmarks" / "command_line.py"))
HEAVY = ("torch", "numpy", "scipy", "sklearn", "pydantic", "matplotlib", "jinja2")


def home(row: Row) -> Home:
    return Home(row.home, row.name)


# --- the table without its imports ----------------------------------------------------------------------------------


def test_the_rows_that_are_read_are_those_of_the_table() -> None:
    assert index.rows() == names.ROWS
    assert [index.rows(family) for family in Family] == [names.rows(family) for family in Family]
    assert all(index.row_named(row.name) == row for row in names.ROWS)


def test_a_row_imports_what_it_names() -> None:
    for row in names.ROWS:
        assert (row.build.__name__, row.build.__module__) == home(row)[::-1]


def test_a_new_row_is_read_without_a_second_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source alone: one import, one row."""
    texts = {
        "leakscope.cli.names": (
            "from leakscope.a import Old\nfrom leakscope.b import Fresh\n"
            "_A, _D, _P, _M, _T, _S, _X = Family\n"
            "ROWS: tuple[Row, ...] = (row(_A, Old, 'old'), row(_D, Fresh, 'a ' 'b', 'Fresh(1)', T.RANDOM, T.SMALL),\n"
            "    *PARTS)"
        ),
        "leakscope.cli.parts": (
            "from leakscope.b import Older as Aged\n_X = Family.PARTS\n"
            "PARTS: tuple[Row, ...] = (row(_X, Aged, 'x', '', T.TEXT),)"
        ),
    }
    monkeypatch.setattr(index, "source", lambda module: ast.parse(texts[module]))
    assert index._table.__wrapped__() == (
        Row("Old", Family.ATTACKS, "leakscope.a", "old", "Old()"),
        Row("Fresh", Family.DEFENSES, "leakscope.b", "a b", "Fresh(1)", frozenset({Trait.RANDOM, Trait.SMALL})),
        Row("Older", Family.PARTS, "leakscope.b", "x", "Older()", frozenset({Trait.TEXT})),
    )


PLACES = [*(home(row) for row in names.ROWS), *spelling.NOUNS.values()]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_signature_that_is_read_is_that_of_the_object(place: Home) -> None:
    made = getattr(__import__(place.module, fromlist=[place.name]), place.name)
    read = signature(place)
    assert read is not None
    if isinstance(made, type) and issubclass(made, enum.Enum):
        assert members(place) == {name: one.value for name, one in made.__members__.items()}
        return
    assert members(place) is None
    real = inspect.signature(made).parameters
    assert [(one.name, one.kind) for one in read.parameters.values()] == [(o.name, o.kind) for o in real.values()]
    for name, one in real.items():
        shown, empty = read.parameters[name].default, inspect.Parameter.empty
        assert (shown is empty) is (one.default is empty)
        if isinstance(one.default, int | str | None):
            assert ast.literal_eval(repr(shown)) == one.default or repr(shown).isupper()  # or the name of a constant


# --- values out of range, judged by the constructor's own checks -----------------------------------------------------

TRIED = ("-1", "0", "1", "2.5", "-0.5", "0.5", "1000000000", "'a'", "True", "None", "(1, 2)", "(0,)", "()", "1e999")


def calls(text: str) -> Iterator[ast.Call]:
    """The call with each of its arguments exchanged for half of `TRIED`."""
    tree = ast.parse(text, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    takes = signature(spelling.home(tree.func.id, "part"))
    assert takes is not None
    given = takes.bind(*tree.args, **{str(one.arg): one.value for one in tree.keywords}).arguments
    for place, name in enumerate(takes.parameters):
        # Half of them, the other half for the next argument: each takes a hundred kinds of objects.
        for value in TRIED[place % 2 :: 2]:
            arguments = given | {name: ast.parse(value, mode="eval").body}
            yield ast.Call(tree.func, [], [ast.keyword(one, node) for one, node in arguments.items()])


def complaint(judge: Callable[[], object]) -> str | None:
    try:
        judge()
    except BadInput as error:
        return str(error)
    return None


def test_a_value_that_is_refused_from_its_text_is_refused_by_the_object_in_the_same_words() -> None:
    """And nearly all that objects refuse is refused from the text: of this, none waits for torch."""
    facts = ["BatchSize(1)", "TrueLabels((1,))", "Lengths((3,))", "Images(1, 2, 2)", "Frames(3)"]
    examples = [row.example for row in names.ROWS if row.example.endswith(")")]
    early = late = 0
    for text in [*examples, *facts]:
        for call in calls(text):
            assert isinstance(call.func, ast.Name)
            said = complaint(lambda call=call: spelling._judge(call, "part"))
            real = complaint(lambda call=call: expressions._value(call))
            # A value of another type than is declared may pass a constructor, or be refused in words that say less.
            if said is not None and re.search(r": \w+ takes [\w.| \[\]]+, got ", said):
                early += 1
                continue
            # What is no member of an enumeration was told in other words before; it is refused by both all the same.
            same = members(spelling.home(call.func.id, "part")) is None
            assert said is None or (said == real if same else real is not None), (ast.unparse(call), said, real)
            early, late = early + (said is not None), late + (said is None and real is not None)
    assert early > 750
    assert late < 0.1 * (early + late)


RANGED = """
import numpy as np
from leakscope.core.arguments import count, number
from leakscope.core.errors import BadInput

LEAST = 2 * 2
TAU = np.pi
FEW, MANY = 1, 9

def checked(size):
    if size < LEAST:
        raise BadInput(f"too small: {size}")

@dataclass
class Above:
    size: int
    other: object = Thing()

    def __post_init__(self) -> None:
        count("later", self.other)
        object.__setattr__(self, "size", np.int64(self.size))
        checked(self.size)

@dataclass
class Below:
    size: int
    of: Above = None

    def __post_init__(self) -> None:
        checked(self.size)
        if self.size > TAU:
            raise BadInput("never known")
        if not isinstance(self.of, Above) and self.of is not None:
            raise BadInput("no Above")
        if self.size > MANY or self.whole:
            raise BadInput("too large")

@dataclass
class Heir(Below):
    pass

def recipe(size, *, weight=1.0):
    # 9 * weight: what is not understood is left out
    return Below(size, of=Above(6)) >> np.float64(weight)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Below(3)", "too small: 3"),
        ("Below(5)", None),
        ("Below(10)", "too large"),
        ("Below(5, of=3)", "no Above"),
        ("Below('a')", "wrong kind"),
        ("Heir(3)", "too small: 3"),
        # set by what is not known: nothing that follows is sure
        ("Above(3)", None),
        ("recipe(3)", "too small: 3"),
        ("recipe(5)", None),
    ],
)
def test_a_check_says_what_the_text_decides_and_nothing_else(
    text: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ranges, signatures):
        monkeypatch.setattr(module, "source", lambda name: ast.parse(RANGED))
    for cached in (ranges._checks, ranges._resolved, signatures.signature, signatures.members):
        monkeypatch.setattr(sys.modules[cached.__module__], cached.__name__, cached.__wrapped__)
    for module in (ranges, signatures):
        monkeypatch.setattr(module, "ours", lambda home: home.module.startswith(("leakscope", "toys")))
    monkeypatch.setattr(ranges, "signature", signatures.signature)
    monkeypatch.setattr(ranges, "members", signatures.members)
    tree = ast.parse(text, mode="eval").body
    assert isinstance(tree, ast.Call)
    found = complaint(lambda: spelling._judge_range(tree, Home("toys", ast.unparse(tree.func))))
    assert found is None if said is None else found is not None and said in found


TOYS = """
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum, auto
from typing import ClassVar

@dataclass(frozen=True)
class Above:
    size: int
    depth: int = 2
    kind: ClassVar[int] = 7

@dataclass(frozen=True)
class Below(Above):
    size: int = 1
    later: tuple = field(default_factory=lambda: (1, 2), kw_only=True)
    hidden: int = field(default=3, init=False)
    made: list = field(default_factory=list)
    plain: int = field(default=5, repr=False)

class Bare(Above):
    note: str = "no field, since this is no dataclass"

def function(a, /, b, c=1, *, d, e=2): ...
"""


@pytest.mark.parametrize("name", ["Above", "Below", "Bare", "function"])
def test_whatever_dataclasses_do_is_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    toys = types.ModuleType("leakscope.toys")
    monkeypatch.setitem(sys.modules, toys.__name__, toys)  # dataclasses look their module up
    exec(TOYS, toys.__dict__)
    monkeypatch.setattr("leakscope.cli.text.signatures.source", lambda module: ast.parse(TOYS))
    read, real = signature.__wrapped__(Home("leakscope.toys", name)), inspect.signature(getattr(toys, name))
    assert list(read.parameters) == list(real.parameters)
    for one, other in zip(read.parameters.values(), real.parameters.values(), strict=True):
        empty = inspect.Parameter.empty
        assert (one.kind, one.default is empty) == (other.kind, other.default is empty)


def test_a_default_is_shown_as_one_would_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leakscope.cli.text.signatures.source", lambda module: ast.parse(TOYS))
    shown = str(signature.__wrapped__(Home("leakscope.toys", "Below")))
    assert shown == "(size=1, depth=2, made=list(), plain=5, *, later=(1, 2))"


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    x: int\n",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    def __init__(self, *args): ...\n",
        "A = 3\n",
        "from elsewhere import A\n",
    ],
)
def test_what_does_not_show_in_the_source_is_left_to_the_object(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("leakscope.cli.text.signatures.source", lambda module: ast.parse(text))
    assert signature.__wrapped__(Home("leakscope.toys", "A")) is None


# --- kinds and suffixes ---------------------------------------------------------------------------------------------


def test_kinds_of_files_are_called_as_their_headers_call_them() -> None:
    headers = (UpdateHeader, SecretHeader, ClaimHeader)
    assert [one.value for one in files.Exchanged] == [(header.kind, header.wanted) for header in headers]
    assert {one.value for one in Kind} < {one.value for one in ReleaseKind}


def test_a_folder_whose_audit_has_no_record_yet_is_no_folder_of_records(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(
        json.dumps({"leakscope": "0", "title": "", "started": "", "cells": {"a": {}, "b": {}}})
    )
    with pytest.raises(BadInput, match="holds an audit of 2 cells, none of them run; go on with --resume"):
        files.room(tmp_path, resume=False, shared=False)


def test_suffixes_are_those_that_are_read(tmp_path: Path) -> None:
    for suffix in (*files.TENSORS, *files.PICKLES, ".txt", ""):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(b"nothing")
        with pytest.raises(BadInput) as real:
            foreign.read_foreign(path)
        by_name = str(real.value).startswith((f"{path} has the suffix", f"{path} is a pickle:"))
        if by_name:
            with pytest.raises(BadInput) as early:
                files.tensors(str(path))
            assert str(early.value) == str(real.value)
        else:
            files.tensors(str(path))


def test_what_is_no_safetensors_file_is_refused_and_what_says_nothing_is_left_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    with pytest.raises(BadInput, match=r"was not written by leakscope, expected an update.*--update FILE"):
        files.exchanged(path, files.Exchanged.UPDATE)
    with pytest.raises(
        BadInput, match=r"was not written by leakscope, expected a claim, as `leakscope attack` writes it$"
    ):
        files.exchanged(path, files.Exchanged.CLAIM)
    # What earlier versions wrote of other kinds is called by its name when it is read.
    earlier = json.dumps({"__metadata__": {"record": "{}", "checksum": ""}}).encode()
    path.write_bytes(len(earlier).to_bytes(8, "little") + earlier)
    files.exchanged(path, files.Exchanged.UPDATE)
    for content in (b"", b"\xff" * 20, json.dumps([1]).encode()):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="is not a safetensors file, or is damaged"):
            files.exchanged(path, files.Exchanged.UPDATE)
    np.savez(tmp_path / "y.npz", np.zeros(3))
    with pytest.raises(BadInput, match=r"y.npz is not a safetensors file"):
        files.exchanged(tmp_path / "y.npz", files.Exchanged.UPDATE)


def test_what_files_are_to_hold_is_what_their_readers_ask_for(tmp_path: Path) -> None:
    assert (contents.PICTURES, contents.SOUNDS) == (folder.SUFFIXES, transcribed.SUFFIXES)
    assert (contents.COLUMNS, contents.FIELDS) == (speech.COLUMNS, data.FIELDS)
    (tmp_path / "words.csv").write_text("a,transcript\n1,2\n")
    with pytest.raises(BadInput) as early:
        contents.table(tmp_path / "words.csv")
    with pytest.raises(BadInput) as real:
        speech.DeepSpeechCsv(str(tmp_path / "words.csv")).utterances()
    assert str(early.value) == str(real.value)


@pytest.mark.parametrize("names", [[], ["one.txt"], ["in/one.PNG"], ["one.png", "one.trans.txt"], ["a.wav", "b.png"]])
@pytest.mark.parametrize("domain", [None, Images(1, 2, 2)])
def test_a_folder_is_judged_by_its_names_as_when_it_is_read(tmp_path: Path, names: list[str], domain: Any) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    said: list[str] = []
    for ask in (lambda: contents.folder(tmp_path, sized=domain is not None), lambda: data._folder(tmp_path, domain)):
        try:
            ask()
            said.append("")
        except BadInput as error:
            said.append(str(error))
    assert said[0] == said[1]
    assert bool(said[0]) is (names in ([], ["one.txt"]) or (names == ["in/one.PNG"] and domain is None))


def test_no_file_that_can_be_read_is_called_damaged(tmp_path: Path) -> None:
    """And one that is, by its reader too."""
    arrays = {"inputs": np.zeros((1, 2), np.float32), "labels": np.zeros(1, np.int64)}
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    np.savez(tmp_path / "whole.npz", **arrays)
    np.savez_compressed(tmp_path / "less.npz", **arrays)
    np.savez(tmp_path / "nameless.npz", *arrays.values())
    save_file(tensors, tmp_path / "whole.safetensors")
    torch.save(tensors, tmp_path / "whole.pt")
    torch.save(tensors, tmp_path / "before.pt", _use_new_zipfile_serialization=False)
    for one in range(1, 6):  # torch does not read what it writes as 0
        path = tmp_path / f"protocol{one}.pt"
        torch.save(tensors, path, pickle_protocol=one, _use_new_zipfile_serialization=False)
        assert torch.load(path, weights_only=False).keys() == tensors.keys()
    with tarfile.open(tmp_path / "older.pt", "w") as archive:
        archive.add(tmp_path / "whole.npz", "storages")
    np.save(tmp_path / "plain.npy", arrays["inputs"])
    (tmp_path / "plain.npy").rename(tmp_path / "plain.npz")
    for path in sorted(tmp_path.iterdir()):
        names = contents.tensors(str(path))
        assert names is None or names == ({"arr_0", "arr_1"} if path.stem == "nameless" else arrays.keys()), path
    for name in ("whole.npz", "less.npz", "whole.safetensors", "whole.pt", "before.pt"):
        contents.batch(str(tmp_path / name))
    for ask in (contents.batch, lambda path: data.batch_file(path, allow_pickle=False)):
        with pytest.raises(BadInput, match="holds arrays without names, expected inputs and labels"):
            ask(str(tmp_path / "nameless.npz"))
    for name, content in (("cut.npz", b"PK\3\4" + b"0" * 50), ("none.pt", b""), ("cut.pt", b"PK\3\4"),
                          ("cut.safetensors", b"\0" * 64), ("text.npz", b"a,b"), ("text.pt", b"a,b"),
                          ("other.bin", b"\x80\4K\1.")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        for ask in (contents.tensors, foreign.read_foreign):
            with pytest.raises(BadInput):
                ask(str(tmp_path / name))


def test_what_cannot_be_written_is_said_before_anything_is_run(tmp_path: Path) -> None:
    """As a file system does that takes no files; nothing is left where one takes them, and nothing is in the way."""
    for ask in (lambda path: files.written(path, "--out"), lambda path: files.folder(path, "--out")):
        with pytest.raises(BadInput, match=r"cannot be written for --out \(/proc: .*\); choose another place"):
            ask(Path("/proc/nothing"))
        ask(tmp_path / "new" / "deep")
        assert not list(tmp_path.iterdir())


def test_arguments_that_take_objects_are_those_of_the_classes_that_are_imported() -> None:
    """Only they are refused a number: each is declared to be of a class of leakscope, and of nothing else."""
    found = 0
    for row in names.rows():
        for name in objects_of(Home(row.home, row.name)):
            hint = typing.get_type_hints(getattr(importlib.import_module(row.home), row.name))[name]
            made = typing.get_origin(hint) or hint
            assert isinstance(made, type), (row.name, name)
            assert made.__module__.startswith("leakscope."), (row.name, name)
            assert not issubclass(made, enum.Enum), (row.name, name)
            found += 1
    assert found > 15


@pytest.mark.parametrize("text", ["1", "None", "'Adam'", "(1, 2)", "-1.5", "True"])
def test_a_number_is_no_search(text: str) -> None:
    with pytest.raises(BadInput, match=r"search takes an object, such as Adam\(\), got"):
        spelling.expression(f"GradientInversion(search={text})", Family.ATTACKS)
    spelling.expression("GradientInversion(search=Adam(steps=3), prior=0.1 * TotalVariation())", Family.ATTACKS)


def test_libraries_are_those_that_can_be_built() -> None:
    assert {prefix: one.extra for prefix, one in models.LIBRARIES.items()} == model_texts.EXTRAS
    assert all(prefix == one.package for prefix, one in models.LIBRARIES.items())


# --- expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "family", "says"),
    [
        ("Limit('nrom')", Family.PARTS, "unknown Limit 'nrom'; did you mean 'norm'"),
        ("GaussianNoise(0.1, std=2)", Family.DEFENSES, "multiple values for argument 'std'"),
        ("Clip(*(1,))", Family.DEFENSES, "'*(1,)' cannot stand in a plan"),
        ("FedSGD() >> FedSGD()", Family.PROTOCOLS, "does not combine: FedSGD with FedSGD; >> puts a defense after"),
        ("Clip(1.0) + Clip(1.0)", Family.DEFENSES, "does not combine: Clip with Clip"),
        ("FedSGD() >> Clip(1.0)", Family.ATTACKS, "expected an attack, got"),
        ("3", Family.PARTS, "expected a part, got '3'"),
        ("('a' * 99999999999999, 1)", Family.PARTS, "does not combine: str with int"),
        ("MLP(('a' * 99999999999999,))", Family.TARGETS, "does not combine: str with int"),
        ("(" * 300, Family.PARTS, "cannot read the part"),
        ("-" * 9000 + "1", Family.PARTS, "cannot read the part"),
        ("FedSGD()" + " >> Clip(1.0)" * 300, Family.PROTOCOLS, "is nested more than 100 deep"),
        ("\0", Family.PARTS, "null bytes"),
        ("", Family.DEFENSES, "cannot read the defense ''"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_texts_that_end_in_one_sentence(text: str, family: Family, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        build(text, family)
    assert says in str(refused.value)


@pytest.mark.parametrize("row", names.ROWS, ids=lambda row: row.name)
def test_what_can_be_built_is_well_written(row: Row) -> None:
    """The examples, and what objects print of themselves, which records and files hold."""
    spelling.expression(row.example, row.family)
    spelling.expression(repr(build(row.example, row.family)), row.family)


@pytest.mark.parametrize("text", ["0.1 * TotalVariation() + 2 * Range()", "Limit(value='norm')", "By.FRAME"])
def test_parts_may_be_combined(text: str) -> None:
    assert isinstance(spelling.expression(text, Family.PARTS), ast.expr)


@pytest.mark.parametrize("text", ["LeNet()", "torchvision:resnet18", "timm:a/b@img_size=32", "here.there:Net.inner"])
def test_every_way_to_name_a_model_is_known(text: str) -> None:
    model_texts.model(text)


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "plans").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_plans_of_the_repository_are_well_written(path: Path) -> None:
    read = federation_text.read if path.parent.name == "emotion" else plan_text.read
    assert read(path).scenes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"a = " + b"[" * 5000, "brackets are nested more than 50 deep"),
        (b"a = " + b"[{b = " * 40, "brackets are nested more than 50 deep"),
        # closed in strings, so that counting does not see it
        (b"a = " + b'["]", ' * 5000, "not TOML: maximum recursion depth"),
        (b'title = " "\n[[scene]]\ndataset = "Faces()"\ntarget = "LeNet()"\n', "the plan needs a title"),
        (b'title = "a"\n', "the plan needs at least one scene"),
        (b'title = "a"\nfederations = []\n', "line 2: federations: this is a plan of federations; run it with `leaks"),
    ],
)
def test_files_that_are_no_plans(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content)
    with pytest.raises((BadInput, BadPlan), match=says):
        plan_text.read(path)


# --- a module of the user's own ---------------------------------------------------------------------------------------

WRITTEN = {
    "assigned.py": "if True:\n    Net = Other = 1\n",
    "function.py": "def later():\n    global Net\n    Net = 1\n",
    "imported.py": "from typing import Any as Net\n",
    "star.py": "from typing import *\n",
    "made.py": "globals()['Net'] = 1\n",
    "lazy.py": "def __getattr__(name):\n    return 1\n",
    "nested/inner.py": "def Net():\n    return made()\n",
    "package/__init__.py": "",
}


@pytest.mark.parametrize("path", WRITTEN)
def test_a_name_that_the_text_may_hold_is_left_to_the_import(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(WRITTEN[path])
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    model_texts.findable(f"{module}:Net")
    assert module.partition(".")[0] not in sys.modules


def test_a_name_that_the_text_lacks_and_a_text_that_is_no_python_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "wrong.py").write_text("def (")
    (tmp_path / "own.py").write_text("class Net:\n    class Inner:\n        pass\n")
    model_texts.findable("own:Net.Inner")
    with pytest.raises(BadInput, match="own has no 'Nett'; did you mean 'Net'"):
        model_texts.findable("own:Nett")
    with pytest.raises(BadInput, match=r"nested.wrong is no Python: invalid syntax \(wrong.py, line 1\)"):
        model_texts.findable("nested.wrong:Net")


TOP = "import torch.nn as nn\n"
PARTS = (
    "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.part = nn.Linear(4, 2)\n"
)
GOOD = {
    "rebound": "Net = None\nif True:\n    from torch.nn import Linear\n    def Net(): return Linear(4, 2)\n",
    "by_global": f"{TOP}Net = 5\ndef late():\n    global Net\n    Net = nn.Linear(4, 2)\nlate()\n",
    "as_attribute": f"{TOP}import sys as system\nNet = 5\nsystem.modules[__name__].Net = nn.Linear(4, 2)\n",
    "deleted": f"{TOP}Net = 5\ndel Net\ndef __getattr__(name): return nn.Linear(4, 2)\n",
    "replaced": f"{TOP}import sys, types\nNet = 5\n"
    "sys.modules[__name__] = types.SimpleNamespace(Net=nn.Linear(4, 2))\n",
    "decorated": f"{TOP}def given(f): return lambda: nn.Linear(4, 2)\n@given\ndef Net(width): return 5\n",
    "handed_on": f"{TOP}def mend(c):\n"
    "    c.__init__ = lambda s: (nn.Module.__init__(s), setattr(s, 'a', nn.Linear(4, 2)))[0]\n"
    "class Net(nn.Module):\n    def __init__(self, width):\n        pass\nmend(Net)\n",
    "created": f"{TOP}class Net(nn.Module):\n    def __new__(cls): return nn.Linear(4, 2)\n"
    "    def __init__(self, a): pass\n",
    "mixed_in": f"{TOP}class Has:\n    def __init__(self):\n"
    "        nn.Module.__init__(self)\n        self.a = nn.Linear(4, 2)\n"
    "class Net(Has, nn.Module):\n    pass\n",
    "inherits": f"{TOP}class nn:\n    from torch.nn import Linear\n    class Module(Linear):\n"
    "        def __init__(self): super().__init__(4, 2)\nclass Net(nn.Module):\n    pass\n",
    "early": f"{TOP}def Net():\n    if True:\n        return nn.Linear(4, 2)\n    raise ValueError('no')\n",
    "inner": f"{TOP}def Net(width=4):\n    def two(): return 2\n    return nn.Linear(width, two())\n",
    "given": f"{TOP}def Net(*sizes, **more):\n    return nn.Linear(4, 2)\n",
    "property": f"{TOP}class Net(nn.Module):\n    def parameters(self, recurse=True): return iter([nn.Parameter()])\n",
    "member": f"{TOP}class Net(nn.Module):\n    part = 1\n    def __init__(self, *, width=4):\n"
    "        super().__init__()\n        self.a = nn.Linear(width, 2)\n",
    "optional": f"{TOP}try:\n    import no_such_package\nexcept ImportError:\n    pass\n{PARTS}",
    "put_there": "import sys, types\nsys.modules['no_such_package'] = types.ModuleType('n')\n"
    f"import no_such_package\n{TOP}{PARTS}",
    "helped": f"import helping\nimport no_such_package\n{TOP}{PARTS}",
    "helping": "import sys, types\nsys.modules['no_such_package'] = types.ModuleType('n')\n",
    "patched": f"{TOP}def start(self):\n    old(self)\n    self.a = nn.Parameter()\n"
    "old = nn.Module.__init__\nnn.Module.__init__ = start\nclass Net(nn.Module):\n    pass\n",
    "exchanged": f"{TOP}class Base(nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
    "nn.Module = Base\nclass Net(nn.Module):\n    pass\n",
    "patched_elsewhere": f"import patching\n{TOP}class Net(nn.Module):\n    pass\n",
    "patching": "import torch.nn as nn\n\nold = nn.Module.__init__\n\n\ndef start(self):\n    old(self)\n"
    "    self.a = nn.Parameter()\n\n\nnn.Module.__init__ = start\n",
    "changes_class": f"{TOP}class Net:\n    def __init__(self):\n        self.__class__ = nn.Module\n"
    "        nn.Module.__init__(self)\n        self.a = nn.Linear(4, 2)\n",
    "says_class": f"{TOP}class Net:\n    __class__ = nn.Linear\n    def __new__(cls): return nn.Linear(4, 2)\n",
    "other_object": f"{TOP}class object(nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
    "class Net(object):\n    pass\n",
    "starred": f"{TOP}Net, *M = [nn.Linear(4, 2), 5]\n",
    "some_display": f"{TOP}def Net():\n    if not TOP if False else True:\n        return nn.Linear(4, 2)\n"
    "    return []\n",
    "decorated_coroutine": f"{TOP}def given(f): return lambda: nn.Linear(4, 2)\n@given\nasync def Net(): return 5\n",
    "deep": f"{TOP}def Net():\n    a = {' + '.join(['1'] * 2000)}\n    return nn.Linear(4, 2)\n",
    "if_raise": f"{TOP}if not TOP if False else False:\n    raise ValueError\n{PARTS}",
}
"""Modules that give a model, however odd: none of them may be refused by its text."""

BINDS = {
    "assignment": "Net = N",
    "annotated": "Net: type = N",
    "tuple": "Net, M = N, 5",
    "starred": "*Net, M = N, 5\nNet = Net[0]",
    "augmented": "Net = ()\nNet += (N,)\nNet = Net[0]",
    "walrus": "if (Net := N): pass",
    "walrus_inside": "[Net := one for one in [N]]",
    "for": "for Net in [N]: pass",
    "with": "import contextlib\nwith contextlib.nullcontext(N) as Net: pass",
    "except": "try:\n    raise ValueError(N)\nexcept ValueError as Net:\n    kept = Net.args[0]\nNet = kept",
    "except_group": "try:\n    raise ExceptionGroup('', [ValueError()])\nexcept* ValueError as _: Net = N",
    "import": "import Net_module as Net_\nfrom Net_module import Net",
    "import_as": "from Net_module import M as Net",
    "star_import": "from Net_module import *",
    "match": "match N:\n    case Net: pass",
    "match_as": "match N:\n    case type() as Net: pass",
    "match_star": "match [N]:\n    case [*Net]: pass\nN = Net[0]\nmatch N:\n    case Net: pass",
    "match_mapping": "match {'Net': N}:\n    case {'Net': Net}: pass",
    "match_rest": "match {'N': N}:\n    case {**rest}: pass\nlocals()['Net'] = rest['N']",
    "match_class": "class P:\n    __match_args__ = ('a',)\n    a = N\nmatch P():\n    case P(Net): pass",
    "function": "def Net(): return N()",
    "class": "class Net(N): pass",
    "global": "def make():\n    global Net\n    Net = N\nmake()",
    "global_match": "def make():\n    global Net\n    match N:\n        case Net: pass\nmake()",
    "global_import": "def make():\n    global Net\n    from Net_module import Net\nmake()",
    "global_deleted": "Net = 5\ndef drop():\n    global Net\n    del Net\ndrop()\ndef __getattr__(name): return N",
    "exec": "exec('Ne' 't = N')",
    "globals": "globals().update(**{'N' + 'et': N})",
    "frame": "import sys\nsys._getframe().f_globals['N' + 'et'] = N",
    "module_setattr": "import sys\nsetattr(sys.modules[__name__], 'N' + 'et', N)",
    "module_found": "import importlib\nimportlib.import_module(__name__).__dict__['N' + 'et'] = N",
    "told_the_name": "from Net_module import put\nput(__name__, N)",
    "getattr": "def __getattr__(name): return N",
    "imported_getattr": "from Net_module import look as __getattr__",
    "getattr_assigned": "__getattr__ = lambda name: N",
}
"""Ways in which a module can come to have `Net`, given a model's class `N`."""

LENDS = f"""\
{TOP}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 2)
M = Net
def look(name): return Net
def put(module, value):
    import sys
    vars(sys.modules[module])['Net'] = value
"""
GOOD |= {
    f"binds_{name}": f"{LENDS[: LENDS.index('M =')].replace('Net', 'N')}{text}\n" for name, text in BINDS.items()
} | {"Net_module": LENDS}
HELPERS = {"helping", "patching", "Net_module"}


@pytest.mark.parametrize("name", sorted(GOOD.keys() - HELPERS))
def test_no_model_that_can_be_built_is_refused_by_its_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for one, text in GOOD.items():
        (tmp_path / f"{one}.py").write_text(text)
    started, module = torch.nn.Module.__init__, torch.nn.Module
    model_texts.findable(f"{name}:Net")
    try:
        assert callable(Imported(f"{name}:Net").find())
        assert list(Imported(f"{name}:Net").module(Key(0)).parameters())
    finally:
        torch.nn.Module, module.__init__ = module, started
        for one in (name, "no_such_package", *HELPERS):
            sys.modules.pop(one, None)


@pytest.mark.filterwarnings("ignore:.*coroutine")  # the import calls it and throws away what it got
@pytest.mark.parametrize("path", COMMAND_LINE["NO_MODELS"])
def test_a_model_that_is_refused_by_its_text_is_refused_by_its_import_in_the_same_words(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    COMMAND_LINE["furnish"](tmp_path)
    said = complaint(lambda: model_texts.findable(path))
    assert said == complaint(lambda: model_texts.findable(f"Imported({path!r})"))
    assert said is not None
    assert said == complaint(lambda: Imported(path).build(Images(1, 2, 2), 10, key=Key(0)))
    for one in ("constant", "mine", "lacks", "failing"):
        sys.modules.pop(one, None)


def test_arguments_that_an_expression_gives_are_left_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    COMMAND_LINE["furnish"](tmp_path)
    model_texts.findable("Imported('mine:Wide', (('width', 4),))")
    with pytest.raises(BadInput, match="mine has no 'Wade'; did you mean 'Wide'"):
        model_texts.findable("Imported('mine:Wade', (('width', 4),))")


@pytest.mark.parametrize("row", index.rows(Family.DATASETS), ids=lambda row: row.name)
def test_what_is_read_of_a_source_is_what_it_says(row: Row) -> None:
    call = ast.parse(row.example, mode="eval").body
    assert isinstance(call, ast.Call)
    made = build(row.example, Family.DATASETS)
    for name, real in (
        ("most", lambda: made.most),
        ("most_private", lambda: made.most_private),
        ("classes", lambda: made.classes),
        ("domain", lambda: made.domain),
    ):
        read = ranges.attribute(call, home(row), name, {"Images": lambda *sizes: sizes})
        if not isinstance(read, ranges._Opaque) and read is not None:
            assert read == (real().shape if name == "domain" else real())


@pytest.mark.parametrize("text", ["Digits()", "Faces()", "Faces(background=True)", "Synthetic(count=7)"])
def test_no_more_examples_than_a_source_says(text: str) -> None:
    made = build(text, Family.DATASETS)
    assert len(made.load()) == made.most
    data_text.drawn(text, made.most_private, domain=None, classes=None)
    for count in (made.most_private + 1, made.most + 1):
        with pytest.raises(BadInput, match="cannot draw"):
            data_text.drawn(text, count, domain=None, classes=None)


def test_only_data_of_another_shape_are_refused(tmp_path: Path) -> None:
    for domain in (None, "1x32x32", "Images(1, 32, width=32)", "Images(1, 32, 32, mean=(0.5,), std=(0.5,))"):
        data_text.drawn("Digits()", 1, domain=domain, classes=5)
    for domain in ("3x32x32", "Images(1, 32, width=8)"):
        with pytest.raises(BadInput, match="make --domain and the data agree"):
            data_text.drawn("Digits()", 1, domain=domain, classes=None)
    data_text.drawn(str(tmp_path), 10**6, domain="3x32x32", classes=1)


def test_the_fields_of_headers_and_summaries_are_read_off_their_classes() -> None:
    known: dict[str, type[BaseModel]] = {
        "Summary": Summary,
        "UpdateHeader": UpdateHeader,
        "SecretHeader": SecretHeader,
        "ClaimHeader": ClaimHeader,
    }
    for name, made in known.items():
        own = {one: made.model_fields[one].is_required() for one in made.__annotations__ if one in made.model_fields}
        assert files._fields(made.__module__, name) == own
    header = container.Header.model_fields
    assert files._fields("leakscope.ledger.container", "Header") == {n: one.is_required() for n, one in header.items()}
    assert {"update": UpdateHeader, "secret": SecretHeader, "claim": ClaimHeader} == {
        kind: known[name] for kind, name in files.HEADERS.items()
    }
    assert {one.value[0] for one in files.Exchanged} == files.HEADERS.keys()
    assert container.FORMAT == files.FORMAT


SECRET = SecretHeader(leakscope="9.9.9", domain="Images(1, 1, 2)", classes=2, data="", update="")


def test_a_file_that_is_cut_short_is_refused_from_its_header_and_no_whole_one_is(tmp_path: Path) -> None:
    """The oracle is the library that reads it."""
    path, cut = tmp_path / "secret.safetensors", tmp_path / "cut.safetensors"
    container.write(path, SECRET, {"inputs": np.zeros((3, 4), np.float32), "labels": np.zeros((), np.int64)})
    whole = path.read_bytes()
    files.exchanged(path, files.Exchanged.SECRET)
    assert contents.tensors(str(path)) == frozenset({"inputs", "labels"})
    for changed in (*(whole[:-one] for one in range(1, len(whole), 7)), whole + b"0"):
        cut.write_bytes(changed)
        assert complaint(lambda: container.read(cut, SecretHeader)) is not None
        assert complaint(lambda: files.exchanged(cut, files.Exchanged.SECRET)) is not None
        assert complaint(lambda: contents.tensors(str(cut))) is not None
    cut.write_bytes(whole[:-1])
    with pytest.raises(BadInput, match=r"its header says 56 bytes of arrays, 55 are there\), expected a secret"):
        files.exchanged(cut, files.Exchanged.SECRET)


@pytest.mark.parametrize("offsets", [None, [], [0], ["a", "b"], [0, 1e999], {}, [0, None]])
def test_offsets_that_are_none_are_damage(offsets: object, tmp_path: Path) -> None:
    path = tmp_path / "secret.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}, "__metadata__": {}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BadInput, match="cut short or damaged"):
        files.exchanged(path, files.Exchanged.SECRET)


def test_a_file_of_a_later_version_is_refused_only_where_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.safetensors"
    container.write(path, SECRET, {})
    files.exchanged(path, files.Exchanged.SECRET)
    assert container.read(path, SecretHeader)[0] == SECRET
    text = SECRET.model_dump_json()
    for change in ('"format":99,', '"fresh":1,"format":1,'):
        container.write_content(path, "secret", text.replace('"format":1,', change), {})
        said = complaint(lambda: files.exchanged(path, files.Exchanged.SECRET))
        assert said == complaint(lambda: container.read(path, SecretHeader))
        assert said is not None
        assert f"it says that leakscope 9.9.9 wrote it, this is {VERSION}; use the version that wrote it" in said
    for change in ('"format":"a",', '"format":1,"leakscope":[],'):
        container.write_content(path, "secret", text.replace('"format":1,', change), {})
        files.exchanged(path, files.Exchanged.SECRET)  # the reader says what is wrong


@pytest.mark.parametrize("version", ["9.9.9", VERSION, None, [], "x" * 1000])
def test_a_summary_with_unknown_keys_names_who_wrote_it(version: object, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "fixtures" / "earlier" / "v0_1_0" / "run", tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    path.chmod(0o600)
    files.run(tmp_path / "run")
    said = json.loads(path.read_text()) | {"fresh": 1, "versions": {"leakscope": version}}
    path.write_text(json.dumps(said))
    with pytest.raises(DamagedRecord, match=r"fresh: Extra inputs are not permitted; it says that .* wrote"):
        files.run(tmp_path / "run")


def test_only_the_names_of_the_family_are_listed_beside_an_unknown_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'LinearLayer'") as attack:
        spelling.expression("LinearLayr()", Family.ATTACKS)
    assert set(attack.value.known) == {row.name for row in names.rows(Family.ATTACKS)}
    with pytest.raises(UnknownName, match="did you mean 'Clip'") as mechanism:
        spelling.expression("FedSGD() >> Clib(1.0)", Family.PROTOCOLS)
    both = (*names.rows(Family.PROTOCOLS), *names.rows(Family.DEFENSES))
    assert set(mechanism.value.known) == {row.name for row in both}


# --- nothing heavy --------------------------------------------------------------------------------------------------


def test_no_mistake_waits_for_torch(tmp_path: Path) -> None:
    """All cases of the benchmark in one process, which must not have loaded anything heavy in the end."""
    code = f"""
        import json, runpy, sys
        from pathlib import Path
        from typer.testing import CliRunner
        from leakscope.cli.main import app
        given = runpy.run_path({str(ROOT / "benchmarks" / "command_line.py")!r})
        given["furnish"](Path())
        for case in given["CASES"]:
            result = CliRunner().invoke(app, case.line.split())
            said = " ".join((result.stdout + result.stderr).split())
            loaded = sorted(set({HEAVY!r}) & set(sys.modules))
            print(json.dumps([case.line, result.exit_code == case.code, case.says in said, loaded, said[-300:]]))
    """
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(COMMAND_LINE["CASES"]) > 100
    assert [one for one in said if one[1:4] != [True, True, []]] == []


@pytest.mark.parametrize("case", [one for one in COMMAND_LINE["CASES"] if one.code], ids=lambda case: case.line)
def test_a_mistake_is_told_on_stderr_without_a_traceback(
    case: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    COMMAND_LINE["furnish"](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, case.line.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    own = result.stderr.startswith("leakscope: ")
    assert len(result.stderr.splitlines()) == 1 or not own, "our own errors are one line; click's show the usage first"
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"
    assert isinstance(result.exception, SystemExit | LeakscopeError)


def test_a_list_of_an_archive_that_cannot_be_read_is_damage(tmp_path):
    """Found by fuzzing: a field of the list that says it is longer than the list ended in a traceback."""
    path, entry = tmp_path / "batch.npz", zipfile.ZipInfo("inputs.npy")
    entry.extra = b"PK\x01\x02"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, b"nothing")
    assert zipfile.is_zipfile(path)
    with pytest.raises(BadInput, match="cannot be read"):
        contents.tensors(str(path))


def test_what_is_written_replaces_nothing_that_is_read(tmp_path: Path) -> None:
    """By the file and not by its name: a link and a way around lead to the same one."""
    read, link = tmp_path / "update.safetensors", tmp_path / "link.safetensors"
    read.write_bytes(b"")
    link.symlink_to(read)
    for path in (read, link, tmp_path / "folder" / ".." / "update.safetensors"):
        with pytest.raises(BadInput, match="is a file that is read, which would be lost"):
            files.apart(path, "--out", None, str(read))
    files.apart(tmp_path / "claim.safetensors", "--out", None, read)
    files.apart(None, "--secret", read)
