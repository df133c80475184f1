"""What gradient matching minimizes: the distance of a candidate's update from the observed one, and a prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakscope.attacks.parts.distance.distances import AbstractDistance
from leakscope.attacks.parts.labeling.labeling import Spelled, numbers, spells
from leakscope.attacks.parts.priors.prior import Penalty
from leakscope.attacks.parts.reading.trained import idle
from leakscope.attacks.parts.search.execution import laid_out
from leakscope.attacks.parts.search.journal import Point
from leakscope.attacks.parts.spaces import AbstractSpace
from leakscope.core.asking import gradient_of, replay_of, undefended_of
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Lengths
from leakscope.core.mechanism import AbstractMechanism, AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, one_gradient, replayed_as_protocol, signs
from leakscope.numerics import trees
from leakscope.numerics.trees import Named
from leakscope.targets.losses import CTC
from leakscope.targets.restricted import only

# 0.8 GB in float32: more candidates at once are fewer passes, and more memory.
MEMORY = 2 * 10**8
"""Numbers that the gradients of a chunk of candidates may hold."""
MOST = 256


def splits(mechanism: AbstractMechanism, distance: AbstractDistance) -> bool:
    """Whether what the distance sees is the protocol's gradient: layer by layer, and a mean over examples.

    Then gradients of layers that the distance does not read need not be computed. So it is for `FedSGD` by itself and
    with noise; with clipping, which couples all layers by one factor, only for a distance that is blind to factors.

    >>> from leakscope import Clip, FedSGD, GaussianNoise
    >>> from leakscope.attacks.parts.distance.distances import Cosine, Squared
    >>> clipped = FedSGD() >> Clip(1.0) >> GaussianNoise(0.1)
    >>> splits(clipped, Cosine()), splits(clipped, Squared()), splits(FedSGD(), Squared())
    (True, False, True)
    """
    plain = replayed_as_protocol(mechanism, up_to_scale=distance.scale_free)
    return one_gradient(mechanism) is plain is Answer.YES


def rows_apart(seen: Observation, distance: AbstractDistance) -> bool:
    """Whether the update is a mean over utterances of what each would give by itself (`Objective.alone`)."""
    # Batch norm in training mode makes each example's gradient a function of all the others.
    mixed = any(module.training and isinstance(module, _BatchNorm) for module in seen.target.module.modules())
    return acts_as(seen.target.loss, CTC) and splits(seen.mechanism, distance) and not mixed


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """distance(replay(x), observed) + prior(x) of one candidate, a point without restarts.

    target: with the parameters whose gradient is needed. observed: on these. labels: (B,) or transcripts, or None
    where the point holds them: soft labels, or transcripts as floats that only `Problem.between` changes ("labels" and
    "label_lengths"). lengths: (B,) for sequences. searched: (B, T), which frames move. split: see `splits`.
    real: labels that the point holds are numbers, not logits of classes.
    """

    target: Target
    mechanism: AbstractStep
    observed: Named
    distance: AbstractDistance
    penalty: Penalty
    space: AbstractSpace
    labels: Tensor | Spelled | None
    lengths: Tensor | None = None
    searched: Tensor | None = None
    split: bool = False
    real: bool = False

    def __call__(self, point: Point) -> Tensor:
        """The loss, a scalar, differentiable in the point."""
        batch = self.batch(point)
        return self._distance(self._gradient(batch)) + self.penalty(batch.inputs)

    def apart(self, point: Point) -> Tensor:
        """The distance by itself."""
        return self._distance(self._gradient(self.batch(point)))

    def parts(self, point: Point) -> dict[str, float]:
        """Distance and prior by themselves."""
        batch = self.batch(point)
        return {
            "distance": float(self.apart(point)),
            "prior": float(self.penalty(batch.inputs)),
        }

    def inputs(self, point: Tensor) -> Tensor:
        """The inputs that the searched variable stands for; padding is zero, frames that are not searched are held."""
        inputs = self.space.decode(point, self.target.domain)
        if self.lengths is None:
            return inputs
        real = self._real(inputs.shape[-2])
        if self.searched is not None:
            # The same values, but no slope flows into the frames that are held.
            inputs = torch.where(self.searched.unsqueeze(2), inputs, inputs.detach())
        # Exact zeros, as the client pads: a search may have moved them, and a window at the end sees them.
        return torch.where(real.unsqueeze(2), inputs, torch.zeros_like(inputs))

    def batch(self, point: Point) -> Batch:
        """The candidate as the client's batch."""
        inputs = self.inputs(point["inputs"])
        if self.lengths is None:
            labels = self.labels
            if labels is None and self.real:
                return Batch(inputs, point["labels"])
            if labels is None:
                # Logits are searched, so that every point is a distribution over classes.
                return Batch(inputs, torch.softmax(point["labels"], -1))
            if isinstance(labels, Spelled):
                raise BadInput("transcripts need utterances; this model's loss has none")
            return Batch(inputs, labels)
        labels = self.labels
        if isinstance(labels, Spelled):
            return Batch(inputs, labels.labels, self.lengths, labels.lengths)
        # A point holds floats only; transcripts in it are whole numbers, which rounding brings back exactly.
        return Batch(inputs, point["labels"].round().long(), self.lengths, point["label_lengths"].round().long())

    def alone(self, point: Point, item: int) -> Callable[[Tensor], Tensor]:
        """The loss as a function of one example's variable, the others as they are in `point`.

        g = g_old + (g_item - g_item_old) / B, with the others' mean computed once: valid where the update is a mean
        over examples, see `splits`.
        """
        batch, count = self.batch(point), len(point["inputs"])
        others = torch.tensor([place for place in range(count) if place != item], device=batch.inputs.device)
        # The mean over the B - 1 others: it does not change while one example moves, and is computed once.
        rest = self._gradient(batch.rows(others)) if count > 1 else None
        row = torch.tensor([item], device=batch.inputs.device)

        def value(changed: Tensor) -> Tensor:
            variable = torch.cat([point["inputs"][:item], changed.unsqueeze(0), point["inputs"][item + 1 :]])
            full = self.batch({**point, "inputs": variable})
            gradient = self._gradient(full.rows(row))
            if rest is not None:
                # g = (g_item + (B - 1) g_rest) / B, the mean over the batch.
                gradient = trees.over(lambda one, others: (one + (count - 1) * others) / count, gradient, rest)
            return self._distance(gradient) + self.penalty(full.inputs)

        return value

    def spelled(self, point: Point) -> Callable[[Spelled], Tensor]:
        """Losses (C,) of candidate transcripts (C, B, L), the inputs as in `point`."""
        inputs = {"inputs": point["inputs"]}
        one = torch.func.vmap(
            lambda labels, lengths: self({**inputs, "labels": labels, "label_lengths": lengths}),
            chunk_size=self.chunk,
        )

        def losses(tried: Spelled) -> Tensor:
            like = point["inputs"]
            # Transcripts are whole numbers, along which there is no slope: only losses are compared.
            with torch.no_grad():
                found: Tensor = one(tried.labels.to(like), tried.lengths.to(like))
            return found

        return losses

    @property
    def chunk(self) -> int:
        """Candidates whose gradients fit into memory together; local steps hold several copies of the weights."""
        # One gradient per candidate when split; else some four copies of the weights, those that have moved among them.
        held = sum(value.numel() for value in self.target.parameters().values())
        return max(1, min(MOST, MEMORY // (held if self.split else 4 * held)))

    def _real(self, frames: int) -> Tensor:
        assert self.lengths is not None
        return torch.arange(frames, device=self.lengths.device) < self.lengths.unsqueeze(1)

    def _gradient(self, batch: Batch) -> dict[str, Tensor]:
        # Both sides are read as gradients, so that a delta's tiny learning rate does not flatten the landscape.
        sent = replay_of(self.mechanism, self.target, batch, self.observed)
        return trees.select(gradient_of(self.mechanism, sent, self.target.parameters()).by_name, self.observed)

    def _distance(self, gradient: Named) -> Tensor:
        return self.distance(gradient, self.observed)


def unread(seen: Observation, distance: AbstractDistance) -> Refusal | None:
    """Why nothing of the release would be compared; None where something is."""
    names = seen.release.by_name.keys() - idle(seen.release.by_name)
    if distance.reads(sorted(names)):
        return None
    return Refusal(f"{distance!r} reads nothing of the release: {', '.join(sorted(seen.release.by_name))}")


def objective(
    seen: Observation,
    distance: AbstractDistance,
    penalty: Penalty,
    space: AbstractSpace,
    labels: Tensor | Spelled | None,
) -> Objective:
    """The objective for an observation; of sequences, one that knows `Lengths`."""
    # Layer by layer only where the mechanism is: the norm of a clip or a local step needs the gradients of all layers.
    # In the model's order, by which layers are weighted: a file holds them in an order of its own.
    places = {name: place for place, name in enumerate(seen.target.parameters())}
    still = idle(seen.release.by_name)
    names = sorted(seen.release.by_name.keys() - still, key=lambda name: places.get(name, len(places)))
    split = splits(seen.mechanism, distance)
    if split:
        names = distance.reads(names)
    if not names:
        raise BadInput(f"{distance!r} reads nothing of the release: {', '.join(sorted(seen.release.by_name))}")
    device, gradient = seen.target.device(), seen.gradient().by_name
    lengths = torch.tensor(seen.told(Lengths).values, device=device) if seen.knows(Lengths) and spells(seen) else None
    moving = space.searched(lengths, int(lengths.max())) if lengths is not None else None
    return Objective(
        # What the distance does not read is a constant then, to which no backward pass goes.
        target=laid_out(only(seen.target, names) if split else _trained(seen, still)),
        mechanism=_undefended(seen) if split else seen.step,
        observed=trees.detached({name: gradient[name] for name in names}),
        distance=distance,
        penalty=penalty,
        space=space,
        labels=_placed(labels, device),
        lengths=lengths,
        searched=moving,
        split=split,
        real=labels is None and numbers(seen.target) is not None,
    )


def _trained(seen: Observation, still: frozenset[str]) -> Target:
    """The model as the client trained it: what did not move is a constant, in local steps and in the norm of a clip."""
    # Where entries are set to zero, as by pruning, a tensor of zeros may have been trained all the same.
    if not still or (bends(seen.mechanism) is not Answer.NO and signs(seen.mechanism) is not Answer.YES):
        return seen.target
    return only(seen.target, seen.target.parameters().keys() - still)


def _undefended(seen: Observation) -> AbstractStep:
    """The protocol alone, of which the replay is that of the whole mechanism (`splits`)."""
    plain = undefended_of(seen.mechanism)
    return plain if isinstance(plain, AbstractStep) else seen.step


def _placed(labels: Tensor | Spelled | None, device: torch.device) -> Tensor | Spelled | None:
    if isinstance(labels, Spelled):
        return dataclasses.replace(labels, labels=labels.labels.to(device), lengths=labels.lengths.to(device))
    return None if labels is None else labels.to(device)
