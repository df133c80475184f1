"""Rounds of a federation in an observation: one is what it always was, several are taken one by one."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tolerance import close_trees

import leakscope as ls
from leakscope.core.attempt import Certificate
from leakscope.core.errors import BadInput
from leakscope.core.rounds import Round

DOMAIN = ls.Images(1, 4, 4)


def models(count: int = 2) -> list[ls.Target]:
    return [ls.MLP((8,)).build(DOMAIN, 3, key=ls.Key(seed)) for seed in range(count)]


def gradient(target: ls.Target, seed: int = 0) -> ls.Gradient:
    inputs = torch.rand(1, 1, 4, 4, generator=ls.Key(seed).generator())
    return ls.FedSGD().release(target, ls.Batch(inputs, torch.tensor([seed % 3])), key=ls.Key(0))


def test_a_bare_release_is_the_only_round() -> None:
    (target,) = models(1)
    seen = ls.Observation(target, gradient(target), ls.FedSGD())
    assert len(seen.rounds) == 1
    assert seen.release is seen.rounds[0].release
    assert seen.rounds[0].weights is None


def test_each_round_is_seen_at_its_own_weights_and_attacked_there() -> None:
    first, second = models()
    rounds = [Round(0, gradient(first, 0), first.parameters()), Round(5, gradient(second, 1), second.parameters())]
    seen = ls.Observation(first, rounds, ls.FedSGD(), [ls.BatchSize(1)])
    one, other = seen.each()
    close_trees(one.target.parameters(), first.parameters())
    close_trees(other.target.parameters(), second.parameters())
    for place, alone in enumerate((one, other)):
        attempt = ls.LinearLayer().run(alone, key=ls.Key(0))
        true = torch.rand(1, 1, 4, 4, generator=ls.Key(place).generator())
        assert attempt.certificate is not None
        assert attempt.certificate.proved == (True,)
        assert float((attempt.claim.values - true).abs().max()) < 1e-4


def test_the_release_of_several_rounds_is_an_error_that_counts_them() -> None:
    (target,) = models(1)
    sent = gradient(target)
    seen = ls.Observation(target, (Round(0, sent), Round(1, sent)), ls.FedSGD())
    with pytest.raises(BadInput, match="has 2 rounds"):
        _ = seen.release


def test_weights_of_a_round_reach_the_fingerprint() -> None:
    first, second = models()
    sent = gradient(first)
    pairs = [(Round(0, sent), Round(1, sent)), (Round(0, sent), Round(2, sent))]
    pairs += [(Round(0, sent, second.parameters()), Round(1, sent))]
    assert len({ls.Observation(first, pair, ls.FedSGD()).fingerprint() for pair in pairs}) == 3
    moved = ls.Observation(first, (Round(0, sent, second.parameters()),), ls.FedSGD())
    assert moved.fingerprint() == ls.Observation(first.at(second.parameters()), sent, ls.FedSGD()).fingerprint()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda target, sent: ls.Observation(target, (), ls.FedSGD()), "at least one Round"),
        (lambda target, sent: ls.Observation(target, (Round(1, sent), Round(1, sent)), ls.FedSGD()), "rising numbers"),
        (
            lambda target, sent: ls.Observation(
                target, (Round(0, sent), Round(1, ls.Delta(sent.by_name))), ls.FedSGD()
            ),
            "several kinds",
        ),
        (lambda target, sent: Round(-1, sent), "number >= 0"),
        (lambda target, sent: Round(0, dict(sent.by_name)), "wrap the tensors"),
        (
            lambda target, sent: Round(0, sent, {"odd": torch.zeros(1)}) and target.at({"odd": torch.zeros(1)}),
            "do not fit",
        ),
        (
            lambda target, sent: target.at({name: value[None] for name, value in target.parameters().items()}),
            "expected",
        ),
    ],
)
def test_bad_rounds_are_refused_with_what_to_do(make: object, words: str) -> None:
    (target,) = models(1)
    with pytest.raises(BadInput, match=words):
        make(target, gradient(target))  # type: ignore[operator]


def test_a_certificate_is_of_single_items() -> None:
    mixed = Certificate((1e-6, math.nan, 2e-4), (1e-4, 1e-4, 1e-4), "equations")
    assert mixed.proved == (True, False, False)
    assert not mixed.holds
    assert math.isnan(mixed.residual)
    assert not Certificate((), (), "nothing is claimed").holds
    assert Certificate.alike(1e-6, 1e-4, "equations", items=3).proved == (True,) * 3
    with pytest.raises(BadInput, match="one each"):
        Certificate((1.0,), (), "x")
    claim = ls.Labels(torch.tensor([1, 2]))
    with pytest.raises(BadInput, match="does not fit a claim of 2"):
        ls.Attempt("a", ls.Outcome.CLAIMED, "so", claim, Certificate.alike(0.0, 1.0, "x"))
