"""The public surface: exports, names, what loads without torch, contracts, the error tree, docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests import mechanisms_table
from tests.tolerance import close_trees

import leakscope as ls
from leakscope.cli import names
from leakscope.cli.names import KINDS
from leakscope.cli.rows import Family, Trait
from leakscope.core import errors
from leakscope.scoring.kinds import table
from leakscope.scoring.score import Direction

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "leakscope"


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(ls.__path__, "leakscope."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


# --- exports --------------------------------------------------------------------------------------------------------


def imported_for_types() -> dict[str, str]:
    """Name to module, from the block that type checkers read."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    assert len(blocks) == 1
    found: dict[str, str] = {}
    for line in blocks[0].body:
        assert isinstance(line, ast.ImportFrom)
        for one in line.names:
            assert one.asname is not None, f"write `import {one.name} as {one.name}`: mypy hides other imports"
            assert one.asname not in found
            found[one.asname] = str(line.module)
    return found


def test_exports_are_sorted_and_complete() -> None:
    """What type checkers see, what `__all__` says and what can really be had are the same names."""
    public = [name for name in ls.__all__ if name != "__version__"]
    assert public == sorted(public)
    assert len(set(ls.__all__)) == len(ls.__all__)
    assert set(public) == set(imported_for_types())
    assert dir(ls) == sorted(ls.__all__)


@pytest.mark.parametrize("name", ls.__all__)
def test_every_export_is_the_object_of_its_module(name: str) -> None:
    value = getattr(ls, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", value)
        return
    home = importlib.import_module(imported_for_types()[name])
    assert any(one is value for one in vars(home).values())
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__ == home.__name__, f"import {name} from where it is made, {value.__module__}"


def test_type_checkers_and_the_interpreter_read_the_same_list() -> None:
    """There is one list: the imports of the block; a second one beside it would be an assignment of names."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not texts & set(imported_for_types()), "a name is written out beside its import"


def test_what_is_in_the_table_alone_is_public_too() -> None:
    """A new attack costs three files, of which the root is none."""
    alone = [row for row in names.ROWS if row.name not in ls.__all__]
    assert all(getattr(ls, row.name) is row.build for row in alone)


def test_an_unknown_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match=r"leakscope has no 'Safe'; see dir\(leakscope\)"):
        _ = ls.Safe  # type: ignore[attr-defined]


# --- the table ------------------------------------------------------------------------------------------------------


def public_names() -> dict[str, Any]:
    """What a person has after `from leakscope import *`, and the table's own names."""
    return {name: getattr(ls, name) for name in [*ls.__all__, *names.vocabulary()]}


def test_every_name_of_the_table_is_public() -> None:
    missing = [name for name, build in names.vocabulary().items() if getattr(ls, name, None) is not build]
    assert missing == [], f"add {', '.join(missing)} to src/leakscope/__init__.py"


@pytest.mark.parametrize("row", names.ROWS, ids=lambda row: row.name)
def test_every_example_evaluates_and_its_repr_rebuilds_it(row: names.Row) -> None:
    space = {**public_names(), **names.vocabulary()}
    value = eval(row.example, dict(space))
    assert isinstance(value, KINDS[row.family])
    rebuilt = eval(repr(value), dict(space))
    assert rebuilt == value
    assert type(rebuilt) is type(value)
    assert repr(rebuilt) == repr(value)
    assert hash(rebuilt) == hash(value)


def test_the_table_has_each_name_once_and_each_row_a_summary() -> None:
    known = [row.name for row in names.ROWS]
    assert len(known) == len(set(known))
    assert all(row.summary for row in names.ROWS)
    assert {row.family for row in names.ROWS} == set(Family)


SPEECH = "audits score images so far; frames get their row together with their metric"
UNLISTED = {
    "leakscope.attacks.inputs.heads.head_images.DecodedHead": "what HeadImages teaches; nobody writes it",
    "leakscope.attacks.inputs.layer_by_layer.feature_images.DecodedFeatures": "what FeatureImages teaches",
    "leakscope.attacks.attributes.shadow.AttributeOfUpdates": "what ShadowUpdates teaches; nobody writes it",
    "leakscope.attacks.inputs.heads.head_reconstructor.ReconstructedHead": "what HeadReconstructor teaches",
    "leakscope.audit.blind.BlindGuess": "the audit's own control; to plan it would compare it with itself",
    "leakscope.mechanisms.compose.Defended": "written as `protocol >> defense`",
    "leakscope.datasets.sources.scaled.Scaled": "written as `input_range` in a plan",
    "leakscope.scoring.metrics.guesses.LabelCounts": "shares its name with the attack; scored where it applies",
    "leakscope.scoring.metrics.guesses.LabelPresence": "read beside LabelCounts; not a metric that decides",
}
"""What is concrete and still no row, each with the reason."""


def test_what_is_implemented_is_listed() -> None:
    """Nothing can be implemented and untested: every concrete class of the six families is a row."""
    listed = {row.build for row in names.ROWS}
    families = tuple(kind for family in Family if family is not Family.PARTS for kind in KINDS[family])
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, families) and not inspect.isabstract(value)
        if value.__module__.startswith("leakscope.") and not value.__name__.startswith("Abstract")
    }
    full = {f"{value.__module__}.{value.__qualname__}" for value in found - listed}
    assert full == set(UNLISTED)


@pytest.mark.parametrize("row", names.rows(Family.DEFENSES), ids=lambda row: row.name)
def test_every_listed_defense_replays_what_it_releases(row: names.Row) -> None:
    """What a new row must keep before it has tests of its own; `test_mechanisms.py` asks more of the known ones."""
    target, batch = mechanisms_table.dropout_net(), mechanisms_table.secret()
    before = batch.fingerprint()
    mechanism = ls.FedSGD() >> eval(row.example, public_names())
    sent, again, other = (mechanism.release(target, batch, key=ls.Key(seed)) for seed in (0, 0, 1))
    expected = mechanism.replay(target, batch)
    assert sent.fingerprint() == again.fingerprint()
    assert (sent.fingerprint() != other.fingerprint()) is (Trait.RANDOM in row.traits)
    assert type(expected) is type(sent)
    assert batch.fingerprint() == before
    assert mechanism.undefended == ls.FedSGD()
    if Trait.RANDOM not in row.traits:
        close_trees(expected.by_name, sent.by_name)
    private = ls.epsilon((ls.FedSGD() >> ls.Clip(1.0, order=1) >> mechanism.defenses[0]).event(), delta=1e-5)
    assert math.isfinite(private) is (Trait.PRIVATE in row.traits)


def spoken(row: names.Row) -> tuple[ls.Batch, ls.Inputs | ls.Transcripts, ls.Inputs | ls.Transcripts]:
    """Two utterances, the truth about them and a wrong claim, of the kind that the metric compares."""
    lengths, frames = torch.tensor([3, 5]), torch.rand(2, 5, 4, generator=ls.Key(0).generator())
    labels = torch.tensor([[3, 0, 1, 2], [4, 4, 0, 0]])
    batch = ls.Batch(frames, labels, lengths, torch.tensor([4, 2]))
    if row.build is ls.FrameError:
        return batch, ls.Inputs(frames, lengths=lengths), ls.Inputs(1 - frames, lengths=lengths)
    return batch, ls.Transcripts(((4, 4), (3, 0, 1, 2))), ls.Transcripts(((4, 5), (3, 0, 2, 2)))


def annotated() -> tuple[ls.Secret, ls.Attribute, ls.Attribute]:
    """Two persons among seven, the truth about them and a ranking that has it upside down."""
    secret = ls.Secret(spoken(names.rows(Family.METRICS)[0])[0], (ls.Annotation("speaker", (4, 2), tuple("abcdefg")),))
    right = torch.eye(7)[[4, 2]]
    return secret, *(ls.Attribute("speaker", torch.tensor([4, 2]), scores=one) for one in (right, -right))


@pytest.mark.parametrize("row", names.rows(Family.METRICS), ids=lambda row: row.name)
def test_every_listed_metric_gives_the_top_to_the_truth_alone(row: names.Row) -> None:
    metric = eval(row.example, public_names())
    if metric.unavailable() is not None:
        assert Trait.NEEDS_EXTRA in row.traits
        return
    batch: ls.Batch | ls.Secret
    batch = ls.Batch(torch.rand(3, 3, 32, 32, generator=ls.Key(0).generator()), torch.tensor([0, 1, 2]))
    truth: ls.AbstractClaim = ls.Inputs(batch.inputs, batch.labels)
    wrong: ls.AbstractClaim = ls.Inputs(1 - batch.inputs, (batch.labels + 3))
    if Trait.SPEECH in row.traits:
        batch, truth, wrong = spoken(row)
    if Trait.TEXT in row.traits:
        ids = torch.tensor([[5, 3, 3], [7, 2, 0], [4, 4, 8]])
        batch, truth = ls.Batch(ids, torch.tensor([0, 1, 2])), ls.Tokens(((7, 2), (4, 4, 8), (5, 3, 3)))
        wrong = ls.Tokens(((9, 2), (1, 4, 8), (5, 6, 3)))
    elif row.build is ls.LabelSet:
        truth, wrong = (ls.Labels(torch.tensor(one), distinct=True) for one in ([0, 1, 2], [0, 1, 3]))
    elif metric.refusal(truth) is not None:
        batch, truth, wrong = annotated()
    if metric.refusal(truth) is not None:  # of a kind of claim that brings its own: its own tests know what is true
        (own,) = [kind for kind in table.KINDS if kind.takes(metric)]
        assert type(metric) in {type(one) for one in own.default}
        return
    top, low = (ls.score(claim, batch, metrics=[metric])[metric.name] for claim in (truth, wrong))
    assert top.value == pytest.approx(top.perfect)
    assert (top.value - low.value) * (1 if top.direction is Direction.HIGHER else -1) > 0


# --- what loads -----------------------------------------------------------------------------------------------------


def test_reading_records_and_writing_pages_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import leakscope, leakscope.report.page_run, leakscope.ledger.run_folder\n"
        "assert leakscope.__version__ and 'FedSGD' in dir(leakscope)\n"
        "assert not [m for m in sys.modules if m.startswith('torch.')]\n"
        "try:\n    leakscope.FedSGD\nexcept ImportError:\n    print('as it should be')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "as it should be"


def test_the_import_contracts_hold() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# --- errors ---------------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, str]:
    """Each class in the drawing at the top of core/errors.py with the one above it; the root with ''."""
    above: list[tuple[int, str]] = []
    found: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"(    [│├└─ ]*)([A-Z]\w+)(?:  .*)?", line)
        if match is None:
            continue
        depth, name = len(match.group(1)), match.group(2)
        above = [one for one in above if one[0] < depth]
        found[name] = above[-1][1] if above else ""
        above.append((depth, name))
    return found


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    list(modules())  # so that errors that are made elsewhere count too
    real: dict[str, str] = {"LeakscopeError": ""}
    waiting = [errors.LeakscopeError]
    while waiting:
        parent = waiting.pop()
        for child in parent.__subclasses__():
            assert child.__module__ == "leakscope.core.errors", f"{child} is not in the tree of core/errors.py"
            real[child.__name__] = parent.__name__
            waiting.append(child)
    assert drawn_tree() == real


def test_errors_are_caught_at_their_root_and_where_python_expects_them() -> None:
    assert issubclass(ls.BadInput, ValueError)
    assert issubclass(ls.MissingExtra, ImportError)
    for name in drawn_tree():
        assert issubclass(getattr(errors, name), ls.LeakscopeError)


# --- docstrings -----------------------------------------------------------------------------------------------------


def undocumented(source: str) -> list[str]:
    """Public classes, functions and methods without a docstring, by name."""
    found: list[str] = []

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")

    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        found.append("the module")
    look(tree.body, "")
    return found


def test_a_missing_docstring_is_seen() -> None:
    source = '"""m"""\nclass A:\n    """a"""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n'
    assert undocumented(source) == ["A.f", "h"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert undocumented(path.read_text(encoding="utf-8")) == []
