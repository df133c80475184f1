"""The law of proofs for speech: where a certificate holds, the utterances are those that were said, frame by frame.

The client is plain PyTorch, its own recognizer under torch's own CTC, and the referee is its secret. Speech that says
the same twice is what looks like less: digital silence inside or around it, silence alone, a passage again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.frames.exact.repeats import divisible, other_steps
from leakscope.attacks.inputs.frames.long.growing import Piece
from leakscope.attacks.inputs.frames.long.growing import _inside as inside
from leakscope.attacks.inputs.frames.window import null_space
from leakscope.attacks.parts.reading.proof import MEAN, STEPPED, UNDRAWN, UNSIZED, WINDOWS
from leakscope.targets.looking.context_window import ContextWindow

FEATURES, CONTEXT, CLASSES = 6, 3, 9
WIDTH = (2 * CONTEXT + 1) * FEATURES


class Recognizer(nn.Module):
    """Windows, two dense layers, a recurrent one, classes."""

    def __init__(self, hidden: int, act: nn.Module, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, hidden), nn.Linear(hidden, hidden)
        self.act, self.drop = act, nn.Dropout(dropout)
        self.memory, self.out = nn.GRU(hidden, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        around = F.pad(frames, (0, 0, CONTEXT, CONTEXT)).unfold(1, 2 * CONTEXT + 1, 1)
        units = self.drop(self.act(self.first(around.transpose(2, 3).flatten(2))))
        units = self.drop(self.act(self.second(units)))
        return self.out(self.memory(units)[0])


Said = Callable[[Tensor], list[Tensor]]


def quiet(frames: Tensor, at: int, count: int, level: float) -> Tensor:
    silence = torch.full((count, FEATURES), level) * torch.linspace(1, 2, FEATURES)
    return torch.cat([frames[:at], silence, frames[at:]])


SITUATIONS: dict[str, Said] = {
    "plain": lambda x: [x],
    "padded behind by silence": lambda x: [quiet(x, len(x), 20, -3.0)],
    "padded by zeros": lambda x: [quiet(quiet(x, len(x), 12, 0.0), 0, 12, 0.0)],
    "gated": lambda x: [quiet(x, len(x) // 2, 20, -3.0)],
    "gated twice, zeros": lambda x: [quiet(quiet(x, 12, 16, 0.0), 4, 16, 0.0)],
    "a pause of zeros as wide as the context": lambda x: [quiet(x, 9, 2 * CONTEXT, 0.0)],
    "all silent": lambda x: [quiet(x[:0], 0, 20, -3.0)],
    "all zeros": lambda x: [quiet(x[:0], 0, 20, 0.0)],
    "repeated": lambda x: [torch.cat([x[:9], x[:9], x[:9], x[9:14]])],
    "two, one gated": lambda x: [quiet(x[:8], 4, 14, -3.0), x[8:]],
    "the same twice": lambda x: [x, x],
}


def walk(count: int, random: torch.Generator) -> Tensor:
    return torch.randn(count, FEATURES, generator=random).cumsum(0) * 0.6 + torch.randn(FEATURES, generator=random)


def sent(net: Recognizer, said: list[Tensor], steps: int, random: torch.Generator) -> dict[str, Tensor]:
    """The mean gradient, or the differences of weights after `steps` local steps of 0.001."""
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    labels = [torch.randint(1, CLASSES, (max(1, len(frames) // 7),), generator=random) for frames in said]
    for _ in range(max(steps, 1)):
        net.zero_grad()
        losses = [
            F.ctc_loss(net(x[None])[0].log_softmax(1)[:, None], y[None], [len(x)], [len(y)], blank=0, reduction="sum")
            for x, y in zip(said, labels, strict=True)
        ]
        torch.stack(losses).mean().backward()
        if steps:
            with torch.no_grad():
                for value in net.parameters():
                    value -= 1e-3 * value.grad
    named = dict(net.named_parameters())
    if steps:
        return {name: value.detach() - before[name] for name, value in named.items()}
    return {name: value.grad.detach().clone() for name, value in named.items()}


def trial(said: Said, seed: int, attack: Any, *, hidden: int = 96, act: nn.Module | None = None, **how: Any) -> bool:
    """Whether the attempt holds a certificate; fails where it holds a wrong one."""
    with ls.Key(seed).isolated():
        random = ls.Key(seed).child("speech").generator()
        net = Recognizer(hidden, act or nn.ReLU(), how.get("dropout", 0.0))
        truth = said(walk(16, random))
        net.train(how.get("dropout", 0.0) > 0)
        start = {name: value.detach().clone() for name, value in net.named_parameters()}
        update = sent(net, truth, how.get("steps", 0), random)
        net.load_state_dict(start)
    half = how.get("dtype", torch.float32)
    update = {name: value.to(half) for name, value in update.items()}
    target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0), training=how.get("dropout", 0.0) > 0)
    steps = how.get("steps", 0)
    mechanism = ls.FedAvg(steps=steps, lr=1e-3) if steps else ls.FedSGD()
    release = ls.Delta(update) if steps else ls.Gradient(update)
    tell = (ls.BatchSize(len(truth)),) if how.get("told", True) else ()
    attempt = attack.run(ls.Observation(target, release, mechanism, tell), key=ls.Key(seed))
    if attempt.certificate is None or not attempt.certificate.holds:
        return False
    found = [x[:n] for x, n in zip(attempt.claim.values, attempt.claim.lengths.tolist(), strict=True)]
    for one in found:
        fits = [x for x in truth if x.shape == one.shape]
        assert fits, (attempt.sentence, [len(x) for x in truth])
        assert min(float((x - one).abs().max()) for x in fits) < 0.05, attempt.sentence
    return True


@pytest.mark.parametrize("situation", SITUATIONS)
def test_frames_are_proved_only_where_they_were_said(situation: str) -> None:
    said, attack = SITUATIONS[situation], ls.WindowedFrames()
    held = [trial(said, seed, attack, told=seed % 2 > 0) for seed in range(4)]
    held += [trial(said, seed, attack, dropout=0.3) for seed in range(4, 6)]
    held += [trial(said, seed, attack, steps=2) for seed in range(6, 8)]
    held += [trial(said, seed, attack, dtype=torch.float16) for seed in range(8, 10)]
    held += [trial(said, seed, attack, dtype=torch.bfloat16) for seed in range(10, 12)]
    # The power: what is said once is still proved.
    assert situation != "plain" or sum(held) >= 6


@pytest.mark.parametrize("situation", ["plain", "gated", "all silent", "padded by zeros"])
def test_long_frames_are_proved_only_where_they_were_said(situation: str) -> None:
    said = SITUATIONS[situation]
    longer: Said = lambda x: said(torch.cat([x + 0.1 * k * x.flip(0) for k in range(3)]))  # noqa: E731
    for seed in range(2):
        trial(longer, seed, ls.LongFrames(), hidden=160)


@pytest.mark.parametrize(
    "act",
    [nn.LeakyReLU(), nn.ELU(), nn.SiLU(), nn.ReLU6(), nn.Hardtanh(), nn.Tanh(), nn.GELU(), nn.ReLU()],
    ids=repr,
)
def test_equal_lengths_are_proved_only_where_they_are_no_mixtures(act: nn.Module) -> None:
    two: Said = lambda x: [x[:8], x[8:]]  # noqa: E731
    three: Said = lambda x: [x[:5], x[5:10], x[10:15]]  # noqa: E731
    for seed, said in enumerate((two, three, two)):
        trial(said, seed, ls.WindowedFrames(), hidden=384, act=act, dropout=0.3 * (seed == 2))


def test_other_steps_are_those_of_a_search_through_all_pairs() -> None:
    window = ContextWindow("w", "b", 2, 1, 1)
    for seed in range(20):
        frames = ls.Key(seed).numpy().integers(0, 2, (9, 2)).astype(float) + 0.5
        around = np.vstack([np.zeros((1, 2)), frames, np.zeros((1, 2))])
        seen = [around[t : t + 3].tolist() for t in range(9)]
        slow = [(i, j) for i in range(9) for j in range(9) if seen[i][1:] == seen[j][:2] and j != i + 1]
        assert other_steps([frames], window) == slow
        assert not divisible(frames, window)


def test_a_summed_error_of_zero_checks_nothing() -> None:
    random = ls.Key(5).child("speech").generator()
    net = Recognizer(96, nn.ReLU(), 0.0)
    update = sent(net, [walk(16, random)], 0, random)
    update["first.bias"].zero_()
    target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0))
    attempt = ls.WindowedFrames().run(ls.Observation(target, ls.Gradient(update), ls.FedSGD()), key=ls.Key(0))
    assert attempt.certificate is None or not attempt.certificate.holds


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(), nn.Tanh()], ids=repr)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("factor", [0.4, 0.9, 1.0, 1.15, 2.5])
def test_the_size_of_frames_is_proved_by_the_model_alone(act: nn.Module, dropout: float, factor: float) -> None:
    """A rate for each tensor makes of frames a multiple, which the first layer's own equations take for the frames."""
    with ls.Key(7).isolated():
        random = ls.Key(7).child("speech").generator()
        net = Recognizer(96, act, dropout).train(dropout > 0)
        truth = [walk(16, random)]
        update = sent(net, truth, 0, random)
    update["first.bias"] *= factor
    target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0), training=dropout > 0)
    attempt = ls.WindowedFrames().run(ls.Observation(target, ls.Gradient(update), ls.FedSGD()), key=ls.Key(0))
    holds = attempt.certificate is not None and attempt.certificate.holds
    # behind dropout only units at rest tell the size, and these units never rest
    shown = dropout == 0 or isinstance(act, nn.ReLU)
    assert holds is (factor == 1.0 or not shown), attempt.sentence
    # where nothing shows it, one factor is left open in so many words
    said = WINDOWS if dropout == 0 else STEPPED if shown else UNSIZED
    assert not holds or attempt.certificate.statement.removesuffix(UNDRAWN).removesuffix(MEAN).endswith(said)


def unseeing(kind: str) -> Recognizer:
    """A recognizer whose first layer does not see coefficients 1 and 4, or only their sum."""
    net = Recognizer(96, nn.ReLU(), 0.0)
    with torch.no_grad():
        weight = net.first.weight.view(96, 2 * CONTEXT + 1, FEATURES)
        if kind == "tied":
            weight[..., 4] = weight[..., 1]
        else:
            weight[..., [1, 4]] *= {"pruned": 0.0, "faint": 1e-7}[kind]
    return net


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", ["pruned", "faint", "tied"])
def test_the_mean_of_two_utterances_that_the_first_layer_does_not_tell_apart_is_not_proved(
    kind: str, told: bool
) -> None:
    """Both say the same words, so that their errors are the same at each frame and the gradient is their mean's."""
    labels = torch.tensor([3, 8])
    for seed, (attack, length) in enumerate(
        ((ls.WindowedFrames(), 16), (ls.WindowedFrames(), 8), (ls.LongFrames(), 16))
    ):
        with ls.Key(seed).isolated():
            random = ls.Key(seed).child("speech").generator()
            net, one = unseeing(kind), walk(length, random)
            gain = torch.randn(length, generator=random)[:, None] * torch.eye(FEATURES)[1]
        for said in ([one, one + gain - gain.roll(3, 1)], [one]):
            losses = [F.ctc_loss(net(x[None])[0].log_softmax(1)[:, None], labels[None], [len(x)], [2]) for x in said]
            names, values = zip(*net.named_parameters(), strict=True)
            update = dict(zip(names, torch.autograd.grad(torch.stack(losses).mean(), values), strict=True))
            target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(ls.Reduction.MEAN, blank=0))
            tell = (ls.BatchSize(len(said)),) if told else ()
            attempt = attack.run(ls.Observation(target, ls.Gradient(update), ls.FedSGD(), tell), key=ls.Key(seed))
            assert attempt.claim is not None
            assert attempt.certified is (told and len(said) == 1), attempt.sentence


def test_where_no_number_of_utterances_is_told_a_proof_says_that_each_may_be_a_mean() -> None:
    with ls.Key(2).isolated():
        random = ls.Key(2).child("speech").generator()
        net, said = Recognizer(96, nn.ReLU(), 0.0), [walk(16, random)]
        update = sent(net, said, 0, random)
    target = ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0))
    for tell, ends in (((), MEAN), ((ls.BatchSize(1),), WINDOWS), ((ls.Lengths((16,)),), WINDOWS)):
        seen = ls.Observation(target, ls.Gradient(update), ls.FedSGD(), tell)
        attempt = ls.WindowedFrames().run(seen, key=ls.Key(2))
        # the recognizer is code that is not known, and draws nothing as far as runs of it show
        assert attempt.certificate.statement.endswith(ends + UNDRAWN)
        assert ls.CtcTranscript().run(seen, key=ls.Key(2)).certificate.statement.endswith(UNDRAWN)


@pytest.mark.parametrize("counted", [-1e-18, 0.0, 1e-17])
def test_a_counted_eigenvalue_of_zero_still_asks_for_a_gap(counted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.array([1.0])] * 3 + [np.array([counted, 1e-17])] + [np.array([1.0])]
    monkeypatch.setattr(null_space, "_smallest", lambda *given, **how: values)
    assert null_space.lengths_of(np.eye(6), 4, left=1, features=2) is None
    values[3] = np.array([counted, 1e-3])
    assert null_space.lengths_of(np.eye(6), 4, left=1, features=2) == {4: 1}


def test_pieces_of_an_utterance_that_is_whole_are_known() -> None:
    frames = ls.Key(1).numpy().standard_normal((12, 3))
    piece = Piece(frames[3:9] + 1e-4, first=True, last=False)
    assert inside(piece.frames, frames)
    assert not inside(frames[::-1], frames)
    assert not inside(np.vstack([frames, frames]), frames)
