import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerance import close

from leakscope.core.errors import BadInput
from leakscope.domains.vision import Images

IMAGENET = Images(3, 4, 5, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_display_undoes_the_usual_normalization():
    pixels = np.random.default_rng(0).random((2, 3, 4, 5))
    normalized = np.stack([(pixels[:, c] - IMAGENET.mean[c]) / IMAGENET.std[c] for c in range(3)], axis=1)
    close(IMAGENET.to_display(torch.from_numpy(normalized)), torch.from_numpy(pixels))


def test_bounds_are_black_and_white():
    low, high = IMAGENET.bounds(torch.zeros(1, dtype=torch.float64))
    close(IMAGENET.to_display(low.expand(3, 4, 5)), torch.zeros(3, 4, 5, dtype=torch.float64))
    close(IMAGENET.to_display(high.expand(3, 4, 5)), torch.ones(3, 4, 5, dtype=torch.float64))
    close(low.flatten(), torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], dtype=torch.float64))


def test_display_does_not_clip():
    outside = torch.tensor([-0.5, 1.5]).reshape(1, 1, 2)
    assert torch.equal(Images(1, 1, 2).to_display(outside), outside)


@given(st.sampled_from([torch.float32, torch.float64]), st.lists(st.integers(1, 3), max_size=2))
def test_any_leading_dimensions_and_the_dtype_are_kept(dtype, leading):
    inputs = torch.zeros(*leading, *IMAGENET.shape, dtype=dtype)
    assert IMAGENET.to_display(inputs).shape == inputs.shape
    assert IMAGENET.to_display(inputs).dtype == dtype
    assert all(bound.dtype == dtype for bound in IMAGENET.bounds(inputs))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 4, 4), "positive sizes"),
        ((3, 4, 4, (0.5,), (0.5,)), "expected 3 means"),
        ((1, 4, 4, (0.5,), ()), "as many standard deviations"),
        ((1, 4, 4, (0.5,), (0.0,)), "positive and finite"),
        ((1, 4, 4, (0.5,), (float("inf"),)), "positive and finite"),
        ((1, 4, 4, (float("nan"),), (0.5,)), "means must be finite"),
    ],
)
def test_impossible_images_are_refused(arguments, says):
    with pytest.raises(BadInput, match=says):
        Images(*arguments)


def test_repr_rebuilds_also_from_lists():
    domain = Images(1, 2, 2, mean=[0.1], std=[0.2])
    assert eval(repr(domain)) == domain
    assert hash(domain) == hash(Images(1, 2, 2, (0.1,), (0.2,)))
