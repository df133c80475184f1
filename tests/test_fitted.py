"""Targets that are trained on the public half of a source."""

from __future__ import annotations

import pytest
import torch

import leakscope as ls

DIGITS = ls.Digits(size=16)


def accuracy(target: ls.Target, batch: ls.Batch) -> float:
    found = target.outputs(target.parameters(), batch.inputs).argmax(-1)
    return float((found == batch.labels).float().mean())


def test_fitting_learns_from_public_examples_and_repeats_itself() -> None:
    recipe = ls.Fitted(ls.ConvNet(8), DIGITS, epochs=4, lr=3e-3)
    fitted = recipe.build(DIGITS.domain, DIGITS.classes, key=ls.Key(1))
    unseen = DIGITS.draw(200, key=ls.Key(0)).reveal()
    assert accuracy(fitted, unseen) > 0.8
    again = ls.Fitted(ls.ConvNet(8), DIGITS, epochs=4, lr=3e-3)
    assert again.build(DIGITS.domain, DIGITS.classes, key=ls.Key(1)).fingerprint() == fitted.fingerprint()
    other = again.build(DIGITS.domain, DIGITS.classes, key=ls.Key(2))
    assert other.fingerprint() != fitted.fingerprint()


def test_a_model_of_speech_learns_from_public_voices() -> None:
    """What plans/speech/trained.toml stands on: utterances of different lengths, transcripts, CTC."""
    voices = ls.Spoken(speakers=4, each=2, shortest=0.8, longest=1.0)
    recipe = ls.Fitted(ls.DeepSpeech(hidden=32), voices, epochs=8, lr=3e-3, batch_size=2)
    fitted = recipe.build(voices.domain, voices.classes, key=ls.Key(0))
    fresh = ls.DeepSpeech(hidden=32).build(voices.domain, voices.classes, key=ls.Key(0))
    private = voices.draw(3, key=ls.Key(1)).reveal()
    before, after = (one.loss_at(one.parameters(), private) for one in (fresh, fitted))
    assert float(after) < 0.8 * float(before)


def test_no_epochs_are_the_fresh_weights_and_the_recipe_is_not_touched() -> None:
    fresh = ls.ConvNet(4).build(DIGITS.domain, DIGITS.classes, key=ls.Key(3))
    none = ls.Fitted(ls.ConvNet(4), DIGITS, epochs=0).build(DIGITS.domain, DIGITS.classes, key=ls.Key(3))
    one = ls.Fitted(ls.ConvNet(4), DIGITS, epochs=1).build(DIGITS.domain, DIGITS.classes, key=ls.Key(3))
    for name, value in fresh.parameters().items():
        assert torch.equal(none.parameters()[name], value)
        assert not torch.equal(one.parameters()[name], value)


def test_only_public_examples_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that knew the secret would make an attack on them look too strong."""

    def refused(self: object) -> ls.Batch:
        raise AssertionError("the private half was loaded")

    public = DIGITS.public()
    monkeypatch.setattr(ls.Digits, "load", refused)
    monkeypatch.setattr(ls.Digits, "public", lambda self: public)
    ls.Fitted(ls.ConvNet(2), DIGITS, epochs=1).build(DIGITS.domain, DIGITS.classes, key=ls.Key(77))


def test_batch_statistics_are_learned_and_the_mode_is_the_architecture_s() -> None:
    data = ls.Synthetic(shape=(3, 32, 32), classes=4, count=40)
    fitted = ls.Fitted(ls.ResNet20(), data, epochs=1).build(data.domain, data.classes, key=ls.Key(0))
    assert not fitted.module.training
    assert float(fitted.buffers()["1.running_mean"].abs().max()) > 0


def test_other_data_and_bad_settings_are_refused() -> None:
    recipe = ls.Fitted(ls.LeNet(), DIGITS)
    with pytest.raises(ls.BadInput, match="audit it on data of the same kind"):
        recipe.build(ls.Images(3, 32, 32), 10, key=ls.Key(0))
    with pytest.raises(ls.BadInput, match="epochs >= 0"):
        ls.Fitted(ls.LeNet(), DIGITS, epochs=-1)
    with pytest.raises(ls.BadInput, match="smaller lr"):
        ls.Fitted(ls.MLP((64,)), DIGITS, epochs=2, lr=1e20).build(DIGITS.domain, DIGITS.classes, key=ls.Key(0))


def test_a_pretrained_body_differs_from_a_fresh_one_and_its_head_is_fresh() -> None:
    domain = ls.Images(3, 64, 64)
    target = ls.EfficientNetLite0().build(domain, 10, key=ls.Key(0))
    assert target.count() == 4_652_008 - 990 * (1280 + 1)  # published with 1000 classes
    other = ls.EfficientNetLite0().build(domain, 10, key=ls.Key(1))
    same = [name for name, value in target.parameters().items() if torch.equal(value, other.parameters()[name])]
    assert [name for name in target.parameters() if name not in same] == ["body._fc.weight", "body._fc.bias"]
    fresh = ls.EfficientNetLite0(pretrained=False).build(domain, 10, key=ls.Key(0))
    assert not torch.equal(fresh.parameters()["body._conv_stem.weight"], target.parameters()["body._conv_stem.weight"])
    # what ImageNet taught: features of tiles of one photograph are more alike than those of two
    photographs = ls.Photographs(size=64, rows=4)
    batch = photographs.public()
    features = torch.nn.functional.normalize(target.module.body.extract_features(batch.inputs).mean((2, 3)), dim=1)
    alike = features @ features.T
    together = batch.labels[:, None] == batch.labels
    apart = ~together
    together.fill_diagonal_(False)
    assert float(alike[together].mean()) > float(alike[apart].mean()) + 0.1
    with pytest.raises(ls.BadInput, match="3 channels"):
        ls.EfficientNetLite0().build(DIGITS.domain, 10, key=ls.Key(0))
    # what is enlarged inside is what was enlarged before, also where it was too small
    small = ls.Images(3, 16, 16)
    enlarging = ls.EfficientNetLite0(size=64).build(small, 10, key=ls.Key(0))
    shrunk = torch.nn.functional.avg_pool2d(batch.inputs[:2], 4)
    given = torch.nn.functional.interpolate(shrunk, (64, 64), mode="bicubic", align_corners=False)
    assert torch.allclose(enlarging.module(shrunk), target.module(given), atol=1e-5)
    with pytest.raises(ls.BadInput, match="size"):
        ls.EfficientNetLite0(size=31)
