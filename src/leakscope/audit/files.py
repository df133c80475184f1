"""Updates, secrets and claims as files (`ledger.exchange`) and back: the sides of the game can sit on two machines.

The update file is made of an `Observation` and of nothing else, so it can hold no more than an adversary is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from leakscope.ledger import exchange
from leakscope.ledger.exchange import Annotated, ClaimHeader, ReleaseKind, SecretHeader, Tried, UpdateHeader
from leakscope.ledger.record import CertificateRecord
from leakscope.numerics import trees
from leakscope.numerics.trees import Named
from leakscope.scoring.kinds.table import kind_named, kind_of
from leakscope.version import VERSION

RELEASES: dict[ReleaseKind, type[Release]] = {
    ReleaseKind.GRADIENT: Gradient,
    ReleaseKind.DELTA: Delta,
    ReleaseKind.WEIGHTS: Weights,
}

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
    arrays, narrow = _arrays(seen.release.by_name)
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
    exchange.write(path, header, arrays)
    return header


def read_update(path: Path) -> Update:
    """Raises `BadInput` as `exchange.read` does, or when it holds no tensor."""
    header, arrays = exchange.read(path, UpdateHeader)
    return Update(header, RELEASES[header.release](_tensors(arrays, header.bfloat16)))


def write_secret(
    path: Path, secret: Secret, seen: Observation, *, data: str = "", words: tuple[str, ...] = ()
) -> SecretHeader:
    """Write the private batch and what is known of it, for scoring. data, words: as in `SecretHeader`, for people."""
    batch = secret.reveal()
    named = {name: getattr(batch, name) for name in SECRET_TENSORS}
    arrays, narrow = _arrays({name: value for name, value in named.items() if value is not None})
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
    exchange.write(path, header, arrays)
    return header


def read_secret(path: Path) -> Kept:
    """Raises `BadInput` as `exchange.read` does, or when the tensors are no batch."""
    header, arrays = exchange.read(path, SecretHeader)
    found = _tensors(arrays, header.bfloat16)
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
    arrays, narrow = _arrays({**tensors, **pictures})
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
    exchange.write(path, header, arrays)
    return header


def read_claim(path: Path) -> Made:
    """Raises `BadInput` as `exchange.read` does, or when it does not hold the claim that it describes."""
    header, arrays = exchange.read(path, ClaimHeader)
    if header.chosen < 0:
        return Made(header, None)
    found = _tensors(arrays, header.bfloat16)
    try:
        said = header.tried[header.chosen]
        shown = tuple((at, found[f"picture.{i}"]) for i, at in enumerate(header.picture_evaluations))
        attempt = Attempt(
            said.attack,
            Outcome(said.outcome),
            said.sentence,
            _put_together(header, found),
            _certificate(said.certificate),
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
    proof = one.certificate
    certificate = proof and CertificateRecord(
        residual=proof.residual, tolerance=proof.tolerance, holds=proof.holds, statement=proof.statement
    )
    return Tried(
        attack=one.attack,
        outcome=one.outcome.value,
        sentence=one.sentence,
        certificate=certificate,
        seconds=one.cost.seconds,
        evaluations=one.cost.evaluations,
    )


def _certificate(said: CertificateRecord | None) -> Certificate | None:
    return said and Certificate(said.residual, said.tolerance, said.statement)


def _arrays(named: Named) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """As numpy has them; bfloat16, which it has not, as float32, exactly."""
    plain = {name: value.detach().cpu() for name, value in named.items()}
    narrow = tuple(name for name, value in plain.items() if value.dtype is torch.bfloat16)
    return {name: (v.float() if name in narrow else v).numpy() for name, v in plain.items()}, narrow


def _tensors(arrays: Mapping[str, NDArray[Any]], narrow: Sequence[str]) -> dict[str, Tensor]:
    made = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    return {name: value.bfloat16() if name in narrow else value for name, value in made.items()}


def display(domain: AbstractDomain, inputs: Tensor) -> NDArray[Any]:
    """Inputs in display units, as a page draws them."""
    array: NDArray[Any] = domain.to_display(inputs.detach().cpu().float()).numpy()
    return array
