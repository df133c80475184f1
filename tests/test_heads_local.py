"""The decoder by near public pictures: the regression that it is, what is enlarged, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

import leakscope as ls
from leakscope.attacks.inputs.heads import decoder, head_images, local_decoder
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput

KEY = ls.Key(0)


def lessons(count=90, wide=6, many=3):
    """Pictures that depend on a wave of their features, which no linear map is."""
    stream = ls.Key(3).generator()
    estimates = torch.randn(count, wide, generator=stream)
    waves = torch.sin(0.7 * estimates @ torch.randn(wide, 16, generator=stream))
    pictures = (0.5 + 0.3 * waves + 0.02 * torch.randn(count, 16, generator=stream)).clamp(0, 1)
    classes = torch.arange(count) % many
    return decoder.Lessons(estimates, classes, many, pictures.reshape(-1, 1, 4, 4), 0.0, 1.0, count // many,
                           torch.arange(count))  # fmt: skip


def shown(state, of, estimates, classes):
    return local_decoder.decoded(state, (of.low, of.high), estimates, classes, of.pictures.shape[1:])


def test_it_is_kernel_ridge_regression_of_roots_within_classes():
    """Against scikit-learn's, with every picture a landmark."""
    of = dataclasses.replace(lessons(), low=-50.0, high=50.0)
    state = local_decoder.learned(of, key=KEY)
    means = torch.stack([of.pictures.flatten(1)[of.classes == c].mean(0) for c in range(3)])[of.classes]
    roots = (of.estimates.sign() * of.estimates.abs().sqrt()).double().numpy()
    fit = KernelRidge(alpha=local_decoder.STRENGTH, kernel="rbf", gamma=1 / state["scale"])
    fit.fit(roots, (of.pictures.flatten(1) - means).double().numpy())
    new = torch.randn(20, 6, generator=ls.Key(9).generator())
    asked = (new.sign() * new.abs().sqrt()).double().numpy()
    wanted = means[:1] + torch.from_numpy(fit.predict(asked)).float()
    found = shown(state, of, new, torch.zeros(20, dtype=torch.int64)).flatten(1)
    # the landmarks' kernel has JITTER on its diagonal
    assert torch.allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_estimates_that_are_nearly_the_same_are_learned_from(spread):
    """Of two features, or where noise leaves the class's mean: in float32 the landmarks' kernel had no root."""
    of = lessons(400, wide=2)
    means = torch.tensor([[3.0, 5.0], [8.0, 2.0], [6.0, 9.0]])[of.classes]
    of = dataclasses.replace(of, estimates=means + spread * of.estimates.abs(), low=-50.0, high=50.0)
    state = local_decoder.learned(of, key=KEY)
    roots = of.estimates.sqrt().double().numpy()
    fit = KernelRidge(alpha=local_decoder.STRENGTH, kernel="rbf", gamma=1 / state["scale"])
    mean = torch.stack([of.pictures.flatten(1)[of.classes == c].mean(0) for c in range(3)])[of.classes]
    fit.fit(roots, (of.pictures.flatten(1) - mean).double().numpy())
    wanted = mean + torch.from_numpy(fit.predict(roots)).float()
    found = shown(state, of, of.estimates, of.classes).flatten(1)
    assert torch.allclose(found, wanted, atol=2e-3)


def test_directions_are_enlarged_by_what_is_explained_of_each(monkeypatch):
    """Of four directions all, a quarter, a hundredth and nothing: e^-1/4 is 1, sqrt 2, and sqrt 10 for the last two."""
    # each direction's own share: four are too few to go along their ranks
    monkeypatch.setattr(local_decoder, "NEAR", 1.0)
    stream = ls.Key(2).generator()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=stream)).Q
    axes, known = turn[:, :4], torch.tensor([1.0, 0.25, 0.01, 0.0])
    true = torch.randn(4000, 4, generator=stream) * torch.tensor([8.0, 4.0, 2.0, 1.0])
    made = known * true + (known * (1 - known)).sqrt() * true.std(0) * torch.randn(4000, 4, generator=stream)
    dual = torch.randn(5, 6, generator=stream)
    found = local_decoder._sharpened(dual, axes, made @ axes.T, true @ axes.T)
    across = 10**0.5
    wanted = (dual @ axes) * torch.tensor([1.0, 2**0.5, across, across]) @ axes.T
    wanted += across * (dual @ turn[:, 4:]) @ turn[:, 4:].T
    assert torch.allclose(found, wanted, rtol=0.1, atol=0.1)


def test_sharpened_pictures_differ_as_pictures_do(monkeypatch):
    """Of pictures that none has seen: their spread is nearer to the true one, at hardly more error."""
    whole = lessons(1800)
    old, new = slice(0, 900), slice(900, None)
    of = dataclasses.replace(whole, estimates=whole.estimates[old], classes=whole.classes[old],
                             pictures=whole.pictures[old], which=torch.arange(900))  # fmt: skip

    def spread_and_error():
        state = local_decoder.learned(of, key=KEY)
        made = shown(state, of, whole.estimates[new], whole.classes[new]).flatten(1)
        return float(made.std(0).mean()), float((made - whole.pictures[new].flatten(1)).square().mean())

    blurred, least = spread_and_error()
    monkeypatch.setattr(local_decoder, "FEWEST", 50)
    sharp, error = spread_and_error()
    true = float(whole.pictures.flatten(1).std(0).mean())
    assert blurred < sharp
    assert abs(sharp - true) < true - blurred
    # what is explained in part may even gain by it
    assert error < 1.5 * least < float(whole.pictures.flatten(1).var(0).mean())


def test_main_directions_are_those_of_the_whole_decomposition(monkeypatch):
    monkeypatch.setattr(local_decoder, "DIRECTIONS", 3)
    stream = ls.Key(4).generator()
    around = torch.randn(200, 12, generator=stream) * torch.tensor([9.0, 6, 4, *[0.1] * 9])
    found = local_decoder._directions(around, KEY)
    _, _, axes = torch.linalg.svd(around, full_matrices=False)
    assert torch.allclose((found.T @ axes[:3].T).abs(), torch.eye(3), atol=1e-3)
    assert torch.equal(found, local_decoder._directions(around, KEY))


def test_too_few_pictures_to_hold_out_are_not_sharpened(monkeypatch):
    of = lessons()
    plain = local_decoder.learned(of, key=KEY)["dual"]
    # nothing is held out of one picture, and all of it is learned
    alone = dataclasses.replace(of, which=torch.ones(90, dtype=torch.int64))
    assert bool(torch.isfinite(local_decoder.learned(alone, key=KEY)["dual"]).all())
    monkeypatch.setattr(local_decoder, "FEWEST", 5)
    assert float(local_decoder.learned(of, key=KEY)["dual"].norm()) > float(plain.norm())


def test_a_key_draws_the_landmarks_alone_and_copies_of_a_picture_count_once(monkeypatch):
    of = lessons()
    one, same = (local_decoder.learned(of, key=KEY) for _ in range(2))
    assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(same[name])) for name in one)
    monkeypatch.setattr(local_decoder, "LANDMARKS", 20)
    few, other = (local_decoder.learned(of, key=key) for key in (KEY, ls.Key(1)))
    assert few["landmarks"].shape == (20, 6)
    assert few["dual"].shape == (20, 16)
    assert not torch.equal(few["landmarks"], other["landmarks"])
    copies = dataclasses.replace(of, which=torch.arange(90) % 15)
    assert len(local_decoder.learned(copies, key=KEY)["landmarks"]) == 15


def test_what_is_not_finite_teaches_nothing():
    of = lessons()
    with pytest.raises(BadInput, match="finite"):
        local_decoder.learned(dataclasses.replace(of, estimates=of.estimates * torch.nan), key=KEY)


def test_the_attack_claims_by_it_after_a_file_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(head_images, "HEADS", 100)
    domain, digits = ls.Images(1, 8, 8), ls.Digits(size=8)
    training = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
    setting = Setting(ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0), domain, 10, training)
    learner = ls.HeadImages(digits.pool(), pictures=1, local=True)

    def opened():
        file = StateFile(tmp_path / "kept", every=0.0)
        file.open("one")
        return file

    def stop_before_the_decoder(progress):
        if progress.note == "has learned to decode features":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.prepare(setting, key=KEY, clock=Budget().start().kept(opened()), watch=stop_before_the_decoder)
    again = learner.prepare(setting, key=KEY, clock=Budget().start().kept(opened()))
    whole = learner.prepare(setting, key=KEY, clock=Budget().start())
    assert again.fingerprint == whole.fingerprint
    # the state as a file keeps it
    file = opened()
    file.save(again.state, seconds=0.0)
    read = opened().load()
    for name, value in again.state["decoder"].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(read["decoder"][name]))
    target = setting.architecture.build(domain, 10, key=KEY)
    private = digits.draw(400, key=KEY).reveal()
    batch = private.rows(torch.stack([(private.labels == c).nonzero()[0, 0] for c in range(10)]))
    observed = ls.observe(target, batch, training, key=KEY, tell=[ls.BatchSize(10)])
    attempt = learner.taught(dataclasses.replace(again, state=read)).run(observed, key=KEY)
    assert attempt.claim is not None
    blind = torch.stack([learner.pool.batch.inputs[learner.pool.batch.labels == c].mean(0) for c in range(10)])
    error = float((attempt.claim.values - batch.inputs).square().mean())
    assert error < 0.8 * float((blind - batch.inputs).square().mean())
