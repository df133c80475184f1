"""A head on a frozen backbone, the small VGG, and the letters that backbones are trained on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leakscope as ls
from leakscope.attacks.inputs.heads.reading import features_of
from leakscope.core.errors import NoSuchLayer
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.looking.nonnegative import fed_nonnegative
from leakscope.targets.recipes.architecture import AbstractArchitecture

DOMAIN = ls.Images(1, 16, 16)


def test_the_backbone_is_that_of_one_key_and_the_head_of_the_targets():
    probe = ls.LinearProbe(ls.VGGTiny(width=2, features=12), 26, scale=0.5)
    one, other = (probe.build(DOMAIN, 3, key=ls.Key(seed)) for seed in (0, 1))
    assert one.parameters().keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(value, other.buffers()[name]) for name, value in one.buffers().items())
    assert not torch.equal(one.parameters()["head.weight"], other.parameters()["head.weight"])
    whole = ls.VGGTiny(width=2, features=12).build(DOMAIN, 26, key=ls.Key(0)).module
    assert isinstance(whole, nn.Sequential)
    inputs = torch.rand(5, 1, 16, 16, generator=ls.Key(2).generator())
    wanted = one.module.head(0.5 * whole[:-1](inputs)).detach()
    assert torch.allclose(one.outputs(one.parameters(), inputs), wanted, atol=1e-6)
    layer = output_layer(one)
    assert (layer.name, layer.features) == ("head", 12)
    assert torch.allclose(features_of(one, layer, inputs), 0.5 * whole[:-1](inputs).detach(), atol=1e-6)
    assert fed_nonnegative(one, "head")


def test_only_the_head_is_trained():
    target = ls.LinearProbe(ls.MLP((8,)), 26).build(DOMAIN, 3, key=ls.Key(0))
    batch = ls.Batch(torch.rand(3, 1, 16, 16, generator=ls.Key(1).generator()), torch.arange(3))
    seen = ls.observe(target, batch, ls.HeadTraining(3, 0.1), key=ls.Key(2))
    assert seen.release.by_name.keys() == {"head.weight", "head.bias"}
    again = target.at(seen.release.by_name)
    assert all(torch.equal(value, again.buffers()[name]) for name, value in target.buffers().items())


def test_a_backbone_without_a_dense_output_is_refused():
    class Convolutions(AbstractArchitecture):
        def build(self, domain, classes, *, key):
            return ls.Target(nn.Sequential(nn.Conv2d(1, classes, 16), nn.Flatten()), domain, classes)

    with pytest.raises(NoSuchLayer):
        ls.LinearProbe(Convolutions(), 26).build(DOMAIN, 3, key=ls.Key(0))


@pytest.mark.parametrize("wrong", [{"backbone": 3}, {"backbone_classes": 0}, {"scale": 0.0}])
def test_wrong_probes_are_refused(wrong):
    with pytest.raises(ls.BadInput):
        ls.LinearProbe(**{"backbone": ls.MLP((8,)), "backbone_classes": 26, **wrong})


def test_the_small_vgg_is_the_published_one():
    """242 k parameters: 968 kB of float32, as its file is said to have."""
    target = ls.VGGTiny().build(ls.Images(1, 32, 32), 26, key=ls.Key(0))
    layers = [layer for layer in target.module if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [4, 8, 16, 16, 32, 32, 32, 32]
    assert 4 * target.count() == pytest.approx(968_000, rel=0.01)
    with pytest.raises(ls.BadInput, match="at least 8 x 8"):
        ls.VGGTiny().build(ls.Images(1, 7, 9), 26, key=ls.Key(0))


def test_letters_are_the_same_in_every_run_and_legible():
    """A nearest class mean reads a fair share of them, and the share is far above one in 26."""
    letters = ls.Letters(examples=3000, size=16)
    batch = letters.public()
    again = ls.Letters(examples=3000, size=16).public()
    assert torch.equal(batch.inputs, again.inputs)
    assert batch.inputs.shape == (3000, 1, *letters.domain.shape[1:])
    assert 0 <= float(batch.inputs.min()) < float(batch.inputs.max()) <= 1
    assert batch.labels.unique().tolist() == list(range(letters.classes))
    x, y = batch.inputs.flatten(1), batch.labels
    means = torch.stack([x[:2000][y[:2000] == c].mean(0) for c in range(26)])
    right = torch.cdist(x[2000:], means).argmin(1) == y[2000:]
    assert float(right.float().mean()) > 0.25


def test_a_backbone_is_fitted_to_letters():
    letters = ls.Letters(examples=600, size=16)
    fitted = ls.Fitted(ls.MLP((32,)), letters, epochs=3)
    target = ls.LinearProbe(fitted, letters.classes).build(letters.domain, 10, key=ls.Key(0))
    assert target.parameters()["head.weight"].shape == (10, 32)
    with pytest.raises(ls.BadInput, match="of the same kind"):
        ls.LinearProbe(fitted, letters.classes).build(ls.Images(1, 8, 8), 10, key=ls.Key(0))
