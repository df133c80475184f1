"""The demo of a federation of speakers: the packaged plan, on a corpus that is spoken in a second."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from leakscope.cli.commands import demo, federation
from leakscope.cli.ending import Exit
from leakscope.cli.main import app
from leakscope.cli.options.demo import Subject
from leakscope.cli.text.federation import parse
from leakscope.cli.text.sheet import Sheet

PACKAGED = demo._text(Subject.EMOTION)


@pytest.fixture
def _small(monkeypatch):
    pytest.importorskip("opensmile")
    text = PACKAGED.replace("speakers=32, each=3", "speakers=8, each=1").replace("rounds=40", "rounds=2")
    text = text.replace("fraction=0.25", "fraction=1.0").replace("batch=20", "batch=4")
    assert text.count("rounds=2") == 2
    assert "speakers=8" in text
    monkeypatch.setattr(demo, "_text", lambda _: text)


def test_the_packaged_plan_asks_for_what_the_help_says():
    said = parse(Sheet("emotion.toml", PACKAGED))
    assert said.attributes == ("sex",)
    assert said.shuffled
    plain, private = said.federations
    assert "privacy" not in plain
    assert "UserLevel(" in private


@pytest.mark.usefixtures("_small")
def test_it_ends_in_a_page_and_goes_on_in_its_folder(tmp_path, monkeypatch):
    out = tmp_path / "demo"
    # The first is stopped after its first answer, as by Ctrl-C.
    whole, told = federation.run, []

    def stopped(plan, folder, *, tell, watch):
        def listen(line):
            told.append(line)
            if line.startswith("[2/"):
                raise KeyboardInterrupt
            tell(line)

        return whole(plan, folder, tell=listen, watch=watch)

    monkeypatch.setattr(federation, "run", stopped)
    first = CliRunner().invoke(app, ["demo", "emotion", "--out", str(out)])
    assert first.exit_code == Exit.INCOMPLETE
    kept = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    assert kept
    monkeypatch.setattr(federation, "run", whole)
    second = CliRunner().invoke(app, ["demo", "emotion", "--out", str(out)])
    # Of four private persons a side nothing can be said, and the demo ran to its end all the same.
    assert second.exit_code == Exit.NO_LEAK_FOUND, second.output
    assert "inconclusive" in second.output
    assert (out / "report.html").is_file()
    assert str((out / "report.html").resolve()) in second.output.replace("\n", "")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    third = CliRunner().invoke(app, ["demo", "emotion", "--out", str(out), "--json"])
    said = json.loads(third.stdout)
    assert [row["part"] for row in said["summary"]["rows"]].count("audited") == 2


def test_a_folder_of_something_else_stays_what_it_is(tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "emotion", "--out", str(tmp_path)])
    assert result.exit_code == Exit.USAGE
    assert [path.name for path in tmp_path.iterdir()] == ["photo.txt"]


def test_where_it_is_kept():
    assert Subject.EMOTION.folder == "demo-emotion"
