"""Speech for `certificates.py`: a recognizer and a client in plain PyTorch under torch's own CTC."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plain_lies
import torch
import torch.nn.functional as F
from plain_judge import bare
from plain_models import Draw, chance, whole
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.parts.reading.proof import STEPPED, UNSIZED

FEATURES, CONTEXT, CLASSES = 6, 3, 9
WINDOW = (2 * CONTEXT + 1) * FEATURES
LR = 1e-3
CLOSE = 0.05
"""Largest distance of a claimed frame from one that was fed, whose values are about one."""
Update = dict[str, Tensor]


class Recognizer(nn.Module):
    """Windows, two dense layers, a recurrent one, classes."""

    def __init__(self, hidden: int, act: nn.Module, rate: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.first, self.second = nn.Linear(WINDOW, hidden), nn.Linear(hidden, hidden)
        self.act, self.drop, self.drop2 = act, nn.Dropout(rate), nn.Dropout(rate)
        self.memory, self.out = nn.GRU(hidden, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, FEATURES) to (B, T, CLASSES)."""
        around = F.pad(frames, (0, 0, CONTEXT, CONTEXT)).unfold(1, 2 * CONTEXT + 1, 1)
        units = self.drop(self.act(self.first(around.transpose(2, 3).flatten(2))))
        units = self.drop2(self.act(self.second(units)))
        return self.out(self.memory(units)[0])


@dataclass(frozen=True, eq=False)
class Said:
    """Utterances (T, FEATURES) with their labels, and the recognizer that is trained on them."""

    net: Recognizer
    frames: list[Tensor]
    labels: list[Tensor]
    blank: int
    draw: Draw


def quiet(frames: Tensor, at: int, count: int, level: float) -> Tensor:
    """With `count` equal frames inserted."""
    silence = torch.full((count, FEATURES), level) * torch.linspace(1, 2, FEATURES)
    return torch.cat([frames[:at], silence, frames[at:]])


def traded(frames: Tensor, draw: Draw) -> Tensor:
    """What one coefficient gains, another loses."""
    gain = torch.randn(len(frames), 1, generator=draw) * torch.eye(FEATURES)[1]
    return frames + gain - gain.roll(3, 1)


def dimmed(left: float) -> Callable[[Tensor], None]:
    """The weights (H, 2 CONTEXT + 1, FEATURES) of the coefficients that `traded` changes, times `left`."""

    def change(weight: Tensor) -> None:
        weight[..., [1, 4]] *= left

    return change


def tied(weight: Tensor) -> None:
    """The layer sees the sum of these two coefficients."""
    weight[..., 4] = weight[..., 1]


SPOKEN: dict[str, Callable[[Tensor, Draw], list[Tensor]]] = {
    "plain": lambda x, d: [x],
    "two utterances": lambda x, d: [x[: len(x) // 2 - 1], x[len(x) // 2 - 1 :]],
    "padded by silence": lambda x, d: [quiet(x, len(x), whole(8, 24, d), -3.0)],
    "padded by zeros": lambda x, d: [quiet(quiet(x, len(x), whole(1, 14, d), 0.0), 0, whole(1, 14, d), 0.0)],
    "gated": lambda x, d: [quiet(x, whole(1, len(x) - 1, d), whole(2, 22, d), -3.0)],
    "gated twice, zeros": lambda x, d: [quiet(quiet(x, 12, whole(2, 16, d), 0.0), 4, whole(2, 16, d), 0.0)],
    "all silent": lambda x, d: [quiet(x[:0], 0, whole(4, 24, d), -3.0)],
    "all zeros": lambda x, d: [quiet(x[:0], 0, whole(4, 24, d), 0.0)],
    "repeated": lambda x, d: [torch.cat([x[:9], x[:9], x[9:14]])],
    "two, one gated": lambda x, d: [quiet(x[:8], 4, whole(2, 14, d), -3.0), x[8:]],
    "the same twice": lambda x, d: [x, x],
    "masked in time": lambda x, d: [torch.cat([x[:5], torch.zeros_like(x[5:9]), x[9:]])],
    "masked in bands": lambda x, d: [x * (torch.arange(FEATURES) != whole(0, FEATURES - 1, d))],
    "there and back": lambda x, d: [torch.cat([x, x.flip(0)])],
    "slowed": lambda x, d: [x[:9].repeat_interleave(2, 0)],
    "alike but for two coefficients": lambda x, d: [x, traded(x, d)],
}
"""What is said: (T, FEATURES) frames to utterances."""


def ctc(said: Said, reduce: Callable[[Tensor, int], Tensor] = lambda loss, n: loss, turn: int = 0) -> Tensor:
    """The mean over utterances of -log p(labels), with the blank `turn` places from where it is declared."""
    blank = (said.blank + turn) % CLASSES
    losses = [
        reduce(
            F.ctc_loss(said.net(x[None])[0].log_softmax(1)[:, None], y[None], [len(x)], [len(y)], blank, "sum"), len(y)
        )
        for x, y in zip(said.frames, said.labels, strict=True)
    ]
    return torch.stack(losses).mean()


def slope(said: Said, **how: Any) -> Update:
    """The gradient by `autograd`."""
    names, values = zip(*said.net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(ctc(said, **how), values), strict=True))


def moved(said: Said, make: Callable[[Any], torch.optim.Optimizer], steps: int = 2) -> Update:
    """The change of weights after some steps."""
    net = copy.deepcopy(said.net)
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        ctc(dataclasses.replace(said, net=net)).backward()
        optimizer.step()
    before = dict(said.net.named_parameters())
    return {name: (value - before[name]).detach() for name, value in net.named_parameters()}


def each(change: Callable[[Tensor, Said], Tensor]) -> Callable[[Said], Update]:
    """The gradient, each tensor changed by itself."""
    return lambda said: {name: change(value, said) for name, value in slope(said).items()}


def largest(value: Tensor, said: Said) -> Tensor:
    """The larger part of the entries."""
    return torch.where(value.abs() >= value.abs().quantile(0.2 + 0.7 * chance(said.draw)), value, 0.0)


def levels(value: Tensor, said: Said) -> Tensor:
    """Fifteen or 255 levels."""
    size = value.abs().max() / (7, 127)[whole(0, 1, said.draw)]
    return (value / size).round() * size


def noisy(value: Tensor, said: Said) -> Tensor:
    """Noise from a millionth of the tensor's size on."""
    size = 1e-6 * 1e5 ** chance(said.draw)
    return value + size * value.std() * torch.randn(value.shape, generator=said.draw)


def clipped(said: Said) -> Update:
    """Each tensor to one norm."""
    found = slope(said)
    bound = float(torch.stack([v.norm() for v in found.values()]).median())
    return {n: v * min(1.0, bound / float(v.norm())) for n, v in found.items()}


def stale(said: Said) -> Update:
    """With weights of another round."""
    net = copy.deepcopy(said.net)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.05 * value.std() * torch.randn(value.shape, generator=said.draw))
    return slope(dataclasses.replace(said, net=net))


def half(said: Said) -> Update:
    """Computed in bfloat16 but for the loss, and sent as float32."""
    net = copy.deepcopy(said.net)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(value.bfloat16().float())
    return {n: v.bfloat16().float() for n, v in slope(dataclasses.replace(said, net=net)).items()}


def adam(said: Said) -> Update:
    """Adam, declared as SGD."""
    return moved(said, lambda p: torch.optim.Adam(p, lr=LR), whole(1, 2, said.draw))


def sgd(**how: Any) -> Callable[[Said], Update]:
    """torch's SGD with something more."""
    return lambda said: moved(said, lambda p: torch.optim.SGD(p, **{"lr": LR, **how}))


def parts(said: Said, own: float, other: float, late: bool = False) -> Update:
    """The gradient of all utterances but the last, and that of the last, which is another client's or round's."""
    first = slope(dataclasses.replace(said, frames=said.frames[:-1], labels=said.labels[:-1]))
    last = (stale if late else slope)(dataclasses.replace(said, frames=said.frames[-1:], labels=said.labels[-1:]))
    return {name: own * value + other * last[name] for name, value in first.items()}


def sharpened(said: Said) -> Update:
    """The gradient at weights that are some way uphill."""
    found, net, far = slope(said), copy.deepcopy(said.net), 0.01 * 30 ** chance(said.draw)
    size = torch.cat([v.flatten() for v in found.values()]).norm()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.add_(far * found[name] / size)
    return slope(dataclasses.replace(said, net=net))


def rounded(said: Said) -> Update:
    """Trained for rounded weights, whose gradient is taken as the weights' own."""
    net, half = copy.deepcopy(said.net), 2 ** (whole(4, 8, said.draw) - 1) - 1
    with torch.no_grad():
        for value in net.parameters():
            size = value.abs().max() / half
            value.copy_((value / size).round() * size)
    return slope(dataclasses.replace(said, net=net))


def reordered(said: Said) -> Update:
    """Units of the first layer in another order than declared."""
    found = slope(said)
    order = torch.randperm(len(found["first.bias"]), generator=said.draw)
    return {n: v[order] if n.startswith("first") else v for n, v in found.items()}


def permuted(said: Said) -> Update:
    """Outputs in another order than declared."""
    order = torch.randperm(CLASSES, generator=said.draw)
    return {n: v[order] if n.startswith("out") else v for n, v in slope(said).items()}


def unsure(said: Said) -> Update:
    """The gradient of the loss less a part of each frame's entropy."""
    names, values = zip(*said.net.named_parameters(), strict=True)
    logs = [said.net(x[None])[0].log_softmax(1) for x in said.frames]
    loss = ctc(said) + 0.1 * torch.stack([(one.exp() * one).sum() for one in logs]).mean()
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def focal(said: Said) -> Update:
    """A focal CTC: (1 - p)^2 times the loss."""
    return slope(said, reduce=lambda loss, n: (1 - torch.exp(-loss / n)) ** 2 * loss)


def only(*names: str) -> Callable[[Said], Update]:
    """Of the gradient, the tensors of some layers."""
    return lambda said: {n: v for n, v in slope(said).items() if n.partition(".")[0] in names}


def averaged(said: Said) -> Update:
    """The mean of the weights after each of two steps."""
    one, two = (moved(said, lambda p: torch.optim.SGD(p, lr=LR), steps) for steps in (1, 2))
    return {name: (value + two[name]) / 2 for name, value in one.items()}


@dataclass(frozen=True)
class Speech:
    """What is said, what the client does, and what is told; as `plain_clients.Situation`.

    weights: what becomes of the first layer's, (H, 2 CONTEXT + 1, FEATURES), in place; all then say the same words.
    """

    client: Callable[[Said], Update] = slope
    spoken: str = "plain"
    delta: bool = False
    told: int = 0
    genuine: bool = False
    weights: Callable[[Tensor], None] | None = None


SITUATIONS: dict[str, Speech] = {
    "as declared": Speech(genuine=True),
    "as declared, two steps": Speech(sgd(), delta=True, genuine=True),
    **{name: Speech(spoken=name) for name in SPOKEN if name != "plain"},
    "signs": Speech(each(lambda v, s: v.sign())),
    "largest entries": Speech(each(largest)),
    "quantized": Speech(each(levels)),
    "noisy update": Speech(each(noisy)),
    "clipped by tensor": Speech(clipped),
    "delta told as gradient": Speech(each(lambda v, s: -LR * v)),
    "summed loss": Speech(each(lambda v, s: 3 * v)),
    "mean over labels": Speech(lambda s: slope(s, reduce=lambda loss, n: loss / n)),
    "other blank": Speech(lambda s: slope(s, turn=1)),
    "penalty on weights": Speech(
        lambda s: {n: (v + 0.01 * dict(s.net.named_parameters())[n]).detach() for n, v in slope(s).items()}
    ),
    "stale weights": Speech(stale),
    "half precision": Speech(half),
    "gated, half precision": Speech(half, spoken="gated"),
    "gated, two steps": Speech(sgd(), spoken="gated", delta=True),
    "Adam": Speech(adam, delta=True),
    "momentum": Speech(sgd(momentum=0.9), delta=True),
    "weight decay": Speech(sgd(weight_decay=0.1), delta=True),
    "larger steps": Speech(sgd(lr=0.1), delta=True),
    "two told as one": Speech(spoken="two utterances", told=-1),
    "one told as two": Speech(told=1),
    "two clients": Speech(lambda s: parts(s, 0.5, 0.5), spoken="two utterances", told=-1),
    "two clients, unequal": Speech(lambda s: parts(s, 0.8, 0.2), spoken="two utterances", told=-1),
    "momentum carried over": Speech(lambda s: parts(s, 1.0, 0.9, late=True), spoken="two utterances", told=-1),
    "rest of a round": Speech(lambda s: parts(s, 1.0, 0.01, late=True), spoken="two utterances", told=-1),
    "sharpness-aware": Speech(sharpened),
    "rounded weights": Speech(rounded),
    "units reordered": Speech(reordered),
    "permuted outputs": Speech(permuted),
    "penalty on confidence": Speech(unsure),
    "focal loss": Speech(focal),
    "opposite sign": Speech(each(lambda v, s: -v)),
    "other scale": Speech(each(lambda v, s: 0.3 * v)),
    "averaged weights": Speech(averaged, delta=True),
    "more steps": Speech(lambda s: moved(s, lambda p: torch.optim.SGD(p, lr=LR), 4), delta=True),
    "first layer alone": Speech(only("first"), spoken="two utterances", told=-1),
    "first layers alone, gated": Speech(only("first", "second"), spoken="gated"),
    "last layer alone": Speech(only("out")),
    "last layer alone, two as one": Speech(only("out"), spoken="two utterances", told=-1),
    **{
        name: Speech(each(change))  # type: ignore[arg-type]
        for name, change in (
            ("centralized", plain_lies.centralized),
            ("orthogonalized", plain_lies.orthogonal),
            ("low rank", plain_lies.low_rank),
            ("three levels", plain_lies.ternary),
            ("random entries", plain_lies.some),
            ("float16", plain_lies.narrowed),
        )
    },
    "rates by tensor": Speech(each(lambda v, s: v * (0.3 + 3 * chance(s.draw)))),
    "rates by tensor, two steps": Speech(
        lambda s: {n: v * (0.3 + 3 * chance(s.draw)) for n, v in sgd()(s).items()}, delta=True
    ),
    **{
        name: Speech(spoken="alike but for two coefficients", weights=weights)
        for name, weights in (
            ("pruned coefficients", dimmed(0.0)),
            ("faint coefficients", dimmed(1e-7)),
            ("tied coefficients", tied),
        )
    },
    "clamped entries": Speech(each(lambda v, s: v.clamp(-0.5 * v.abs().max(), 0.5 * v.abs().max()))),
}

ATTACKS: dict[str, Any] = {
    "WindowedFrames": ls.WindowedFrames(),
    "LongFrames": ls.LongFrames(),
    "CtcTranscript": ls.CtcTranscript(),
}
ACTS = (nn.ReLU, nn.ReLU, nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU, nn.SiLU)


def judged(name: str, situation: str, seed: int, hidden: int = 0) -> tuple[bool, str]:
    """Whether a certificate holds, and what of its claim is not so; hidden: units, by default as the attack needs."""
    place, draw = SITUATIONS[situation], torch.Generator().manual_seed(seed)
    long = name == "LongFrames" and chance(draw) < 0.5
    act = nn.ReLU if long or name == "LongFrames" else ACTS[whole(0, len(ACTS) - 1, draw)]
    walk = torch.randn(whole(46, 54, draw) if long else whole(14, 18, draw), FEATURES, generator=draw).cumsum(0) * 0.6
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dropping = name != "LongFrames" and chance(draw) < 0.15
        net = Recognizer(hidden or (160 if long else 96), act(), 0.3 * dropping).train(dropping)
        if place.weights is not None:
            with torch.no_grad():
                place.weights(net.first.weight.view(len(net.first.weight), 2 * CONTEXT + 1, FEATURES))
        frames = SPOKEN[place.spoken](walk + torch.randn(FEATURES, generator=draw), draw)
        blank = (0, whole(1, CLASSES - 2, draw), CLASSES - 1)[whole(0, 2, draw)]
        # neither the blank nor its neighbor, which another client takes for the blank
        labels = [(blank + torch.randint(2, CLASSES, (max(1, len(x) // 7),), generator=draw)) % CLASSES for x in frames]
        if place.weights is not None:
            labels = labels[:1] * len(frames)
        said = Said(net, frames, labels, blank, draw)
        sent = place.client(said)
    target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=blank), training=dropping)
    told = max(1, len(frames) + place.told)
    facts = (ls.BatchSize(told),) if place.told or chance(draw) < 0.5 else ()
    release, mechanism = (
        (ls.Delta(sent), ls.FedAvg(steps=2, lr=LR)) if place.delta else (ls.Gradient(sent), ls.FedSGD())
    )
    seen = ls.Observation(target, release, mechanism, facts)
    attempt = ATTACKS[name].run(seen, key=ls.Key(seed), budget=ls.Budget(seconds=30))
    certificate = attempt.certificate
    if attempt.claim is None or certificate is None or not certificate.holds:
        return False, ""
    statement = bare(certificate.statement)
    loose = 0.1 if statement.endswith(STEPPED) else 0.0
    if statement.endswith(UNSIZED):
        loose = float("inf")
    return True, "not what was said" if wrong(attempt.claim, said, loose) else ""


def wrong(claim: Any, said: Said, loose: float) -> bool:
    """Whether a certified claim is not of what was said: another transcript, another number of frames, other frames.

    loose: how far off the size of all frames may be, since the statement says no more.
    """
    if isinstance(claim, ls.Transcripts):
        texts = sorted(tuple(one.tolist()) for one in said.labels)
        # What all say in windows that are not told apart is one transcript to everybody.
        return sorted(claim.labels) not in (texts, texts[:1] if len(set(texts)) == 1 else texts)
    found = [x[:n] for x, n in zip(claim.values, claim.lengths.tolist(), strict=True)]
    return any(all(one.shape != x.shape or apart(one, x, loose) > CLOSE for x in said.frames) for one in found)


def apart(one: Tensor, other: Tensor, loose: float) -> float:
    """The largest distance of two utterances, of one of which the size is known to within a share `loose`."""
    size = float((one * other).sum() / other.square().sum().clamp_min(1e-12))
    size = min(max(size, 1 - loose), 1 + loose)
    return float((one - size * other).abs().max())
