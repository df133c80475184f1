"""Rewrites the tree in ARCHITECTURE.md: folders with the first sentence of their docstring, modules without a row.

    .venv/bin/python scripts/draw_tree.py

`tests/test_docs.py` fails where the drawn tree is not the package.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from leakscope.cli.text.index import rows

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "leakscope"
FIRST = ("cli", "integrations", "report", "audit", "attacks", "scoring", "bounds", "mechanisms", "targets", "datasets")
LAST = ("domains", "ledger", "core", "numerics")
WIDTH = 118


def said(folder: Path) -> str:
    """What the docstring of a folder says in its first sentence."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(". ")[0].rstrip(".")


def drawn(folder: Path, tabled: set[Path], depth: int) -> list[str]:
    """The lines of one folder: its modules first, then the folders inside."""
    indent = "    " * depth
    modules = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py" and path not in tabled)
    lines, line = [], indent
    for name in modules:
        if len(line) + len(name) > WIDTH:
            lines.append(line.rstrip())
            line = indent
        line += name + "  "
    lines += [line.rstrip()] if line.strip() else []
    inside = [path.parent for path in folder.glob("*/__init__.py")]
    order = {name: place for place, name in enumerate((*FIRST, *LAST))}
    for one in sorted(inside, key=lambda path: (order.get(path.name, 99), path.name)):
        lines.append(f"{indent}{one.name + '/':<{max(26 - len(indent), len(one.name) + 3)}}{said(one)}")
        lines += drawn(one, tabled, depth + 1)
    return lines


def main() -> None:
    """Write the tree in place."""
    tabled = {ROOT / "src" / f"{row.home.replace('.', '/')}.py" for row in rows()}
    tabled -= set((PACKAGE / "core").glob("*.py"))  # a loss or a feed has a row, but the nouns are read together
    tree = "\n".join(["leakscope/", *drawn(PACKAGE, tabled, 1)])
    path = ROOT / "ARCHITECTURE.md"
    text = path.read_text(encoding="utf-8")
    new = re.sub(r"```text\nleakscope/\n.*?```", lambda _: f"```text\n{tree}\n```", text, count=1, flags=re.DOTALL)
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
