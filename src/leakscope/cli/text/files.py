"""Whether the files and folders of a command are there and of the right kind, by name, header and place alone."""

from __future__ import annotations

import ast
import enum
import json
import tempfile
from pathlib import Path
from typing import Any, final

from leakscope.cli.text import contents
from leakscope.cli.text.sources import source
from leakscope.core import file_limits
from leakscope.core.errors import BadInput, BadPlan, DamagedRecord
from leakscope.ledger.lock import is_lock
from leakscope.ledger.planned import PLAN, is_plan
from leakscope.version import VERSION

TENSORS, PICKLES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt"), (".pkl", ".pickle")
"""Suffixes of what `read_foreign` reads, and of what it reads only where that is allowed."""

RECORD = ".safetensors"

RECORDS = "leakscope.ledger.record"
SUMMARY = "summary.json"

FORMAT, HEADERS = 1, {"update": "UpdateHeader", "secret": "SecretHeader", "claim": "ClaimHeader"}
"""As in `ledger.container` and `ledger.exchange`, which need numpy; a test compares them."""

BRING = (
    "; numbers of another program are brought in with `leakscope capture --update FILE --kind gradient` (or delta), "
    "or as weights with --before and --after"
)
"""What to do with an update that leakscope did not write."""


@final
class Exchanged(enum.Enum):
    """A kind of file that goes from hand to hand: its name in the file, and what a person calls it.

    As in the headers of `ledger.exchange`, which need numpy; a test compares them.
    """

    UPDATE = ("update", "an update, as `leakscope capture` writes it")
    SECRET = ("secret", "a secret, as `leakscope capture --secret` writes it")
    CLAIM = ("claim", "a claim, as `leakscope attack` writes it")


def exchanged(path: Path, kind: Exchanged) -> None:
    """Raises `BadInput` unless `path` says of itself that it is of this kind. Damage is seen when it is read."""
    name, wanted = kind.value
    if path.is_dir():
        raise BadInput(f"{path} is a folder; expected {wanted}")
    if not path.is_file():
        raise BadInput(f"no file {path}; expected {wanted}")
    header = contents.header(path)
    if header is None:
        # Whoever has state dicts, or the gradients of a framework, is one command away.
        foreign = kind is Exchanged.UPDATE and path.suffix in (*TENSORS, *PICKLES)
        raise BadInput(f"{path} is not a safetensors file, or is damaged; expected {wanted}{BRING if foreign else ''}")
    wrong = contents.cut(path, header)
    if wrong:
        raise BadInput(f"{path} is cut short or damaged ({wrong}), expected {wanted}; copy it again or make it anew")
    found = _kind(header)
    if not found and not _earlier(header):
        hint = BRING if kind is Exchanged.UPDATE else ""
        raise BadInput(f"{path} was not written by leakscope, expected {wanted}{hint}")
    if found and found != name:
        raise BadInput(f"{path.name} is {'an' if found.startswith('u') else 'a'} {found}, expected {wanted}")
    _same_format(path, header, name)


def _same_format(path: Path, header: dict[str, Any], kind: str) -> None:
    """Raises `BadInput` where another version wrote the file in a way that ours cannot read, as the reader would."""
    try:
        said = file_limits.parsed(json.loads(header["__metadata__"]["leakscope"])["header"])
        wrote, form = said["leakscope"], said.get("format", FORMAT)
    # Whatever is wrong with it, the reader says what.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    fields = {**_fields("leakscope.ledger.container", "Header"), **_fields("leakscope.ledger.exchange", HEADERS[kind])}
    unknown = sorted(said.keys() - fields.keys())
    if type(form) is int and form != FORMAT:
        raise BadInput(f"{path} has format {form}, this leakscope reads {FORMAT}; {file_limits.written_by(wrote)}")
    if unknown:
        raise BadInput(
            f"{path} describes itself wrongly: {file_limits.shortened(unknown[0])}: Extra inputs are not permitted; "
            f"{file_limits.written_by(wrote)}"
        )


def _kind(header: dict[str, Any]) -> str:
    """What a file calls itself; empty where it does not say so in a way that can be read."""
    try:
        return file_limits.shortened(json.loads(header["__metadata__"]["leakscope"])["kind"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _earlier(header: dict[str, Any]) -> bool:
    """Whether it may be of a kind that had another header up to version 0.1.0: of these the reader says what it is."""
    said = header.get("__metadata__")
    return isinstance(said, dict) and bool({"record", "shape", "format"} & said.keys())


def tensors(path: str | None, *, allow_pickle: bool = False) -> None:
    """Raises `BadInput` unless `path` is None or a file of tensors, as its name says."""
    if path is None:
        return
    place = Path(path)
    if place.is_dir():
        raise BadInput(f"{place} is a folder; expected a file: .safetensors, .npz or .pt")
    if not place.is_file():
        raise BadInput(f"no file {place}; expected .safetensors, .npz or .pt")
    if place.suffix in PICKLES and not allow_pickle:
        raise BadInput(
            f"{path} is a pickle: reading it runs whatever code is in it; save it as .safetensors or .npz, or give "
            "--allow-pickle if you trust who wrote it"
        )
    if place.suffix not in (*TENSORS, *PICKLES):
        raise BadInput(f"{path} has the suffix {place.suffix!r}; expected .safetensors, .npz or .pt")


def state(path: str) -> None:
    """Raises `BadInput` unless `path` is there, as what the weights of a target are read from."""
    if not Path(path).is_file():
        raise BadInput(f"no file {path}; expected a state dict, saved by safetensors or torch.save")


def written(path: Path | None, option: str, suffixes: tuple[str, ...] = ("", RECORD)) -> None:
    """Raises `BadInput` where no such file can be written to `path`: it has another suffix, or is a folder."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the name of a file for {option}")
    blocked = next((above for above in path.parents if above.exists() and not above.is_dir()), None)
    if blocked is not None:
        raise BadInput(f"{blocked} is a file, so {path} cannot be in it; choose another {option}")
    _writable(path, option)
    # Another suffix would say that it is another kind of file, which whoever reads it by its name believes.
    if path.suffix not in suffixes:
        wanted = ", ".join(f"*{suffix}" for suffix in suffixes if suffix)
        raise BadInput(f"expected a file {wanted} for {option}, got {path.name}")


def apart(path: Path | None, option: str, *read: str | Path | None) -> None:
    """Raises `BadInput` where what is written to `path` would replace one of the files that are read."""
    if path is not None and any(one is not None and Path(one).resolve() == path.resolve() for one in read):
        raise BadInput(f"{option} {path} is a file that is read, which would be lost; choose another")


def folder(path: Path, option: str) -> None:
    """Raises `BadInput` where `path` cannot be a folder."""
    blocked = next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)
    if blocked is not None:
        raise BadInput(f"{blocked} is a file; choose a folder for {option}")
    _writable(path, option)


def _writable(path: Path, option: str) -> None:
    """Raises `BadInput` where nothing can be made at `path`, before minutes are spent on what is to be written."""
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    try:
        # Tried, since rights alone do not tell: of a file system that is read-only, or is none, as /proc.
        with tempfile.TemporaryDirectory(prefix=".leakscope-", dir=nearest if nearest.is_dir() else nearest.parent):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BadInput(f"{path} cannot be written for {option} ({nearest}: {why}); choose another place") from None


def room(place: Path, *, resume: bool, shared: bool) -> None:
    """Raises `BadInput` where an audit cannot begin in `place`. shared: by shards, each of which goes on by itself."""
    folder(place, "the run")
    planned = _planned(place)
    if planned is None:
        # What a runner leaves that is killed before it writes the plan is not in the way.
        names = [one.name for one in place.glob("*") if not is_lock(one.name) and not one.name.startswith(".")]
        if names:
            raise BadInput(f"{place} is not empty and holds no audit ({min(names)}, ...); choose another folder")
    elif not resume and not shared:
        have = len(list((place / "cells").glob(f"*{RECORD}")))
        there = (
            f"already holds {have} of {planned} records"
            if have
            else f"holds an audit of {planned} cells, none of them run"
        )
        raise BadInput(f"{place} {there}; go on with --resume or choose another folder")
    else:
        _same_version(place)


def begun(place: Path) -> None:
    """Raises `BadInput` where there is nothing to go on with: a misspelled folder would be a new run."""
    if _planned(place) is None:
        raise BadInput(f"nothing to resume in {place}: no audit has begun there; check --out, or leave --resume out")


def _same_version(place: Path) -> None:
    """Raises `BadPlan` where another version wrote the run, as `audit.run` would after everything is imported."""
    wrote = json.loads((place / PLAN).read_text(encoding="utf-8"))["leakscope"]
    if wrote != VERSION:
        raise BadPlan(f"{place} was written by leakscope {wrote}, this is {VERSION}; choose another folder")


def _planned(place: Path) -> int | None:
    """How many cells the audit in a folder has, None where there is none. Raises `DamagedRecord`."""
    plan = place / PLAN
    if not plan.is_file():
        return None
    try:
        said = file_limits.parsed(file_limits.text_of(plan, "the plan that an audit writes"))
    except ValueError as error:
        raise DamagedRecord(f"{plan} is not JSON: {error}") from None
    except BadInput as error:
        raise DamagedRecord(str(error)) from None
    if not is_plan(said):
        raise DamagedRecord(f"{plan} is not the plan that an audit writes; choose another folder")
    return len(said["cells"])


def run(folder: Path) -> None:
    """Raises `BadInput` unless an audit has left something in `folder`, `DamagedRecord` if that cannot be read."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder of an audit, such as runs/demo")
    if not any((folder / name).exists() for name in (SUMMARY, PLAN, "cells")):
        raise BadInput(f"{folder} holds no run: found neither {SUMMARY} nor cells; give the folder of an audit")
    try:
        _json(folder / PLAN)
    except ValueError as error:
        raise DamagedRecord(f"{folder / PLAN} is not JSON: {error}") from None
    try:
        said = _json(folder / SUMMARY)
    except ValueError as error:
        raise DamagedRecord(f"{folder / SUMMARY} is no valid summary: {error}") from None
    if said is None:
        return
    fields = _fields(RECORDS, "Summary")
    there = said if isinstance(said, dict) else {}
    wrong = [f"{name}: Field required" for name, required in fields.items() if required and name not in there]
    if wrong:
        raise DamagedRecord(f"{folder / SUMMARY} is no valid summary: {wrong[0]}")
    written = there["versions"].get("leakscope") if isinstance(there["versions"], dict) else None
    schema = next(one.value for one in source(RECORDS).body if isinstance(one, ast.Assign) and _named(one) == "SCHEMA")
    if there.get("schema_version", ast.literal_eval(schema)) != ast.literal_eval(schema):
        raise DamagedRecord(
            f"{folder / SUMMARY} is no valid summary: it has the schema "
            f"{file_limits.shortened(there['schema_version'])}, "
            f"this leakscope reads {ast.unparse(schema)}; {file_limits.written_by(written)}"
        )
    unknown = _unknown(there, "Summary")
    if unknown is not None:
        raise DamagedRecord(
            f"{folder / SUMMARY} is no valid summary: {file_limits.shortened(unknown)}: Extra inputs are not "
            f"permitted; {file_limits.written_by(written)}"
        )


def _json(path: Path) -> Any:
    """What a file of a run holds; None where there is none. Raises `ValueError` where it is no JSON."""
    if not path.exists():
        return None
    try:
        return file_limits.parsed(file_limits.text_of(path, "JSON of an audit"))
    except BadInput as error:
        raise DamagedRecord(str(error)) from None


def _unknown(said: object, kind: str) -> str | None:
    """The first key, at any depth, that an object of a record's class does not have; None where each is known."""
    known: dict[str, ast.expr] = {
        one.target.id: one.annotation for one in _declared(RECORDS, kind) if isinstance(one.target, ast.Name)
    }
    if not isinstance(said, dict):
        return None
    strange = sorted(str(name) for name in said.keys() - known.keys())
    if strange:
        return strange[0]
    for name in sorted(said):
        # One class an annotation: what is in it is a list of its objects, or one.
        inner = [one.id for one in ast.walk(known[name]) if isinstance(one, ast.Name) and _is_record(one.id)]
        items = list(enumerate(said[name])) if isinstance(said[name], list) else [("", said[name])]
        for place, item in items if inner else ():
            further = _unknown(item, inner[0])
            if further is not None:
                return ".".join(str(part) for part in (name, place, further) if part != "")
    return None


def _named(line: ast.Assign) -> str:
    return ast.unparse(line.targets[0])


def _is_record(name: str) -> bool:
    made = [one for one in source(RECORDS).body if isinstance(one, ast.ClassDef) and one.name == name]
    return bool(made) and "_Strict" in [ast.unparse(base) for base in made[0].bases]


def _declared(module: str, name: str) -> list[ast.AnnAssign]:
    (made,) = (one for one in source(module).body if isinstance(one, ast.ClassDef) and one.name == name)
    return [one for one in made.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one)]


def _fields(module: str, name: str) -> dict[str, bool]:
    """What a class of pydantic's has, and whether it is required, off its source: the class itself needs pydantic."""
    return {ast.unparse(one.target): not _has_default(one.value) for one in _declared(module, name)}


def _has_default(value: ast.expr | None) -> bool:
    """Whether an attribute of a class of pydantic's has a default; `Field` gives one by its first argument alone."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        return bool(value.args) or any(one.arg in {"default", "default_factory"} for one in value.keywords)
    return value is not None


def part(folder: Path) -> None:
    """Raises `BadInput` or `DamagedRecord` unless an audit has begun in `folder`, so that it can be merged."""
    if _planned(folder) is None:
        raise BadInput(f"{folder} holds no audit; give the folders that `leakscope audit --shard` wrote")
    _same_version(folder)
