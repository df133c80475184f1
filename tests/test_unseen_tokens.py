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


class Pooled(nn.Module):
    """One attention and the mean of all tokens; each of the words from 15 on speaks for class 1 with `sure`."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, DIM), nn.Embedding(LENGTH, DIM)
        self.query, self.key, self.value, self.wide = (nn.Linear(DIM, DIM) for _ in range(4))
        self.head = nn.Linear(DIM, 3)
        with torch.no_grad():
            self.words.weight[:, 0], self.words.weight[15:, 0], self.places.weight[:, 0] = 0.0, 1.0, 0.01
            for layer in (self.value, self.wide):
                layer.weight[0], layer.bias[0] = 0.0, 0.0
            self.head.weight[:, 0], self.head.weight[1, 0] = 0.0, sure

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / DIM**0.5
        hidden, kept = (ids == 0)[:, None], (ids != 0).to(tokens)[..., None]
        tokens = tokens + torch.softmax(scores.masked_fill(hidden, -1e9), -1) @ self.value(tokens)
        tokens = tokens + torch.tanh(self.wide(tokens))
        outputs: Tensor = self.head((tokens * kept).sum(1) / kept.sum(1))
        return outputs


def bag_attacked(texts: list[list[int]], labels: list[int], sure: float, *facts: ls.BatchSize) -> ls.Attempt[ls.Tokens]:
    """The attention's part of the gradient of several texts alone, which tells the set of tokens and no order."""
    torch.manual_seed(0)
    net = Pooled(sure)
    loss = F.cross_entropy(net(torch.tensor(texts)), torch.tensor(labels))
    names = [f"{layer}.{kind}" for layer in ("query", "key", "value") for kind in ("weight", "bias")]
    slopes = torch.autograd.grad(loss, [dict(net.named_parameters())[name] for name in names])
    target, sent = ls.Target(net, ls.Text(WORDS, LENGTH), 3), ls.Gradient(dict(zip(names, slopes, strict=True)))
    return ls.EmbeddingSpan().run(ls.Observation(target, sent, ls.FedSGD(), facts), key=ls.Key(1))


@pytest.mark.parametrize("facts", [(ls.BatchSize(2),), ()], ids=["told", "untold"])
def test_a_set_is_not_proved_beside_a_text_of_which_the_model_is_sure(facts: tuple[ls.BatchSize, ...]) -> None:
    """It leaves no gradient; and of no text with one token of the set the model is sure."""
    attempt = bag_attacked([[5, 9, 4, 7], [17, 15, 19, 17]], [0, 1], 30.0, *facts)
    assert attempt.claim is not None
    assert set(attempt.claim.sequences[0]) == {4, 5, 7, 9}
    assert not attempt.certified, attempt.sentence
    assert "of which the model is sure" in attempt.sentence


@pytest.mark.parametrize("sure", [30.0, 3.0])
def test_a_set_of_texts_that_are_all_seen_is_proved(sure: float) -> None:
    """Where the model is sure of no text, or where each text has a token of its own at the first place."""
    attempt = bag_attacked([[5, 9, 4], [8, 3, 11]], [0, 1], sure, ls.BatchSize(2))
    assert attempt.certified, attempt.sentence
    assert set(attempt.claim.sequences[0]) == {3, 4, 5, 8, 9, 11}
    if sure == 3.0:
        assert bag_attacked([[5, 9, 4], [8, 3, 11]], [0, 1], sure).certified
