"""What a redacted page says in numbers: scores of at least five examples together, and what is public of the plan."""

from __future__ import annotations

import re

import pytest
from tests.test_audit_verdict import claimed, score, word

from leakscope.ledger.record import Finding, GroupVerdict, Record, Summary, Word
from leakscope.report import withheld

RECOVERED = [[40.5, 41.5, 12.0, 12.0, 12.0], [12.0] * 5, [12.0] * 5]
THEORY = (
    "theory: epsilon 3.72 at delta 1e-05 for one release, which hides one example (0.125 for a round of training where "
    "nobody knows who takes part); theory allows more than was found: 61% of labels right, found were 47%"
)


def trials(*items: list[float]) -> list[Record]:
    return [claimed(score("psnr", one)) for one in items]


def group(sentence: str, *items: list[float], **more: object) -> GroupVerdict:
    pooled = score("psnr", [value for one in items for value in one])
    said = {
        "title": "t", "target": "T", "dataset": "D", "mechanism": "M", "attack": "A()", "word": Word.LEAKS,
        "sentence": sentence, "members": (), "undefended": (), "blind": (), "planned": 3, "finished": 3,
        "scores": (pooled,), "undefended_scores": (), "blind_scores": (),
    }  # fmt: skip
    return GroupVerdict.model_validate(said | more)


def redacted(one: GroupVerdict, finding: str) -> tuple[GroupVerdict, Finding]:
    """Of a run with this one group and a finding that says this."""
    found = Finding(
        scene="s", target="T", dataset="D", mechanism="M", word=one.word, sentence=finding, groups=(0,), theory=THEORY
    )
    summary = withheld.summary(
        Summary(
            title="t", word=one.word, sentence="leaks: 1", groups=(one,), planned=3, finished=3, seconds=1.0, seed=0,
            versions={}, machine="", command="", started="", findings=(found,),
        )
    )  # fmt: skip
    return summary.groups[0], summary.findings[0]


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, False), (4, False), (5, True), (6, True)])
def test_scores_are_shown_of_five_examples_together(count: int, shown: bool) -> None:
    said = f"psnr 23.4 dB, over {count} trials"
    one, found = redacted(group(said, [23.4] * count), said)
    assert bool(one.scores) is shown
    assert ("23.4" in one.sentence) is ("23.4" in found.sentence) is shown
    assert withheld.FEWEST == 5, "as the page says"


def test_the_best_example_is_not_quoted_where_the_mean_may_stand() -> None:
    """The sentence of the verdict itself, so that the one cannot change without the other."""
    _, sentence = word(trials(*RECOVERED), blind=trials(*[[11.25] * 5] * 3))
    assert "(best 41.5 dB, blind at most 11.2 dB)" in sentence
    one, found = redacted(group(sentence, *RECOVERED), f"A: {sentence}")
    for said in (one.sentence, found.sentence):
        assert "41.5" not in said
        assert "11.2" not in said
        assert "2 of 15 inputs recovered" in said
        assert re.search(r"psnr 15\.9 dB", said)
    assert found.theory == THEORY


def test_what_is_public_stays_where_numbers_are_masked() -> None:
    """Epsilon and the sizes of batches stand on the page anyway; what was found of four examples does not."""
    said = "no attack was conclusive about inputs in batches of 4; A: psnr 23.4 dB (epsilon at least 2.5)"
    one, found = redacted(group(said, [23.4] * 4), said)
    for text in (one.sentence, found.sentence):
        assert "in batches of 4;" in text
        assert "23.4" not in text
        assert "2.5" not in text, "what was observed is of the examples"
    assert "epsilon 3.72 at delta 1e-05 for one release" in found.theory
    assert "(0.125 for a round of training" in found.theory
    assert "61% of labels right" in found.theory
    assert "47" not in found.theory
