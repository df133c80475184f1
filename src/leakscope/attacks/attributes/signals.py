"""What is read off the update of one dense layer before anybody is named: a few numbers for each input of the layer.

The gradient of a layer z = W x + c on B examples is dL/dW = sum_b d_b x_b^T (H, D) and dL/dc = sum_b d_b (H,), with
d_b = dL/dz of example b: sums of the inputs themselves, with weights that training chooses. A signal takes the weights
out as far as it can, so that what it learned of other speakers' updates holds for those of a new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from leakscope.core.arguments import count
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.dense_ends import probe_inputs
from leakscope.targets.looking.tape import named, recorded

TINY = 1e-30
"""Below every square of an entry of an update that is not zero; what is divided by is at least this."""
QUIET = 1e-6
"""Of the mean energy of a layer's inputs: what an input has at least when a logarithm is taken, whose energy is zero
where a feature is zero for all, and would be -infinity."""
RANK = 1e-5
"""Of the largest singular value: those below are the rounding of float32."""


@final
@dataclass(frozen=True)
class Dense:
    """A dense layer by the names of its parameters. bias: empty where it has none. shape: (H, D) of its weight."""

    weight: str
    bias: str
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """How many parameters it has."""
        return self.shape[0] * self.shape[1] + (self.shape[0] if self.bias else 0)


def dense_layers(target: Target) -> tuple[Dense, ...]:
    """The dense layers in the order in which the model calls them, each once; found by running it.

    >>> from leakscope.domains.vectors import Vectors
    >>> from leakscope.targets.zoo.mlp import MLP
    >>> [one.shape for one in dense_layers(MLP((8,)).build(Vectors(5, -1, 1), 3, key=Key(0)))]
    [(8, 5), (3, 8)]
    """
    key = Key(0).child("signals")
    with (
        recorded(target.module, named(target.module, nn.Linear)) as calls,
        key.child("model").isolated(),
        torch.no_grad(),
    ):
        target.outputs(target.parameters(), probe_inputs(target, 2, key=key))
    found: dict[str, Dense] = {}
    for call in calls:
        module = call.module
        assert isinstance(module, nn.Linear)
        layer = Dense(call.weights[0], call.bias or "", (module.out_features, module.in_features))
        found.setdefault(layer.weight, layer)
    return tuple(found.values())


@final
@dataclass(frozen=True, eq=False)
class Sent:
    """What an update holds of one layer, in float64, and how the logits hang on it.

    weight: dL/dW (H, D). bias: dL/dc (H,), None where the layer has none. path: (C, H), the product of the weights of
    all layers behind it, by which its outputs would reach the logits if every unit were on; None where the layers
    behind it are no chain of dense ones.
    """

    weight: Tensor
    bias: Tensor | None = None
    path: Tensor | None = None


class AbstractSignal(ABC):
    """A frozen value: a vector of what the update of layer number `layer`, from 1 at the input on, says.

    All are of the gradient's direction alone: an update that is multiplied says the same, since a learning rate, a
    clipping or the number of local steps is no trait of a person.
    """

    layer: int

    @abstractmethod
    def read(self, sent: Sent) -> Tensor:
        """(n,) float64; n depends on the shapes alone. Raises `BadInput` where `sent` lacks what the signal reads."""


def signal(one: AbstractSignal, update: Named, weights: Named, layers: tuple[Dense, ...]) -> Tensor:
    """(n,) float64, what `one` reads of an update by parameter name.

    weights: the global ones that the client started from. layers: of the model, as `dense_layers` gives them.
    Raises `NoSuchLayer` where the model has fewer layers, and `BadInput` where the update lacks this one (it is frozen
    or was not shared), or where what was read is not finite.
    """
    layer = layer_of(one, layers)
    lacking = [name for name in (layer.weight, layer.bias) if name and name not in update]
    if lacking:
        raise BadInput(f"{one!r} reads {lacking[0]}, which the update does not hold; read a layer that is shared")
    weight = update[layer.weight].detach().double().cpu()
    bias = update[layer.bias].detach().double().cpu() if layer.bias else None
    found = one.read(Sent(weight, bias, through(layer, weights, layers[one.layer :])))
    if not bool(torch.isfinite(found).all()):
        raise BadInput(f"{one!r} reads numbers that are not finite; the update is empty or holds such")
    return found


def layer_of(one: AbstractSignal, layers: tuple[Dense, ...]) -> Dense:
    """The layer that a signal reads. Raises `NoSuchLayer` where the model has fewer."""
    if one.layer > len(layers):
        raise NoSuchLayer(f"{one!r} reads dense layer {one.layer}, the model has {len(layers)}")
    return layers[one.layer - 1]


def through(layer: Dense, weights: Named, behind: tuple[Dense, ...]) -> Tensor | None:
    """(C, H) float64, the product of the weights `behind` a layer; None where they are no chain of dense layers."""
    path = torch.eye(layer.shape[0], dtype=torch.float64)
    for one in behind:
        if one.shape[1] != path.shape[0] or one.weight not in weights:
            return None
        path = weights[one.weight].detach().double().cpu() @ path
    return path


@final
@dataclass(frozen=True)
class MeanInput(AbstractSignal):
    """m = dL/dW^T dL/dc / |dL/dc|^2 = sum_b a_b x_b with sum_b a_b = 1, a_b = d_b . dL/dc / |dL/dc|^2. (D,)

    A mean of the layer's inputs in which examples weigh by how much they pull at the biases, some of them less than
    nothing; of one example the input itself (Phong et al. 2017, section 3, for one unit). Needs a bias.

    >>> MeanInput().read(Sent(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), torch.tensor([2.0, 1.0]))).tolist()
    [1.0, 2.0]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the equation."""
        slope = _biased(self, sent.bias)
        return sent.weight.T @ slope / slope.square().sum().clamp(min=TINY)


@final
@dataclass(frozen=True)
class SignedMean(AbstractSignal):
    """m = dL/dW^T sign(dL/dc) / sum_j |dL/dc_j| = sum_b a_b x_b with sum_b a_b = 1. (D,)

    As `MeanInput`, with each unit counted alike: what is left where the client's optimizer has divided each entry by
    its own size, as Adam does, so that sizes of entries say little and signs all. Needs a bias.

    >>> SignedMean().read(Sent(torch.tensor([[2.0], [-1.0]]), torch.tensor([2.0, -1.0]))).tolist()
    [1.0]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the equation."""
        slope = _biased(self, sent.bias)
        return sent.weight.T @ slope.sign() / slope.abs().sum().clamp(min=TINY)


@final
@dataclass(frozen=True)
class ColumnEnergy(AbstractSignal):
    """e_i = log(sum_j dL/dW_ji^2 + 1e-6 E), E the mean over i; less the mean of e. (D,)

    sum_j dL/dW_ji^2 = x_i^T (d d^T) x_i, x_i (B,) being input i of all examples: a second moment, and so what is left
    of a person where the means are taken out by normalization. The logarithm makes a factor on the update a constant,
    which the mean takes out.

    >>> [round(one, 3) for one in ColumnEnergy().read(Sent(torch.tensor([[3.0, 1.0]]))).tolist()]
    [1.099, -1.099]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the equation."""
        energy = sent.weight.square().sum(0)
        found = (energy + QUIET * energy.mean()).clamp(min=TINY).log()
        return found - found.mean()


@final
@dataclass(frozen=True)
class ClassInputs(AbstractSignal):
    """M / |M|, M = P dL/dW, P = W_L .. W_(layer + 1): what the layer was fed, summed class by class. (C D,)

    Where all units are on, d_b = P^T (p_b - y_b), so that M = P P^T sum_b (p_b - y_b) x_b^T: row c is minus the sum of
    the inputs of class c, and plus that of all, each by its probability of c. With ReLU about half of the units are,
    and M is about half of it. So it has how a person differs from others in each class, which normalizing the data of
    each person alone leaves in: it takes out one mean, and there are C of them. The weights W are the global ones that
    the client started from, which the server knows; of several steps nearly so. |M|: of all entries together.
    Follows from the chain rule, this project's own. Raises `BadInput` where the layers behind it are no chain.

    >>> found = ClassInputs().read(Sent(torch.tensor([[3.0, 4.0]]), path=torch.tensor([[1.0], [-1.0]])))
    >>> [round(one, 3) for one in found.tolist()]
    [0.424, 0.566, -0.424, -0.566]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the equation."""
        if sent.path is None:
            raise BadInput(f"{self!r} goes back through dense layers only, and others lie behind this one")
        by_class = sent.path @ sent.weight
        found: Tensor = by_class.flatten() / by_class.norm().clamp(min=TINY)
        return found


@final
@dataclass(frozen=True)
class SharedInput(AbstractSignal):
    """s = p[:D] / p[D], p the projection of e_(D+1) on the rows of [dL/dW, dL/dc], of the (D + 1)-space. (D,)

    Each [x_b, 1] is a row space vector where the examples are fewer than the units, for one step or several: s is the
    point of the plane through all x_b that is nearest to 0, of which s . x_b = |s|^2 for every example. So it has what
    all of them share, and none of what tells them apart, whatever the weights d_b are. Singular values below 1e-5 of
    the largest are rounding. Nothing of it is left where each entry was divided by its own size (Adam) or noised: the
    rank is full then, and p = e_(D+1), or arbitrary. Needs a bias. Follows from dL/dW = d^T X, this project's own.

    >>> found = SharedInput().read(Sent(torch.tensor([[1.0, 2.0], [1.0, -2.0]]), torch.ones(2)))
    >>> [abs(round(one, 3)) for one in found.tolist()]
    [1.0, 0.0]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the singular vectors."""
        rows = torch.cat([sent.weight, _biased(self, sent.bias)[:, None]], 1)
        right = _rows(rows, RANK)
        projected = right.T @ right[:, -1]
        # 0 where the bias says nothing: no example, or the rows do not know of it.
        return projected[:-1] / projected[-1].clamp(min=TINY)


@final
@dataclass(frozen=True)
class RowSpace(AbstractSignal):
    """l_i = sum_(k <= rank) v_ki^2, v_k the right singular vectors of dL/dW by falling singular value. (D,)

    The diagonal of the projection on the subspace that the inputs span: which inputs take part in what differs from
    example to example. It does not matter by which weights the examples came in, as long as they did; sums to `rank`.
    The statistical leverage of column i (Drineas et al. 2012, arXiv:1109.3843, section 1). Raises `BadInput` on
    a rank below 1.

    >>> RowSpace(rank=1).read(Sent(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))).tolist()
    [1.0, 0.0]
    """

    layer: int = 1
    rank: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))
        object.__setattr__(self, "rank", count("rank", self.rank))

    def read(self, sent: Sent) -> Tensor:
        """By the singular vectors."""
        return _rows(sent.weight, RANK)[: self.rank].square().sum(0)


@final
@dataclass(frozen=True)
class RawUpdate(AbstractSignal):
    """[dL/dW, dL/dc] / the root mean square of its entries, row after row. (H (D + 1),), or (H D,) without a bias.

    What networks on updates are given (Feng et al. 2021, arXiv:2112.13416, section 3.3, there not divided).

    >>> [round(one, 3) for one in RawUpdate().read(Sent(torch.tensor([[3.0]]), torch.tensor([4.0]))).tolist()]
    [0.849, 1.131]
    """

    layer: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", count("layer", self.layer))

    def read(self, sent: Sent) -> Tensor:
        """By the equation."""
        rows = sent.weight if sent.bias is None else torch.cat([sent.weight, sent.bias[:, None]], 1)
        # About one, whatever the size of the layer: half precision, in which many are kept, has few digits near zero.
        found: Tensor = rows.flatten() / rows.square().mean().sqrt().clamp(min=TINY)
        return found


def _biased(one: AbstractSignal, bias: Tensor | None) -> Tensor:
    if bias is None:
        raise BadInput(f"{one!r} divides by the gradient of a bias, which the layer has none of; use ColumnEnergy")
    return bias


def _rows(rows: Tensor, least: float) -> Tensor:
    """(r, D) orthonormal: right singular vectors, largest first, of singular values above `least` of the largest."""
    # Of the Gram matrix, which is a tenth of the work: its eigenvalues are the squares, known to 1e-16 of the largest,
    # and those that count are above 1e-10 of it.
    sizes, left = torch.linalg.eigh(rows @ rows.T)
    kept = sizes > least**2 * sizes[-1].clamp(min=TINY)
    right = (left[:, kept].T @ rows) / sizes[kept].sqrt()[:, None]
    found: Tensor = right.flip(0)
    return found
