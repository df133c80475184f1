"""`leakscope capture`: what the server sees of one client, in a file; and the secret behind it, in another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from leakscope.attacks.parts.reading.trained import idle
from leakscope.audit.affordable import check_domain, check_model
from leakscope.audit.files import RELEASES, Provenance, write_secret, write_update
from leakscope.audit.telling import tell
from leakscope.cli import console, looks
from leakscope.cli.data import batch_file, in_units, source
from leakscope.cli.ending import Exit
from leakscope.cli.expressions import build, domain, fact
from leakscope.cli.models import OTHERS, brought, recipe
from leakscope.cli.rows import Family
from leakscope.cli.text.asked import Capture, Kind
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact
from leakscope.core.mechanism import AbstractMechanism, AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.release import Delta, Release
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.datasets.draw import AbstractSource
from leakscope.ledger.exchange import ReleaseKind
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.state import told_by
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.files.foreign import ModelTensors, for_model, read_foreign
from leakscope.targets.files.tensors import listed

UNSURE = (
    "the weights are those that --model comes with; if the update was computed at others, give them with --state, or "
    "only attacks that do not read the weights mean anything"
)


MOVED = (
    "running statistics moved: the client normalized over its own batch, so declare the model in training mode "
    "(training=True in --model)"
)


STATISTICS = (
    "they moved in one step, so they tell the mean and the variance of the client's batch in each layer "
    "(BatchNormStatistics), which attacks are told; assumed is one client alone, with the momentum that the model has"
)


@final
@dataclass(frozen=True, eq=False)
class _Scene:
    """What an input is, and what is private. secret: None where it is not known."""

    domain: AbstractDomain
    classes: int
    source: AbstractSource | None
    secret: Secret | None


def capture(order: Capture) -> Exit:
    """Write the update and, if asked, the secret; say what was written."""
    imported = order.elsewhere.given
    scene = _scene(order)
    check_model(recipe(order.model.model, scene.classes), scene.domain, scene.classes)
    told = order.domain is not None and order.classes is not None
    said_by = "" if told or order.private.data is None else f"--data {order.private.data} has them: {OTHERS}"
    target, notes = brought(order.model, scene.domain, scene.classes, said_by=said_by)
    mechanism: AbstractMechanism = build(order.mechanism, Family.PROTOCOLS)
    facts = _facts(order.tell, target, scene)
    if imported:
        release, more, moved = _release(order, target, mechanism)
        seen, notes = _declared(Observation(target, release, mechanism, facts), scene), (*notes, *more)
        facts = told_by(seen, *moved)
        if facts:
            seen, notes = Observation(target, release, mechanism, (*seen.facts, *facts)), (*notes, STATISTICS)
    else:
        assert scene.secret is not None
        key = Key(order.private.seed).child("capture", "release")
        seen = observe(target, scene.secret.reveal(), mechanism, key=key, tell=facts)
    notes = (*notes, *looks.said(seen))
    # Weights that a file brings have no seed; those of an expression such as Trained(...) do not mind one.
    seed = order.model.seed if order.model.state is None else None
    header = write_update(order.out, seen, Provenance(order.model.model, seed, notes))
    if order.secret is not None and scene.secret is not None:
        words = () if scene.source is None else scene.source.words()
        write_secret(
            order.secret, scene.secret, seen, data=order.private.data or order.private.batch or "", words=words
        )
    for note in notes:
        console.say(f"note: {note}")
    said = {
        "update": str(order.out),
        "secret": order.secret and str(order.secret),
        **json.loads(header.model_dump_json()),
    }
    print(json.dumps(said, indent=2) if order.as_json else "\n".join(_lines(order, seen, header.told)))
    return Exit.NO_LEAK_FOUND


def _scene(order: Capture) -> _Scene:
    given, private = order.domain and domain(order.domain), order.private
    if given:
        check_domain(given)  # before a folder of pictures is read for it
    where = None if private.data is None else source(private.data, given or None)
    takes = given or (where and where.domain)
    classes = order.classes or (where and where.classes)
    if takes:
        check_domain(takes)
    assert takes  # what is neither given nor in data was refused when the order was checked
    assert classes
    return _Scene(takes, classes, where, _secret(order, where, takes))


def _secret(order: Capture, where: AbstractSource | None, takes: AbstractDomain) -> Secret | None:
    """The private examples, None for an update from elsewhere whose examples are not given."""
    private = order.private
    if private.batch is not None:
        batch = batch_file(private.batch, allow_pickle=False)
        if private.count is not None and private.count != len(batch):
            raise BadInput(f"{private.batch} holds {len(batch)} examples, --count says {private.count}; leave it out")
        return Secret(batch)
    if order.elsewhere.given or where is None:
        return None
    drawn = where.draw(private.count or 1, key=Key(private.seed).child("capture", "secret"))
    return Secret(in_units(drawn.reveal(), where.domain, takes), drawn.annotations)


def _facts(texts: Sequence[str], target: Target, scene: _Scene) -> tuple[Fact, ...]:
    """The facts, with their values taken from the private examples where only a kind is named."""
    found: list[Fact] = []
    for text in texts:
        one = fact(text)
        if isinstance(one, type):
            assert scene.secret is not None  # else only facts with their values pass the check of the order
            (one,) = tell([one], target, scene.secret.reveal(), source=scene.source)
        if fact_of(repr(one)) is None:
            raise BadInput(
                f"--tell {text}: {type(one).__name__} is made of public data, not of the update; leave it out"
            )
        found.append(one)
    return tuple(found)


def fact_of(text: str) -> Fact | None:
    """The fact that an update file tells; None for one that its text does not rebuild."""
    try:
        found = fact(text)
    except BadInput:
        return None
    return None if isinstance(found, type) else found


def _declared(seen: Observation, scene: _Scene) -> Observation:
    """`seen`, unless a fact is not true of the private examples, where they are known."""
    for one in seen.facts if scene.secret is not None else ():
        assert scene.secret is not None
        contradiction = one.contradiction(scene.secret.reveal())
        if contradiction is not None:
            raise BadInput(f"{contradiction}; tell what is true or nothing")
    return seen


def _release(
    order: Capture, target: Target, mechanism: AbstractMechanism
) -> tuple[Release, tuple[str, ...], tuple[Named, Named]]:
    """The update from elsewhere, notes, and the buffers before and after, as far as they are known.

    Raises `BadInput` when the mechanism sends another kind.
    """
    given = order.elsewhere
    release: Release
    moved: tuple[Named, Named] = ({}, {})
    if given.update is not None:
        assert given.kind is not None
        values = _fitted(given.update, order, target)
        release, notes = RELEASES[ReleaseKind(given.kind.value)](values.parameters), _said(given.update, values)
        if given.kind is Kind.DELTA and any(bool((value != 0).any()) for value in values.buffers.values()):
            notes = (*notes, MOVED)
            own = target.buffers()
            moved = own, {name: own[name] + value for name, value in values.buffers.items()}
        if order.model.state is None:
            notes = (*notes, UNSURE)
    else:
        assert given.before is not None
        assert given.after is not None
        before, after = (_fitted(path, order, target) for path in (given.before, given.after))
        _differ((given.before, before), (given.after, after))
        release, notes = Delta.between(before.parameters, after.parameters), _said(given.after, after)
        notes = (*notes, *_changes(release, (given.before, before), (given.after, after)))
        moved = before.buffers, after.buffers
    if isinstance(mechanism, AbstractStep):
        mechanism.as_gradient(release)  # raises where the protocol sends something else
    return release, notes, moved


def _differ(before: tuple[str, ModelTensors], after: tuple[str, ModelTensors]) -> None:
    """Raises `BadInput` where nothing was trained between the two files: nothing would be found, whatever leaks."""
    both = before[1].parameters.keys() & after[1].parameters.keys()
    if both and all(torch.equal(before[1].parameters[name], after[1].parameters[name]) for name in both):
        raise BadInput(
            f"{before[0]} and {after[0]} hold the same weights: nothing was trained between them; save one before the "
            "client trains, as a copy (state_dict() shares its numbers with the model), and one after"
        )


def _changes(release: Delta, before: tuple[str, ModelTensors], after: tuple[str, ModelTensors]) -> tuple[str, ...]:
    """What two files of weights say of how the client trained, beside the change."""
    notes = []
    coarse = sorted({str(v.dtype) for v in release.by_name.values() if v.element_size() < 4})
    if coarse:
        one, other = Path(before[0]).name, Path(after[0]).name
        notes.append(
            f"{one} or {other} holds numbers of {' and '.join(coarse)}: the change is known no better, so nothing can "
            "be proved; save the weights in float32"
        )
    still = idle(release.by_name)
    if still:
        notes.append(f"{listed(sorted(still))} did not change: taken as not trained, so no attack reads them")
    both = [name for name in after[1].buffers if name in before[1].buffers]
    if any(not torch.equal(before[1].buffers[name], after[1].buffers[name]) for name in both):
        notes.append(MOVED)
    return tuple(notes)


def _fitted(path: str, order: Capture, target: Target) -> ModelTensors:
    return for_model(read_foreign(path, allow_pickle=order.model.allow_pickle), target.module)


def _said(path: str, values: ModelTensors) -> tuple[str, ...]:
    apart = f"{len(values.buffers)} running statistics are not part of the update"
    return tuple(f"{Path(path).name}: {note}" for note in (*values.notes, *((apart,) if values.buffers else ())))


def _lines(order: Capture, seen: Observation, told: tuple[str, ...]) -> list[str]:
    lines = [f"{order.out}: {seen.release!r} of {seen.mechanism!r}; told: {', '.join(told) or 'nothing'}"]
    if order.secret is not None:
        lines.append(f"{order.secret}: the secret behind it; keep it apart, it is for `leakscope score` only")
    return lines
