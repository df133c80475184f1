"""`leakscope head`: which pictures a released classifier head was trained on, by somebody who has its file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from leakscope.attacks.inputs.heads.beside import Beside, beside
from leakscope.attacks.inputs.heads.head_images import DecodedHead, HeadImages
from leakscope.attacks.inputs.heads.inversion import fitted, held
from leakscope.attacks.inputs.heads.plausible import Oddity, oddities
from leakscope.attacks.inputs.heads.reading import Public, features_of, public, unclosed
from leakscope.attacks.preparing import Setting
from leakscope.audit.files import display, write_claim
from leakscope.audit.preparation import Shelf
from leakscope.cli import console
from leakscope.cli.data import in_units, source
from leakscope.cli.ending import Exit
from leakscope.cli.expressions import build, domain
from leakscope.cli.models import brought, recipe
from leakscope.cli.rows import Family
from leakscope.cli.text.released import Released
from leakscope.core import file_limits
from leakscope.core.asking import asking
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.facts import BatchSize
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.release import Weights
from leakscope.core.target import Target
from leakscope.datasets.sources.folder import ImageFolder
from leakscope.mechanisms.protocols.training import HeadTraining
from leakscope.numerics.rng import Key
from leakscope.report.page_head import HeadPage, write_head_page
from leakscope.targets.files.foreign import read_foreign
from leakscope.targets.files.released_head import LARGEST, ReleasedHead, released_head
from leakscope.targets.looking.dense_ends import output_layer, probe_inputs
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.recipes.linear_probe import HEAD, LinearProbe
from leakscope.targets.recipes.trained import Trained

SOUGHT = HeadTraining(32, 0.01, 0.01)
"""A usual course of SGD, whose rates and first weights are fitted where none was declared; its 32 steps stay."""
LITTLE = 0.05
"""Share of what distinguishes an example from its class, below which it is said that a head does not hold it."""


@final
@dataclass(frozen=True)
class Spelled:
    """A model as it was written, for sentences."""

    text: str

    def __repr__(self) -> str:
        return self.text


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """What is attacked. names: of the classes, as their folders are called."""

    probe: LinearProbe
    target: Target
    head: ReleasedHead
    pool: Pool
    names: tuple[str, ...]


def head(order: Released) -> Exit:
    """Attack, write claim and page, say what was assumed and what speaks against it. Nothing is proved: 3."""
    seen = _seen(order)
    mechanism, notes = _declared(order, seen)
    attempt, observed, around = _attempted(order, seen, mechanism)
    said = write_claim(order.out, observed, [attempt], None if attempt.claim is None else attempt)
    page = None
    if isinstance(attempt.claim, Inputs) and around is not None:
        shown = [display(observed.target.domain, one) for one in (attempt.claim.values, around.neighbors, around.means)]
        page = write_head_page(order.report, HeadPage(said, notes, seen.names, tuple(zip(*shown, strict=True))))
    found = {
        "claim": str(order.out),
        "report": page and str(page),
        "training": repr(mechanism),
        "notes": list(notes),
        "outcome": attempt.outcome.value,
        "sentence": attempt.sentence,
    }
    if order.as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(order, seen, found)))
    return Exit.INCOMPLETE


def _lines(order: Released, seen: Seen, found: dict[str, Any]) -> list[str]:
    classes, wide = seen.head.weight.shape
    lines = [f"{order.head}: {classes} classes of {wide} features, beside {len(seen.pool)} public pictures"]
    lines += [f"note: {one}" for one in found["notes"]]
    lines.append(f"{found['outcome']}: {found['sentence']}")
    if found["report"] is None:
        lines.append("nothing was claimed; this does not show that nothing leaks")
    else:
        lines.append(f"report: {found['report']}; a picture counts only beyond the two beside it")
    return lines


def _seen(order: Released) -> Seen:
    """Raises `BadInput` where backbone, head and pictures do not belong together."""
    takes, notes = domain(order.domain), read_foreign(order.head, allow_pickle=order.backbone.allow_pickle)
    for note in notes.notes:
        console.say(f"note: {note}")
    backbone, classes = _backbone(order, takes)
    whole = backbone.build(takes, classes, key=Key(0))
    found = released_head(notes, whole.module.state_dict())
    probe = _probe(order, backbone, classes, whole, found.weight.shape[1])
    pool, names = _public(order, takes, len(found.weight))
    _affordable(order, found, pool)
    target = probe.build(takes, len(found.weight), key=Key(0))
    return Seen(probe, target, found, pool, names)


def _affordable(order: Released, found: ReleasedHead, pool: Pool) -> None:
    """Raises `BadInput` where the heads that it is compared with take more examples than this machine holds."""
    # the examples of one head, their noise and their products
    needed, there = 4 * order.each * found.weight.numel() * found.weight.itemsize, file_limits.memory()
    if needed > there:
        raise BadInput(
            f"--each {order.each}: the examples of a head to compare with take {file_limits.size(needed)}, this "
            f"machine has {file_limits.size(there)} free; give how many examples of each class the head was trained on"
        )
    fewest = int(torch.bincount(pool.batch.labels).min())
    if fewest < order.each:
        raise BadInput(
            f"--each {order.each}: heads to learn from need as many public pictures of each class, and the smallest "
            f"has {fewest}; give more, or how many examples of each class the head was trained on"
        )


def _backbone(order: Released, takes: AbstractDomain) -> tuple[AbstractArchitecture, int]:
    """The recipe with its weights, and how many numbers it returns."""
    made = recipe(order.backbone.model, order.classes or 1)
    classes = order.classes
    if isinstance(made, Imported) and classes is None:
        bare = made.module(Key(0)).eval()
        if next(bare.parameters(), None) is None:
            raise BadInput(f"{order.backbone.model} has no parameters; give the network that the head was trained on")
        # Their code, which may raise anything, most often as pictures of another size do.
        with torch.no_grad(), asking(Spelled(order.backbone.model), f"be run on 2 pictures of {order.domain}"):
            outputs = bare(probe_inputs(Target(bare, takes, 1), 2, key=Key(0)))
        classes = _returned(outputs, order)
    brought(dataclasses.replace(order.backbone, state=None), takes, classes or 1)  # says what is not installed
    return (made if order.backbone.state is None else Trained(made, order.backbone.state)), classes or 1


def _returned(outputs: object, order: Released) -> int:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise BadInput(f"{order.backbone.model} returns {got} for 2 pictures, expected one vector each; flatten it")
    return outputs.shape[1]


def _probe(order: Released, backbone: AbstractArchitecture, classes: int, whole: Target, wide: int) -> LinearProbe:
    """The head's target, on what the backbone returns or on what its output layer is fed, by the head's width."""
    try:
        fed: int | None = output_layer(whole).features
    except NoSuchLayer:
        fed = None
    if fed == wide:
        return LinearProbe(backbone, classes)
    if classes == wide:
        return LinearProbe(backbone, classes, whole=True)
    before = "" if fed is None else f", and its output layer is fed {fed}"
    raise BadInput(
        f"the head in {order.head} reads {wide} features, {order.backbone.model} returns {classes}{before}; give the "
        "backbone that this head was trained on"
    )


def _public(order: Released, takes: AbstractDomain, classes: int) -> tuple[Pool, tuple[str, ...]]:
    """All of a folder, and of leakscope's own sources the public part."""
    where = source(order.public, takes)
    if where.classes != classes:
        raise BadInput(
            f"{order.public} has pictures of {where.classes} classes, the head tells {classes} apart; give one "
            "subfolder for each class, in the order of the head's rows"
        )
    names = where.names if isinstance(where, ImageFolder) else tuple(map(str, range(classes)))
    batch = where.load() if isinstance(where, ImageFolder) else where.public()
    return Pool(in_units(batch, where.domain, takes)), names


def _declared(order: Released, seen: Seen) -> tuple[AbstractMechanism, tuple[str, ...]]:
    """The training as it was told or fitted, and what is to be said of it and of the head."""
    notes: list[str] = []
    mechanism: AbstractMechanism = SOUGHT
    if order.training is not None:
        mechanism = build(order.training, Family.PROTOCOLS)
    known = public(seen.target, mechanism, seen.pool, learned=True)
    if isinstance(known, Refusal):
        return mechanism, ()
    if not max(known.training.rates) <= LARGEST:
        raise BadInput(
            f"--training {order.training}: no training ends well at a rate of {max(known.training.rates):.3g}; give "
            f"at most {LARGEST:g}"
        )
    if not (known.training.init_std or 0.0) <= LARGEST:
        raise BadInput(
            f"--training {order.training}: nothing is read of a head whose first weights were "
            f"{known.training.init_std:g} large; give at most {LARGEST:g}"
        )
    if order.training is None:
        training = fitted(seen.head.weight, known.prior.mean_of(order.each), known.training)
        known = dataclasses.replace(known, training=training)
        notes.append(
            f"no --training: SGD is assumed, its rates fitted (they sum to {sum(training.rates):.3g}), and first "
            f"weights of {training.init_std:.3g}"
        )
    such = "such a" if order.training is None else "the declared"
    share = None if _open(mechanism, known) else held(seen.head.weight, known.prior.mean_of(order.each), known.training)
    if share is not None and share < LITTLE:
        notes.append(
            f"by {such} training the head holds {100 * share:.1f} % of what distinguishes examples from their class: "
            "the pictures are the public's, as of any head that was hardly trained, has large first weights or was "
            "trained on other classes; where the folders are in another order than the head's rows, it may hold more"
        )
    notes += [
        f"this is no head that {such} training makes on this backbone: {one} what it is in heads that are; attacked "
        "all the same, but momentum, Adam, another or a fine-tuned backbone, other first biases, other rates or "
        "another order of classes may be behind it, and then the pictures are the public's"
        for one in _odd(order, seen, mechanism, known)[:3]
    ]
    if order.each > 1:
        notes.append(f"of the {order.each} examples of each class the head holds the mean; the rest is the public's")
    return (mechanism if order.training is not None else known.training), tuple(notes)


def _odd(order: Released, seen: Seen, mechanism: AbstractMechanism, known: Public) -> tuple[Oddity, ...]:
    """None of trainings without closed form, whose numbers are not known."""
    if _open(mechanism, known):
        return ()
    key, head = Key(order.seed).child("plausible"), seen.head
    with console.watching("trains heads to compare with") as watch:
        return oddities(head.weight, head.bias, known.prior, known.training, order.each, key=key, watch=watch)


def _open(mechanism: AbstractMechanism, known: Public) -> bool:
    """Whether what such a training leaves of its examples is in no closed form, or of no secret first weights."""
    return known.training.init_std is None or unclosed(mechanism) is not None


def _attempted(
    order: Released, seen: Seen, mechanism: AbstractMechanism
) -> tuple[Attempt[Inputs], Observation, Beside | None]:
    """The attack by its usual road: what refuses there is refused here."""
    classes = len(seen.head.weight)
    release = Weights({f"{HEAD}.weight": seen.head.weight, f"{HEAD}.bias": seen.head.bias})
    observed = Observation(seen.target, release, mechanism, (BatchSize(order.each * classes),))
    learner = HeadImages(seen.pool, each=order.each, steps=order.steps, local=order.local)
    if seen.head.tuned:
        return _refused(learner, seen), observed, None
    setting = Setting(seen.probe, seen.target.domain, classes, mechanism)
    with console.watching("trains public heads, and learns to decode features") as watch:
        ready = Shelf().ready(learner, setting, seed=order.seed, watch=watch).attack
    attempt = ready.run(observed, key=Key(order.seed).child("attack"))
    if attempt.claim is None or not isinstance(ready, DecodedHead):
        return attempt, observed, None
    estimates = ready.estimated(observed)
    features = features_of(seen.target, output_layer(seen.target), seen.pool.batch.inputs)
    return attempt, observed, beside(estimates, features, seen.pool.batch)


def _refused(learner: HeadImages, seen: Seen) -> Attempt[Inputs]:
    """A backbone that was trained along: it made other features in each step, and no course in closed form."""
    tuned = seen.head.tuned
    return Attempt(
        repr(learner),
        Outcome.REFUSED,
        f"{len(tuned)} of the {seen.head.beside} tensors that the file has of the backbone differ from the public "
        f"one's ({tuned[0]}, ...): it was fine-tuned with the head, whose features were then not those that anybody "
        "can make; what a head on a frozen backbone gives away is no measure of it",
    )
