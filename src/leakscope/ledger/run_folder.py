"""A run's folder: one atomically written file per cell, an index, the plan, the summary.

RUN/
    plan.json               what was planned; compared on resume
    cells/<identity>.safetensors   a container (`ledger.container`): arrays by name, described by the record
    index.jsonl             one line per record, for people and scripts; written by the runner alone
    summary.json            the verdicts
    prepared/               what attacks have learned from public data, by fingerprint
    damaged/                files that were not what was written, moved aside
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray
from pydantic import ValidationError

from leakscope.core import file_limits
from leakscope.core.errors import BadInput, DamagedRecord
from leakscope.ledger.container import RECORD, Content, Damage, Fault, first_fault, read_content, write_content
from leakscope.ledger.files import Arrays, write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.ledger.identity import identity
from leakscope.ledger.lease import AbstractLease
from leakscope.ledger.planned import PLAN, is_plan
from leakscope.ledger.record import SCHEMA, Record, Summary
from leakscope.ledger.shapes import misfit

SUFFIX = ".safetensors"


@final
class RunStore:
    """The folder of one run. Safe for many writers of different cells; the index and the summary have one writer.

    part: the name of the part of the cells that this process and its workers are for, empty for all of them.
    lease: by which it may write; checked before each write, which raises `LostLease` where another process has taken
    over. None for readers, and where nobody else can be.
    """

    def __init__(self, folder: Path, part: str = "", lease: AbstractLease | None = None) -> None:
        self.folder, self.part = Path(folder), part
        self.cells, self.prepared = self.folder / "cells", self.folder / "prepared"
        self._lease = lease

    def __repr__(self) -> str:
        return f"RunStore({str(self.folder)!r})"

    def _check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def path(self, name: str) -> Path:
        """The file of the cell with this identity."""
        return self.cells / f"{name}{SUFFIX}"

    def write(self, record: Record, arrays: Arrays | None = None) -> Path:
        """Write one cell. Raises `DamagedRecord` when the record's identity is not that of its specification."""
        if record.identity != identity(record.spec):
            raise DamagedRecord(f"record {record.identity} does not describe its own cell {identity(record.spec)}")
        self._check()
        path = self.path(record.identity)
        write_content(path, RECORD, record.model_dump_json(), arrays or {})
        return path

    def read(self, name: str) -> tuple[Record, dict[str, NDArray[Any]]]:
        """The record and the arrays of a cell.

        Raises `DamagedRecord` when the file is absent, cut short, changed, of another schema or another cell's.
        """
        path = self.path(name)
        found = _opened(path)
        try:
            file_limits.parsed(found.text)
            record = Record.model_validate_json(found.text)
            if record.schema_version != SCHEMA:
                raise ValueError(_other(record.schema_version, self._written_by()))
        except ValidationError as error:
            raise DamagedRecord(
                f"{path} holds no valid record: {first_fault(error)}{_wrote(error, found.text)}"
            ) from None
        except ValueError as error:
            raise DamagedRecord(f"{path} holds no valid record: {error}") from None
        if record.identity != name or identity(record.spec) != name:
            raise DamagedRecord(f"{path} holds the record of another cell, {identity(record.spec)}")
        wrong = misfit(found.arrays)
        if wrong:
            raise DamagedRecord(f"{path} holds no valid record: {wrong}")
        return record, found.arrays

    def record(self, name: str) -> Record:
        """The record of a cell; raises as `read`."""
        return self.read(name)[0]

    def names(self) -> list[str]:
        """The identities that have a file, sorted; the files need not be valid."""
        if not self.cells.is_dir():
            return []
        return sorted(path.name.removesuffix(SUFFIX) for path in self.cells.glob(f"*{SUFFIX}"))

    def records(self) -> Iterator[Record]:
        """Every record, in the order of identities. Raises `DamagedRecord` at the first that is not whole."""
        for name in self.names():
            yield self.record(name)

    def set_aside(self, name: str) -> Path:
        """Move a damaged file to `damaged/`, never over an earlier one, and say where it lies."""
        self._check()
        aside = self.folder / "damaged"
        private_folder(aside)
        place, count = aside / f"{name}{SUFFIX}", 0
        while place.exists():
            count += 1
            place = aside / f"{name}.{count}{SUFFIX}"
        os.replace(self.path(name), place)
        return place

    def sweep(self, mine: Iterable[str] | None = None) -> None:
        """Remove temporary files that a killed writer left. Only the sole runner may call this.

        mine: the identities of a part, whose sole runner removes its own: those of others may be in use.
        """
        self._check()
        strays = [stray for place in (self.folder, self.cells, self.prepared) for stray in place.glob(".*.tmp")]
        if mine is not None:
            # `write_atomically` names them .IDENTITY.safetensors.RANDOM.tmp
            own = {f".{name}{SUFFIX}" for name in mine}
            strays = [
                path for path in self.cells.glob(".*.tmp") if path.name.removesuffix(".tmp").rpartition(".")[0] in own
            ]
        for stray in strays:
            stray.unlink(missing_ok=True)

    def write_index(self, records: list[Record]) -> None:
        """Write the index anew, whole."""
        self._check()
        write_atomically(self.folder / "index.jsonl", "".join(_line(record) for record in records).encode())

    def append_index(self, record: Record) -> None:
        """Add one line to the index."""
        # Not atomic: half a line after a kill does no harm, since whoever goes on writes the index anew.
        # opened by hand: `open` would give it the rights of the user's other files
        handle = os.open(self.folder / "index.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with open(handle, "a", encoding="utf-8") as file:
            # Asked last: a process that is stopped between the question and the write goes on with an old answer.
            self._check()
            file.write(_line(record))

    def write_json(self, name: str, value: object) -> None:
        """Write a small JSON file of the run, such as `plan.json`."""
        self._check()
        write_atomically(self.folder / name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read it back; None when there is none. Raises `DamagedRecord` when it is not JSON."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            return file_limits.parsed(file_limits.text_of(path, "JSON of an audit"))
        except ValueError as error:
            raise DamagedRecord(f"{path} is not JSON: {error}") from None
        except BadInput as error:
            raise DamagedRecord(str(error)) from None

    def _written_by(self) -> object:
        """Which version says that it wrote the run, by its summary or else its plan; None where neither says it."""
        for name in ("summary.json", PLAN):
            with contextlib.suppress(DamagedRecord):
                said = self.read_json(name)
                versions = said.get("versions", said) if isinstance(said, dict) else None
                if isinstance(versions, dict) and "leakscope" in versions:
                    return versions["leakscope"]
        return None

    def plan(self) -> dict[str, Any] | None:
        """What `plan.json` says, None when there is none. Raises `DamagedRecord` when it is no audit's plan."""
        said = self.read_json(PLAN)
        if said is not None and not is_plan(said):
            raise DamagedRecord(f"{self.folder / PLAN} is not the plan that an audit writes; choose another folder")
        found: dict[str, Any] | None = said
        return found

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`."""
        self._check()
        write_atomically(self.folder / "summary.json", (summary.model_dump_json(indent=2) + "\n").encode())

    def summary(self) -> Summary:
        """The summary. Raises `DamagedRecord` when there is none or when it is not one."""
        path = self.folder / "summary.json"
        if not path.exists():
            raise DamagedRecord(f"{path} does not exist; the audit did not get that far: run it again with --resume")
        try:
            text = file_limits.text_of(path, "the summary of an audit")
            file_limits.parsed(text)
            found = Summary.model_validate_json(text)
            # what a finding points at has to be there: a page follows it
            if any(
                not one.groups or not 0 <= min(one.groups) <= max(one.groups) < len(found.groups)
                for one in found.findings
            ):
                raise ValueError(f"a finding names groups that are not among its {len(found.groups)}")
            if found.schema_version != SCHEMA:
                raise ValueError(_other(found.schema_version, found.versions.get("leakscope")))
            return found
        except ValidationError as error:
            raise DamagedRecord(
                f"{path} is no valid summary: {first_fault(error)}{_wrote(error, self._written_by())}"
            ) from None
        except ValueError as error:
            raise DamagedRecord(f"{path} is no valid summary: {error}") from None
        except BadInput as error:
            raise DamagedRecord(str(error)) from None


def _other(schema: int, version: object) -> str:
    return f"it has the schema {schema}, this leakscope reads {SCHEMA}; {file_limits.written_by(version)}"


def _wrote(error: ValidationError, version: object) -> str:
    """Which version wrote what has keys that this one does not know; nothing where it is wrong in another way."""
    newer = all(one["type"] == "extra_forbidden" for one in error.errors())
    return f"; {file_limits.written_by(version)}" if newer and version else ""


def _opened(path: Path) -> Content:
    if not path.exists():
        raise DamagedRecord(f"{path} does not exist")
    found = read_content(path)
    if isinstance(found, Damage):
        how = f"cannot be read: {found.why}" if found.fault is Fault.UNREADABLE else f"is {found.fault.value}"
        raise DamagedRecord(f"{path} {how}")
    if found.kind != RECORD:
        raise DamagedRecord(f"{path} holds no record but a {found.kind}")
    return found


def _line(record: Record) -> str:
    said = {
        "identity": record.identity,
        "role": record.spec.role.value,
        "ending": record.ending.value,
        "sentence": record.sentence,
        "seconds": round(record.seconds, 3),
        "evaluations": record.evaluations,
    }
    return json.dumps(said) + "\n"
