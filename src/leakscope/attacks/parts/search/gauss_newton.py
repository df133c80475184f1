"""The end of a search for inputs with given outputs: Gauss-Newton steps, each input by itself and all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from leakscope.core.arguments import count
from leakscope.core.effort import Clock, Progress, Watch, unwatched

Residuals = Callable[[Tensor], Tensor]
"""Inputs (N, *shape) to what they leave (N, m); row i depends on input i alone."""

STEPS, PRODUCTS = 10, 60
"""Gauss-Newton steps at most, and steps of conjugate gradients inside each: features of convolutional maps have
condition numbers near 50, and 60 leave a thousandth of what a step is to remove."""
SHORTER, SHORTENED = 1 / 3, 5
"""By how much a step that leads up is cut, and how often: behind a kink of a rectifier the linear model is wrong."""
RESERVED = 2 + SHORTENED
"""Evaluations that have to be left for two products, a slope and the looks, one less: a budget is not overspent."""
WORTH = 0.5
"""A further step is worth its while where the last one has at least halved the squared residual of some input."""
SOLVED = 1e-10
"""Share of the squared slope that conjugate gradients leave: below it float32 adds rounding only."""


def gauss_newton(
    residuals: Residuals,
    inputs: Tensor,
    limits: tuple[Tensor, Tensor],
    *,
    clock: Clock,
    spent: int = 0,
    watch: Watch = unwatched,
    steps: int = STEPS,
) -> tuple[Tensor, int, bool]:
    """Inputs (N, *shape) in [low, high] with sums of squared residuals no larger than before, evaluations spent, and
    whether a KeyboardInterrupt ended it, after which the inputs are those of the last whole step.

    A step p_i is what conjugate gradients make of min |J_i p + r_i|^2 over the entries that are free: not at a bound
    that the slope J_i^T r_i would push them through (Bertsekas 1982, projected Newton, doi:10.1137/0320018). From p = 0
    that is the least step among those that serve as well, so what the residuals do not fix stays as it was. It is cut
    to a third until the sum of squares falls, input by input; where it never does, that input stays.
    Behind rectifiers r is linear in pieces, and one step ends what a first-order search does in hundreds.
    An evaluation is one pass back through the residuals, product with J or with its transpose, or one look at them.
    Where they can be differentiated once only, the inputs come back as they were. Raises `BadInput` on steps < 1.

    >>> from leakscope.core.effort import Budget
    >>> wanted, limits = torch.tensor([[0.2, 0.7]]), (torch.zeros(1), torch.ones(1))
    >>> mixing = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    >>> left = lambda inputs: (inputs - wanted) @ mixing.T
    >>> found, _, _ = gauss_newton(left, torch.full((1, 2), 0.5), limits, clock=Budget().start())
    >>> bool(torch.allclose(found, wanted, atol=1e-6))
    True
    """
    steps = count("steps", steps, low=1)
    low, high = (torch.as_tensor(limit).to(inputs) for limit in limits)
    inputs, began = inputs.detach(), spent
    try:
        for step in range(steps):
            if clock.exhausted(spent + RESERVED):
                break
            tangent = _tangent(residuals, inputs)
            if tangent is None:
                break
            left, along, back = tangent
            slope = back(left)
            free = ~(((inputs <= low) & (slope > 0)) | ((inputs >= high) & (slope < 0)))
            move, products = _solved(left, slope, (along, back, free), clock, spent)
            spent += products + 1
            sums = left.square().sum(1)
            inputs, after, looks = _shortened(residuals, inputs, move, (low, high), sums)
            spent += looks
            watch(Progress((step + 1) / steps, float(after.mean()), "Gauss-Newton", spent))
            # Not all of them: in a batch one input may go on while others have arrived.
            if not bool((after < WORTH * sums).any()):
                break
    except KeyboardInterrupt:
        return inputs, spent - began, True
    return inputs, spent - began, False


def _tangent(residuals: Residuals, inputs: Tensor) -> tuple[Tensor, Residuals, Residuals] | None:
    """The residuals, p -> J p and w -> J^T w at the inputs; None where no second derivative is known."""
    leaf = inputs.clone().requires_grad_(True)
    with torch.enable_grad():
        left = residuals(leaf)
        # J^T w is linear in w, so that its derivative along w is J: two passes back, and the pass forward only once.
        weights = torch.zeros_like(left, requires_grad=True)
        try:
            (through,) = torch.autograd.grad(left, leaf, weights, create_graph=True)
            probe = None
            if through.requires_grad:
                shape = torch.zeros_like(through)
                (probe,) = torch.autograd.grad(through, weights, shape, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            # What torch says of an operation whose backward pass has no derivative; all else is a fault.
            if any(words in str(error) for words in ("derivative", "differentiate twice", "not implemented")):
                return None
            raise
    if probe is None:
        return None

    def along(move: Tensor) -> Tensor:
        return torch.autograd.grad(through, weights, move, retain_graph=True)[0]

    def back(row: Tensor) -> Tensor:
        return torch.autograd.grad(left, leaf, row, retain_graph=True)[0]

    return left.detach(), along, back


def _solved(
    left: Tensor, slope: Tensor, products: tuple[Residuals, Residuals, Tensor], clock: Clock, spent: int
) -> tuple[Tensor, int]:
    """min |J p + left|^2 over free entries of p by conjugate gradients, for each input, and how many products it took.

    Hestenes and Stiefel 1952 in the form that never forms J^T J p from p, which would square the rounding.
    """
    along, back, free = products
    move = torch.zeros_like(slope)
    rest, downward = -left, -slope * free
    direction, size = downward, _squares(downward)
    begun, taken = size, 0
    for _ in range(PRODUCTS):
        if clock.exhausted(spent + taken + RESERVED) or not bool((size > SOLVED * begun).any()):
            break
        ahead = along(direction)
        # Inputs that are solved take no more steps: 0 / 0 below, and rounding above it.
        share = torch.where(size > SOLVED * begun, size / _squares(ahead).clamp(min=TINY), 0.0)
        move = move + _wide(share, move) * direction
        rest = rest - _wide(share, rest) * ahead
        downward = back(rest) * free
        following = _squares(downward)
        direction = downward + _wide(following / size.clamp(min=TINY), move) * direction
        size, taken = following, taken + 2
    return move, taken


def _shortened(
    residuals: Residuals, inputs: Tensor, move: Tensor, limits: tuple[Tensor, Tensor], sums: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Each input after the longest step tried that leads down, its sum of squares, and how many were tried."""
    share, after, looks = torch.ones_like(sums), sums, 0
    best, moved = inputs, torch.zeros_like(sums, dtype=torch.bool)
    for _ in range(SHORTENED):
        tried = torch.minimum(torch.maximum(inputs + _wide(share, inputs) * move, limits[0]), limits[1])
        with torch.no_grad():
            found = residuals(tried).square().sum(1)
        # NaN is not below anything.
        down = (found < sums) & ~moved
        best = torch.where(_wide(down, inputs), tried, best)
        after, moved, looks = torch.where(down, found, after), moved | down, looks + 1
        if bool(moved.all()):
            break
        share = share * SHORTER
    return best, after, looks


TINY = torch.finfo(torch.float32).tiny


def _squares(values: Tensor) -> Tensor:
    return values.flatten(1).square().sum(1)


def _wide(each: Tensor, like: Tensor) -> Tensor:
    """(N,) against (N, ...)."""
    return each.reshape(-1, *[1] * (like.dim() - 1))
