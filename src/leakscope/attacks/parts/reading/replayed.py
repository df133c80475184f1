"""The whole declared update replayed from a claim, labels included, and compared with the release by tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from leakscope.attacks.parts.reading.explained import LIKELY, Explained, explained
from leakscope.attacks.parts.reading.output_gradient import only_row_pattern, read_output, told_one
from leakscope.core.asking import replay_of
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.errors import UnusableMechanism
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.mechanism import AbstractReplayable
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import clipped, drops_units, evenly, keeps_model, keeps_ratios, known_weights
from leakscope.mechanisms.running import passes
from leakscope.numerics import trees
from leakscope.numerics.trees import Named

AGREES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest relative difference of a tensor, by the coarser dtype of model and release: rounding of a forward and a
backward pass stays below it, another example or another step far above."""
FLOOR = 1e-3
"""Of that, what the largest tensor allows all others: a gradient that is zero by symmetry is all rounding."""
PLACES = 4.0
"""Last places of the weights that a difference of weights may be off."""
MOST_PASSES = 2_000
"""Passes over the model, one after the other, that a replay for a proof may take: some seconds of a small one."""
WHOLE = 2e-3
"""Distance from one of the sum of all shares: tensors in different scales would hide a multiple of the inputs in it."""
SHARE = 0.02
"""Distance of a label's share of the batch from what a batch of such labels has."""


def unreplayable(seen: Observation) -> str | None:
    """Why the update cannot be replayed from inputs, whatever they are; None where it can."""
    if not isinstance(seen.mechanism, AbstractReplayable) or keeps_ratios(seen.mechanism) is not Answer.YES:
        return "its mechanism cannot be repeated exactly"
    if passes(seen.mechanism) > MOST_PASSES:
        return f"a replay takes {passes(seen.mechanism)} passes over the model"
    if drops_units(seen.mechanism) is Answer.YES or drops(seen.target.module):
        return "layers dropped units at random"
    if keeps_model(seen.mechanism) is not Answer.YES:
        return "the client may have run the model in another way"
    if not acts_as(seen.target.loss, CrossEntropy):
        return "the labels of its loss are not known"
    return None


def disagreement(seen: Observation, claim: Inputs) -> float | None:
    """How far the replay from the claim is from the release: the worst tensor, in units of what rounding explains.

    At most 1 where they agree. None where it cannot be said: too many labels to try, an order that is not known,
    several steps on inputs some of which may have been repeated.
    """
    values, count = claim.values.to(seen.target.device()), len(claim.values)
    tried = _likely(seen, claim) if not seen.knows(BatchSize) or seen.told(BatchSize).count == count else []
    best = min((_apart(seen, values, labels) for labels in tried), default=float("inf"))
    if best <= 1:
        return best
    # Infinite only of a replay that is not finite: a wrong label may overflow, but none of them all.
    if tried and math.isinf(best):
        raise UnusableMechanism(f"{seen.mechanism!r} cannot replay a batch: it returns values that are not finite")
    # Shares are compared with those of a batch whose examples count alike.
    if known_weights(seen.mechanism) is Answer.YES and evenly(seen) is not Answer.NO:
        found = explained(seen, values)
        if found is not None:
            return _of_mixture(seen, found, values)
        # Of one example every likely label was tried; of more, the labels are a guess.
        return best if tried and count == 1 else None
    if not tried or (count > 1 and (not seen.knows(BatchSize) or _ordered(seen, values))):
        return None
    return best


def labels_agree(seen: Observation, claim: Inputs) -> bool:
    """Whether the update replayed with the very labels of the claim agrees; inputs may be proved and labels not."""
    if claim.labels is None:
        return True
    values, labels = claim.values.to(seen.target.device()), claim.labels.to(seen.target.device())
    if not _apart(seen, values, labels) <= 1:
        return False
    return not any(_apart(seen, values, other, turned=True) <= 1 for other in _others(seen, labels))


def _others(seen: Observation, labels: Tensor) -> list[Tensor]:
    """Labels whose update might be the claim's with the opposite sign: all exchanged of two classes, any of one input.

    Where the model is torn between two classes, as with a head of zeros, p - e_0 = -(p - e_1): then the inputs are
    proved by either, and which label it was hangs on a sign that nothing else confirms.
    """
    if seen.target.classes == 2:
        return [1 - labels]
    if len(labels) > 1:
        return []
    return [one for one in _single(seen, labels.device) if not torch.equal(one, labels)]


def drops(module: nn.Module) -> bool:
    """Whether a layer drops in the mode that the target has: the draws are not known.

    >>> drops(nn.Dropout(0.5)), drops(nn.Dropout(0.5).eval())
    (True, False)
    """
    for one in module.modules():
        rate = one.p if isinstance(one, _DropoutNd) else 0.0
        if isinstance(one, nn.RNNBase | nn.MultiheadAttention):
            rate = one.dropout
        if one.training and rate > 0:
            return True
    return False


def _likely(seen: Observation, claim: Inputs) -> list[Tensor]:
    """Labels of the claim's items that are worth a replay: those claimed or told, else the likely ones."""
    count, device = len(claim.values), seen.target.device()
    if claim.labels is not None:
        found = [claim.labels.to(device)]
    elif told_one(seen) and seen.knows(TrueLabels):
        found = [torch.tensor(seen.told(TrueLabels).values, device=device)]
    else:
        found = []
    if count == 1:
        return [*found, *_single(seen, device)]
    if not found:
        middle = halfway(seen)
        mixture = explained(middle, claim.values.to(device))
        found = [] if mixture is None else [_hard(middle, mixture.weights, claim.values.to(device)).labels]
    return found


@final
@dataclass(frozen=True, eq=False)
class _Hard:
    """Each input's one label (S,), its share of the batch (S,), and what of its weights no label explains (S,)."""

    labels: Tensor
    shares: Tensor
    left: Tensor


def _hard(seen: Observation, weights: Tensor, values: Tensor) -> _Hard:
    """The label y and the share w >= 0 of each input for which its weights (C,) are nearest to w e_y + t q, for any t.

    sum_y q_y gradient(x, y) = 0 with q = p for labels that are not smoothed, so that any multiple of q may stand in the
    weights: soft labels of two classes are a smaller share of one, and what they sum to says nothing.
    """
    loss = seen.target.loss
    smoothing = loss.smoothing if acts_as(loss, CrossEntropy) else 0.0
    with torch.no_grad():
        p = torch.softmax(seen.target.outputs(seen.target.parameters(), values).double(), 1).cpu()
    # gradient(x, y) = (p - (1 - s) e_y - s / C) h: sum_y q_y of it vanishes for q = (p - s / C) / (1 - s), sum q = 1.
    q = (p - smoothing / p.shape[1]) / (1 - smoothing)
    full = torch.zeros_like(q)
    full[:, : weights.shape[1]] = weights
    # |rest|^2 over the labels but y, less what its multiple of q explains; zero divided by zero explains nothing
    rest = full.square().sum(1, keepdim=True) - full.square()
    along = (full * q).sum(1, keepdim=True) - full * q
    size = (q.square().sum(1, keepdim=True) - q.square()).clamp_min(1e-300)
    shares = full - along / size * q
    # A share below zero is another label's: with two classes both explain all.
    left = torch.where(shares > 0, (rest - along.square() / size).clamp_min(0), torch.inf)
    labels = left.argmin(1, keepdim=True)
    share = shares.gather(1, labels).clamp_min(0)[:, 0]
    return _Hard(labels[:, 0].to(values.device), share, left.gather(1, labels)[:, 0].sqrt())


def halfway(seen: Observation) -> Observation:
    """The steps read as one gradient in the middle of the way, where their mean is to second order.

    At the first weights the mean of the steps can be a mixture with other labels; labels are whole numbers, so that
    the middle is near enough to find them, and the replay decides.
    """
    # One step is a gradient at the first weights, and not on the way.
    if not isinstance(seen.release, Delta) or known_weights(seen.mechanism) is Answer.YES:
        return seen
    moved = _own(seen, seen.release.by_name)
    middle = {n: v + moved[n].to(v) / 2 if n in moved else v for n, v in seen.target.parameters().items()}
    return Observation(seen.target.at(middle), seen.gradient(), FedSGD(), seen.facts)


def _single(seen: Observation, device: torch.device) -> list[Tensor]:
    """All labels where they are few, else those of the most negative entries of dL/db, or of the longest row."""
    if seen.target.classes <= LIKELY:
        return [torch.tensor([label], device=device) for label in range(seen.target.classes)]
    output = read_output(seen)
    if isinstance(output, Refusal):
        return []
    if output.bias is None:
        assert output.weight is not None  # one of the two is there
        return [torch.tensor([only_row_pattern(output.weight)[0]], device=device)]
    return [torch.tensor([label], device=device) for label in output.bias.argsort()[:LIKELY].tolist()]


def _own(seen: Observation, given: Named) -> Named:
    """What of a release was computed for a parameter: buffers, as of batch normalization, are no part of a replay."""
    return trees.select(given, seen.target.parameters())


def _apart(seen: Observation, values: Tensor, labels: Tensor, *, turned: bool = False) -> float:
    """The worst tensor's difference of replay and release, or its opposite, in units of what is allowed."""
    assert isinstance(seen.mechanism, AbstractReplayable)
    sent = _own(seen, seen.release.by_name)
    replay = replay_of(seen.mechanism, seen.target, Batch(values, labels), sent).by_name
    sign = -1.0 if turned else 1.0
    away = {n: float((replay[n].detach().double() - sign * v.double()).norm()) for n, v in sent.items()}
    return _worst(seen, sent, away, _tolerance(seen, values, labels))


def _of_mixture(seen: Observation, found: Explained, values: Tensor) -> float:
    """The same for a mixture of the claimed inputs with one label each, whose shares must be those of a batch."""
    sent, hard = _own(seen, seen.gradient().by_name), _hard(seen, found.weights, values)
    # Of the labels that are left once each input has one, since soft ones explain other losses too.
    away = {name: _larger(left, found.apart.get(name, left)) for name, left in _hardened(seen, hard, values).items()}
    worst = _worst(seen, sent, away, _tolerance(seen, values, hard.labels))
    total = hard.shares.sum().clamp_min(1e-300)
    # Soft labels are those of mixup, or of a smoothing that was not declared: the inputs may be no private ones.
    worst = _larger(worst, float((hard.left / total).max()) / SHARE)
    if clipped(seen) is Answer.NO:
        # A mean has shares that sum to one. -g is a mixture too, with the share -1.
        exact = AGREES[torch.float32] >= _tolerance(seen, values, hard.labels) and not isinstance(seen.release, Delta)
        worst = _larger(worst, float((total - 1).abs()) / (WHOLE if exact else SHARE))
    if seen.knows(BatchSize):
        counts = hard.shares / total * seen.told(BatchSize).count
        worst = _larger(worst, float((counts - counts.round()).abs().max()) / SHARE)
    return worst


def _hardened(seen: Observation, hard: _Hard, values: Tensor) -> dict[str, float]:
    """|observed - sum_s share_s gradient(x_s, y_s)| by tensor, with the one label of each input."""
    target, parameters = seen.target, seen.target.parameters()
    left = {name: value.double() for name, value in seen.gradient().by_name.items()}
    with quiet(target):
        for one, label, share in zip(values, hard.labels, hard.shares.tolist(), strict=True):
            slope = torch.func.grad(target.loss_at)(parameters, Batch(one[None], label[None]))
            left = {name: value - share * slope[name].double() for name, value in left.items()}
    return {name: float(value.norm()) for name, value in left.items()}


def _worst(seen: Observation, sent: Named, away: dict[str, float], tolerance: float) -> float:
    """The largest of `away` by what rounding allows; sent: the release, or the gradient that it stands for."""
    norms = {name: float(value.double().norm()) for name, value in sent.items()}
    least = FLOOR * max(norms.values())
    worst = 0.0
    for name, size in norms.items():
        allowed = tolerance * max(size, least) + last_places(seen, name, size)
        worst = _larger(worst, away.get(name, float("inf")) / max(allowed, 1e-300))
    return worst


def _larger(one: float, other: float) -> float:
    """The larger of two differences; infinite where one is NaN, of which `max` would lose it: no numbers agree."""
    return float("inf") if math.isnan(one) or math.isnan(other) else max(one, other)


def last_places(seen: Observation, name: str, size: float) -> float:
    """How far rounding of the weights moves a tensor of the norm `size`, in its unit; 0 for what is no difference.

    w_K - w_0 is a multiple of the last place of w, for each entry by itself.
    """
    if not isinstance(seen.release, Delta):
        return 0.0
    start = seen.target.parameters()[name]
    released = float(seen.release.by_name[name].double().norm())
    unit = size / released if released > 0 else 1.0
    return PLACES * torch.finfo(start.dtype).eps * float(start.double().norm()) * unit


def _tolerance(seen: Observation, values: Tensor, labels: Tensor) -> float:
    """By the coarser dtype; of an example that the model is sure of, p - y is rounded at p's last place."""
    target = seen.target
    sent = _own(seen, seen.release.by_name)
    dtypes = {value.dtype for value in (*target.parameters().values(), *sent.values())}
    exact = max(AGREES.get(dtype, AGREES[torch.bfloat16]) for dtype in dtypes)
    with torch.no_grad():
        p = torch.softmax(target.outputs(target.parameters(), values).double(), 1)
    open_ = float((1 - p.gather(1, labels.to(p.device)[:, None])).min())
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    return min(exact + 8 * eps / max(open_, 1e-12), 10 * exact)


def _ordered(seen: Observation, values: Tensor) -> bool:
    """Whether the order of the examples counts, which a claim has not: minibatches."""
    assert isinstance(seen.mechanism, AbstractReplayable)
    labels = torch.arange(len(values), device=values.device) % seen.target.classes
    sent = _own(seen, seen.release.by_name)
    one = replay_of(seen.mechanism, seen.target, Batch(values, labels), sent).by_name
    other = replay_of(seen.mechanism, seen.target, Batch(values.flip(0), labels.flip(0)), sent).by_name
    apart = trees.norm({n: (one[n] - other[n]).detach() for n in sent})
    # Not `>`, which NaN would pass as an order that does not count.
    return not float(apart) <= 1e-3 * float(trees.norm({n: one[n].detach() for n in sent}))
