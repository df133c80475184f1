"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def plain(line: str) -> str:
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", line)


def test_the_ten_lines_run_and_print_what_is_shown() -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    shown = re.search(r"which prints\n\n```\n(.*?)```", TEXT, re.DOTALL)
    assert shown is not None
    printed = {line.split()[0]: line for line in out.getvalue().splitlines()}
    for line in shown[1].splitlines():
        # the last digits are the processor's; intervals and everything else between them are not
        assert plain(line) == plain(printed[line.split()[0]])
    value = float(printed["psnr"].split()[1])
    assert value > 50  # the last digits are the processor's


def test_every_file_it_points_to_is_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`?((?:plans|benchmarks|scripts)/[\w./-]+)`?", TEXT):
        assert (ROOT / path).exists(), path
