"""The entrance of a transformer: exact images where the equations have full rank, a sentence where they have not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import leakscope as ls
from leakscope.targets.looking.patch_entry import patch_entry

SMALL = ls.Images(3, 8, 8)


def batch(domain: ls.Images, count: int = 1, seed: int = 0) -> ls.Batch:
    generator = ls.Key(seed).child("images").generator()
    return ls.Batch(torch.rand(count, *domain.shape, generator=generator), torch.full((count,), 3))


def decibel(claimed: Tensor, true: Tensor) -> float:
    return -10 * math.log10(max(float((claimed - true).square().mean()), 1e-15))


def observed(target: ls.Target, *keep: str, count: int = 1) -> ls.Observation:
    """What an adversary sees; only the parameters whose name ends in one of `keep`, if any are given."""
    told = [ls.BatchSize(1)] if count == 1 else []
    seen = ls.observe(target, batch(target.domain, count), ls.FedSGD(), key=ls.Key(1), tell=told)
    if not keep:
        return seen
    left = {name: value for name, value in seen.release.by_name.items() if name.endswith(keep)}
    return ls.Observation(seen.target, ls.Gradient(left), seen.mechanism, seen.facts)


def shifted(target: ls.Target) -> ls.Target:
    """The same with the scales and shifts of a trained model in every LayerNorm."""
    with ls.Key(5).isolated():
        for layer in target.module.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.weight.data = 1 + 0.3 * torch.randn_like(layer.weight)
                layer.bias.data = 0.3 * torch.randn_like(layer.bias)
    return target


READERS = ("query.weight", "key.weight", "value.weight")


@pytest.mark.parametrize(
    ("recipe", "domain"),
    [
        (ls.ViT(patch=4, dim=128, depth=1), ls.Images(3, 32, 32)),  # 64 tokens
        (ls.ViT(patch=4, dim=128, depth=2, class_token=True), ls.Images(3, 32, 32)),
        (ls.ViT(patch=4, dim=96, depth=1, norm=False, skip=False), ls.Images(3, 16, 16)),  # APRIL's block
        (ls.ViT(patch=4, dim=24, depth=1), ls.Images(3, 16, 16)),  # a patch has 48 values, a token 24
    ],
    ids=repr,
)
def test_the_acceptance_cases_are_above_100_decibel(recipe: ls.ViT, domain: ls.Images) -> None:
    target = recipe.build(domain, 10, key=ls.Key(0))
    attempt = ls.FirstAttention().run(observed(target), key=ls.Key(2))
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert decibel(attempt.claim.values, batch(domain).inputs) > 100
    assert attempt.claim.labels.tolist() == [3]


@pytest.mark.parametrize(("size", "dim"), [(32, 48), (32, 63), (16, 12)])
def test_more_tokens_than_dimensions_are_refused_beforehand(size: int, dim: int) -> None:
    target = ls.ViT(patch=4, dim=dim, heads=3).build(ls.Images(3, size, size), 10, key=ls.Key(0))
    attempt = ls.FirstAttention().run(observed(target), key=ls.Key(2))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert f"rank-deficient: by the position embedding: {(size // 4) ** 2} tokens have at most rank" in attempt.sentence


PARTS = {
    "embedding": (("position_embedding", "patch_embedding.weight"), "the patch embedding's gradient"),
    "attention": (("position_embedding", *READERS), "the first attention's gradient"),
    "span": (READERS, "the span of the first attention's gradient"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("norm", "skip"), [(False, False), (False, True), (True, False), (True, True)])
def test_each_set_of_equations_alone(part: str, norm: bool, skip: bool) -> None:
    """Which hold depends on the block; none may claim something false where it does not hold."""
    keep, words = PARTS[part]
    target = ls.ViT(dim=64, depth=2, heads=2, norm=norm, skip=skip).build(SMALL, 5, key=ls.Key(0))
    attempt = ls.FirstAttention().run(observed(target, *keep), key=ls.Key(2))
    assert attempt.outcome is ls.Outcome.CLAIMED
    assert decibel(attempt.claim.values, batch(SMALL).inputs) > 80
    if part != "attention" or not (norm or skip):
        assert words in attempt.sentence


def test_aprils_equations_are_not_used_past_a_residual_connection() -> None:
    """dL/dz then holds what the connection adds; at 48 + 16 > 48 dimensions the span is no way out either."""
    for recipe in (ls.ViT(dim=48, heads=2, norm=False), ls.ViT(dim=48, heads=2), ls.ViT(dim=48, heads=2, skip=False)):
        target = recipe.build(SMALL, 5, key=ls.Key(0))
        attempt = ls.FirstAttention().run(observed(target, "position_embedding", *READERS), key=ls.Key(2))
        assert attempt.outcome is ls.Outcome.REFUSED
        assert "reach the loss past the attention" in attempt.sentence
        assert "4 tokens and 48 values per patch need 52 dimensions, there are 48" in attempt.sentence
    target = ls.ViT(dim=48, heads=2, norm=False, skip=False).build(SMALL, 5, key=ls.Key(0))
    attempt = ls.FirstAttention().run(observed(target, "position_embedding", *READERS), key=ls.Key(2))
    assert decibel(attempt.claim.values, batch(SMALL).inputs) > 60  # rounding, multiplied by a square E of condition 50


def test_the_identity_of_the_attention_is_what_autograd_says() -> None:
    for norm, skip in ((False, False), (False, True), (True, False), (True, True)):
        target = ls.ViT(dim=16, heads=2, norm=norm, skip=skip).build(SMALL, 5, key=ls.Key(0))
        entry = patch_entry(target)
        assert entry.attention_only is (not norm and not skip)
        assert entry.position == "position_embedding"
        assert entry.readers == tuple(f"blocks.0.attention.{name}" for name in READERS)


def test_shifts_of_a_trained_normalization() -> None:
    target = shifted(ls.ViT(dim=64, heads=2).build(SMALL, 5, key=ls.Key(0)))
    attempt = ls.FirstAttention().run(observed(target), key=ls.Key(2))
    assert "and the span" in attempt.sentence
    assert decibel(attempt.claim.values, batch(SMALL).inputs) > 100
    alone = ls.FirstAttention().run(observed(target, *READERS), key=ls.Key(2))
    assert alone.outcome is ls.Outcome.REFUSED
    assert "has a shift" in alone.sentence


def test_one_layer_that_reads_a_class_token_is_refused() -> None:
    """One block read at one token sends as many directions as heads: 5 of 5 tokens with 4 heads, not with 1."""
    target = ls.ViT(dim=64, depth=1, heads=1, norm=False, class_token=True).build(SMALL, 5, key=ls.Key(0))
    attempt = ls.FirstAttention().run(observed(target), key=ls.Key(2))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "the gradient of the 4 patches has rank" in attempt.sentence


def test_a_batch_is_refused_where_told_or_seen_and_never_proved() -> None:
    target = ls.ViT(dim=64, heads=2).build(SMALL, 5, key=ls.Key(0))
    seen = observed(target, count=2)
    told = ls.Observation(seen.target, seen.release, seen.mechanism, (ls.BatchSize(2),))
    assert "2 examples share every gradient" in ls.FirstAttention().run(told, key=ls.Key(2)).sentence
    assert "rank 8, above the 4 tokens" in ls.FirstAttention().run(seen, key=ls.Key(2)).sentence
    crowded = ls.FirstAttention().run(observed(target, count=20), key=ls.Key(2))  # fills all dimensions
    assert crowded.certificate is None or not crowded.certificate.holds


@pytest.mark.parametrize(
    ("mechanism", "holds"),
    [
        (ls.FedSGD() >> ls.Clip(0.1), True),
        (ls.FedAvg(steps=1, lr=1.0), True),
        (ls.FedAvg(steps=3, lr=1.0), False),
        (ls.FedSGD() >> ls.GaussianNoise(1e-3), False),
        (ls.FedSGD() >> ls.Sign(), False),
        (ls.FedSGD() >> ls.Prune(0.1), False),
    ],
    ids=repr,
)
def test_the_certificate_holds_where_the_release_is_the_gradient(mechanism: ls.FedSGD, holds: bool) -> None:
    target = ls.ViT(dim=64, heads=2).build(SMALL, 5, key=ls.Key(0))
    seen = ls.observe(target, batch(SMALL), mechanism, key=ls.Key(1), tell=[ls.BatchSize(1)])
    attempt = ls.FirstAttention().run(seen, key=ls.Key(2))
    if holds:
        assert decibel(attempt.claim.values, batch(SMALL).inputs) > 70
    assert (attempt.certificate is not None and attempt.certificate.holds) is holds


class Rearranged(nn.Module):
    """Another person's transformer: pixels rearranged by hand, positions from a table, torch's own encoder layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.places = nn.Embedding(9, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)
        tokens = self.embed(patches) + self.places(torch.arange(patches.shape[1]))
        return self.head(self.encoder(tokens).mean(1))


def test_another_persons_transformer() -> None:
    with ls.Key(0).isolated():
        target = ls.Target(Rearranged(), SMALL, 5)
    attempt = ls.FirstAttention().run(observed(target), key=ls.Key(2))
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    assert decibel(attempt.claim.values, batch(SMALL).inputs) > 100
    span = ls.FirstAttention().run(observed(target, "0.self_attn.in_proj_weight"), key=ls.Key(2))
    assert decibel(span.claim.values, batch(SMALL).inputs) > 80


@pytest.mark.parametrize("made", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_an_embedding_that_is_made_of_other_parameters(made) -> None:  # type: ignore[no-untyped-def]
    """Its weight is no parameter, and nobody sends its gradient: the attention's and the places' remain."""
    built = ls.ViT(patch=4, dim=96, depth=1).build(SMALL, 10, key=ls.Key(0))
    embedding = next(one for one in built.module.modules() if isinstance(one, nn.Conv2d | nn.Linear))
    made(embedding)
    target = ls.Target(built.module, SMALL, 10)
    seen = observed(target)
    assert any("parametrizations" in name for name in seen.release.by_name)
    attempt = ls.FirstAttention().run(seen, key=ls.Key(2))
    assert decibel(attempt.claim.values, batch(SMALL).inputs) > 60


def test_refusals_say_what_is_not_as_it_should_be() -> None:
    net = ls.LeNet().build(ls.Images(3, 32, 32), 5, key=ls.Key(0))
    assert "embeds patches" in ls.FirstAttention().run(observed(net), key=ls.Key(2)).sentence
    target = ls.ViT(dim=16, heads=2).build(SMALL, 5, key=ls.Key(0))
    assert (
        "lacks position_embedding" in ls.FirstAttention().run(observed(target, "head.weight"), key=ls.Key(2)).sentence
    )
    with pytest.raises(ls.BadInput, match="do not tile"):
        ls.ViT(patch=3).build(SMALL, 5, key=ls.Key(0))
    with pytest.raises(ls.BadInput, match="multiple of heads"):
        ls.ViT(dim=10, heads=4)


def test_vet_finds_nothing_against_a_vision_transformer() -> None:
    assert ls.vet(ls.ViT(dim=16, heads=2).build(SMALL, 5, key=ls.Key(0))) == ()


def test_patches_that_are_the_same_tokens_are_not_proved() -> None:
    """With a dependent column in the embedding, many patches have the same gradients but for its own."""
    domain = ls.Images(1, 16, 16)
    target = ls.ViT(dim=64, depth=2, heads=2, norm=False, skip=False).build(domain, 5, key=ls.Key(0))
    with torch.no_grad():
        target.module.patch_embedding.weight.view(64, -1)[:, 5] = 0.0
    seen = observed(target, "position_embedding", *READERS)
    attempt = ls.FirstAttention().run(seen, key=ls.Key(2))
    assert attempt.certificate is None or not attempt.certificate.holds
    assert "dependent" in attempt.sentence or attempt.claim is not None


class Hushed(nn.Module):
    """A transformer of one block whose class token hardly looks at the first four of sixteen patches."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.embed, self.cls = nn.Linear(16, 32), nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(0.3 * torch.randn(1, 17, 32))
        self.norm, self.behind, self.head = nn.LayerNorm(32), nn.LayerNorm(32), nn.Linear(32, 10)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        with torch.no_grad():
            tokens = self.tokens(torch.rand(64, 1, 16, 16))
            asked = self.query(self.norm(tokens[:, :1])).mean((0, 1))
            away = self.key.weight.T @ asked
            away = 3.0 * away / away.norm()
            self.position[0, 1:5] -= away
            seen = self.norm(tokens[:, 1:5] - away).mean((0, 1)) - self.norm(tokens)[:, 5:].mean((0, 1))
            gap = float(abs(seen @ self.key.weight.T @ asked)) / math.sqrt(32)
            self.query.weight *= strength / gap
            self.query.bias *= strength / gap

    def tokens(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(x), 16, 16)
        return torch.cat([self.cls.expand(len(x), -1, -1), self.embed(patches)], 1) + self.position

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)
        fed = self.norm(tokens)
        heard = self.query(fed) @ self.key(fed).transpose(1, 2) / math.sqrt(32)
        tokens = tokens + self.out(heard.softmax(2) @ self.value(fed))
        return self.head(self.behind(tokens[:, 0]))


@pytest.mark.parametrize("seed", range(97300, 97306))
def test_a_patch_that_nobody_looks_at_is_not_proved_with_the_rest(seed: int) -> None:
    """It leaves a hundred-thousandth of the gradient, whose rounding moves it by some hundredths; what explains the
    whole to a hundred-thousandth was a proof all the same."""
    torch.manual_seed(seed)
    net, picture = Hushed(8.5), torch.rand(1, 1, 16, 16)
    slopes = torch.autograd.grad(nn.functional.cross_entropy(net(picture), torch.tensor([3])), list(net.parameters()))
    sent = {name: slope for (name, _), slope in zip(net.named_parameters(), slopes, strict=True)}
    target = ls.Target(net, ls.Images(1, 16, 16), 10)
    seen = ls.Observation(target, ls.Gradient(sent), ls.FedSGD(), (ls.BatchSize(1),))
    attempt = ls.FirstAttention().run(seen, key=ls.Key(0))
    if attempt.certified:
        assert attempt.claim is not None
        assert float((attempt.claim.values - picture).square().mean()) < 1e-6
