"""The documents say what the code does: the tree, the contracts, the laws, the cards and the examples are checked."""

from __future__ import annotations

import ast
import doctest
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

import leakscope
from leakscope.audit import files, measures
from leakscope.cli import names
from leakscope.cli.commands import score as score_command
from leakscope.cli.names import Family
from leakscope.cli.text.asked import Comparison
from leakscope.ledger.record import Word
from leakscope.scoring.kinds import table
from leakscope.scoring.kinds.table import KINDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "leakscope"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CARDS = ROOT / "docs" / "cards"

CARDED = (Family.ATTACKS, Family.DEFENSES, Family.PROTOCOLS, Family.METRICS)
CARD_ROWS = [row for family in CARDED for row in names.rows(family)]
HEADINGS = ["Needs", "What it gives", "Cost", "Known failures", "How to choose it", "Source"]


def section(document: Path, title: str) -> str:
    """The text under the heading `## title`, without the sections after it. Headings inside fences are text."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    fenced = False
    for line in document.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            assert line[3:] not in found, f"{document.name} has two sections called {line[3:]!r}"
            current = found.setdefault(line[3:], [])
        else:
            current.append(line)
    assert title in found, f"{document.name} has no section called {title!r}"
    return "\n".join(found[title]) + "\n"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# --- ARCHITECTURE.md ------------------------------------------------------------------------------------------------


def drawn_modules(block: str) -> list[str]:
    """The modules in a drawn tree, as paths under its root.

    A line whose first word ends in `/` opens a folder at its indentation, the rest of it is a comment; on any other
    line every word is a module of the folder above it with less indentation.
    """
    found: list[str] = []
    open_folders: list[tuple[int, str]] = []
    for line in filter(str.strip, block.splitlines()):
        depth, words = len(line) - len(line.lstrip()), line.split()
        open_folders = [one for one in open_folders if one[0] < depth]
        inside = "".join(name for _, name in open_folders)
        if words[0].endswith("/"):
            open_folders.append((depth, words[0]))
            continue
        for word in words:
            assert re.fullmatch(r"\w+\.py", word), f"{word!r} in the tree is no module"
            found.append(inside + word)
    return found


def test_a_drawn_tree_is_read_as_drawn() -> None:
    block = "top/   a comment\n    one.py  two.py\n    in/   x\n        three.py\n    four.py\n"
    assert drawn_modules(block) == ["top/one.py", "top/two.py", "top/in/three.py", "top/four.py"]


def test_the_tree_is_the_package() -> None:
    (block,) = blocks(section(ARCHITECTURE, "The tree"), "text")
    drawn = drawn_modules(block)
    real = {f"leakscope/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    real = {name for name in real if not name.endswith("__init__.py")}
    # what the table points at has a card and costs three files, of which ARCHITECTURE.md is none
    rows = {f"{row.build.__module__.replace('.', '/')}.py" for row in names.ROWS}
    # so do the kinds of claims: the module of the kind and that of the claim
    pointed = (one for kind in KINDS for one in (type(kind).__module__, kind.claims.__module__))
    rows |= {f"{name.replace('.', '/')}.py" for name in pointed}
    missing, gone = sorted(real - set(drawn) - rows), sorted(set(drawn) - real)
    assert len(drawn) == len(set(drawn)), "a module is drawn twice"
    assert not missing, f"add to the tree in ARCHITECTURE.md: {missing}"
    assert not gone, f"remove from the tree in ARCHITECTURE.md: {gone}"


def test_the_list_of_files_says_what_their_docstrings_say() -> None:
    """A module that the table points at has a row there and may be missing here, since it costs three files."""
    folder, said = "", {}
    for line in (ROOT / "docs" / "files.md").read_text(encoding="utf-8").splitlines():
        folder = line[3:] if line.startswith("## ") else folder
        if found := re.fullmatch(r"- `(\w+\.py)`: (.+)", line):
            said[folder + found[1]] = found[2]
    rows = {f"{row.build.__module__.replace('.', '/')}.py" for row in names.ROWS}
    for path in PACKAGE.rglob("*.py"):
        name = f"leakscope/{path.relative_to(PACKAGE).as_posix()}"
        if path.name != "__init__.py" and (name in said or name not in rows):
            first = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
            assert name in said, f"run scripts/draw_tree.py: {name} is not in docs/files.md"
            assert first.startswith(said.pop(name)), (
                f"run scripts/draw_tree.py: docs/files.md says something else of {name}"
            )
    assert not said, f"run scripts/draw_tree.py: {sorted(said)} are no more"


def test_every_folder_of_the_package_holds_something() -> None:
    for folder in PACKAGE.rglob("__init__.py"):
        assert any(path.name != "__init__.py" for path in folder.parent.rglob("*.py")), f"{folder.parent} is empty"
        body = ast.parse(folder.read_text(encoding="utf-8")).body
        assert folder.parent == PACKAGE or len(body) <= 1, f"{folder} holds more than its docstring: a second door"


def test_the_contracts_are_those_that_are_checked() -> None:
    (block,) = blocks(section(ARCHITECTURE, "The import contracts"), "toml")
    said = tomllib.loads(block)["tool"]["importlinter"]
    assert said == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def classes_of(source: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}


def shape(node: ast.ClassDef) -> dict[str, str]:
    """Fields and methods of a class as they are declared, decorators included, bodies and docstrings left out."""
    said = {"class": ", ".join(map(ast.unparse, node.bases)) + " " + " ".join(map(ast.unparse, node.decorator_list))}
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            said[ast.unparse(item.target)] = ast.unparse(item)
        elif isinstance(item, ast.FunctionDef):
            marks = " ".join(map(ast.unparse, item.decorator_list))
            returns = "" if item.returns is None else ast.unparse(item.returns)
            said[item.name] = f"{marks} ({ast.unparse(item.args)}) -> {returns}"
    return said


def test_the_core_reads_as_printed() -> None:
    """Each class that is printed is declared in the code with exactly these fields, arguments and decorators."""
    (core,), (ledger,) = (blocks(section(ARCHITECTURE, title), "python") for title in ("The core", "The ledger"))
    printed = [*classes_of(core).values(), *classes_of(ledger).values()]
    nouns = {"Batch", "Observation", "AbstractMechanism", "AbstractAttack", "AbstractSource", "CellSpec", "Record"}
    assert nouns <= {node.name for node in printed}
    real: dict[str, ast.ClassDef] = {}
    for path in PACKAGE.rglob("*.py"):
        real.update(classes_of(path.read_text(encoding="utf-8")))
    for node in printed:
        there = shape(real[node.name])
        for name, said in shape(node).items():
            assert there.get(name) == said, f"{node.name}.{name} is {there.get(name)!r} in the code"


def law_rows() -> list[list[str]]:
    lines = [line for line in section(ARCHITECTURE, "The laws").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_laws_are_there() -> None:
    assert len(law_rows()) >= 14
    assert all(len(row) == 3 for row in law_rows())


@pytest.mark.parametrize("row", law_rows(), ids=lambda row: row[0])
def test_each_law_is_held_by_tests_that_exist(row: list[str]) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row[2])
    assert tests, f"the law {row[0]!r} names no test"
    for path, function in tests:
        assert (ROOT / path).is_file(), f"{path} does not exist"
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or (function.startswith("test_") and function in defined), f"{path} has no {function}"


# --- cards, verdicts, changelog, links ------------------------------------------------------------------------------


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, flags=re.MULTILINE)


def check_card(card: str, row: names.Row) -> None:
    """The card of `row` has the title, every heading in order, a sentence under each, and the row's example."""
    assert card.startswith(f"# {row.name}\n")
    assert headings(card) == HEADINGS
    for heading, text in zip(HEADINGS, re.split(r"^## .+$", card, flags=re.MULTILINE)[1:], strict=True):
        assert len(text.split()) >= 3, f"the card of {row.name} says nothing under {heading!r}"
    assert row.example in card, f"the card of {row.name} does not show its example, {row.example}"


@pytest.mark.parametrize("row", CARD_ROWS, ids=lambda row: row.name)
def test_every_row_has_a_card_with_all_headings(row: names.Row) -> None:
    path = ROOT / row.card
    assert row.card == f"docs/cards/{row.name}.md"
    assert path.is_file(), f"write {row.card}: half a page under the headings {', '.join(HEADINGS)}"
    check_card(path.read_text(encoding="utf-8"), row)


def test_no_card_is_orphaned_and_no_name_has_two() -> None:
    assert sorted(path.name for path in CARDS.iterdir()) == sorted(f"{row.name}.md" for row in CARD_ROWS)
    assert len({row.name for row in CARD_ROWS}) == len(CARD_ROWS)


def test_cards_name_only_what_exists() -> None:
    """Whatever looks like a call in a card is a name of the table or of the package, or a claim of some kind."""
    known = {*names.vocabulary(), *leakscope.__all__, *(kind.claims.__name__ for kind in KINDS)}
    for path in CARDS.iterdir():
        called = set(re.findall(r"`(?:ls\.)?([A-Za-z]\w*)\(", path.read_text(encoding="utf-8")))
        assert called <= known, f"{path.name} names {sorted(called - known)}"


GUIDES = [ROOT / "docs" / name for name in ("choosing-an-attack.md", "threat-models.md", "reading-a-report.md")]
STUDIES = sorted((ROOT / "docs" / "studies").glob("*.md"))


@pytest.mark.parametrize("document", [*GUIDES, *STUDIES], ids=lambda path: path.name)
def test_guides_and_studies_name_only_what_exists(document: Path) -> None:
    """A backticked word with a capital inside a name or before a bracket is a name of the table or of the package."""
    text = document.read_text(encoding="utf-8")
    known = {*names.vocabulary(), *leakscope.__all__}
    said = set(re.findall(r"`(?:ls\.)?([A-Z]\w*[a-z]\w*|[a-z]\w*(?=\())", text)) - {"event"}
    assert said <= known, f"{document.name} names {sorted(said - known)}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert document.relative_to(ROOT).as_posix() in readme, f"link {document.name} from README.md"


@pytest.mark.parametrize("document", STUDIES, ids=lambda path: path.name)
def test_a_study_names_the_plan_or_the_script_that_makes_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    commands = re.findall(r"(?:leakscope audit|python) ((?:plans|benchmarks)/[\w./-]+)", text)
    assert commands
    for path in commands:
        assert (ROOT / path).is_file(), f"{document.name} names {path}"


def test_the_rule_of_the_verdicts_has_the_numbers_of_the_code() -> None:
    text = " ".join((ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8").split())
    for word in Word:
        assert f"**{word.value}**" in text
    for name, value in (
        ("TRIALS", f"{measures.TRIALS} trials"),
        ("MARGIN", f"{measures.MARGIN:g} dB"),
        ("ITEM_GAIN", f"{measures.ITEM_GAIN:g} dB"),
        ("ITEM_BAR", f"{measures.ITEM_BAR:g} dB"),
        ("LUCK", f"{100 * measures.LUCK:g} %"),
        ("HEARD", "half" if measures.HEARD == 0.5 else "?"),
    ):
        assert f"`{name}`" in text, f"docs/verdicts.md does not name {name}"
        assert re.search(rf"(?<![\d.]){re.escape(value)}", text), f"docs/verdicts.md does not say {name} = {value}"


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first is not None
    assert first.group(1) == leakscope.__version__


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|mailto:|#", link):
            assert (document.parent / link.partition("#")[0]).exists(), f"{document.name} links to {link}"


def test_no_document_names_a_folder_of_one_machine() -> None:
    local = re.compile(r"(?<![\w.])/(?:home|work|Users|root|tmp)/")
    assert [document.name for document in DOCUMENTS if local.search(document.read_text(encoding="utf-8"))] == []


# --- CONTRIBUTING.md ------------------------------------------------------------------------------------------------

TOYS = {"An attack": Family.ATTACKS, "A defense": Family.DEFENSES, "A metric": Family.METRICS}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """The modules of all sections: a later one may use an earlier one."""
    return {title: written_module(blocks(section(CONTRIBUTING, title), "python")[0], monkeypatch) for title in TOYS}


def written_module(source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that a block headed `# src/leakscope/...py` describes, under the name that it would have."""
    path = source.partition("\n")[0].removeprefix("# ").strip()
    assert path.startswith("src/leakscope/")
    assert (ROOT / path).parent.is_dir()
    name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up; so do the imports that follow
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def written_row(source: str, module: types.ModuleType) -> names.Row:
    space = {**vars(names), **vars(module)}
    lines = [line for line in source.splitlines() if not line.startswith(("#", "from ", "import "))]
    (row,) = eval("(" + "\n".join(lines) + ")", space)
    assert isinstance(row, names.Row)
    return row


def unnamed(module: types.ModuleType) -> list[str]:
    """What the module defines itself without a docstring."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return [name for name, value in own.items() if not (value.__doc__ or "").strip()]


@pytest.mark.parametrize("title", TOYS)
def test_the_row_of_a_toy_builds_it(title: str, toys: dict[str, types.ModuleType]) -> None:
    module = toys[title]
    _, lines = blocks(section(CONTRIBUTING, title), "python")
    row = written_row(lines, module)
    assert row.family is TOYS[title]
    built = eval(row.example, vars(module))
    assert isinstance(built, names.KINDS[row.family])
    assert eval(repr(built), vars(module)) == built
    assert unnamed(module) == []
    (card,) = blocks(section(CONTRIBUTING, title), "markdown")
    check_card(card, row)


@pytest.mark.parametrize("title", TOYS)
def test_a_toy_works_as_its_session_shows(title: str, toys: dict[str, types.ModuleType]) -> None:
    (session,) = blocks(section(CONTRIBUTING, title), "pycon")
    runner = doctest.DocTestRunner()
    shown = doctest.DocTestParser().get_doctest(session, {}, title, "CONTRIBUTING.md", 0)
    written = doctest.DocTestFinder().find(toys[title], toys[title].__name__)
    for test in (shown, *written):
        runner.run(test)
    results = runner.summarize(verbose=False)
    assert results.failed == 0
    assert results.attempted > len(shown.examples), "the toy has no example in its docstring"


KIND = "A kind of claim"


@pytest.fixture
def kind_of_toy(monkeypatch: pytest.MonkeyPatch) -> list[types.ModuleType]:
    """The modules of the section, with its row in the table of kinds."""
    claim, kind, row, _ = blocks(section(CONTRIBUTING, KIND), "python")
    written = [written_module(one, monkeypatch) for one in (claim, kind)]
    (added,) = eval("(" + row.splitlines()[-1] + ")", vars(written[1]))
    monkeypatch.setattr(table, "KINDS", (*table.KINDS, added))
    return written


def test_a_kind_of_claim_needs_its_modules_and_rows_and_nothing_else(kind_of_toy: list[types.ModuleType]) -> None:
    *_, lines = blocks(section(CONTRIBUTING, KIND), "python")
    row = written_row(lines, kind_of_toy[1])
    assert row.family is Family.METRICS
    assert isinstance(eval(row.example, vars(kind_of_toy[1])), names.KINDS[row.family])
    (card,) = blocks(section(CONTRIBUTING, KIND), "markdown")
    check_card(card, row)
    assert [name for module in kind_of_toy for name in unnamed(module)] == []
    (session,) = blocks(section(CONTRIBUTING, KIND), "pycon")
    runner = doctest.DocTestRunner()
    shown = doctest.DocTestParser().get_doctest(session, {}, KIND, "CONTRIBUTING.md", 0)
    written = [test for one in kind_of_toy for test in doctest.DocTestFinder().find(one, one.__name__)]
    for test in (shown, *written):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_a_claim_of_a_new_kind_goes_from_file_to_page(kind_of_toy: list[types.ModuleType], tmp_path: Path) -> None:
    """What an attack of somebody else's claims, by a kind that the package does not know: scored, kept and drawn."""
    source, count = leakscope.Digits(size=8), vars(kind_of_toy[0])["Count"]
    secret = source.draw(3, key=leakscope.Key(1))
    target = leakscope.MLP((8,)).build(source.domain, source.classes, key=leakscope.Key(0))
    seen = leakscope.observe(target, secret.reveal(), leakscope.FedSGD(), key=leakscope.Key(0))
    made = leakscope.Attempt("Somebody()", leakscope.Outcome.CLAIMED, "because", count(3))
    files.write_update(tmp_path / "u", seen, files.Provenance("by hand"))
    files.write_secret(tmp_path / "s", secret, seen)
    files.write_claim(tmp_path / "c", seen, [made], made)
    order = Comparison(tmp_path / "c", tmp_path / "s", report=tmp_path / "page", as_json=True)
    score_command.score(order)
    page = (tmp_path / "page" / "score.html").read_text(encoding="utf-8")
    assert "<td>examples in the batch</td><td>3</td><td>3</td>" in page
    assert "count error" in page
