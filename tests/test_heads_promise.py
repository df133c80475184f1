"""Through the whole audit: a released head that promises noise which is not there, and one whose noise is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent
from tests.audit_toys import toy_plan

import leakscope as ls
from leakscope.attacks.attack import AbstractAttack
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Scene
from leakscope.audit.run import run
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.mechanism import AbstractMechanism, Adjacency
from leakscope.core.release import Weights
from leakscope.ledger.record import Word
from leakscope.report.page_run import write_page

DIGITS = ls.Digits(size=8)
HONEST = ls.HeadTraining(32, 0.01, 0.002)
MODEL = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0)


@dataclass(frozen=True)
class Boasts(AbstractMechanism):
    """Trains without noise, and promises noise of twenty times what one example does."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Any:
        return HONEST.release(target, batch, key=key)

    def event(self, *, rounds: int = 1) -> Any:
        del rounds
        return GaussianDpEvent(20.0)

    @property
    def adjacency(self) -> Adjacency | None:
        return Adjacency.EXAMPLE

    @property
    def undefended(self) -> AbstractMechanism:
        return HONEST


@dataclass(frozen=True)
class Knows(AbstractAttack[None, ls.Features]):
    """The inversion, by somebody who knows how the head was really trained."""

    reads = frozenset({Weights})
    asks = ls.HeadFeatures.asks

    @property
    def citation(self) -> str:
        return "none"

    def _read(self, seen: ls.Observation) -> None:
        return None

    def _attempt(self, seen: ls.Observation, read: None, *, key: ls.Key, clock: Any, watch: Any) -> Any:
        true = ls.Observation(seen.target, seen.release, HONEST, seen.facts)
        return ls.HeadFeatures(DIGITS.pool()).run(true, key=key)


def audited(folder: Any, mechanism: AbstractMechanism, attack: Any, trials: int) -> Any:
    plan = toy_plan(
        scenes=(Scene("head", ls.Balanced(DIGITS), MODEL),),
        mechanisms=(mechanism,),
        attacks=(attack,),
        batch_sizes=(10,),
        told=(BatchSize, TrueLabels),
        metrics=(ls.FeatureError(),),
        trials=trials,
        replaced=True,
    )
    return run(plan, folder, Inline())


def test_a_head_that_promises_noise_which_it_does_not_add_fails_the_audit_loudly(tmp_path: Any) -> None:
    """Although labels are told, as audits of balanced heads have to: they are the same on both sides of the control."""
    summary = audited(tmp_path, Boasts(), Knows(), 16)
    (found,) = summary.findings
    assert found.word is Word.LEAKS
    assert found.sentence.startswith("the mechanism breaks its promise: an attack tells releases with an example from")
    assert "sends more than it declares" in found.broken
    page = write_page(tmp_path).read_text()
    assert "breaks its promise" in page


def test_a_head_with_its_noise_stays_below_its_bound(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakscope.attacks.inputs.heads import decoder, head_images

    monkeypatch.setattr(head_images, "HEADS", 300)
    monkeypatch.setattr(head_images, "PICTURES", 1)
    monkeypatch.setattr(decoder, "WIDTH", 64)
    noisy = ls.PrivateHeadTraining(ls.HeadTraining(8, 0.05, 0.002), ls.DPSGD(4.0, 8.0, expected=5, rate=0.5))
    summary = audited(tmp_path, noisy, ls.HeadImages(DIGITS.pool(), steps=20), 5)
    (found,), (group,) = summary.findings, summary.groups
    assert not found.broken
    assert "it takes about 17" in found.theory, "five trials test nothing, and that is said"
    allowed = float(found.theory.partition("; theory allows ")[2].partition(")")[0])
    assert 0 <= group.observed_epsilon < allowed
