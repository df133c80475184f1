"""CTC against enumeration of alignments, torch's own loss, and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerance import close
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.numerics import ctc
from leakscope.numerics.rng import Key
from leakscope.targets.losses import CTC, Reduction

BLANK = 3


def nll(logits: Tensor, labels: Tensor, lengths: Tensor, label_lengths: Tensor, blank: int = BLANK) -> Tensor:
    return ctc.negative_log_likelihood(logits, labels, lengths=lengths, label_lengths=label_lengths, blank=blank)


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != BLANK)


@pytest.mark.parametrize("text", [(), (1,), (0, 0), (2, 1), (1, 1, 1), (0, 1, 0)])
def test_sums_every_alignment(text: tuple[int, ...]) -> None:
    frames, classes = 5, 4
    logits = torch.randn(1, frames, classes, generator=Key(0).generator(), dtype=torch.float64)
    log_p = logits[0].log_softmax(-1)
    paths = [p for p in itertools.product(range(classes), repeat=frames) if collapsed(p) == text]
    wanted = -torch.logsumexp(torch.stack([sum(log_p[t, k] for t, k in enumerate(p)) for p in paths]), 0)
    got = nll(logits, torch.tensor([text], dtype=torch.int64), torch.tensor([frames]), torch.tensor([len(text)]))
    close(got[0], wanted)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, frames, letters = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    labels = torch.tensor(
        draw(st.lists(st.lists(st.integers(0, 2), min_size=letters, max_size=letters), min_size=count, max_size=count))
    )
    label_lengths = torch.tensor([draw(st.integers(0, letters)) for _ in range(count)])
    lengths = torch.tensor([draw(st.integers(1, frames)) for _ in range(count)])
    seed = draw(st.integers(0, 1000))
    logits = 3 * torch.randn(count, frames, 4, generator=Key(seed).generator(), dtype=torch.float64)
    return logits, labels, lengths, label_lengths


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_value_and_gradient_are_those_of_torch(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, lengths, label_lengths = case
    logits.requires_grad_(True)
    got = nll(logits, labels, lengths, label_lengths)
    time_major = logits.log_softmax(-1).transpose(0, 1)
    wanted = F.ctc_loss(time_major, labels, lengths, label_lengths, blank=BLANK, reduction="none")
    enough = ctc.frames_needed(labels, label_lengths) <= lengths
    assert torch.equal(torch.isfinite(wanted), enough)
    assert torch.equal(torch.isinf(got), ~enough)
    if not bool(enough.any()):
        return
    close(got[enough], wanted[enough])
    (mine,) = torch.autograd.grad(got[enough].sum(), logits)
    (other,) = torch.autograd.grad(wanted[enough].sum(), logits)
    close(
        mine[enough],
        other[enough],
        loosened=10,
        because="torch subtracts exponentials of sums",
    )


def test_frames_and_labels_beyond_the_lengths_are_not_read() -> None:
    logits = torch.randn(1, 6, 4, generator=Key(1).generator(), dtype=torch.float64, requires_grad=True)
    four, two = torch.tensor([4]), torch.tensor([2])
    loss = nll(logits, torch.tensor([[1, 2, -7]]), four, two)
    close(loss, nll(logits[:, :4], torch.tensor([[1, 2]]), four, two))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool((gradient[:, 4:] == 0).all())
    assert bool((gradient[:, :4] != 0).any())


def test_frames_that_do_not_suffice_are_infinite_without_spoiling_the_others() -> None:
    logits = torch.randn(2, 4, 4, generator=Key(2).generator(), dtype=torch.float64, requires_grad=True)
    labels, lengths, letters = torch.tensor([[1, 1, 1], [1, 2, 1]]), torch.tensor([4, 4]), torch.tensor([3, 3])
    loss = nll(logits, labels, lengths, letters)
    assert torch.isinf(loss).tolist() == [True, False]
    (gradient,) = torch.autograd.grad(loss[1], logits)
    assert bool(torch.isfinite(gradient).all())
    assert ctc.frames_needed(labels, letters).tolist() == [5, 3]


def test_extreme_logits_give_finite_derivatives() -> None:
    logits = 200 * torch.randn(1, 8, 4, generator=Key(3).generator())
    logits.requires_grad_(True)
    loss = nll(logits, torch.tensor([[0, 0, 2]]), torch.tensor([8]), torch.tensor([3])).sum()
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(first).all())
    assert bool(torch.isfinite(second).all())


def test_second_derivatives_agree_with_finite_differences() -> None:
    logits = torch.randn(2, 5, 4, generator=Key(4).generator(), dtype=torch.float64, requires_grad=True)
    labels, lengths, letters = torch.tensor([[1, 1], [2, 0]]), torch.tensor([5, 4]), torch.tensor([2, 1])

    def loss(values: Tensor) -> Tensor:
        return nll(values, labels, lengths, letters).sum()

    assert torch.autograd.gradcheck(loss, (logits,))
    assert torch.autograd.gradgradcheck(loss, (logits,))


def test_works_under_vmap_and_grad_over_candidates() -> None:
    logits = torch.randn(3, 2, 6, 4, generator=Key(5).generator(), dtype=torch.float64)
    labels, lengths, letters = torch.tensor([[1, 1], [2, 0]]), torch.tensor([6, 4]), torch.tensor([2, 1])

    def loss(values: Tensor, text: Tensor) -> Tensor:
        return nll(values, text, lengths, letters).sum()

    together = torch.func.vmap(torch.func.grad(loss), (0, None))(logits, labels)
    apart = torch.stack([torch.func.grad(loss)(one, labels) for one in logits])
    close(together, apart)
    texts = torch.stack([labels, labels.flip(0), labels.flip(1)])
    by_text = torch.func.vmap(loss, (None, 0))(logits[0], texts)
    close(by_text, torch.stack([loss(logits[0], text) for text in texts]))


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.randn(1, 6, 4, generator=Key(6).generator()).half()
    loss = nll(logits, torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2]))
    assert loss.dtype == torch.float32
    close(loss, nll(logits.float(), torch.tensor([[1, 2]]), torch.tensor([6]), torch.tensor([2])))


def sequences(**changes: Tensor) -> Batch:
    parts = {
        "inputs": torch.ones(2, 5, 2),
        "labels": torch.tensor([[1, 2], [0, 0]]),
        "lengths": torch.tensor([5, 3]),
        "label_lengths": torch.tensor([2, 1]),
    } | changes
    padded = parts["inputs"].clone()
    if "inputs" not in changes:
        padded[1, 3:] = 0
    return Batch(padded, parts["labels"], parts["lengths"], parts["label_lengths"])


def test_reductions_are_a_sum_per_utterance_or_a_mean_per_label() -> None:
    batch = sequences()
    logits = torch.randn(2, 5, 4, generator=Key(7).generator(), dtype=torch.float64)
    time_major = logits.log_softmax(-1).transpose(0, 1)
    each = F.ctc_loss(time_major, batch.labels, batch.lengths, batch.label_lengths, blank=3, reduction="none")
    close(CTC(blank=3)(logits, batch), each.mean())
    mean = F.ctc_loss(time_major, batch.labels, batch.lengths, batch.label_lengths, blank=3, reduction="mean")
    close(CTC(Reduction.MEAN, blank=3)(logits, batch), mean)
    empty = sequences(label_lengths=torch.tensor([2, 0]))
    assert bool(torch.isfinite(CTC(Reduction.MEAN, blank=3)(logits, empty)))


@pytest.mark.parametrize("loss", [CTC(), CTC(Reduction.MEAN, blank=3)])
def test_repr_rebuilds(loss: CTC) -> None:
    assert eval(repr(loss), {"CTC": CTC, "Reduction": Reduction}) == loss


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lengths": torch.tensor([5, 6])}, "expected lengths from 1 to 5"),
        ({"lengths": torch.tensor([5, 0])}, "expected lengths from 1 to 5"),
        ({"inputs": torch.ones(2, 5, 2)}, "must be zero: the windows"),
        ({"labels": torch.tensor([[1, 3], [0, 0]])}, "other than the blank 3, got 3"),
        ({"labels": torch.tensor([[1, -1], [0, 0]])}, "got -1"),
        ({"label_lengths": torch.tensor([3, 1])}, "expected label lengths from 0 to 2"),
        (
            {"labels": torch.tensor([[1, 2, 0], [0, 0, 1]]), "label_lengths": torch.tensor([2, 3])},
            "utterance 1 has 3 frames, its transcript needs 4",
        ),
    ],
)
def test_check_refuses_what_would_be_infinite_or_read_padding(changes: dict[str, Tensor], sentence: str) -> None:
    CTC(blank=3).check(sequences(), 4)
    with pytest.raises(BadInput, match=sentence):
        CTC(blank=3).check(sequences(**changes), 4)


def test_wrong_uses_are_refused() -> None:
    plain = Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="needs a batch of sequences"):
        CTC()(torch.zeros(2, 3, 29), plain)
    with pytest.raises(BadInput, match="needs a batch of sequences"):
        CTC().check(plain, 29)
    with pytest.raises(BadInput, match="one output per frame"):
        CTC(blank=3)(torch.zeros(2, 4), sequences())
    with pytest.raises(BadInput, match="no output of a model with 28 classes"):
        CTC().check(sequences(), 28)
    with pytest.raises(BadInput, match="blank index >= 0"):
        CTC(blank=-1)
