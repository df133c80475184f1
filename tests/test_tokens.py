"""Texts from gradients: exact where the rank allows it, a sentence where it does not; their scores; their data."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.text.ordering import context_of, prefixes
from leakscope.attacks.inputs.text.row_span import covered, dimensions, row_span_of, strangers
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.summary import summarize
from leakscope.audit.work import run_cell
from leakscope.datasets.sources.text import WORDS
from leakscope.domains.text import padded, sequences_of
from leakscope.ledger.record import Ending, Role, Word
from leakscope.scoring.metrics.tokens import common
from leakscope.targets.looking.token_entry import token_entry

DOMAIN = ls.Text(60, 6)


def texts(count: int, seed: int = 0, domain: ls.Text = DOMAIN, shortest: int = 3) -> ls.Batch:
    """Random tokens of different lengths."""
    random = ls.Key(seed).child("texts").numpy()
    rows = [
        random.integers(1, domain.vocabulary, int(random.integers(shortest, domain.length + 1))) for _ in range(count)
    ]
    return ls.Batch(padded([row.tolist() for row in rows], domain.length), torch.arange(count) % 2)


PLAIN = ls.FedSGD()


def observed(target: ls.Target, batch: ls.Batch, mechanism: ls.FedSGD = PLAIN, *, told: bool = True) -> ls.Observation:
    facts = [ls.BatchSize(len(batch))] if told else []
    return ls.observe(target, batch, mechanism, key=ls.Key(1), tell=facts)


def right(attempt: ls.Attempt[ls.Tokens], batch: ls.Batch) -> bool:
    return sorted(attempt.claim.sequences) == sorted(sequences_of(batch.inputs))


# --- the span -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [64, 128])
def test_the_acceptance_case_a_decoder_below_its_dimension(dim: int) -> None:
    """Real sentences, B * T up to the dimension: exact, no token too many, certified."""
    source = ls.Sentences(length=10)
    target = ls.TextDecoder(dim=dim).build(source.domain, source.classes, key=ls.Key(0))
    for count in (1, 4, dim // 8):
        batch = source.draw(count, key=ls.Key(count)).reveal()
        attempt = ls.EmbeddingSpan().run(observed(target, batch), key=ls.Key(2))
        assert right(attempt, batch)
        assert attempt.certificate is not None
        assert attempt.certificate.holds


@pytest.mark.parametrize("recipe", [ls.TextDecoder(dim=16), ls.TextEncoder(dim=16), ls.TextDecoder(dim=16, norm=False)])
def test_as_many_tokens_as_dimensions_are_not_identifiable(recipe: ls.TextDecoder) -> None:
    target = recipe.build(DOMAIN, 2, key=ls.Key(0))
    attempt = ls.EmbeddingSpan().run(observed(target, texts(8)), key=ls.Key(2))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert f"not identifiable: the gradient fills all {15 if recipe.norm else 16} dimensions" in attempt.sentence


def test_the_tokens_found_are_those_of_brute_force() -> None:
    """Without the code under test: v is at t iff adding its input to the true ones does not raise their rank."""
    batch = texts(2)
    target = ls.TextEncoder(dim=24, heads=2).build(DOMAIN, 2, key=ls.Key(0))
    entry = token_entry(target)
    span = row_span_of([observed(target, batch).gradient().by_name[name].double() for name in entry.first.weights])
    module = target.module.double()
    lookup = module.token_embedding.weight[:, None] + module.position_embedding.weight[None]
    inputs = module.blocks[0].norm_1(lookup).detach()
    torch.testing.assert_close(entry.table()[1:], inputs[1:])
    true = torch.stack(
        [inputs[v, t] for row in sequences_of(batch.inputs) for t, v in enumerate(row)]
    )  # fmt: skip
    rank = int(torch.linalg.matrix_rank(true, rtol=1e-9))
    assert span.rank == rank
    found = span.distance(entry.table()) <= span.tolerance
    for v, t in itertools.product(range(1, 60), range(6)):
        fits = int(torch.linalg.matrix_rank(torch.cat([true, inputs[v, t][None]]), rtol=1e-9)) == rank
        assert bool(found[v, t]) is fits


@pytest.mark.parametrize(
    "recipe",
    [ls.TextEncoder(dim=48), ls.TextEncoder(dim=48, depth=1, norm=False), ls.TextEncoder(dim=48, depth=3)],
    ids=repr,
)
def test_encoders_give_whole_texts(recipe: ls.TextEncoder) -> None:
    target = recipe.build(DOMAIN, 2, key=ls.Key(0))
    for count in (1, 3):
        batch = texts(count, seed=count)
        attempt = ls.EmbeddingSpan().run(observed(target, batch, told=False), key=ls.Key(2))
        assert right(attempt, batch)
        assert attempt.certificate is not None
        assert attempt.certificate.holds


def test_texts_that_occur_twice_and_texts_that_begin_another() -> None:
    batch = ls.Batch(padded([(5, 9, 4, 2), (5, 9, 4, 2), (7, 8, 3), (7, 8, 3, 6, 11)], 6), torch.zeros(4).long())
    target = ls.TextDecoder(dim=48).build(DOMAIN, 2, key=ls.Key(0))
    told = ls.EmbeddingSpan().run(observed(target, batch), key=ls.Key(2))
    untold = ls.EmbeddingSpan().run(observed(target, batch, told=False), key=ls.Key(2))
    for attempt, count in ((told, 2), (untold, 1)):
        assert attempt.certificate is not None
        found = attempt.claim.sequences
        assert attempt.certificate.holds
        assert sorted(found) == sorted([*[(5, 9, 4, 2)] * count, (7, 8, 3), (7, 8, 3, 6, 11)])


def test_prefixes_of_the_batch_and_no_others() -> None:
    batch = texts(3)
    target = ls.TextDecoder(dim=48).build(DOMAIN, 2, key=ls.Key(0))
    entry = token_entry(target)
    gradient = {name: value.double() for name, value in observed(target, batch).gradient().by_name.items()}
    context = context_of(entry, gradient, 1)
    everything = [list(range(1, 60))] * 6
    true = {row[:end] for row in sequences_of(batch.inputs) for end in range(1, len(row))}  # the last one sends none
    assert set(prefixes(entry, context, everything, clock=ls.Budget().start())) == true


@pytest.mark.parametrize(
    ("mechanism", "holds"),
    [
        (ls.FedSGD() >> ls.Clip(0.1), False),
        (ls.FedAvg(steps=1, lr=1.0), True),
        (ls.FedSGD() >> ls.GaussianNoise(1e-3), False),
        (ls.FedSGD() >> ls.Sign(), False),
        (ls.FedSGD() >> ls.Prune(0.1), False),
        (ls.FedAvg(steps=3, lr=1.0), False),
    ],
    ids=repr,
)
def test_nothing_is_certified_but_the_gradient_itself(mechanism: ls.FedSGD, holds: bool) -> None:
    target = ls.TextDecoder(dim=48).build(DOMAIN, 2, key=ls.Key(0))
    attempt = ls.EmbeddingSpan().run(observed(target, texts(2), mechanism), key=ls.Key(2))
    certified = attempt.certificate is not None and attempt.certificate.holds
    assert certified is holds
    if holds:
        assert right(attempt, texts(2))


@pytest.mark.parametrize("told", [True, False])
def test_a_text_that_ends_as_the_model_expects_is_not_proved_without_its_end(told: bool) -> None:
    """1 - p of the last token is 1e-4: its place leaves less of the gradient than what counts as exact, and the text
    was proved four tokens long. That its share of the batch is 3/4 of a text tells."""
    torch.manual_seed(97600)
    target = ls.TextDecoder(dim=48, depth=2).build(ls.Text(60, 8), 2, key=ls.Key(97600))
    net = target.module.requires_grad_(True)
    ids = padded([tuple(torch.randint(1, 60, (size,)).tolist()) for size in (5, 6, 8)], 8)
    steps = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(400):
        wrong = torch.nn.functional.cross_entropy(net(ids[:1])[0, 3:4].double(), ids[0, 4:5])
        if float(wrong.detach()) < 1e-4:
            break
        steps.zero_grad()
        wrong.backward()
        steps.step()
    sure = target.at({name: value.detach().clone() for name, value in net.named_parameters()})
    tell = [ls.BatchSize(3)] if told else []
    seen = ls.observe(sure, ls.Batch(ids, torch.zeros(3, dtype=torch.long)), ls.FedSGD(), key=ls.Key(0), tell=tell)
    attempt = ls.EmbeddingSpan().run(seen, key=ls.Key(1))
    assert attempt.certificate is None or not attempt.certificate.holds


def test_texts_that_were_not_taken_are_not_claimed_as_copies_of_those_that_were() -> None:
    """A step on two of four texts leaves shares of one half, which are no two copies of each."""
    target = ls.TextDecoder(dim=48).build(DOMAIN, 2, key=ls.Key(0))
    mechanism = ls.FedAvg(steps=1, lr=1.0, batch_size=2)
    attempt = ls.EmbeddingSpan().run(observed(target, texts(4), mechanism), key=ls.Key(2))
    assert attempt.certificate is None or not attempt.certificate.holds
    assert len(attempt.claim) <= 2


class Foreign(nn.Module):
    """Another person's classifier: torch's own encoder layers, read at the first token."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(60, 48), nn.Embedding(6, 48)
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(48, 2)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.encoder(tokens)[:, 0])


def test_another_persons_model_and_one_with_too_few_directions() -> None:
    batch = texts(1, shortest=6)
    with ls.Key(0).isolated():
        deep, shallow = ls.Target(Foreign(2), DOMAIN, 2), ls.Target(Foreign(1), DOMAIN, 2)
    attempt = ls.EmbeddingSpan().run(observed(deep, batch), key=ls.Key(2))
    assert right(attempt, batch)
    assert attempt.certificate is not None
    assert attempt.certificate.holds
    bag = ls.EmbeddingRows().run(observed(shallow, batch), key=ls.Key(2)).claim
    assert set(bag.sequences[0]) == set(batch.inputs.flatten().tolist())


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 9), seed=st.integers(0, 999), noise=st.sampled_from([0.0, 1e-8, 1e-6]))
def test_spans_of_known_rank(rank: int, seed: int, noise: float) -> None:
    generator = ls.Key(seed).generator()
    basis = torch.randn(rank, 12, generator=generator, dtype=torch.float64)
    matrix = torch.randn(30, rank, generator=generator, dtype=torch.float64) @ basis
    span = row_span_of([matrix + noise * matrix.std() * torch.randn(30, 12, generator=generator, dtype=torch.float64)])
    if span is None:  # an ill-conditioned basis: the gap drowned in the noise
        assert noise > 0
        return
    assert span.rank == rank
    assert float(span.distance(basis).max()) <= span.tolerance
    other = torch.randn(500, 12, generator=generator, dtype=torch.float64)
    fit = int((span.distance(other) <= span.tolerance).sum())
    assert fit <= 5 + 3 * strangers(span, 12, 500)
    assert dimensions(other[:, None]) == 12
    assert row_span_of([torch.randn(30, 12, generator=generator, dtype=torch.float64)]) is None


# --- the rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [ls.FedSGD(), ls.FedAvg(steps=3, lr=0.1), ls.FedSGD() >> ls.Clip(0.1)], ids=repr)
def test_rows_name_the_tokens_of_any_batch(mechanism: ls.FedSGD) -> None:
    batch = texts(20, domain=ls.Text(400, 6))
    target = ls.TextEncoder(dim=16).build(ls.Text(400, 6), 2, key=ls.Key(0))
    attempt = ls.EmbeddingRows().run(observed(target, batch, mechanism), key=ls.Key(2))
    assert attempt.certificate is None or not attempt.certificate.holds
    assert set(attempt.claim.sequences[0]) == {token for row in sequences_of(batch.inputs) for token in row}


def test_rows_of_a_tied_embedding_or_under_noise_say_nothing() -> None:
    target = ls.TextDecoder(dim=16).build(DOMAIN, 2, key=ls.Key(0))
    noisy = observed(target, texts(2), ls.FedSGD() >> ls.GaussianNoise(1e-3) >> ls.RandomDrop(0.9))
    assert "proves nothing" in ls.EmbeddingRows().run(noisy, key=ls.Key(2)).sentence
    module = target.module
    module.head.weight = module.token_embedding.weight
    tied = ls.Target(module, DOMAIN, 60, loss=ls.NextToken())
    assert "for the output as well" in ls.EmbeddingRows().run(observed(tied, texts(2)), key=ls.Key(2)).sentence
    # the span needs no rows; the last token is read at the output, which is mixed up here
    attempt = ls.EmbeddingSpan().run(observed(tied, texts(1)), key=ls.Key(2))
    assert attempt.certificate is None or not attempt.certificate.holds
    assert "last token" in attempt.sentence
    assert set(attempt.claim.sequences[0]) == set(sequences_of(texts(1).inputs)[0][:-1])


def test_refusals_say_what_is_missing() -> None:
    net = ls.LeNet().build(ls.Images(3, 32, 32), 5, key=ls.Key(0))
    picture = ls.Batch(torch.rand(1, 3, 32, 32), torch.tensor([1]))
    for attack in (ls.EmbeddingSpan(), ls.EmbeddingRows()):
        assert "not text" in attack.run(ls.observe(net, picture, ls.FedSGD(), key=ls.Key(1)), key=ls.Key(2)).sentence
    target = ls.TextDecoder(dim=16).build(DOMAIN, 2, key=ls.Key(0))
    seen = observed(target, texts(1))
    head = ls.Gradient({"head.weight": seen.release.by_name["head.weight"]})
    for attack in (ls.EmbeddingSpan(), ls.EmbeddingRows()):
        refusal = attack.refusal(ls.Observation(seen.target, head, seen.mechanism))
        assert refusal is not None
        assert "the release lacks" in refusal.sentence


# --- tokens through the game ----------------------------------------------------------------------------------------


def test_a_batch_holds_tokens_as_whole_numbers_and_nothing_else() -> None:
    assert ls.Batch(torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 1])).holds_tokens
    for inputs in (torch.ones(2, 3, dtype=torch.int32), torch.ones(2, 3, 4, dtype=torch.int64)):
        with pytest.raises(ls.BadInput, match="token ids"):
            ls.Batch(inputs, torch.tensor([0, 1]))
    target = ls.TextEncoder(dim=16).build(DOMAIN, 2, key=ls.Key(0))
    with pytest.raises(ls.BadInput, match="no noise can be added"):
        observed(target, texts(1), ls.FedSGD() >> ls.InputNoise(0.1))


@pytest.mark.parametrize("recipe", [ls.TextEncoder(dim=16), ls.TextDecoder(dim=16)], ids=repr)
def test_the_filling_changes_nothing(recipe: ls.TextEncoder) -> None:
    """The gradient of a batch is the mean of the gradients of its texts, each without filling."""
    target, batch = recipe.build(DOMAIN, 2, key=ls.Key(0)), texts(3)
    whole = ls.FedSGD().release(target, batch, key=ls.Key(0)).by_name
    parts = [
        ls.FedSGD().release(target, ls.Batch(torch.tensor([row]), batch.labels[[place]]), key=ls.Key(0)).by_name
        for place, row in enumerate(sequences_of(batch.inputs))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(0), rtol=1e-4, atol=1e-6)


def test_next_token_is_the_mean_over_texts_of_their_cross_entropies() -> None:
    logits = torch.randn(2, 4, 9, generator=ls.Key(0).generator())
    rows = [(3, 5, 1, 8), (2, 7)]
    each = [
        nn.functional.cross_entropy(one[: len(row) - 1], torch.tensor(row[1:]))
        for one, row in zip(logits, rows, strict=True)
    ]
    loss = ls.NextToken()(logits, ls.Batch(padded(rows), torch.zeros(2).long()))
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_a_decoder_looks_at_no_later_token_and_an_encoder_does() -> None:
    ids = texts(1, shortest=6).inputs
    other = ids.clone()
    other[0, -1] = 1 + ids[0, -1] % 59
    target = ls.TextDecoder(dim=16).build(DOMAIN, 2, key=ls.Key(0))
    one, two = (target.outputs(target.parameters(), x) for x in (ids, other))
    assert torch.equal(one[:, :-1], two[:, :-1])
    assert not torch.equal(one[:, -1], two[:, -1])
    assert token_entry(target).causal
    assert not token_entry(ls.TextEncoder(dim=16).build(DOMAIN, 2, key=ls.Key(0))).causal
    with pytest.raises(ls.BadInput, match="takes text"):
        ls.TextEncoder().build(ls.Images(1, 8, 8), 2, key=ls.Key(0))


def test_sentences_are_text_and_the_private_ones_are_not_public() -> None:
    source = ls.Sentences(length=9, count=60)
    public, private = source.public(), source.draw(20, key=ls.Key(3)).reveal()
    assert source.domain.fits(public.inputs)
    assert not {tuple(row) for row in public.inputs.tolist()} & {tuple(row) for row in private.inputs.tolist()}
    for row in sequences_of(private.inputs):
        assert WORDS.encode(WORDS.decode(row)) == row
        assert 1 not in row
    with pytest.raises(ls.BadInput, match="4 <= length"):
        ls.Sentences(length=3)


# --- scores ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=7), st.lists(st.integers(1, 4), max_size=7))
def test_the_longest_common_subsequence_is_that_of_brute_force(one: list[int], other: list[int]) -> None:
    def parts(items: list[int]) -> set[tuple[int, ...]]:
        return {p for size in range(len(items) + 1) for p in itertools.combinations(items, size)}

    assert common(tuple(one), tuple(other)) == max(len(p) for p in parts(one) & parts(other))


def test_order_and_extra_claims_and_missing_ones() -> None:
    source = ls.Sentences(length=9, count=60)
    secret, public = source.draw(4, key=ls.Key(0)), source.public()
    true = sequences_of(secret.reveal().inputs)
    perfect = ls.score(ls.Tokens(true[::-1]), secret, public=public)
    assert [score.value for score in perfect] == [0.0, 1.0, 1.0, 1.0]
    assert all(abs(score.chance - score.perfect) > 0.4 for score in perfect)
    # what is beyond the fourth is not looked at; what is missing scores the blind guess
    extra = ls.score(ls.Tokens((*true, (1, 2, 3))), secret, public=public)
    assert extra["exact-text"].value == 1.0
    half = ls.score(ls.Tokens(true[:2]), secret, public=public)
    assert half["exact-text"].value == 0.5
    assert half["token-order"].value < 0.8
    everything = ls.Tokens((tuple(range(1, source.domain.vocabulary)),), bag=True)
    assert ls.score(everything, secret, public=public)["token-error"].value > 0.7
    with pytest.raises(ls.BadInput, match="bag of tokens"):
        ls.score(everything, secret, metrics=[ls.TokenOrder()])
    with pytest.raises(ls.BadInput, match="rising order"):
        ls.Tokens(((2, 1),), bag=True)
    with pytest.raises(ls.BadInput, match="of texts"):
        ls.score(ls.Tokens(true), ls.Batch(torch.rand(1, 2), torch.tensor([0])))


# --- an audit -------------------------------------------------------------------------------------------------------


def test_an_audit_of_texts_ends_in_the_right_words() -> None:
    """Undefended it leaks, proved; under noise the exact attack refuses, which is never an all-clear."""
    scene = Scene("texts", ls.Sentences(length=6, count=60), ls.TextEncoder(dim=32, heads=2))
    mechanisms = (ls.FedSGD(), ls.FedSGD() >> ls.GaussianNoise(0.01))
    plan = Plan("t", (scene,), mechanisms, (ls.EmbeddingSpan(), ls.LabelSigns()), trials=3, told=(ls.BatchSize,))
    cells = {cell.identity: run_cell(cell).record for cell in plan.cells()}
    words = {(group.mechanism, group.attack): group for group in summarize(plan, cells).groups}
    undefended = words[repr(mechanisms[0]), "EmbeddingSpan()"]
    assert undefended.word is Word.LEAKS
    assert "token-error 0 of 1" in undefended.sentence
    assert "proved by its own equations in 3 of 3 trials" in undefended.sentence
    assert words[repr(mechanisms[1]), "EmbeddingSpan()"].word is Word.INCONCLUSIVE
    assert all(record.ending is not Ending.CRASHED for record in cells.values())
    blind = [record for record in cells.values() if record.spec.role is Role.BLIND]
    assert {score.metric for record in blind for score in record.scores} == {"token-error", "label-accuracy"}
    assert all(score.value > 0.4 for record in blind for score in record.scores if score.metric == "token-error")


def test_vectors_that_repeat_cover_no_more_than_one() -> None:
    """Copies of one unrelated vector span one direction, however many there are."""
    generator = ls.Key(3).generator()
    gradient = torch.randn(40, 3, generator=generator).double() @ torch.randn(3, 16, generator=generator).double()
    one = torch.randn(1, 16, generator=generator).double()
    alone = covered([gradient], one)
    assert alone > 0.5
    for copies in (4, 16, 20):
        assert covered([gradient], one.repeat(copies, 1)) == pytest.approx(alone)


def test_copies_of_texts_that_weigh_differently_are_no_proof() -> None:
    """Classes weighed 2.95 to 1: the shares are those of two and two texts to a fiftieth, of one and three in truth."""
    model = ls.TextEncoder(dim=64).build(ls.Text(60, 6), 2, key=ls.Key(0))
    ids = torch.tensor([(5, 9, 4), (7, 3, 1), (7, 3, 1), (7, 3, 1)])
    values = {name: value.clone().requires_grad_(True) for name, value in model.parameters().items()}
    outputs = torch.func.functional_call(model.module, values, (padded([tuple(one) for one in ids.tolist()], 6),))
    loss = F.cross_entropy(outputs, torch.tensor([0, 1, 1, 1]), weight=torch.tensor([2.95, 1.0]))
    sent = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
    seen = ls.Observation(model, ls.Gradient(sent), ls.FedSGD(), (ls.BatchSize(4),))
    attempt = ls.EmbeddingSpan().run(seen, key=ls.Key(2))
    assert attempt.claim is not None
    assert sorted(attempt.claim.sequences) == [(5, 9, 4), (5, 9, 4), (7, 3, 1), (7, 3, 1)]
    assert not attempt.certified
    assert "whole number" in attempt.sentence
