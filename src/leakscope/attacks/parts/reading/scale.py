"""Whether a claim's size is its own: tensors that were sent in different scales make a multiple of the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from leakscope.attacks.parts.reading.explained import MOST
from leakscope.attacks.parts.reading.replayed import drops, last_places
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import keeps_model, known_weights
from leakscope.targets.looking.probe import FORWARD_ERRORS

SAME = 3e-4
"""Largest relative difference of a tensor that is rounding of a forward and a backward pass in float32."""
OTHER = 1.02
"""A factor that has to be told from one, both ways: a check that could not fail would show nothing."""
FAR = 1.25
"""A factor at which a loss of this temperature is tried."""
ANY = 1e-2
"""Largest relative difference of gradients at it that a claim in the wrong size could hide behind: a tolerance of a
replay is a tenth of that, for a factor that is nearer to one."""
ENTRIES = 2e7
"""Largest product of entries and unknown errors, a second or two."""


def sized(seen: Observation, values: Tensor) -> bool | Refusal:
    """Whether the declared model shows that the inputs are not those that were fed times a number.

    dL/dW = sum_s delta_s x_s^T, dL/db = sum_s delta_s: with dL/db c times as large (a learning rate of its own for
    biases, a clip by tensor), x_s / c and c delta_s explain the same to the last digit. With all biases zero a
    rectified net is blind to c throughout. So the whole update is asked, whatever the loss: some errors e_s at the
    output must give it, G = sum_s J(x_s)^T e_s, and at f x_s none may, not even with a scale for each tensor.
    values: (N, *shape), all inputs of the batch. False where it does not show, or cannot be asked; a refusal where the
    model contradicts the claim.
    """
    if known_weights(seen.mechanism) is not Answer.YES or keeps_model(seen.mechanism) is not Answer.YES:
        return False
    target, sent = seen.target, seen.gradient().by_name
    names = [name for name in target.parameters() if name in sent and bool(sent[name].any())]
    entries, unknown = sum(sent[name].numel() for name in names), len(values) * target.classes
    if drops(target.module) or unknown > MOST or entries * unknown > ENTRIES or entries <= unknown + len(names):
        return False
    left, same = _left(seen, names, values, free=False), SAME + _rounding(seen, names)
    if not left <= same:
        return Refusal(f"the declared model, run on these inputs, is {left:.0e} from what was sent, whatever the loss")
    return min(_left(seen, names, factor * values, free=True) for factor in (OTHER, 1 / OTHER)) > 3 * same


def any_size(seen: Observation, claim: Inputs) -> bool:
    """Whether another loss sends the same of a multiple of the inputs: CE(z / f) at f x what CE(z) sends at x.

    Without biases a rectified net has z(f x) = f z(x), so every dL/dW = delta x^T is the same of f x and delta / f.
    claim: with its labels, or with any where it has none, since whatever they are the two agree or do not.
    """
    target, sent = seen.target, seen.gradient().by_name
    parameters = target.parameters()
    names = [name for name in parameters if name in sent]
    values = claim.values.detach().reshape(-1, *target.domain.shape).to(next(iter(parameters.values())))
    labels = torch.zeros(len(values), dtype=torch.int64) if claim.labels is None else claim.labels

    def loss(weights: dict[str, Tensor], factor: float) -> Tensor:
        batch = Batch(factor * values, labels.to(values.device))
        return target.loss(target.outputs(weights, batch.inputs) / factor, batch)

    try:
        with quiet(target):
            one, other = (torch.func.grad(loss)(parameters, factor) for factor in (1.0, FAR))
    except FORWARD_ERRORS:
        # What cannot be looked at is not excluded.
        return True
    sizes = {name: float(torch.linalg.vector_norm(one[name].double())) for name in names}
    # Of a tensor that is zero but for rounding nothing can be said, and nothing is.
    away = {name: float(torch.linalg.vector_norm((one[name] - other[name]).double())) for name in names}
    least = ANY * max(sizes.values(), default=0.0)
    return all(away[name] <= ANY * max(sizes[name], least) for name in names)


def _sizes(seen: Observation, names: list[str]) -> list[float]:
    sent = seen.gradient().by_name
    sizes = [float(torch.linalg.vector_norm(sent[name].double())) for name in names]
    # A tensor a thousandth as large as the largest is rounding first.
    return [max(size, 1e-3 * max(sizes)) for size in sizes]


def _rounding(seen: Observation, names: list[str]) -> float:
    """What the last place of the weights makes of the worst tensor of a difference of weights, in units of its size."""
    sent = seen.gradient().by_name
    norms = [float(torch.linalg.vector_norm(sent[name].double())) for name in names]
    sizes = zip(names, norms, _sizes(seen, names), strict=True)
    return max(last_places(seen, name, norm) / size for name, norm, size in sizes)


def _left(seen: Observation, names: list[str], values: Tensor, *, free: bool) -> float:
    """What is left of the worst tensor with the best errors e_s (C,) at the output, each tensor in units of its size.

    free: with a factor for each tensor but the first as well.
    """
    target, sent = seen.target, seen.gradient().by_name
    parameters = target.parameters()
    like = next(iter(parameters.values()))

    def output(weights: dict[str, Tensor], given: Tensor, place: int) -> Tensor:
        return target.outputs(weights, given).reshape(-1)[place]

    columns = []
    with quiet(target):
        for value in values:
            given = value.reshape(1, *target.domain.shape).to(like)
            for place in range(target.classes):
                slope = torch.func.grad(output)(parameters, given, place)
                columns.append([slope[name].reshape(-1).double().cpu() for name in names])
    goal = [sent[name].reshape(-1).double().cpu() for name in names]
    sizes = _sizes(seen, names)
    matrix = torch.stack([torch.cat([p / s for p, s in zip(one, sizes, strict=True)]) for one in columns], 1)
    # Columns of one size, since those of a confident class are tiny.
    matrix = matrix / torch.linalg.vector_norm(matrix, dim=0).clamp_min(1e-300)
    wanted = torch.cat([one / size for one, size in zip(goal, sizes, strict=True)])
    lengths = [len(one) for one in goal]
    if free:
        # J e - s_k g_k = 0 for the others: their factors s_k stand on the left, and only the first is given.
        own = torch.block_diag(*[part[:, None] for part in wanted.split(lengths)])[:, 1:]
        matrix = torch.cat([matrix, -own], 1)
        wanted = torch.cat([wanted[: lengths[0]], torch.zeros(len(wanted) - lengths[0], dtype=wanted.dtype)])
    found = torch.linalg.lstsq(matrix, wanted[:, None], driver="gelsd").solution
    left = (matrix @ found)[:, 0] - wanted
    worst = [float(torch.linalg.vector_norm(one)) for one in left.split(lengths)]
    if not free:
        return max(worst)
    # Of the tensor's own factor; one of zero or below would make it vanish or turn around, and explain anything.
    factors = [1.0, *found[len(columns) :, 0].tolist()]
    return max(w / s if s > 0 else float("inf") for w, s in zip(worst, factors, strict=True))
