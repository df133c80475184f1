"""What every dense layer was fed, with clients in plain PyTorch: `RevealedFeatures` at each depth, honest and lied to.

    python benchmarks/layer_by_layer.py [--quick] [--seed 0] [--only NAME]

A line for each point, expected and measured; exit code 1 below expectation. Nets of two convolutions and three dense
layers on 32 x 32 photographs; what counts is what each layer was fed in the client's own pass, dropout included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls

PHOTOGRAPHS = ls.Photographs(size=32)
DENSE = ("5", "8", "11")
"""The dense layers of `vgg`, from the first to the output."""
RIGHT = 1e-3
"""The largest relative error of a proved feature."""


def vgg(classes: int, drop: float, widths: tuple[int, int] = (512, 256)) -> nn.Sequential:
    """conv, conv, dense, dense, dense on 3 x 32 x 32, torch's default initialization."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, widths[0]), nn.ReLU(), nn.Dropout(drop),
        nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Dropout(drop), nn.Linear(widths[1], classes),
    )  # fmt: skip


def he(net: nn.Sequential) -> None:
    """He et al. 2015, with small weights at the output, as is usual, and biases of zero."""
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(net[-1].weight, std=0.05)


def train(net: nn.Sequential, photographs: Tensor, labels: Tensor, steps: int) -> None:
    """Some steps of plain SGD on 32 of them at a time."""
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(photographs), (32,))
        loss = F.cross_entropy(net(photographs[chosen]), labels[chosen])
        slopes = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for value, slope in zip(net.parameters(), slopes, strict=True):
                value -= 0.02 * slope


@dataclass(frozen=True, eq=False)
class Sent:
    """The net, what each dense layer was fed, by name, what was sent, and the labels."""

    net: nn.Sequential
    fed: dict[str, Tensor]
    update: dict[str, Tensor]
    labels: Tensor


def pass_of(net: nn.Sequential, inputs: Tensor, labels: Tensor, loss: Callable[..., Tensor] = F.cross_entropy) -> Sent:
    """One forward and backward pass in the net's own mode."""
    seen: dict[str, Tensor] = {}

    def watcher(name: str) -> Callable[..., None]:
        return lambda module, given, returned: seen.__setitem__(name, given[0].detach().double())

    handles = [
        layer.register_forward_hook(watcher(name))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    slopes = torch.autograd.grad(loss(net(inputs), labels), list(net.parameters()))
    for handle in handles:
        handle.remove()
    update = {name: value for (name, _), value in zip(net.named_parameters(), slopes, strict=True)}
    return Sent(net, seen, update, labels)


def honest(seed: int, count: int, classes: int, drop: float, start: str) -> Sent:
    """start: "he" or "default", with " trained" after it or not."""
    with ls.Key(seed).child(count, classes, str(drop), start).isolated():
        net = vgg(classes, drop)
        if start.startswith("he"):
            he(net)
        inputs = PHOTOGRAPHS.draw(count, key=ls.Key(seed).child("secret")).reveal().inputs
        public = PHOTOGRAPHS.public().inputs
        if start.endswith("trained"):
            train(net, public, torch.randint(classes, (len(public),)), 60)
        net.train()
        return pass_of(net, inputs, torch.randint(classes, (count,)))


def observed(sent: Sent, mechanism: Any, *, told: bool, domain: ls.Images, training: bool = True) -> ls.Observation:
    """What the adversary sees: the model as it was declared."""
    classes = sent.net[-1].out_features
    assert isinstance(classes, int)
    target = ls.Target(sent.net, domain, classes, training=training)
    facts = (ls.BatchSize(len(sent.labels)),) if told else ()
    return ls.Observation(target, ls.Gradient(sent.update), mechanism, facts)


def errors(claim: Any, fed: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Relative distance of each claimed row from the nearest true one, and of each true one from what is claimed."""
    away = torch.cdist(claim.values.double(), fed, compute_mode="donot_use_mm_for_euclid_dist") / fed.norm(dim=1)
    return away.min(1).values.numpy(), away.min(0).values.numpy()


@dataclass(frozen=True)
class Point:
    """One line: what is expected of a share, and what it was."""

    name: str
    least: float
    share: float
    also: str = ""

    def show(self) -> bool:
        """Prints it; whether it is as expected."""
        ok = self.share >= self.least - 1e-9
        print(
            f"{self.name:62} expected >= {self.least:.2f}  measured {self.share:.3f}  {self.also}"
            f"{'' if ok else '   BELOW'}",
            flush=True,
        )
        return ok


def depths(seed: int, quick: bool) -> Iterator[Point]:
    """The acceptance: features to 1e-5, every dense layer's inputs to 1e-4, nothing certified wrongly, seconds."""
    settings = ((8, 100), (32, 200)) if quick else ((8, 100), (16, 100), (32, 100), (32, 200), (48, 200))
    starts = ("he", "default trained") if quick else ("he", "he trained", "default", "default trained")
    for count, classes in settings:
        for start in starts:
            for drop in (0.0, 0.5):
                yield from _depths(seed, count, classes, drop, start, trials=1 if quick else 3)


def _depths(seed: int, count: int, classes: int, drop: float, start: str, *, trials: int) -> Iterator[Point]:
    near: dict[int, list[float]] = {1: [], 2: [], 3: []}
    seconds, proved, wrong, why = [], 0, 0, set()
    # Of photographs that are nearly equal behind the net one may be there more often than another, for all that the
    # gradient says: untold how many there are, what is found is right, and no proof of how many there are.
    alike = start.startswith("default") and drop == 0
    for turn in range(trials):
        sent = honest(1000 * seed + turn, count, classes, drop, start)
        seen = observed(sent, ls.FedSGD(), told=False, domain=PHOTOGRAPHS.domain)
        counted = observed(sent, ls.FedSGD(), told=True, domain=PHOTOGRAPHS.domain)
        for depth in near:
            began = time.process_time()
            attempt = ls.RevealedFeatures(depth).run(seen, key=ls.Key(seed))
            seconds.append(time.process_time() - began)
            claim = attempt.claim
            if not isinstance(claim, ls.Features) or claim.layer != DENSE[-depth]:
                near[depth] += [np.inf] * count
                why.add(attempt.sentence)
                continue
            own, true = errors(claim, sent.fed[claim.layer])
            near[depth] += true.tolist()
            sure = np.zeros(len(own), bool) if attempt.certificate is None else np.array(attempt.certificate.proved)
            wrong += int((own[sure] > RIGHT).sum())
            if alike:
                again = ls.RevealedFeatures(depth).run(counted, key=ls.Key(seed))
                sure = np.array([] if again.certificate is None else again.certificate.proved, bool)
                if isinstance(again.claim, ls.Features) and again.claim.layer in sent.fed:
                    wrong += int((errors(again.claim, sent.fed[again.claim.layer])[0][sure] > RIGHT).sum())
            proved += int(sure.sum())
            if not sure.all():
                why.add(attempt.sentence)
    # Without dropout photographs are nearly equal behind a net of torch's initialization: measured, and not expected.
    limit = start.startswith("default") and drop == 0 and count >= 32
    name = f"batch {count}, {classes} classes, {start}, dropout {drop:g}"
    said = f"max {np.max(near[1]):.0e}; {sorted(why)[0]}" if why else f"max {np.max(near[1]):.0e}"
    yield Point(f"{name}: features to 1e-5", 0.0 if limit else 0.95, float(np.mean(np.array(near[1]) <= 1e-5)), said)
    deep = np.array(near[2] + near[3])
    least = 0.0 if limit else 0.95 if count <= 16 else 0.8
    yield Point(f"{name}: all dense inputs to 1e-4", least, float(np.mean(deep <= 1e-4)), f"max {deep.max():.0e}")
    share = proved / (3 * trials * count)
    yield Point(
        f"{name}: certified{', batch size told' * alike}",
        0.0 if limit else 0.8,
        share,
        f"median {np.median(seconds):.2f} CPU s",
    )
    yield Point(f"{name}: none certified wrongly", 1.0, float(wrong == 0))
    yield Point(f"{name}: within 30 s", 1.0, float(max(seconds) <= 30), f"longest {max(seconds):.1f} s")


LIES = (
    "none", "none", "scaled by tensor", "summed", "input noise", "dropout", "smoothing", "two batches", "top-k",
    "bfloat16", "noise", "weighted", "mixup", "reversed", "clipped by tensor", "other activation", "weight decay",
    "a sample twice", "focal",
)  # fmt: skip
"""What a client does that is not declared."""


def trial(seed: int) -> tuple[str, int, str]:
    """One random client: what it did, how many features were proved, and what of them the layer was not fed."""
    random = np.random.default_rng([417, seed])
    lie, classes = str(random.choice(LIES)), int(random.choice([12, 40, 100]))
    count, start = int(random.choice([1, 2, 4, 8, 16])), str(random.choice(["he", "default"]))
    with ls.Key(seed).child("lie").isolated():
        torch.manual_seed(seed)
        drop = float(random.choice([0.0, 0.0, 0.3]))
        if lie == "dropout":
            drop = 0.0
        net = _small(classes, drop)
        if start == "he":
            he(net)
        # Sparse and of unlike brightness: pictures of noise are nearly equal to a net, and prove nothing.
        inputs = torch.rand(count, 1, 10, 10) * (torch.rand(count, 1, 10, 10) < torch.rand(count, 1, 1, 1))
        labels = torch.randint(classes, (count,))
        if lie == "a sample twice" and count > 1:
            inputs[1], labels[1] = inputs[0], labels[0]
        net.train()
        fed, update = _sent(net, inputs, labels, lie, random)
    sent = Sent(net, fed, update, labels)
    seen = observed(sent, ls.FedSGD(), told=bool(random.random() < 0.5), domain=ls.Images(1, 10, 10))
    attempt = ls.RevealedFeatures([1, 2, None][int(random.integers(3))]).run(seen, key=ls.Key(seed))
    if attempt.certificate is None or not isinstance(attempt.claim, ls.Features):
        return lie, 0, ""
    sure = np.array(attempt.certificate.proved)
    own, _ = errors(attempt.claim, fed[attempt.claim.layer])
    away = own[sure].max(initial=0.0)
    said = f"{away:.0e} from what {attempt.claim.layer} was fed: {attempt.sentence}" if away > RIGHT else ""
    return lie, int(sure.sum()), said


def _small(classes: int, drop: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(200, 64), nn.ReLU(), nn.Dropout(drop),
        nn.Linear(64, 48), nn.ReLU(), nn.Dropout(drop), nn.Linear(48, classes),
    )  # fmt: skip


def _sent(
    net: nn.Sequential, inputs: Tensor, labels: Tensor, lie: str, random: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the layers were fed and what is sent, of a client that does something else than it says."""
    run, given, loss = net, inputs, F.cross_entropy
    weights = torch.rand(net[-1].out_features) + 0.2  # type: ignore[operator]
    size = float(random.choice([0.05, 0.1, 0.3]))
    losses: dict[str, Callable[..., Tensor]] = {
        "summed": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
        "smoothing": lambda z, y: F.cross_entropy(z, y, label_smoothing=size),
        "weighted": lambda z, y: F.cross_entropy(z, y, weight=weights),
        "mixup": lambda z, y: 0.7 * F.cross_entropy(z, y) + 0.3 * F.cross_entropy(z, y.flip(0)),
        "focal": lambda z, y: ((1 - z.softmax(1)[range(len(y)), y]) * F.cross_entropy(z, y, reduction="none")).mean(),
    }
    if lie == "input noise":
        given = (inputs + size * torch.randn_like(inputs)).clamp(0, 1)
    if lie == "dropout":
        run = nn.Sequential(*[nn.Dropout(size) if isinstance(one, nn.Dropout) else one for one in net])
    if lie == "other activation":
        run = nn.Sequential(*[nn.LeakyReLU(size) if isinstance(one, nn.ReLU) else one for one in net])
    sent = pass_of(run, given, labels, losses.get(lie, loss))
    fed, update = sent.fed, sent.update
    if lie == "two batches":
        other = pass_of(run, torch.rand_like(inputs), labels.flip(0))
        fed = {name: torch.cat([fed[name], other.fed[name]]) for name in fed}
        update = {name: update[name] + other.update[name] for name in update}
    return fed, {name: _changed(value, lie, size, dict(net.named_parameters())[name]) for name, value in update.items()}


def _changed(value: Tensor, lie: str, size: float, weight: Tensor) -> Tensor:
    kept = value.abs() >= value.abs().flatten().kthvalue(max(1, int(0.5 * value.numel()))).values
    changes: dict[str, Callable[[], Tensor]] = {
        "scaled by tensor": lambda: value * float(0.5 + torch.rand(())),
        "top-k": lambda: value * kept,
        "bfloat16": lambda: value.bfloat16().float(),
        "noise": lambda: value + 10 ** (-2 - 20 * size) * value.abs().max() * torch.randn_like(value),
        "reversed": lambda: -value,
        "clipped by tensor": lambda: value / max(1.0, float(value.norm()) / (0.2 * size)),
        "weight decay": lambda: value + 1e-3 * size * weight.detach(),
    }
    return changes[lie]() if lie in changes else value


def lies(seed: int, quick: bool) -> Iterator[Point]:
    """No feature is certified that the layer was not fed, whatever the client did."""
    found = [trial(100_000 * seed + turn) for turn in range(250 if quick else 1500)]
    for lie, _, wrong in found:
        if wrong:
            print(f"    {lie}: {wrong}")
    proved = sum(count > 0 for _, count, _ in found)
    right = sum(not wrong for *_, wrong in found) / len(found)
    yield Point(f"{len(found)} random clients: nothing false is certified", 1.0, right, f"{proved} with proofs")
    plain = [count for lie, count, _ in found if lie == "none"]
    yield Point("of those that do as they say: with proofs", 0.2, float(np.mean(np.array(plain) > 0)), f"{len(plain)}")


class Causal(nn.Module):
    """A small causal transformer with an untied head, in plain PyTorch: logits (B, T, V) of the next token."""

    def __init__(self, vocabulary: int, length: int, width: int = 128) -> None:
        nn.Module.__init__(self)
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """No place sees a later one."""
        hidden = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        ahead = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        logits: Tensor = self.head(self.block(hidden, src_mask=ahead))
        return logits


def language(seed: int, quick: bool) -> Iterator[Point]:
    """Every place's hidden state and next token of a language model's texts, as many tokens in each."""
    for count, length in ((1, 16), (2, 16)) if quick else ((1, 8), (1, 32), (2, 16), (3, 16)):
        near, tokens, proved, wrong, seconds, trials = list[float](), 0, 0, 0, list[float](), 4 if quick else 12
        for turn in range(trials):
            with ls.Key(seed).child("language", count, length, turn).isolated():
                net = Causal(300, length)
                ids = torch.randint(1, 300, (count, length))
                seen_at: list[Tensor] = []
                handle = net.head.register_forward_hook(lambda m, given, r, to=seen_at: to.append(given[0].detach()))
                loss = F.cross_entropy(net(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
                handle.remove()
                slopes = torch.autograd.grad(loss, list(net.parameters()))
            update = {name: value for (name, _), value in zip(net.named_parameters(), slopes, strict=True)}
            target = ls.Target(net, ls.Text(300, length), 300, loss=ls.NextToken())
            began = time.process_time()
            attempt = ls.RevealedFeatures().run(
                ls.Observation(target, ls.Gradient(update), ls.FedSGD()), key=ls.Key(seed)
            )
            seconds.append(time.process_time() - began)
            claim = attempt.claim
            if not isinstance(claim, ls.Features):
                near += [np.inf] * (count * (length - 1))
                continue
            own, true = errors(claim, seen_at[0][:, :-1].flatten(0, 1).double())
            near += true.tolist()
            assert claim.labels is not None
            tokens += sorted(claim.labels.tolist()) == sorted(ids[:, 1:].flatten().tolist())
            sure = np.zeros(len(own), bool) if attempt.certificate is None else np.array(attempt.certificate.proved)
            proved, wrong = proved + int(sure.sum()), wrong + int((own[sure] > RIGHT).sum())
        name = f"language model, {count} texts of {length} tokens"
        said = f"max {np.max(near):.0e}, median {np.median(seconds):.2f} CPU s"
        yield Point(f"{name}: hidden states to 1e-5", 0.95, float(np.mean(np.array(near) <= 1e-5)), said)
        yield Point(f"{name}: all next tokens right", 0.9, tokens / trials, f"{trials} batches")
        yield Point(f"{name}: certified", 0.8, proved / len(near))
        yield Point(f"{name}: none certified wrongly", 1.0, float(wrong == 0))


def people(seed: int, quick: bool) -> Iterator[Point]:
    """What a gallery of public examples says of revealed features: which digit it is, of a net that is asked otherwise.

    Labels are random ones of 100 classes. "together": all eight examples show one digit, as one person's would.
    """
    digits, many = ls.Digits(size=16), 2 if quick else 12
    public = digits.public().rows(torch.arange(400))
    lineup = ls.Gallery("digit", tuple("0123456789"), tuple(public.labels.tolist()), public)
    right, ceiling, alone, seconds = 0, 0, 0, list[float]()
    for turn in range(many):
        key = ls.Key(seed).child("people", turn)
        with key.isolated():
            net = nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(),
                nn.Linear(128, 100),
            )  # fmt: skip
        target, drawn = ls.Target(net, digits.domain, 100), digits.draw(200, key=key).reveal()
        one = (drawn.labels == turn % 10).nonzero().flatten()[:8]
        for rows, together in ((torch.arange(8), False), (one, True)):
            secret = drawn.rows(rows)
            labels = torch.randint(100, (len(rows),), generator=key.generator())
            sent = pass_of(net, secret.inputs, labels)
            seen = ls.Observation(target, ls.Gradient(sent.update), ls.FedSGD(), (lineup,))
            began = time.process_time()
            attack = ls.AttributeClassifier(together=together)
            claim = attack.run(seen, key=ls.Key(seed)).claim
            seconds.append(time.process_time() - began)
            if together:
                alone += isinstance(claim, ls.Attribute) and claim.values.tolist() == [turn % 10]
                continue
            true, _ = attack.named(seen, ls.Features("5", sent.fed["5"]))
            wanted = Counter(secret.labels.tolist())
            ceiling += (Counter(true.values.tolist()) & wanted).total()
            right += (Counter(claim.values.tolist()) & wanted).total() if isinstance(claim, ls.Attribute) else 0
    least = ceiling / (8 * many)
    also = f"of true features {least:.3f}, chance 0.1 each; median {np.median(seconds):.2f} CPU s"
    yield Point(f"which digit, of {8 * many} in batches of 8: named right", 0.99 * least, right / (8 * many), also)
    yield Point(f"which digit, {many} batches of 8 of one together: named right", 0.9, alone / many, "chance 0.1")


def images(seed: int, quick: bool) -> Iterator[Point]:
    """Pictures of a batch behind a fresh convolutional net with 100 classes, one by one, and nothing told."""
    for source, name, least in ((PHOTOGRAPHS, "photographs", 25.0), (ls.Digits(size=16), "digits", 60.0)):
        for turn in range(1 if quick else 2):
            key, count = ls.Key(seed).child("images", turn), 8 if quick else 32
            target = ls.ConvNet(16).build(source.domain, 100, key=key)
            reached, also = _pictures(target, source, count, key, ls.FeatureInversion())
            yield Point(f"{count} {name}, batch {turn + 1}: mean PSNR of what is claimed, dB", least, reached, also)
    for drop in () if quick else (0.0, 0.5):
        key = ls.Key(seed).child("below", drop)
        with key.isolated():
            target = ls.Target(vgg(100, drop).train(), PHOTOGRAPHS.domain, 100, training=True)
        above, _ = _pictures(target, PHOTOGRAPHS, 8, key, ls.FeatureInversion(layers=1))
        reached, also = _pictures(target, PHOTOGRAPHS, 8, key, ls.FeatureInversion())
        also += f"; by the output layer alone {above:.1f}"
        yield Point(f"8 photographs, VGG-like, dropout {drop}: mean PSNR by the deepest layer", 25.0, reached, also)


def _pictures(
    target: ls.Target, source: ls.Photographs | ls.Digits, count: int, key: ls.Key, attack: ls.FeatureInversion
) -> tuple[float, str]:
    """Mean PSNR, and how many were claimed in what time."""
    inputs = source.draw(count, key=key.child("secret")).reveal().inputs
    batch = ls.Batch(inputs, torch.randint(100, (count,), generator=key.child("labels").generator()))
    seen = ls.observe(target, batch, ls.FedSGD(), key=key)
    began = time.process_time()
    attempt = attack.run(seen, key=key)
    seconds = time.process_time() - began
    claimed = 0 if attempt.claim is None else len(attempt.claim.values)
    reached = -np.inf if attempt.claim is None else ls.score(attempt.claim, batch)["psnr"].value
    return reached, f"{claimed} claimed, {seconds:.0f} CPU s"


PARTS: dict[str, Callable[[int, bool], Iterator[Point]]] = {
    "depths": depths, "language": language, "people": people, "images": images, "lies": lies,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """All parts, or one; 1 below expectation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few batches, in less than a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shown = [point.show() for name in asked.only or PARTS for point in PARTS[name](asked.seed, asked.quick)]
    return 0 if all(shown) else 1


if __name__ == "__main__":
    sys.exit(main())
