"""Bags of word pieces: their error, the level of blind guesses, and what an audit says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import leakscope as ls
from leakscope.audit.verdict import Trials, judge
from leakscope.ledger.record import CellSpec, Ending, Record, Role, ScoreRecord, Word
from leakscope.scoring.case import Case
from leakscope.scoring.kinds.kind import Outsider
from leakscope.scoring.kinds.table import kind_of

LETTERS = 6
SAID = ((1, 2, 3), (1, 1, 4))
PUBLIC = ((1, 2), (1, 5), (2, 3, 1))

bags = st.frozensets(st.lists(st.integers(0, 3), min_size=1, max_size=2).map(tuple), max_size=8)


def target() -> ls.Target:
    recipe = ls.ListenAttendSpell(2, 4, 1, 4, 8, 1, 4, coefficients=3)
    return recipe.build(ls.Frames(3), LETTERS + 1, key=ls.Key(0))


def spoken(said: tuple[tuple[int, ...], ...]) -> ls.Batch:
    labels = torch.zeros(len(said), max(map(len, said)), dtype=torch.int64)
    for row, one in enumerate(said):
        labels[row, : len(one)] = torch.tensor(one)
    count = torch.tensor([len(one) for one in said])
    return ls.Batch(torch.ones(len(said), 4, 3), labels, torch.full((len(said),), 4), count)


def scored(claim: Any, **more: Any) -> ls.Score:
    return ls.score(claim, spoken(SAID), client=ls.Client(target()), **more)["piece-error"]


@settings(max_examples=60, deadline=None)
@given(bags, bags)
def test_the_error_is_one_minus_the_f1_score(claimed: frozenset[Any], true: frozenset[Any]) -> None:
    every = sorted(claimed | true)
    wanted = 1 - f1_score([one in true for one in every], [one in claimed for one in every]) if every else 0.0
    assert ls.PieceError().item(claimed, true) == pytest.approx(wanted, abs=1e-12)


def test_the_bag_of_the_batch_is_one_item_and_only_the_whole_one_is_exact() -> None:
    right = scored(ls.Pieces(((1,), (2,), (3,), (4,))))
    assert (right.value, right.exact, len(right.items)) == (0, 1, 1)
    # Two of four that were said, and one that was not: P = 2/3, R = 1/2.
    partly = scored(ls.Pieces(((1,), (2,), (5,))))
    assert partly.value == pytest.approx(1 - 2 * (2 / 3 * 1 / 2) / (2 / 3 + 1 / 2))
    assert partly.exact == 0
    assert scored(ls.Pieces(((5,),))).value == 1


def test_a_blind_guess_of_frequent_pieces_is_no_leak() -> None:
    """By hand: of the public ones (1) and (2), or (1) (2) (3), are said most; all six letters hold the four."""
    levels = [scored(ls.Pieces(tuple((one,) for one in guess)), public=spoken(PUBLIC)) for guess in ((1, 2), (1, 2, 3))]
    assert [one.value for one in levels] == [pytest.approx(1 / 3), pytest.approx(1 / 7)]
    assert [one.chance for one in levels] == [pytest.approx(1 / 7)] * 2
    assert scored(ls.Pieces(((1,),))).chance == pytest.approx(1 - 8 / 10)
    # Nothing claimed is as good as a guess, and no better.
    silent = scored(ls.Pieces(()), public=spoken(PUBLIC))
    assert (silent.value, silent.claimed) == (silent.chance, 0)


def test_word_pieces_are_compared_as_the_decoder_spells_them() -> None:
    source = ls.Spoken(speakers=2, each=4, shortest=1.4, longest=2.4)
    recipe = ls.ListenAttendSpell(2, 8, 1, 8, 64, 1, 8, pieces=ls.WordPieces(source, 40))
    made = recipe.build(source.domain, source.classes, key=ls.Key(0))
    batch = source.draw(1, key=ls.Key(1)).reveal()
    seen = ls.observe(made, batch, ls.FedSGD(), key=ls.Key(2))
    order, bag = (ls.SpokenWords(order=one).run(seen, key=ls.Key(3)).claim for one in (True, False))
    assert order.labels == batch.transcripts()
    found = ls.score(bag, batch, domain=source.domain, public=source.public(), client=ls.Client(made))["piece-error"]
    assert (found.value, found.exact) == (0, 1)
    assert found.chance > 0.3
    assert any(len(piece) > 1 for piece in bag.pieces)
    # One after the other they are no text, but all their letters are in it.
    assert {letter for piece in bag.pieces for letter in piece} == set(batch.transcripts()[0])


def test_what_cannot_be_compared_is_refused_with_what_to_do() -> None:
    claim = ls.Pieces(((1,),))
    with pytest.raises(ls.BadInput, match=r"pass client=Client\(target\)"):
        ls.score(claim, spoken(SAID))
    lenet = ls.LeNet().build(ls.Images(1, 8, 8), 2, key=ls.Key(0))
    with pytest.raises(ls.BadInput, match="ListenAttendSpell"):
        ls.score(claim, spoken(SAID), client=ls.Client(lenet))
    bare = ls.Batch(torch.zeros(1, 4, 3), torch.tensor([0]))
    with pytest.raises(ls.BadInput, match="no transcripts"):
        ls.score(claim, bare, client=ls.Client(target()))
    for wrong in (((2,), (1,)), ((1,), (1,)), ((),)):
        with pytest.raises(ls.BadInput, match="rising"):
            ls.Pieces(wrong)
    with pytest.raises(ls.BadInput, match="confidence"):
        ls.Pieces(((1,),), torch.tensor([2.0]))


def test_it_is_written_read_and_shown() -> None:
    claim = ls.Pieces(((0,), (1, 2)))
    kind = kind_of(claim)
    assert kind.read(*kind.written(claim)).pieces == claim.pieces
    (answer,) = kind.shown(claim, Case(spoken(SAID), client=ls.Client(target()))).answers
    assert (answer.true, answer.claimed) == ("a b c d", "_ ab")


def test_the_blind_control_claims_as_many_as_are_likely() -> None:
    made = kind_of(ls.Pieces(())).control(Outsider(spoken(PUBLIC), 1, target=target()), key=ls.Key(0))
    assert made.pieces == ((1,), (2,))
    lenet = ls.LeNet().build(ls.Images(1, 8, 8), 2, key=ls.Key(0))
    assert kind_of(ls.Pieces(())).control(Outsider(spoken(PUBLIC), 1, target=lenet), key=ls.Key(0)) is None


def record(trial: int, error: float, role: Role) -> Record:
    spec = CellSpec(
        dataset="D()", target="T()", mechanism="FedSGD()", attack="A()", seed=0, trial=trial, role=role, metrics=(),
        batch_size=2, told=(),
    )  # fmt: skip
    score = ScoreRecord(
        metric="piece-error", value=error, unit="of 1", higher_is_better=False, low=error, high=error, chance=0.5,
        perfect=0.0, items=(error,), claimed=1,
    )  # fmt: skip
    return Record(
        identity=f"{trial}", spec=spec, ending=Ending.CLAIMED, sentence="", seconds=1.0, evaluations=1, scores=(score,)
    )


@pytest.mark.parametrize(("errors", "word"), [((0.0, 0.1, 0.0), Word.LEAKS), ((0.5, 0.5, 0.55), Word.NO_LEAK_FOUND)])
def test_a_verdict_is_read_from_bags(errors: tuple[float, ...], word: Word) -> None:
    audited = [record(trial, error, Role.AUDITED) for trial, error in enumerate(errors)]
    control = [record(trial, 0.0, Role.UNDEFENDED) for trial in range(3)]
    blind = [record(trial, 0.55, Role.BLIND) for trial in range(3)]
    found = judge(Trials(audited, control, blind))
    assert found.word is word, found.sentence
    assert "piece-error" in found.sentence


@pytest.mark.parametrize(("many", "counted"), [(0, 0), (1, 0), (2, 1), (4, 1), (6, 1)])
def test_few_pieces_of_many_are_no_claim_of_the_bag(many: int, counted: int) -> None:
    """Four were said: who names the one that noise leaves sure excludes nothing of the others."""
    claim = ls.Pieces(tuple((letter,) for letter in range(many)))
    assert scored(claim).claimed == counted
