"""CONTRIBUTING.md's four examples, put where it says into a copy of the project: the laws of the tables hold them.

`tests/test_docs.py` runs the examples beside the package; this runs the package with the examples in it, since that is
what the reader of CONTRIBUTING.md will see.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILES = {
    "an attack": ("attacks/inputs/loudest.py", "cli/names.py", "cards/LoudestUnit.md"),
    "a defense": ("mechanisms/defenses/clamp.py", "cli/names.py", "cards/Clamp.md"),
    "a metric": ("scoring/metrics/absolute.py", "cli/names.py", "cards/MAE.md"),
    "a kind of claim": ("core/count.py", "scoring/kinds/count.py", "scoring/kinds/table.py"),
    "its metric": ("scoring/kinds/count.py", "cli/names.py", "cards/CountError.md"),
}
"""What each costs: three files."""

LAWS = (
    "tests/test_documented_fields.py", "tests/test_surface.py", "tests/test_cli_text.py", "tests/test_kinds.py",
    "tests/test_docs.py", "tests/laws/test_attacks.py", "tests/laws/test_bounds.py", "tests/test_cli.py",
)  # fmt: skip
"""The files whose tests cross a table."""

CHOSEN = (
    # tests of one row, or of one module, have its name
    *("LoudestUnit", "Clamp", "MAE", "CountError", "Count", "loudest", "clamp", "absolute", "count"),
    # tests of whole tables
    *("what_is_documented_is_there", "what_is_in_the_table_alone", "every_name_of_the_table", "the_table_has_each"),
    *("what_is_implemented_is_listed", "the_rows_that_are_read", "a_row_imports", "the_tree_is_the_package"),
    *("no_card_is_orphaned", "cards_name_only", "guides_and_studies", "is_of_one_kind", "the_blind_control_claims"),
    *("names_are_unique", "the_import_contracts_hold", "page_of_the_documentation"),
)
"""What the tests that hold the examples have in their names."""


def install(root: Path) -> set[str]:
    """Write every block of CONTRIBUTING.md to where it says. Returns the files that are new or changed."""
    touched, rows = set(), {"src/leakscope/cli/names.py": "row(_D, Clip,", "src/leakscope/scoring/kinds/table.py": ")"}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for language, body in re.findall(r"^```(python|markdown)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        first, _, rest = body.partition("\n")
        place = f"docs/cards/{first[2:]}.md" if language == "markdown" else first[2:]
        path = root / place
        if place in rows:
            added, row = rest.strip().split("\n", 1)
            old = path.read_text(encoding="utf-8")
            table = old.index("KINDS: tuple" if place.endswith("table.py") else "ROWS: ")
            spot = old.index(f"\n    {rows[place]}" if rows[place] != ")" else "\n)", table)
            new = f"{old[:spot]}\n    {row}{old[spot:]}"
            path.write_text(re.sub(r"^(?=from leakscope)", f"{added}\n", new, count=1, flags=re.M), encoding="utf-8")
        else:
            assert not path.exists(), f"{place} is there already: the example is no new file"
            path.write_text(body if language == "markdown" else rest, encoding="utf-8")
        touched.add(place)
    return touched


def test_the_examples_of_the_guide_are_held_by_the_laws_of_the_tables(tmp_path: Path) -> None:
    for name in ("src", "docs", "tests", "benchmarks", "examples", "plans"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for one in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(one, tmp_path)
    assert {re.sub(r"^(src/leakscope|docs)/", "", one) for one in install(tmp_path)} == set().union(*FILES.values())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *LAWS]
    told = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-k", " or ".join(CHOSEN)], cwd=tmp_path, env=told, capture_output=True, text=True, timeout=220
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
