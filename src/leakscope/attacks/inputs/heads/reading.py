"""What is read of a released head before it is attacked, and why some heads are not."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.prior import FeaturePrior
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.protocols.optimizers import ClientSGD
from leakscope.mechanisms.protocols.training import HeadTraining, PrivateHeadTraining
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_ends import DenseLayer, output_layer
from leakscope.targets.looking.nonnegative import fed_nonnegative
from leakscope.targets.looking.tape import recorded
from leakscope.targets.losses import OneLogit

CHUNK = 500
"""Pictures that the backbone is run on at a time."""


@final
@dataclass(frozen=True, eq=False)
class Public:
    """What anybody knows: how the head was trained, which layer it is, and its prior from the public pool.

    floor: whether its features cannot be negative, by the functions that made them. positive_weight: of class 1, where
    one logit tells two classes apart; 1 otherwise.
    """

    training: HeadTraining
    layer: DenseLayer
    prior: FeaturePrior
    floor: bool
    positive_weight: float = 1.0


@final
@dataclass(frozen=True, eq=False)
class SeenHead:
    """weights: (1, C, d), or (1, 1, d) of one logit. each: examples of each class. start: the first head where it is
    known, None where it is secret. bias: (1, C), None where it was not released."""

    public: Public
    weights: Tensor
    each: int
    start: tuple[Tensor, Tensor] | None
    bias: Tensor | None = None


def public(target: Target, mechanism: AbstractMechanism, pool: Pool, *, learned: bool = False) -> Public | Refusal:
    """What is known before a head is released, or why it could not be attacked. Raises `NoSuchLayer` as it looks.

    learned: whether a regression reads heads whose training has no closed form (Adam, noise).
    """
    training = mechanism.training if acts_as(mechanism, PrivateHeadTraining) else mechanism
    if not acts_as(training, HeadTraining):
        return Refusal(
            f"reads heads of HeadTraining and PrivateHeadTraining, without defenses; this is of {mechanism!r}"
        )
    why = unclosed(mechanism)
    if why is not None and not learned:
        return Refusal(f"{why}; HeadImages learns to read such heads")
    layer = output_layer(target)
    others = sorted(target.parameters().keys() - {layer.weight, layer.bias})
    if others and _of_layers(target, layer.weight, others):
        return Refusal(
            f"the head has layers before {layer.weight}: each of their {_width(target, layer.weight)} rows is a sum of "
            "the examples whose unit was open, by weights that were trained along, so that no closed form tells one "
            "example from another; audit a head of one layer"
        )
    if others:
        return Refusal(
            f"{others[0]} and {len(others) - 1} more parameters are trained beside the head, so its features are not "
            "those of a public backbone; audit heads on a frozen one (LinearProbe)"
        )
    one = isinstance(target.loss, OneLogit) and layer.outputs == 1
    if layer.bias is None or not (one or target.loss == CrossEntropy()):
        return Refusal(
            "heads are attacked that have a bias and are trained by cross-entropy without label smoothing, or by "
            "OneLogit"
        )
    try:
        if not target.domain.fits(pool.batch.inputs):
            return Refusal(f"the pool {pool!r} holds no inputs of {target.domain}")
        prior = _prior(_Known(target.fingerprint(), pool, target))
        weight = target.loss.positive_weight if isinstance(target.loss, OneLogit) else 1.0
        return Public(training, layer, prior, _floor(target, layer), weight)
    except BadInput as error:
        return Refusal(str(error))


def read_head(seen: Observation, public_pool: Pool, *, learned: bool = False) -> SeenHead | Refusal:
    """The head, with what is public of it; or the reason why this attack does not apply. learned: as in `public`."""
    known = public(seen.target, seen.mechanism, public_pool, learned=learned)
    if isinstance(known, Refusal):
        return known
    each = _each(seen, seen.target.classes)
    if isinstance(each, Refusal):
        return each
    weights = seen.release.by_name.get(known.layer.weight)
    if weights is None:
        return Refusal(f"the release lacks {known.layer.weight}, the head's weight")
    # In the precision in which public heads are trained: somebody's file may hold halves, or doubles.
    weights = weights.to(known.prior.means)
    bias = seen.release.by_name.get(known.layer.bias or "")
    bias = None if bias is None else bias.to(known.prior.means)
    own = seen.target.parameters()
    start = None
    if known.training.init_std is None and known.layer.bias is not None:
        start = (own[known.layer.weight], own[known.layer.bias])
    return SeenHead(known, weights.unsqueeze(0), each, start, None if bias is None else bias.unsqueeze(0))


def features_of(target: Target, layer: DenseLayer, inputs: Tensor) -> Tensor:
    """(n, d): what the head is fed for each input. Raises `NoSuchLayer` where that is not one row each."""
    found = rows_fed(target, layer.name, inputs)
    if found.shape[1] != layer.features:
        raise NoSuchLayer(f"{layer.name!r} is fed {tuple(found.shape)} for {len(inputs)} examples, no row each")
    return found


def rows_fed(target: Target, layer: str, inputs: Tensor) -> Tensor:
    """(n, d): what a layer is fed for each input, in the model's own mode. Raises `NoSuchLayer` as `features_of`."""
    rows: list[Tensor] = []
    # Dropout, where the model is run with it, draws from the global stream, which is given back.
    with Key(0).child("fed").isolated(), torch.no_grad():
        for part in inputs.split(CHUNK):
            with recorded(target.module, [layer]) as calls:
                target.outputs(target.parameters(), part)
            rows.append(calls[-1].given)
    found = torch.cat(rows)
    if found.dim() != 2 or len(found) != len(inputs):
        raise NoSuchLayer(f"{layer!r} is fed {tuple(found.shape)} for {len(inputs)} examples, no row each")
    return found


def unclosed(mechanism: AbstractMechanism) -> str | None:
    """Why the course of training leaves no closed form, None where it does."""
    if not acts_as(mechanism, HeadTraining):
        return f"{type(mechanism).__name__} adds noise to steps on secret samples: the span of the examples is not seen"
    if not acts_as(mechanism.optimizer, ClientSGD):
        return f"{mechanism.optimizer!r} divides entry by entry: the head is in no span of examples"
    return None


def _of_layers(target: Target, last: str, others: list[str]) -> bool:
    """Whether all that is trained besides is in the same part of the model as the last layer: a head of layers."""
    place = last.rpartition(".")[0].rpartition(".")[0]
    return bool(place) and all(name.startswith(f"{place}.") for name in others)


def _width(target: Target, last: str) -> int:
    return int(target.parameters()[last].shape[1])


def _each(seen: Observation, classes: int) -> int | Refusal:
    """How many examples there are of each class."""
    count = seen.told(BatchSize).count
    if count % classes:
        return Refusal(f"{count} examples are not equally many of each of {classes} classes")
    if seen.knows(TrueLabels):
        counts = torch.bincount(torch.tensor(seen.told(TrueLabels).values), minlength=classes)
        if counts.tolist() != [count // classes] * classes:
            return Refusal(f"needs equally many examples of each class, was told {counts.tolist()}")
    return count // classes


@final
@dataclass(frozen=True)
class _Known:
    """A model and a pool, equal to others of the same content."""

    content: str
    pool: Pool
    target: Target = field(compare=False)


@functools.lru_cache(maxsize=8)
def _prior(known: _Known) -> FeaturePrior:
    """Kept by the process: the trials of an audit share backbone and pool."""
    batch, target = known.pool.batch, known.target
    return FeaturePrior.of(features_of(target, output_layer(target), batch.inputs), batch.labels, target.classes)


def _floor(target: Target, layer: DenseLayer) -> bool:
    return fed_nonnegative(target, layer.name)
