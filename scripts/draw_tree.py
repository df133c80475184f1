"""Rewrites what says where things are: the tree in ARCHITECTURE.md, and docs/files.md with a sentence for each module.

    .venv/bin/python scripts/draw_tree.py

The tree has the folders and the modules without a row in the table of names, as an overview; the list has every module
with the first sentence of its docstring, for whoever looks for the place where something is decided.
`tests/test_docs.py` fails where either is not the package.
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


LIST = """# What is in which file

Every module of `src/leakscope` with the first sentence of its docstring, written by `scripts/draw_tree.py`. The
overview is the tree in [ARCHITECTURE.md](../ARCHITECTURE.md).
"""


def said(module: Path) -> str:
    """What the docstring of a module, or of a folder's `__init__`, says in its first sentence."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    # A first sentence may go over a line; it never goes over a paragraph.
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


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
        lines.append(f"{indent}{one.name + '/':<{max(26 - len(indent), len(one.name) + 3)}}{said(one / '__init__.py')}")
        lines += drawn(one, tabled, depth + 1)
    return lines


def listed() -> str:
    """The list of all modules, folder by folder in the order of the tree."""
    order = {name: place for place, name in enumerate((*FIRST, *LAST))}

    def place(folder: Path) -> tuple[int, Path]:
        inside = folder.relative_to(PACKAGE)
        return order.get(inside.parts[0], 99) if inside.parts else -1, inside

    parts = [LIST]
    for folder in sorted((path.parent for path in PACKAGE.rglob("__init__.py")), key=place):
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        if modules:
            name = f"{folder.relative_to(PACKAGE.parent).as_posix()}/"
            parts.append(f"\n## {name}\n\n{said(folder / '__init__.py')}.\n\n")
            parts += [f"- `{path.name}`: {said(path)}\n" for path in modules]
    return "".join(parts)


def main() -> None:
    """Write both in place."""
    tabled = {ROOT / "src" / f"{row.home.replace('.', '/')}.py" for row in rows()}
    tabled -= set((PACKAGE / "core").glob("*.py"))  # a loss or a feed has a row, but the nouns are read together
    tree = "\n".join(["leakscope/", *drawn(PACKAGE, tabled, 1)])
    path = ROOT / "ARCHITECTURE.md"
    text = path.read_text(encoding="utf-8")
    new = re.sub(r"```text\nleakscope/\n.*?```", lambda _: f"```text\n{tree}\n```", text, count=1, flags=re.DOTALL)
    path.write_text(new, encoding="utf-8")
    (ROOT / "docs" / "files.md").write_text(listed(), encoding="utf-8")


if __name__ == "__main__":
    main()
