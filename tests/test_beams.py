"""The likeliest strings of CTC outputs, against the list of all alignments."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.numerics.beams import likeliest
from leakscope.numerics.ctc import negative_log_likelihood


def collapsed(alignment: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(alignment) if label != blank)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 100), st.data())
def test_a_wide_beam_gives_every_string_its_probability(
    frames: int, classes: int, seed: int, data: st.DataObject
) -> None:
    blank = data.draw(st.integers(0, classes - 1))
    logits = 2 * torch.randn(frames, classes, generator=ls.Key(seed).generator(), dtype=torch.float64)
    shares = logits.softmax(1).numpy()
    chances: dict[tuple[int, ...], float] = defaultdict(float)
    for alignment in itertools.product(range(classes), repeat=frames):
        chances[collapsed(alignment, blank)] += math.prod(shares[t, label] for t, label in enumerate(alignment))
    found = likeliest(logits.numpy(), blank=blank, width=10_000, count=10_000)
    assert dict(found).keys() == chances.keys()
    assert [chance for _, chance in found] == sorted((chance for _, chance in found), reverse=True)
    np.testing.assert_allclose([math.exp(chance) for _, chance in found], [chances[one] for one, _ in found])


def test_a_narrow_beam_finds_the_likeliest_with_a_lower_bound_of_its_probability() -> None:
    logits = 8 * torch.randn(40, 8, generator=ls.Key(1).generator(), dtype=torch.float64)
    wide, narrow = (likeliest(logits.numpy(), blank=7, width=width, count=3) for width in (400, 20))
    assert [len(wide), len(narrow)] == [3, 3]
    assert narrow[0][0] == wide[0][0]
    assert narrow[0][1] <= wide[0][1] + 1e-12
    string = torch.tensor([wide[0][0]])
    sizes = {"lengths": torch.tensor([40]), "label_lengths": torch.tensor([string.shape[1]])}
    exact = -float(negative_log_likelihood(logits[None], string, blank=7, **sizes)[0])
    assert exact - 0.01 < wide[0][1] <= exact + 1e-9
    assert len(likeliest(logits.numpy(), blank=7, width=1, count=3)) == 1
    with pytest.raises(ValueError, match="width and count"):
        likeliest(logits.numpy(), blank=7, width=0, count=1)
