"""The law of proofs for speech with silence of which the model is sure: it leaves nothing in a gradient.

The client is plain PyTorch under torch's own CTC. Its recognizer is sure of one class where a frame is digital silence,
as trained ones are of the blank, so that longer utterances have the same gradient to within rounding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.frames.exact.traceless import longer
from leakscope.targets.looking.context_window import ContextWindow

FEATURES, CONTEXT, CLASSES = 6, 3, 9
SPEECH = 14


class Sure(nn.Module):
    """Windows, two dense layers and classes; unit 0 of both is the larger the more silent the middle frame is."""

    def __init__(self, act: Any, which: int, threshold: float) -> None:
        super().__init__()
        self.act, hidden = act, 96
        self.first = nn.Linear((2 * CONTEXT + 1) * FEATURES, hidden)
        self.second, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, CLASSES)
        with torch.no_grad():
            middle = self.first.weight.view(hidden, 2 * CONTEXT + 1, FEATURES)
            middle[0], middle[0, CONTEXT], self.first.bias[0] = 0.0, -0.01, 0.2
            self.second.weight[0], self.second.weight[:, 0], self.second.bias[0] = 0.0, 0.0, 0.0
            self.second.weight[0, 0] = 1.0
            self.out.weight[:, 0], self.out.weight[which, 0], self.out.bias[which] = 0.0, 1000.0, threshold

    def forward(self, frames: Tensor) -> Tensor:
        around = F.pad(frames, (0, 0, CONTEXT, CONTEXT)).unfold(1, 2 * CONTEXT + 1, 1)
        units = self.act(self.second(self.act(self.first(around.transpose(2, 3).flatten(2)))))
        return self.out(units)


def silence(count: int) -> Tensor:
    return torch.zeros(count, FEATURES)


def said(seed: int, *, lead: int = 0, tail: int = 0) -> Tensor:
    speech = 0.7 + 0.5 * torch.rand(SPEECH, FEATURES, generator=ls.Key(seed).generator())
    return torch.cat([silence(lead), speech, silence(tail)])


def observed(frames: Tensor, labels: list[int], net: Sure, *facts: Any) -> ls.Observation:
    spoken = net(frames[None])[0].log_softmax(1)[:, None]
    loss = F.ctc_loss(spoken, torch.tensor([labels]), [len(frames)], [len(labels)], blank=0, reduction="sum")
    names, values = zip(*net.named_parameters(), strict=True)
    update = ls.Gradient(dict(zip(names, torch.autograd.grad(loss, values), strict=True)))
    return ls.Observation(
        ls.Target(net, ls.Frames(FEATURES), CLASSES, loss=ls.CTC(blank=0)), update, ls.FedSGD(), facts
    )


def recognizer(seed: int, *, act: Any = torch.tanh, which: int = 0, threshold: float = -150.0) -> Sure:
    with ls.Key(seed).isolated():
        return Sure(act, which, threshold)


@pytest.mark.parametrize(("lead", "tail"), [(0, 0), (0, 1), (0, 6), (2, 0)])
@pytest.mark.parametrize("told", [True, False])
def test_no_number_of_frames_is_proved_where_more_would_leave_no_trace(lead: int, tail: int, told: bool) -> None:
    frames, tell = said(1, lead=lead, tail=tail), (ls.BatchSize(1),) if told else ()
    attempt = ls.WindowedFrames().run(observed(frames, [3, 8, 2], recognizer(1), *tell), key=ls.Key(1))
    assert attempt.claim is not None
    # the frames of speech, however many of silence there were: those are in no gradient
    assert len(attempt.claim.values[0]) == SPEECH
    assert attempt.certificate is None, attempt.sentence
    assert "no trace of 1 silent frame" in attempt.sentence


def test_told_lengths_and_silence_that_leaves_a_trace_are_proved() -> None:
    """The power of the law: unsure of silence, or told that there is none, the same recognizer gives proofs."""
    seen = observed(said(1), [3, 8, 2], recognizer(1), ls.Lengths((SPEECH,)))
    assert ls.WindowedFrames().run(seen, key=ls.Key(1)).certified
    for lead, tail in ((0, 0), (0, 1), (2, 0)):
        frames = said(1, lead=lead, tail=tail)
        seen = observed(frames, [3, 8, 2], recognizer(1, threshold=-190.0), ls.BatchSize(1))
        attempt = ls.WindowedFrames().run(seen, key=ls.Key(1))
        assert attempt.certified, attempt.sentence
        assert torch.allclose(attempt.claim.values[0], frames, atol=1e-3)


def test_two_utterances_are_not_proved_where_a_pause_between_them_would_leave_no_trace() -> None:
    frames = torch.cat([said(2)[:8], silence(8), said(2)[8:]])
    attempt = ls.WindowedFrames().run(observed(frames, [3, 8, 2], recognizer(2)), key=ls.Key(2))
    assert attempt.claim is not None
    assert not attempt.certified, attempt.sentence
    apart = ls.WindowedFrames().run(observed(frames, [3, 8, 2], recognizer(2, threshold=-190.0)), key=ls.Key(2))
    assert not apart.certified


@pytest.mark.parametrize("told", [True, False])
def test_a_label_that_the_model_is_sure_of_in_silence_is_not_missing_from_a_proof(told: bool) -> None:
    proved = []
    for seed in range(3):
        for which, labels in ((1, [3, 8, 1]), (0, [3, 8, 2])):
            tell = (ls.BatchSize(1),) if told else ()
            seen = observed(said(seed, tail=2), labels, recognizer(seed, which=which), *tell)
            attempt = ls.CtcTranscript().run(seen, key=ls.Key(seed))
            assert not attempt.certified or attempt.claim.labels == (tuple(labels),), attempt.sentence
            proved.append((which, attempt.certified))
    # silence that is surely the blank hides no label
    assert proved.count((0, True)) == 3


def test_frames_of_which_the_model_is_nearly_sure_do_not_contradict_it() -> None:
    frames = said(3, tail=1)
    attempt = ls.WindowedFrames().run(observed(frames, [3, 8, 2], recognizer(3, act=torch.relu)), key=ls.Key(3))
    assert attempt.claim is not None
    assert torch.allclose(attempt.claim.values[0], frames, atol=1e-3)
    assert "from what was sent" not in attempt.sentence


def test_longer_utterances_leave_the_windows_that_were_found() -> None:
    frames, other = said(4).double().numpy(), said(5)[:5].double().numpy()
    for left, right in ((3, 3), (3, 0), (0, 2), (2, 1)):
        window = ContextWindow("w", "b", FEATURES, left, right)
        tried = list(longer([frames, other], window, joined=True))
        assert sum(one.joined for one in tried) == 2
        assert all(one.found == (19 if one.joined else SPEECH if len(one.frames) > 13 else 5) for one in tried)
        for one in tried:
            # zeros unless nothing is seen on that side
            free = (one.first == 0 and not left) or (one.last == len(one.frames) and not right)
            assert free or not one.frames[one.first : one.last].any()
