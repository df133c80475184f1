"""The figure of attacks beside theory: what was found of one example against epsilon, below the bound of any attack."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fixtures.report_run import synthetic

import leakscope as ls
from leakscope.audit.game import game, threshold
from leakscope.audit.outcome import HELD
from leakscope.audit.promises import Promises
from leakscope.bounds.upper import power_curve, replaced_epsilon
from leakscope.ledger.record import CellSpec, Ending, GameRecord, GroupVerdict, Record, Role, ScoreRecord, Word
from leakscope.report import beside_bound, withheld
from leakscope.report.page_run import render

GAME = GameRecord(trials=8, fpr=1 / 9, found=0.5, low=0.16, high=0.84, shown=0.4, power=0.9, allowed=3.0)
BARE = GAME.model_copy(update={"found": 1.0, "high": 1.0, "power": 1.0, "allowed": math.inf})


def verdict(epsilon: float | None, found: GameRecord | None, *, attack: str = "HeadImages(x)", broken: str = "") -> Any:
    """A group of a scene, as the runner writes it."""
    return GroupVerdict(
        title=f"heads · batch of 10 · Noise({epsilon}) · {attack}", target="t", dataset="d", mechanism="m",
        attack=attack, word=Word.INCONCLUSIVE, sentence="", members=(), undefended=(), blind=(), planned=8, finished=8,
        scores=(), undefended_scores=(), blind_scores=(), epsilon=epsilon, delta=1e-5, game=found,
        undefended_game=BARE, broken=broken,
    )  # fmt: skip


def test_levels_stand_in_the_order_of_epsilon_with_the_undefended_control_last() -> None:
    (drawn,) = beside_bound.figures([verdict(80.0, GAME), verdict(math.inf, GAME), verdict(5.0, GAME)])
    assert [drawn.alt.find(said) for said in ("epsilon 5:", "epsilon 80:", "epsilon ∞:", "epsilon ∞ (undef")] == sorted(
        drawn.alt.find(said) for said in ("epsilon 5:", "epsilon 80:", "epsilon ∞:", "epsilon ∞ (undef")
    )
    assert "found 0.5, interval 0.16 to 0.84, of at most 0.9; epsilon shown 0.4 of 3 allowed" in drawn.alt
    assert drawn.alt.count("(undefended)") == 1, "three mechanisms share it"
    assert "With 8 trials a rate of 1 % cannot be asked about" in drawn.note
    svg = base64.b64decode(drawn.source.partition("base64,")[2]).decode()
    assert "found at 11 % false positives" in svg, "not the 1 % that eight trials cannot ask for"
    assert "accuracy on public data" not in svg, "nobody measured it"


def test_one_epsilon_is_no_figure_and_neither_are_two_attacks_with_one_each() -> None:
    assert not beside_bound.figures([verdict(5.0, GAME), verdict(math.inf, GAME), verdict(9.0, None)])
    assert not beside_bound.figures([verdict(5.0, GAME), verdict(9.0, GAME, attack="Other()"), verdict(None, GAME)])


def test_what_is_shown_above_what_is_allowed_is_said_and_a_broken_promise_stands_in_the_figure() -> None:
    over = GAME.model_copy(update={"shown": 3.5})
    (drawn,) = beside_bound.figures([verdict(5.0, over), verdict(80.0, GAME)])
    assert "More is shown than is allowed at epsilon 5:" in drawn.note
    (drawn,) = beside_bound.figures([verdict(5.0, over, broken="more than it may"), verdict(80.0, GAME)])
    assert "The promise is broken at epsilon 5." in drawn.note
    assert "the promise is broken" in drawn.alt
    assert "PROMISE BROKEN" in base64.b64decode(drawn.source.partition("base64,")[2]).decode()


def test_the_figure_is_on_the_page_and_a_page_of_few_examples_withholds_it() -> None:
    summary, _ = synthetic()
    groups = tuple(verdict(epsilon, replace_accuracy(GAME)) for epsilon in (5.0, 80.0))
    page = render(summary.model_copy(update={"groups": groups}), {})
    assert "HeadImages: what was found against epsilon, below the bound" in page
    assert "accuracy 0.25" in page
    few = ScoreRecord(metric="psnr", value=1.0, unit="dB", higher_is_better=True, low=0.0, high=2.0, chance=0.0,
                      perfect=9.0, items=(1.0,))  # fmt: skip
    thin = summary.model_copy(update={"groups": tuple(one.model_copy(update={"scores": (few,)}) for one in groups)})
    assert not beside_bound.figures(withheld.summary(thin).groups)


def replace_accuracy(found: GameRecord) -> GameRecord:
    return found.model_copy(update={"accuracy": (0.25, -math.inf, math.inf)})


def record(score: float, accuracy: float | None = None) -> Record:
    spec = CellSpec(role=Role.AUDITED, target="t", dataset="d", mechanism="m", attack="a", batch_size=1, told=(),
                    metrics=(), trial=0, seed=0)  # fmt: skip
    one = ScoreRecord(metric="psnr", value=score, unit="dB", higher_is_better=True, low=score, high=score, chance=0.0,
                      perfect=120.0, items=(score,))  # fmt: skip
    return Record(identity="i", spec=spec, ending=Ending.CLAIMED, sentence="", scores=(one,), accuracy=accuracy)


def test_the_share_that_is_found_is_of_the_rate_that_the_trials_allow() -> None:
    """Of 8 trials 5 are above the best of the control, and another of the control is so with probability 1 / 9."""
    present = [record(score, 0.1 * score / 10) for score in (30, 29, 28, 27, 26, 10, 9, 8)]
    absent = [record(score) for score in (25, 12, 11, 10, 9, 8, 7, 6)]
    noisy = ls.PrivateHeadTraining(ls.HeadTraining(8, 0.05, 0.002), ls.DPSGD(4.0, 8.0, expected=5, rate=0.5))
    found = game(noisy, (present, absent), Promises(1e-5))
    assert found is not None
    assert (found.trials, found.fpr, found.found) == (8, pytest.approx(1 / 9), 0.625)
    assert found.low == pytest.approx(0.2449, abs=1e-4), "Clopper and Pearson's of 5 in 8"
    assert found.power == pytest.approx(power_curve(noisy.event(), replaced=True)(1 / 9))
    assert found.allowed == pytest.approx(replaced_epsilon(noisy.event(), delta=1e-5))
    assert found.accuracy is not None
    assert found.accuracy[0] == pytest.approx(sum((30, 29, 28, 27, 26, 10, 9, 8)) / 800)
    assert game(noisy, (present[:1], absent[:1]), Promises(1e-5)) is None
    bare = game(noisy.undefended, (present, absent), Promises(1e-5))
    assert bare is not None
    assert (bare.power, bare.allowed) == (1.0, math.inf)


def test_the_stated_rate_is_how_often_another_trial_of_the_control_is_above_the_threshold() -> None:
    """By draws: scores of the control and one more, all from one law."""
    for trials in (5, 99, 250):
        rank, rate = threshold(trials)
        drawn = torch.rand(20_000, trials + 1, generator=torch.Generator().manual_seed(trials))
        limits = drawn[:, :-1].sort(dim=1, descending=True).values[:, rank]
        assert float((drawn[:, -1] > limits).double().mean()) == pytest.approx(rate, abs=4 * math.sqrt(rate / 20_000))


def test_a_model_that_fails_on_many_examples_has_no_accuracy_and_its_cell_is_judged(monkeypatch: Any) -> None:
    from tests.audit_toys import Guesses, toy_plan

    from leakscope.audit import outcome
    from leakscope.audit.cell import set_up
    from leakscope.audit.plan import Scene

    plan = toy_plan(scenes=(Scene("head", ls.Digits(size=8), ls.LinearProbe(ls.MLP((16,)), 26)),),
                    mechanisms=(ls.HeadTraining(4, 0.5, 0.02),), attacks=(Guesses(),), batch_sizes=(4,))  # fmt: skip
    cell = next(one for one in plan.cells() if one.role is Role.AUDITED)
    stage = set_up(cell)

    def fails(*_: Any) -> Any:
        raise RuntimeError("made for 4")

    monkeypatch.setattr(stage.target.module, "forward", fails)
    assert outcome._accuracy(cell, stage, cell.scene.source.public()) is None


@pytest.mark.parametrize("probe", [ls.LinearProbe(ls.MLP((16,)), 26), None])
def test_the_accuracy_of_a_record_is_that_of_the_released_weights(probe: Any) -> None:
    from tests.audit_toys import Guesses, toy_plan

    from leakscope.audit.cell import set_up
    from leakscope.audit.plan import Scene
    from leakscope.audit.work import run_cell

    source = ls.Digits(size=8)
    mechanism = ls.FedSGD() if probe is None else ls.HeadTraining(4, 0.5, 0.02)
    plan = toy_plan(scenes=(Scene("head", source, probe or ls.Linear()),), mechanisms=(mechanism,),
                    attacks=(Guesses(),), batch_sizes=(4,))  # fmt: skip
    cell = next(one for one in plan.cells() if one.role is Role.AUDITED)
    measured = run_cell(cell).record.accuracy
    if probe is None:
        assert measured is None, "a gradient is no model"
        return
    stage = set_up(cell)
    weights, public = stage.seen.release.by_name, source.public()
    stage.target.module.head.weight.data.copy_(weights["head.weight"])
    stage.target.module.head.bias.data.copy_(weights["head.bias"])
    with torch.no_grad():
        right = stage.target.module(public.inputs[:HELD]).argmax(1) == public.labels[:HELD]
    assert measured == pytest.approx(float(right.double().mean()))
    blind = next(one for one in plan.cells() if one.role is Role.BLIND)
    assert run_cell(replace(blind)).record.accuracy is None
