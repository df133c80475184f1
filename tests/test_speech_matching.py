"""Gradient matching of speech: what is known, every mode of the original, distances and beliefs by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tolerance import close_trees

import leakscope as ls
from leakscope.attacks.inputs.frames.window.true_lengths import frame_lengths
from leakscope.attacks.inputs.matching.objective import objective, rows_apart, splits
from leakscope.attacks.parts.labeling.labeling import Spelled
from leakscope.attacks.parts.labeling.spelling import AbstractSpelling
from leakscope.attacks.parts.search.direct import all_losses
from leakscope.attacks.parts.search.directions import By, steps_along
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.transcripts.matching.soft import _Expected
from leakscope.attacks.wrapped.at_rest import silent, units_at_rest
from leakscope.cli.config import read
from leakscope.cli.scalars import scalars
from leakscope.core.effort import Progress
from leakscope.core.refusal import Refusal
from leakscope.targets.restricted import only

ROOT = Path(__file__).parents[1]
TARGET = ls.DeepSpeech(hidden=16, context=2, coefficients=4, dropout=0.3).build(ls.Frames(4), 6, key=ls.Key(0))
SEARCH = ls.DirectSearch(iterations=200, directions=7, shrink=ls.Shrink(steps=25, smallest=0.05))
LAST = ("layer_6.*",)


def said(*counts: int, seed: int = 0) -> ls.Batch:
    """Utterances of so many frames, with transcripts of two and three characters in turn."""
    lengths = torch.tensor(counts)
    frames = 3 * torch.randn(len(counts), max(counts), 4, generator=ls.Key(seed).child("said").generator())
    inside = torch.arange(max(counts)) < lengths[:, None]
    labels = torch.tensor([[1, 2, 4] if place % 2 else [3, 1, 0] for place in range(len(counts))])
    return ls.Batch(
        frames * inside[..., None], labels, lengths, torch.tensor([3 - place % 2 for place in range(len(counts))])
    )


def transcripts(batch: ls.Batch) -> tuple[tuple[int, ...], ...]:
    return Spelled(batch.labels, batch.label_lengths).transcripts()


def observed(batch: ls.Batch, mechanism: Any = None, *, tell: Sequence[str] = ("lengths", "words")) -> ls.Observation:
    facts: list[Any] = [ls.BatchSize(len(batch))]
    facts += [ls.Lengths(tuple(batch.lengths.tolist()))] if "lengths" in tell else []
    facts += [ls.TrueTranscripts(transcripts(batch))] if "words" in tell else []
    return ls.observe(TARGET, batch, mechanism or ls.FedSGD(), key=ls.Key(0), tell=facts)


def fell(attempt: ls.Attempt[Any], *, to: float) -> bool:
    return attempt.outcome is ls.Outcome.CLAIMED and min(attempt.trace.losses) < to * attempt.trace.losses[0]


# --- what is known ---------------------------------------------------------------------------------------------------


def test_lengths_are_told_or_read_off_the_first_layer() -> None:
    assert frame_lengths(observed(said(7), tell=())) == (7,)
    assert frame_lengths(observed(said(4, 3), tell=())) == (3, 4)
    noisy = observed(said(7), ls.FedSGD() >> ls.GaussianNoise(0.5), tell=("words",))
    refusal = ls.hessian_free(search=SEARCH).refusal(noisy)
    assert refusal is not None
    assert refusal.sentence.endswith("or tell Lengths")
    with pytest.raises(ls.BadInput, match="the utterances have"):
        ls.observe(TARGET, said(7), ls.FedSGD(), key=ls.Key(0), tell=[ls.Lengths((6,))])
    with pytest.raises(ls.BadInput, match="the transcripts are others"):
        ls.observe(TARGET, said(7), ls.FedSGD(), key=ls.Key(0), tell=[ls.TrueTranscripts(((1,),))])


def test_the_truth_has_no_loss_and_padding_is_never_moved() -> None:
    batch = said(6, 4)
    seen = observed(batch)
    attack = ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=10), layers=("*",), euclidean=True)
    problem, objective = attack._problem(seen, Spelled(batch.labels, batch.label_lengths), ls.Key(0))
    assert float(objective({"inputs": batch.inputs})) == pytest.approx(0, abs=1e-4)
    noise = torch.where(batch.inputs == 0, 7.0, batch.inputs)
    assert float(objective({"inputs": noise})) == float(objective({"inputs": batch.inputs}))
    slope = torch.func.grad(problem.value)({"inputs": batch.inputs + 0.1})["inputs"]
    assert bool((slope[1, 4:] == 0).all())
    assert bool((slope[1, :4] != 0).any())
    claim = attack.run(seen, key=ls.Key(0)).claim
    assert claim.lengths.tolist() == [6, 4]
    assert bool((claim.values[1, 4:] == 0).all())


def test_the_longest_transcript_goes_to_the_longest_utterance_when_only_words_are_told() -> None:
    """Begun at the truth, the loss is zero if and only if each utterance has its own words."""
    frames = said(5, 3)
    batch = ls.Batch(frames.inputs, torch.tensor([[2, 1, 0], [1, 3, 0]]), frames.lengths, torch.tensor([3, 2]))
    attack = ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=3))
    begun = dataclasses.replace(attack, start=ls.Claimed(ls.WindowedFrames()))
    attempt = begun.run(observed(batch, tell=("words",)), key=ls.Key(0))
    assert attempt.trace.losses[0] < 1e-5
    assert attack.run(observed(batch, tell=("words",)), key=ls.Key(0)).claim.lengths.tolist() == [3, 5]


# --- the modes of the original, each of which lowers its loss ---------------------------------------------------------

ONE = ("lengths", "words")
MODES: dict[str, tuple[Any, Any, tuple[int, ...], tuple[str, ...]]] = {
    "frames": (ls.hessian_free(search=SEARCH), ls.FedSGD(), (4,), ONE),
    "norm": (ls.hessian_free(search=SEARCH, euclidean=True), ls.FedSGD(), (4,), ONE),
    "coefficients": (ls.coefficient_search(iterations=200, directions=7), ls.FedSGD(), (4,), ONE),
    "line search": (ls.hessian_free(search=dataclasses.replace(SEARCH, take=ls.Take.LINE)), ls.FedSGD(), (4,), ONE),
    "batch, one at a time": (ls.hessian_free_batch(iterations=200, directions=7), ls.FedSGD(), (4, 4), ONE),
    "batch, together, two layers": (
        ls.hessian_free(search=SEARCH, layers=("layer_5.*", *LAST), euclidean=True), ls.FedSGD(), (4, 3), ONE,
    ),
    "local steps": (
        ls.hessian_free(search=dataclasses.replace(SEARCH, directions=3)), ls.FedAvg(steps=2, lr=1e-3), (4,), ONE,
    ),
    "clip and noise": (
        ls.hessian_free(search=SEARCH), ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(1e-4), (4,), ONE,
    ),
    "dropout": (ls.AtRest(ls.hessian_free(search=SEARCH)), ls.FedSGD() >> ls.Dropout(0.1), (4,), ONE),
    "some frames": (ls.hessian_free(search=SEARCH, space=ls.SomeFrames(2, ls.Where.END)), ls.FedSGD(), (4,), ONE),
    "random transcript": (ls.hessian_free(search=SEARCH, labeling=ls.Guessed()), ls.FedSGD(), (5,), ()),
    "both, characters": (ls.hessian_free(search=SEARCH, labeling=ls.Edits()), ls.FedSGD(), (5,), ()),
    "both, list": (ls.hessian_free(search=SEARCH, labeling=ls.Listed(("ca", "b", "aa"), 2)), ls.FedSGD(), (5,), ()),
    "both, beam": (
        ls.hessian_free(search=SEARCH, labeling=ls.Edits(40, width=3, rounds=2, resize=True)), ls.FedSGD(), (5,), (),
    ),
    "first order": (ls.speech_matching(steps=200), ls.FedSGD(), (4,), ONE),
    "first order, both": (ls.speech_matching(steps=60, labeling=ls.Edits(20)), ls.FedSGD(), (5,), ()),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_and_lowers_its_loss(mode: str) -> None:
    attack, mechanism, counts, tell = MODES[mode]
    attempt = attack.run(observed(said(*counts), mechanism, tell=tell), key=ls.Key(1))
    # a wrong transcript, dropout that is not replayed and two of five frames leave a floor
    hard = {"random transcript", "dropout", "some frames", "both, list", "first order, both"}
    assert fell(attempt, to=0.97 if mode in hard else 0.7), attempt.sentence


def test_transcripts_are_found_with_the_frames_of_another_attack(tmp_path: Path) -> None:
    batch = said(6)
    attack = ls.TranscriptMatching(spelling=ls.Edits(width=4, rounds=2, resize=True), rounds=25)
    whole = attack.run(observed(batch, tell=()), key=ls.Key(1))
    assert whole.claim.labels == transcripts(batch)
    listed = ls.TranscriptMatching(spelling=ls.Listed(("ba", "c a", "ac", "ca ")), rounds=3)
    assert listed.run(observed(batch, tell=()), key=ls.Key(1)).claim.labels == transcripts(batch)

    def impatient(progress: Progress) -> None:
        if progress.fraction > 0.1:
            raise KeyboardInterrupt

    file = StateFile(tmp_path / "state", every=0)
    stopped = attack.run(observed(batch, tell=()), key=ls.Key(1), watch=impatient, checkpoint=file)
    assert stopped.outcome is ls.Outcome.INTERRUPTED
    resumed = attack.run(observed(batch, tell=()), key=ls.Key(1), checkpoint=StateFile(tmp_path / "state"))
    assert (resumed.claim.labels, resumed.trace) == (whole.claim.labels, resumed.trace)
    assert resumed.trace.losses == whole.trace.losses


SOFT = ls.SoftTranscript(iterations=200, directions=7, width=10, paths=5, shrink=ls.Shrink(steps=50, smallest=0.05))


def test_logits_of_a_transcript_are_searched_and_their_likeliest_string_is_found(tmp_path: Path) -> None:
    """The beam search mode of the original, on one utterance and on two in a batch; it goes on where it was stopped."""
    batch = said(5)
    # The best of three by its own loss: one search by random directions ends on a hill as roundings decide.
    attempts = [SOFT.run(observed(batch, tell=()), key=ls.Key(turn)) for turn in range(3)]
    attempt = min(attempts, key=lambda one: min(one.trace.losses))
    assert fell(attempt, to=0.1), attempt.sentence
    assert attempt.claim.labels == transcripts(batch)
    short = dataclasses.replace(SOFT, iterations=12)
    two = short.run(observed(said(5, 6), tell=()), key=ls.Key(1))
    assert fell(two, to=0.95), two.sentence
    whole = short.run(observed(batch, tell=()), key=ls.Key(1))

    def impatient(progress: Progress) -> None:
        if progress.fraction > 0.4:
            raise KeyboardInterrupt

    stopped = short.run(
        observed(batch, tell=()), key=ls.Key(1), watch=impatient, checkpoint=StateFile(tmp_path / "state", every=0)
    )
    assert stopped.outcome is ls.Outcome.INTERRUPTED
    resumed = short.run(observed(batch, tell=()), key=ls.Key(1), checkpoint=StateFile(tmp_path / "state"))
    assert resumed.claim.labels == whole.claim.labels
    np.testing.assert_allclose(resumed.trace.losses, whole.trace.losses, rtol=1e-3)


def test_the_update_of_soft_logits_is_that_of_the_expected_loss() -> None:
    """Against the client's own update of each string, weighted by hand; utterance by utterance."""
    batch = said(5, 4)
    seen = observed(batch)
    matched = objective(seen, ls.Layers(ls.Squared(), LAST), lambda x: x.new_zeros(()), ls.Pixels(), None)
    expected = _Expected(matched, batch.inputs, TARGET.classes - 1, width=10, paths=3)
    logits = 2 * torch.randn(1, 5, 6, generator=ls.Key(5).generator(), dtype=torch.float64)[0]
    found = expected.strings(1, logits)
    assert len(found) == 3
    assert sum(weight for _, weight in found) == pytest.approx(1)
    wanted = 0
    for string, weight in found:
        row = batch.rows(torch.tensor([1]))
        spelled = Spelled.of([string])
        one = ls.Batch(row.inputs, spelled.labels, row.lengths, spelled.lengths)
        update = ls.FedSGD().release(TARGET, one, key=ls.Key(0)).by_name
        wanted = wanted + weight * torch.cat([update[name].flatten() for name in matched.observed])
    updates, count = expected.updates(1, [logits, logits])
    assert count == 3
    torch.testing.assert_close(updates[0], wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(updates[0], updates[1])
    refusal = SOFT.refusal(observed(batch, ls.FedAvg(steps=2, lr=0.1)))
    assert refusal is not None
    assert "mean over utterances" in refusal.sentence
    with pytest.raises(ls.BadInput, match="paths >= 1"):
        ls.SoftTranscript(paths=0)


@pytest.mark.parametrize(("times", "plus", "frames"), [(1.0, 0, (5, 4)), (1.5, 0, (8, 6)), (1.0, -1, (4, 3))], ids=str)
def test_a_search_may_assume_a_wrong_number_of_frames(times: float, plus: int, frames: tuple[int, ...]) -> None:
    """inp_length_mul and inp_length_add of the original: told or found, the lengths are changed before the search."""
    inside = ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=5))
    attack = ls.AssumedLengths(inside, times=times, plus=plus)
    attempt = attack.run(observed(said(5, 4)), key=ls.Key(1))
    assert attempt.claim.lengths.tolist() == list(frames)
    assert attempt.steps[-1] == f"assumed {frames[0]}, {frames[1]} frames"
    found = attack.run(observed(said(5, 4), tell=("words",)), key=ls.Key(1)).claim
    assert sorted(found.lengths.tolist()) == sorted(frames)


def test_lengths_that_cannot_be_assumed_are_refused() -> None:
    refusal = ls.AssumedLengths(ls.hessian_free(), plus=-3).refusal(observed(said(5)))
    assert refusal == Refusal("2 frames are too few for a transcript that needs 3")
    with pytest.raises(ls.BadInput, match="times > 0"):
        ls.AssumedLengths(ls.hessian_free(), times=0.0)


def test_what_does_not_apply_is_refused_by_name() -> None:
    seen = observed(said(5))
    refused = {
        ls.GradientInversion(): "soft labels do not spell transcripts",
        ls.GradientInversion(labeling=ls.Edits(), search=ls.LBFGS()): "cannot follow",
        ls.hessian_free(labeling=ls.Listed(("z",))): "spells none of the listed texts",
        ls.hessian_free(labeling=ls.Inferred(ls.LabelSigns())): None,
    }
    for attack, why in refused.items():
        refusal = attack.refusal(seen)
        assert (refusal is None) if why is None else (refusal is not None and why in refusal.sentence)
    for mechanism in (ls.FedAvg(steps=2, lr=0.1), ls.FedSGD() >> ls.Clip(1.0)):
        refusal = ls.hessian_free_batch(iterations=2).refusal(observed(said(5, 4), mechanism))
        assert refusal is not None
        assert "mean over utterances" in refusal.sentence
    untold = ls.hessian_free().refusal(observed(said(5), tell=("lengths",)))
    assert untold == Refusal("needs to be told TrueTranscripts")


# --- oracles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [LAST, ("layer_5.*", *LAST)], ids=["one", "two"])
def test_losses_in_one_pass_are_those_of_whole_gradients_one_at_a_time(layers: tuple[str, ...]) -> None:
    """Restricted to some layers, batched, and beside cached utterances: always what `loss.backward()` gives."""
    batch = said(5, 4)
    seen = observed(batch)
    attack = ls.hessian_free(search=SEARCH, layers=layers, euclidean=True)
    problem, _ = attack._problem(seen, Spelled(batch.labels, batch.label_lengths), ls.Key(0))
    start = torch.rand(1, 2, 5, 4, generator=ls.Key(4).generator())
    unit = steps_along(start, By.FRAME, 6, free=problem.free, item=1, frames=1, key=ls.Key(0)).unit
    together = all_losses(problem, {"inputs": start}, {"inputs": unit})[0]
    assert problem.alone is not None
    row = problem.alone({"inputs": start[0]}, 1)
    names = [name for name in seen.release.by_name if name.startswith(("layer_5", "layer_6")[2 - len(layers) :])]
    inside = torch.arange(5) < batch.lengths[:, None]
    for k, change in enumerate([torch.zeros_like(unit[0, 0]), *unit[0]]):
        candidate = batch.with_inputs((start[0] + change) * inside[..., None])
        # the client's own route, through a trainable module
        whole = ls.FedSGD().release(TARGET, candidate, key=ls.Key(0)).by_name
        naive = math.sqrt(sum(float((whole[n] - seen.release.by_name[n]).square().sum()) for n in names))
        assert float(together[k]) == pytest.approx(naive, rel=1e-4)
        assert float(row((start[0] + change)[1])) == pytest.approx(naive, rel=1e-4)


def test_one_utterance_of_a_batch_counts_one_in_b() -> None:
    """Regression: the original replaces mean - old + new, not mean + (new - old) / B."""
    batch = said(5, 4, 3)
    seen = observed(batch)
    attack = ls.hessian_free(search=SEARCH, euclidean=True)
    problem, _ = attack._problem(seen, Spelled(batch.labels, batch.label_lengths), ls.Key(0))
    assert problem.alone is not None
    others = problem.alone({"inputs": batch.inputs}, 2)
    moved = batch.inputs.clone()
    moved[2] += 0.5
    one = ls.FedSGD().replay(TARGET, batch.rows(torch.tensor([2]))).by_name["layer_6.bias"]
    inside = (torch.arange(5) < 3)[:, None]
    changed = batch.rows(torch.tensor([2])).with_inputs((moved[2] * inside)[None])
    new = ls.FedSGD().replay(TARGET, changed).by_name
    old = ls.FedSGD().replay(TARGET, batch.rows(torch.tensor([2]))).by_name
    assert torch.equal(one, old["layer_6.bias"])
    difference = math.sqrt(
        sum(float(((new[n] - old[n]) / 3).square().sum()) for n in ("layer_6.weight", "layer_6.bias"))
    )
    assert float(others(moved[2])) == pytest.approx(difference, rel=1e-3)


MECHANISMS = [
    (ls.FedSGD(), True),
    (ls.FedSGD() >> ls.GaussianNoise(0.1), True),
    (ls.FedSGD() >> ls.Dropout(0.5), True),
    (ls.FedSGD() >> ls.Clip(0.1), True),
    (ls.FedSGD() >> ls.Prune(0.1), False),
    (ls.FedSGD() >> ls.Sign(), False),
    (ls.FedAvg(steps=2, lr=0.1), False),
]


@pytest.mark.parametrize(("mechanism", "apart"), MECHANISMS, ids=repr)
def test_layers_are_left_out_only_where_that_changes_nothing(mechanism: Any, apart: bool) -> None:
    assert splits(mechanism, ls.Cosine()) is apart
    assert splits(mechanism, ls.Squared()) is (apart and mechanism != ls.FedSGD() >> ls.Clip(0.1))
    seen = observed(said(5), mechanism)
    assert rows_apart(seen, ls.Cosine()) is apart
    attack = ls.GradientInversion(ls.Layers(ls.Cosine(), LAST), start=ls.Between(), labeling=ls.Told())
    _, objective = attack._problem(seen, Spelled(said(5).labels, said(5).label_lengths), ls.Key(0))
    candidate = ls.Batch(said(5, seed=3).inputs, said(5).labels, said(5).lengths, said(5).label_lengths)
    whole = mechanism.as_gradient(mechanism.replay(TARGET, candidate)).by_name
    wanted = ls.Layers(ls.Cosine(), LAST)(whole, seen.gradient().by_name)
    assert float(objective({"inputs": candidate.inputs})) == pytest.approx(float(wanted), rel=1e-4, abs=1e-6)


def test_part_of_a_model_has_the_gradient_of_the_whole() -> None:
    names = ["lstm.bias", "layer_6.weight"]
    part = only(TARGET, names)
    assert list(part.parameters()) == names
    whole = ls.FedSGD().replay(TARGET, said(5, 4)).by_name
    close_trees(ls.FedSGD().replay(part, said(5, 4)).by_name, {name: whole[name] for name in names})
    tied = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    tied[3].weight = tied[1].weight
    target = ls.Target(tied, ls.Images(1, 2, 2), 4)
    image = ls.Batch(torch.rand(1, 1, 2, 2, generator=ls.Key(0).generator()), torch.tensor([1]))
    both = ls.FedSGD().replay(target, image).by_name["1.weight"]
    close_trees(ls.FedSGD().replay(only(target, ["1.weight"]), image).by_name, {"1.weight": both})


def tree(seed: int) -> dict[str, torch.Tensor]:
    generator = ls.Key(seed).generator()
    return {"a": torch.randn(6, generator=generator), "b": torch.randn(3, 2, generator=generator)}


def numpy(seed: int) -> list[np.ndarray]:
    return [value.double().numpy().ravel() for value in tree(seed).values()]


def top(one: np.ndarray, share: float) -> np.ndarray:
    kept: np.ndarray = np.abs(one) >= np.sort(np.abs(one))[::-1][int(share * len(one)) - 1]
    return kept


def scaled(side: list[np.ndarray], most: float) -> list[np.ndarray]:
    return [one * min(1, most / np.linalg.norm(np.concatenate(side))) for one in side]


DISTANCES = {
    ls.Euclidean(): lambda g, s: np.linalg.norm(np.concatenate(g) - np.concatenate(s)),
    ls.LInfinity(): lambda g, s: sum(np.abs(a - b).max() for a, b in zip(g, s, strict=True)),
    ls.SquareRoot(): lambda g, s: sum(np.sqrt(np.abs(a - b)).sum() for a, b in zip(g, s, strict=True)),
    ls.TopGradients(ls.L1(), 0.5): lambda g, s: sum(
        np.abs(a - b)[top(b, 0.5)].sum() for a, b in zip(g, s, strict=True)
    ),
    ls.Clipped(ls.L1(), 0.5): lambda g, s: sum(
        np.abs(a - b).sum() for a, b in zip(scaled(g, 0.5), scaled(s, 0.5), strict=True)
    ),
    ls.Clipped(ls.L1(), 0.5, ls.Limit.VALUE): lambda g, s: sum(
        np.abs(a.clip(-0.5, 0.5) - b.clip(-0.5, 0.5)).sum() for a, b in zip(g, s, strict=True)
    ),
}


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_distances_by_hand(distance: Any) -> None:
    wanted = DISTANCES[distance](numpy(0), numpy(1))
    assert float(distance(tree(0), tree(1))) == pytest.approx(float(wanted), rel=1e-4)
    assert float(distance(tree(1), tree(1))) == pytest.approx(0, abs=1e-5)
    slope = torch.func.grad(lambda g: distance(g, tree(1)))
    assert all(bool(torch.isfinite(value).all()) for at in (0, 1) for value in slope(tree(at)).values())


def test_dropped_top_gradients_are_a_fixed_part_of_the_top() -> None:
    ones, big = {"a": torch.ones(100)}, {"a": 1 + torch.arange(100.0) / 100}
    half, fewer = ls.TopGradients(ls.L1(), 0.5), ls.TopGradients(ls.L1(), 0.5, drop=0.2)
    assert float(half({"a": big["a"] + 1}, big)) == pytest.approx(50)
    assert float(fewer({"a": big["a"] + 1}, big)) == pytest.approx(40)
    assert float(fewer(ones, big)) == float(fewer(ones, big))
    assert float(fewer(ones, big)) != float(dataclasses.replace(fewer, seed=1)(ones, big))


def test_priors_by_hand_on_real_frames_only() -> None:
    batch = said(5, 3)
    seen = observed(batch)
    padded = torch.where(batch.inputs == 0, 9.0, batch.inputs)
    frames = [row[:n].double().numpy() for row, n in zip(padded, (5, 3), strict=True)]
    variation = [np.abs(np.diff(x, axis=0)).mean() for x in frames]
    wanted = {
        ls.Variation(): variation,
        ls.NormalizedVariation(): [v / np.abs(x - x.mean(0)).mean() for v, x in zip(variation, frames, strict=True)],
        ls.Variance(): [x.var(0).mean() for x in frames],
        ls.TimeMean(): [np.linalg.norm(x.mean(0)) for x in frames],
        ls.TimeMean(ls.Order.MAX): [np.abs(x.mean(0)).max() for x in frames],
    }
    for prior, each in wanted.items():
        assert float(prior.penalty(seen)(padded)) == pytest.approx(np.mean(each), rel=1e-5), prior
    alone = ls.Observation(seen.target, seen.release, seen.mechanism, (ls.Lengths((1,)),))
    assert float(ls.Variation().penalty(alone)(torch.rand(1, 5, 4, generator=ls.Key(0).generator()))) == 0


def test_starts_and_spaces_of_sequences() -> None:
    like = torch.zeros(2, 3, 7, 4)
    domain = TARGET.domain
    drawn = ls.Between(-0.5, 2.0).draw(like, domain, key=ls.Key(0))
    assert -0.5 <= float(drawn.min()) < -0.3
    assert 1.8 < float(drawn.max()) <= 2.0
    same = ls.Repeated().draw(like, domain, key=ls.Key(0))
    assert torch.equal(same, same[..., :1, :].expand(like.shape))
    assert len(same.unique()) == 2 * 3 * 4
    lengths = torch.tensor([7, 3, 1])
    for where, first in (("start", [0, 1]), ("end", [5, 6]), ("spread", [0, 3])):
        chosen = ls.SomeFrames(2, ls.Where(where)).searched(lengths, 7)
        assert chosen[0].nonzero().flatten().tolist() == first
        assert chosen.sum(1).tolist() == [2, 2, 1]
    random = [ls.SomeFrames(2, ls.Where.RANDOM, seed=seed).searched(lengths, 7) for seed in range(9)]
    assert len({tuple(one.flatten().tolist()) for one in random}) > 3
    assert all(one.sum(1).tolist() == [2, 2, 1] and not one[1, 3:].any() for one in random)


@pytest.mark.parametrize("where", list(ls.Where), ids=repr)
def test_part_of_an_utterance_is_searched_and_the_rest_stays(where: ls.Where) -> None:
    """Regression: partial reconstruction runs, and moves only the frames that it says."""
    seen = observed(said(5))
    space = ls.SomeFrames(2, where)
    for attack in (ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=30)), ls.speech_matching(steps=10)):
        begun = dataclasses.replace(attack, space=space, start=ls.Between(0.5, 0.5))
        values = begun.run(seen, key=ls.Key(0)).claim.values[0]
        moved = (values != 0.5).any(1)
        assert moved.tolist() == space.searched(torch.tensor([5]), 5)[0].tolist()


def test_an_exact_attack_begins_and_a_search_goes_on() -> None:
    batch = said(4, 5)
    seen = observed(batch)
    attack = ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=2))
    begun = dataclasses.replace(attack, start=ls.Claimed(ls.WindowedFrames()))
    start = begun.start.informed(seen, key=ls.Key(0), budget=ls.Budget())
    drawn = start.draw(torch.zeros(1, 2, 5, 4), TARGET.domain, key=ls.Key(0))[0]
    torch.testing.assert_close(drawn, batch.inputs, atol=1e-2, rtol=0)  # in the client's order, not the claim's
    noisy = ls.Claimed(ls.WindowedFrames(), noise=0.5).informed(seen, key=ls.Key(0), budget=ls.Budget())
    off = (noisy.draw(torch.zeros(1, 2, 5, 4), TARGET.domain, key=ls.Key(0))[0] - batch.inputs).abs()
    assert 0.4 < float(off.max()) <= 0.51
    hidden = observed(said(5), ls.FedSGD() >> ls.Sign())
    assert begun.run(hidden, key=ls.Key(0)).outcome is ls.Outcome.REFUSED


# --- transcripts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [ls.Edits(), ls.Edits(width=3, rounds=2, resize=True), ls.Listed(("ab", "cab", "b"), samples=2)],
    ids=repr,
)
def test_a_new_transcript_is_never_worse_and_always_legal(spelling: AbstractSpelling) -> None:
    seen = observed(said(5, 4), tell=("lengths",))
    now = spelling.labels(seen, key=ls.Key(0), budget=ls.Budget())
    assert isinstance(now, Spelled)
    goal = (4, 0, 1)

    def losses(tried: Spelled) -> torch.Tensor:
        return torch.tensor([
            float(sum(abs(len(one) - 3) + sum(a != b for a, b in zip(one, goal, strict=False)) for one in texts))
            for texts in (Spelled(tried.labels[c], tried.lengths[c]).transcripts() for c in range(len(tried.labels)))
        ])  # fmt: skip

    before = float(losses(Spelled(now.labels[None], now.lengths[None]))[0])
    for step in range(12):
        new = spelling.respelled(now, losses, seen=seen, key=ls.Key(step))
        after = float(losses(Spelled(new.labels[None], new.lengths[None]))[0])
        assert after <= before
        assert all(label != 5 for text in new.transcripts() for label in text), "no blank"
        assert all(len(text) <= n for text, n in zip(new.transcripts(), (5, 4), strict=True))
        before, now = after, new
    if isinstance(spelling, ls.Edits) and spelling.resize:
        assert now.transcripts() == (goal, goal)


def test_units_without_gradient_are_held_at_rest() -> None:
    """With one frame, what was dropped is known; silenced, the truth fits better than it does awake."""
    batch = said(1)
    batch = ls.Batch(batch.inputs, batch.labels, batch.lengths, torch.tensor([1]))
    mechanism = ls.FedSGD() >> ls.Dropout(0.3)
    seen = observed(batch, mechanism)
    rest = units_at_rest(TARGET, seen.release.by_name)
    assert "layer_6" not in rest
    for name, units in rest.items():
        assert bool((seen.release.by_name[f"{name}.weight"][units] == 0).all())
        assert bool((seen.release.by_name[f"{name}.weight"][~units] != 0).any(1).all())
    quieter = silent(TARGET, rest)
    assert quieter.parameters().keys() == TARGET.parameters().keys()
    candidate = ls.FedSGD().replay(quieter, batch).by_name
    awake = ls.FedSGD().replay(TARGET, batch).by_name
    assert all(bool((candidate[f"{name}.bias"][units] == 0).all()) for name, units in rest.items())
    assert float(ls.Cosine()(candidate, seen.release.by_name)) < 0.5 * float(ls.Cosine()(awake, seen.release.by_name))
    assert silent(TARGET, {}) is TARGET


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "plans" / "speech").glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_of_the_original_can_be_planned(path: Path) -> None:
    plan = read(path)
    groups = plan.groups()
    assert groups
    assert {group.scene.source.domain for group in groups} == {ls.Frames(26)}
    assert all(cell.identity for cell in plan.cells())
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_is_a_plan_for_every_family_of_experiments() -> None:
    stems = {path.stem for path in (ROOT / "plans" / "speech").glob("*.toml")}
    assert {
        "single", "long", "two-layers", "trained", "local-steps", "noise", "dropout", "batches", "words", "frames",
    } <= stems  # fmt: skip


def test_a_search_writes_its_scalars_for_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen, heard = observed(said(4)), []
    attack = dataclasses.replace(
        ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=50, directions=3)), prior=0.1 * ls.Variation()
    )
    with scalars(tmp_path, "search", heard.append) as watch:
        watched = attack.run(seen, key=ls.Key(1), watch=watch)
    events = accumulator.EventAccumulator(str(tmp_path / "search")).Reload()
    assert {"loss", "step", "step size", "distance", "prior"} <= set(events.Tags()["scalars"])
    written = {name: [one.value for one in events.Scalars(name)] for name in ("loss", "distance", "prior")}
    assert [one.step for one in events.Scalars("loss")] == [4, 84, 164] == [said.evaluations for said in heard]
    np.testing.assert_allclose(written["loss"], np.add(written["distance"], written["prior"]), rtol=1e-4)
    unwatched = attack.run(seen, key=ls.Key(1))
    assert torch.equal(watched.claim.values, unwatched.claim.values)
    with scalars(None, "search", heard.append) as watch:
        assert watch == heard.append


def test_zeros_of_a_defense_put_no_unit_at_rest() -> None:
    """A pruned row looks like that of a unit that was dropped."""
    attack = ls.AtRest(ls.hessian_free(search=dataclasses.replace(SEARCH, iterations=1)))
    pruned = attack.run(observed(said(4), ls.FedSGD() >> ls.Prune(0.05), tell=ONE), key=ls.Key(1))
    assert "units at rest: none" in pruned.steps
    dropped = attack.run(observed(said(4), ls.FedSGD() >> ls.Dropout(0.1), tell=ONE), key=ls.Key(1))
    assert "units at rest: none" not in dropped.steps
