"""No interval goes beyond what can be scored, and one that would hold every possible score is none."""

from __future__ import annotations

import math

import numpy as np
import torch
from tests.test_audit_verdict import claimed, images, score

import leakscope as ls
from leakscope.audit.evidence import evidence, pooled
from leakscope.audit.measures import MOST_GAIN
from leakscope.numerics import intervals

BATCH = ls.Batch(torch.rand(2, 1, 4, 4, generator=ls.Key(0).generator()), torch.tensor([0, 1]))


def test_two_items_that_differ_much_have_no_interval_and_say_so() -> None:
    one = ls.score(ls.Inputs(torch.stack([BATCH.inputs[0], BATCH.inputs[1] + 0.3])), BATCH)["psnr"]
    assert one.exact == 1
    assert (one.low, one.high) == (-math.inf, math.inf)
    assert "[" not in str(one)
    both = pooled([claimed(score("psnr", [item]).model_copy(update={"worst": -120.0})) for item in (120.0, 20.0)])
    assert not both[0].spans
    near = ls.score(ls.Inputs(BATCH.inputs + torch.tensor([0.3, 0.302])[:, None, None, None]), BATCH)["psnr"]
    assert near.low > 5, "two items that agree have one"


def test_an_interval_of_scores_ends_where_scores_end() -> None:
    """Two near the cap: the interval would go far beyond it."""
    trials = [claimed(score("psnr", [item]).model_copy(update={"worst": -120.0})) for item in (120.0, 110.0, 90.0)]
    (one,) = pooled(trials)
    assert one.spans
    assert (one.high, -120 < one.low < 90) == (120, True)
    assert intervals.mean([120.0, 110.0, 90.0]).high > 150
    far = ls.score(ls.Inputs(torch.full_like(BATCH.inputs, 1e9)), BATCH)["psnr"]
    assert far.value == far.worst == -120, "a claim a thousand million ranges away is as bad as any"
    same = ls.score(ls.Labels(torch.tensor([0, 0])), BATCH)["label-accuracy"]
    assert (same.worst, same.perfect) == (0, 1)


def test_an_interval_of_gains_ends_where_gains_end() -> None:
    found = evidence("psnr", images(120.0, 20.0, 12.0), images(12.0, 12.0, 12.0))
    assert found.interval is not None
    assert found.interval.high == MOST_GAIN["psnr"] == 120
    assert found.interval.low >= -120
    raw = intervals.mean(found.gains)
    assert raw.high > 120, "without an end it goes beyond"


def test_cutting_costs_no_coverage_where_the_truth_is_possible() -> None:
    """Of scores between the ends: half of them exact, the others poor, which is the widest that there is."""
    draw, truth, wide = np.random.default_rng(20261128), 70.0, 0
    for sample in np.where(draw.random((400, 4)) < 0.5, 120.0, 20.0):
        raw, cut = intervals.mean(sample), intervals.mean(sample).within(-120, 120)
        assert raw.holds(truth) is cut.holds(truth)
        wide += raw.high > cut.high
    assert wide > 100
