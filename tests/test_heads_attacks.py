"""Attacks on released heads: what they recover, what they refuse, and that preparing goes on where it stopped."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.linear_model import Ridge

import leakscope as ls
from leakscope.attacks.inputs.heads import decoder, head_images, plausible, regression
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.attacks.inputs.heads.reading import Public, features_of, public
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.preparing import Setting
from leakscope.audit.telling import lineup
from leakscope.core.effort import Budget, unwatched
from leakscope.core.pool import Pool
from leakscope.mechanisms.heads import together
from leakscope.mechanisms.heads.private import left_of, train_private
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.recipes.fitted import Fitted

DIGITS = ls.Digits(size=8)
PROBE = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0)
TRAINING = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
KEY = ls.Key(0)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Few heads, no copies, a narrow decoder: seconds."""
    monkeypatch.setattr(head_images, "HEADS", 300)
    monkeypatch.setattr(head_images, "PICTURES", 1)
    monkeypatch.setattr(decoder, "WIDTH", 128)


def target(architecture=PROBE, key=KEY):
    return architecture.build(DIGITS.domain, DIGITS.classes, key=key)


def private(each=1, seed=0):
    """The first private examples of each class."""
    batch = DIGITS.draw(400, key=ls.Key(seed)).reveal()
    rows = [(batch.labels == c).nonzero().flatten()[:each] for c in range(10)]
    return batch.rows(torch.cat(rows))


def seen(mechanism=TRAINING, each=1, seed=0, model=None, tell=True):
    model = model or target()
    batch = private(each, seed)
    facts = [ls.BatchSize(10 * each), lineup(batch, DIGITS)[0]] if tell else []
    return ls.observe(model, batch, mechanism, key=ls.Key(seed), tell=facts)


def prepared(learner, mechanism=TRAINING, architecture=PROBE):
    setting = Setting(architecture, DIGITS.domain, DIGITS.classes, mechanism)
    return learner.taught(learner.prepare(setting, key=ls.Key(5), clock=Budget().start()))


def errors(claim, batch, model):
    """Squared errors of claimed features and of the class means of the pool, one for each class."""
    layer = output_layer(model)
    true = features_of(model, layer, batch.inputs)
    known = public(model, TRAINING, DIGITS.pool())
    assert isinstance(known, Public)
    return (claim.values - true).square().sum(1), (known.prior.means - true).square().sum(1)


def test_what_noise_leaves_of_pictures_from_heads_is_the_regression() -> None:
    """Undefended the closed form ends the matter; behind noise of nothing a regression on few heads cleared it."""
    attack = ls.HeadImages(DIGITS.pool(), steps=5, heads=40)
    left = attack.remaining
    assert left == dataclasses.replace(attack, closed=False)
    assert left.remaining is None
    found = prepared(left).run(seen(), key=KEY)
    assert "regression on 40 public heads" in found.sentence
    assert "regression" not in prepared(attack).run(seen(), key=KEY).sentence


def test_features_are_far_nearer_than_class_means():
    gained = []
    for seed in range(4):
        attempt = ls.HeadFeatures(DIGITS.pool()).run(seen(seed=seed), key=ls.Key(1))
        assert attempt.outcome is ls.Outcome.CLAIMED
        own, mean = errors(attempt.claim, private(seed=seed), target())
        gained.append(float(own.sum() / mean.sum()))
    assert max(gained) < 0.35


def test_the_referee_finds_the_features():
    model, batch = target(), private()
    attempt = ls.HeadFeatures(DIGITS.pool()).run(seen(), key=ls.Key(1))
    found = ls.score(attempt.claim, batch, public=DIGITS.public(), client=ls.Client(model))["feature-error"]
    assert found.value < 0.6 * found.chance


def test_pictures_are_far_nearer_than_class_means():
    attack, pool = prepared(ls.HeadImages(DIGITS.pool(), steps=400)), DIGITS.public()
    means = torch.stack([pool.inputs[pool.labels == c].mean(0) for c in range(10)])
    own, guess = [], []
    for seed in range(3):
        attempt = attack.run(seen(seed=seed), key=ls.Key(1))
        truth = private(seed=seed).inputs
        own.append((attempt.claim.values - truth).square().mean())
        guess.append((means - truth).square().mean())
    assert torch.stack(own).mean() < 0.6 * torch.stack(guess).mean()


def test_unknown_rates_are_fitted_and_said():
    wrong = dataclasses.replace(TRAINING, lr=0.2, init_std=0.05)
    honest = seen()
    lied = ls.Observation(honest.target, honest.release, wrong, honest.facts)
    attack = ls.HeadFeatures(DIGITS.pool(), fit=True)
    attempt = attack.run(lied, key=ls.Key(1))
    assert "fitted: rates that sum to 0." in attempt.sentence
    own, mean = errors(attempt.claim, private(), target())
    believed, _ = errors(ls.HeadFeatures(DIGITS.pool()).run(lied, key=ls.Key(1)).claim, private(), target())
    assert float(own.sum()) < 0.45 * float(mean.sum()) < float(believed.sum())


def test_of_several_examples_the_class_means_are_found_and_it_is_said():
    attempt = ls.HeadFeatures(DIGITS.pool()).run(seen(each=3), key=ls.Key(1))
    assert "prior-assisted" in attempt.sentence
    model = target()
    true = features_of(model, output_layer(model), private(3).inputs).unflatten(0, (10, 3))
    known = public(model, TRAINING, DIGITS.pool())
    near = (attempt.claim.values - true.mean(1)).square().sum()
    assert near < 0.5 * (known.prior.means - true.mean(1)).square().sum()
    assert prepared(ls.HeadImages(DIGITS.pool(), each=3, steps=5)).run(seen(each=3), key=KEY).claim is not None


def test_known_first_weights_are_used():
    known = dataclasses.replace(TRAINING, init_std=None)
    attempt = ls.HeadFeatures(DIGITS.pool()).run(seen(known), key=ls.Key(1))
    own, mean = errors(attempt.claim, private(), target())
    assert float(own.sum()) < 0.2 * float(mean.sum())
    refused = prepared(ls.HeadImages(DIGITS.pool(), steps=5), known).run(seen(known), key=KEY)
    assert "give init_std" in refused.sentence


ADAM = ls.HeadTraining(16, 0.01, 0.002, optimizer=ls.ClientAdam())
PRIVATE = ls.HeadTraining(32, 0.05, 0.002)


def noisy(multiplier):
    return ls.PrivateHeadTraining(PRIVATE, ls.DPSGD(4.0, multiplier, expected=5, rate=0.5))


@pytest.mark.parametrize(("mechanism", "said"), [(ADAM, "no span of examples"), (noisy(0.1), "secret samples")])
def test_a_course_without_a_closed_form_is_refused_by_the_inversion(mechanism, said):
    sentence = ls.HeadFeatures(DIGITS.pool()).run(seen(mechanism), key=KEY).sentence
    assert said in sentence
    assert "HeadImages learns" in sentence


def gained(mechanism):
    """Squared error of claimed pictures over that of the class means: heads that a module's own optimizer trained."""
    attack, pool = prepared(ls.HeadImages(DIGITS.pool(), steps=200), mechanism), DIGITS.public()
    means = torch.stack([pool.inputs[pool.labels == c].mean(0) for c in range(10)])
    own, guess = 0.0, 0.0
    for seed in range(4):
        attempt, truth = attack.run(seen(mechanism, seed=seed), key=ls.Key(1)), private(seed=seed).inputs
        assert "read by a regression" in attempt.sentence
        own += float((attempt.claim.values - truth).square().mean())
        guess += float((means - truth).square().mean())
    return own / guess


def test_a_regression_reads_heads_of_adam():
    assert gained(ADAM) < 0.75


def test_a_regression_reads_heads_with_little_noise_and_nothing_through_much():
    assert gained(noisy(0.02)) < 0.85
    # no better than guessing; worse, since few heads teach this small a decoder noise
    assert 0.95 < gained(noisy(20.0)) < 1.4


def test_what_cannot_be_trained_together_is_refused():
    momentum = ls.HeadTraining(4, 0.01, 0.002, optimizer=ls.ClientSGD(momentum=0.9))
    mechanism = ls.PrivateHeadTraining(momentum, ls.DPSGD(4.0, 1.0, expected=5, rate=0.5))
    attack = prepared(ls.HeadImages(DIGITS.pool(), steps=5), mechanism)
    assert "without momentum" in attack.run(seen(mechanism), key=KEY).sentence


def test_a_reading_is_ridge_regression_within_classes():
    """Against scikit-learn's, on rows and on the mean of the others, with the centers of each class taken off."""
    stream = ls.Key(4).generator()
    weights, features = torch.randn(60, 3, 4, generator=stream), torch.randn(60, 3, 4, generator=stream)
    rows = torch.stack(
        [torch.cat([weights[:, c], weights[:, [k for k in range(3) if k != c]].mean(1)], 1) for c in range(3)], 1
    )
    z, y = (rows - rows.mean(0)).flatten(0, 1), (features - features.mean(0)).flatten(0, 1)
    scale = z.std(0)
    fit = Ridge(alpha=regression.RIDGE * len(z), fit_intercept=False).fit(
        (z / scale).double().numpy(), y.double().numpy()
    )
    wanted = features.mean(0) + torch.from_numpy(fit.predict((z / scale).double().numpy())).unflatten(0, (60, 3))
    heads = [together.Heads((one,), (one.sum(2),)) for one in (weights[:20], weights[20:])]
    prior = FeaturePrior.of(features.flatten(0, 1), torch.arange(3).repeat(60), 3)
    found = regression.Reading.learned(zip(heads, (features[:20], features[20:]), strict=True), prior, TRAINING)
    whole = together.Heads((weights,), (weights.sum(2),))
    assert torch.allclose(found.read(whole, floor=False).double(), wanted, atol=1e-4)
    assert float(found.read(whole, floor=True).min()) == 0.0


SAMPLED = ls.PrivateHeadTraining(ls.HeadTraining(2, 0.4, 1e-6, last_lr=0.04), ls.DPSGD(5.0, 1e-6, expected=5, rate=0.5))
"""Two steps of which nobody knows who took part, and next to no noise."""


def clients(features, seed):
    """Heads that plain PyTorch trains by `SAMPLED`: Poisson samples, clipped gradients, noise on their sum."""
    stream, hot = torch.Generator().manual_seed(seed), torch.eye(10)
    weight, bias = 1e-6 * torch.randn(10, features.shape[1], generator=stream), torch.zeros(10)
    for rate in (0.4, 0.04):
        took, total = torch.rand(10, generator=stream) < 0.5, [torch.zeros_like(weight), torch.zeros_like(bias)]
        for x, y in zip(features[took], hot[took], strict=True):
            slope = torch.softmax(weight @ x + bias, 0) - y
            size = float(torch.cat([torch.outer(slope, x).flatten(), slope]).norm())
            for part, one in zip(total, (torch.outer(slope, x), slope), strict=True):
                part += one * min(1.0, 5.0 / size)
        weight = weight - rate / 5 * (total[0] + 5e-6 * torch.randn(weight.shape, generator=stream))
        bias = bias - rate / 5 * (total[1] + 5e-6 * torch.randn(10, generator=stream))
    return weight, bias


def test_who_took_part_in_which_step_is_read_off_the_bias():
    """A regression on the weights alone sees participation times the mean feature, and left .69 of the variance."""
    model = target()
    layer, pool = output_layer(model), DIGITS.public()
    shown = features_of(model, layer, pool.inputs)
    prior = FeaturePrior.of(shown, pool.labels, 10)
    heads = ((heads, shown[rows]) for rows, heads in regression.made(SAMPLED, shown, pool.labels, 1, 1000, key=KEY))
    reading = regression.Reading.learned(heads, prior, SAMPLED)
    again = regression.Reading.kept(reading.state)
    left = []
    for seed in range(40):
        fed = features_of(model, layer, private(seed=seed).inputs)
        weight, bias = clients(fed, seed)
        head = together.Heads((weight.unsqueeze(0),), (bias.unsqueeze(0),))
        found = reading.read(head, floor=True)
        assert torch.equal(found, again.read(head, floor=True))
        left.append((found[0] - fed).square().sum(1) / (prior.means - fed).square().sum(1))
    # Of those who are in neither step, a quarter, nothing can be known.
    assert float(torch.cat(left).median()) < 0.15


def test_an_audit_does_not_clear_samples_with_next_to_no_noise():
    """Plain PyTorch's heads through the whole attack: pictures beside the mean of each class."""
    attack, pool = prepared(ls.HeadImages(DIGITS.pool(), steps=100, heads=1000), SAMPLED), DIGITS.public()
    means = torch.stack([pool.inputs[pool.labels == c].mean(0) for c in range(10)])
    model, gains = target(), []
    layer = output_layer(model)
    for seed in range(12):
        truth = private(seed=seed).inputs
        weight, bias = clients(features_of(model, layer, truth), seed)
        released = ls.Weights({layer.weight: weight, layer.bias: bias})
        claim = attack.run(ls.Observation(model, released, SAMPLED, (ls.BatchSize(10),)), key=KEY).claim
        errors = [(one - truth).square().flatten(1).mean(1) for one in (claim.values, means)]
        gains.append(10 * (errors[1] / errors[0]).log10())
    # the rule clears below 3 dB; the regression on weights alone gained 2.3
    assert float(torch.cat(gains).mean()) > 3.0
    silent = ls.Weights({layer.weight: weight})
    said = attack.run(ls.Observation(model, silent, SAMPLED, (ls.BatchSize(10),)), key=KEY).sentence
    assert "lacks the head's bias, off which it is read who took part" in said


def test_the_coefficients_and_the_noise_are_those_of_the_trained_heads():
    """W = r W_0 + A^T X and b = A^T 1 to rounding without noise; with noise alone its variance is the stated one."""
    stream = ls.Key(3).generator()
    features, labels = torch.rand(50, 6, 12, generator=stream), torch.arange(6).expand(50, -1) % 3
    training = ls.HeadTraining(5, 0.3, 0.1, last_lr=0.1, optimizer=ls.ClientSGD(weight_decay=0.05))
    step = ls.DPSGD(0.5, 0.0, expected=2, rate=0.5)
    start = together.first(training, (12, 3), 50, key=KEY)
    first_weight = start.weights[0].clone()
    silent = ls.PrivateHeadTraining(training, step)
    heads = train_private(silent, features, labels, start, key=KEY)
    kept, variance = left_of(silent)
    assert variance == 0
    wanted = kept * first_weight + heads.coefficients.transpose(1, 2) @ features
    assert torch.allclose(heads.weights[0], wanted, atol=1e-5)
    assert torch.allclose(heads.biases[0], heads.coefficients.sum(1), atol=1e-5)
    noisy = dataclasses.replace(silent, step=dataclasses.replace(step, noise_multiplier=3.0))
    heads = train_private(noisy, features, labels, together.first(training, (12, 3), 50, key=KEY), key=KEY)
    rest = heads.weights[0] - kept * first_weight - heads.coefficients.transpose(1, 2) @ features
    assert float(rest.square().mean()) == pytest.approx(left_of(noisy)[1], rel=0.1)


@pytest.mark.parametrize("kind", ["features", "images"])
def test_what_is_no_head_of_this_backbone_is_refused(kind):
    attack = ls.HeadFeatures(DIGITS.pool())
    if kind == "images":
        attack = prepared(ls.HeadImages(DIGITS.pool(), steps=5))
    whole = seen(model=target(ls.MLP((48,))))
    assert "trained beside the head" in attack.run(whole, key=KEY).sentence
    fine = seen()
    wide = ls.Weights({name: torch.zeros(10, *value.shape[1:-1], 7) for name, value in fine.release.by_name.items()})
    assert "another model" in attack.run(ls.Observation(fine.target, wide, TRAINING, fine.facts), key=KEY).sentence
    bias = ls.Weights({"head.bias": fine.release.by_name["head.bias"]})
    assert "lacks head.weight" in attack.run(ls.Observation(fine.target, bias, TRAINING, fine.facts), key=KEY).sentence
    seven = ls.Observation(fine.target, fine.release, TRAINING, (ls.BatchSize(7),))
    assert "equally many" in attack.run(seven, key=KEY).sentence
    odd = ls.Observation(fine.target, fine.release, TRAINING, (ls.BatchSize(10), ls.TrueLabels((0,) * 10)))
    assert "equally many" in attack.run(odd, key=KEY).sentence
    assert "BatchSize" in attack.run(seen(tell=False), key=KEY).sentence


def test_a_fine_tuned_backbone_and_another_number_of_examples_are_refused_by_the_decoder():
    attack = prepared(ls.HeadImages(DIGITS.pool(), steps=5))
    tuned = ls.LinearProbe(Fitted(ls.MLP((48,)), DIGITS, epochs=1), 10, scale=3.0)
    assert "fine-tuned" in attack.run(seen(model=target(tuned)), key=KEY).sentence
    assert "of 2" in attack.run(seen(each=2), key=KEY).sentence
    assert attack.run(seen(model=target(key=ls.Key(9))), key=KEY).outcome is ls.Outcome.CLAIMED


def test_a_pool_of_other_pictures_or_without_a_class_is_refused():
    small = ls.Digits(size=4).pool()
    assert "no inputs of" in ls.HeadFeatures(small).run(seen(), key=KEY).sentence
    batch = DIGITS.public()
    rows = (batch.labels != 3).nonzero().flatten()
    assert "examples of each" in ls.HeadFeatures(Pool(batch.rows(rows))).run(seen(), key=KEY).sentence


def test_an_untaught_learner_refuses():
    assert "learned nothing" in ls.HeadImages(DIGITS.pool()).run(seen(), key=KEY).sentence


def lessons(count=40):
    stream = ls.Key(3).generator()
    pictures = torch.rand(count, 1, 4, 4, generator=stream)
    estimates, classes = torch.randn(count, 6, generator=stream), torch.arange(count) % 3
    return decoder.Lessons(estimates, classes, 3, pictures, 0.0, 1.0, count // 3)


def test_a_decoder_goes_on_where_it_was_saved(tmp_path):
    def learned(clock, watch=unwatched):
        return decoder.taught(lessons(), key=KEY, clock=clock, watch=watch, steps=6)

    def stop_in_the_middle(progress):
        if progress.fraction >= 0.5:
            raise KeyboardInterrupt

    def opened():
        file = StateFile(tmp_path / "half", every=0.0)
        file.open("one")
        return file

    whole = learned(Budget().start()).state_dict()
    with pytest.raises(KeyboardInterrupt):
        learned(Budget().start().kept(opened()), stop_in_the_middle)
    file = opened()
    assert file.load()["step"] == 3
    again = learned(Budget().start().kept(file)).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_decoded_pictures_lie_in_the_range():
    one = decoder.fresh(dataclasses.replace(lessons(), low=-2.0, high=3.0), key=KEY)
    far = 100 * torch.randn(5, 6, generator=ls.Key(1).generator())
    pictures = one.requires_grad_(False)(far, torch.zeros(5, dtype=torch.int64))
    assert pictures.shape == (5, 1, 4, 4)
    assert -2.0 <= float(pictures.min()) <= float(pictures.max()) <= 3.0


@pytest.mark.parametrize("count", [60, 210], ids=["one slope for all classes", "each class has its own"])
def test_a_fresh_decoder_is_ridge_regression_within_classes(count):
    """Against scikit-learn's, on what is left beside the class means; with enough pictures again in each class."""
    of = dataclasses.replace(lessons(count), low=-50.0, high=50.0)
    one = decoder.fresh(of, key=KEY).requires_grad_(False)
    assert len(one.slope) == (1 if count < 3 * decoder.OWN * 6 else 3)
    x, y = of.estimates.double(), of.pictures.flatten(1).double()
    centers, means = (torch.stack([v[of.classes == c].mean(0) for c in range(3)])[of.classes] for v in (x, y))
    z = ((x - centers) / (x - centers).std(0)).numpy()
    rest = (y - means).numpy()

    def predicted(rows, wanted):
        fit = Ridge(alpha=decoder.RIDGE * len(z[rows]), fit_intercept=False).fit(z[rows], wanted[rows])
        return fit.predict(z[rows])

    found = predicted(slice(None), rest)
    if len(one.slope) > 1:
        left = rest - found
        for c in range(3):
            rows = (of.classes == c).numpy()
            found[rows] += predicted(rows, left)
    wanted = means + torch.from_numpy(found)
    assert torch.allclose(one(of.estimates, of.classes).flatten(1).double(), wanted, atol=1e-4)


def test_every_part_of_learning_gives_signs_of_life_that_rise(monkeypatch):
    """Heads of many examples take an hour before the decoder begins: nobody waits that long for a bar to move."""
    monkeypatch.setattr(together, "ROOM", 48 * 30 * 50)
    said = []
    setting = Setting(PROBE, DIGITS.domain, 10, TRAINING)
    learner = ls.HeadImages(DIGITS.pool(), each=3, steps=4)
    learner.prepare(setting, key=ls.Key(5), clock=Budget().start(), watch=said.append)
    heads = [one.fraction for one in said if one.note == "trains public heads"]
    assert len(heads) == 6, "a sign for each fifty of 300"
    fractions = [one.fraction for one in said]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < heads[-1] < fractions[-1] == 1.0
    of_comparison = []
    known = public(target(), TRAINING, DIGITS.pool())
    head = seen(each=3).release.by_name
    weight, bias = head["head.weight"], head["head.bias"]
    plausible.oddities(weight, bias, known.prior, TRAINING, 3, key=KEY, watch=of_comparison.append)
    assert [one.fraction for one in of_comparison] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("count", "noise"), [(600, 0.05), (60, 3.0)], ids=["many pictures", "few and noisy"])
def test_the_ridge_is_the_one_that_serves_pictures_that_it_has_not_seen(count, noise):
    """Of more features than pictures the least ridge is worse than the mean; what a tenth of them chooses is not."""
    stream = ls.Key(4).generator()
    slope = torch.randn(80, 12, generator=stream)
    z = torch.randn(2 * count, 80, generator=stream)
    x = z @ slope + noise * 9 * torch.randn(2 * count, 12, generator=stream)
    held = decoder.Lessons(
        z[:count], torch.zeros(count, dtype=torch.int64), 1, x[:count], -1e9, 1e9, count, torch.arange(count)
    )
    chosen = decoder._strength(z[:count], x[:count], held)

    def error(strength):
        found = decoder._ridge(z[:count], x[:count], strength)
        return float((z[count:] @ found - x[count:]).square().sum())

    errors = [error(one) for one in decoder.RIDGES]
    assert error(chosen) < 1.1 * min(errors)
    assert decoder._strength(z[:count], x[:count], dataclasses.replace(held, which=None)) == decoder.RIDGE
    if noise > 1:
        assert errors[0] > 1.5 * error(chosen)
