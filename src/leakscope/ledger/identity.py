"""Which cell is which: a versioned hash of exactly what changes the answer."""

from __future__ import annotations

import hashlib
import json

from leakscope.ledger.record import CellSpec, Role

VERSION = 1
"""Raised whenever the same specification would give another answer, so that old records are not taken for new ones."""

SILENT = frozenset({"role"})
"""Fields that do not change the answer.

The role says why a cell is run, not what is run: the audited cell of an undefended mechanism *is* the positive
control of the defended ones. Leaving it out is what makes shared controls run once. Only a replaced cell is
another run.
"""


def identity(spec: CellSpec) -> str:
    """The first 20 hex digits (80 bits) of BLAKE2b over the version and every field that changes the answer.

    Told facts and metrics are sets: their order changes nothing. Keyed by name, so that the order of the
    schema's fields changes nothing either.

    >>> from leakscope.ledger.record import Role
    >>> spec = CellSpec(role=Role.AUDITED, target="T()", dataset="D()", mechanism="M()", attack="A()", batch_size=1,
    ...                 told=("BatchSize", "Labels"), metrics=("PSNR()",), trial=0, seed=0)
    >>> identity(spec) == identity(spec.model_copy(update={"role": Role.UNDEFENDED}))
    True
    >>> identity(spec) == identity(spec.model_copy(update={"trial": 1}))
    False
    """
    said = spec.model_dump(mode="json", exclude=set(SILENT))
    said["told"], said["metrics"] = sorted(said["told"]), sorted(said["metrics"])
    # sorted and escaped, so that neither the schema's order nor an encoding decides; 80 bits: among a million cells two
    # share their first 20 digits with a probability of 4e-13
    if spec.role is Role.REPLACED:
        # The one role that says what is run: the release is of other data. Named only there, so that all other cells
        # keep the identities that they had before there was this control.
        # What is told is of the private batch since 2026-11: before, facts told it of the one that is sent, which is
        # another question, and a run that is resumed must not mix the two.
        said["replaced"] = "told of the private batch" if spec.told else True
    text = json.dumps([VERSION, said], sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
