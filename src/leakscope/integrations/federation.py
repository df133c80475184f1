"""What a server learns of one client in one round: two sets of weights, as an observation and as files."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from leakscope.attacks.attack import AbstractAttack
from leakscope.audit.files import Provenance, fingerprint, write_claim, write_update
from leakscope.core.arguments import count
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Claim
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput, LeakscopeError, first_line
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.release import Delta
from leakscope.core.target import Target
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.mechanisms.federated.stores import AbstractSink, AbstractStore, Cast, Sent
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.numerics.rng import Key
from leakscope.targets.files.foreign import Foreign, ModelTensors, for_model, load_tensors
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.vetting.update import vet_update

FAILURES = (LeakscopeError, *FORWARD_ERRORS, ArithmeticError, OSError)
"""What must not end somebody's training: it becomes a sentence in the log."""

LOG = "rounds.jsonl"

Node = int | str
"""How a federation names a client."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Setting:
    """What is observed in a federation, and how.

    target: the model as clients train it; its weights do not matter, each round's are put in. mechanism: what a client
    is declared to do, `FedAvg(...)` with or without defenses. folder: where the files go. model: what would stand after
    `--model`, for the update files. nodes: whose updates; none means whoever comes first in order of the names. most:
    how many per round. facts: what the adversary is told besides. tell_size: also tell the number of examples behind
    the update, where the client reports how many it has, as every weighted mean needs. attacks: what is tried at once,
    each within `budget`; they hold up the round. store: takes the chosen updates of every round as well, an empty one
    such as `RoundFiles(folder)`; what is read of it is what a federation played here would have left.
    Raises `BadInput` where the mechanism does not send a change of weights, and on a store with rounds in it.
    """

    target: Target
    mechanism: AbstractMechanism
    folder: Path
    model: str = ""
    nodes: tuple[Node, ...] = ()
    most: int = 1
    facts: tuple[Fact, ...] = ()
    tell_size: bool = True
    attacks: tuple[AbstractAttack[Any, Any], ...] = ()
    budget: Budget | None = None
    key: Key = dataclasses.field(default_factory=lambda: Key(0))
    store: AbstractSink | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "most", count("most", self.most))
        for name in ("nodes", "facts", "attacks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.mechanism.undefended, FedAvg):
            raise BadInput(
                f"the clients of a federation send weights, but {self.mechanism!r} sends something else; declare "
                "FedAvg(steps=..., lr=...), with steps=1 for a single step"
            )
        if self.store is not None:
            self._begin(self.store)

    def _begin(self, store: AbstractSink) -> None:
        shapes = {name: tuple(value.shape) for name, value in self.target.parameters().items()}
        # who will be there is not known yet; names and shapes are what every round is compared with
        said = repr((self.mechanism, self.target.name, shapes))
        owner = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
        begun = store.begin(Cast(owner, repr(self.mechanism), (), (), shapes))
        # a training elsewhere does not go on from here: its rounds would stand among those of another
        if begun is not None or (isinstance(store, AbstractStore) and store.numbers()):
            raise BadInput("the store has rounds already; give an empty one, such as RoundFiles of a new folder")


@final
@dataclass(frozen=True, eq=False)
class Arrays:
    """Weights as a federation carries them: by name, or as a bare list in the order of the state dict."""

    values: Sequence[NDArray[Any]]
    names: Sequence[str] | None = None

    def fitted(self, target: Target, said: str) -> ModelTensors:
        """Under the target's names. Raises `BadInput` when they do not fit its model."""
        tensors = tuple(torch.from_numpy(np.array(value)) for value in self.values)
        named = None if self.names is None else dict(zip(self.names, tensors, strict=True))
        return for_model(Foreign(said, named, () if named else tensors), target.module)


@final
@dataclass(frozen=True, eq=False)
class Exchange:
    """One client's round: what it was sent, what it returned, and how many examples it says that it has."""

    round: int
    node: Node
    sent: Arrays
    returned: Arrays
    examples: int | None = None


@final
@dataclass(frozen=True)
class Entry:
    """What came of one client in one round, also a line of `rounds.jsonl`. update, claim: files, where there are."""

    round: int
    node: Node
    sentence: str
    update: str = ""
    claim: str = ""


def observe(setting: Setting, one: Exchange) -> tuple[Observation, tuple[str, ...]]:
    """What the server sees of one client, and notes for people. Raises `BadInput` when the weights do not fit."""
    before = one.sent.fitted(setting.target, "what the server sent")
    after = one.returned.fitted(setting.target, "what the client returned")
    module = copy.deepcopy(setting.target.module)
    load_tensors(module, before, "what the server sent")
    target = dataclasses.replace(setting.target, module=module)
    release = Delta.between(target.parameters(), after.parameters)
    notes = [*before.notes, *after.notes]
    if any(bool((after.buffers[n] != v).any()) for n, v in before.buffers.items() if n in after.buffers):
        notes.append("the client also returned other buffers (running statistics), which are not in the update")
    notes += [finding.sentence for finding in vet_update(target, release)]
    facts = list(setting.facts)
    if setting.tell_size and one.examples is not None and not any(isinstance(fact, BatchSize) for fact in facts):
        facts.append(BatchSize(_behind(setting.mechanism, one.examples)))
    return Observation(target, release, setting.mechanism, tuple(facts)), tuple(dict.fromkeys(notes))


def _behind(mechanism: AbstractMechanism, examples: int) -> int:
    """How many of a client's examples its local steps can have touched."""
    protocol = mechanism.undefended
    assert isinstance(protocol, FedAvg)
    return examples if protocol.batch_size is None else min(examples, protocol.seen(protocol.batch_size))


def record(setting: Setting, one: Exchange) -> Entry:
    """Observe, write and attack one client's update. Whatever fails is a sentence of the entry, which is logged."""
    stem = f"round-{one.round:04d}-node-{one.node}"
    entry = Entry(one.round, one.node, "")
    try:
        seen, notes = observe(setting, one)
        update = setting.folder / f"{stem}.update.safetensors"
        _keep_weights(setting.folder, seen.target)
        write_update(update, seen, Provenance(setting.model, notes=notes))
        entry = dataclasses.replace(entry, update=update.name, sentence=_said(seen))
        if setting.attacks:
            claim, sentence = _attacked(setting, one, seen, stem)
            entry = dataclasses.replace(entry, claim=claim, sentence=f"{entry.sentence}; {sentence}")
    except FAILURES as error:
        before = f"{entry.sentence}; then " if entry.sentence else ""
        entry = dataclasses.replace(entry, sentence=f"{before}{first_line(error)}")
    log(setting.folder, entry)
    return entry


def keep(setting: Setting, exchanges: Sequence[Exchange]) -> Entry | None:
    """Hand the updates of one round on to the store; what hinders it is an entry of no node, which is logged."""
    if setting.store is None or not exchanges:
        return None
    number = exchanges[0].round
    try:
        seen = {str(one.node): observe(setting, one)[0] for one in exchanges}
        begun = {fingerprint(one.target) for one in seen.values()}
        if len(begun) > 1:
            raise BadInput(
                f"clients began round {number} with {len(begun)} different weights, of which a store has one"
            )
        weights = next(iter(seen.values())).target.parameters()
        setting.store.keep(Sent(number, weights, {node: one.release for node, one in seen.items()}))
    except FAILURES as error:
        entry = Entry(number, "", f"the store lacks this round: {first_line(error)}")
        log(setting.folder, entry)
        return entry
    return None


def _said(seen: Observation) -> str:
    if not any(bool((value != 0).any()) for value in seen.release.by_name.values()):
        return "the client returned what it was sent: nothing was trained"
    return f"{seen.release!r}"


def _keep_weights(folder: Path, target: Target) -> None:
    """The weights that were sent, once for all clients that got them; the update file names their fingerprint."""
    path = folder / f"weights-{fingerprint(target)[:16]}.safetensors"
    if not path.exists():
        state = {name: value.clone().contiguous() for name, value in target.module.state_dict().items()}
        write_atomically(path, save(state))


def _attacked(setting: Setting, one: Exchange, seen: Observation, stem: str) -> tuple[str, str]:
    key = setting.key.child("round", one.round).child("node", str(one.node))
    tried: list[Attempt[Claim]] = [
        attack.run(seen, key=key.child("attack", place), budget=setting.budget)
        for place, attack in enumerate(setting.attacks)
    ]
    claimed = [attempt for attempt in tried if attempt.outcome is Outcome.CLAIMED]
    proved = [attempt for attempt in claimed if attempt.certificate is not None and attempt.certificate.holds]
    chosen = next(iter([*proved, *claimed]), None)
    path = setting.folder / f"{stem}.claim.safetensors"
    write_claim(path, seen, tried, chosen)
    return path.name, "; ".join(f"{attempt.attack}: {attempt.outcome.value}, {attempt.sentence}" for attempt in tried)


def log(folder: Path, entry: Entry) -> None:
    """Append a line to `rounds.jsonl`. A full disk loses the line, not the training; the entry is in memory still."""
    with contextlib.suppress(OSError):
        private_folder(folder)
        with (folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(entry)) + "\n")
