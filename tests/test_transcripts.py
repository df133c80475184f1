"""Transcripts from CTC occupancies: torch's CTC gradient and the list of all strings are the oracles."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import leakscope as ls
from leakscope.attacks.transcripts.exact.alignment import (
    Evidence,
    Spelling,
    jacobian,
    misfit,
    missed,
    run,
    spelled,
    through,
)
from leakscope.attacks.transcripts.exact.dropout import Entries, peeled, settled
from leakscope.attacks.transcripts.exact.occupancy import Spoken
from leakscope.attacks.transcripts.exact.reading import MANNERS, _Reader, judged, read
from leakscope.attacks.transcripts.exact.repairing import beamed, first_and_worst, neighbors, outright, repaired, worst
from leakscope.mechanisms.running import as_run

LETTERS = 4
CONTEXT, FEATURES = 4, 5


def probabilities(frames: int, seed: int, sharp: float = 0.5, letters: int = LETTERS) -> torch.Tensor:
    logits = sharp * torch.randn(frames, letters + 1, generator=ls.Key(seed).generator(), dtype=torch.float64)
    return logits.softmax(1)


def by_torch(string: tuple[int, ...], outputs: torch.Tensor) -> np.ndarray[Any, Any]:
    """Occupancies (T, C), blank last: what torch's CTC gradient to the logits leaves of the probabilities."""
    logits = outputs.log().detach().requires_grad_()
    blank = outputs.shape[1] - 1
    labels = torch.tensor([string], dtype=torch.int64)
    lengths = torch.tensor([len(outputs)]), torch.tensor([len(string)])
    loss = F.ctc_loss(logits.log_softmax(1)[:, None], labels, *lengths, blank=blank, reduction="sum")
    (slope,) = torch.autograd.grad(loss, logits)
    return (outputs - slope).numpy()


def evidence(string: tuple[int, ...], outputs: torch.Tensor) -> Evidence:
    known = outputs.numpy()
    return Evidence(known[:, :-1], known[:, -1], by_torch(string, outputs))


def needed(string: tuple[int, ...]) -> int:
    return len(string) + sum(one == other for one, other in itertools.pairwise(string))


def always(share: float) -> bool:
    return 0 <= share <= 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, LETTERS - 1), max_size=6).map(tuple), st.integers(1, 14), st.integers(0, 5))
def test_occupancies_are_those_in_the_gradient_of_torch(string: tuple[int, ...], frames: int, seed: int) -> None:
    outputs = probabilities(frames, seed)
    heard = evidence((), outputs)
    passes = through(spelled(string, LETTERS), heard)
    assert passes.possible == (needed(string) <= frames)
    if passes.possible:
        np.testing.assert_allclose(passes.shares(heard), by_torch(string, outputs), atol=1e-10)
    else:
        assert misfit(string, heard) == np.inf


def test_the_derivative_is_that_of_finite_differences() -> None:
    generator = np.random.default_rng(0)
    heard = evidence((0, 1), probabilities(7, 1))
    letters, skips = generator.dirichlet(np.ones(LETTERS), 3), generator.uniform(0.2, 1, 3)
    before, after, bends = generator.uniform(size=7), generator.uniform(size=7), generator.normal(size=(7, 2))

    def shares(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        changed = letters.copy(), skips.copy()
        changed[0][1:], changed[1][1:] = values[: 2 * LETTERS].reshape(2, LETTERS), values[2 * LETTERS : -2]
        end = after * np.exp(bends @ values[-2:])
        return run(Spelling(*changed), heard, before=before, after=end).shares(heard).ravel()

    start = np.concatenate([letters[1:].ravel(), skips[1:], np.zeros(2)])
    steps = 1e-6 * np.eye(len(start))
    differences = np.stack([(shares(start + step) - shares(start - step)) / 2e-6 for step in steps], 1)
    passes = run(Spelling(letters, skips), heard, before=before, after=after)
    np.testing.assert_allclose(jacobian(passes, heard, 1, bends, 0.0), differences, atol=1e-7)


@pytest.mark.parametrize("frames", [3, 6])
def test_every_short_string_is_read_and_no_other_one_fits(frames: int) -> None:
    """All strings over three letters with up to three labels, one against the others."""
    outputs = probabilities(frames, 3, letters=3)
    strings = [s for n in range(4) for s in itertools.product(range(3), repeat=n) if needed(s) <= frames]
    for string in strings:
        heard = evidence(string, outputs)
        found = read(heard, going=always)
        assert found.labels == string
        assert found.certain
        others = [judged(other, heard) for other in strings if other != string]
        assert not any(other.certain for other in others)


@pytest.mark.parametrize("seed", range(3))
def test_long_strings_are_read_though_their_middle_is_blurred(seed: int) -> None:
    generator = np.random.default_rng(seed)
    string = tuple(int(label) for label in generator.integers(0, 9, 24))
    heard = evidence(string, probabilities(70, seed, letters=9))
    found = read(heard, going=always)
    assert found.labels == string
    assert found.certain
    swapped = (*string[:11], string[12], string[11], *string[13:])
    assert swapped == string or not judged(swapped, heard).certain


@pytest.mark.parametrize("seed", range(3))
def test_a_sharp_model_is_read_outright_and_put_right(seed: int) -> None:
    """Probabilities near 0 and 1, right or wrong, leave only a few places open."""
    generator = np.random.default_rng(seed)
    string = tuple(int(label) for label in generator.integers(0, 6, 10))
    heard = evidence(string, probabilities(40, seed, sharp=6.0, letters=6))
    assert heard.seen.max(1).mean() > 0.8
    found = read(heard, going=always)
    assert found.labels == string
    assert found.certain


def test_repairs_lead_from_nothing_to_the_string() -> None:
    string = (2, 0, 1, 3, 3, 1, 0, 2, 1)
    heard = evidence(string, probabilities(30, 1, sharp=1.5))
    assert outright(heard) != string
    assert repaired((), heard, going=lambda: True) == string
    assert repaired((1, 2), heard, going=lambda: False) == (1, 2)


def overcounted(string: tuple[int, ...], outputs: torch.Tensor, times: float) -> Evidence:
    """What a wrong divisor makes of an update: the errors that many times too large."""
    known = outputs.numpy()
    return Evidence(known[:, :-1], known[:, -1], known - times * (known - by_torch(string, outputs)))


@pytest.mark.parametrize(
    ("string", "outputs"),
    [
        ((0, 2, 1, 0, 2, 1, 2, 2, 0, 1, 0), probabilities(20, 844553, sharp=3.0, letters=3)),
        ((1, 1, 2, 1, 0, 1, 0, 1, 1), probabilities(13, 27, sharp=3.0)),
    ],
    ids=["too many are left", "too many are known"],
)
def test_labels_without_frames_for_them_end_the_reading(string: tuple[int, ...], outputs: torch.Tensor) -> None:
    """Regression: a way with more labels than frames went on for ever, one label after the other."""
    calls: list[float] = []
    heard = overcounted(string, outputs, 10.0)

    def going(share: float) -> bool:
        calls.append(share)
        assert len(calls) < 300, "it does not end"
        return True

    assert not read(heard, going=going).certain


def test_the_number_of_labels_that_are_left_is_found_from_far_too_many() -> None:
    string = (0, 1, 2, 0, 3, 1)
    reader = _Reader(evidence(string, probabilities(12, 2, sharp=1.5)), 1e-7, MANNERS[0])
    reader.left = 40
    assert reader.course(string[:3]).possible
    assert abs(reader.left - 3) <= 1


def test_a_stretch_has_frames_although_nothing_open_is_heard_before_the_horizon() -> None:
    """Regression: with labels known beyond the horizon the stretch was empty, and the reading crashed."""
    string = (0, 1, 2, 0, 3, 1)
    reader = _Reader(evidence(string, probabilities(30, 2, sharp=1.5)), 1e-2, MANNERS[0])
    passes = reader.course(string[:4])
    assert passes.occupancies()[:3, 9:].sum() < 1e-6
    assert len(reader.stretch(passes, string[:4], 2, None).evidence) == 2


@pytest.mark.parametrize(
    ("string", "frames", "seed", "times"),
    [((0, 0, 1, 0), 9, 903871, 3.0), ((1, 0, 1, 1, 1, 1), 11, 802364, 3.0)],
    ids=["short", "long"],
)
def test_a_wrong_divisor_proves_nothing(string: tuple[int, ...], frames: int, seed: int, times: float) -> None:
    """Regression: what it leaves of absent classes looked like noise, within which nearly any string fits."""
    heard = overcounted(string, probabilities(frames, seed, sharp=1.5, letters=2), times)
    assert not read(heard, going=always).certain


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6).map(tuple), min_size=1, max_size=5), st.integers(1, 9))
def test_many_strings_at_once_are_as_far_off_as_one_by_one(strings: list[tuple[int, ...]], frames: int) -> None:
    heard = evidence((0,), probabilities(frames, 4))
    together = missed(strings, heard)
    assert together.shape == (len(strings), frames)
    np.testing.assert_allclose(together.sum(1), [misfit(one, heard) for one in strings], atol=1e-10)


def test_a_beam_goes_through_strings_that_are_worse() -> None:
    """Where no single edit helps."""
    string = (2, 0, 1, 3, 3, 1, 0, 2, 1, 0, 3, 2)
    stuck = 0
    for seed in range(12):
        heard = evidence(string, probabilities(26, seed, sharp=3.0))
        alone = repaired(outright(heard), heard, going=lambda: True)
        stuck += alone != string
        assert beamed(alone, heard, where=worst, going=lambda: True) == string
    assert stuck > 0
    assert beamed(outright(heard), heard, where=first_and_worst, going=lambda: True) == string
    assert beamed((1, 2), heard, where=worst, going=lambda: False) == (1, 2)
    assert first_and_worst(np.array([0.0, 0.3, 0.0, 1.0, 0.2])) == [1, 3]
    assert worst(np.array([0.1, 0.9, 1.0, 0.9, 0.2, 0.3, 0.4])) == [2, 6]


@pytest.mark.parametrize("noise", [1e-3, 5e-3, 1.5e-2])
def test_noise_never_proves_a_neighbor_of_the_truth(noise: float) -> None:
    """Regression: of sharp models, strings with one label too many fit into what noise was allowed to explain."""
    string, proved = (2, 0, 1, 3, 3, 1, 0, 2, 1, 0, 3, 2), 0
    for seed in range(8):
        clean = evidence(string, probabilities(60, seed, sharp=4.0, letters=12))
        rough = noise * torch.randn(clean.seen.shape, generator=ls.Key(seed).generator(), dtype=torch.float64).numpy()
        heard = Evidence(clean.letters, clean.blank, clean.seen + rough, noise)
        proved += judged(string, heard).certain
        edits = neighbors(string, range(4))
        nearest = missed(edits, heard).sum(1).argsort()[:12]
        assert not any(judged(edits[place], heard).certain for place in nearest)
    assert proved >= (6 if noise < 0.01 else 0)


def test_neighbors_are_all_strings_one_edit_away() -> None:
    assert neighbors((), range(2)) == [(0,), (1,)]
    found = neighbors((0, 1), range(2))
    assert set(found) == {(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 1, 0), (1,), (0,), (1, 1), (0, 0), (1, 0)}
    assert len(found) == len(set(found))


def test_a_reader_that_is_stopped_says_what_it_has() -> None:
    string = (0, 1, 2, 3, 2, 1, 0, 1, 3, 0, 2, 3)
    heard = evidence(string, probabilities(40, 0))
    shares: list[float] = []

    def going(share: float) -> bool:
        shares.append(share)
        return max(shares) < 0.6

    found = read(heard, going=going)
    assert not found.certain
    assert found.labels == string[: len(found.labels)]
    assert 0 < len(found.labels) < len(string)


def model(hidden: int = 96, **options: Any) -> ls.Target:
    recipe = ls.DeepSpeech(hidden=hidden, context=CONTEXT, coefficients=FEATURES, **options)
    return recipe.build(ls.Frames(FEATURES), 8, key=ls.Key(0))


def utterances(*lengths: int) -> ls.Batch:
    """Random frames; transcripts of a third as many labels, 0 to 6, some of them doubled."""
    frames = [torch.randn(count, FEATURES, generator=ls.Key(count).generator()) for count in lengths]
    labels = [
        torch.randint(0, 7, (count // 3,), generator=ls.Key(count).child("said").generator()) for count in lengths
    ]
    padded = [torch.nn.utils.rnn.pad_sequence(one, batch_first=True) for one in (frames, labels)]
    return ls.Batch(*padded, torch.tensor(lengths), torch.tensor([len(one) for one in labels]))


def said(batch: ls.Batch) -> list[tuple[int, ...]]:
    return sorted(tuple(row[:n]) for row, n in zip(batch.labels.tolist(), batch.label_lengths.tolist(), strict=True))


def attacked(batch: ls.Batch, mechanism: Any, target: ls.Target) -> ls.Attempt[ls.Transcripts]:
    return ls.CtcTranscript().run(ls.observe(target, batch, mechanism, key=ls.Key(1)), key=ls.Key(2))


@pytest.mark.parametrize("reduction", list(ls.Reduction))
@pytest.mark.parametrize("lengths", [(20,), (12, 17)], ids=str)
@pytest.mark.parametrize("mechanism", [ls.FedSGD(), ls.FedSGD() >> ls.Clip(0.01)], ids=repr)
def test_the_transcripts_behind_one_update(lengths: tuple[int, ...], reduction: Any, mechanism: Any) -> None:
    batch = utterances(*lengths)
    attempt = attacked(batch, mechanism, model(reduction=reduction))
    assert sorted(attempt.claim.labels) == said(batch)
    assert attempt.certificate.holds
    assert attempt.claim.confidence.tolist() == [1.0] * len(lengths)


def fitted(batch: ls.Batch, steps: int, reduction: ls.Reduction) -> ls.Target:
    """A model that knows a batch by heart after some steps of Adam."""
    fresh = model(reduction=reduction)
    module = copy.deepcopy(fresh.module).requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        fresh.loss(module(batch.inputs), batch).backward()
        optimizer.step()
    return ls.Target(module, fresh.domain, fresh.classes, loss=fresh.loss)


@pytest.mark.parametrize("reduction", list(ls.Reduction))
def test_trained_weights_hide_no_transcript(reduction: ls.Reduction) -> None:
    """Half trained and by heart; an utterance of training, a new one, and batches."""
    for steps in (15, 80):
        target = fitted(utterances(15, 18), steps, reduction)
        for lengths in ((18,), (21,), (17, 20)):
            batch = utterances(*lengths)
            attempt = attacked(batch, ls.FedSGD(), target)
            assert sorted(attempt.claim.labels) == said(batch), (steps, lengths)
            assert attempt.certificate.holds
    hidden = attacked(utterances(15, 24), ls.FedSGD(), target)  # the first behind a gradient 10 000 times its own
    assert hidden.outcome is ls.Outcome.REFUSED
    assert "by heart" in hidden.sentence


@pytest.mark.parametrize("divisor", [1.0, 7.0, 33.3])
def test_what_the_loss_divides_by_is_told_by_what_stands_out_of_the_noise(divisor: float) -> None:
    """Regression: the errors of improbable classes are noise, and were taken for those of the labels that are held."""
    noise = 1e-6 / divisor
    for seed in range(6):
        outputs = probabilities(30, seed, sharp=6.0, letters=20)
        rough = noise * torch.randn(outputs.shape, generator=ls.Key(seed).generator(), dtype=torch.float64).numpy()
        errors = (outputs.numpy() - by_torch((3, 1, 4, 1, 5), outputs)) / divisor + rough
        found, deviation = Spoken(outputs.numpy(), errors, 20, noise).divisor()
        assert abs(found - divisor) < max(8 * deviation, 1e-9)
        assert deviation < 1e-3 * divisor
    silent = torch.tensor([[1e-9, 1e-9, 1.0]] * 4, dtype=torch.float64).numpy()
    assert Spoken(silent, np.zeros_like(silent), 2, noise).divisor()[1] == np.inf


def masks_of(seen: ls.Observation, batch: ls.Batch) -> dict[str, torch.Tensor]:
    """What each dropout layer multiplied the first utterance with, by running the client's pass again."""
    target, masks = as_run(seen.mechanism, seen.target), {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], returned: torch.Tensor) -> None:
            masks[name] = torch.where(given[0] == 0, torch.nan, returned / given[0])[0]

        module.register_forward_hook(hook)

    for name, module in target.module.named_modules():
        if isinstance(module, nn.Dropout):
            watch(name, module)
    with ls.Key(1).child("release").child("protocol").child("model").isolated():
        target.module(batch.inputs)
    return masks


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_what_dropout_dropped_is_peeled_off_exactly(rate: float) -> None:
    batch = utterances(20)
    seen = ls.observe(model(hidden=128), batch, ls.FedSGD() >> ls.Dropout(rate), key=ls.Key(1))
    found = peeled(seen, [batch.inputs[0]])
    truth = masks_of(seen, batch)
    assert list(found.masks) == ["dropout_1", "dropout_2", "dropout_3", "dropout_5"]
    assert found.worst < 1e-6
    for name, mask in found.masks.items():
        active = ~truth[name].isnan()
        np.testing.assert_allclose(mask[active], truth[name][active], rtol=1e-6)
        assert 0.5 * rate < (mask[active] == 0).double().mean() < 1.5 * rate


def test_a_wrong_entry_is_found_by_the_layer_that_it_feeds() -> None:
    """Where the errors cannot tell: an entry that is taken for dropped at first is put right."""
    generator = np.random.default_rng(0)
    units, errors = np.abs(generator.normal(size=(12, 40))), generator.normal(size=(12, 30))
    truth = generator.uniform(size=units.shape) > 0.2
    start = truth.copy()
    for place in [(0, 3), (5, 7), (11, 30)]:
        start[place] ^= True
    kept, residual = settled(Entries(units, start, np.ones_like(truth)), (units * truth).T @ errors)
    assert residual < 1e-12
    np.testing.assert_array_equal(kept, truth)


def test_transcripts_through_dropout() -> None:
    batch = utterances(12, 17)
    attempt = attacked(batch, ls.FedSGD() >> ls.Dropout(0.2), model(hidden=128))
    assert sorted(attempt.claim.labels) == said(batch)
    assert attempt.certificate.holds
    assert "4 dropout layers" in attempt.steps[1]


def test_masks_that_cannot_be_told_are_refused() -> None:
    """More frames than the second layer has inputs: its errors are not determined, and so are not its masks."""
    attempt = attacked(utterances(24), ls.FedSGD() >> ls.Dropout(0.2), model(hidden=24))
    assert attempt.outcome is ls.Outcome.REFUSED


def test_without_the_output_layer_or_ctc_it_refuses() -> None:
    seen = ls.observe(model(), utterances(12), ls.FedSGD(), key=ls.Key(1))
    part = {name: value for name, value in seen.release.by_name.items() if not name.startswith("layer_6")}
    partial = ls.Observation(seen.target, ls.Gradient(part), seen.mechanism)
    refusal = ls.CtcTranscript().refusal(partial)
    assert refusal is not None
    assert "layer_6.weight" in refusal.sentence
    other = ls.Target(seen.target.module, seen.target.domain, seen.target.classes)
    refusal = ls.CtcTranscript().refusal(ls.Observation(other, seen.release, seen.mechanism))
    assert refusal is not None
    assert "CTC" in refusal.sentence


def test_under_noise_nothing_is_proved() -> None:
    """The frames survive this noise as claims, the occupancies do not."""
    seen = ls.observe(model(), utterances(20), ls.FedSGD(), key=ls.Key(1))
    noise = {
        name: 0.02 * value.std() * torch.randn(value.shape, generator=ls.Key(3).generator())
        for name, value in seen.release.by_name.items()
    }
    noisy = {n: v + noise[n] if n.startswith("layer_6") else v for n, v in seen.release.by_name.items()}
    attempt = ls.CtcTranscript().run(ls.Observation(seen.target, ls.Gradient(noisy), seen.mechanism), key=ls.Key(2))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "known to" in attempt.sentence


def test_more_frames_than_inputs_of_the_output_layer_are_refused() -> None:
    attempt = attacked(utterances(24), ls.FedSGD(), model(hidden=16))
    assert attempt.outcome is ls.Outcome.REFUSED


def test_no_strings_at_all_are_missed_by_nothing() -> None:
    heard = Evidence(np.full((5, 2), 0.1), np.full(5, 0.8), np.full((5, 3), 1 / 3), noise=0.01)
    assert missed((), heard).shape == (0, 5)
    assert missed(((),), heard).shape == (1, 5)


def test_a_layer_that_fed_nothing_on_leaves_its_masks_as_they_are() -> None:
    units = np.ones((3, 8))
    kept, residual = settled(Entries(units, units > 0, np.ones((3, 8), bool)), np.zeros((8, 4)))
    assert kept.all()
    assert residual == 0.0


class Own(nn.Module):
    """Somebody's recognizer of five classes: windows of three frames, two dense layers, one dropout layer for both."""

    def __init__(self, rate: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.first, self.second, self.out = nn.Linear(3 * FEATURES, 64), nn.Linear(64, 40), nn.Linear(40, 5)
        self.drop = nn.Dropout(rate)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        around = F.pad(frames, (0, 0, 1, 1)).unfold(1, 3, 1).transpose(2, 3).flatten(2)
        return self.out(self.drop(torch.relu(self.second(self.drop(torch.relu(self.first(around)))))))


def sent(net: nn.Module, frames: torch.Tensor, labels: list[int], blank: int) -> ls.Observation:
    logits, y = net(frames[None])[0].log_softmax(1)[:, None], torch.tensor([labels])
    loss = F.ctc_loss(logits, y, [len(frames)], [len(labels)], blank, "sum")
    slopes = torch.autograd.grad(loss, tuple(net.parameters()))
    update = dict(zip(dict(net.named_parameters()), slopes, strict=True))
    target = ls.Target(net, ls.Frames(FEATURES), 5, loss=ls.CTC(blank=blank), training=net.training)
    return ls.Observation(target, ls.Gradient(update), ls.FedSGD(), (ls.BatchSize(1),))


@pytest.mark.parametrize("blank", [0, 2, 4])
def test_labels_are_the_models_own_wherever_it_has_its_blank(blank: int) -> None:
    for seed in range(3):
        with ls.Key(seed).isolated():
            net, frames = Own().eval(), torch.randn(10, FEATURES).cumsum(0)
        labels = [label for label in (3, 1, 4, 0) if label != blank][:3]
        attempt = ls.CtcTranscript().run(sent(net, frames, labels, blank), key=ls.Key(1))
        assert attempt.claim is not None, attempt.sentence
        assert attempt.claim.labels == (tuple(labels),)
        assert attempt.certificate.holds


def test_a_dropout_layer_that_is_called_twice_is_refused() -> None:
    with ls.Key(3).isolated():
        net, frames = Own(0.2).train(), torch.randn(10, FEATURES).cumsum(0)
        seen = sent(net, frames, [1, 2], 4)
    attempt = ls.CtcTranscript().run(seen, key=ls.Key(1))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "called 2 times" in attempt.sentence
