"""Updates, secrets and claims as files (`ledger.exchange`) and back: the sides of the game can sit on two machines.

The update file is made of an `Observation` and of nothing else, so it can hold no more than an adversary is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray
from torch import Tensor

from leakscope.audit.display import certificate
from leakscope.core import file_limits
from leakscope.core.annotation import Annotation
from leakscope.core.attempt import Attempt, Certificate, Cost, Outcome, Trace
from leakscope.core.batch import Batch
from leakscope.core.claim import Claim
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.release import Delta, Gradient, Release, Weights
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.ledger import container
from leakscope.ledger.exchange import Annotated, ClaimHeader, ReleaseKind, SecretHeader, Tried, UpdateHeader
from leakscope.ledger.record import CertificateRecord
from leakscope.numerics import trees
from leakscope.numerics.arrays import as_arrays, as_tensors
from leakscope.numerics.trees import Named
from leakscope.scoring.kinds.table import kind_named, kind_of
from leakscope.version import VERSION

RELEASES: dict[ReleaseKind, type[Release]] = {
    ReleaseKind.GRADIENT: Gradient,
    ReleaseKind.DELTA: Delta,
    ReleaseKind.WEIGHTS: Weights,
}

ELSEWHERE = "; an update from elsewhere is brought in with `leakscope capture --update` or `--before` and `--after`"
"""What to do with the file of another program where an update is expected."""

MOST_CLASSES = 2**16
"""Classes that a file may name although it holds fewer numbers; more than any model of images or of words has."""

SECRET_TENSORS = ("inputs", "labels", "lengths", "label_lengths")


@final
@dataclass(frozen=True)
class Provenance:
    """What an update file says besides the observation. model: as given; weights_seed: see `UpdateHeader`."""

    model: str
    weights_seed: int | None = None
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class Update:
    """An update that was read: its description and its numbers."""

    header: UpdateHeader
    release: Release


@final
@dataclass(frozen=True, eq=False, repr=False)
class Kept:
    """A secret that was read, with its description."""

    header: SecretHeader
    secret: Secret


@final
@dataclass(frozen=True, eq=False)
class Made:
    """What came of an attack that was read: its description, and the chosen attempt, None where nothing was claimed."""

    header: ClaimHeader
    attempt: Attempt[Claim] | None


def fingerprint(target: Target) -> str:
    """A hash of the weights and buffers alone: the same for a model that was named in another way."""
    return trees.fingerprint({**target.parameters(), **target.buffers()})


def write_update(path: Path, seen: Observation, said: Provenance) -> UpdateHeader:
    """Write what the adversary sees, with the fingerprint of the weights in place of the model."""
    arrays, narrow = as_arrays(seen.release.by_name)
    header = UpdateHeader(
        leakscope=VERSION,
        bfloat16=narrow,
        release=next(kind for kind, made in RELEASES.items() if isinstance(seen.release, made)),
        mechanism=repr(seen.mechanism),
        model=said.model,
        domain=repr(seen.target.domain),
        classes=seen.target.classes,
        weights=fingerprint(seen.target),
        weights_seed=said.weights_seed,
        told=tuple(repr(fact) for fact in seen.facts),
        notes=said.notes,
    )
    container.write(path, header, arrays)
    return header


def read_update(path: Path) -> Update:
    """Raises `BadInput` as `container.read` does, or when it holds no tensor."""
    header, arrays = container.read(path, UpdateHeader, hint=ELSEWHERE)
    _bounded(path, header.classes, arrays)
    for name, value in arrays.items():
        if value.dtype.kind != "f" or not value.size:
            what = "empty" if not value.size else f"of {value.dtype}"
            raise BadInput(
                f"{file_limits.shortened(name)} in {path} is {what}, expected floating numbers; make it anew"
            )
    return Update(header, RELEASES[header.release](as_tensors(arrays, header.bfloat16)))


def _bounded(path: Path, classes: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises `BadInput` on more classes than the file has numbers: a model of that size would be built at once.

    A partial update may lack the layer that has one row per class, so that few numbers alone are no contradiction.
    """
    most = max(MOST_CLASSES, sum(value.size for value in arrays.values()))
    if classes > most:
        raise BadInput(f"{path} describes itself wrongly: {classes} classes in a file of {most} numbers; make it anew")


def write_secret(
    path: Path, secret: Secret, seen: Observation, *, data: str = "", words: tuple[str, ...] = ()
) -> SecretHeader:
    """Write the private batch and what is known of it, for scoring. data, words: as in `SecretHeader`, for people."""
    batch = secret.reveal()
    named = {name: getattr(batch, name) for name in SECRET_TENSORS}
    arrays, narrow = as_arrays({name: value for name, value in named.items() if value is not None})
    header = SecretHeader(
        leakscope=VERSION,
        bfloat16=narrow,
        domain=repr(seen.target.domain),
        classes=seen.target.classes,
        data=data,
        update=seen.release.fingerprint(),
        annotations=tuple(
            Annotated(name=one.name, values=one.values, categories=one.categories, per=one.per)
            for one in secret.annotations
        ),
        words=words,
    )
    container.write(path, header, arrays)
    return header


def read_secret(path: Path) -> Kept:
    """Raises `BadInput` as `container.read` does, or when the tensors are no batch."""
    header, arrays = container.read(path, SecretHeader)
    _bounded(path, header.classes, arrays)
    found = as_tensors(arrays, header.bfloat16)
    if not {"inputs", "labels"} <= found.keys() <= set(SECRET_TENSORS):
        raise BadInput(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}, expected inputs and labels; make it anew"
        )
    annotations = tuple(Annotation(one.name, one.values, one.categories, one.per) for one in header.annotations)
    return Kept(header, Secret(Batch(**found).checked(), annotations))


def write_claim(
    path: Path, seen: Observation, tried: Sequence[Attempt[Claim]], chosen: Attempt[Claim] | None
) -> ClaimHeader:
    """Write what was tried and the attempt that was chosen among it. `chosen` is one of `tried`, or None."""
    place = -1 if chosen is None else next(i for i, one in enumerate(tried) if one is chosen)
    trace = Trace() if chosen is None else chosen.trace
    claim = None if chosen is None else chosen.claim
    tensors, text = _taken_apart(claim)
    pictures = {f"picture.{i}": shown for i, (_, shown) in enumerate(trace.pictures)}
    arrays, narrow = as_arrays({**tensors, **pictures})
    header = ClaimHeader(
        leakscope=VERSION,
        bfloat16=narrow,
        update=seen.release.fingerprint(),
        domain=repr(seen.target.domain),
        claim="" if claim is None else type(claim).__name__,
        text=text,
        tried=tuple(_tried(one) for one in tried),
        chosen=place,
        steps=() if chosen is None else chosen.steps,
        trace_evaluations=trace.evaluations,
        trace_losses=trace.losses,
        picture_evaluations=tuple(at for at, _ in trace.pictures),
    )
    container.write(path, header, arrays)
    return header


def read_claim(path: Path) -> Made:
    """Raises `BadInput` as `container.read` does, or when it does not hold the claim that it describes."""
    header, arrays = container.read(path, ClaimHeader)
    if header.chosen < 0:
        return Made(header, None)
    found = as_tensors(arrays, header.bfloat16)
    try:
        said = header.tried[header.chosen]
        claim = _put_together(header, found)
        shown = tuple((at, found[f"picture.{i}"]) for i, at in enumerate(header.picture_evaluations))
        attempt = Attempt(
            said.attack,
            Outcome(said.outcome),
            said.sentence,
            claim,
            _certificate(said.certificate, items=0 if claim is None else len(claim)),
            Cost(said.seconds, said.evaluations),
            Trace(header.trace_evaluations, header.trace_losses, shown),
            header.steps,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInput(f"{path} does not hold the claim that it describes ({error}); make it anew") from None
    return Made(header, attempt)


def _taken_apart(claim: Claim | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A claim as its tensors, under `claim.FIELD`, and its other fields, as its kind writes them."""
    tensors, text = ({}, {}) if claim is None else kind_of(claim).written(claim)
    return {f"claim.{name}": value for name, value in tensors.items()}, text


def _put_together(header: ClaimHeader, found: Named) -> Claim | None:
    if not header.claim:
        return None
    tensors = {name.removeprefix("claim."): value for name, value in found.items() if name.startswith("claim.")}
    made: Claim = kind_named(header.claim).read(tensors, header.text)
    return made


def _tried(one: Attempt[Claim]) -> Tried:
    return Tried(
        attack=one.attack,
        outcome=one.outcome.value,
        sentence=one.sentence,
        certificate=certificate(one.certificate),
        seconds=one.cost.seconds,
        evaluations=one.cost.evaluations,
    )


def _certificate(said: CertificateRecord | None, *, items: int) -> Certificate | None:
    if said is None:
        return None
    if said.residuals:
        return Certificate(said.residuals, said.tolerances, said.statement)
    return Certificate.alike(said.residual, said.tolerance, said.statement, items=items)


def display(domain: AbstractDomain, inputs: Tensor) -> NDArray[Any]:
    """Inputs in display units, as a page draws them."""
    array: NDArray[Any] = domain.to_display(inputs.detach().cpu().float()).numpy()
    return array
