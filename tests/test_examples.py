"""The example scripts run as a user runs them, and what they print is true."""

from __future__ import annotations

import re
import runpy
import wave
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TESTED = ("audit_my_model.py", "speech_gradient.py")


def printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> dict[str, str]:
    """What the script prints, by what stands before the first colon or blank."""
    monkeypatch.syspath_prepend(EXAMPLES)  # python puts the folder of a script there
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    return {re.split(r":\s+|\s+\d", line)[0]: line for line in lines}


def test_every_example_is_run_here_and_named_in_the_readme() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(TESTED)
    for name in TESTED:
        assert f"examples/{name}" in README


def test_audit_my_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed("audit_my_model.py", monkeypatch, capsys)
    update = re.search(r"psnr (\d+)", said["one update"])
    assert update is not None
    assert int(update[1]) > 100
    assert "FedSGD()" in said["leaks"]
    assert "GaussianNoise" in said["no leak found at this power"]
    page = Path(said["report"].removeprefix("report: "))
    assert "My model" in page.read_text(encoding="utf-8")


def test_speech_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("espeakng_loader")
    said = printed("speech_gradient.py", monkeypatch, capsys, str(tmp_path))
    assert len(said["said"].split()) > 2
    assert said["claimed"].split()[1:] == said["said"].split()[1:]
    assert float(said["frame-error"].split()[1]) < 1e-3
    with wave.open(str(tmp_path / "recovered.wav")) as sound:
        assert sound.getframerate() == 16_000
        assert sound.getnframes() > 16_000
