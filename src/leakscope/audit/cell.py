"""The challenger's part of a cell: draw the secret, build the target, observe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from leakscope.audit.plan import Cell
from leakscope.audit.telling import lineup, tell
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Suspects
from leakscope.core.observation import Observation
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.datasets.draw import AbstractSource
from leakscope.ledger.record import Role
from leakscope.mechanisms.observe import observe
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Client


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """A cell's secret, target and observation, as the challenger sets them up; client: of whom the referee asks."""

    secret: Secret
    target: Target
    seen: Observation
    client: Client

    def fingerprints(self) -> tuple[str, str]:
        """Of the secret and of the observation: what must be the same before and after an attack."""
        return self.secret.fingerprint(), self.seen.fingerprint()


def set_up(cell: Cell) -> Stage:
    """Draw the secret, build the target, observe.

    Secret and weights depend on the seed, the scene and the trial alone, so that every mechanism, attack and
    control of a trial meets the same ones; the mechanism's own randomness depends on the mechanism besides.
    """
    key, source = root(cell), cell.scene.source
    secret = source.draw(cell.batch_size, key=key.child("secret", cell.trial))
    target = cell.scene.architecture.build(source.domain, source.classes, key=key.child("weights", cell.trial))
    batch = secret.reveal()
    if Suspects in cell.told:
        secret = Secret(batch, (*secret.annotations, lineup(batch, source)[1]), secret.owners)
    # Of the private batch also where another one is sent: what is told is known without the release, and an attack that
    # reads the example off what it was told finds it here too. But of two suspects one has to be in what is sent.
    sent = replaced(batch, source, key=key.child("replaced", cell.trial)) if cell.role is Role.REPLACED else batch
    facts = tell(cell.told, target, sent if Suspects in cell.told else batch, source=source)
    # By the mechanism's repr: two mechanisms must not share their noise, or one could be subtracted from the other.
    noise = key.child("release", repr(cell.mechanism), cell.trial)
    seen = observe(target, sent, cell.mechanism, key=noise, tell=facts)
    return Stage(secret, target, seen, Client(target, cell.mechanism, noise))


def replaced(batch: Batch, source: AbstractSource, *, key: Key) -> Batch:
    """The batch with its first example exchanged for another private one of its class, which is not in the batch.

    Whoever takes part, and with which labels, stays: what an attack recovers of the original from this release is what
    the class tells. Raises `BadInput` where there is none, or where examples are not all of one length or labeled by
    one class each.
    """
    labels = batch.labels
    if labels.dim() != 1 or labels.is_floating_point() or batch.lengths is not None:
        raise BadInput("expected examples of one length, each of one class, for the replaced control; leave it out")
    found = source.alike(int(labels[0]), besides=batch, key=key)
    if found is None:
        raise BadInput(f"{source!r} has no other private example of class {int(labels[0])}; leave the control out")
    return batch.with_inputs(torch.cat([found.to(batch.inputs), batch.inputs[1:]]))


def root(cell: Cell) -> Key:
    """The key that all randomness of a cell comes from. It knows neither mechanism nor attack: see `set_up`."""
    return Key(cell.seed).child("audit", repr(cell.scene.source), repr(cell.scene.architecture))


def attack_key(cell: Cell) -> Key:
    """The key of the attack in this trial: the same for every mechanism, so that controls differ in nothing else."""
    return root(cell).child("attack", cell.trial)
