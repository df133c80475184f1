"""Sentences from the output layer of a decoder: exact where the algebra says so, and no proof of what is not so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import leakscope as ls
from leakscope.attacks.labels.rows.row_space import row_space
from leakscope.attacks.transcripts.exact.decoder_beam import WEIGHT, Beam, Language, Path
from leakscope.attacks.transcripts.exact.decoder_order import Following
from leakscope.targets.looking.tape import recorded
from leakscope.targets.spelling import Spelling

CLASSES = 60
RECIPE = ls.ListenAttendSpell(3, 12, 1, 10, 48, 2, 10, coefficients=5)
SENTENCES = ((3, 41, 7, 7, 20, 3), (5, 9), (3, 41, 8, 30, 2, 2, 11))


def target(scale: float = 1.0) -> ls.Target:
    made = RECIPE.build(ls.Frames(5), CLASSES, key=ls.Key(4))
    with torch.no_grad():
        made.module.speller.output.weight.mul_(scale)
        for parameter in made.module.listener.parameters():
            parameter.mul_(3)  # so that utterances are heard as different ones
    return made


def utterances(*which: int) -> ls.Batch:
    """Random frames, each utterance as long as its number says."""
    said = [SENTENCES[one] for one in which]
    lengths = torch.tensor([21 + 5 * one for one in which])
    frames = 4 * torch.randn(len(which), int(lengths.max()), 5, generator=ls.Key(6).child(*which).generator())
    frames *= (torch.arange(frames.shape[1]) < lengths[:, None])[..., None]
    labels = torch.zeros(len(which), max(map(len, said)), dtype=torch.int64)
    for row, one in enumerate(said):
        labels[row, : len(one)] = torch.tensor(one)
    return ls.Batch(frames, labels, lengths, torch.tensor([len(one) for one in said]))


def attempted(seen: ls.Observation, **more: Any) -> ls.Attempt[Any]:
    # Without what is tried where rows say nothing, which has tests of its own.
    return ls.SpokenWords(matching=None).run(seen, key=ls.Key(1), **more)


CASES = [
    (1.0, (0,)),
    (1.0, (1,)),
    (1.0, (2,)),
    (30.0, (0,)),
    (30.0, (2,)),
    (30.0, (0, 1)),
    (30.0, (2, 0)),
    (30.0, (0, 1, 2)),
]


@pytest.mark.parametrize(("scale", "which"), CASES, ids=str)
@pytest.mark.parametrize("mechanism", [ls.FedSGD(), ls.FedSGD() >> ls.Clip(1e-3)], ids=repr)
def test_what_was_said_is_read_in_order_and_proved(scale: float, which: tuple[int, ...], mechanism: Any) -> None:
    """Nothing is told; sentences that begin alike are told apart by their contexts."""
    batch = utterances(*which)
    attempt = attempted(ls.observe(target(scale), batch, mechanism, key=ls.Key(0)))
    assert attempt.certified, attempt.sentence
    assert sorted(attempt.claim.labels) == sorted(SENTENCES[one] for one in which)


def test_word_pieces_are_read_as_letters() -> None:
    """Of real speech, by pieces that were learned from the public half."""
    voices = ls.Spoken(speakers=2, each=4, shortest=1.4, longest=2)
    recipe = ls.ListenAttendSpell(3, 24, 1, 10, 48, 1, 10, pieces=ls.WordPieces(voices, 120))
    model, batch = recipe.build(voices.domain, voices.classes, key=ls.Key(0)), voices.draw(1, key=ls.Key(1)).reveal()
    attempt = attempted(ls.observe(model, batch, ls.FedSGD(), key=ls.Key(0)))
    assert attempt.certified, attempt.sentence
    assert attempt.claim.labels == batch.transcripts()
    assert ls.score(attempt.claim, batch, domain=voices.domain)["character-error-rate"].value == 0


def sent(model: ls.Target, batch: ls.Batch, change: Callable[[Tensor, Tensor], Tensor]) -> ls.Observation:
    """The gradient of another loss: `change` of the losses of all pieces (N,) and the logits (N, C)."""
    values = {name: value.clone().requires_grad_(True) for name, value in model.parameters().items()}
    outputs = model.outputs(values, batch)
    asked, count = Spelling(CLASSES - 1).of(batch.labels, batch.label_lengths)
    asked = torch.cat([asked, torch.full_like(asked[:, :1], CLASSES - 1)], 1)
    real = torch.arange(asked.shape[1]) <= count[:, None]
    logits, pieces = outputs[real], asked[real]
    loss = change(F.cross_entropy(logits, pieces, reduction="none"), logits)
    slopes = torch.autograd.grad(loss, list(values.values()))
    return ls.Observation(model, ls.Gradient(dict(zip(values, slopes, strict=True))), ls.FedSGD())


def test_the_declared_loss_by_hand_is_proved() -> None:
    """Of each sentence alone; one at the edge of what proves may fall to either side by the machine's rounding."""
    tries = [attempted(sent(target(), utterances(one), lambda each, logits: each.mean())) for one in range(3)]
    assert sum(one.certified for one in tries) >= 2, [one.sentence for one in tries]
    for place, one in enumerate(tries):
        assert one.claim.labels == SENTENCES[place : place + 1]


def test_sentences_that_no_budget_was_left_for_are_not_said_to_be_too_alike() -> None:
    attempt = attempted(ls.observe(target(30), utterances(0, 1), ls.FedSGD(), key=ls.Key(0)), budget=ls.Budget(None, 1))
    assert attempt.claim is None
    assert attempt.sentence == "the budget is spent"


LIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a sum": lambda each, logits: each.sum(),
    "reversed": lambda each, logits: -each.mean(),
    "twice": lambda each, logits: 2 * each.mean(),
    "weighted": lambda each, logits: (each * torch.linspace(0.3, 2, len(each))).mean(),
    "the first half": lambda each, logits: each[: len(each) // 2].mean(),
    "without an end": lambda each, logits: each[:-1].mean(),
    "smoothed": lambda each, logits: 0.9 * each.mean() - 0.1 * torch.log_softmax(logits, 1).mean(),
}
"""What a client trains with that is not declared."""


@pytest.mark.parametrize("lie", LIES)
def test_of_another_loss_nothing_is_proved(lie: str) -> None:
    attempt = attempted(sent(target(), utterances(0), LIES[lie]))
    assert not attempt.certified
    if attempt.claim is not None:
        assert attempt.claim.confidence.isnan().all()
        assert "no proof" in attempt.sentence


def test_a_told_number_of_utterances_that_was_not_found_is_a_doubt() -> None:
    seen = ls.observe(target(30), utterances(0, 1), ls.FedSGD(), key=ls.Key(0))
    told = ls.Observation(seen.target, seen.release, seen.mechanism, (ls.BatchSize(3),))
    attempt = attempted(told)
    assert not attempt.certified
    assert "2 sentences were found, and 3 told" in attempt.sentence


@pytest.mark.parametrize(
    ("mechanism", "why"),
    [
        (ls.FedAvg(steps=2, lr=0.1), "known weights"),
        (ls.FedSGD() >> ls.GaussianNoise(1e-3), "piece 1 is hidden"),
        (ls.FedSGD() >> ls.Sign(), "changes entries one by one"),
        (ls.DPSGD(clip=1.0, noise_multiplier=1.0), "no rank stands out"),
    ],
    ids=repr,
)
def test_of_what_was_changed_nothing_is_claimed(mechanism: Any, why: str) -> None:
    attempt = attempted(ls.observe(target(), utterances(0), mechanism, key=ls.Key(0)))
    assert attempt.claim is None
    assert why in attempt.sentence


def test_other_models_and_parts_of_an_update_are_refused() -> None:
    other = ls.DeepSpeech(hidden=8, coefficients=5).build(ls.Frames(5), CLASSES, key=ls.Key(0))
    assert "ListenAttendSpell" in attempted(ls.observe(other, utterances(0), ls.FedSGD(), key=ls.Key(0))).sentence
    seen = ls.observe(target(), utterances(0), ls.FedSGD(), key=ls.Key(0))
    bias = {"speller.output.bias": seen.release.by_name["speller.output.bias"]}
    attempt = attempted(ls.Observation(seen.target, ls.Gradient(bias), seen.mechanism))
    assert "lacks speller.output.weight" in attempt.sentence
    alone = {"speller.output.weight": seen.release.by_name["speller.output.weight"]}
    assert attempted(ls.Observation(seen.target, ls.Gradient(alone), seen.mechanism)).claim.labels == SENTENCES[:1]


def test_as_many_pieces_as_outputs_are_refused_or_not_proved() -> None:
    """Twelve outputs, and sentences of more pieces: the gradient's directions are no longer those of the pieces."""
    few = RECIPE.build(ls.Frames(5), 12, key=ls.Key(4))
    batch = utterances(0)
    long = ls.Batch(batch.inputs, torch.arange(30)[None] % 11, batch.lengths, torch.tensor([30]))
    attempt = attempted(ls.observe(few, long, ls.FedSGD(), key=ls.Key(0)))
    assert not attempt.certified


def test_a_spent_budget_claims_what_was_read() -> None:
    seen = ls.observe(target(), utterances(0), ls.FedSGD(), key=ls.Key(0))
    attempt = attempted(seen, budget=ls.Budget(evaluations=3))
    assert not attempt.certified
    assert attempt.claim.labels[0] == SENTENCES[0][: len(attempt.claim.labels[0])]


def test_sentences_that_were_not_told_apart_are_missing_and_nothing_is_proved() -> None:
    """With small output weights the contexts of three sentences that begin alike are rounding."""
    attempt = attempted(ls.observe(target(), utterances(0, 1, 2), ls.FedSGD(), key=ls.Key(0)))
    assert not attempt.certified
    assert "no proof" in attempt.sentence
    assert attempt.claim.confidence.isnan().all()


FED, ROWS, SIGNS, TESTS = (
    "by the rows of the embedding",
    "not excluded by",
    "by the signs of dL/db",
    "by a test of dL/db",
)
OUTPUT = ("speller.output.weight", "speller.output.bias")
BAGGED = [
    (ls.FedSGD(), None, FED),
    (ls.FedSGD() >> ls.Sign(), None, FED),
    (ls.FedAvg(steps=3, lr=0.1), None, FED),
    (ls.FedSGD() >> ls.GaussianNoise(1e-3), None, TESTS),
    (ls.FedSGD(), OUTPUT, ROWS),
    (ls.FedSGD(), OUTPUT[:1], ROWS),
    (ls.FedSGD(), OUTPUT[1:], SIGNS),
    (ls.FedSGD() >> ls.Sign(), OUTPUT, SIGNS),
    (ls.FedAvg(steps=2, lr=0.1), OUTPUT, ROWS),
    (ls.FedAvg(steps=2, lr=0.1), OUTPUT[:1], ROWS),
    (ls.FedAvg(steps=3, lr=0.1), OUTPUT, SIGNS),
]
"""What a client does, which parts of its update there are (None: all), and by what pieces are named: three steps have
54 pieces, more than 60 outputs can tell apart."""


@pytest.mark.parametrize(("mechanism", "parts", "by"), BAGGED, ids=str)
def test_where_no_order_comes_the_pieces_do(mechanism: Any, parts: tuple[str, ...] | None, by: str) -> None:
    """All that were said and no other, whatever part of the update speaks for them; nothing is proved."""
    batch = utterances(0, 1, 2)
    seen = ls.observe(target(), batch, mechanism, key=ls.Key(0))
    if parts is not None:
        release = type(seen.release)({name: seen.release.by_name[name] for name in parts})
        seen = ls.Observation(seen.target, release, seen.mechanism)
    attempt = ls.SpokenWords(order=False).run(seen, key=ls.Key(1))
    assert isinstance(attempt.claim, ls.Pieces), attempt.sentence
    assert attempt.claim.pieces == tuple(sorted({(piece,) for one in SENTENCES for piece in one}))
    assert not attempt.certified
    assert by in attempt.sentence
    assert "no order, and no proof" in attempt.sentence
    found = ls.score(attempt.claim, batch, domain=ls.Frames(5), client=ls.Client(seen.target))["piece-error"]
    assert (found.value, found.exact) == (0, 1)


def test_no_piece_is_named_that_was_not_said() -> None:
    """Behind more noise pieces are lost; what is named was said (the test's level: one batch in a hundred may err)."""
    said = {(piece,) for one in SENTENCES for piece in one}
    found = []
    for turn in range(20):
        seen = ls.observe(target(), utterances(0, 1, 2), ls.FedSGD() >> ls.GaussianNoise(0.012), key=ls.Key(turn))
        claim = ls.SpokenWords(order=False).run(seen, key=ls.Key(1)).claim
        found.append(set() if claim is None else set(claim.pieces))
    assert sum(not one <= said for one in found) <= 1
    assert any(one and one < said for one in found)


def test_a_bag_needs_something_that_speaks_for_pieces() -> None:
    bag = ls.SpokenWords(order=False)
    seen = ls.observe(target(), utterances(0), ls.FedSGD(), key=ls.Key(0))
    other = {"speller.query.weight": seen.release.by_name["speller.query.weight"]}
    attempt = bag.run(ls.Observation(seen.target, ls.Gradient(other), seen.mechanism), key=ls.Key(1))
    assert "lacks speller.output.bias" in attempt.sentence
    few, batch = RECIPE.build(ls.Frames(5), 12, key=ls.Key(4)), utterances(0)
    long = ls.Batch(batch.inputs, torch.arange(30)[None] % 11, batch.lengths, torch.tensor([30]))
    many = ls.observe(few, long, ls.FedAvg(steps=2, lr=0.1), key=ls.Key(0))
    weight = ls.Delta({OUTPUT[0]: many.release.by_name[OUTPUT[0]]})
    attempt = bag.run(ls.Observation(many.target, weight, many.mechanism), key=ls.Key(1))
    assert attempt.claim is None
    assert "no rank stands out" in attempt.sentence
    rows = ls.observe(target(), utterances(0), ls.DPSGD(clip=1.0, noise_multiplier=100.0), key=ls.Key(0))
    assert bag.run(rows, key=ls.Key(1)).claim is None


OPEN = [(0.8, (0, 1)), (2.0, (2, 0)), (3.0, (0, 1, 2))]
"""Sizes of the output weights at which a piece is open, and nothing is known of what follows it."""


@pytest.mark.parametrize(("scale", "which"), OPEN, ids=str)
def test_a_beam_completes_what_is_open_and_proves_nothing(scale: float, which: tuple[int, ...]) -> None:
    seen = ls.observe(target(scale), utterances(*which), ls.FedSGD(), key=ls.Key(0))
    said = sorted(SENTENCES[one] for one in which)
    before = ls.SpokenWords(beam=0, matching=None).run(seen, key=ls.Key(1))
    assert sorted(before.claim.labels) != said
    attempt = attempted(seen)
    assert sorted(attempt.claim.labels) == said
    assert not attempt.certified
    assert attempt.claim.confidence.isnan().all()
    assert "no proof: a beam chose" in attempt.sentence


def test_a_path_is_judged_by_what_the_gradient_says_of_pairs_of_pieces() -> None:
    """g_s^T (dL/dW)^+ h_t is N for one piece and nothing for two, with features as the model itself has them."""
    model, batch = target(2.0), utterances(2, 0)
    seen = ls.observe(model, batch, ls.FedSGD(), key=ls.Key(0))
    gradient = seen.release.by_name[OUTPUT[0]].double().numpy()
    space = row_space(gradient.T, ls.Key(0).numpy())
    following = Following(model.module.speller, space, CLASSES - 1)
    with recorded(model.module, ["speller.output"]) as calls, torch.no_grad():
        model.outputs(model.parameters(), batch)
    fed = torch.as_tensor(calls[-1].given).double().numpy() @ space.left
    beam = Beam(following, 4, np.ones(CLASSES, bool), None, lambda: False)
    empty = Path((), (), (), following.reached, following.begun)
    first = beam._with(empty, SENTENCES[2][0], fed[0, 0], 0.0)
    assert first.worst < 1e-3
    assert beam._with(first, SENTENCES[2][1], fed[0, 1], 0.0).worst < 1e-3
    assert beam._with(first, SENTENCES[2][0], fed[0, 0], 0.0).worst > 0.9  # the same place twice
    assert beam._with(first, 33, fed[0, 1], 0.0).worst > 0.3  # a piece that was not said there


def test_a_beam_keeps_to_what_was_fed_and_to_the_language() -> None:
    """Without the embedding's gradient all pieces are tried; a language is heard beside the gradient."""
    batch = utterances(2, 0)
    seen = ls.observe(target(2.0), batch, ls.FedSGD(), key=ls.Key(0))
    alone = ls.Gradient({name: seen.release.by_name[name] for name in OUTPUT})
    assert sorted(attempted(ls.Observation(seen.target, alone, seen.mechanism)).claim.labels) == sorted(
        SENTENCES[one] for one in (0, 2)
    )
    texts = Texts((SENTENCES[0], SENTENCES[2]))
    found = ls.SpokenWords(language=texts, matching=None).run(seen, key=ls.Key(1)).claim.labels
    assert sorted(found) == sorted(SENTENCES[one] for one in (0, 2))


class Texts:
    """Public transcripts."""

    def __init__(self, said: tuple[tuple[int, ...], ...]) -> None:
        self.said = said

    def public(self) -> ls.Batch:
        lengths = torch.tensor([len(one) for one in self.said])
        labels = torch.zeros(len(self.said), int(lengths.max()), dtype=torch.int64)
        for row, one in enumerate(self.said):
            labels[row, : len(one)] = torch.tensor(one)
        return ls.Batch(torch.zeros(len(self.said), 4, 5), labels, torch.full_like(lengths, 4), lengths)


def test_a_language_is_what_pairs_of_public_texts_say() -> None:
    """By counting in a dictionary: P(b | a) = (n_ab + P(b)) / (n_a + 1), P(b) = (n_b + 1) / (n + C)."""
    said = ((1, 2, 1), (2,))
    pairs = [(3, 1), (1, 2), (2, 1), (1, 3), (3, 2), (2, 3)]  # 3 is the end
    language = Language(Spelling(3), Texts(said))
    total = 0.0
    for before in range(4):
        for after in range(4):
            single = (sum(b == after for _, b in pairs) + 1) / (len(pairs) + 4)
            chance = (pairs.count((before, after)) + single) / (sum(a == before for a, _ in pairs) + 1)
            assert language(before, after) == pytest.approx(-WEIGHT * math.log(chance))
            total += chance
    assert total == pytest.approx(4)
    with pytest.raises(ls.BadInput, match="has none"):
        Language(Spelling(3), ls.Digits(size=8))
    with pytest.raises(ls.BadInput, match="beam >= 0"):
        ls.SpokenWords(beam=-1)


def test_pieces_that_were_first_looked_at_without_memory_spell_afterwards() -> None:
    """A plan is rehearsed on the meta device, in the process that runs it afterwards."""
    voices = ls.Spoken(speakers=2, each=4, shortest=1.4, longest=2)
    spelling = Spelling(28, ls.WordPieces(voices, 23))
    said, count = torch.tensor([[3, 4, 5]]), torch.tensor([3])
    with torch.device("meta"):
        spelling.of(said.to("meta"), count.to("meta"))
    outputs, length = spelling.of(said, count)
    assert spelling.read(tuple(outputs[0, : int(length)].tolist())) == (3, 4, 5)


def forgetful() -> ls.Target:
    """A decoder that hardly remembers more than the last piece."""
    made = target(5.0)
    with torch.no_grad():
        for cell in made.module.speller.cells:
            width = cell.weight_hh.shape[1]
            cell.bias[width : 2 * width] -= 9
            cell.weight_hh.mul_(0.02)
    return made


def test_a_chain_that_the_decoder_does_not_tell_from_another_is_no_proof() -> None:
    """A client that feeds [end] + the pieces moved by one: each piece follows another than in the sentence, and from
    the pairs of fed and asked pieces alone that is another sentence."""
    model, batch = forgetful(), utterances(0)
    said = torch.tensor([8, 5, 1])
    fed = ls.Batch(batch.inputs, said.roll(1)[None], batch.lengths, torch.tensor([3]))
    values = {name: value.clone().requires_grad_(True) for name, value in model.parameters().items()}
    asked = torch.cat([said, torch.tensor([CLASSES - 1])])
    loss = F.cross_entropy(model.outputs(values, fed)[0, :4], asked)
    slopes = torch.autograd.grad(loss, list(values.values()))
    seen = ls.Observation(model, ls.Gradient(dict(zip(values, slopes, strict=True))), ls.FedSGD())
    attempt = attempted(seen)
    assert attempt.claim is not None
    assert attempt.claim.labels == ((8, 1, 5),)
    assert not attempt.certified
    assert "another place" in attempt.sentence or "moves the decoder" in attempt.sentence
