"""Labels behind defenses that change entries one by one: what single entries lost, rows of many of them still say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.labels.rows.along import along
from leakscope.attacks.parts.reading.output_gradient import read_output

CLASSES, TRIALS = 10, 12


def observed(seed: int, mechanism: Any, act: type[nn.Module] = nn.ReLU, *, bias: bool = True) -> tuple[Any, int]:
    """One random input of a young net, told to be one."""
    with ls.Key(seed).isolated():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(24, 128), act(), nn.Linear(128, CLASSES, bias=bias))
        batch = ls.Batch(torch.rand(1, 1, 4, 6), torch.randint(CLASSES, (1,)))
    target = ls.Target(net, ls.Images(1, 4, 6), CLASSES)
    release = mechanism.release(target, batch, key=ls.Key(seed))
    return ls.Observation(target, release, mechanism, (ls.BatchSize(1),)), int(batch.labels)


CHANGED = [
    ls.FedSGD() >> ls.GaussianNoise(0.3) >> ls.Sign(),
    ls.FedSGD() >> ls.GaussianNoise(0.7),
    ls.FedSGD() >> ls.LaplaceNoise(0.5),
    ls.FedSGD() >> ls.GaussianNoise(0.5) >> ls.Quantize(2),
    ls.FedSGD() >> ls.RandomDrop(0.9),
]


@pytest.mark.parametrize("mechanism", CHANGED, ids=repr)
@pytest.mark.parametrize("attack", [ls.LabelSigns(), ls.LabelCounts()], ids=repr)
def test_a_label_that_no_single_entry_tells_is_read_along_the_features(mechanism: Any, attack: Any) -> None:
    """An audit of noise and signs said that no leak was found, of labels that a sum over each row reads."""
    right = 0
    for seed in range(771_900, 771_900 + TRIALS):
        seen, label = observed(seed, mechanism)
        attempt = attack.run(seen, key=ls.Key(seed))
        right += attempt.claim is not None and attempt.claim.values.tolist()[:1] == [label]
        assert not attempt.certified
    assert right >= 0.75 * TRIALS


def test_of_how_many_nobody_told_the_lowest_class_is_judged_first() -> None:
    right = 0
    for seed in range(771_920, 771_920 + TRIALS):
        seen, label = observed(seed, CHANGED[0])
        attempt = ls.LabelSigns().run(ls.Observation(seen.target, seen.release, seen.mechanism), key=ls.Key(seed))
        assert attempt.claim is not None
        right += int(attempt.claim.values[0]) == label
        assert "the lowest first" in attempt.sentence
    assert right >= 0.75 * TRIALS


@pytest.mark.parametrize("bias", [True, False])
def test_errors_along_the_features_are_those_of_the_gradient_where_hardly_anything_changed(bias: bool) -> None:
    seen, label = observed(771_940, ls.FedSGD() >> ls.GaussianNoise(1e-6), bias=bias)
    output = read_output(seen)
    found = along(seen, output)
    assert found is not None
    assert int(found.argmin()) == label
    if bias:
        cosine = torch.nn.functional.cosine_similarity(found, output.bias, dim=0)
        assert float(cosine) > 1 - 1e-6


def test_nothing_is_read_along_features_of_what_nobody_changed_or_that_point_the_other_way() -> None:
    seen, _ = observed(771_950, ls.FedSGD())
    assert along(seen, read_output(seen)) is None
    seen, label = observed(771_951, ls.FedSGD() >> ls.Quantize(8))
    turned = {name: -value if name == "3.weight" else value for name, value in seen.release.by_name.items()}
    seen = ls.Observation(seen.target, ls.Gradient(turned), seen.mechanism, seen.facts)
    assert along(seen, read_output(seen)) is None
    assert ls.LabelCounts().run(seen, key=ls.Key(0)).claim.values.tolist() == [label]
