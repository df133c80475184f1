"""The referee against other libraries, brute force and its laws: order, chance, the perfect claim, the denominator."""

from __future__ import annotations

import ast
import itertools
import math
import pathlib
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from tests.tolerance import close

import leakscope.attacks
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Inputs, Labels, Transcripts
from leakscope.core.errors import BadInput, MissingExtra, UnknownName
from leakscope.core.secret import Secret
from leakscope.domains.vision import Images
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.kinds import inputs as on_inputs
from leakscope.scoring.kinds import labels as on_labels
from leakscope.scoring.kinds.table import kind_of
from leakscope.scoring.metrics.guesses import LabelAccuracy, LabelCounts, LabelPresence
from leakscope.scoring.metrics.vision import LPIPS, MSE, PSNR, SSIM
from leakscope.scoring.referee import applies, score
from leakscope.scoring.score import Direction, Score

EVERY = (MSE(), PSNR(), SSIM(), LabelAccuracy(), LabelCounts(), LabelPresence())


def images(count, *shape, seed=0):
    """Smooth random pictures in [0, 1], all different."""
    shape = shape or (3, 16, 16)
    coarse = torch.rand(count, shape[0], 4, 4, generator=Key(seed).generator())
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)


def batch_of(count, *shape, seed=0, classes=10):
    labels = torch.randint(classes, (count,), generator=Key(seed).child("labels").generator())
    return Batch(images(count, *shape, seed=seed), labels)


def dark(batch):
    """Pictures whose mean is far from gray, so that the guesses differ."""
    return batch.with_inputs(batch.inputs**2 / 2)


def near(batch, *, noise=0.1, seed=9):
    """A claim of noisy copies with their true labels."""
    drawn = torch.randn(batch.inputs.shape, generator=Key(seed).generator())
    return Inputs(batch.inputs + noise * drawn, batch.labels)


def pairing_of(claim, batch):
    """How the claim's kind pairs it."""
    return kind_of(claim).compared(claim, Case(batch)).pairing


def shown(claim, batch, domain=None):
    """What a person is shown of it."""
    return kind_of(claim).shown(claim, Case(batch, domain))


def input_guesses(batch, public, domain=None):
    return on_inputs.input_guesses(len(batch), tuple(batch.inputs.shape[1:]), Case(batch, domain, public))


def label_guesses(batch, public, *, distinct=False, classes=10):
    return on_labels.label_guesses(on_labels.LabelTruth(batch.labels, classes), public, distinct=distinct)


def levels_of(claim, batch, public, metrics, key):
    """The chance level of each metric, with the guess that reached it."""
    case, kind = Case(batch, public=public), kind_of(claim)
    return kind.levels(metrics, kind.compared(claim, case), case, key=key)


def drawn(guess, key):
    """One claim of a guess, by its probability."""
    claims = list(guess.claims(key=key))
    weights = [weight for weight, _ in claims]
    assert sum(weights) == pytest.approx(1)
    return claims[int(key.child("which").numpy().choice(len(claims), p=weights))][1]


shapes = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40))


# --- metrics against other libraries -------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 99))
def test_mse_and_psnr_agree_with_torchmetrics(shape, count, seed):
    functional = pytest.importorskip("torchmetrics.functional")
    true, claimed = (torch.rand(count, *shape, generator=Key(s).generator()).double() for s in (seed, seed + 100))
    for place, (mse, psnr) in enumerate(zip(MSE().items(claimed, true), PSNR().items(claimed, true), strict=True)):
        left, right = claimed[place].contiguous(), true[place].contiguous()
        close(torch.tensor(mse, dtype=torch.float64), functional.mean_squared_error(left.flatten(), right.flatten()))
        close(
            torch.tensor(psnr, dtype=torch.float64),
            functional.image.peak_signal_noise_ratio(left, right, data_range=1.0).double(),
            loosened=1e4,
            because="torchmetrics takes its logarithms in float32",
        )


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (5, 11, 40)])
def test_ssim_agrees_with_scikit_image_and_torchmetrics(shape):
    true, claimed = images(2, *shape), images(2, *shape) + 0.1 * torch.rand(2, *shape, generator=Key(5).generator())
    ours = SSIM().items(claimed.double(), true.double())
    direct = [
        structural_similarity(
            a.double().permute(1, 2, 0).numpy(),
            b.double().permute(1, 2, 0).numpy(),
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(claimed, true, strict=True)
    ]
    assert ours == pytest.approx(direct, abs=1e-9)
    functional = pytest.importorskip("torchmetrics.functional.image")
    _, full = functional.structural_similarity_index_measure(
        claimed.double(), true.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    # Its mean counts a border that the window overhangs; the paper's and ours does not.
    inside = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert ours == pytest.approx(inside.tolist(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_every_shape_has_finite_scores(shape):
    true, claimed = (torch.rand(2, *shape, generator=Key(s).generator()).double() for s in (1, 2))
    for metric in (MSE(), PSNR(), SSIM()):
        assert all(math.isfinite(item) for item in metric.items(claimed, true))
        assert metric.items(true, true) == (metric.perfect,) * 2
        wrong = max if metric.direction is Direction.HIGHER else min
        assert all(
            item == wrong(item, metric.perfect) or metric.perfect == wrong(item, metric.perfect)
            for item in metric.items(claimed, true)
        )
    assert (SSIM().note(shape) is None) == (min(shape[1:]) >= 11)


def test_ssim_says_that_its_window_shrank():
    batch = batch_of(2, 1, 8, 5)
    result = score(near(batch), batch)
    assert "images of 8 x 5 are smaller than the 11-pixel window of SSIM; a window of 5 was used" in str(result)
    by_hand = structural_similarity(
        *(x[0].double().numpy() for x in (near(batch).values[0], batch.inputs[0])),
        win_size=5, data_range=1, gaussian_weights=True, sigma=0.6, use_sample_covariance=False,
    )  # fmt: skip
    assert result["ssim"].items[0] == pytest.approx(by_hand, abs=1e-12)


def test_ssim_of_one_pixel_is_its_luminance_term():
    left, right = torch.full((1, 1, 1, 1), 0.2).double(), torch.full((1, 1, 1, 1), 0.6).double()
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert SSIM().items(left, right)[0] == pytest.approx(wanted, rel=1e-6)


def test_absurd_claims_stay_finite():
    batch = batch_of(2)
    result = score(Inputs(torch.full_like(batch.inputs, 1e38).double() ** 8), batch)
    for item in result:
        assert math.isfinite(item.value)
        assert not item.beats_chance


# --- regressions of other tools (specs: known defects) ----------------------------------------------------------------


def test_one_exact_image_does_not_make_the_batch_infinite():
    batch = batch_of(4)
    values = near(batch).values
    values[2] = batch.inputs[2]
    psnr = score(Inputs(values), batch)["psnr"]
    assert psnr.items[2] == psnr.perfect == 120.0
    assert psnr.exact == 1
    assert math.isfinite(psnr.value)
    assert psnr.value == pytest.approx(sum(psnr.items) / 4)
    assert PSNR(cap=80).items(values.double(), batch.inputs.double())[2] == 80.0


def test_exact_means_to_within_float32_rounding():
    batch = batch_of(2)
    domain = Images(3, 16, 16, (0.48, 0.45, 0.4), (0.22, 0.23, 0.24))
    through = (domain.to_display(batch.inputs) - torch.tensor(domain.mean).reshape(3, 1, 1)) / torch.tensor(
        domain.std
    ).reshape(3, 1, 1)
    assert score(Inputs(through), batch, domain=domain)["psnr"].exact == 2
    assert score(Inputs(batch.inputs + 1e-4), batch)["psnr"].exact == 0


def test_no_attack_can_choose_by_the_referee():
    """A reconstruction chosen by its score against the truth is an oracle: attacks cannot import scoring."""
    files = list(pathlib.Path(leakscope.attacks.__file__).parent.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("leakscope.scoring") for name in names), file


def test_a_list_of_candidates_is_not_searched_for_the_best():
    batch = batch_of(1)
    candidates = Inputs(torch.cat([near(batch, noise=0.5).values, batch.inputs]))
    result = score(candidates, batch)
    assert result["psnr"].exact == 0
    assert result["ssim"].value < 0.9
    assert "1 claimed items beyond the 1 private ones were not looked at" in str(result)


# --- pairing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 999))
def test_pairing_is_the_best_of_all_permutations(private, claimed, seed):
    batch = batch_of(private, 2, 5, 5, seed=seed)
    claim = Inputs(torch.rand(claimed, 2, 5, 5, generator=Key(seed).child("c").generator()))
    pairing = pairing_of(claim, batch)
    kept = min(private, claimed)
    places, partners = pairing.known()
    assert len(places) == kept == len(set(partners))
    assert pairing.extra == claimed - kept
    cost = (claim.values[:kept, None].double() - batch.inputs[None].double()).square().flatten(2).mean(2)
    best = min(
        sum(float(cost[c, p]) for c, p in zip(chosen, which, strict=True))
        for chosen in itertools.permutations(range(kept))
        for which in itertools.combinations(range(private), kept)
    )
    assert sum(float(cost[c, p]) for p, c in zip(places, partners, strict=True)) == pytest.approx(best, abs=1e-12)


def same_scores(left, right, order=None):
    """Every number equal; the items are the same up to the order of the secret."""
    assert [s.metric for s in left] == [s.metric for s in right]
    for one, other in zip(left, right, strict=True):
        assert (one.value, one.low, one.high, one.chance, one.exact) == (
            other.value, other.low, other.high, other.chance, other.exact
        )  # fmt: skip
        if order is not None and not one.metric.startswith("label"):
            assert tuple(one.items[i] for i in order) == other.items
        assert sorted(one.items) == sorted(other.items)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99), st.booleans(), st.randoms())
def test_order_is_nothing(private, claimed, seed, binary, random):
    claimed = min(claimed, private)
    batch = batch_of(private, 1, 6, 6, seed=seed, classes=3)
    claim = near(batch_of(claimed, 1, 6, 6, seed=seed, classes=3))
    if binary:  # many pairings then cost exactly the same
        batch, claim = batch.with_inputs(batch.inputs.round()), Inputs(claim.values.round(), claim.labels)
    public = batch_of(6, 1, 6, 6, seed=seed + 1, classes=3)
    plain = score(claim, batch, metrics=EVERY, public=public)
    by_secret = torch.tensor(random.sample(range(private), private))
    by_claim = torch.tensor(random.sample(range(claimed), claimed))
    moved = Inputs(claim.values[by_claim], claim.labels[by_claim])
    distinct = len({row.numpy().tobytes() for row in batch.inputs}) == private
    order = by_secret.tolist() if distinct else None
    same_scores(plain, score(moved, batch.rows(by_secret), metrics=EVERY, public=public), order)


def test_order_is_nothing_among_pairings_of_equal_cost():
    """One bright pixel each, all in different places: every pairing has the same error, but another similarity."""
    pixels = torch.eye(64).reshape(64, 1, 8, 8)
    batch, claim = Batch(pixels[[0, 9, 63]], torch.arange(3)), pixels[[1, 18, 40]]
    plain = score(Inputs(claim), batch)
    for order in itertools.permutations(range(3)):
        same_scores(plain, score(Inputs(claim[list(order)]), batch))
        same_scores(plain, score(Inputs(claim), batch.rows(torch.tensor(order))), order)


def test_pairing_minimizes_squared_errors_not_distances():
    batch = Batch(torch.tensor([[0.0, 0.0], [-1.4, 0.3]]), torch.arange(2))
    claim = Inputs(torch.tensor([[0.0, 0.0], [1.5, 0.0]]))
    # distances: 0 + 2.92 < 1.5 + 1.43; squares: 0 + 8.5 > 2.25 + 2.05
    assert pairing_of(claim, batch).partners == (1, 0)


def test_paired_shows_the_claim_beside_its_original():
    batch = batch_of(4)
    shuffled = near(batch, noise=0.01).values[[2, 0, 3, 1]]
    beside = shown(Inputs(shuffled), Secret(batch)).inputs
    assert beside.unclaimed == (False,) * 4
    assert torch.equal(beside.original, batch.inputs.double())
    assert torch.equal(beside.claimed, shuffled[[1, 3, 0, 2]].double())
    assert shown(Inputs(shuffled, batch.labels[[2, 0, 3, 1]]), batch).labels == tuple(batch.labels.tolist())


def test_paired_shows_gray_where_nothing_was_claimed():
    domain = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    batch = batch_of(3)
    beside = shown(Inputs(batch.inputs[[1]], batch.labels[[1]]), batch, domain)
    assert beside.inputs.unclaimed == (True, False, True)
    close(beside.inputs.claimed[0], torch.full((3, 16, 16), 0.5, dtype=torch.float64))
    close(beside.inputs.claimed[1], domain.to_display(batch.inputs[1].double()))
    assert beside.labels == (-1, int(batch.labels[1]), -1)


# --- the denominator --------------------------------------------------------------------------------------------------


def test_unclaimed_items_stay_and_score_as_the_best_blind_guess():
    batch, public = batch_of(4), batch_of(20, seed=3)
    full = score(Inputs(batch.inputs), batch, public=public)
    one = score(Inputs(batch.inputs[[3]]), batch, public=public)
    none = score(Inputs(batch.inputs[:0]), batch, public=public)
    for metric in ("mse", "psnr", "ssim"):
        assert len(one[metric].items) == len(none[metric].items) == 4
        assert one[metric].items[3] == full[metric].perfect
        assert one[metric].items[:3] == none[metric].items[:3]
        assert none[metric].value == none[metric].chance == full[metric].chance
        assert not none[metric].beats_chance
    assert one["psnr"].exact == 1
    assert one.pairing.unclaimed == (True, True, True, False)
    assert "3 of 4 private items were not claimed" in str(one)


def test_claiming_everything_does_not_win():
    """All colors of a tiny domain: the private image is among the claims, but not among the first B."""
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 3)] * 4).reshape(-1, 1, 2, 2)
    batch = Batch(grid[[70, 55]], torch.tensor([0, 1]))
    everything = score(Inputs(grid), batch)
    assert everything["psnr"].exact == 0
    assert everything.pairing.extra == 79
    labels = score(Labels(torch.arange(10)), Batch(grid[:2], torch.tensor([7, 8])))
    assert labels["label-accuracy"].value == 0.0


def test_surplus_is_cut_by_confidence_and_then_by_order():
    batch = batch_of(2)
    noise = torch.rand(3, *batch.inputs.shape[1:], generator=Key(4).generator())
    values = torch.cat([noise, batch.inputs])
    sure = Inputs(values, confidence=torch.tensor([0.1, float("nan"), 0.2, 0.9, 0.8]))
    assert score(sure, batch)["psnr"].exact == 2
    assert score(Inputs(values), batch)["psnr"].exact == 0
    some = Inputs(values, confidence=torch.tensor([float("nan")] * 4 + [0.0]))
    assert score(some, batch).pairing.partners[1] == 4  # a confidence of zero ranks above none


# --- labels -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=7), st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_label_metrics_agree_with_brute_force(claimed, true):
    secret = Batch(torch.zeros(len(true), 1), torch.tensor(true))
    result = score(Labels(torch.tensor(claimed, dtype=torch.int64)), secret, metrics=EVERY[3:])
    kept = claimed[: len(true)]
    padded = kept + [-1] * (len(true) - len(kept))
    best = max(sum(a == b for a, b in zip(order, true, strict=True)) for order in itertools.permutations(padded))
    assert result["label-accuracy"].value == pytest.approx(best / len(true))
    assert result["label-accuracy"].exact == best
    assert result["label-counts"].items == tuple(float(kept.count(t) == true.count(t)) for t in true)
    assert result["label-presence"].items == tuple(float(t in kept) for t in true)
    beside = shown(Labels(torch.tensor(claimed, dtype=torch.int64)), secret).labels
    assert sum(a == b for a, b in zip(beside, true, strict=True)) == best
    assert sorted(b for b in beside if b >= 0) == sorted(kept)


def test_inputs_that_carry_labels_are_scored_on_both():
    batch = batch_of(6)
    result = score(near(batch), batch)
    assert [s.metric for s in result] == ["mse", "psnr", "ssim", "label-accuracy", "label-counts"]
    assert result["label-accuracy"].value == 1.0
    soft = Batch(batch.inputs, torch.nn.functional.one_hot(batch.labels, 10).double() * 0.9 + 0.01)
    assert score(near(batch), soft)["label-accuracy"].value == 1.0


def test_the_best_blind_counts_are_the_best():
    """Greedy counts against all multisets: expected overlap by enumerating every batch."""
    shares, count = np.array([0.5, 0.3, 0.2]), 4

    def overlap(guess):
        total = 0.0
        for drawn in itertools.product(range(3), repeat=count):
            common = sum(min(guess.count(c), drawn.count(c)) for c in range(3))
            total += common * math.prod(shares[c] for c in drawn)
        return total

    best = max(overlap(list(g)) for g in itertools.combinations_with_replacement(range(3), count))
    guessed = on_labels.likely(shares, count, Key(0)).values.tolist()
    assert overlap(guessed) == pytest.approx(best, rel=1e-12)


def test_large_batches_have_a_high_label_chance():
    """256 labels of 10 classes: a blind spread gets about 93 % right, a single label 10 %: peers report .62 here."""
    labels = torch.randint(10, (256,), generator=Key(1).generator())
    pool = Batch(torch.zeros(2000, 1), torch.arange(10).repeat(200))
    result = score(Labels(labels), Batch(torch.zeros(256, 1), labels), public=pool)
    spread = 1 - (labels.bincount().double() - 25.6).abs().sum() / 512
    assert result["label-accuracy"].chance == pytest.approx(float(spread), abs=0.01)
    assert result["label-accuracy"].beats_chance


# --- chance -----------------------------------------------------------------------------------------------------------


GUESSES = (
    on_inputs.MeanInput, on_inputs.RandomInput, on_inputs.UniformNoise, on_inputs.Midpoint,
    on_labels.FrequentLabel, on_labels.RandomLabel, on_labels.LikelyCounts, on_labels.UniformLabel,
    on_labels.UniformCounts, on_labels.LikelySet, on_labels.RandomSet,
)  # fmt: skip


@pytest.mark.parametrize("guess", GUESSES, ids=lambda g: g.__name__)
def test_chance_is_zero(guess):
    """A blind guess does not beat its chance level over many secrets, and the level is one that a guess reaches."""
    public, beaten, total = batch_of(60, 1, 8, 8, seed=50, classes=4), 0, 0
    for trial in range(8):
        batch = batch_of(5, 1, 8, 8, seed=trial, classes=4)
        known = (*input_guesses(batch, public), *label_guesses(batch, public, distinct=True, classes=4))
        one = next(other for other in known if isinstance(other, guess))
        result = score(drawn(one, Key(trial).child("blind")), batch, public=public)
        beaten += sum(item.beats_chance for item in result)
        total += len(result)
    assert beaten <= 0.1 * total  # one side of a 95 % interval is 2.5 % by design, somewhat more for 5 items


def test_the_best_guess_scores_its_level_within_its_interval():
    public, batch = dark(batch_of(40, seed=8)), dark(batch_of(6))
    found = levels_of(Inputs(batch.inputs), batch, public, EVERY[:3], Key(0).child("chance"))
    for metric, level in found.items():
        claims = [drawn(level.guess, Key(seed)) for seed in range(70, 78)]
        tried = [score(one, batch, metrics=[metric], public=public, key=Key(0))[metric.name] for one in claims]
        assert {item.chance for item in tried} == {level.value}
        values = [item.value for item in tried]
        # 8 draws beside the 8 that the level is the mean of: four standard errors of the difference are 2 spreads.
        assert abs(np.mean(values) - level.value) <= 2 * np.std(values) + 1e-12
        # 95 % intervals of 6 items are too short, and share the secret.
        assert sum(item.low <= level.value <= item.high for item in tried) >= 4
    # Independent: the mean image, by hand.
    by_hand = (batch.inputs.double() - public.inputs.double().mean(0)).square().mean()
    assert isinstance(found[MSE()].guess, on_inputs.MeanInput)
    assert found[MSE()].value == pytest.approx(float(by_hand), rel=1e-12)


def test_chance_is_the_hardest_of_the_guesses():
    """Fresh draws of every guess, scored one by one without the referee's own loop over guesses."""
    batch, public = dark(batch_of(5)), dark(batch_of(30, seed=2))
    levels = levels_of(Inputs(batch.inputs), batch, public, EVERY[:3], Key(0))
    levels |= levels_of(Labels(batch.labels), batch, public, EVERY[3:], Key(0))
    assert len(levels) == len(EVERY)
    for guess in (*input_guesses(batch, public), *label_guesses(batch, public)):
        claims = [drawn(guess, Key(seed)) for seed in range(12)]
        for metric, level in levels.items():
            if not applies(metric, claims[0]):
                continue
            if isinstance(claims[0], Labels):
                got = [np.mean(metric.items(claim.values, batch.labels)) for claim in claims]
            else:
                order = [pairing_of(claim, batch).known()[1] for claim in claims]
                true = batch.inputs.double()
                got = [np.mean(metric.items(c.values[o], true)) for c, o in zip(claims, order, strict=True)]
            sign = 1 if metric.direction is Direction.HIGHER else -1
            # 12 fresh draws against 2, 8 or 64: two standard errors of the difference are below 1.6 spreads
            assert sign * np.mean(got) <= sign * level.value + 1.6 * np.std(got) + 1e-12
            assert len(level.items) == 5


def test_guesses_use_the_domain_and_the_key():
    domain = Images(1, 4, 4, (0.3,), (0.25,))
    batch = batch_of(3, 1, 4, 4, classes=5)
    noise, middle = input_guesses(batch, None, domain)
    gray = drawn(middle, Key(0)).values
    close(domain.to_display(gray), torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64))
    shades = domain.to_display(drawn(noise, Key(0)).values)
    assert 0 <= float(shades.min()) < 0.2 < 0.8 < float(shades.max()) < 1
    assert {type(one) for one in input_guesses(batch, None, Unbounded())} == set(), "no pool, no range, no guess"
    frequent, several, counts, *_ = label_guesses(batch, None, classes=5)
    for guess in (noise, several, counts):
        one, again, other = (drawn(guess, Key(s)).values for s in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert isinstance(frequent, on_labels.FrequentLabel)
    pool = batch_of(4, 1, 4, 4)
    _, random, *_ = input_guesses(batch_of(6, 1, 4, 4), pool)
    rows = [
        next(i for i, p in enumerate(pool.inputs) if torch.equal(p.double(), d)) for d in drawn(random, Key(0)).values
    ]
    assert sorted(rows[:4]) == [0, 1, 2, 3]


def test_public_labels_set_the_level():
    skewed = Batch(images(10, seed=1), torch.tensor([3] * 9 + [1]))
    common = Batch(images(4), torch.tensor([3, 3, 3, 3]))
    assert score(Labels(common.labels), common, public=skewed)["label-accuracy"].chance == 1.0
    # k of 4 drawn labels are 3 with k ~ Binomial(4, 0.9); they overlap with {3, 3, 3, 1} in min(k, 3) + min(4 - k, 1).
    mixed = Batch(images(4), torch.tensor([3, 3, 3, 1]))
    wanted = sum(math.comb(4, k) * 0.9**k * 0.1 ** (4 - k) * (min(k, 3) + min(4 - k, 1)) / 4 for k in range(5))
    # 64 draws with a spread of 0.12: four standard errors are 0.06.
    assert score(Labels(mixed.labels), mixed, public=skewed)["label-accuracy"].chance == pytest.approx(wanted, abs=0.06)


def test_without_public_data_labels_are_taken_as_few_and_equal():
    batch = Batch(images(1), torch.tensor([3]))
    assert score(Labels(torch.tensor([3])), batch)["label-accuracy"].chance == pytest.approx(0.25, abs=0.2)
    soft = Batch(images(1), torch.nn.functional.one_hot(torch.tensor([3]), 100).float())
    assert score(Labels(torch.tensor([3])), soft)["label-accuracy"].chance < 0.06


# --- the perfect claim, laws, errors ----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 99))
def test_a_perfect_claim_scores_the_top(shape, count, seed):
    batch = Batch(torch.rand(count, *shape, generator=Key(seed).generator()), torch.arange(count))
    for item in score(Inputs(batch.inputs, batch.labels), batch, metrics=EVERY):
        assert item.value == item.perfect
        assert item.low <= item.value <= item.high
        assert item.exact == len(item.items) == count


def test_one_item_has_no_interval():
    batch = batch_of(1)
    for item in score(near(batch), batch):
        assert item.value == item.items[0]
        assert (item.low, item.high) == (-math.inf, math.inf)
        assert "[" not in str(item)


def test_nothing_is_changed():
    batch, public = batch_of(3), batch_of(5, seed=1)
    secret, claim = Secret(batch), near(batch)
    before = [secret.fingerprint(), public.fingerprint(), trees.fingerprint({"v": claim.values, "l": claim.labels})]
    state = torch.random.get_rng_state()
    domain = Images(3, 16, 16, (0.4,) * 3, (0.3,) * 3)
    result = score(claim, secret, domain=domain, public=public)
    shown(claim, secret).inputs.claimed.zero_()
    shown(claim, secret).inputs.original.zero_()
    after = [secret.fingerprint(), public.fingerprint(), trees.fingerprint({"v": claim.values, "l": claim.labels})]
    assert before == after
    assert torch.equal(torch.random.get_rng_state(), state)
    assert str(result) == str(score(claim, batch, domain=domain, public=public))


def test_a_careless_domain_cannot_change_the_secret():
    batch = Batch(images(2).double(), torch.arange(2))
    claim = near(batch)
    before = batch.fingerprint(), claim.values.clone()
    score(claim, batch, domain=InPlace())
    assert batch.fingerprint() == before[0]
    assert torch.equal(claim.values, before[1])


class InPlace:
    """A domain that writes to what it is given."""

    shape = (3, 16, 16)

    def bounds(self, like):
        return torch.zeros_like(like), torch.ones_like(like)

    def to_display(self, inputs):
        return inputs.mul_(0.5)


def test_errors_are_measured_in_display_units():
    batch = batch_of(3)
    domain = Images(3, 16, 16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    raw, shown = near(batch), near(batch).values - batch.inputs
    wanted = (shown.double() * torch.tensor(domain.std).double().reshape(3, 1, 1)).square().mean()
    result = score(raw, batch, domain=domain)["mse"]
    assert result.value == pytest.approx(float(wanted), rel=1e-6)
    assert score(raw, batch)["mse"].value > 2 * result.value


def test_inputs_that_are_no_images_have_mse_and_psnr():
    batch = Batch(torch.rand(4, 7, generator=Key(0).generator()), torch.arange(4))
    result = score(Inputs(batch.inputs + 0.1), batch)
    assert [s.metric for s in result] == ["mse", "psnr"]
    assert result["psnr"].value == pytest.approx(20.0, abs=1e-3)


def test_scores_read_well():
    batch = batch_of(2)
    result = score(Inputs(batch.inputs), batch)
    assert len(result) == 3
    assert "psnr 120 dB [120, 120] (chance " in str(result)
    assert "n=2, 2 exact)" in str(result)
    with pytest.raises(UnknownName, match="unknown metric 'psn'; did you mean 'psnr'"):
        result["psn"]
    assert isinstance(next(iter(result)), Score)
    assert applies(LabelAccuracy(), Labels(torch.tensor([1])))
    assert not applies(SSIM(), Labels(torch.tensor([1])))
    for metric in (*EVERY, LPIPS(), PSNR(cap=90)):
        assert eval(repr(metric)) == metric


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: score(Inputs(torch.zeros(2, 3, 8, 8)), b), r"shape \(3, 8, 8\) do not fit .* \(3, 16, 16\)"),
        (lambda b: score(Inputs(b.inputs), b, domain=Images(1, 16, 16)), r"of shape \(3, 16, 16\), the domain"),
        (lambda b: score(Inputs(b.inputs), b, public=batch_of(2, 1, 4, 4)), r"public inputs of shape \(1, 4, 4\)"),
        (lambda b: score(Inputs(b.inputs), b, metrics=[LabelAccuracy()]), r"the claim \(Inputs\) carries none; leave"),
        (lambda b: score(Labels(b.labels), b, metrics=[SSIM()]), "ssim compares inputs, but the claim is Labels"),
        (lambda b: score(Inputs(b.inputs), b, metrics=[PSNR(), PSNR(cap=90)]), "psnr was named 2 times"),
        (lambda b: score(Attribute("accent", b.labels), b), "a batch does not tell the accent of its examples"),
        (lambda b: score(Transcripts(((1, 2),)), b), "not with a claim of Transcripts"),
        (lambda b: score(Inputs(b.inputs), b.with_inputs(b.inputs / 0)), "values that are not finite"),
        (lambda b: score(Inputs(b.inputs, lengths=b.labels), b), "claimed sequences with lengths"),
        (lambda b: PSNR(cap=math.inf), "positive finite cap in dB, got inf"),
        (lambda b: score(Inputs(b.inputs), b, metrics=[SSIM()], domain=Unbounded()), "no blind guess exists"),
    ],
)
def test_error_texts(call, says):
    with pytest.raises(BadInput, match=says):
        call(batch_of(2))


class Unbounded:
    """A domain without limits."""

    shape = (3, 16, 16)

    def bounds(self, like):
        return torch.full_like(like, -math.inf), torch.full_like(like, math.inf)

    def to_display(self, inputs):
        return inputs


def test_padded_sequences_are_not_scored_as_whole_inputs():
    lengths = torch.tensor([2, 3])
    batch = Batch(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64), lengths, torch.tensor([1, 2]))
    with pytest.raises(BadInput, match="claim frames with their lengths"):
        score(Inputs(batch.inputs), batch)


def test_pair_labels_ranks_by_confidence():
    batch = Batch(torch.zeros(1, 1), torch.tensor([4]))
    claim = Labels(torch.tensor([1, 4]), torch.tensor([0.1, 0.9]))
    assert pairing_of(claim, batch).partners == (1,)
    assert score(claim, batch)["label-accuracy"].value == 1.0


# --- LPIPS ------------------------------------------------------------------------------------------------------------


def test_lpips_without_its_backbone_says_so_and_leaves_the_network_alone(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    batch = batch_of(2, 3, 32, 32)
    assert not applies(LPIPS(), Inputs(batch.inputs))
    for call in (
        lambda: score(Inputs(batch.inputs), batch, metrics=[LPIPS()]),
        lambda: LPIPS().items(batch.inputs, batch.inputs),
    ):
        with pytest.raises(MissingExtra, match=r"lpips needs (the package|AlexNet's published weights)"):
            call()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())  # as if the packages were there
    assert "downloads nothing" in LPIPS().unavailable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "says"), [((4, 32, 32), "1 or 3 channels"), ((3, 16, 40), "at least 32 pixels"), ((12,), "images")]
)
def test_lpips_refuses_shapes(shape, says):
    assert says in LPIPS().refusal(Inputs(torch.zeros(1, *shape)))


def test_no_claim_is_said_and_not_scored() -> None:
    batch = Batch(torch.zeros(1, 1, 4, 4), torch.tensor([0]))
    with pytest.raises(BadInput, match="no claim to score"):
        score(None, batch)
