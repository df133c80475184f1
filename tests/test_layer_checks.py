"""What speaks against features of dense layers, one check at a time: a test fails when its check alone is removed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.layer_by_layer.descent import CAUTION, Down, Ends, Reached, Sample
from leakscope.attacks.inputs.layer_by_layer.one_layer import Fed, fed

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


MODULE = "leakscope.attacks.inputs.layer_by_layer.descent"


def reached(truth: Truth, *, above: list[Fed] | None = None, mask: np.ndarray | None = None) -> Reached | None:
    own = truth.above[0].values > 0 if mask is None else mask
    return truth.down._reached(above or truth.above, [own], None, None)


def test_what_is_run_forward_has_to_be_what_the_layer_above_was_fed(truth: Truth) -> None:
    values = truth.above[0].values.copy()
    values[1] *= 1.02
    found = reached(truth, above=[dataclasses.replace(truth.above[0], values=values), truth.above[1]])
    assert found is not None
    assert found.residuals[1] == pytest.approx(0.02, rel=0.05)
    assert found.residuals[[0, 2]].max() < 1e-3


@pytest.mark.parametrize("awake", [True, False])
def test_a_unit_has_to_be_awake_where_its_inputs_wake_it(truth: Truth, awake: bool) -> None:
    mask = truth.above[0].values > 0
    layer = truth.down.read.tail[1]
    z = truth.above[1].values @ truth.down.parameters[layer.weight].T + truth.down.parameters[truth.bias]
    unit = z[1].argmax() if awake else z[1].argmin()
    mask[1, unit] = not awake
    found = reached(truth, mask=mask)
    assert found is not None
    assert np.isinf(found.residuals).tolist() == [False, True, False]


def test_what_rounding_leaves_open_of_a_sample_is_in_its_residual(truth: Truth) -> None:
    found = reached(truth, above=[truth.above[0], dataclasses.replace(truth.above[1], off=np.array([0, 5e-4, 0]))])
    assert found is not None
    assert found.residuals.tolist() == pytest.approx([0, CAUTION * 5e-4, 0])


def test_what_is_blurred_throughout_is_not_claimed(truth: Truth) -> None:
    assert reached(truth, above=[truth.above[0], dataclasses.replace(truth.above[1], off=np.full(COUNT, 0.1))]) is None


def test_a_bias_that_shows_no_size_confirms_none(truth: Truth) -> None:
    top = truth.down.read.tail[0].bias
    assert top is not None
    assert truth.down._sized(truth.above[0], truth.ahead) is True
    del truth.down.gradient[top], truth.down.gradient[truth.bias]
    # A bias of some size is added to what is run forward, and would not be to a multiple.
    truth.down.parameters[truth.bias] = np.ones(40)
    assert truth.down._sized(truth.above[0], truth.ahead) is True
    truth.down.parameters[truth.bias] = np.zeros(40)
    assert truth.down._sized(truth.above[0], truth.ahead) is None


def test_a_layer_that_lacks_something_ends_the_way_down(truth: Truth) -> None:
    lower, down = truth.down.read.tail[1], truth.down
    assert down._lacks(lower) is None
    down.rows = np.zeros((100, 30))
    assert "too narrow" in str(down._lacks(lower))
    bias = down.parameters.pop(truth.bias)
    assert "shares its bias" in str(down._lacks(lower))
    down.parameters[truth.bias], down.gradient[lower.weight] = bias, np.zeros((40, 64))
    assert "was not sent" in str(down._lacks(lower))


def test_errors_that_do_not_tell_samples_apart_end_the_way_down(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.remasked", lambda sent, errors, start, samples: np.zeros_like(start))
    found = truth.down.run(None)
    assert found is not None
    assert found.depth == 1
    assert "do not tell the samples apart" in str(found.ended)


def test_a_layer_that_is_blurred_ends_the_way_down(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    def blurred(sent: np.ndarray, *given: Any) -> Fed:
        solved = fed(sent, *given)
        return dataclasses.replace(solved, off=solved.off + 0.1) if sent.shape[1] == 64 else solved

    monkeypatch.setattr(f"{MODULE}.fed", blurred)
    found = truth.down.run(None)
    assert found is not None
    assert found.depth == 1
    assert "is known to 1e-01 only" in str(found.ended)
