"""The most probable speech frames behind a noisy, rounded or very long update of a model on context windows."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.frames.claimed import claimed
from leakscope.attacks.inputs.frames.probable.agreement import agreed
from leakscope.attacks.inputs.frames.probable.climbing import Point, Problem, climb, linear_start
from leakscope.attacks.inputs.frames.probable.frame_count import counted, matrices, remaining_noise
from leakscope.attacks.inputs.frames.probable.rehearsal import rehearsed
from leakscope.attacks.inputs.frames.probable.reordering import reordered
from leakscope.attacks.inputs.frames.probable.rounding import Cells, Imputed, cells, imputed
from leakscope.attacks.inputs.frames.probable.terms import Term
from leakscope.attacks.parts.priors.speech import SpeechPrior
from leakscope.core.attempt import Attempt, Cost, Outcome, Trace
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, keeps_model, noise, one_gradient, rounds
from leakscope.numerics.rng import Key
from leakscope.targets.looking.context_window import ContextWindow, context_window
from leakscope.targets.looking.dense_stack import DenseStack, dense_stack

Array = NDArray[np.float64]

INNER = 60
"""Products of conjugate gradients per step."""
SOON = 12
"""Steps after which a start must explain the update, or something else is tried."""
STARTS = 2
"""Searches from coarse to fine noise; where entries have cells, the second only when the first is not confirmed."""
EACH = 6
"""Steps at each level of noise on the way from coarse to fine."""
FITS = 3.0
"""Energy outside the span up to this many standard deviations is noise: the frames explain the update."""
CELLS = 20
"""Times that entries are imputed from their cells, each followed by `AFTER` steps."""
AFTER = 4
HALF = 0.5
"""Of a budget, where there are cells: what the search without them may spend."""
CELLED = 0.05
"""Of a gradient's root mean square: frames that leave less around the fit in its cells explain the update."""
UNRELATED = 20
"""Draws of the prior that no search is related to: what it shares with the most similar one may be chance."""
STILL = 1e-4
"""Frames that move less than this on average, in standard deviations of the prior, are settled."""
ROUNDING = 100.0
"""Energy of undeclared noise may be this many times that of equal noise in all entries."""


@final
@dataclass(frozen=True)
class FrameLikelihood(AbstractAttack[ContextWindow, Inputs]):
    """Maximizes p(m | update) over all frames m (T, F): marginal likelihood of dense layers' gradients, and a prior.

    Each dense layer gives [dL/dW; dL/db] = [h; 1]^T Delta + noise, h (T, n) its inputs, a known function of the frames
    (windows, then ReLU layers with public weights). Delta is integrated out with the time covariance that makes the
    update most probable (`Term`), so errors that noise hides cost nothing. A first layer alone needs no weights.
    Gauss-Newton (`climb`) from one linear system; where that does not explain the update, also from coarse to fine
    noise, with the covariance that errors have in rehearsals on the public model (`rehearsed`).

    window: the layer, or None to find it by running the model. speech: the prior, learned on public speech. depth: the
    most dense layers that are used; those behind the first only for `FedSGD` without dropout, whose weights and units
    are known. steps: Gauss-Newton steps of the last stage. The noise is what the mechanism declares, or what no T
    directions explain. The number of frames is told (`Lengths`) or counted above the noise; a batch must be told.
    Claims frames (N, T, F) with their lengths, without confidence and certificate. Raises `BadInput` on other settings.
    """

    window: ContextWindow | None = None
    speech: SpeechPrior = field(default_factory=SpeechPrior)
    depth: int = 3
    steps: int = 40

    def __post_init__(self) -> None:
        if self.window is not None and not isinstance(self.window, ContextWindow):
            raise BadInput(f"expected a ContextWindow or None, got {self.window!r}")
        if not isinstance(self.speech, SpeechPrior):
            raise BadInput(f"expected a SpeechPrior, got {self.speech!r}; learn one from public speech")
        for name, value in (("depth", self.depth), ("steps", self.steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"expected {name} >= 1, got {value!r}")

    @property
    def citation(self) -> str:
        """None: leakscope's own."""
        return ""

    def _read(self, seen: Observation) -> ContextWindow | Refusal:
        try:
            window = self.window or context_window(seen.target)
            window.read(seen.gradient().by_name)
            self.speech.chain(window.features)
        except BadInput as error:
            return Refusal(str(error))
        return window

    def _attempt(
        self, seen: Observation, read: ContextWindow, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        scene = self._scene(seen, read)
        if isinstance(scene, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, scene.sentence)
        log = _Log(clock, watch)
        outcome, left = Outcome.CLAIMED, math.nan
        others: list[Point] = []
        try:
            where = cells(seen, scene.problem.window, scene.problem.stack)
            # The cells are not used yet: with all the budget spent here, nothing would be imputed.
            log.share = 1.0 if where is None else HALF
            best, others = self._searched(seen, scene, log, key, starts=STARTS if where is None else 1)
            log.share = 1.0
            if where is not None:
                best, left = _celled(where, scene, best, log)
                # Frames that explain the update need no second search, neither to be improved on nor to be confirmed.
                second = None if left < CELLED else _coarse_to_fine(seen, scene, log, key, turn=1)
                if second is not None:
                    (best, left), (other, _) = sorted(
                        ((best, left), _celled(where, scene, second, log)), key=lambda one: one[1]
                    )
                    others = [other]
        except KeyboardInterrupt:
            if log.last is None:
                return Attempt(repr(self), Outcome.INTERRUPTED, "interrupted before the first step")
            best, outcome = log.last, Outcome.INTERRUPTED
        cost, trace = Cost(evaluations=len(log.losses)), Trace(tuple(range(1, len(log.losses) + 1)), tuple(log.losses))
        if not np.isfinite(best.frames).all():
            return Attempt(repr(self), Outcome.DIVERGED, "the frames are not finite", cost=cost, trace=trace)
        frames, doubt = _doubted(scene, best, others, left)
        parts = np.split(frames, np.cumsum(scene.problem.lengths)[:-1])
        claim = claimed(parts, next(iter(seen.target.parameters().values())))
        sentence = _sentence(scene, best, left) + doubt
        return Attempt(repr(self), outcome, sentence, claim, cost=cost, trace=trace, steps=tuple(log.notes))

    def _scene(self, seen: Observation, window: ContextWindow) -> _Scene | Refusal:
        """The problem, or why there is none."""
        # Layers behind the first tell something of frames where their inputs are a function of these alone.
        stack = _trusted(dense_stack(seen.target, window), seen, self.depth)
        first = np.vstack(window.read(seen.gradient().by_name))
        found = [first, *matrices(seen, stack)]
        declared = [noise(seen, layer.names[0]) or 0.0 for layer, _ in zip(stack.layers, found, strict=False)]
        lengths, how = _lengths(seen, found, declared)
        if not lengths:
            return Refusal(how)
        count = sum(lengths)
        terms: dict[int, Term] = {}
        noises: dict[int, float] = {}
        for place, (matrix, known) in enumerate(zip(found, declared, strict=True)):
            # With T rows or columns everything is in the span, and no frames explain it better than others.
            if count < min(matrix.shape):
                # Without noise the likelihood has no scale: rounding of float64, and not zero for a gradient of zeros.
                least = 1e-12 * float(np.abs(matrix).max())
                left = max(remaining_noise(matrix, count), least, 1e-300)
                # rounding of what is mostly below a level errs by less than a level's share
                noises[place] = left if rounds(seen.mechanism) is Answer.YES else max(known, left)
                # S = A A^T / (H sd^2), whitened by what the noise is taken for.
                with np.errstate(over="ignore", invalid="ignore"):
                    gram = matrix @ matrix.T / (matrix.shape[1] * noises[place] ** 2)
                if not np.isfinite(gram).all():
                    return Refusal(f"the gradient of layer {place + 1} is too large to be squared; scale the update")
                terms[place] = Term(gram, matrix.shape[1])
        if not terms:
            sizes = ", ".join(f"{matrix.shape[0]} x {matrix.shape[1]}" for matrix in found)
            return Refusal(
                f"{count} frames fill the gradients of all layers that are used ({sizes}): nothing is outside the span"
            )
        chain = self.speech.chain(window.features)
        return _Scene(
            Problem(terms, stack, window, chain, lengths),
            noises,
            how,
            max(declared) > 0 or bends(seen.mechanism) is Answer.YES,
        )

    def _searched(
        self, seen: Observation, scene: _Scene, log: _Log, key: Key, *, starts: int
    ) -> tuple[Point, list[Point]]:
        """The most probable point, and where the other ones of several random starts ended."""
        problem, linear = scene.problem, None
        # The linear system needs the first layer's span: where that is full, only layers behind it speak.
        if 0 in problem.terms:
            start = linear_start(problem, problem.terms[0])
            linear = climb(problem, start, steps=min(self.steps, SOON), inner=INNER, ended=log)
            log.noted("from the linear system", problem, linear)
            if scene.explains(linear):
                return linear, []
        # The linear system may have led into a wrong valley: other starts, first at coarse noise, where the value is
        # smooth.
        ends = [_coarse_to_fine(seen, scene, log, key, turn=turn) for turn in range(starts)]
        found = [point for point in ends if point is not None]
        mean = np.tile(problem.chain.mean, (sum(problem.lengths), 1))
        # Without time for any search the prior's mean is still a claim.
        known = [*found, linear] if linear is not None else found or [problem.at(mean)]
        origin = best = min(known, key=lambda point: point.value)
        if starts > 1 and not log.over():
            best = reordered(problem, best, inner=INNER, ended=log)
            log.noted("with blocks of frames exchanged", problem, best)
        if not log.over():
            best = climb(problem, best.frames, steps=self.steps, inner=INNER, ended=log)
            log.noted("the best one, refined", problem, best)
        return best, [point for point in found if point is not origin]


@final
@dataclass(frozen=True, eq=False)
class _Scene:
    """noises: standard deviation by layer. how: where the lengths come from. declared: the mechanism adds some."""

    problem: Problem
    noises: dict[int, float]
    how: str
    declared: bool

    def explains(self, point: Point) -> bool:
        """Whether what the frames leave unexplained is noise."""
        left = _unexplained(self.problem, point)
        if self.declared:
            return left < FITS
        # undeclared noise is rounding, which differs from entry to entry; what is wrong stands out by orders of size
        # Energy c d where d is expected is (c d - d) / sqrt(2 d) = (c - 1) sqrt(d / 2) standard deviations off.
        degrees = min(term.columns * (len(term.gram) - len(point.frames)) for term in self.problem.terms.values())
        return left < ROUNDING * math.sqrt(degrees / 2)


@final
class _Log:
    """Losses of all steps, the last point, and whether time is over."""

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self.clock, self.watch = clock, watch
        self.share = 1.0
        self.losses: list[float] = []
        self.notes: list[str] = []
        self.last: Point | None = None

    def over(self) -> bool:
        """Whether this share of the budget is spent; without a budget never."""
        return self.clock.fraction(len(self.losses), sys.maxsize) >= self.share

    def noted(self, start: str, problem: Problem, point: Point) -> None:
        """Writes down how one start ended."""
        self.notes.append(f"{start}: {point.value:.1f} nats, {_unexplained(problem, point):.1f} sd unexplained")

    def __call__(self, point: Point) -> bool:
        """Records a step."""
        self.losses.append(point.value)
        self.last = point
        self.watch(Progress(self.clock.fraction(len(self.losses), 200), point.value))
        return self.over()


def _celled(where: list[Cells], scene: _Scene, best: Point, log: _Log) -> tuple[Point, float]:
    """Frames refined with entries imputed from the cells that rounding or pruning leaves, and what is left around them.

    That is the largest standard deviation of a layer's gradient around the fit, as a share of its root mean square.

    What noise of one size cannot say: that a missing entry is small, and a rounded one near its level.
    """
    problem = scene.problem
    known = {
        # Before the first fit: the middle of each cell, taken for known.
        place: Imputed((where[place].low + where[place].high) / 2, np.zeros_like(where[place].low), noise)
        for place, noise in scene.noises.items()
    }
    scale = math.sqrt(float(problem.chain.rest[0].mean()))
    # Expectation-maximization: entries from the fit at these frames, then steps with those entries held.
    for _ in range(CELLS):
        if log.over():
            break
        entering, _ = problem.stack.inputs(problem.windows(best.frames), problem.depth)
        ones = np.ones((len(best.frames), 1))
        known = {place: imputed(where[place], one, np.hstack([entering[place], ones])) for place, one in known.items()}
        terms = {place: one.term() for place, one in known.items()}
        problem = Problem(terms, problem.stack, problem.window, problem.chain, problem.lengths)
        following = climb(problem, best.frames, steps=AFTER, inner=INNER, ended=log)
        moved = float(np.abs(following.frames - best.frames).mean())
        best = following
        if moved < STILL * scale:
            break
    log.noted("with entries imputed from their cells", scene.problem, best)
    sizes = [max(math.sqrt(float((one.matrix**2).mean())), 1e-300) for one in known.values()]
    return best, max(one.noise / size for one, size in zip(known.values(), sizes, strict=True))


def _trusted(stack: DenseStack, seen: Observation, depth: int) -> DenseStack:
    """The layers whose inputs are a known function of the frames."""
    # After local steps the weights are others, with dropout the units: then layer 1 alone, which needs neither.
    known = one_gradient(seen.mechanism) is keeps_model(seen.mechanism) is Answer.YES
    return DenseStack(stack.layers[: depth if known else 1], stack.clip)


def _lengths(seen: Observation, found: list[Array], declared: list[float]) -> tuple[tuple[int, ...], str]:
    """Frames of each utterance and where that comes from; () and why when nothing says."""
    if seen.knows(Lengths):
        return seen.told(Lengths).values, "as told"
    if bends(seen.mechanism) is Answer.YES:
        return (), "signs and missing entries leave no rank to count frames by; tell Lengths"
    counts = [counted(matrix, noise) for matrix, noise in zip(found, declared, strict=True)]
    sure = [count for count in counts if count.surely]
    if sure:
        # Every layer has the same T; the widest gap is the least likely to be a step in the noise.
        return (max(sure, key=lambda count: count.gap).frames,), "all that stand out, with a clear gap"
    # Each is a lower bound, since noise hides frames and never adds one: the largest is the best.
    most = max(count.frames for count in counts)
    if most:
        return (most,), "all that stand out; noise may hide more"
    return (), "neither noise nor a number of frames is known: no gap in the spectrum; tell Lengths"


def _coarse_to_fine(seen: Observation, scene: _Scene, log: _Log, key: Key, *, turn: int) -> Point | None:
    """Where a start ends; None where the model cannot be rehearsed, or there is no time.

    The first is the prior's mean, the others are drawn from it, with other rehearsals.
    """
    if log.over():
        return None
    problem, key = scene.problem, key.child("start", turn) if turn else key
    roots = rehearsed(seen.target, problem.stack, problem.chain, problem.lengths, key=key)
    if roots is None or not all(np.isfinite(roots[place]).all() and roots[place].any() for place in problem.terms):
        return None
    found = climb(problem, _annealed(problem, roots, log, key, mean=not turn), steps=SOON, inner=INNER, ended=log)
    log.noted("from coarse to fine", problem, found)
    return found


def _annealed(problem: Problem, roots: list[Array], log: _Log, key: Key, *, mean: bool) -> Array:
    """Frames that explain first what the strongest noise would leave visible, then more and more."""
    count = sum(problem.lengths)
    drawn = np.vstack([problem.chain.drawn(n, key.child("scale", u).numpy()) for u, n in enumerate(problem.lengths)])
    entering, _ = problem.stack.inputs(problem.windows(drawn), problem.depth)
    terms = {}
    for place, term in problem.terms.items():
        whole = np.hstack([entering[place], np.ones((count, 1))])
        # E S = C = I + X^T G X, so tr S - n = tr X^T G X = |R^T X|^2: this scales R, of which only the shape is known.
        # X at frames drawn from the prior, which are about as large as those that are looked for.
        energy = max(float(np.trace(term.gram)) - len(term.gram), 1.0)
        scale = math.sqrt(energy / float(((roots[place].T @ whole) ** 2).sum()))
        terms[place] = Term(term.gram, term.columns, roots[place] * scale)
    expected = Problem(terms, problem.stack, problem.window, problem.chain, problem.lengths)
    # As much noise as lets no frame but the strongest through, then half of it each time, down to what there is.
    factor = max(_visible(term) for term in terms.values())
    frames = np.tile(problem.chain.mean, (count, 1)) if mean else drawn
    while not log.over():
        frames = climb(expected.inflated(max(factor, 1.0)), frames, steps=EACH, inner=INNER, ended=log).frames
        if factor <= 1:
            break
        factor /= 2
    return frames


def _visible(term: Term) -> float:
    """The factor of noise that hides all but the strongest direction."""
    # Noise of factor f has its largest singular value at f (1 + sqrt(n / H)) in units of sqrt(H) sd (Marchenko-Pastur).
    strongest = float(np.linalg.eigvalsh(term.gram)[-1])
    return math.sqrt(strongest) / (1 + math.sqrt(len(term.gram) / term.columns))


def _unexplained(problem: Problem, point: Point) -> float:
    """The largest energy outside a layer's span, in standard deviations of noise."""
    entering, _ = problem.stack.inputs(problem.windows(point.frames), problem.depth)
    ones = np.ones((len(point.frames), 1))
    return max(term.excess(np.hstack([entering[place], ones])) for place, term in problem.terms.items())


def _sentence(scene: _Scene, best: Point, share: float) -> str:
    problem = scene.problem
    lengths = ", ".join(map(str, problem.lengths))
    noises = ", ".join(f"{problem.stack.layers[place].names[0]} {noise:.1e}" for place, noise in scene.noises.items())
    if not math.isnan(share):
        # normal noise of one size is not what rounding and pruning leave: its deviations would say nothing
        return (
            f"utterances of {lengths} frames ({scene.how}), the most probable with entries imputed from the intervals "
            f"that rounding or pruning leaves; {share:.1e} of a gradient's root mean square is left around the fit"
        )
    left = _unexplained(problem, best)
    fit = "which is noise" if scene.explains(best) else "more than noise leaves: some frames are wrong"
    return (
        f"utterances of {lengths} frames ({scene.how}), the most probable under noise of standard deviation {noises}; "
        f"{left:.1f} standard deviations of energy are unexplained, {fit}"
    )


def _doubted(scene: _Scene, best: Point, others: list[Point], share: float) -> tuple[Array, str]:
    """The frames to claim, and what to say: where the best do not explain the update, what other searches confirm."""
    if scene.explains(best) or share < CELLED:
        return best.frames, ""
    if not others:
        return best.frames, "; no second search says which"
    # The same draws every time: a yardstick, no part of the attempt.
    problem, random = scene.problem, Key(0).child("unrelated").numpy()
    width, chain = problem.window.width, problem.chain
    frames, shares = agreed(best.frames, [one.frames for one in others], chain, width=width)
    drawn = [np.vstack([chain.drawn(count, random) for count in problem.lengths]) for _ in range(UNRELATED)]
    kept, chance = float(shares.mean()), max(agreed(best.frames, [one], chain, width=width)[1].mean() for one in drawn)
    # Shares are never negative, so what has nothing in common agrees a little too: draws of the prior say how much.
    if kept <= chance:
        return frames, "; another search contradicts them, and the claim is no better than the prior alone"
    return frames, f"; another search confirms {kept:.0%} of how they differ from the prior's mean, which is claimed"
