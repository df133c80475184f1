"""How many examples of each class a batch holds, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from scipy.optimize import nnls
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Ready
from leakscope.attacks.labels.revealed import RevealedLabels, Revealing, inseparable, samples_apart
from leakscope.attacks.labels.rows.along import ALONG, along, noise_features
from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.attacks.labels.rows.taken_apart import Apart
from leakscope.attacks.parts.reading.output_gradient import OutputGradient, read_output, too_many
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, evenly, keeps_ratios
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import at

TRIES = 40
"""Searches for rows per row there is, after which the batch is taken not to come apart."""


@final
@dataclass(frozen=True)
class LabelCounts(AbstractAttack[OutputGradient, Labels]):
    """Instance counts n from B g_b = (P - I) n, where column c of P is the softmax for an example of class c.

    Where the batch comes apart at the output layer (known weights, more classes than twice the samples), the counts are
    those of its rows, exact and with the certificate of `RevealedLabels`; else:

    g_b = mean_b (p_b - y_b) is the output layer's bias gradient. The feature vector of class c is read from the
    gradient itself, e_c = g_W[c] / g_b[c], pulled toward the mean feature vector by `ridge` where g_b[c] is small;
    p_c = softmax(W e_c + b). Solved with n >= 0 and sum n = B, then rounded by largest remainder.
    Right for batches larger than the number of classes, and for federated updates of one step; an approximation for
    several steps or trained weights. Under clipping the unknown factor is searched for too.
    Where the weight's gradient is not there (frozen, filtered, pruned to zero), n = B (p - g_b) with the mean softmax p
    of noise at the brightness, and in the scale, at which the counts come out whole: see `_from_bias`. So it is where a
    defense changed entries one by one, of g_b and g_W read together along the features of noise (`rows.along`).
    Source: Ma et al. 2023 (iLRG), section 3; needs `BatchSize`.
    """

    ridge: float = 3.0
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise BadInput(f"expected ridge > 0, got {self.ridge}")

    @property
    def citation(self) -> str:
        """Ma et al. 2023."""
        return citations.ILRG

    def _read(self, seen: Observation) -> OutputGradient | Refusal:
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        heard = along(seen, output)
        if heard is not None:
            # A ratio of changed entries is no feature vector; up to a clip's factor it still says more than none.
            output = replace(output, bias=heard, weight=None if clipped(seen) is Answer.NO else output.weight)
        if output.bias is None:
            return Refusal(
                "the release has no bias gradient at the output layer, so features cannot be told from labels"
            )
        return output

    def _attempt(
        self, seen: Observation, read: OutputGradient, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Labels]:
        del watch
        output = read
        size = seen.told(BatchSize).count
        if size == 1:
            return self._one(seen, output)
        exact = _by_rows(seen, key, clock)
        if exact is not None:
            return replace(exact, attack=repr(self))
        found = solve_counts(seen, output, size, self.ridge)
        if found is None:
            return Attempt(repr(self), Outcome.DIVERGED, "the linear system for the counts has no finite solution")
        real = found.counts
        counts = round_to_sum(real, size)
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
        # 1 where a count came out whole, 0 half way between two whole numbers.
        margin = (1 - 2 * (real - counts).abs()).clamp(0, 1)
        off = float((real - counts).abs().mean())
        sentence = f"{int((counts > 0).sum())} classes among {size} examples; the counts were {off:.3f} off integers"
        if output.weight is None:
            bent = keeps_ratios(seen.mechanism) is Answer.NO
            sentence += f"; {ALONG}" if bent else "; read from the bias gradient alone"
        if found.factor > 1:
            sentence += f"; the update is {found.factor} times the mean gradient: {SUMMED}"
        doubt = found.doubt or _doubted(seen, output, found, counts)
        if doubt:
            sentence += f"; {doubt}, so this is a guess"
            margin = torch.zeros_like(margin)
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Labels(labels, margin[labels]))

    def _one(self, seen: Observation, output: OutputGradient) -> Attempt[Labels]:
        """A single example needs no softmax and no scale: its class alone has a negative bias gradient."""
        assert output.bias is not None
        if not bool(torch.isfinite(output.bias).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the bias gradient is not finite")
        turned = too_many(seen, output)
        if turned is not None:
            return Attempt(repr(self), Outcome.DIVERGED, turned)
        label = int(output.bias.argmin())
        return Attempt(repr(self), Outcome.CLAIMED, f"one example of class {label}", Labels(torch.tensor([label])))


def _by_rows(seen: Observation, key: Key, clock: Clock) -> Attempt[Labels] | None:
    """The labels of all samples where each has its row and all together replay the update; else None.

    Only what is certified: of an update that is no mean of `size` samples the rows say so, and nothing of the factor.
    """
    revealed = RevealedLabels()
    ready = revealed.ready(seen)
    if not isinstance(ready, Ready):
        return None
    read: Revealing = ready.read
    if inseparable(seen, read) is not None:
        return None
    assert isinstance(read.space, RowSpace)
    # Rows that are not there are looked for in vain, again and again; equations in the counts answer at once.
    most, tries = TRIES * (read.space.rank + 1), 0

    def stop() -> bool:
        nonlocal tries
        tries += 1
        return tries > most or clock.exhausted(0)

    apart = samples_apart(seen, read, key, stop)
    if not isinstance(apart, Apart):
        return None
    attempt = revealed.replayed(seen, read, apart)
    # Certified: as many as were told.
    return attempt if attempt.certified else None


def _by_chance(seen: Observation, output: OutputGradient, real: Tensor, counts: Tensor) -> float:
    """How likely wrong counts are to come out so near to whole numbers.

    What is left of a wrong count is uniform up to one half, and independent but for the sum of all: (2 * largest)^(m -
    1) for m classes in play. Of two classes that is one number; there the features of noise have to agree as well.
    """
    off = (real - counts).abs()
    free = max(int(((counts > 0) | (off > HEARD)).sum()) - 1, 1)
    chance = min(1.0, 2 * float(off.max())) ** free
    if len(real) == 2 and output.weight is not None and clipped(seen) is Answer.NO:
        again = _from_bias(seen, output, int(counts.sum()))
        other = 0.5 if again is None else float((again.counts - counts).abs().max())
        chance *= min(1.0, 2 * other)
    return chance


def _doubted(seen: Observation, output: OutputGradient, found: Solved, counts: Tensor) -> str:
    """Why rounded counts may be wrong, of what `_read_plainly` did not read; empty where nothing speaks against."""
    if evenly(seen) is Answer.NO:
        return "not all examples are in the update equally often"
    if output.weight is not None and _plain(seen):
        return ""
    if found.misfit > FITS and _plain(seen):
        # Rounded counts of equations that do not hold are no more sure than a guess.
        return f"the equations leave {found.misfit:.0%} of the bias gradient"
    chance = _by_chance(seen, output, found.counts, counts)
    return f"other counts come out so near to whole numbers by a chance of {chance:.0%}" if chance > CHANCE else ""


@final
@dataclass(frozen=True, eq=False)
class Solved:
    """counts: (C,) real-valued. factor: how many times the mean gradient the update is, a whole number.
    misfit: what the equations leave of the bias gradient, relative to it. doubt: why the counts may be others."""

    counts: Tensor
    factor: int
    misfit: float
    doubt: str = ""


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """The update read as `factor` times the mean gradient.

    real: (C,) counts that solve the equations, of any sign. counts: (C,) the whole numbers >= 0 next to them. away: the
    largest distance of the two. spread: of the solutions by other guesses of the features. error: what `away` may be.
    """

    factor: int
    real: Tensor
    counts: Tensor
    away: float
    spread: float
    error: float

    @property
    def fits(self) -> bool:
        """Whether what is left may be the error of the features, and is evidence."""
        return self.away <= min(self.error, MOST)


def solve_counts(seen: Observation, output: OutputGradient, size: int, ridge: float) -> Solved | None:
    """The counts before rounding; None when there is no finite solution."""
    bias = output.bias
    assert bias is not None
    if output.weight is None:
        return _from_bias(seen, output, size)
    equations = _equations(seen, output, ridge)
    if not bool(torch.isfinite(equations).all()):
        return None
    bias = bias.cpu()
    if clipped(seen) is not Answer.NO:
        solved = [_nonnegative(equations, bias * stretch, size) for stretch in STRETCHES]
        # A clipped release is a multiple of one that solves the system: the multiple is the one at which the counts
        # come out as integers and the equations hold.
        return _sound(Solved(min(solved, key=_oddness)[0], 1, 0.0))
    if not _plain(seen):
        return _sound(_solved(equations, bias, size, 1))
    return _read_plainly(seen, output, size, [equations, *(_equations(seen, output, ridge * one) for one in OTHERS)])


def _read_plainly(seen: Observation, output: OutputGradient, size: int, equations: list[Tensor]) -> Solved | None:
    """A mean, or a sum over the batch or over k parts of it that were accumulated, which is B or k times the mean.

    (P - I) n = B g_b / k has a solution for any k: only that counts are whole and none below zero tells factors apart,
    as far as P is known. Its error is measured: by other guesses of the features, and by how much p differs from input
    to input, which adds up over the batch. Where that leaves room for other counts, nothing is sure.
    """
    assert output.bias is not None
    bias, varied = output.bias.cpu(), _variation(seen.target, output) * math.sqrt(size)
    readings = [_reading(equations, bias, size, k, varied) for k in range(1, size + 1) if size % k == 0]
    fitting = [one for one in readings if one.fits and varied <= VARIED]
    solved = {one.factor: _solved(equations[0], bias, size, one.factor) for one in readings}
    possible = [one for one in readings if one.away <= one.error and solved[one.factor].misfit <= FITS]
    # A mean is what was declared: it is one wherever it may be, also where everything fits.
    mean = [one for one in possible if one.factor == 1]

    def worth(one: Reading) -> float:
        # With too large a factor the counts are those of the softmax, which are no whole numbers.
        found = solved[one.factor]
        return found.misfit + float((found.counts - found.counts.round()).square().sum())

    best = min(mean or possible or readings, key=worth)
    best_solved = solved[best.factor]
    if not fitting and best_solved.misfit > FITS:
        return _sound(replace(best_solved, doubt=f"the equations leave {best_solved.misfit:.0%} of the bias gradient"))
    rivals = [str(one.factor) for one in fitting if not torch.equal(one.counts, best.counts)]
    chance = min(1.0, 2 * best.away) ** (len(bias) - 1)
    doubt = ""
    if rivals:
        doubt = f"read as {' or '.join(rivals)} times the mean gradient it has other whole counts"
    elif best not in fitting or best.away + best.spread > 0.5:
        doubt = "its counts are off whole numbers, or features of one class differ, by so much that others may be true"
    elif chance > (CHANCE if best.factor == 1 else UNTOLD):
        doubt = f"other counts come out so near to whole numbers by a chance of {chance:.1%}"
    return _sound(replace(best_solved, counts=best.real.clamp(min=0) if best.fits else best_solved.counts, doubt=doubt))


def _reading(equations: list[Tensor], bias: Tensor, size: int, factor: int, varied: float) -> Reading:
    real, *others = (_any_sign(one, bias / factor, size) for one in equations)
    counts = round_to_sum(real.clamp(min=0), size)
    spread = max(float((real - other).abs().max()) for other in others)
    error = WHOLE[len(bias) > 2] + SPREAD * spread + varied
    return Reading(factor, real, counts, float((real - counts).abs().max()), spread, error)


def _any_sign(equations: Tensor, bias: Tensor, size: int) -> Tensor:
    """n with equations @ n = size * bias and sum n = size, in least squares."""
    system, right = _with_sum(equations, bias, size)
    found: Tensor = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:, 0]
    return found


def _variation(target: Target, output: OutputGradient) -> float:
    """The standard deviation of the softmax over random inputs, of the class and the brightness that vary most."""
    weight, offset = (value.double() for value in at(target, output.layer))
    return max(float(torch.softmax(f @ weight.T + offset, 1).std(0).max()) for f in noise_features(target))


def _from_bias(seen: Observation, output: OutputGradient, size: int) -> Solved | None:
    """n = B (p - g_b), p the mean softmax over the batch: that of noise, of whichever brightness fits best.

    No features are known, so all classes are given the same mean. On a young net p is nearly the same for any input,
    and its error times B has to stay below one half. What no p >= 0 explains of the scale is the misfit.
    """
    assert output.bias is not None
    bias, guesses = output.bias.cpu(), _noise_predictions(seen.target, output).cpu()
    if not bool(torch.isfinite(bias).all()):
        return None
    # y is (1 - smoothing) times one-hot, so is its share of p - y.
    kept = 1 - output.smoothing
    stretches = torch.tensor(STRETCHES if clipped(seen) is not Answer.NO else (1.0,), dtype=torch.float64)
    real = size * (guesses[:, None] - stretches[:, None] * bias) / kept
    # A count below zero is further from any count than one that lies half way between two.
    odd = (real - real.round()).square().sum(-1) + real.clamp(max=0).square().sum(-1)
    best = real.flatten(0, 1)[odd.argmin()]
    # mean(p - y) is at least -1 in sum over its negative entries: more is a sum over examples, or another scale.
    excess = max(0.0, float(-bias.clamp(max=0).sum()) - 1) if len(stretches) == 1 else 0.0
    return _sound(Solved(best.clamp(min=0), 1, excess))


def _noise_predictions(target: Target, output: OutputGradient) -> Tensor:
    """(K, C) mean softmax of random inputs, of each brightness that they can have."""
    weight, offset = (value.double() for value in at(target, output.layer))
    # The mean of softmaxes and not the softmax of a mean: what is wanted is the mean over a batch.
    return torch.stack([torch.softmax(f @ weight.T + offset, 1).mean(0) for f in noise_features(target)])


FITS = 0.2
"""Largest misfit that is rounding of the model's features: 0.15 at most for means, of young and of trained nets."""
CHANCE = 0.1
"""From this chance on, whole counts are no evidence."""
UNTOLD = 0.01
"""The same of a factor, which nobody declared."""
HEARD = 0.02
"""A class whose count is this far from none is in play, though it rounds to none."""
OTHERS = (1 / 30, 30.0)
"""Times the ridge: other guesses of the features, by whose counts the error of counts is judged."""
WHOLE = {False: 0.2, True: 0.1}
"""Distance from whole numbers that always fits, of two classes and of more. Of two there is one equation, which some
count fits for each factor."""
SPREAD = 8.0
"""How many times the spread by other guesses the error of a count may be: 90 % of counts are nearer than that."""
MOST = 0.45
"""Largest distance that fits: at one half every number does."""
VARIED = 0.5
"""Largest error of a count by p that varies between inputs, from which on rounding may hit another number."""
SUMMED = "the loss was summed, or accumulated over parts of the batch without dividing"


def _plain(seen: Observation) -> bool:
    """Whether only the loss can have scaled the update: noise and rounding leave a misfit of their own."""
    return keeps_ratios(seen.mechanism) is Answer.YES and clipped(seen) is Answer.NO


def _sound(found: Solved) -> Solved | None:
    return found if float(found.counts.sum()) > 0 else None


def _solved(equations: Tensor, bias: Tensor, size: int, factor: int) -> Solved:
    counts, left = _nonnegative(equations, bias / factor, size)
    scale = size * float(torch.linalg.vector_norm(bias)) / factor
    return Solved(counts, factor, math.sqrt(left) / scale if scale > 0 else 0.0)


def _oddness(solved: tuple[Tensor, float]) -> float:
    """How far counts are from integers and their equations from holding, squared."""
    counts, left = solved
    return left + float((counts - counts.round()).square().sum())


def _equations(seen: Observation, output: OutputGradient, ridge: float) -> Tensor:
    """(C, C): P - I, the softmax of each class's features beside its label. Blind to the scale of the gradient."""
    bias = output.bias
    assert bias is not None
    weight, offset = (value.double() for value in at(seen.target, output.layer))
    assert output.weight is not None
    mean = mean_features(seen, output.weight, bias)
    # min_e |g_W[c] - g_b[c] e|^2 + pull |e - mean|^2 for each class c, relative to the mean g_b^2, so that the scale of
    # the gradient has no say.
    pull = ridge * bias.square().mean()
    features = (bias[:, None] * output.weight + pull * mean) / (bias.square() + pull)[:, None]
    # Row c of the first softmax is class c; P has it as column c.
    softmax = torch.softmax(features @ weight.T + offset, dim=1).T
    return (softmax - (1 - output.smoothing) * torch.eye(len(bias), dtype=torch.float64).to(bias)).cpu()


def factor_of(seen: Observation) -> int:
    """How many times the mean gradient the update is, as far as its labels tell: 1 unless a sum fits clearly better."""
    if not seen.knows(BatchSize) or seen.told(BatchSize).count == 1:
        return 1
    output = read_output(seen)
    if isinstance(output, Refusal) or output.bias is None:
        return 1
    found = solve_counts(seen, output, seen.told(BatchSize).count, LabelCounts().ridge)
    return 1 if found is None else found.factor


def _nonnegative(equations: Tensor, bias: Tensor, size: int) -> tuple[Tensor, float]:
    """n >= 0 with equations @ n = size * bias and sum n = size, and the squared residual of the equations."""
    system, right = _with_sum(equations, bias, size)
    # nnls minimizes |system n - right| over n >= 0.
    solution, norm = nnls(system.numpy(), right.numpy())
    return torch.from_numpy(solution), float(norm) ** 2


def _with_sum(equations: Tensor, bias: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Both sides, with the sum of the counts last: it is known exactly, so it outweighs the modeled equations."""
    sure = 10.0 * torch.ones(1, len(bias), dtype=torch.float64)
    return torch.cat([equations, sure]), torch.cat([size * bias, torch.tensor([10.0 * size]).double()])


STRETCHES = tuple(1.02**power for power in range(240))
"""Factors by which clipping may have shrunk the release: from 1 to about 100, in steps of 2 %."""


def mean_features(seen: Observation, slope: Tensor, bias: Tensor) -> Tensor:
    """The batch's mean feature vector (d,) at the output layer, from slope = g_W (C, d) and bias = g_b (C,).

    As long as the net is young, g_W = g_b e^T, so e is the least-squares ratio; it is ill-determined for a balanced
    batch (g_b near 0), and pulled there toward the features of noise at the brightness that fits best; of text, which
    has no brightness, toward those of random texts.
    """
    curve = torch.stack([features.mean(0) for features in noise_features(seen.target)])
    misfit = (slope[None] - bias[None, :, None] * curve[:, None, :]).square().sum((1, 2))
    guess = curve[misfit.argmin()]
    # min_e |g_W - g_b e^T|^2 + PULL |e - guess|^2.
    return ((bias[:, None] * slope).sum(0) + PULL * guess) / (bias.square().sum() + PULL)


PULL = 0.01
"""Weight of the noise features against sum g_b^2, which is about 0.01 for a balanced batch of 256 in 10 classes."""


def round_to_sum(real: Tensor, total: int) -> Tensor:
    """The non-negative integers nearest to `real` (C,) that sum to `total`, by largest remainder.

    >>> round_to_sum(torch.tensor([1.4, 0.7, 0.9]), 3)
    tensor([1, 1, 1])
    """
    # The sum was one equation among others, so it is met up to a residual only.
    scaled = real * (total / real.sum())
    counts = scaled.floor().long()
    order = (scaled - counts).argsort(descending=True)
    counts[order[: total - int(counts.sum())]] += 1
    return counts
