"""Claims of more items than there are: for every kind the claim's own ranking decides, and the secret is not asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import leakscope as ls
from leakscope.audit.one_claim import judged
from leakscope.core.attempt import Certificate
from leakscope.ledger.record import Word
from leakscope.scoring.case import Case, Client
from leakscope.scoring.kinds.table import KINDS
from leakscope.scoring.referee import right

IMAGES = ls.Batch(torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.6]]), torch.tensor([1, 2]))
TEXTS = ls.Batch(torch.tensor([[5, 3, 7], [8, 9, 4]]), torch.tensor([0, 1]))
SPEECH = ls.Batch(
    torch.tensor([[[1.0], [2.0]], [[3.0], [0.5]]]), torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2]),
    torch.tensor([2, 2]),
)  # fmt: skip
PEOPLE = ls.Secret(IMAGES, (ls.Annotation("who", (0, 1), ("a", "b", "c"), ls.Per.EXAMPLE),))

Three = tuple[Case, ls.AbstractClaim, ls.AbstractClaim]
"""A secret of two items, a claim that has both right, and one that has both wrong."""


def cases() -> dict[str, Three]:
    of = torch.tensor
    ids = ((5, 3, 7), (8, 9, 4)), ((1, 1, 1), (2, 2, 2))
    said = ((1, 2), (3, 4)), ((9, 9, 9), (8, 8, 8))
    target = ls.Linear().build(ls.Images(1, 1, 3), 3, key=ls.Key(0))
    flat = ls.Batch(IMAGES.inputs.reshape(2, 1, 1, 3), IMAGES.labels)
    layer = next(name for name, one in target.module.named_modules() if isinstance(one, torch.nn.Linear))
    return {
        "WholeInputs": (
            Case(IMAGES),
            ls.Inputs(IMAGES.inputs, IMAGES.labels),
            ls.Inputs(torch.zeros(2, 3), of([0, 0])),
        ),
        "Sequences": (
            Case(SPEECH, public=SPEECH),
            ls.Inputs(SPEECH.inputs, lengths=SPEECH.lengths),
            ls.Inputs(-SPEECH.inputs, lengths=SPEECH.lengths),
        ),
        "PrivateLabels": (Case(IMAGES), ls.Labels(of([1, 2])), ls.Labels(of([0, 0]))),
        "PrivateAttributes": (Case(PEOPLE), ls.Attribute("who", of([0, 1])), ls.Attribute("who", of([2, 2]))),
        "PrivateTranscripts": (Case(SPEECH), ls.Transcripts(said[0]), ls.Transcripts(said[1])),
        "Texts": (Case(TEXTS), ls.Tokens(ids[0]), ls.Tokens(ids[1])),
        "LayerFeatures": (
            Case(flat, client=Client(target)),
            ls.Features(layer, IMAGES.inputs),
            ls.Features(layer, -IMAGES.inputs),
        ),
    }


def longer(one: Any, other: Any, *sure: float) -> Any:
    """Both claims as one, in this order."""
    joined: dict[str, Any] = {}
    for field in dataclasses.fields(one):
        left, right_ = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, Tensor) and field.name != "confidence":
            joined[field.name] = torch.cat([left, right_])
        elif isinstance(left, tuple):
            joined[field.name] = (*left, *right_)
    return dataclasses.replace(one, **joined, confidence=torch.tensor(sure) if sure else None)


def scores(claim: ls.AbstractClaim, case: Case) -> ls.Scores:
    said = {"domain": case.domain, "public": case.public, "client": case.client}
    return ls.score(claim, case.secret, **said)  # type: ignore[arg-type]


# Pieces are claimed as one set of the whole batch, which is right or wrong as it is: none of it is surplus.
@pytest.fixture(params=[type(kind).__name__ for kind in KINDS if type(kind).__name__ != "SaidPieces"])
def three(request: pytest.FixtureRequest) -> Three:
    return cases()[request.param]


def test_what_the_claim_is_less_sure_of_changes_no_score(three: Three) -> None:
    case, true, wrong = three
    alone = scores(true, case)
    for claim in (longer(true, wrong), longer(wrong, true, 0.1, float("nan"), 0.9, 0.8)):
        found = scores(claim, case)
        assert [dataclasses.replace(one, blind=()) for one in found] == [
            dataclasses.replace(one, blind=()) for one in alone
        ]
        assert "2 claimed items beyond the 2 private ones were not looked at" in str(found)


def test_what_is_right_helps_nobody_who_is_surer_of_something_else(three: Three) -> None:
    """A claim of four has two tries more than one of two, and may not take them."""
    case, true, wrong = three
    alone = scores(wrong, case)
    for claim in (longer(wrong, true), longer(true, wrong, 0.1, 0.2, 0.9, 0.8)):
        assert [one.items for one in scores(claim, case)] == [one.items for one in alone]


def test_a_certificate_answers_for_what_was_cut_off_too(three: Three) -> None:
    """Surplus hides no defect: what is proved is proved, whether or not it is scored."""
    case, true, wrong = three
    flags = right(longer(true, wrong), case, (1e-4,) * 4)
    if not flags:
        return  # nothing proves claims of this kind
    assert flags == (True, True, False, False)
    claim, proved = longer(true, wrong), Certificate((0.0,) * 4, (1e-4,) * 4, "by hand")
    word, sentence = judged(scores(claim, case), proved, flags)
    assert "a defect of the attack" in sentence
    assert "the attack's own equations hold" not in sentence
    assert word is Word.INCONCLUSIVE or "recovered far beyond blind guesses" in sentence
