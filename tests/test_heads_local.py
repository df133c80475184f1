"""The decoder by near public pictures: the regression that it is, what it is chosen by, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
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
    fit = KernelRidge(alpha=state["strength"], kernel="rbf", gamma=1 / state["scale"])
    fit.fit(roots, (of.pictures.flatten(1) - means).double().numpy())
    new = torch.randn(20, 6, generator=ls.Key(9).generator())
    asked = (new.sign() * new.abs().sqrt()).double().numpy()
    wanted = means[:1] + state["gain"] * torch.from_numpy(fit.predict(asked)).float()
    found = shown(state, of, new, torch.zeros(20, dtype=torch.int64)).flatten(1)
    # the landmarks' kernel has JITTER on its diagonal
    assert torch.allclose(found, wanted, atol=2e-3)


def test_what_is_chosen_finds_as_many_new_pictures_as_anything_that_was_tried(monkeypatch):
    """Few strengths and gains, each alone, asked of pictures that none has seen."""
    whole = lessons(1800)
    old, new = slice(0, 900), slice(900, None)
    of = dataclasses.replace(whole, estimates=whole.estimates[old], classes=whole.classes[old],
                             pictures=whole.pictures[old], which=torch.arange(900))  # fmt: skip

    def found():
        state = local_decoder.learned(of, key=KEY)
        made = shown(state, of, whole.estimates[new], whole.classes[new]).flatten(1)
        return state, local_decoder.told_apart(made, whole.pictures[new].flatten(1), whole.classes[new])

    # 30 held out of each class: 870 pairs
    monkeypatch.setattr(local_decoder, "PAIRS", 800)
    monkeypatch.setattr(local_decoder, "STRENGTHS", (300.0, 0.1))
    monkeypatch.setattr(local_decoder, "GAINS", (1.0, 2.0))
    chosen, best = found()
    alone = {}
    for strength in (300.0, 0.1):
        for gain in (1.0, 2.0):
            monkeypatch.setattr(local_decoder, "STRENGTHS", (strength,))
            monkeypatch.setattr(local_decoder, "GAINS", (gain,))
            alone[strength, gain] = found()[1]
    assert best == alone[chosen["strength"], chosen["gain"]]
    assert best >= max(alone.values()) - 0.05
    assert max(alone.values()) > min(alone.values()) + 0.1, "the choice has to matter"


def test_too_few_pictures_to_tell_apart_leave_the_least_squared_error_unsharpened():
    assert local_decoder.learned(lessons(), key=KEY)["gain"] == 1.0
    alone = dataclasses.replace(lessons(), which=torch.ones(90, dtype=torch.int64))
    state = local_decoder.learned(alone, key=KEY)
    assert (state["strength"], state["gain"]) == (1.0, 1.0), "one picture: nothing is held out"


def test_pictures_told_apart_are_counted_as_by_hand():
    stream = ls.Key(2).generator()
    true = torch.rand(40, 5, generator=stream)
    made, classes = true + 0.3 * torch.randn(40, 5, generator=stream), torch.arange(40) % 2
    shares = []
    for one in (0, 1):
        t, m = true[classes == one].numpy(), made[classes == one].numpy()
        errors = ((t[:, None] - m[None]) ** 2).sum(2)
        bound = np.sort(errors[~np.eye(20, dtype=bool)])[3]  # the fourth of 380
        shares.append((errors.diagonal() < bound).mean())
    assert local_decoder.told_apart(made, true, classes) == pytest.approx(np.mean(shares))
    assert local_decoder.told_apart(true[:1].expand(40, -1), true, classes) == 0.0


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
