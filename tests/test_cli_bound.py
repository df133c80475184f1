"""`leakscope bound` from the command line: what it prints is what the functions say, and the promise is kept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from PIL import Image
from typer.testing import CliRunner

from leakscope.bounds.accounting import epsilon
from leakscope.bounds.trade_off import Question
from leakscope.bounds.upper import largest_advantage, largest_power
from leakscope.cli.main import app

SETTING = ("--sampling-rate", "0.5", "--steps", "20")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bound", *map(str, arguments)], catch_exceptions=False)


def event(sigma: float) -> SelfComposedDpEvent:
    return SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(sigma)), 20)


def test_what_is_said_is_what_is_computed() -> None:
    said = json.loads(call("--sigma", 1.5, *SETTING, "--fpr", 0.01, "--delta", 1e-3, "--delta", 1e-6, "--json").stdout)
    assert [row["delta"] for row in said["epsilon"]] == [1e-3, 1e-6]
    assert [row["pld"] for row in said["epsilon"]] == [epsilon(event(1.5), delta=delta) for delta in (1e-3, 1e-6)]
    wanted = {question.value: largest_power(event(1.5), fpr=0.01, question=question) for question in list(Question)[:2]}
    assert said["tpr"] == [{"fpr": 0.01, **wanted}]
    assert said["advantage"] == largest_advantage(event(1.5))


@pytest.mark.parametrize("promise", ["tpr=0.2@0.01", "advantage=0.3", "epsilon=4@1e-5"])
def test_the_noise_that_is_found_keeps_the_promise(promise: str) -> None:
    said = json.loads(call("--calibrate", promise, *SETTING, "--fpr", 0.01, "--json").stdout)
    kept = {"tpr": said["tpr"][0]["either"], "advantage": said["advantage"], "epsilon": said["epsilon"][0]["pld"]}
    name, most = re.findall(r"(\w+)=([\d.]+)", promise)[0]
    assert 0.99 * float(most) < kept[name] <= float(most)


def test_more_steps_than_can_be_convolved_are_refused_at_once() -> None:
    refused = call("--sigma", 1.0, "--sampling-rate", 0.01, "--steps", 10**8)
    assert refused.exit_code == 2
    assert "expected --steps <= 1000000 where examples are sampled, got 100000000" in " ".join(refused.output.split())
    # Without sampling the noise of all steps is that of one.
    said = json.loads(call("--sigma", 10**4, "--steps", 10**8, "--json").stdout)
    assert said["advantage"] == pytest.approx(json.loads(call("--sigma", 1.0, "--json").stdout)["advantage"], abs=1e-6)


def test_the_page_of_a_person_has_a_figure(tmp_path) -> None:
    place = tmp_path / "new" / "curve.png"
    result = call("--sigma", 1.0, "--figure", place)
    assert result.exit_code == 0
    # one step without sampling: Phi(Phi^-1(0.01) + 1) = 0.09236, rounded up twice, by the grid and in print
    assert "9.237 %" in result.stdout
    assert f"figure: {place}" in result.stdout.replace("\n", "")
    with Image.open(place) as image:
        assert image.size[0] > 500
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 10


def test_printed_bounds_are_never_below_what_is_computed() -> None:
    """An upper bound that is rounded to the nearest digit is none in half of all cases."""
    lower = 0
    for sigma in (0.83, 1.1, 1.37, 2.3):
        arguments = ("--sigma", sigma, *SETTING, "--fpr", 0.01, "--delta", 1e-5)
        text, said = call(*arguments).stdout, json.loads(call(*arguments, "--json").stdout)
        epsilons = re.search(r"^1e-05 +(\S+) +(\S+)", text, re.MULTILINE)
        powers = re.search(r"^1 % +(\S+) % +(\S+) %", text, re.MULTILINE)
        advantage = re.search(r"largest TPR - FPR: (\S+)", text)
        assert epsilons is not None
        assert powers is not None
        assert advantage is not None
        exact = [said["epsilon"][0]["pld"], said["epsilon"][0]["rdp"]]
        exact += [100 * said["tpr"][0]["either"], 100 * said["tpr"][0]["present"], said["advantage"]]
        for printed, value in zip((*epsilons.groups(), *powers.groups(), *advantage.groups()), exact, strict=True):
            assert value <= float(printed) < 1.002 * value
            lower += float(f"{value:.4g}") < value
    assert lower > 3, "to the nearest, some of these would have been too low"


def test_next_to_no_noise_has_no_epsilon_and_valid_json() -> None:
    said = json.loads(call("--sigma", 1e-300, "--json").stdout, parse_constant=pytest.fail)
    assert said["epsilon"][0]["pld"] is None
    assert said["tpr"][0]["either"] == 1.0
