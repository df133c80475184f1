"""Which of two suspects a head was trained on: right where one was, at chance where none was, and in a whole audit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from tests.audit_toys import toy_plan
from tests.test_heads_attacks import DIGITS, PROBE, SAMPLED, TRAINING, target

import leakscope as ls
from leakscope.attacks.attributes.head_membership import _odds, _times
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.attacks.inputs.heads.sampled import Sampled
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Scene
from leakscope.audit.run import run
from leakscope.audit.telling import lineup
from leakscope.core.errors import BadInput
from leakscope.core.facts import MEMBER, BatchSize, Suspects, TrueLabels
from leakscope.core.mechanism import AbstractMechanism
from leakscope.ledger.record import Word
from leakscope.mechanisms.heads.together import Heads

SOURCE = ls.Balanced(DIGITS)
ATTACK = ls.HeadMembership(DIGITS.pool(), heads=64)
MODEL = target()


def trial(
    mechanism: AbstractMechanism, seed: int, *, member: bool = True, each: int = 1, model: ls.Target = MODEL
) -> tuple[bool, float]:
    """Whether the attack is right, and how sure it is. Not member: the head is of neither of the two."""
    key = ls.Key(seed).child("trial")
    batch = SOURCE.draw(10 * each, key=key).reveal()
    suspects, which = lineup(batch, SOURCE)
    used = batch
    if not member:
        both = ls.Batch(torch.cat([batch.inputs, suspects.examples.inputs]), torch.zeros(10 * each + 2).long())
        third = SOURCE.alike(int(batch.labels[0]), besides=both, key=key)
        assert third is not None
        used = batch.with_inputs(torch.cat([third, batch.inputs[1:]]))
    seen = ls.observe(model, used, mechanism, key=key.child("release"), tell=[BatchSize(10 * each)])
    told = ls.Observation(seen.target, seen.release, mechanism, (*seen.facts, suspects))
    attempt = ATTACK.run(told, key=key.child("attack"))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    return int(attempt.claim.values[0]) == which.values[0], float(attempt.claim.confidence[0])


@pytest.mark.parametrize(
    ("mechanism", "each", "least"),
    [
        (TRAINING, 1, 10),
        (TRAINING, 3, 8),
        (ls.HeadTraining(16, 0.01, 0.002, optimizer=ls.ClientAdam()), 1, 10),
        (ls.HeadTraining(16, 0.01), 1, 10),
        (ls.PrivateHeadTraining(ls.HeadTraining(32, 0.05, 0.002), ls.DPSGD(4.0, 0.05, expected=5, rate=0.5)), 1, 8),
    ],
    ids=["sgd", "three of each", "adam", "known start", "little noise"],
)
def test_the_member_is_named(mechanism: AbstractMechanism, each: int, least: int) -> None:
    """By luck 8 of 10 have a probability of 5 %, 10 of 10 of 0.1 %."""
    assert sum(trial(mechanism, seed, each=each)[0] for seed in range(10)) >= least


@pytest.mark.parametrize(
    ("mechanism", "member"), [(TRAINING, False), (ls.HeadTraining(32, 0.01, 5.0), True)], ids=["neither", "hidden"]
)
def test_it_is_at_chance_where_the_head_holds_neither_or_nothing(mechanism: AbstractMechanism, member: bool) -> None:
    """40 trials: beyond these limits once in ten thousand times."""
    right = sum(trial(mechanism, seed, member=member)[0] for seed in range(40))
    low, high = stats.binom.interval(0.9999, 40, 0.5)
    assert low <= right <= high


def test_how_sure_it_is_is_how_often_it_is_right() -> None:
    found = [trial(ls.HeadTraining(32, 0.01, 0.05), seed) for seed in range(60)]
    share, sure = (sum(float(one[place]) for one in found) / len(found) for place in (0, 1))
    assert 0.6 < share < 0.97
    assert abs(share - sure) < 0.19, "three deviations of sixty coins"


def test_of_two_sampled_steps_it_is_known_who_took_part() -> None:
    """7 of 8 can be right, who took part or by luck. Of features that hardly differ beside their mean, one covariance
    for participation and features named 2 of 3.
    """
    model = target(ls.LinearProbe(ls.MLP((64,) * 4, activation="sigmoid"), 26))
    found = [trial(SAMPLED, seed, model=model) for seed in range(60)]
    share, sure = (sum(float(one[place]) for one in found) / len(found) for place in (0, 1))
    assert share >= 0.75
    assert abs(share - sure) < 0.15, "as sure as it is right"


def test_the_odds_given_who_took_part_are_those_of_the_normal_law_written_out() -> None:
    """One vector of C d numbers, whose covariance is built entry by entry, against sums along the prior's axes."""
    stream = ls.Key(6).generator()
    classes, wide, each, one = 3, 4, 2, 1
    features = torch.randn(200, wide, generator=stream) @ torch.randn(wide, wide, generator=stream)
    prior = FeaturePrior.of(features, torch.arange(200) % classes, classes).mean_of(each)
    a = torch.randn(40, classes, classes, generator=stream)
    heads = Heads((torch.randn(40, classes, wide, generator=stream),), (torch.randn(40, classes, generator=stream),))
    found = Sampled.learned(heads, a, prior, SAMPLED)
    two = torch.randn(2, wide, generator=stream)
    own = Heads((heads.weights[0][:1],), (heads.biases[0][:1],))
    odds, a = found.told_apart(own, two, one, each), found.coefficients(own.weights[0], own.biases[0])[0]
    axes, means = prior.axes.double(), prior.means.double() @ prior.axes.double()
    logs = []
    for suspect in two.double() @ axes:
        log = 0.0
        for j in range(wide):
            mean, covariance = torch.zeros(classes).double(), torch.eye(classes).double() * found.noise[j]
            for c in range(classes):
                known = (suspect[j] + (each - 1) * means[c, j]) / each if c == one else means[c, j]
                left = (each - 1) / each if c == one else 1.0
                mean += a[c] * known
                covariance += left * prior.variances[j].double() * torch.outer(a[c], a[c])
            row = (own.weights[0][0].double() @ axes)[:, j]
            log += float(stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(row.numpy()))
        logs.append(log)
    assert float(odds) == pytest.approx(logs[0] - logs[1], rel=1e-6)


def test_the_factor_makes_odds_as_sure_as_they_are_right() -> None:
    stream = ls.Key(8).generator()
    true = 2 * torch.randn(20_000, generator=stream, dtype=torch.float64)
    right = torch.where(torch.rand(20_000, generator=stream) < torch.sigmoid(true), 1.0, -1.0) * true
    assert _times(right) == pytest.approx(1.0, abs=0.05)
    assert _times(4 * right) == pytest.approx(0.25, abs=0.02)
    assert _times(torch.zeros(5).double()) == 1.0


def test_the_odds_are_those_of_two_normal_laws() -> None:
    stream = ls.Key(3).generator()
    mix = torch.randn(4, 4, generator=stream, dtype=torch.float64)
    noise = torch.randn(2, 20000, 4, generator=stream, dtype=torch.float64) @ mix
    apart = torch.tensor([0.5, 0.0, -1.0, 0.3], dtype=torch.float64)
    point = torch.tensor([[0.2, 0.1, -0.4, 0.3]], dtype=torch.float64)
    odds = _odds(point, noise[0], noise[1] + apart)
    one, other = (stats.multivariate_normal(mean, mix.T @ mix) for mean in (torch.zeros(4), apart))
    exact = one.logpdf(point[0].numpy()) - other.logpdf(point[0].numpy())
    assert float(odds[0, 0] - odds[0, 1]) == pytest.approx(exact, abs=0.05)


def test_through_an_audit(tmp_path: Any) -> None:
    plan = toy_plan(
        scenes=(Scene("head", SOURCE, PROBE),), mechanisms=(TRAINING,), attacks=(ATTACK,), batch_sizes=(10,),
        told=(BatchSize, TrueLabels, Suspects), metrics=(), trials=9,
    )  # fmt: skip
    (found,), (group,) = (lambda summary: (summary.findings, summary.groups))(run(plan, tmp_path, Inline()))
    assert found.word is Word.LEAKS
    (top,) = [one for one in group.scores if one.metric == "top-1"]
    assert (top.value, top.chance) == (1.0, 0.5)
    (blind,) = [one for one in group.blind_scores if one.metric == "top-1"]
    assert blind.value == 0.5


@pytest.mark.parametrize(
    ("suspects", "inside"),
    [([0, 0], 2), ([1, 2], 0)],
)
def test_suspects_of_whom_not_exactly_one_is_there_are_a_lie(suspects: list[int], inside: int) -> None:
    batch = ls.Batch(torch.zeros(1, 2), torch.tensor([0]))
    told = Suspects(ls.Batch(torch.tensor(suspects).float().unsqueeze(1).expand(2, 2), torch.zeros(2).long()))
    assert f"of which {inside} are in the batch" in str(told.contradiction(batch))


def test_suspects_of_two_classes_or_of_no_source_are_refused() -> None:
    with pytest.raises(BadInput, match="two suspects of one class"):
        Suspects(ls.Batch(torch.zeros(2, 2), torch.tensor([0, 1])))
    with pytest.raises(BadInput, match="this batch is of no data set"):
        lineup(ls.Batch(torch.zeros(1, 2), torch.tensor([0])), None)


def test_the_order_of_suspects_is_a_fair_coin_and_the_annotation_is_true() -> None:
    places = []
    for seed in range(60):
        batch = SOURCE.draw(10, key=ls.Key(seed)).reveal()
        suspects, which = lineup(batch, SOURCE)
        assert torch.equal(suspects.examples.inputs[which.values[0]], batch.inputs[0])
        assert not (batch.inputs == suspects.examples.inputs[1 - which.values[0]]).flatten(1).all(1).any()
        assert which.name == MEMBER
        places.append(which.values[0])
    assert 15 <= sum(places) <= 45
