"""Connectionist temporal classification in plain tensor operations, so that it can be differentiated twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e30
"""The logarithm of a probability that is zero: finite, because infinity minus infinity has no gradient."""


def negative_log_likelihood(
    logits: Tensor, labels: Tensor, *, lengths: Tensor, label_lengths: Tensor, blank: int
) -> Tensor:
    """-log sum over the alignments of labels_b to lengths_b frames of prod_t softmax(logits_bt)[alignment_t].

    logits: (B, T, C), unnormalized. labels: (B, L) int64, what is beyond label_lengths_b is not read; frames beyond
    lengths_b are not read. Returns (B,) in nats, in [0, inf]. Infinite, with gradient zero, where the frames do not
    suffice (see `frames_needed`). Twice differentiable in the logits; works under `torch.func` and `vmap`.
    The forward recursion of Graves et al. 2006 (doi:10.1145/1143844.1143891), section 4.1, in logarithms.

    >>> two, one = torch.tensor([2]), torch.tensor([1])
    >>> logits = torch.zeros(1, 2, 2)  # "aa", "a-" and "-a" spell a; each has probability 1/4
    >>> nll = negative_log_likelihood(logits, torch.tensor([[0]]), lengths=two, label_lengths=one, blank=1)
    >>> round(nll.exp().item(), 6)
    1.333333
    """
    # Ours: torch's own has no second derivative (aten::_ctc_loss_backward), and gradient matching needs one.
    real = torch.arange(labels.shape[1], device=labels.device) < label_lengths.unsqueeze(1)
    states, skips = _states(torch.where(real, labels, blank), blank)
    emitted = _emissions(logits, states)
    alpha = _start(emitted)
    for t in range(logits.shape[1]):
        # An utterance that has ended keeps its alpha; by `where`, since vmap allows no shapes that depend on data.
        alpha = torch.where((t < lengths).unsqueeze(1), _step(alpha, skips) + emitted[:, t], alpha)
    end = (2 * label_lengths).unsqueeze(1)
    last = alpha.gather(1, end)
    # an utterance without labels ends in its only blank
    before = torch.where(end > 0, alpha.gather(1, (end - 1).clamp(min=0)), NEVER)
    total = torch.logsumexp(torch.cat([last, before], 1), 1)
    enough = frames_needed(labels, label_lengths) <= lengths
    return torch.where(enough, -total, torch.inf)


def frames_needed(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Labels plus repetitions, the fewest frames with an alignment: equal neighbors need a blank between. (B,) int64.

    >>> frames_needed(torch.tensor([[1, 1, 2, 2, 2]]), torch.tensor([4]))
    tensor([6])
    """
    real = torch.arange(labels.shape[1], device=labels.device) < label_lengths.unsqueeze(1)
    return label_lengths + ((labels[:, 1:] == labels[:, :-1]) & real[:, 1:]).sum(1)


def _states(labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """The states blank, l1, blank, l2, ..., blank (B, 2L + 1), and whether each may be entered from two before."""
    paired = torch.stack([torch.full_like(labels, blank), labels], 2).flatten(1)
    states = F.pad(paired, (0, 1), value=blank)
    # l' of section 4.1. A blank may be left out, but not the one between two equal labels: it is what tells them apart.
    two_before = F.pad(states, (2, 0), value=blank)[:, :-2]
    return states, (states != blank) & (states != two_before)


def _emissions(logits: Tensor, states: Tensor) -> Tensor:
    """log softmax(logits_t)[state]: (B, T, S)."""
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return wide.log_softmax(-1).gather(2, states.unsqueeze(1).expand(-1, logits.shape[1], -1))


def _start(emitted: Tensor) -> Tensor:
    """Before the first frame, in the first blank."""
    # log 1 there and log 0 elsewhere: the first step then stays at the first blank or moves on to the first label.
    return F.pad(torch.zeros_like(emitted[:, 0, :1]), (0, emitted.shape[2] - 1), value=NEVER)


def _step(alpha: Tensor, skips: Tensor) -> Tensor:
    """log(alpha_s + alpha_(s-1) + [skips_s] alpha_(s-2))."""
    padded = F.pad(alpha, (2, 0), value=NEVER)
    one, two = padded[:, 1:-1], torch.where(skips, padded[:, :-2], NEVER)
    return torch.logsumexp(torch.stack([alpha, one, two]), 0)
