"""Pictures from released heads: how many are recognized among others of their class (a part of `released_heads.py`).

The backbone is VGGTiny, trained on letters that are rendered from matplotlib's fonts; its features are scaled to a mean
norm of 10 on the public digits. Heads are of one example of each digit (N = 10, 256 features, 32 steps, init_std
0.002). A picture counts as found where its squared error is smaller than that of 99 % of the pictures that the same
attack makes of heads which never saw it: trained on the same data with this example replaced by another one of its
class. Beside the attack stand a decoder that is trained on true features and given them (what this backbone and this
network let anybody see), and what needs no decoder: the public picture whose features are nearest to the estimate, and
the mean of the class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import leakscope as ls
from leakscope.attacks.inputs.heads import decoder, head_images
from leakscope.attacks.inputs.heads.head_images import DecodedHead, enlarged
from leakscope.attacks.inputs.heads.inversion import invert
from leakscope.attacks.inputs.heads.reading import Public, features_of, public
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget, unwatched
from leakscope.core.pool import Pool
from leakscope.mechanisms.heads.together import first, train
from leakscope.numerics.arrays import as_arrays
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.trained import Trained

TRAINING = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
CLASSES, NORM, RATE = 10, 10.0, 0.01
NULLS, RESAMPLES = 1000, 500
"""Pictures of heads that never saw the example, for each class at least; resamples of heads for the interval."""
LETTERS = ls.Fitted(ls.VGGTiny(), ls.Letters(16000), epochs=4, batch_size=64)
QUICK = ls.Fitted(ls.VGGTiny(), ls.Letters(1500), epochs=1, batch_size=64)
QUICK_HEADS, QUICK_STEPS = 3000, 250
"""Of --quick: the road is gone to its end, with about half of what is found."""


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """attack, ceiling: decoders of estimates and of true features. features: (m, C, d) of pictures (m, C, *shape)."""

    attack: DecodedHead
    ceiling: decoder.Decoder
    target: ls.Target
    known: Public
    features: Tensor
    pictures: Tensor
    key: ls.Key
    training: ls.HeadTraining = TRAINING

    def inverted(self, features: Tensor, key: ls.Key) -> Tensor:
        """What is estimated from heads that are trained on these features, each from first weights of its own."""
        many, _, wide = features.shape
        start = first(self.training, (wide, CLASSES), many, key=key)
        heads = train(self.training, features, torch.arange(CLASSES).expand(many, -1), start)
        return invert(heads.weights[0], self.known.prior, self.training, floor=self.known.floor)

    def estimates(self) -> Tensor:
        """Of the private features, from the heads that are attacked."""
        return self.inverted(self.features, self.key.child("heads"))


def lines(
    data: str | None, quick: bool, key: ls.Key, cache: str | None, pictures: str | None
) -> list[tuple[str, bool]]:
    """Every figure with what is expected of it."""
    begun = time.process_time()
    scene = prepared(data, quick, key, cache)
    learned, ways = time.process_time() - begun, routes(scene)
    rates = found(scene, ways)
    wanted, least = (0.25, 0.5) if quick else (0.75 if data is None else 0.85, 0.8)
    value, low, _ = rates["attack"]
    beside = max(rates["nearest public neighbor"][0], rates["class mean"][0])
    true, mean = scene.features, scene.known.prior.means
    within = 1 - float((scene.estimates() - true).square().sum() / (true - mean).square().sum())
    agreed = same(scene)
    if pictures is not None:
        strip(scene, ways, Path(pictures))
    spent = time.process_time() - begun
    return [
        (f"found at FPR 1 % (replaced control), mean of {CLASSES} classes, {len(true)} heads: expected {wanted}, "
         f"measured {value:.3f}", value >= wanted),
        *((f"  {name}: {one[0]:.3f} ({one[1]:.3f} to {one[2]:.3f})", True) for name, one in rates.items()),
        (f"beyond both baselines: expected more than {beside:.3f}, measured {low:.3f} at the low end",
         low > beside),
        (f"variance of features within classes that is explained: expected {least}, measured {within:.3f}",
         within >= least),
        (f"one head by observe and run: expected the pictures of mass training, measured {agreed}", agreed == "equal"),
        (f"CPU seconds: expected at most 600 (10 minutes), measured {spent:.0f}, of which learning "
         f"{learned:.0f}", spent <= 600),
    ]  # fmt: skip


def backbone(recipe: ls.Fitted, cache: str | None) -> AbstractArchitecture:
    """The fitted backbone; with a cache its weights are kept in a file that is named by recipe and data."""
    if cache is None:
        return recipe
    path = Path(cache) / f"{hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        built = recipe.build(recipe.data.domain, recipe.data.classes, key=ls.Key(0))
        arrays, _ = as_arrays(built.module.state_dict())
        save_file({name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}, path)
    return Trained(recipe.architecture, str(path))


def prepared(data: str | None, quick: bool, key: ls.Key, cache: str | None) -> Scene:
    """The public half becomes pool, scale and decoder; the private half becomes sets of one of each class."""
    batch = (ls.MnistSample() if data is None else ls.Mnist(data)).load()
    private, pool = split(batch, 100 if data is None else 1000, key.child("split"))
    recipe = QUICK if quick else LETTERS
    probe = ls.LinearProbe(backbone(recipe, cache), recipe.data.classes)
    domain = ls.Images(1, 28, 28)
    bare = probe.build(domain, CLASSES, key=ls.Key(0))
    known = public(bare, TRAINING, pool)
    assert isinstance(known, Public), known
    norm = float(features_of(bare, known.layer, pool.batch.inputs).norm(dim=1).mean())
    # three digits: a constant that a person would write down
    probe = dataclasses.replace(probe, scale=float(f"{NORM / norm:.3g}"))
    if quick:
        # no argument of the attack: whoever attacks wants as many as there is time for
        head_images.HEADS = QUICK_HEADS
    learner = ls.HeadImages(pool, steps=QUICK_STEPS) if quick else ls.HeadImages(pool)
    learned = learner.prepare(
        Setting(probe, domain, CLASSES, TRAINING), key=key.child("prepare"), clock=Budget().start()
    )
    target = probe.build(domain, CLASSES, key=ls.Key(0))
    known = public(target, TRAINING, pool)
    assert isinstance(known, Public), known
    pictures = batch.inputs[private]
    features = features_of(target, known.layer, pictures.flatten(0, 1)).unflatten(0, private.shape)
    ceiling = of_true_features(learner, target, known, key.child("ceiling"))
    return Scene(learner.taught(learned), ceiling, target, known, features, pictures, key)


def of_true_features(learner: ls.HeadImages, target: ls.Target, known: Public, key: ls.Key) -> decoder.Decoder:
    """The same network, trained as long on as many pictures, and fed what no head blurs."""
    pictures, labels = enlarged(learner.pool, key.child("copies").generator())
    features = features_of(target, known.layer, pictures)
    lessons = decoder.Lessons(
        features,
        labels,
        CLASSES,
        pictures,
        0.0,
        1.0,
        int(torch.bincount(labels).min()),
        torch.arange(len(labels)) % len(learner.pool),
    )
    return decoder.taught(lessons, key=key, clock=Budget().start(), watch=unwatched, steps=learner.steps)


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


Way = Callable[[Tensor, Tensor, int], Tensor]
"""Estimates (m, d) of a class and the features (m, d) that heads were trained on to pictures (m, pixels)."""


def routes(scene: Scene) -> dict[str, Way]:
    """The attack, its ceiling and the baselines."""
    pool = scene.attack.learner.pool.batch
    spots = features_of(scene.target, scene.known.layer, pool.inputs)
    own = [(pool.labels == one).nonzero().flatten() for one in range(CLASSES)]

    def decoded(features: Tensor, one: int) -> Tensor:
        return scene.attack.decoded(features, torch.full((len(features),), one), scene.target).flatten(1)

    def best(features: Tensor, one: int) -> Tensor:
        return scene.ceiling(features, torch.full((len(features),), one)).flatten(1)

    def nearest(estimates: Tensor, one: int) -> Tensor:
        return pool.inputs[own[one][torch.cdist(estimates, spots[own[one]]).argmin(1)]].flatten(1)

    return {
        "attack": lambda estimates, true, one: decoded(estimates, one),
        "ceiling, a decoder of true features": lambda estimates, true, one: best(true, one),
        "nearest public neighbor": lambda estimates, true, one: nearest(estimates, one),
        "class mean": lambda estimates, true, one: pool.inputs[own[one]].flatten(1).mean(0).expand(len(true), -1),
    }


def found(scene: Scene, ways: dict[str, Way]) -> dict[str, tuple[float, float, float]]:
    """Of each way the mean over classes of the share that is found, with a 95 % interval by resampling heads."""
    true, pictures, estimates = scene.features, scene.pictures.flatten(2), scene.estimates()
    many, turns = len(true), math.ceil(NULLS / len(true))
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
    stream = scene.key.child("resample").generator()
    rows = [torch.randint(many, (many,), generator=stream) for _ in range(RESAMPLES)]
    rates = {}
    for name in ways:
        shares = torch.stack([share(hits[name][at], others[name][:, at]) for at in rows])
        low, high = shares.quantile(torch.tensor([0.025, 0.975])).tolist()
        rates[name] = (float(share(hits[name], others[name])), low, high)
    return rates


def errors(claimed: Tensor, true: Tensor) -> Tensor:
    """(m,) mean squared errors."""
    return (claimed - true).square().mean(1)


def share(own: Tensor, others: Tensor) -> Tensor:
    """Of errors (m, C) the share below the first hundredth of those of the control (turns, m, C), mean over classes."""
    bounds = others.flatten(0, 1).quantile(RATE, dim=0)
    # strictly: what is the same with and without the example finds nothing
    return (own < bounds).float().mean()


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
