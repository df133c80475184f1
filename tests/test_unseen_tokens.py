"""Texts of which a token leaves hardly a trace: nothing is proved that another text would leave as well."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls

WORDS, LENGTH, DIM = 20, 4, 48


class Hushed(nn.Module):
    """One attention, read at the first token; the scores of the words from 15 on are lower by `hush`."""

    def __init__(self, hush: float, *, causal: bool) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, DIM), nn.Embedding(LENGTH, DIM)
        self.query, self.key, self.value, self.wide = (nn.Linear(DIM, DIM) for _ in range(4))
        self.head, self.hush, self.causal = nn.Linear(DIM, 3), hush, causal

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        tokens = self.words(ids) + self.places(places)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / DIM**0.5
        scores = scores - self.hush * (ids >= 15).to(scores)[:, None]
        hidden = (ids == 0)[:, None] | (places[None, :] > places[:, None]) * self.causal
        tokens = tokens + torch.softmax(scores.masked_fill(hidden, -1e9), -1) @ self.value(tokens)
        outputs: Tensor = self.head((tokens + F.gelu(self.wide(tokens)))[:, 0])
        return outputs


def attacked(text: list[int], hush: float, *, causal: bool) -> ls.Attempt[ls.Tokens]:
    """What a client in plain PyTorch sends of one text, attacked."""
    torch.manual_seed(0)
    net = Hushed(hush, causal=causal)
    loss = F.cross_entropy(net(torch.tensor([text])), torch.tensor([1]))
    names, values = zip(*net.named_parameters(), strict=True)
    sent = dict(zip(names, torch.autograd.grad(loss, values, materialize_grads=True), strict=True))
    target = ls.Target(net, ls.Text(WORDS, LENGTH), 3)
    return ls.EmbeddingSpan().run(
        ls.Observation(target, ls.Gradient(sent), ls.FedSGD(), (ls.BatchSize(1),)), key=ls.Key(1)
    )


def test_a_text_is_not_proved_where_the_model_reads_no_token_behind_it() -> None:
    """A decoder read at its first token: any text that begins with it leaves the same."""
    attempt = attacked([5, 9, 4], 0.0, causal=True)
    assert attempt.claim is not None
    assert not attempt.certified
    assert "no proof" in attempt.sentence


@pytest.mark.parametrize("text", [[5, 9, 4, 17], [5, 17, 4, 9]], ids=["behind", "between"])
def test_nothing_is_proved_without_a_token_that_is_hardly_looked_at(text: list[int]) -> None:
    attempt = attacked(text, 18.0, causal=False)
    assert attempt.claim is not None
    assert 17 not in attempt.claim.sequences[0]
    assert not attempt.certified
    assert "no proof" in attempt.sentence


def test_a_text_is_proved_where_every_token_would_be_seen() -> None:
    text = [5, 9, 4]
    attempt = attacked(text, 0.5, causal=False)
    assert attempt.claim is not None
    assert attempt.certified
    assert set(attempt.claim.sequences[0]) == set(text)
