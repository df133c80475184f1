"""A scene of released heads, and how many of its pictures are found (shared by the parts of `released_heads.py`).

A picture counts as found where its squared error is smaller than that of 99 % of the pictures that the same attack
makes of heads which never saw it: trained on the same data with this example replaced by another one of its class.
Beside the attack stand a decoder that is trained on true features and given them (what this backbone and this network
let anybody see), and what needs no decoder: the public picture whose features are nearest to the estimate, and the mean
of the class. Whether the attack finds more than a baseline is a question about pairs: both are asked of the same heads,
so that the interval is that of their difference, whatever the intervals of the two rates have in common.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from PIL import Image
from torch import Tensor

import leakscope as ls
from leakscope.attacks.inputs.heads import decoder, reading
from leakscope.attacks.inputs.heads.head_images import DecodedHead, enlarged
from leakscope.attacks.inputs.heads.inversion import invert
from leakscope.attacks.inputs.heads.reading import Public, public
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget, unwatched
from leakscope.core.pool import Pool
from leakscope.mechanisms.heads.together import first, train
from leakscope.targets.looking.dense_ends import output_layer

CLASSES, NORM, RATE, RESAMPLES = 10, 10.0, 0.01, 500
"""NORM: of features, in the mean over the public. RATE: of false positives. RESAMPLES: of heads, for intervals."""
ATTACK, CEILING = "attack", "ceiling, a decoder of true features"
BASELINES = ("nearest public neighbor", "class mean")
Lines = list[tuple[str, bool]]
"""What was expected and measured, and whether it is as expected."""


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """attack, ceiling: decoders of estimates and of true features. features: (m, C, d) of pictures (m, C, *shape)."""

    attack: DecodedHead
    ceiling: Callable[[Tensor, Tensor], Tensor]
    target: ls.Target
    known: Public
    features: Tensor
    pictures: Tensor
    key: ls.Key
    training: ls.HeadTraining

    def inverted(self, features: Tensor, key: ls.Key) -> Tensor:
        """What is estimated from heads that are trained on these features, each from first weights of its own."""
        many, _, wide = features.shape
        start = first(self.training, (wide, CLASSES), many, key=key)
        heads = train(self.training, features, torch.arange(CLASSES).expand(many, -1), start)
        return invert(heads.weights[0], self.known.prior, self.training, floor=self.known.floor)

    def estimates(self) -> Tensor:
        """Of the private features, from the heads that are attacked."""
        return self.inverted(self.features, self.key.child("heads"))


def split(batch: ls.Batch, each: int, key: ls.Key) -> tuple[Tensor, Pool]:
    """(m, C) private examples, m = `each` or as many as the smallest class has; all others are public.

    The private part of the published file is drawn at random, as a tenth of it would be.
    """
    order = torch.randperm(len(batch), generator=key.generator())
    own = [order[batch.labels[order] == one] for one in range(CLASSES)]
    private = torch.stack([one[:each] for one in own], 1)
    taken = torch.zeros(len(batch), dtype=torch.bool)
    taken[private] = True
    return private, Pool(batch.rows((~taken).nonzero().flatten()))


def scaled(probe: ls.LinearProbe, domain: ls.Images, shown: Tensor) -> ls.LinearProbe:
    """The probe, whose features then have the mean norm `NORM` on these public pictures.

    Three digits of the factor: a constant that a person would write down.
    """
    bare = probe.build(domain, CLASSES, key=ls.Key(0))
    norm = float(reading.features_of(bare, output_layer(bare), shown).norm(dim=1).mean())
    return dataclasses.replace(probe, scale=float(f"{NORM / norm:.3g}"))


def prepared(
    probe: ls.LinearProbe, domain: ls.Images, learner: ls.HeadImages, training: ls.HeadTraining,
    private: Tensor, key: ls.Key,
) -> Scene:  # fmt: skip
    """The attack and its ceiling, taught on the learner's pool. private: pictures (m, C, *shape) of all classes."""
    setting = Setting(probe, domain, CLASSES, training)
    learned = learner.prepare(setting, key=key.child("prepare"), clock=Budget().start())
    target = probe.build(domain, CLASSES, key=ls.Key(0))
    known = public(target, training, learner.pool)
    assert isinstance(known, Public), known
    features = reading.features_of(target, known.layer, private.flatten(0, 1)).unflatten(0, private.shape[:2])
    ceiling = of_true_features(learner, target, known, key.child("ceiling"))
    return Scene(learner.taught(learned), ceiling, target, known, features, private, key, training)


def of_true_features(
    learner: ls.HeadImages, target: ls.Target, known: Public, key: ls.Key
) -> Callable[[Tensor, Tensor], Tensor]:
    """The same decoder, trained as long on as many pictures, and fed what no head blurs."""
    pictures, labels = enlarged(learner.pool, learner.pictures, key.child("copies").generator())
    lessons = decoder.Lessons(
        reading.features_of(target, known.layer, pictures),
        labels,
        CLASSES,
        pictures,
        0.0,
        1.0,
        int(torch.bincount(labels).min()),
        torch.arange(len(labels)) % len(learner.pool),
    )
    state = learner.decoder_of(lessons, key=key, clock=Budget().start(), watch=unwatched)
    return lambda features, classes: learner.decoded(state, (0.0, 1.0), features, classes, target)


Way = Callable[[Tensor, Tensor, int], Tensor]
"""Estimates (m, d) of a class and the features (m, d) that heads were trained on to pictures (m, pixels)."""


def routes(scene: Scene) -> dict[str, Way]:
    """The attack, its ceiling and the baselines."""
    pool = scene.attack.learner.pool.batch
    spots = reading.features_of(scene.target, scene.known.layer, pool.inputs)
    own = [(pool.labels == one).nonzero().flatten() for one in range(CLASSES)]

    def decoded(features: Tensor, one: int) -> Tensor:
        return scene.attack.decoded(features, torch.full((len(features),), one), scene.target).flatten(1)

    def best(features: Tensor, one: int) -> Tensor:
        return scene.ceiling(features, torch.full((len(features),), one)).flatten(1)

    def nearest(estimates: Tensor, one: int) -> Tensor:
        return pool.inputs[own[one][torch.cdist(estimates, spots[own[one]]).argmin(1)]].flatten(1)

    neighbor, mean = BASELINES
    return {
        ATTACK: lambda estimates, true, one: decoded(estimates, one),
        CEILING: lambda estimates, true, one: best(true, one),
        neighbor: lambda estimates, true, one: nearest(estimates, one),
        mean: lambda estimates, true, one: pool.inputs[own[one]].flatten(1).mean(0).expand(len(true), -1),
    }


@final
@dataclass(frozen=True, eq=False)
class Rates:
    """Shares found of each way, mean over classes: of all heads, and of resamples of them, the same for all ways."""

    shares: dict[str, float]
    resampled: dict[str, Tensor]

    def of(self, name: str) -> tuple[float, float, float]:
        """The share and its interval of 95 %."""
        return (self.shares[name], *interval(self.resampled[name]))

    def beyond(self, name: str) -> tuple[float, float, float]:
        """By how much the attack finds more than another way, of the same heads and classes, and its interval."""
        difference = self.shares[ATTACK] - self.shares[name]
        return (difference, *interval(self.resampled[ATTACK] - self.resampled[name]))


def interval(values: Tensor) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile."""
    low, high = values.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def resampled(many: int, key: ls.Key) -> list[Tensor]:
    """`RESAMPLES` draws of heads with replacement: the classes of a head depend on each other, so it is drawn whole."""
    stream = key.child("resample").generator()
    return [torch.randint(many, (many,), generator=stream) for _ in range(RESAMPLES)]


def found(scene: Scene, ways: dict[str, Way], nulls: int) -> Rates:
    """What each way finds. nulls: pictures of heads that never saw the example, for each class at least."""
    true, pictures, estimates = scene.features, scene.pictures.flatten(2), scene.estimates()
    many, turns = len(true), math.ceil(nulls / len(true))
    hits = {name: torch.zeros(many, CLASSES) for name in ways}
    others = {name: torch.zeros(turns, many, CLASSES) for name in ways}
    for one in range(CLASSES):
        for name, way in ways.items():
            hits[name][:, one] = errors(way(estimates[:, one], true[:, one], one), pictures[:, one])
        for turn in range(turns):
            # the same data but for one example, which becomes another head's of its class
            replaced = true.clone()
            replaced[:, one] = true[:, one].roll(turn + 1, 0)
            without = scene.inverted(replaced, scene.key.child("replaced", turn, one))
            for name, way in ways.items():
                claimed = way(without[:, one], replaced[:, one], one)
                others[name][turn, :, one] = errors(claimed, pictures[:, one])
    rows = resampled(many, scene.key)
    return Rates(
        {name: float(share(hits[name], others[name])) for name in ways},
        {name: torch.stack([share(hits[name][at], others[name][:, at]) for at in rows]) for name in ways},
    )


def errors(claimed: Tensor, true: Tensor) -> Tensor:
    """(m,) mean squared errors."""
    return (claimed - true).square().mean(1)


def share(own: Tensor, others: Tensor) -> Tensor:
    """Of errors (m, C) the share below the first hundredth of those of the control (..., C), mean over classes."""
    bounds = others.flatten(0, -2).quantile(RATE, dim=0)
    # strictly: what is the same with and without the example finds nothing
    return (own < bounds).float().mean()


def explained(scene: Scene) -> float:
    """The share of the variance of features within classes that the estimates hold."""
    true, mean = scene.features, scene.known.prior.means
    return 1 - float((scene.estimates() - true).square().sum() / (true - mean).square().sum())


def said(scene: Scene, ways: dict[str, Way], rates: Rates, path: str | None, *, within: float, beyond: bool) -> Lines:
    """The lines that all scenes have; draws into `path`. within: explained variance that is expected. beyond: whether
    the attack has to find more than the baselines."""
    lines = [(f"  {name}: {one:.3f} ({low:.3f} to {high:.3f})", True)
             for name, (one, low, high) in ((name, rates.of(name)) for name in ways)]  # fmt: skip
    for name in BASELINES:
        more, low, high = rates.beyond(name)
        wanted = "expected above 0" if beyond else "asked of longer runs"
        lines.append((f"found beyond the {name}, paired: {wanted}, measured {more:.3f} ({low:.3f} to {high:.3f})",
                      low > 0 or not beyond))  # fmt: skip
    share, agreed = explained(scene), same(scene)
    if path is not None:
        strip(scene, ways, Path(path))
    lines.append((f"variance of features within classes that is explained: expected {within}, measured {share:.3f}",
                  share >= within))  # fmt: skip
    return [
        *lines,
        (f"one head by observe and run: expected the pictures of mass training, measured {agreed}", agreed == "equal"),
    ]


def same(scene: Scene) -> str:
    """The whole road for one head: a batch of pictures, a module that is trained, an attack that reads the release."""
    batch = ls.Batch(scene.pictures[0], torch.arange(CLASSES))
    seen = ls.observe(scene.target, batch, scene.training, key=scene.key.child("one"), tell=[ls.BatchSize(CLASSES)])
    attempt = scene.attack.run(seen, key=scene.key)
    if attempt.claim is None:
        return attempt.sentence
    weights = seen.release.by_name["head.weight"].unsqueeze(0)
    features = invert(weights, scene.known.prior, scene.training, floor=scene.known.floor)
    wanted = scene.attack.decoded(features[0], torch.arange(CLASSES), scene.target)
    return "equal" if torch.allclose(attempt.claim.values, wanted, atol=1e-5) else "not equal"


def strip(scene: Scene, ways: dict[str, Way], path: Path) -> None:
    """Two heads below each other, each in rows: the truth, the attack, its ceiling, the neighbor, the class mean."""
    true, estimates, blocks = scene.features[:2], scene.estimates()[:2], []
    for head in range(2):
        rows = [scene.pictures[head].flatten(1)]
        for way in ways.values():
            made = [way(estimates[head, one][None], true[head, one][None], one) for one in range(CLASSES)]
            rows.append(torch.cat(made))
        # (C, channels, h, w) side by side: (h, C w, channels)
        wide = [row.unflatten(1, scene.pictures.shape[2:]).permute(2, 0, 3, 1).flatten(1, 2) for row in rows]
        blocks += wide
    pixels = (torch.cat(blocks).clamp(0, 1) * 255).round().byte().numpy()
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.resize((2 * image.width, 2 * image.height)).save(path)
