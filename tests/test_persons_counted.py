"""A person who is in many trials is one person: what is named of somebody is a function of who it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.audit_toys import Guesses, toy_plan
from tests.test_audit_verdict import claimed, score

import leakscope as ls
from leakscope.audit.cell import set_up
from leakscope.audit.display import private_fields
from leakscope.audit.evidence import Evidence, evidence, persons_count
from leakscope.audit.measures import LUCK
from leakscope.audit.plan import Scene
from leakscope.core.annotation import SPEAKER
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.secret import Secret
from leakscope.datasets.draw import AbstractSource
from leakscope.ledger.record import RankingRecord, Record
from leakscope.scoring.case import Case
from leakscope.targets.zoo.mlp import Linear


class Owned(AbstractSource):
    """Five examples of each of eight people."""

    def __repr__(self) -> str:
        return "Owned()"

    @property
    def domain(self) -> ls.Images:
        return ls.Images(1, 2, 2)

    @property
    def classes(self) -> int:
        return 2

    def load(self) -> Batch:
        with ls.Key(8).isolated():
            return Batch(torch.rand(40, 1, 2, 2), torch.arange(40) % 2)

    def owners(self) -> tuple[int, ...]:
        return tuple(place // 5 for place in range(40))


def trials(
    who: np.ndarray, names: np.ndarray, truth: np.ndarray, *, attribute: str = "sex", told: bool = True
) -> list[Record]:
    """One record for each row of persons; names, truth: of each person."""
    found = []
    for row in who.tolist():
        items = [float(names[one] == truth[one]) for one in row]
        rankings = tuple(
            RankingRecord(attribute=attribute, true=str(truth[one]), best=(str(names[one]),), rank=1, candidates=2)
            for one in row
        )
        more = {"rankings": rankings, "owners": tuple(row) if told else ()}
        found.append(claimed(score("top-1", items, 0.5)).model_copy(update=more))
    return found


def shown(*given, **more) -> Evidence:
    records = trials(*given, **more)
    found = evidence("top-1", records, records)
    assert found is not None
    return found


@pytest.mark.parametrize("people", [2, 4, 10])
def test_names_that_have_nothing_to_do_with_the_person_seldom_leak(people: int) -> None:
    """Of two people both are right in one world of four, however often they are drawn."""
    random, alarms, before = np.random.default_rng(31), 0, 0
    for _ in range(200):
        names, truth = random.integers(2, size=(2, people))
        who = random.integers(people, size=(16, 1))
        alarms += shown(who, names, truth).luck <= LUCK
        before += shown(who, names, truth, told=False).luck <= LUCK
    assert alarms <= 5, "2 of 200 at a hundredth"
    assert before > 5, "counting trials and no persons"


def test_what_is_right_of_many_people_leaks_all_the_same() -> None:
    truth = np.arange(24) % 2
    assert shown(np.arange(24)[:, None], truth, truth).luck <= LUCK


def test_the_interval_knows_that_trials_of_one_person_go_together() -> None:
    """Three people, one of them named wrongly: forty trials of them exclude hardly anything."""
    who = (np.arange(40) % 3)[:, None]
    names, truth = np.array([0, 0, 1]), np.array([0, 1, 1])
    few, many = (shown(who, names, truth, told=told).interval for told in (True, False))
    assert few is not None
    assert many is not None
    assert few.high > many.high + 0.1
    assert few.low < many.low - 0.1


def test_of_a_speaker_the_name_is_the_person() -> None:
    names = truth = np.array([0, 1])
    assert persons_count(shown(np.array([[0, 1]] * 6), names, truth, attribute=SPEAKER, told=False).people) == 2
    assert not shown(np.array([[0, 1]] * 6), names, truth, told=False).people, "whose it is nobody says"


def test_a_source_that_knows_whose_its_examples_are_says_so_in_every_record() -> None:
    source = Owned()
    plan = toy_plan(scenes=(Scene("owned", source, Linear()),), attacks=(Guesses(),), batch_sizes=(4,))
    everything, whose = source.load().inputs, source.owners()
    for cell in plan.cells():
        secret = set_up(cell).secret
        places = [int((everything == one).flatten(1).all(1).nonzero()[0]) for one in secret.reveal().inputs]
        assert private_fields(Case(secret))["owners"] == tuple(whose[place] for place in places)
    public, owners = source.public().inputs, source.public_owners()
    assert owners is not None
    places = [int((everything == one).flatten(1).all(1).nonzero()[0]) for one in public]
    assert owners == tuple(whose[place] for place in places), "a gallery is told whose its examples are"
    with pytest.raises(BadInput, match="owners are known of 1 examples"):
        Secret(source.load(), owners=(1,))
