"""Somebody's own head by the command line, membership, one logit, the published attack (parts of `released_heads.py`).

All on scikit-learn's digits of 8 x 8 and a random backbone of 48 features, which cost seconds; the figures on MNIST and
on photographs are those of `--part pictures` and `--part photos`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from head_scene import RATE, Lines, interval, resampled
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.attacks.inputs.heads import head_images
from leakscope.attacks.inputs.heads.inversion import invert
from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.attacks.inputs.heads.reading import Public, features_of, public
from leakscope.attacks.preparing import Setting
from leakscope.audit.telling import lineup
from leakscope.audit.theory import replaced_epsilon
from leakscope.bounds.lower import lower_from_scores
from leakscope.cli.main import app
from leakscope.core.effort import Budget
from leakscope.mechanisms.heads.together import Heads, first, train
from leakscope.numerics.intervals import clopper_pearson

DIGITS = ls.Digits(size=8)
SOURCE = ls.Balanced(DIGITS)
PROBE = ls.LinearProbe(ls.MLP((48,)), 26, scale=3.0)
TRAINING = ls.HeadTraining(32, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))


def own(quick: bool, key: ls.Key) -> Lines:
    """A file, a backbone by import path, a folder: attacked, or refused, with the reason, and in which time."""
    lines: Lines = []
    private = SOURCE.draw(10, key=key.child("own")).reveal()
    steps = 40 if quick else 3000
    if quick:
        head_images.HEADS, head_images.PICTURES = 200, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = _hospital(folder)
        head = _trained(body, private, torch.optim.SGD, key)
        adam = _trained(body, private, torch.optim.Adam, key)
        along = {name: value + 0.01 for name, value in body.state_dict().items()}
        along |= {f"head.{name}": value for name, value in head.state_dict().items()}
        wide = {"weight": torch.ones(10, 40), "bias": torch.zeros(10)}
        for said, state, code, why in (
            ("own head", dict(head.state_dict()), 3, '"claimed"'),
            ("unknown optimizer (Adam)", dict(adam.state_dict()), 3, "attacked all the same"),
            ("fine-tuned backbone", along, 3, "fine-tuned"),
            ("head of another width", wide, 2, "reads 40 features"),
        ):
            save_file({n: v.detach().contiguous() for n, v in state.items()}, folder / "head.safetensors")
            begun = time.process_time()
            found, text = _called(folder, steps)
            spent = time.process_time() - begun
            fine = found == code and why in text and spent <= 600
            lines.append((f"{said}: expected exit {code} with {why!r} within 600 s, measured exit {found}, "
                          f"{'with' if why in text else 'without'} it, in {spent:.1f} CPU s", fine))  # fmt: skip
    return lines


def _hospital(folder: Path) -> nn.Module:
    """A module of models and a folder of public pictures for each digit; returns the backbone."""
    text = "import torch\nfrom torch import nn\n\ndef body():\n    torch.manual_seed(3)\n"
    text += "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU())\n"
    (folder / "own_bodies.py").write_text(text, encoding="utf-8")
    public = DIGITS.public()
    for row, (picture, label) in enumerate(zip(public.inputs, public.labels.tolist(), strict=True)):
        place = folder / "public" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture[0] * 255).round().byte().numpy()).save(place / f"{row}.png")
    with ls.Key(0).isolated():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU())


def _trained(body: nn.Module, batch: ls.Batch, optimizer: type[torch.optim.Optimizer], key: ls.Key) -> nn.Linear:
    """A head by a loop of torch's own, as whoever publishes it would write it."""
    with key.child("head").isolated():
        head = nn.Linear(48, 10)
        nn.init.normal_(head.weight, std=0.002)
        nn.init.zeros_(head.bias)
        steps = optimizer(head.parameters(), lr=0.1)  # type: ignore[call-arg]
        for _ in range(32):
            steps.zero_grad()
            nn.functional.cross_entropy(head(body(batch.inputs).detach()), batch.labels).backward()
            steps.step()
    return head


def _called(folder: Path, steps: int) -> tuple[int, str]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        given = ["head.safetensors", "--backbone", "own_bodies:body", "--public", "public", "--domain", "1x8x8"]
        more = ["--steps", str(steps), "--out", "c.safetensors", "--report", "page", "--json"]
        result = CliRunner().invoke(app, ["head", *given, *more])
    finally:
        os.chdir(before)
    text = " ".join(result.output.split())
    if result.exit_code == 3:
        assert json.loads(result.stdout)
    return result.exit_code, text


def membership(quick: bool, key: ls.Key) -> Lines:
    """Which of two suspects: right, TPR at a low FPR and epsilon beside what theory allows; at chance of nobody."""
    trials, lines = (6 if quick else 300), []
    noisy = ls.HeadTraining(64, 0.01, 0.002, optimizer=ls.ClientSGD(weight_decay=1e-5))
    cells: list[tuple[str, ls.HeadTraining | ls.PrivateHeadTraining]] = [("no noise", TRAINING)]
    for multiplier in (1.82,) if quick else (0.435, 0.85, 1.82):
        step = ls.DPSGD(4.0, multiplier, expected=5, rate=0.5)
        cells.append((f"multiplier {multiplier}", ls.PrivateHeadTraining(noisy, step)))
    for name, mechanism in cells:
        odds = asked(mechanism, trials, key.child(name), member=True)
        right = int((odds > 0).sum())
        share = clopper_pearson(right, trials, level=0.95)
        # even trials are told in the one order, odd ones in the other: a likelihood ratio is a score of presence
        present, absent = odds[::2], -odds[1::2]
        alarms = int(RATE * len(absent))
        found = int((present > absent.sort(descending=True).values[alarms]).sum())
        tpr = clopper_pearson(found, len(present), level=0.95)
        shown = lower_from_scores(present.tolist(), absent.tolist(), delta=1e-5)
        allowed = replaced_epsilon(mechanism, delta=1e-5)
        most = float("inf") if allowed is None else allowed
        said = (
            f"{name}: right {right / trials:.3f} ({share.low:.3f} to {share.high:.3f}), TPR with {alarms} false alarms "
        )
        said += f"in {len(absent)} {found / len(present):.3f} ({tpr.low:.3f} to {tpr.high:.3f})"
        lines.append((f"membership, {said}; expected epsilon of at most {most:.3g}, shown at least {shown:.2f}",
                      shown <= most and (name != "no noise" or right / trials >= 0.95)))  # fmt: skip
    odds = asked(TRAINING, trials, key.child("nobody"), member=False)
    chance = clopper_pearson(int((odds > 0).sum()), trials, level=0.999)
    lines.append((f"membership, of heads of neither suspect: expected a share of 0.5, measured {chance.low:.3f} to "
                  f"{chance.high:.3f}", chance.low <= 0.5 <= chance.high))  # fmt: skip
    return lines


def asked(mechanism: ls.HeadTraining | ls.PrivateHeadTraining, trials: int, key: ls.Key, *, member: bool) -> Tensor:
    """(trials,) log-odds of the suspect that is in the head, or, of neither, of the one that could be."""
    model, attack = PROBE.build(DIGITS.domain, 10, key=ls.Key(0)), ls.HeadMembership(DIGITS.pool(), heads=64)
    found = []
    for trial in range(trials):
        own_key = key.child(trial)
        batch = SOURCE.draw(10, key=own_key).reveal()
        suspects, which = lineup(batch, SOURCE)
        used = batch
        if not member:
            taken = ls.Batch(torch.cat([batch.inputs, suspects.examples.inputs]), torch.zeros(12, dtype=torch.int64))
            other = SOURCE.alike(int(batch.labels[0]), besides=taken, key=own_key)
            assert other is not None
            used = batch.with_inputs(torch.cat([other, batch.inputs[1:]]))
        seen = ls.observe(model, used, mechanism, key=own_key.child("head"), tell=[ls.BatchSize(10)])
        told = ls.Observation(model, seen.release, mechanism, (*seen.facts, suspects))
        claim = attack.run(told, key=own_key.child("attack")).claim
        assert claim is not None
        assert claim.scores is not None
        scores, place = claim.scores[0], which.values[0]
        found.append(scores[place] - scores[1 - place])
    return torch.stack(found)


def one_logit(quick: bool, key: ls.Key) -> Lines:
    """What one logit holds of two examples, and how fast heads of two layers are trained."""
    many = 200 if quick else 2000
    stream = key.child("one logit").generator()
    means = torch.randn(2, 256, generator=stream)
    public = means[torch.arange(4000) % 2] + torch.randn(4000, 256, generator=stream)
    x = means + torch.randn(many, 2, 256, generator=stream)
    prior = FeaturePrior.of(public, torch.arange(4000) % 2, 2)
    training = ls.HeadTraining(32, 0.01, 0.0002)
    labels = torch.tensor([0, 1]).expand(many, -1)
    heads = train(training, x, labels, first(training, (256, 1), many, key=key), positive_weight=10.0)
    found = invert(heads.weights[0], prior, training, floor=False, positive_weight=10.0)
    share = 1 - float((found - x).square().sum() / (x - prior.means).square().sum())
    lines = [(f"one logit, one example of each of two classes: expected 0.4 to 0.6 of the variance within classes, "
              f"measured {share:.3f}", 0.4 <= share <= 0.6)]  # fmt: skip
    layers = first(training, (256, 4, 1), 256, key=key)
    begun = time.process_time()
    train(
        training, torch.randn(256, 10, 256, generator=stream), torch.zeros(256, 10).long(), layers, positive_weight=10.0
    )
    fast = (time.process_time() - begun) / 256
    slow = _loop(training, 5, key)
    lines.append((f"two layers, {1e6 * fast:.0f} us per head, plain loop {1e6 * slow:.0f} us: expected 5x, measured "
                  f"{slow / fast:.0f}x", slow >= 5 * fast))  # fmt: skip
    return lines


def _loop(training: ls.HeadTraining, heads: int, key: ls.Key) -> float:
    with key.child("loop").isolated():
        x, labels = torch.randn(10, 256), torch.zeros(10, 1)
        begun = 0.0
        for place in range(heads + 1):
            # the first one loads what torch loads at first use
            begun = time.process_time() if place < 2 else begun
            net = nn.Sequential(nn.Linear(256, 4), nn.ReLU(), nn.Linear(4, 1))
            optimizer = torch.optim.SGD(net.parameters(), lr=training.lr)
            for _ in range(training.steps):
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(net(x), labels).backward()
                optimizer.step()
    return (time.process_time() - begun) / heads


def published(quick: bool, key: ls.Key) -> Lines:
    """The generator of whole weights: its area under the ROC beside the replaced control, heads resampled."""
    heads, steps = (60, 300) if quick else (200, 4000)
    learner = ls.HeadReconstructor(DIGITS.pool(), steps=steps, width=8, rate=3e-3)
    begun = time.process_time()
    learned = learner.prepare(Setting(PROBE, DIGITS.domain, 10, TRAINING), key=key, clock=Budget().start())
    attack, model = learner.taught(learned), PROBE.build(DIGITS.domain, 10, key=ls.Key(0))
    spent = time.process_time() - begun
    known = public(model, TRAINING, learner.pool)
    assert isinstance(known, Public), known
    batches = [SOURCE.draw(10, key=key.child("head", place)).reveal() for place in range(heads)]
    truth = torch.stack([one.inputs[one.labels.argsort()] for one in batches])
    features = features_of(model, known.layer, truth.flatten(0, 1)).unflatten(0, truth.shape[:2])

    def made(fed: Tensor, own: ls.Key) -> Tensor:
        start = first(TRAINING, (fed.shape[2], 10), heads, key=own)
        return attack.reconstructed(train(TRAINING, fed, torch.arange(10).expand(heads, -1), start), model)

    own_error = (made(features, key.child("own")) - truth).square().flatten(2).mean(2)
    other_error = torch.zeros(heads, 10)
    for one in range(10):
        # the replaced control: the same data but for this example, which becomes the next head's
        replaced = features.clone()
        replaced[:, one] = features[:, one].roll(1, 0)
        other_error[:, one] = (
            (made(replaced, key.child("other", one))[:, one] - truth[:, one]).square().flatten(1).mean(1)
        )
    area = torch.stack(
        [(own_error[at][:, None] < other_error[at][None]).float().mean() for at in resampled(heads, key)]
    )
    low, high = interval(area)
    middle = float((own_error[:, None] < other_error[None]).float().mean())
    seen = ls.observe(model, ls.Batch(truth[0], torch.arange(10)), TRAINING, key=key, tell=[ls.BatchSize(10)])
    claim, weights = attack.run(seen, key=key).claim, seen.release.by_name
    layer = Heads((weights[known.layer.weight][None],), (weights[known.layer.bias or ""][None],))
    agreed = claim is not None and torch.allclose(claim.values, attack.reconstructed(layer, model)[0], atol=1e-5)
    said = f"published attack, {steps} steps, {spent:.0f} CPU s, {heads} heads: expected an area above 0.5"
    return [
        (f"{said}, measured {middle:.3f} ({low:.3f} to {high:.3f})", low > 0.5),
        (f"the same by observe and run: expected equal, measured {'equal' if agreed else 'not equal'}", agreed),
    ]


Part = Callable[[bool, ls.Key], Lines]

PARTS: dict[str, Part] = {
    "own": own,
    "membership": membership,
    "one-logit": one_logit,
    "published": published,
}
"""By the names of `--part`."""
