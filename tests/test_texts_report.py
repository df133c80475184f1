"""Texts from plan to page: words for ids, and what is right, wrong and missing in sight without color."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leakscope as ls
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.audit.work import run_cell
from leakscope.datasets.sources.text import WORDS
from leakscope.ledger.record import CellSpec, Ending, Record, Role
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page
from leakscope.report.redact import Veil
from leakscope.report.wording import Said, texts

SOURCE = ls.Sentences(length=8, count=64)
SPEC = CellSpec(
    role=Role.AUDITED,
    target="",
    dataset="",
    mechanism="",
    attack="",
    batch_size=1,
    told=(),
    metrics=(),
    trial=3,
    seed=0,
)


def record(true: str, claimed: str | None, *, bag: bool = False) -> Record:
    claims = None if claimed is None else tuple(claimed.split())
    return Record(
        identity="x", spec=SPEC, ending=Ending.CLAIMED, sentence="",
        tokens_true=(tuple(true.split()),), tokens_claimed=(claims,), tokens_bag=bag,
    )  # fmt: skip


def marked(pieces: tuple[tuple[str, bool], ...]) -> str:
    """Right tokens as they are, others in brackets."""
    return " ".join(text if same else f"[{text}]" for text, same in pieces)


@pytest.mark.parametrize(
    ("true", "claimed", "left", "right", "exact"),
    [
        ("the old cat sat", "the old cat sat", "the old cat sat", "the old cat sat", True),
        ("the old cat sat", "the cat sat", "the [old] cat sat", "the [] cat sat", False),
        ("the cat sat", "the old cat sat", "the cat sat", "the [old] cat sat", False),
        ("the old cat sat", "the dog sat", "the [old] [cat] sat", "the [dog] [] sat", False),
        ("the cat", "a dog is out", "[the] [cat]", "[a] [dog] [is] [out]", False),
        ("the cat", "", "[the] [cat]", "[] []", False),
        ("the cat", None, "[the] [cat]", "", None),
    ],
)
def test_each_token_is_right_wrong_or_missing(
    true: str, claimed: str | None, left: str, right: str, exact: bool | None
) -> None:
    other = record("and one that was found", "and one that was found")
    first, second = texts([record(true, claimed), other], Veil(), most=2).shown
    assert (marked(first.true), marked(first.claimed), first.exact) == (left, right, exact)
    assert second.exact


def test_a_set_of_tokens_is_held_against_every_text_and_all_texts_against_the_set() -> None:
    both = record("the old cat", "cat dog the", bag=True).model_copy(
        update={"tokens_true": (("the", "old", "cat"), ("a", "cat"))}
    )
    one, two, whole = texts([both], Veil(), most=9).shown
    assert (marked(one.true), marked(two.true), marked(whole.claimed)) == ("the [old] cat", "[a] cat", "cat [dog] the")
    assert (one.bag, two.bag, whole.exact) == (True, True, False)
    shown = texts([both, both], Veil(), most=3)
    assert [one.name[-1] for one in shown.shown if one.true] == ["1", "2", "1"]
    assert shown.total == 4


def test_nothing_is_shown_where_no_text_was_claimed_and_nothing_of_it_where_it_is_redacted() -> None:
    assert texts([record("the cat", None).model_copy(update={"tokens_claimed": ()})], Veil(), most=9).shown == ()
    hidden = texts([record("the cat", "a cat"), record("the cat", "cat", bag=True)], Veil(on=True), most=9).shown
    assert hidden
    assert not any("cat" in text for said in hidden for text, _ in (*said.true, *said.claimed))
    assert all(isinstance(said, Said) and said.exact is None for said in hidden)


def planned(*attacks: ls.EmbeddingSpan | ls.EmbeddingRows) -> Plan:
    scene = Scene("texts", SOURCE, ls.TextEncoder())
    return Plan(
        title="texts", seed=0, trials=1, batch_sizes=(3,), told=(ls.BatchSize,), mechanisms=(ls.FedSGD(),),
        attacks=attacks, scenes=(scene,),
    )  # fmt: skip


def test_the_record_holds_words_in_the_secrets_order_however_the_claim_is_ordered() -> None:
    (cell,) = [one for one in planned(ls.EmbeddingSpan()).cells() if one.role is Role.AUDITED]
    found = run_cell(cell).record
    private = {WORDS.decode([i for i in row if i]) for row in SOURCE.load().inputs.tolist()}
    assert {" ".join(one) for one in found.tokens_true} <= private
    assert found.tokens_claimed == found.tokens_true
    assert not found.tokens_bag


def test_the_page_of_a_text_audit_shows_words_and_forgets_them_when_asked(tmp_path: Path) -> None:
    run(planned(ls.EmbeddingSpan(), ls.EmbeddingRows()), tmp_path, Inline())
    store = RunStore(tmp_path)
    records = [store.read(name)[0] for name in store.names()]
    said = next(one for one in records if one.tokens_claimed and not one.tokens_bag).tokens_true
    assert any(one.tokens_bag for one in records)
    page = write_page(tmp_path).read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=\"row\">(trial 0, example \d)</th><td>(.*?)</td>", page)
    assert [text for name, text in rows[:3]] == [" ".join(one) for one in said]
    assert page.count("in the set of all examples") == 3
    assert page.count("<h3>Texts</h3>") == 2
    closed = write_page(tmp_path, redact=True).read_text(encoding="utf-8")
    assert not any(" ".join(one) in closed for one in said)
