"""Labels of a batch from the output layer alone: proved, replayed, or not excluded, and never one for the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.labels.rows.behind_noise import LEVEL, Fallen, fallen
from leakscope.attacks.labels.rows.excluded import Excluded, excluded
from leakscope.attacks.labels.rows.known_rows import known_rows, told_rows
from leakscope.attacks.labels.rows.row_space import FULLEST, RowSpace, row_space
from leakscope.attacks.labels.rows.signed import (
    SIGNED,
    SIGNED_BENT,
    SMOOTHED,
    Signed,
    overdrawn,
    proved_counts,
    signed,
)
from leakscope.attacks.labels.rows.taken_apart import ONE, RATIO, SPENT, UNEVEN, Apart, take_apart
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output
from leakscope.attacks.parts.reading.proof import bent, miscounted, strange, undeclared
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import Gradient
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, clipped, evenly, keeps_ratios, known_weights, noise, rounds
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import features_at, probe_inputs

Array = NDArray[np.float64]

MOST = 1e-2
"""Largest relative residual of a row that is taken for a replay, however noisy the update is."""
BALANCE = 1e-3
"""Relative distance of the rows' sum from the bias gradient that is rounding."""
OPEN = float("inf")
"""The residual of an item that is claimed and not proved."""
SURE = SMOOTHED
"""Of a class that is not there such smoothing makes a negative entry N s / C as deep as that of one label of which the
model knows nothing; of others the scale alone tells (`firm`)."""
BLURRED = 3e-3
"""Declared noise, in units of the gradient's root mean square, beyond which rows are not looked for; at a hundredth
none are found."""
LARGER = 10.0
"""How many times longer than those of noise the features of a sample may be."""
REPLAYED = (
    "distance of each sample's error softmax(W h + b) - e_y from the row space of dL/dW, and all samples together give "
    "dL/dW and dL/db again; how often each occurs is given the declared loss, in which all weigh alike"
)
REPEATED = (
    "a batch in which all of them occur twice, or more often, or several that are equal to within rounding stand for "
    "each, has the same mean gradient"
)
"""What nothing contradicts where the batch size is not told."""
UNSEEN = "behind a clip, samples that leave no error are not among them"
"""What no share tells where only the gradient's direction was sent and the batch size is not told."""
UNBALANCED = 1e-5
"""Relative sum of the classes' rows of dL/dW beyond rounding of float32: something was added to the cross entropy's."""


@final
@dataclass(frozen=True, eq=False)
class Revealing:
    """output: what was sent of the output layer. space: of its weight gradient, or why there is none. signs: T3.
    tests: what takes the place of signs behind noise."""

    output: OutputGradient
    space: RowSpace | str
    signs: Signed | None
    tests: Fallen | None


@final
@dataclass(frozen=True)
class RevealedLabels(AbstractAttack[Revealing, Labels]):
    """Every label from dL/dW (C, d) = (1/N) sum_s (p_s - e_(y_s)) h_s^T of the output layer, N < min(d, C).

    Three grades. *Replayed*: with the weights known, each sample's error p_s - e_(y_s) is the one solution of
    softmax(W h + b) - e_y in the row space, h in the column space, which gives label, features, how many samples are
    alike, and N itself; together they give the update again (`rows.taken_apart`). *Proved*: a negative entry of
    dL/db, or of dL/dW where features are never negative, is made by a label of its class and by nothing else
    (`rows.signed`). *Not excluded*: of the row space alone, what no combination contradicts (`rows.excluded`); the
    others are `absent`, for hard labels and where there are as many samples as its rank. Behind declared noise a test
    takes the place of signs (`rows.behind_noise`): a statistic, right for all classes together with probability 0.99.
    Works on sums over local steps too, at weights that moved, for the last two grades. Neither batch size nor rank need
    be told. weights: False leaves the first grade out, as for somebody who sees updates and not the model.
    Refuses without a dense output layer under cross entropy, and where as many samples as it can tell apart are there.
    Source: Dang et al. 2021 (arXiv:2111.00556) for the last grade; the other two follow from the gradient's equation.
    """

    weights: bool = True

    @property
    def citation(self) -> str:
        """Dang et al. 2021."""
        return citations.RLG

    def _read(self, seen: Observation) -> Revealing | Refusal:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        space: RowSpace | str = "the output layer's weight gradient was not sent"
        if output.weight is not None:
            # A fixed key: whether an attack refuses may not depend on the trial's.
            space = row_space(output.weight.cpu().numpy().T, Key(0).child("rows").numpy())
        signs, tests = signed(seen, output), fallen(seen, output)
        if isinstance(space, str) and signs is None and tests is None:
            return Refusal(f"{space}, and no sign of it is sure")
        return Revealing(output, space, signs, tests)

    def _attempt(self, seen: Observation, read: Revealing, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Labels]:
        tries = 0

        def stop() -> bool:
            nonlocal tries
            tries += 1
            watch(Progress(clock.fraction(tries, 1000), 0.0, f"{tries} rows tried"))
            return clock.exhausted(tries)

        apart = samples_apart(seen, read, key, stop) if self.weights else "the weights are not known"
        # Samples that could come apart and did not may be those of another loss, whose signs prove nothing.
        unlike = apart if isinstance(apart, str) and self.weights and inseparable(seen, read) is None else None
        if isinstance(apart, Apart):
            attempt = self.replayed(seen, read, apart)
            # Levels blur rows more than they do signs, which may still prove.
            if attempt.certified or rounds(seen.mechanism) is Answer.NO:
                return attempt
        # No sign is sure behind noise, and its row space is not that of samples.
        if read.signs is None and read.tests is not None and read.tests.present.any():
            return self._tested(read.tests)
        return self._graded(seen, read, stop, unlike)

    def _tested(self, tests: Fallen) -> Attempt[Labels]:
        """The classes that noise alone would hardly make so low."""
        values = np.flatnonzero(tests.present)
        sentence = (
            f"{len(values)} classes lie lower in {tests.read} than the declared noise makes any absent one in "
            f"{LEVEL:.0%} of all batches: a statistic, no proof"
        )
        sure = torch.from_numpy(1 - tests.chance[values])
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(torch.from_numpy(values), sure, distinct=True))

    def replayed(self, seen: Observation, read: Revealing, apart: Apart) -> Attempt[Labels]:
        """The labels of all samples, each of which replays; with a certificate unless something speaks against it."""
        residuals = [one.misfit for one, times in zip(apart.rows, apart.times, strict=True) for _ in range(times)]
        most = [min(RATIO * one.expected + 1e-4, MOST) for one in apart.rows]
        tolerances = [most[place] for place, times in enumerate(apart.times) for _ in range(times)]
        labels = [one.label for one, times in zip(apart.rows, apart.times, strict=True) for _ in range(times)]
        why = _doubted(seen, read, apart)
        order = np.argsort(np.array(labels), kind="stable")
        certificate = None
        if why is None:
            stated = "; ".join([REPLAYED, *_untold(seen)])
            certificate = Certificate(tuple(residuals[i] for i in order), tuple(tolerances[i] for i in order), stated)
        sure = torch.ones(len(labels)) if certificate is not None and certificate.holds else None
        samples = apart.samples
        sentence = (
            f"{apart.count} samples, apart to {max(residuals):.0e} of the row space, replay the output layer's gradient"
        )
        if abs(samples - apart.count) > 0.05 * samples:
            sentence += f"; it is {apart.count / samples:.3g} times their mean"
        if why is not None:
            sentence += f"; no proof: {why}"
        values = torch.tensor([labels[i] for i in order], dtype=torch.int64)
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(values, sure), certificate)

    def _graded(
        self, seen: Observation, read: Revealing, stop: Callable[[], bool], unlike: str | None
    ) -> Attempt[Labels]:
        """Sets: those that signs prove and, of the row space, those that it does not exclude.

        unlike: why the samples are not those of the declared loss although they could be told apart, or None.
        """
        there = None if read.signs is None else read.signs.present
        told = seen.told(BatchSize).count if seen.knows(BatchSize) else None
        out: Excluded | None = None
        # A bent update's row space is not that of samples, and excludes whatever noise leaves out.
        if isinstance(read.space, RowSpace) and bent(seen) is None and read.output.smoothing == 0:
            out = excluded(read.space, stop)
        if out is not None and not bool((~out.absent).any()):
            out = None
        counts = self._counts(seen, read, told)
        if counts is not None:
            return counts
        possible = np.zeros(read.output.layer.outputs, bool)
        if out is not None:
            possible |= ~out.absent
        # A sign outweighs what rounding of the row space left out.
        if there is not None:
            possible |= there
        if not possible.any():
            return Attempt(repr(self), Outcome.DIVERGED, "no class stands out: signs and row space were destroyed")
        values = np.flatnonzero(possible)
        why = _unsigned(seen, read, told)
        if why is None and unlike is not None:
            why = f"{unlike}, and of another loss than the declared one a sign is no proof"
        proofs = None if read.signs is None or why is not None else _proofs(seen, read.signs, values, told or 0)
        absent = None
        whole = known_weights(seen.mechanism) is Answer.YES and strange(seen) is None and unlike is None
        # A sign no deeper than smoothing makes speaks for smoothing, and not for hard labels.
        whole = whole and (read.signs is None or bool((read.signs.firm[read.signs.present] > 0).all()))
        # T1 asks for every error in the row space: of as many samples as it has directions.
        if (
            out is not None
            and isinstance(read.space, RowSpace)
            and told == read.space.rank
            and whole
            and _unsure(seen, read)
            and _balanced(read.output)
            # Of hard labels no more classes have a negative entry than there are examples; smoothed ones give all one.
            and (there is None or int(there.sum()) <= (told or 0))
            # What no sample of hard labels has, and a sign says is there, contradicts hard labels.
            and (there is None or not bool((out.proved(read.space) & there).any()))
        ):
            absent = torch.from_numpy(np.flatnonzero(out.proved(read.space) & ~possible))
        sure = None
        if proofs is not None and any(proofs.proved):
            sure = torch.tensor([1.0 if one else float("nan") for one in proofs.proved])
        else:
            proofs = None
        claim = Labels(torch.from_numpy(values), sure, distinct=True, absent=absent)
        return Attempt(repr(self), Outcome.CLAIMED, _sentence(read, there, out, absent, why), claim, proofs)

    def _counts(self, seen: Observation, read: Revealing, told: int | None) -> Attempt[Labels] | None:
        """T4, where the bounds of all counts sum to the batch size, so that each is its count.

        No certificate: a loss that weighs its classes has another scale, and nothing here would contradict it.
        """
        bias = read.output.bias
        if told is None or bias is None or clipped(seen) is not Answer.NO or strange(seen) is not None:
            return None
        if known_weights(seen.mechanism) is not Answer.YES or bent(seen) is not None or evenly(seen) is Answer.NO:
            return None
        counts = proved_counts(bias.cpu().numpy(), told)
        if int(counts.sum()) != told:
            return None
        values = torch.repeat_interleave(torch.arange(len(counts)), torch.from_numpy(counts))
        sentence = f"of the declared loss the bias gradient bounds all counts from below, and the bounds sum to {told}"
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(values))


def samples_apart(
    seen: Observation, read: Revealing, key: Key, stop: Callable[[], bool], *, whole: bool = True
) -> Apart | str:
    """The samples of the batch by their rows of dL/dW, or why they do not come apart. Draws from the key's `rows`.

    whole: every sample, else those that were found.
    """
    why = inseparable(seen, read)
    if why is not None:
        return why
    assert isinstance(read.space, RowSpace)
    apart = _apart(seen, read, read.space, key, stop)
    if len(apart.rows) != read.space.rank and (whole or not apart.rows):
        return f"{len(apart.rows)} of {read.space.rank} rows were found{SPENT if stop() else ''}"
    if apart.open and whole:
        return f"{UNEVEN}, and no number of samples was told"
    if not _unique(read.space, apart):
        return f"{read.space.shape[1]} classes are too few for {read.space.rank} samples of that many labels"
    if seen.knows(BatchSize) and apart.count > seen.told(BatchSize).count:
        return f"the rows stand for {apart.count} samples, and {seen.told(BatchSize).count} were told"
    return apart


def inseparable(seen: Observation, read: Revealing) -> str | None:
    """Why no sample's row can be found; None where nothing speaks against, before anything is solved."""
    if isinstance(read.space, str):
        return read.space
    if known_weights(seen.mechanism) is not Answer.YES:
        return "local steps moved the weights, or may have"
    # Entries that became signs or zeros have a rank that has nothing to do with samples.
    if bends(seen.mechanism) is not Answer.NO or _blurred(seen, read.output):
        return "a defense, or noise, left no row of a sample"
    if read.space.shape[1] <= 2 * read.space.rank + 1:
        return (
            f"{read.space.shape[1]} classes are too few to tell {read.space.rank} samples apart: more than twice as "
            "many are needed, and one for each label"
        )
    return None


def _blurred(seen: Observation, output: OutputGradient) -> bool:
    """Whether noise or levels are so large that no row would be found, and looking for them is in vain."""
    if output.weight is None:
        return True
    size = noise(seen, output.layer.weight) if isinstance(seen.release, Gradient) else None
    return size is not None and size > BLURRED * float(output.weight.square().mean().sqrt())


def _apart(seen: Observation, read: Revealing, space: RowSpace, key: Key, stop: Callable[[], bool]) -> Apart:
    """The rows of the gradient, by the output layer's own weights."""
    bias = None if read.output.bias is None else read.output.bias.cpu().numpy()
    known, rng = known_rows(seen.target, read.output, space), key.child("rows").numpy()
    return take_apart(known, bias, rng, stop=stop, told=told_rows(seen))


def _unique(space: RowSpace, apart: Apart) -> bool:
    """Whether C - S equations fix the S unknowns of each sample, labels and all: C > 2 S + number of labels."""
    return space.shape[1] > 2 * space.rank + len({one.label for one in apart.rows})


def _untold(seen: Observation) -> tuple[str, ...]:
    """What a proof of samples leaves open where nobody told how many there are."""
    if seen.knows(BatchSize):
        return ()
    return (REPEATED,) if clipped(seen) is Answer.NO else (REPEATED, UNSEEN)


def _doubted(seen: Observation, read: Revealing, apart: Apart) -> str | None:
    """Why rows that fit are no proof; None where nothing speaks against."""
    refusal = bent(seen)
    if refusal is not None:
        return refusal.sentence
    why = miscounted(seen, apart.count, "samples")
    if why is not None:
        return why
    scale = 1.0
    if clipped(seen) is not Answer.NO:
        # Only the ratio is known: the rows' sum is compared up to it.
        scale = float(apart.samples) / apart.count
    elif abs(apart.samples - apart.count) > BALANCE * apart.count:
        return f"what was sent is {apart.count / apart.samples:.4g} times the mean over the samples found"
    why = _unbuilt(read, apart, scale)
    if why is not None:
        return why
    if read.output.bias is not None:
        sent = read.output.bias.cpu().numpy() - read.output.smoothing / len(read.output.bias)
        rows = np.array([one.error * times for one, times in zip(apart.rows, apart.times, strict=True)])
        apart_by = np.linalg.norm(rows.sum(0) / (apart.count * scale) - sent) / max(float(np.linalg.norm(sent)), 1e-300)
        if not apart_by <= BALANCE:
            return f"the samples' errors are {apart_by:.0e} from dL/db"
    return strange(seen)


def _unbuilt(read: Revealing, apart: Apart, scale: float) -> str | None:
    """Why dL/dW is not sum_s e_s h_s^T / N of the rows found: some are of no sample, or stand for another number."""
    assert isinstance(read.space, RowSpace)
    assert read.output.weight is not None
    features = np.stack([one.features for one in apart.rows]) @ read.space.left.T
    errors = np.array([one.error * times for one, times in zip(apart.rows, apart.times, strict=True)])
    sent = read.output.weight.cpu().numpy()
    rest = errors.T @ features / (apart.count * scale) - sent
    # As it is, and with each class weighing alike: the errors of absent classes are a thousandth of the others.
    for weighed in (1.0, read.space.scale[:, None]):
        apart_by = np.linalg.norm(rest * weighed) / max(float(np.linalg.norm(sent * weighed)), 1e-300)
        if not apart_by <= BALANCE:
            return f"the samples found give dL/dW to {apart_by:.0e} only"
    return None


def _unsigned(seen: Observation, read: Revealing, told: int | None) -> str | None:
    """Why a negative entry is no proof of its label here."""
    if read.signs is None:
        return "no sign is sure"
    why = undeclared(seen)
    if why is not None:
        return why.sentence
    if told is None:
        return "the batch size is not told, and signs that were turned around would look alike"
    found = int(read.signs.present.sum())
    if found > told:
        return f"{found} classes have a negative entry, and there are {told} examples"
    # Of an update that was turned around the positive entries are those of labels, of at most as many classes.
    if read.signs.upright <= told:
        return f"{read.signs.upright} classes have a positive entry, and the signs of {told} examples could be reversed"
    return overdrawn(seen, read.output) or _added(seen, read, told)


def _added(seen: Observation, read: Revealing, told: int) -> str | None:
    """What dL/dW shows that `told` errors (p - y) h^T of a cross entropy do not make, as a penalty on the weights does:
    a rank above their number, and rows that do not sum to zero over the classes; None where nothing."""
    weight = read.output.weight
    # What changes entries one by one changes rank and sums too.
    if weight is None or keeps_ratios(seen.mechanism) is Answer.NO:
        return None
    sent = seen.release.by_name[read.output.layer.weight]
    exact = isinstance(seen.release, Gradient) and sent.dtype in (torch.float32, torch.float64)
    awake = int((weight != 0).any(0).sum())
    # One gradient only: over local steps features move, and each step has a space of its own.
    if exact and known_weights(seen.mechanism) is Answer.YES and told <= FULLEST * min(len(weight), awake):
        if isinstance(read.space, str):
            return f"{read.space}, and {told} were told"
        if read.space.rank > told:
            return f"the output layer's gradient has rank {read.space.rank}, that of {told} examples has {told} at most"
    off = float(weight.sum(0).norm() / weight.abs().sum(0).norm().clamp(min=1e-300))
    if exact and off > UNBALANCED:
        return f"the classes' rows of dL/dW sum to {off:.0e} of their size, and those of a cross entropy to zero"
    return None


def _unsure(seen: Observation, read: Revealing) -> bool:
    """Whether no sample is one of which the model is sure to within rounding, p_y - 1 = 0 in float32.

    Its errors would have no negative entry, and its label would be excluded. Such a row, and its rank-one term, is at
    most |h| / N sqrt(2) (1 - p_y) long, times the largest scale of a class; taken away it would leave the rank that
    the other samples have, so the last singular value is no larger than that. |h| is that of noise, with a margin.
    """
    assert isinstance(read.space, RowSpace)
    scale = read.space.scale
    inputs = probe_inputs(seen.target, 8, key=Key(0).child("size of features"))
    size = LARGER * float(torch.linalg.vector_norm(features_at(seen.target, inputs).flatten(1), dim=1).max())
    length = size / read.space.rank * math.sqrt(2) * ONE * float(scale.max())
    return bool((scale > 0).all()) and float(read.space.values[-1]) > length


def _balanced(output: OutputGradient) -> bool:
    """Whether the classes' rows of dL/dW sum to zero, as softmax(W h + b) - q does for any q that sums to one."""
    assert output.weight is not None
    return bool(output.weight.sum(0).norm() <= BALANCE * output.weight.abs().sum(0).norm())


def _proofs(seen: Observation, signs: Signed, values: NDArray[np.int64], told: int) -> Certificate:
    # mean (p - y) of a label is about -1 / N, and smoothing makes -s / C of a class that is not there.
    least = SURE * told / len(signs.depth)
    rounding = np.maximum(signs.rounding, least)
    bent = keeps_ratios(seen.mechanism) is Answer.NO
    depth = signs.depth if bent else signs.firm
    sure = signs.present & (depth > 0)
    residuals = tuple(float(rounding[label] / depth[label]) if sure[label] else OPEN for label in values)
    return Certificate(residuals, (0.5,) * len(values), SIGNED_BENT if bent else SIGNED)


def _sentence(
    read: Revealing, there: NDArray[np.bool_] | None, out: Excluded | None, absent: torch.Tensor | None, why: str | None
) -> str:
    parts = []
    if there is not None and read.signs is not None:
        parts.append(f"{int(there.sum())} classes have a negative entry in {read.signs.read}")
    if out is not None and isinstance(read.space, RowSpace):
        parts.append(f"the row space of rank {read.space.rank} does not exclude {int((~out.absent).sum())}")
    if absent is not None:
        parts.append(f"{len(absent)} proved absent, given the declared loss and one label for each example")
    if why is not None:
        parts.append(f"no label is proved: {why}")
    return "; ".join(parts)
