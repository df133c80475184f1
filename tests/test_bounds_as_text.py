"""Bounds as text, wherever they are printed: an upper one never below what it stands for, a lower one never above."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from scipy import stats

import leakscope as ls
from leakscope.audit import theory
from leakscope.audit.promises import _allowed
from leakscope.bounds.lower import lower_from_guesses
from leakscope.cli.console import _epsilon
from leakscope.ledger.record import GameRecord
from leakscope.numerics.decimals import downward_share, upward_share
from leakscope.report.beside_bound import Level, _said
from leakscope.report.page_federation import epsilons
from leakscope.report.tables import at_least, at_most

ROW = SimpleNamespace(epsilons=(1.00004, 2.71841, float("inf")), epsilon=1.00004, delta=1e-5)
GAME = GameRecord(
    trials=8, fpr=0.1, found=0.1, low=0.0, high=0.2, shown=0.12349, power=0.12341, allowed=3.00004, accuracy=None
)


def percent(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    assert found, said
    return float(found[1]) / 100


@pytest.mark.parametrize("sigma", [2.1, 2.7, 3.3, 4.9])
def test_what_no_attack_passes_is_rounded_up_and_what_was_shown_down(sigma: float) -> None:
    """To the nearest, tests with up to 3.4 % true were up to 3 %, which is no bound."""
    mechanism = ls.DPSGD(1.0, sigma)
    share, epsilon = theory.largest_share(mechanism, chance=0.1), theory.theory(mechanism, delta=1e-5).epsilon
    said = theory.contradiction(mechanism, right=290, guesses=300, chance=0.1)
    assert percent(r"in more than ([\d.]+)%", said) >= share
    assert percent(r"at least ([\d.]+)% with", said) <= stats.beta.ppf(theory.DOUBT, 290, 11)
    shown = lower_from_guesses(290, 300, chance=0.1, delta=1e-5, level=1 - theory.DOUBT)
    assert 100 * percent(r"epsilon at least ([\d.]+)", said) <= shown
    assert 100 * percent(r"against ([\d.]+) by its event", said) >= epsilon
    said = theory.broken_by_scores(mechanism, present=[9.0] * 60, absent=[1.0] * 60)
    power = theory.replaced_power(mechanism, fpr=100 * percent(r"rate of at most ([\d.]+) \(conf", said))
    assert 100 * percent(r"has more than ([\d.]+) there", said) >= 0.999 * power

    judged = [(SimpleNamespace(scores=()), SimpleNamespace(mechanism=mechanism))]
    power = theory.largest_power(mechanism, fpr=0.01)
    assert percent(r"up to ([\d.]+)% true", _allowed(judged, ())) >= power


def test_pages_and_the_console_round_bounds_to_their_side() -> None:
    assert epsilons(ROW) == "1.001 / 2.719 / infinite"
    assert _epsilon(ROW) == " [epsilon 1.01 at delta 1e-05]"
    said = _said(Level(1.00004, GAME))
    assert "epsilon 1.01: found 0.1" in said
    assert "of at most 0.1235; epsilon shown 0.1234 of 3.001 allowed" in said


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.12345, 0.5, 0.999951, 1.0, 2 / 3])
def test_a_bound_stays_one(value: float) -> None:
    assert float(downward_share(value)[:-1]) / 100 <= value <= float(upward_share(value)[:-1]) / 100
    assert float(downward_share(value, 1)[:-1]) / 100 <= value * (1 + 1e-15)
    assert at_most(1 + value) >= at_least(1 + value)
    assert float(at_least(1 + value)) <= 1 + value <= float(at_most(1 + value))
