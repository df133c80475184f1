"""Listen, attend and spell against its formulas and torch's LSTM, alone and in batches, and through every protocol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tests.tolerance import close, close_trees
from torch import Tensor, nn

import leakscope as ls
from leakscope.core.errors import BadInput
from leakscope.domains.speech import bands_of, log_mel_of
from leakscope.numerics import trees
from leakscope.targets.looking.dense_ends import output_layer
from leakscope.targets.losses import CTC
from leakscope.targets.spelling import NextPiece, PiecesSoFar, Spelling, WordPieces, merged
from leakscope.targets.vetting.size import numbers
from leakscope.targets.zoo.listen_attend_spell import ListenAttendSpell, turned

SMALL = ListenAttendSpell(3, 5, 2, 4, 6, 2, 7, coefficients=4)


@dataclass(frozen=True)
class Texts:
    """A source of these transcripts alone."""

    texts: tuple[tuple[int, ...], ...] = ((1, 2, 3, 0, 1, 2), (1, 2, 0, 3, 1, 2))

    def public(self) -> ls.Batch:
        letters = torch.tensor([len(one) for one in self.texts])
        labels = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in self.texts], batch_first=True)
        return ls.Batch(torch.zeros(len(letters), 3, 4), labels, torch.full_like(letters, 3), letters)


PIECES = WordPieces(Texts(), 3)


def small(recipe: ListenAttendSpell = SMALL) -> ls.Target:
    target = recipe.build(ls.Frames(4), 6, key=ls.Key(0))
    target.module.double()
    return target


def utterances(lengths: tuple[int, ...] = (14, 9)) -> ls.Batch:
    frames = max(lengths)
    draws = torch.randn(len(lengths), frames, 4, generator=ls.Key(2).generator(), dtype=torch.float64)
    real = torch.arange(frames) < torch.tensor(lengths).unsqueeze(1)
    labels = torch.tensor([[1, 2, 3, 1], [4, 1, 0, 0]][: len(lengths)])
    letters = torch.tensor([4, 2][: len(lengths)])
    return ls.Batch(draws * real.unsqueeze(2), labels, torch.tensor(lengths), letters)


def both_ways(p: dict[str, Tensor], place: int, x: Tensor) -> Tensor:
    """One bidirectional layer of torch on (T, F)."""
    layer = nn.LSTM(x.shape[1], 5, bidirectional=True).double()
    with torch.no_grad():
        for way, name in (("", "forwards"), ("_reverse", "backwards")):
            prefix = f"listener.{name}.{place}."
            getattr(layer, f"weight_ih_l0{way}").copy_(p[prefix + "weight_ih"])
            getattr(layer, f"weight_hh_l0{way}").copy_(p[prefix + "weight_hh"])
            getattr(layer, f"bias_ih_l0{way}").copy_(p[prefix + "bias"])
            getattr(layer, f"bias_hh_l0{way}").zero_()
        return layer(x)[0]


def by_hand(target: ls.Target, frames: Tensor, tokens: list[int]) -> Tensor:
    """One utterance (T, F) and what is told of it to logits, by torch's LSTM and the formulas."""
    p = target.parameters()
    x = ((bands_of(frames) + 1) / 2)[None, None]
    for name in ("conv_1", "conv_2"):
        x = F.conv2d(x, p[f"listener.{name}.weight"], p[f"listener.{name}.bias"], stride=2, padding=1).clamp(min=0)
    x = both_ways(p, 0, x[0].permute(1, 0, 2).flatten(1))
    x = x @ p["listener.projections.0.weight"].T + p["listener.projections.0.bias"]
    x = F.layer_norm(x, (10,), p["listener.norms.0.weight"], p["listener.norms.0.bias"]).clamp(min=0)
    heard = both_ways(p, 1, x)
    context, states, logits = torch.zeros(10).double(), [torch.zeros(2, 6).double() for _ in range(2)], []
    for token in tokens:
        x = p["speller.embedding.weight"][token]
        for place in (0, 1):
            q, (h, c) = f"speller.cells.{place}.", states[place]
            gates = p[q + "weight_ih"] @ torch.cat([x, context]) + p[q + "weight_hh"] @ h + p[q + "bias"]
            i, f, g, o = gates.reshape(4, 6)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            x = torch.sigmoid(o) * torch.tanh(c)
            states[place] = torch.stack([x, c])
        query = p["speller.query.weight"] @ x + p["speller.keys.bias"]
        scores = torch.tanh(heard @ p["speller.keys.weight"].T + query) @ p["speller.score.weight"][0]
        context = torch.softmax(scores, 0) @ heard
        logits.append(p["speller.output.weight"] @ torch.cat([x, context]) + p["speller.output.bias"])
    return torch.stack(logits)


def test_logits_and_loss_by_hand() -> None:
    target, batch = small(), utterances()
    outputs, parts = target.outputs(target.parameters(), batch), []
    for row, (frames, said) in enumerate(zip((14, 9), ([1, 2, 3, 1], [4, 1]), strict=True)):
        wanted = by_hand(target, batch.inputs[row, :frames], [5, *said])
        close(outputs[row, : len(wanted)], wanted)
        parts.append(F.cross_entropy(wanted, torch.tensor([*said, 5]), reduction="sum"))
    close(target.loss_of(outputs, batch), sum(parts) / 8)  # 5 and 3 pieces, the ends among them


@pytest.mark.parametrize("recipe", [SMALL, ListenAttendSpell(3, 5, 2, 4, 6, 2, 7, 4, PIECES)])
def test_an_utterance_in_a_batch_is_the_same_as_alone(recipe: ListenAttendSpell) -> None:
    """Lengths of which 4 is no divisor, and padding that neither the loss nor its gradient sees."""
    target, batch = small(recipe), utterances((13, 9))
    together = target.outputs(target.parameters(), batch)
    alone = target.outputs(target.parameters(), batch.rows(torch.tensor([1])).trimmed())
    close(together[1:, : alone.shape[1]], alone)
    padded = F.pad(batch.inputs, (0, 0, 0, 9))
    longer = ls.Batch(padded, F.pad(batch.labels, (0, 3), value=3), batch.lengths, batch.label_lengths)
    gradients = [torch.func.grad(target.loss_at)(target.parameters(), given) for given in (batch, longer)]
    close_trees(gradients[1], gradients[0])


def test_what_is_turned_is_turned_within_its_length() -> None:
    steps = torch.arange(1.0, 9.0).reshape(2, 4, 1)
    found = turned(steps, torch.tensor([4, 2]))
    assert found[0].flatten().tolist() == [4, 3, 2, 1]
    assert found[1].flatten().tolist()[:2] == [6, 5]


def test_it_has_second_derivatives_also_under_vmap() -> None:
    target, batch = small(ListenAttendSpell(2, 2, 1, 2, 3, 1, 2, 4, PIECES)), utterances((6, 6))
    parameters = target.parameters()

    def matched(frames: Tensor, labels: Tensor, letters: Tensor) -> Tensor:
        one = ls.Batch(frames[None], labels[None], batch.lengths[:1], letters[None])
        return trees.norm(torch.func.grad(target.loss_at)(parameters, one))

    frames = batch.inputs[0].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: matched(x, batch.labels[0], batch.label_lengths[0]), (frames,))
    data = (batch.inputs, batch.labels, batch.label_lengths)
    both = torch.func.vmap(torch.func.grad(matched))(*data)
    for row in (0, 1):
        close(both[row], torch.func.grad(matched)(*(part[row] for part in data)))


@pytest.mark.parametrize(
    "mechanism",
    [
        ls.FedSGD(),
        ls.FedAvg(steps=2, lr=0.1),
        ls.FedAvg(steps=2, lr=0.1, batch_size=1),
        ls.DPSGD(clip=0.5, noise_multiplier=0.0),
        ls.FedSGD() >> ls.Clip(0.1),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "recipe", [SMALL, ListenAttendSpell(3, 5, 2, 4, 6, 2, 7, 4, PIECES)], ids=["letters", "pieces"]
)
@pytest.mark.parametrize("lengths", [(14,), (14, 9)], ids=["one", "two"])
def test_what_the_client_sends_is_what_the_adversary_expects(mechanism, recipe, lengths) -> None:
    target, batch = small(recipe), utterances(lengths)
    seen = ls.observe(target, batch, mechanism, key=ls.Key(0))
    close_trees(seen.release.by_name, mechanism.replay(target, batch).by_name)


def test_a_step_is_on_its_own_utterances() -> None:
    """Two steps of one utterance each are two updates in turn, computed by hand."""
    target, batch = small(), utterances()
    sent = ls.FedAvg(steps=2, lr=0.1, batch_size=1).release(target, batch, key=ls.Key(0)).by_name
    at = dict(target.parameters())
    for row in (0, 1):
        one = batch.rows(torch.tensor([row])).trimmed()
        slopes = torch.func.grad(target.loss_at)(at, one)
        at = {name: value - 0.1 * slopes[name] for name, value in at.items()}
    close_trees(sent, {name: value - target.parameters()[name] for name, value in at.items()})


def test_the_output_layer_is_found_and_vetting_has_no_objection() -> None:
    target = ListenAttendSpell(3, 5, 2, 4, 6, 2, 7).build(ls.Frames(26), 29, key=ls.Key(0))
    assert output_layer(target).weight == "speller.output.weight"
    assert ls.vet(target) == ()


def test_the_original_s_size_is_counted_without_memory() -> None:
    """Of the published sizes, layer by layer, and of 29 letters instead of its pieces."""
    listened = (9 * 32 + 32) + (9 * 32 * 32 + 32) + 2 * 4 * 1024 * (320 + 1024 + 1)
    listened += 3 * (2 * 4 * 1024 * (2048 + 1024 + 1) + 2048 * 2049 + 2 * 2048)
    spelled = 29 * 96 + 4 * 1024 * (96 + 2048 + 1024 + 1) + 4 * 1024 * (1024 + 2048 + 1024 + 1)
    spelled += 2049 * 128 + 1024 * 128 + 128 + 3073 * 29
    assert numbers(ListenAttendSpell(), ls.Frames(26), 29) == listened + spelled


def test_keys_rule_the_weights() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (SMALL.build(ls.Frames(4), 6, key=ls.Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_bands_are_the_log_mel_where_nothing_is_clipped() -> None:
    frames = ls.Spoken(speakers=1, each=2, shortest=1.5, longest=2).load().inputs[0, :20]
    close(bands_of(frames.double()), log_mel_of(frames.double()))


# ---- word pieces


def test_pieces_are_merged_by_how_often_they_are_neighbors() -> None:
    """th is in 5 words, ab in 2; the second merge builds on the first."""
    words = Counter({(20, 8, 5): 3, (20, 8): 2, (1, 2): 2})
    assert merged(words, 3) == ((20, 8), (20, 8, 5), (1, 2))
    assert merged(Counter({(1, 2): 1}), 9) == ((1, 2),)
    assert PIECES.learned() == ((1, 2), (1, 2, 0), (1, 2, 3))


def greedy(said: list[int], spelling: Spelling) -> list[int]:
    """The longest piece at each place, by looking at it."""
    known, at, found = spelling.known(), 0, []
    while at < len(said):
        fit = [i for i, piece in enumerate(known) if tuple(said[at : at + len(piece)]) == piece]
        best = max(fit, key=lambda i: len(known[i])) if fit else None
        found.append(said[at] if best is None else spelling.letters + best)
        at += 1 if best is None else len(known[best])
    return found


@pytest.mark.parametrize("pieces", [None, PIECES])
def test_a_text_is_spelled_by_the_longest_pieces_and_read_back(pieces: WordPieces | None) -> None:
    spelling = Spelling(5, pieces)
    drawn = torch.randint(0, 4, (40, 9), generator=ls.Key(3).generator())
    letters = torch.randint(0, 10, (40,), generator=ls.Key(4).generator())
    outputs, count = spelling.of(drawn, letters)
    assert outputs.shape == drawn.shape
    for row, size, said, length in zip(outputs.tolist(), count.tolist(), drawn.tolist(), letters.tolist(), strict=True):
        assert row[:size] == greedy(said[:length], spelling)
        assert set(row[size:]) <= {spelling.end}
        assert spelling.read(tuple(row)) == tuple(said[:length])


def test_what_the_decoder_is_told_ends_one_before_what_it_is_asked() -> None:
    target = small(ListenAttendSpell(3, 5, 2, 4, 6, 2, 7, 4, PIECES))
    assert (target.classes, target.feed, target.loss) == (
        9,
        PiecesSoFar(Spelling(5, PIECES)),
        NextPiece(target.loss.spelling),
    )
    _, lengths, tokens = target.feed.arguments(utterances().inputs, utterances()).by_place
    assert lengths.tolist() == [14, 9]
    assert tokens.tolist() == [[8, 7, 1, 8, 8], [8, 4, 1, 8, 8]]  # 1 2 3 is one piece
    assert target.feed.arguments(utterances().inputs, None).by_place[2].tolist() == [[8], [8]]


@pytest.mark.parametrize(
    "recipe", [SMALL, ListenAttendSpell(3, 5, 2, 4, 6, 2, 7, 4, ls.WordPieces(ls.Spoken(2, 3), 4))]
)
def test_repr_rebuilds(recipe: ListenAttendSpell) -> None:
    assert eval(repr(recipe), dict(vars(ls), ListenAttendSpell=ListenAttendSpell, Spoken=ls.Spoken)) == recipe


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: ListenAttendSpell(hidden=0), "at least 1"),
        (lambda: WordPieces(Texts(), 0), "count >= 1"),
        (lambda: Spelling(0), "at least one letter"),
        (lambda: SMALL.build(ls.Frames(5), 6, key=ls.Key(0)), r"takes Frames\(4\)"),
        (lambda: SMALL.build(ls.Frames(4), 1, key=ls.Key(0)), "one letter and the end"),
        (lambda: small().loss.check(utterances(), 7), "the model has 7"),
        (lambda: small().loss.check(ls.Batch(torch.ones(1, 2), torch.tensor([0])), 6), "batch of sequences"),
        (lambda: small().loss.check(utterances().with_inputs(utterances().inputs + 1), 6), "must be zero"),
        (lambda: small().loss(torch.zeros(2, 4, 6), utterances()), r"logits \(2, 5, 6\)"),
        (lambda: small().feed.arguments(torch.ones(1, 2), ls.Batch(torch.ones(1, 2), torch.tensor([0]))), "sequences"),
    ],
)
def test_wrong_uses_are_refused(wrong, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        wrong()


def test_letters_outside_the_alphabet_are_refused() -> None:
    target, batch = small(), utterances()
    batch.labels[0, 0] = 5  # the end is no letter
    with pytest.raises(BadInput, match="letters from 0 to 4, got 5"):
        ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0))


def test_it_is_no_model_of_ctc() -> None:
    assert not isinstance(small().loss, CTC)
    seen = ls.observe(small(), utterances(), ls.FedSGD(), key=ls.Key(0))
    assert "trained by CTC" in ls.CtcTranscript().run(seen, key=ls.Key(0)).sentence
