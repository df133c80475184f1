"""`leakscope bound`: the most that any attack reaches, and the noise that a promise needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from leakscope.bounds.accounting import Accountant, epsilon
from leakscope.bounds.calibration import EventOf, noise_for_advantage, noise_for_epsilon, noise_for_power
from leakscope.bounds.trade_off import Question, TradeOff, trade_off
from leakscope.cli.ending import Exit
from leakscope.cli.text.promise import Asked, Goal, Promise
from leakscope.core.errors import optional
from leakscope.numerics.decimals import upward

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Curves = dict[Question, TradeOff]


def bound(order: Asked) -> Exit:
    """Print epsilon, powers and advantage; with a promise, first the multiplier that keeps it."""
    sigma = order.sigma if order.promise is None else _kept(order.promise, lambda s: event(s, order))
    assert sigma is not None
    made = event(sigma, order)
    curves = {question: trade_off(made, question=question) for question in (Question.EITHER, Question.PRESENT)}
    if order.figure is not None:
        _draw(order.figure, curves, order, sigma)
    if order.as_json:
        print(json.dumps(_said(order, sigma, made, curves), indent=2))
    else:
        _show(order, sigma, made, curves)
    return Exit.NO_LEAK_FOUND


def event(sigma: float, order: Asked) -> DpEvent:
    """The accountant's description of the training."""
    dp = optional("dp_accounting", extra="dp", purpose="privacy accounting")
    once = dp.GaussianDpEvent(sigma)
    if order.rate < 1:
        once = dp.PoissonSampledDpEvent(order.rate, once)
    return dp.SelfComposedDpEvent(once, order.steps)


def _kept(promise: Promise, event_of: EventOf) -> float:
    if promise.at is None:
        return noise_for_advantage(event_of, advantage=promise.most)
    if promise.goal is Goal.TPR:
        return noise_for_power(event_of, tpr=promise.most, fpr=promise.at)
    return noise_for_epsilon(event_of, epsilon=promise.most, delta=promise.at)


def _said(order: Asked, sigma: float, made: DpEvent, curves: Curves) -> dict[str, Any]:
    return {
        "sigma": sigma,
        "sampling_rate": order.rate,
        "steps": order.steps,
        "epsilon": [
            {
                "delta": delta,
                **{one.value: _finite(epsilon(made, delta=delta, accountant=one)) for one in Accountant},
            }
            for delta in order.deltas
        ],
        "tpr": [
            {"fpr": rate, **{question.value: curve.power(rate) for question, curve in curves.items()}}
            for rate in order.rates
        ],
        "advantage": curves[Question.EITHER].advantage,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _show(order: Asked, sigma: float, made: DpEvent, curves: Curves) -> None:
    out = Console(soft_wrap=True, highlight=False)
    if order.promise is not None:
        at = "" if order.promise.at is None else f" at {order.promise.at:g}"
        out.print(
            f"for {order.promise.goal.value} <= {order.promise.most:g}{at}: --sigma {upward(sigma, 6)}, rounded up"
        )
    out.print(f"noise multiplier {sigma:g}, sampling rate {order.rate:g}, {order.steps} steps; one example in or out")
    table = Table(box=None, pad_edge=False)
    for heading in ("delta", "epsilon (pld)", "epsilon (rdp)"):
        table.add_column(heading, no_wrap=True)
    for delta in order.deltas:
        # All that follows is at most so much: the nearest number of four digits may be less.
        found = (upward(epsilon(made, delta=delta, accountant=one), 4) for one in Accountant)
        table.add_row(f"{delta:g}", *found)
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False)
    for heading in ("FPR", "largest TPR", "asked: is it in?", "of one guess: chance", "right at most"):
        table.add_column(heading, no_wrap=True)
    for rate in order.rates:
        either, present = (f"{upward(100 * curve.power(rate), 4)} %" for curve in curves.values())
        table.add_row(f"{100 * rate:g} %", either, present, f"{100 * rate:g} %", present)
    out.print(table)
    out.print(f"\nlargest TPR - FPR: {upward(curves[Question.EITHER].advantage, 4)}")
    out.print("The divisor of the noisy sum changes none of this, as long as it is a public constant.")
    if order.figure is not None:
        out.print(f"figure: {order.figure.resolve()}", markup=False)


def _draw(place: Path, curves: Curves, order: Asked, sigma: float) -> None:
    """Both curves over the false positive rate, which is logarithmic: few false alarms are what counts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from leakscope.report.figures import BLIND, FAINT, INK, STYLE, UNDEFENDED

    rates = np.concatenate([np.geomspace(1e-5, 0.1, 120), np.linspace(0.1, 1, 80)])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(rates, rates, color=FAINT, label="a guess")
        looks = {
            Question.EITHER: (INK, "-", "in or out, either way round"),
            Question.PRESENT: (UNDEFENDED, "--", "is it in?"),
        }
        for question, curve in curves.items():
            color, dashes, label = looks[question]
            axes.plot(rates, [curve.power(rate) for rate in rates], dashes, color=color, label=label)
        for rate in order.rates:
            power = curves[Question.EITHER].power(rate)
            if rate >= rates[0]:
                axes.plot([rate], [power], "o", color=INK, markersize=5)
                axes.annotate(
                    f"{upward(100 * power, 3)} %", (rate, power), (-6, 5), textcoords="offset points", ha="right"
                )
        if order.promise is not None and order.promise.goal is Goal.TPR and order.promise.at:
            axes.plot(
                [order.promise.at],
                [order.promise.most],
                "D",
                color=BLIND,
                markersize=7,
                fillstyle="none",
                label="the promise",
            )
        axes.set(xscale="log", xlim=(rates[0], 1), ylim=(0, 1.04))
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("largest true positive rate of any attack")
        axes.set_title(f"noise multiplier {sigma:g}, sampling rate {order.rate:g}, {order.steps} steps", fontsize=9)
        axes.legend(frameon=False, loc="upper left")
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place, dpi=150)
