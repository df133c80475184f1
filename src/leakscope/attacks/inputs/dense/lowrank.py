"""Exact batches from a dense layer whose units are at rest on many of the examples."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.dense.linear import biased_layer
from leakscope.attacks.inputs.dense.masked_labels import masked_labels
from leakscope.attacks.inputs.dense.mixtures import Errors, twins
from leakscope.attacks.inputs.dense.near_duplicates import hidden_distance
from leakscope.attacks.inputs.dense.silent_errors import STATEMENT, WITNESSES, Judged, Resting, labels_of
from leakscope.attacks.parts.reading.proof import bent, settled
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta
from leakscope.numerics.lowrank import Factors, factor
from leakscope.numerics.rng import Key
from leakscope.numerics.sparse import Direction, Whitened, balanced, refitted, sparse_directions, whitened
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import DenseLayer, probe_inputs

Array = NDArray[np.float64]

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""Largest residual that counts as exact, by the dtype of the release. One unit that is claimed to be at rest and is
not costs about 1 / sqrt(B H / 2), some percent."""
SLACK = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Distance from its threshold, relative to |w| |x|, within which a unit may be at rest or not."""
COARSEST = 1e-2
"""No certificate beyond this, however coarse the difference of two sets of weights is."""
ENOUGH = 2.5
"""Units at rest per example and rank, below which the search is not started: it finds some directions, never all."""
HIDING = 0.5
"""More of them for each example with nearly proportional errors. One tells the two apart for sure; but 20 recordings at
a federation's weights, with 5.9 units at rest for each and 4.5 such others, all came back. Who is tried in vain costs
seconds and claims nothing; who is refused in vain counts as safe."""
# Rounds of the search, each from other starts: more of them cost time, and find examples that few zeros mark.
ROUNDS = 60
HOPELESS = 16
"""Rounds after which a search that found less than a third is ended."""
CONTRADICTED = 0.1
"""Residual beyond which the model contradicts the claim, so that nothing is claimed."""
OWN = "; of each input relative to its own part of it"
"""What the statement gains: the residual of the batch, in units of what this input leaves and no other does."""
EXCURSION = 2.0
"""Largest value of a unit's way during several steps, in units of how far the steps moved it in the end."""
# Inputs of noise at which units at rest are counted, before anything is searched.
PROBES = 64


@final
@dataclass(frozen=True, eq=False)
class Separable:
    """gradient: (H, D + 1) = [dL/dW, dL/db] in float64. resting: the model, to ask which units rest."""

    layer: DenseLayer
    gradient: Array
    factors: Factors
    problem: Whitened
    resting: Resting


@final
@dataclass(frozen=True)
class LowRank(AbstractAttack["Separable", Inputs]):
    """All inputs of a batch from [dL/dW, dL/db] = delta^T [X, 1] (Dimitrov et al. 2024, arXiv:2403.03945, section 4).

    dL/dW: (H, D), X: (B, D), delta: (B, H), zero wherever a unit is at rest (ReLU, dropout). The matrix has rank B.
    Of all factors L Q of its left factor L those with sparse columns are delta^T: the columns of Q are directions along
    which many rows of L vanish. They are found by a sparse-vector search (`numerics.sparse`) instead of the paper's
    sampling of rows, whose cost doubles with each example, where it can be in coordinates in which the sizes of errors
    do not matter (`numerics.sparse.balanced`). X = Q^-1 R follows, its scale from the bias.
    Neither labels nor batch size are needed; several local steps, dropout and the rest of the model do not matter.

    The rank test refuses when no rank stands out (batch too large, noise) and when there are fewer units at rest per
    example than 2.5 and one for each other example that the model gives nearly proportional errors. Refuses too when
    no dense layer with bias is fed the input, or none of its units is ever at rest.
    The certificate asks the model: which units are at rest at the claimed inputs? It is the relative residual of the
    equation with delta zero there, and needs ten more such units per example than a mixture could be fitted to.
    """

    @property
    def citation(self) -> str:
        """Dimitrov et al. 2024."""
        return citations.SPEAR

    def _read(self, seen: Observation) -> Separable | Refusal:
        return separable(seen)

    def _attempt(self, seen: Observation, read: Separable, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        # First so that small errors count as much as large ones, as where some examples were learned by heart; where
        # rows cannot be brought to one length, or not all is explained by that, rows as they are.
        even = balanced(read.problem) if read.factors.rank > 1 else None
        found: list[tuple[float, Attempt[Inputs]]] = []
        if even is not None:
            own = dataclasses.replace(read, problem=even)
            found.append(self._separated(seen, own, key=key.child("even"), clock=clock, watch=watch))
            if found[0][0] <= _tolerance(seen, read):
                return found[0][1]
        found.insert(0, self._separated(seen, read, key=key, clock=clock, watch=watch))
        return min(found, key=lambda one: one[0])[1]

    def _separated(
        self, seen: Observation, read: Separable, *, key: Key, clock: Clock, watch: Watch
    ) -> tuple[float, Attempt[Inputs]]:
        """The attempt, and the worst residual of its inputs, each of its own part; infinite without a claim."""
        rank = read.factors.rank

        def stop(turn: int, found: int) -> bool:
            watch(Progress(clock.fraction(turn, ROUNDS), 1 - found / rank, f"{found} of {rank} examples separated"))
            hopeless = turn >= HOPELESS and found < rank / 3
            return turn >= ROUNDS or hopeless or clock.exhausted(turn)

        directions = sparse_directions(read.problem, key.numpy(), stop=stop)
        directions = _completed(read, directions)
        # G = delta^T [X, 1] fitted without one of the errors would spread what it explains over all other inputs.
        if len(directions) < rank:
            sentence = f"the update holds {rank} examples; {len(directions)} could be separated, and all are needed"
            return math.inf, Attempt(repr(self), Outcome.DIVERGED, sentence)
        solved = _inputs(read, directions)
        if solved is None:
            sentence = "the bias gradient does not give the scale of an input"
            return math.inf, Attempt(repr(self), Outcome.DIVERGED, sentence)
        inputs, errors = solved
        return self._claim(seen, read, inputs, errors)

    def _claim(self, seen: Observation, read: Separable, inputs: Array, errors: Array) -> tuple[float, Attempt[Inputs]]:
        dtype, rank = seen.release.by_name[read.layer.weight].dtype, read.factors.rank
        awake = read.resting.awake(inputs, _margin(seen, read.layer, inputs, SLACK[dtype]))
        judged = Judged(read.gradient, inputs, awake, read.problem.live)
        residual = judged.residual()
        if not residual <= CONTRADICTED:
            sentence = f"the model contradicts the separated inputs: relative residual {residual:.1e}"
            return math.inf, Attempt(repr(self), Outcome.DIVERGED, sentence)
        tolerance, mixed = _tolerance(seen, read), False
        proving = bent(seen) is None and judged.witnesses() >= WITNESSES
        # Only where there is a proof to lose: it runs the model for each claim and label.
        if proving and residual <= tolerance:
            proving = not (mixed := _mixed(seen, read, inputs, residual))
        # An example with hardly any error may be anything, and the equation still holds for the batch.
        own = _own(read, inputs, errors, residual)
        certificate = Certificate(own, (tolerance,) * rank, STATEMENT + OWN) if proving else None
        certified = certificate is not None and certificate.holds
        like = seen.target.parameters()[read.layer.weight]
        values = torch.from_numpy(inputs).reshape(-1, *seen.target.domain.shape).to(like.dtype)
        labels = labels_of(seen.target, read.resting, inputs, errors)
        claim = Inputs(values, labels, torch.ones(rank) if certified else None)
        sentence = _sentence(seen, read, residual, judged.witnesses())
        if mixed:
            sentence += "; no proof, since here several examples can have proportional errors and look like one"
        attempt = settled(
            seen,
            Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate),
            near=lambda one: tuple(map(max, hidden_distance(seen, read.layer, one, (residual,) * rank), own)),
        )
        # Behind the certificate, which is of the inputs: labels that explain the errors are no part of what it proves.
        if labels is None and attempt.claim is not None:
            labels = masked_labels(seen, read.layer, inputs)
            attempt = dataclasses.replace(attempt, claim=dataclasses.replace(attempt.claim, labels=labels))
        return max(own), attempt


def _own(read: Separable, inputs: Array, errors: Array, residual: float) -> tuple[float, ...]:
    """(r,) how far each input can be off, relative to itself: the residual in units of what it alone leaves.

    X = (delta^T)^+ G, so that what is missing of G moves [x_s, 1] by its norm times that of row s of the pseudoinverse.
    """
    reach = np.linalg.norm(np.linalg.pinv(errors.T), axis=1)
    lengths = np.linalg.norm(np.hstack([inputs, np.ones((len(inputs), 1))]), axis=1)
    return tuple((residual * float(np.linalg.norm(read.gradient)) * reach / lengths).tolist())


def _mixed(seen: Observation, read: Separable, inputs: Array, residual: float) -> bool:
    """Whether one of the inputs may stand for several examples: not where there are as many as the batch holds."""
    # As many as the batch holds: none is left to be mixed. Rank 1 of several: the same example, or one mixture of all
    # of them; the equation holds for both.
    if seen.knows(BatchSize) and (read.factors.rank in (1, seen.told(BatchSize).count)):
        return seen.told(BatchSize).count > read.factors.rank
    errors = Errors(seen, read.layer, inputs)
    return any(errors.repeat(place, read.problem.live, residual=residual) for place in range(len(inputs)))


def _sentence(seen: Observation, read: Separable, residual: float, witnesses: int) -> str:
    rank = read.factors.rank
    parts = [f"{rank} input{'s' if rank > 1 else ''} in closed form: rank {rank} with a gap of {read.factors.gap:.1e}"]
    parts.append(f"relative residual {residual:.1e}, at least {witnesses} witnesses each")
    if seen.knows(BatchSize) and seen.told(BatchSize).count > rank:
        parts.append(f"{seen.told(BatchSize).count - rank} of the batch are repetitions or leave no trace")
    doubt = bent(seen)
    if doubt is not None:
        parts.append(f"no proof: {doubt.sentence}")
    elif witnesses < WITNESSES:
        parts.append(f"no proof, which takes {WITNESSES} witnesses")
    return "; ".join(parts)


def separable(seen: Observation) -> Separable | Refusal:
    """Everything that does not depend on luck, or why the attack does not apply."""
    found = _matrix(seen)
    if isinstance(found, Refusal):
        return found
    layer, matrix = found
    resting = Resting(seen.target, layer)
    noise = probe_inputs(seen.target, PROBES, key=Key(0).child("rest")).double().cpu().flatten(1).numpy()
    rest = float(1 - resting.awake(noise).mean())
    if rest == 0:
        name = layer.name or "of the model"
        return Refusal(
            f"no unit of the dense layer {name} is ever at rest (no ReLU after it): mixtures look like inputs"
        )
    # G = L R with L (H, r) and orthonormal R (r, D + 1). A fixed key: whether it refuses may not depend on the trial's.
    factors = factor(matrix, Key(0).child("rank").numpy())
    if isinstance(factors, str):
        return Refusal(f"{factors}: more examples than the layer can hold, or noise")
    if seen.knows(BatchSize) and factors.rank > seen.told(BatchSize).count:
        told = seen.told(BatchSize).count
        return Refusal(f"the update has rank {factors.rank}, more than its {told} examples: something was added to it")
    # delta^T = L Q and [X, 1] = Q^-1 R for one r by r matrix Q, which is known by the zeros of delta.
    problem = whitened(factors.left, factors.noise)
    # One example needs no zeros: every row is a multiple of [x, 1].
    if problem is None or factors.rank > 1:
        crowded = _crowded(seen, factors, rest * int(problem.live.sum()) if problem else 0.0, resting)
        if problem is None or crowded:
            alive = int((np.linalg.norm(factors.left, axis=1) > 0).sum())
            return Refusal(
                f"rank {factors.rank} is too much for {alive} live units, of which {rest:.0%} are at rest: {crowded}"
            )
    return Separable(layer, matrix, factors, problem, resting)


def _crowded(seen: Observation, factors: Factors, resting_units: float, resting: Resting) -> str:
    """Why units at rest are too few for the rank, with the numbers; empty where they may do.

    An example whose errors are proportional to another's where both wake a unit hides in their difference, which
    vanishes at as many units: each such neighbor takes up to one more unit to tell.
    """
    there = resting_units / factors.rank
    if there < ENOUGH:
        return f"separating the examples takes about {ENOUGH:g} units at rest for each"
    # Enough even if all others were neighbors: the model need not be run.
    if there >= ENOUGH + HIDING * (factors.rank - 1):
        return ""
    neighbors = (factors.rank - 1) * twins(seen.target, resting)
    needed = ENOUGH + HIDING * neighbors
    if there >= needed:
        return ""
    return (
        f"separating the examples takes about {needed:.1f} units at rest for each, {ENOUGH:g} and {HIDING:g} for each "
        f"of about {neighbors:.1f} others with nearly proportional errors, and there are {there:.1f}"
    )


def _matrix(seen: Observation) -> tuple[DenseLayer, Array] | Refusal:
    """The input layer and [dL/dW, dL/db] (H, D + 1) in float64."""
    found = biased_layer(seen)
    if isinstance(found, Refusal):
        return found
    layer, gradient = found
    assert layer.bias is not None
    dtype = seen.release.by_name[layer.weight].dtype
    if dtype not in EXACT:
        return Refusal(f"the update is {dtype}, expected a floating type of 16 bits or more")
    return layer, _joined(gradient, layer.weight, layer.bias)


def _completed(read: Separable, directions: list[Direction]) -> list[Direction]:
    """With the last of r directions, when it alone is missing: its input is orthogonal to the others, so the model
    can be asked which units it leaves at rest."""
    factors, problem = read.factors, read.problem
    if not directions or len(directions) != factors.rank - 1:
        return directions
    # Row j of Q^-1 is orthogonal to every column of Q but the j-th: the null vector of the known columns is the missing
    # row but for its length, and times R a multiple of [x, 1]. Two missing leave a plane of such vectors.
    known = np.stack([problem.turn @ one.vector for one in directions])
    missing = np.linalg.svd(known, full_matrices=True)[2][-1] @ factors.right
    if abs(missing[-1]) < 1e-12 * np.linalg.norm(missing):
        return directions
    # The 1 of [x, 1] gives the scale.
    inputs = (missing[:-1] / missing[-1])[None]
    reach = 1e-6 * np.linalg.norm(read.gradient, axis=1)[None] / max(np.linalg.norm(read.gradient), 1e-300)
    rest = ~read.resting.awake(inputs, reach * np.linalg.norm(inputs))[0] & problem.live
    # r - 1 rows fix the q (r,) that vanishes at them; one more can say that there is none.
    if int(rest.sum()) < factors.rank:
        return directions
    # min |L q| over the rows at rest, each in units of its noise: the least right singular vector.
    vector = np.linalg.svd(factors.left[rest] / factors.noise[rest, None], full_matrices=True)[2][-1]
    return [*directions, *refitted(problem, vector)]


def _inputs(read: Separable, directions: list[Direction]) -> tuple[Array, Array] | None:
    """X (r, D) and delta (r, H), least squares in turn: delta with its zeros, then X. None when a scale is lost."""
    live, noise = read.problem.live, read.factors.noise
    mixing = np.stack([read.problem.turn @ one.vector for one in directions], axis=1)
    zeros = np.stack([one.zeros | ~live for one in directions])
    # delta^T = L Q, with its zeros set: what stands there is noise, and the fit would share it among the inputs.
    errors = np.where(zeros, 0.0, (read.factors.left @ mixing).T)
    # G = delta^T [X, 1] row by row, in units of each row's noise.
    weights = 1 / noise[live, None]
    extended = np.linalg.lstsq(errors[:, live].T * weights, read.gradient[live] * weights, rcond=None)[0]
    # The length of a column of Q says nothing: row s comes out as a multiple of [x_s, 1], its last entry.
    scale = extended[:, -1:]
    if bool((np.abs(scale) < 1e-12 * np.linalg.norm(extended, axis=1, keepdims=True)).any()):
        return None
    return extended[:, :-1] / scale, errors * scale


def _margin(seen: Observation, layer: DenseLayer, inputs: Array, slack: float) -> Array:
    """(r, H): how far a unit may be from where the first weights put it: rounding, and the movement of the weights."""
    assert layer.bias is not None
    extended = np.hstack([inputs, np.ones((len(inputs), 1))])
    names = (layer.weight, layer.bias)
    weights = _joined(seen.target.parameters(), *names)
    # Rounding of w . [x, 1] is at most a multiple of |w| |[x, 1]| (Cauchy and Schwarz).
    margin = slack * np.outer(np.linalg.norm(extended, axis=1), np.linalg.norm(weights, axis=1))
    if isinstance(seen.release, Delta):
        # From the first weights to the last. A value that went and came back shows nothing of it, so at least what the
        # unit was moved in the mean. The sign of the difference does not matter.
        moved = np.abs(extended @ _joined(seen.release.by_name, *names).T)
        margin += EXCURSION * np.maximum(moved, moved.mean(0))
    return np.asarray(margin)


def _joined(named: Named, weight: str, bias: str) -> Array:
    """[W, b] (H, D + 1) in float64."""
    return np.asarray(torch.cat([named[weight], named[bias][:, None]], dim=1).double().cpu().numpy())


def _tolerance(seen: Observation, read: Separable) -> float:
    """By the dtype; a difference of weights is also rounded to the last place of the weights."""
    assert read.layer.bias is not None
    sent = seen.release.by_name[read.layer.weight]
    exact = EXACT[sent.dtype]
    if not isinstance(seen.release, Delta):
        return exact
    weights = seen.target.parameters()[read.layer.weight]
    # W_after - W_before keeps the rounding of W itself, eps |W|, which is large beside a short step.
    coarse = torch.finfo(weights.dtype).eps * float(weights.norm() / sent.norm())
    return min(max(exact, coarse), COARSEST)
