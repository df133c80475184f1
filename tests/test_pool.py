"""A pool hands an attack the public half of a data set and nothing that leads to the private one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import leakscope as ls
from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName
from leakscope.core.pool import Pool
from leakscope.datasets.draw import pool

DIGITS = ls.Digits(size=8)


def test_a_pool_is_the_public_half_and_rebuilds_from_its_repr() -> None:
    made = DIGITS.pool()
    assert torch.equal(made.batch.inputs, DIGITS.public().inputs)
    assert repr(made) == f"pool({DIGITS!r})"
    again = eval(repr(made), {"pool": pool, **vars(ls)})
    assert again == made
    assert hash(again) == hash(made)
    assert made != ls.Digits(size=12).pool()


def test_no_private_example_and_no_way_to_one_is_in_a_pool() -> None:
    made = DIGITS.pool()
    public = {row.numpy().tobytes() for row in made.batch.inputs}
    for seed in range(20):
        drawn = DIGITS.draw(8, key=ls.Key(seed)).reveal()
        assert not public & {row.numpy().tobytes() for row in drawn.inputs}
    reached = [made, *(getattr(made, one.name) for one in dataclasses.fields(made))]
    assert not [one for one in reached if isinstance(one, type(DIGITS))]


def test_annotations_follow_their_examples() -> None:
    spoken = ls.Spoken(speakers=2, each=4, shortest=1.0, longest=1.2)
    made = spoken.pool()
    assert made.annotation("speaker") == {one.name: one for one in spoken.public_annotations()}["speaker"]
    assert len(made.annotation("speaker").values) == len(made)
    with pytest.raises(UnknownName, match="speaker"):
        made.annotation("speker")


def test_equal_content_is_an_equal_pool_wherever_it_is_from() -> None:
    batch = Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
    one, other = Pool(batch), Pool(Batch(batch.inputs.clone(), batch.labels.clone()), origin="pool(Elsewhere())")
    assert one == other
    assert one.fingerprint() != Pool(batch, (Annotation("sex", (0, 1), ("f", "m")),)).fingerprint()
    assert one.fingerprint() != Pool(batch.with_inputs(torch.ones(2, 3))).fingerprint()
    with pytest.raises(BadInput, match="the pool has 2"):
        Pool(batch, (Annotation("sex", (0,), ("f", "m")),))
