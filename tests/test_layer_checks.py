"""What speaks against features of dense layers, one check at a time: a test fails when its check alone is removed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.layer_by_layer.one_layer import Fed
from leakscope.attacks.inputs.layer_by_layer.revealed_features import Down, Ends, Sample

COUNT = 3


@dataclasses.dataclass
class Truth:
    """What the last two layers were fed for three samples, by the model itself, ready to be checked."""

    down: Down
    above: list[Fed]
    ahead: list[np.ndarray]
    bias: str


@pytest.fixture
def truth() -> Truth:
    with ls.Key(1).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 30))
        inputs = torch.rand(COUNT, 1, 8, 8)
    target, batch = ls.Target(net, ls.Images(1, 8, 8), 30), ls.Batch(inputs, torch.tensor([3, 7, 11]))
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0))
    ready = ls.RevealedFeatures()._read(seen)
    assert isinstance(ready, Ends)
    wide = net.double()
    fed = [inputs.flatten(1).double(), torch.relu(wide[1](inputs.flatten(1).double()))]
    rows = (wide[3](fed[1]).softmax(1) - F.one_hot(batch.labels, 30)).detach()
    below = (rows @ wide[3].weight.detach()) * (fed[1] > 0)
    above = [
        Fed(values.detach().numpy(), errors.detach().numpy(), np.zeros(COUNT), 0.0)
        for values, errors in ((fed[1], rows), (fed[0], below))
    ]
    sample = Sample(batch.labels.numpy(), float(COUNT), np.ones(COUNT), np.full(COUNT, 1e-7))
    down = Down(seen, ready, sample, rows.numpy())
    bias = ready.tail[1].bias
    assert bias is not None
    return Truth(down, above, [above[0].values], bias)


def test_what_is_true_replays(truth: Truth) -> None:
    """Else the others would fail for something else."""
    assert truth.down._replay(truth.above, truth.ahead) == 0.0
    assert not truth.down._row_check(truth.above[0].values).any()


def test_a_layer_whose_own_gradient_is_left_over_does_not_replay(truth: Truth) -> None:
    first = dataclasses.replace(truth.above[1], replayed=0.3)
    assert truth.down._replay([truth.above[0], first], truth.ahead) == 0.3


def test_what_is_run_forward_has_to_give_the_gradient_above_again(truth: Truth) -> None:
    assert truth.down._replay(truth.above, [1.01 * truth.ahead[0]]) == pytest.approx(0.01, rel=1e-2)


def test_errors_have_to_give_the_gradient_of_the_bias_again(truth: Truth) -> None:
    truth.down.gradient[truth.bias] = 1.5 * truth.down.gradient[truth.bias]
    assert truth.down._replay(truth.above, truth.ahead) > 0.05


def test_features_have_to_give_their_own_row_again(truth: Truth) -> None:
    features = truth.above[0].values.copy()
    features[1] *= 2
    found = truth.down._row_check(features)
    assert found[1] > 0.01
    assert found[[0, 2]].tolist() == [0.0, 0.0]


def test_what_speaks_against_a_sample_is_in_its_residual(truth: Truth) -> None:
    """All checks together: the one whose row is wrong is not proved, the others are."""
    mask = truth.above[0].values > 0
    sound = truth.down._reached(truth.above, [mask], None, None)
    assert sound is not None
    assert sound.residuals.max() < 1e-3
    truth.down.rows = truth.down.rows.copy()
    truth.down.rows[1] = np.roll(truth.down.rows[1], 1)
    wrong = truth.down._reached(truth.above, [mask], None, None)
    assert wrong is not None
    assert (wrong.residuals > 1e-3).tolist() == [False, True, False]
    truth.down.gradient[truth.bias] = 1.5 * truth.down.gradient[truth.bias]
    unsound = truth.down._reached(truth.above, [mask], None, None)
    assert unsound is not None
    assert (unsound.residuals > 1e-3).all()
