"""What a certificate says, judged for `certificates.py` by what the client did: the claim, and the statement itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import plain_clients
import torch
from plain_models import World
from scipy.optimize import nnls
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.layer_by_layer.revealed_features import ONE_FACTOR
from leakscope.attacks.inputs.patches.first_attention import STATEMENT as ONE
from leakscope.attacks.inputs.text.embedding_span import WHOLE as TEXTS
from leakscope.attacks.parts.reading.proof import (
    ANY_SIZE,
    FED,
    HIDDEN,
    MEAN,
    ONE_SCALE,
    UNDRAWN,
    WHOLE,
    WHOLE_ONE_SCALE,
)

EXACT = 1e-2
"""Largest relative distance of a claimed input from a private one."""
FEATURES = 1e-3
"""The same of what a dense layer was fed, as its certificate says."""
SAME = 1e-4
"""Relative distance of two gradients within which they count as one."""
REPLAYED = 3e-2
"""Largest relative distance of what was sent from what the declared client would have sent, where a statement says that
it was replayed: a label may be soft by two percent, and roundings come to one where the model is sure."""
SHARE = 0.05
"""How far the shares of the examples may be from summing to one."""


def left_open(certificate: ls.Certificate) -> float:
    """The relative distance from private inputs that a certificate leaves open: `EXACT`, or what it says itself."""
    return max(EXACT, certificate.residual) if certificate.statement.startswith(HIDDEN) else EXACT


def bare(statement: str) -> str:
    """A statement without what it assumes of the model, and without its word on means, which are judged as such."""
    return statement.removesuffix(UNDRAWN).removesuffix(MEAN)


def wrong(claim: Any, inputs: Tensor, labels: Tensor, *, within: float = EXACT) -> str:
    """What in a claim that is certified is not true of these examples; empty where all is.

    within: the relative distance that its certificate leaves open, where that is what it says.
    """
    if isinstance(claim, ls.Labels):
        more = Counter(claim.values.tolist()) - Counter(labels.tolist())
        return f"labels {dict(more)} too many" if more else ""
    if isinstance(claim, ls.Tokens):
        rows = [tuple(row) for row in inputs.tolist()]
        if claim.bag:
            alike = set(claim.sequences[0]) == {token for row in rows for token in row}
            return "" if alike else "other words"
        return "other texts, or more often" if Counter(claim.sequences) - Counter(rows) else ""
    true, claimed = inputs.flatten(1).double(), claim.values.flatten(1).double()
    away = torch.cdist(claimed, true) / true.norm(dim=1).clamp_min(1e-3)
    if float(away.min(1).values.max()) > within:
        return f"{float(away.min(1).values.max()):.0e} from every private input"
    near, close = away <= within, torch.cdist(true, true) <= 2 * within * true.norm(dim=1).clamp_min(1e-3)
    if bool((near.sum(0) > close.sum(0)).any()):
        return "an input is claimed more often than it occurs"
    # labels that stand beside proved inputs are part of what is proved
    pairs = zip(near, claim.labels.tolist(), strict=True) if claim.labels is not None else ()
    return "" if all(label in labels[row].tolist() for row, label in pairs) else "another label"


@contextmanager
def watched(net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """What each dense layer is fed by any copy of the net that runs meanwhile, by the layer's name.

    Copies keep the hooks, so this is what the client's own model was fed, whatever the client made of the declared one.
    """
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, given: Any) -> None:
        seen.setdefault(name, []).append(given[0].detach().flatten(1).double())

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: watch(name, given))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def wrong_features(claim: ls.Features, seen: dict[str, list[Tensor]], labels: Tensor) -> str:
    """What in certified features is not true of what the client's layer was fed, in all runs together."""
    runs = seen.get(claim.layer, [])
    if not runs or runs[0].shape[1] != claim.values.shape[1]:
        return f"the client has no layer {claim.layer!r} of this width"
    true, claimed = torch.cat(runs), claim.values.double()
    size = true.norm(dim=1).clamp_min(1e-3)
    away = torch.cdist(claimed, true) / size
    if float(away.min(1).values.max()) > FEATURES:
        return f"{float(away.min(1).values.max()):.0e} from all that the layer was fed"
    near, close = away <= FEATURES, torch.cdist(true, true) <= 2 * FEATURES * size
    if bool((near.sum(0) > close.sum(0)).any()):
        return "features are claimed more often than they occur"
    # Of several runs nobody knows here which example was which.
    if claim.labels is None or len(true) != len(labels):
        return ""
    pairs = zip(near, claim.labels.tolist(), strict=True)
    return "" if all(label in labels[row].tolist() for row, label in pairs) else "another label"


def counting(situation: str, statement: str, world: World, fed: Tensor, *, told: int) -> Tensor:
    """The inputs that a claim has to be of: the private ones, unless nothing can tell.

    What was fed counts where the certificate speaks of that alone, and where it is a legal input with its own label:
    noise that leaves every value in the range is another input to everybody. So is the mean of two pictures, told as
    one, so dark that the model is linear in them.
    """
    legal = float(fed.min()) >= 0 and float(fed.max()) <= 1
    if situation in ("mixup", "cutmix"):
        # Two of one class, blended, are one of that class.
        legal = len(fed) > 1 and torch.equal(world.labels, world.labels.flip(0))
    found = fed if legal or statement.endswith((FED, ONE_SCALE)) else world.inputs
    if told > 0 and (len(fed) + told) % len(fed) == 0 and not fed.is_floating_point():
        # The mean over twice as many of the same texts is the same: how many there are was told, and is no finding.
        found = found.repeat((len(fed) + told) // len(fed), 1)
    if told < 0 and fed.is_floating_point() and len(world.labels.unique()) == 1:
        mean = fed.mean(0, keepdim=True).expand(fed.shape)
        apart = plain_clients.apart(world, dataclasses.replace(world, inputs=mean))
        found = mean if apart < SAME else found
    return found


def in_size(claim: Any, statement: str, inputs: Tensor) -> Any:
    """The claim, or, where its statement leaves one factor open, the multiple of it that is nearest to the inputs."""
    if not statement.endswith((ONE_SCALE, WHOLE_ONE_SCALE, ANY_SIZE)) or not isinstance(claim, ls.Inputs):
        return claim
    true, claimed = inputs.flatten(1).double(), claim.values.flatten(1).double()
    factors = (claimed @ true.T / claimed.square().sum(1, keepdim=True).clamp_min(1e-12)).flatten()
    away = [float(torch.cdist(one * claimed, true).min(1).values.sum()) for one in factors]
    best = float(factors[away.index(min(away))])
    return dataclasses.replace(claim, values=best * claim.values)


def in_one_factor(claim: ls.Features, statement: str, seen: dict[str, list[Tensor]]) -> ls.Features:
    """Features, or, where their statement leaves one factor for all open, the multiple that is nearest to the true."""
    if ONE_FACTOR not in statement or not seen.get(claim.layer):
        return claim
    true, claimed = torch.cat(seen[claim.layer]), claim.values.double()
    factors = (claimed @ true.T / claimed.square().sum(1, keepdim=True).clamp_min(1e-300)).flatten()
    away = [float(torch.cdist(one * claimed, true).min(1).values.sum()) for one in factors]
    best = float(factors[away.index(min(away))])
    return dataclasses.replace(claim, values=best * claim.values)


def nobody_can_tell(claim: Any, world: World, sent: dict[str, Tensor]) -> bool:
    """Whether a client of one example that had been the claimed one would have sent the same, to within `SAME`.

    Several pictures of one class that are told as one and so dark that the model is linear in them are one picture, a
    mean of them, to everybody.
    """
    labels = world.labels.unique()
    if not isinstance(claim, ls.Inputs) or len(claim) != 1 or len(labels) != 1:
        return False
    other = _flat(plain_clients.gradient(dataclasses.replace(world, inputs=claim.values, labels=labels)), sent)
    goal = _flat(sent, sent)
    return float((other - goal).norm()) <= SAME * float(goal.norm())


def told_as_one(claim: ls.Features, world: World, sent: dict[str, Tensor], moved: bool) -> bool:
    """Whether a client whose one example had been the mean of these would have sent the same, and fed what is claimed.

    As `nobody_can_tell`, which the rounding of a difference of weights hides, too: it counts as much as it moves the
    declared gradient.
    """
    if len(claim) != 1 or len(world.labels.unique()) != 1:
        return False
    goal = _flat(sent, sent) / (-plain_clients.LR if moved else 1)
    single = dataclasses.replace(world, inputs=world.inputs.mean(0, keepdim=True), labels=world.labels[:1])
    with watched(single.net) as runs:
        other = _flat(plain_clients.gradient(single), sent)
    rounding = float((_flat(plain_clients.gradient(world), sent) - goal).norm())
    same = float((other - goal).norm()) <= SAME * float(goal.norm()) + 2 * rounding
    return same and not wrong_features(claim, runs, single.labels)


def misstated(statement: str, world: World, sent: dict[str, Tensor], *, moved: bool) -> str:
    """What a statement that the update was replayed says and is not so: no training as declared sends these numbers.

    world: with what the client was fed. Any labels and any whole shares of the examples are tried.
    """
    if not statement.endswith(WHOLE) and statement not in (ONE, TEXTS):
        return ""
    goal, columns = _flat(sent, sent), {}
    if moved and statement == TEXTS:
        # It speaks of gradients only, which a change of weights is the opposite of.
        goal, moved = -goal, False
    size, count, best = float(goal.norm()), len(world.inputs), float("inf")
    every = [world.labels.tolist(), *itertools.product(range(world.target.classes), repeat=count)]
    if not moved:
        for one in itertools.product(range(count), range(world.target.classes)):
            single = dataclasses.replace(world, inputs=world.inputs[[one[0]]], labels=torch.tensor([one[1]]))
            columns[one] = _flat(plain_clients.gradient(single), sent)
    # Soft labels are no lie where the statement speaks of mixtures.
    choices = [tuple(columns)] if statement == TEXTS else [tuple(enumerate(labels)) for labels in every]
    for chosen in choices:
        if moved:
            trained = dataclasses.replace(world, labels=torch.tensor([label for _, label in chosen]))
            found = plain_clients.trained(trained, plain_clients.sgd())
            left, total = float((_flat(found, sent) - goal).norm()) / size, 1.0
        else:
            matrix = torch.stack([columns[one] for one in chosen], 1) / size
            shares, left = nnls(matrix.numpy(), (goal / size).numpy())
            total = float(shares.sum())
        if statement == TEXTS or abs(total - 1) <= SHARE:
            best = min(best, left)
        if best <= REPLAYED:
            return ""
    return f"what was declared is {best:.0e} off"


def _flat(values: dict[str, Tensor], like: dict[str, Tensor]) -> Tensor:
    return torch.cat([values[name].detach().flatten().double() for name in like])
