"""Clients and their data: whose examples go where, what is held out, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.core.annotation import Annotation, Per
from leakscope.core.errors import BadInput, UnknownName


def people(owners: list[int], *, width: int = 3) -> tuple[ls.Batch, tuple[Annotation, ...]]:
    """Examples that are their own place, so that it is seen where each one went."""
    count = len(owners)
    inputs = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, width)
    named = tuple(f"p{one}" for one in range(max(owners) + 1))
    sexes = Annotation("sex", tuple(one % 2 for one in owners), ("f", "m"))
    turns = Annotation("turn", tuple(place % 2 for place in range(count)), ("first", "second"))
    return ls.Batch(inputs, torch.zeros(count, dtype=torch.int64)), (
        Annotation("speaker", tuple(owners), named),
        sexes,
        turns,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_every_example_is_its_owners_and_one_clients(owners: list[int]) -> None:
    batch, known = people(owners)
    made = ls.Population.of_owners(batch, known)
    assert sorted(torch.cat([one.inputs[:, 0] for one in made.clients]).tolist()) == list(range(len(owners)))
    for name, own in zip(made.names, made.clients, strict=True):
        assert {f"p{owners[int(at)]}" for at in own.inputs[:, 0]} == {name}
    speakers = made.annotation("speaker")
    assert [speakers.categories[one] for one in speakers.values] == list(made.names)
    assert made.annotation("sex").values == tuple(int(name[1:]) % 2 for name in made.names)


def test_what_differs_inside_a_client_is_not_known_of_it() -> None:
    made = ls.Population.of_owners(*people([0, 0, 1, 1]))
    assert [one.name for one in made.annotations] == ["speaker", "sex"]
    with pytest.raises(UnknownName, match="unknown annotation of the population 'turn'"):
        made.annotation("turn")


def test_an_owner_is_divided_among_several_clients() -> None:
    batch, known = people([0] * 7 + [1] * 5)
    made = ls.Population.of_owners(batch, known, each=3, key=ls.Key(1))
    assert made.names == ("p0 0", "p0 1", "p0 2", "p1 0", "p1 1", "p1 2")
    assert made.sizes == (3, 2, 2, 2, 2, 1)
    assert made.annotation("speaker").values == (0, 0, 0, 1, 1, 1)
    again = ls.Population.of_owners(batch, known, each=3, key=ls.Key(1))
    other = ls.Population.of_owners(batch, known, each=3, key=ls.Key(2))
    assert again.fingerprint() == made.fingerprint() != other.fingerprint()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 3))
def test_what_is_held_out_is_nobodys_and_everybody_keeps_one(sizes: list[int], share: float, seed: int) -> None:
    owners = [who for who, size in enumerate(sizes) for _ in range(size)]
    made = ls.Population.of_owners(*people(owners))
    wanted = [min(round(share * size), size - 1) for size in sizes]
    if sum(wanted) == 0:
        with pytest.raises(BadInput, match="no client has enough examples"):
            made.held_out(share, key=ls.Key(seed))
        return
    kept = made.held_out(share, key=ls.Key(seed))
    assert kept.held is not None
    assert [size - left for size, left in zip(sizes, kept.sizes, strict=True)] == wanted
    everything = torch.cat([*(one.inputs[:, 0] for one in kept.clients), kept.held.inputs[:, 0]])
    assert sorted(everything.tolist()) == list(range(len(owners)))


def test_some_of_them() -> None:
    made = ls.Population.of_owners(*people([0, 1, 2, 2]))
    few = made.some(["p2", "p0"])
    assert few.names == ("p2", "p0")
    assert few.sizes == (2, 1)
    assert few.annotation("speaker").values == (2, 0)
    with pytest.raises(UnknownName, match="did you mean 'p2'"):
        made.some(["p22"])


ONE = ls.Batch(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ls.Population(()), "expected from 1 to 100000 clients, got 0"),
        (lambda: ls.Population((ONE, ONE), ("a", "a")), "expected 2 different names"),
        (lambda: ls.Population((ONE,), ("a", "b")), "expected 1 different names"),
        (lambda: ls.Population((ONE, ls.Batch(torch.zeros(1, 4), torch.tensor([0])))), "data of one kind"),
        (lambda: ls.Population((ONE, ls.Batch(torch.zeros(1, 3).double(), torch.tensor([0])))), "data of one kind"),
        (lambda: ls.Population((ONE,), held=ls.Batch(torch.zeros(1, 4), torch.tensor([0]))), "data of one kind"),
        (lambda: ls.Population((ONE,), annotations=(Annotation("sex", (0, 1), ("f", "m")),)), "for each of 1 clients"),
        (lambda: ls.Population((ONE,), (), (Annotation("a", (0,), ("f",), Per.OWNER),)), "for each of 1 clients"),
        (lambda: ls.Population((3,)), "expected each client to be of type Batch"),
        (lambda: ls.Population((ONE,), (3,)), "expected each name to be of type str"),
        (lambda: ls.Population.of_owners(ONE, ()), "unknown annotation 'speaker'"),
        (lambda: ls.Population.of_owners(*people([0, 0, 1]), each=2, key=ls.Key(0)), "owner 1 has 1 examples"),
        (lambda: ls.Population.of_owners(*people([0, 0]), each=2), "give a key"),
        (lambda: ls.Population((ONE,)).held_out(1.0, key=ls.Key(0)), "expected 0 < share < 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(build: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        build()  # type: ignore[operator]
