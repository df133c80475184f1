"""The store in a folder: what is read is what was sent, a kill loses nothing, and files of others are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import leakscope as ls
from leakscope.core.errors import BadInput, UnknownName
from leakscope.domains.vectors import Vectors
from leakscope.mechanisms.federated.stores import AbstractStore, Cast, Sent

DOMAIN = Vectors(6, -6, 6)
ADAM = ls.Federation(
    ls.FedAvg(1, 1e-3, batch_size=2, shuffle=True, optimizer=ls.ClientAdam()), rounds=6, fraction=0.6, epochs=1,
    evaluate_every=2,
)  # fmt: skip


def people() -> ls.Population:
    draw = ls.Key(3).generator()
    made = [ls.Batch(torch.randn(n, 6, generator=draw), torch.arange(n) % 3) for n in (3, 4, 2, 5)]
    return ls.Population(tuple(made), ("ada", "ben", "cid", "dan")).held_out(0.3, key=ls.Key(0))


def model() -> ls.Target:
    return ls.MLP((4,), dropout=0.3, training=True).build(DOMAIN, 3, key=ls.Key(0))


def said(store: AbstractStore) -> list[tuple[str, int, str, str]]:
    found = []
    for name, one in store.updates():
        assert one.weights is not None
        weights = ls.Weights(one.weights).fingerprint()
        found.append((name, one.number, one.release.fingerprint(), weights))
    return found


def played(folder: Path) -> ls.RoundFiles:
    store = ls.RoundFiles(folder)
    ADAM.run(model(), people(), key=ls.Key(1), into=store)
    return store


def test_files_hold_what_memory_holds(tmp_path: Path) -> None:
    memory = ls.RoundsInMemory()
    ADAM.run(model(), people(), key=ls.Key(1), into=memory)
    played(tmp_path)
    # another process, which knows the folder alone
    store = ls.RoundFiles(tmp_path)
    assert store.cast == memory.cast
    assert said(store) == said(memory)
    for name in ("ada", "ben", "cid", "dan"):
        one, other = (each.rounds_of(name, only=["1.bias"]) for each in (store, memory))
        assert [list(each.release.by_name) for each in one] == [["1.bias"]] * len(one)
        assert [each.number for each in one] == [each.number for each in other]
        assert [each.release.fingerprint() for each in one] == [each.release.fingerprint() for each in other]


@pytest.mark.parametrize("store", [ls.RoundsInMemory, lambda: None], ids=["memory", "files"])
def test_what_is_not_there_is_said(store: Callable[[], AbstractStore | None], tmp_path: Path) -> None:
    given_store = store() or ls.RoundFiles(tmp_path)
    with pytest.raises(BadInput, match=r"play a federation|no file"):
        _ = given_store.cast
    ADAM.run(model(), people(), key=ls.Key(1), into=given_store)
    with pytest.raises(UnknownName, match="did you mean 'ada'"):
        given_store.rounds_of("adda")
    with pytest.raises(BadInput, match="the releases have no 'w'"):
        given_store.rounds_of("ada", only=["w"])
    with pytest.raises(BadInput, match=r"round 99|round-000099"):
        given_store.load(99, ())


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 5), st.booleans())
def test_a_killed_federation_goes_on_to_the_same_bytes(until: int, memory: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        whole = ls.RoundsInMemory()
        wanted = ADAM.run(model(), people(), key=ls.Key(1), into=whole)
        store: AbstractStore = ls.RoundsInMemory() if memory else ls.RoundFiles(Path(folder))

        class Killed(Exception):
            pass

        def killing(progress: ls.Progress) -> None:
            if progress.fraction * 6 > until:
                raise Killed

        with pytest.raises(Killed):
            ADAM.run(model(), people(), key=ls.Key(1), into=store, watch=killing)
        if not memory:
            store = ls.RoundFiles(Path(folder))
        again = ADAM.run(model(), people(), key=ls.Key(1), into=store)
        assert said(store) == said(whole)
        assert ls.Weights(again.weights).fingerprint() == ls.Weights(wanted.weights).fingerprint()
        assert again.history == wanted.history


def test_what_is_missing_or_damaged_is_played_again(tmp_path: Path) -> None:
    wanted = said(played(tmp_path))
    for harm in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])):
        harm(tmp_path / "round-000003.safetensors")
        assert said(played(tmp_path)) == wanted
    for path in tmp_path.glob("round-*"):
        path.write_bytes(b"")
    assert said(played(tmp_path)) == wanted


def test_the_folder_of_another_federation_is_left_as_it_is(tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()} if played(tmp_path) else {}
    others: list[tuple[Any, ...]] = [
        (ADAM, model(), people(), ls.Key(2)),
        (ADAM, model(), people().some(["ada", "ben"]), ls.Key(1)),
        (ADAM, ls.MLP((4,)).build(DOMAIN, 3, key=ls.Key(0)), people(), ls.Key(1)),
        (ls.Federation(ls.FedSGD()), model(), people(), ls.Key(1)),
    ]
    for federation, target, population, key in others:
        with pytest.raises(BadInput, match="another federation"):
            federation.run(target, population, key=key, into=ls.RoundFiles(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    memory = ls.RoundsInMemory()
    ADAM.run(model(), people(), key=ls.Key(1), into=memory)
    with pytest.raises(BadInput, match="another federation"):
        ADAM.run(model(), people(), key=ls.Key(2), into=memory)


# --- files of others ------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same arrays under a description that was changed, with a checksum that is right for it."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from leakscope.ledger.files import checksum

    with safe_open(path, framework="numpy") as file:
        outer = json.loads(file.metadata()["leakscope"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(outer["header"])
    change(header)
    outer["header"] = json.dumps(header)
    outer["checksum"] = checksum(outer["header"], {})
    save_file(arrays, path, metadata={"leakscope": json.dumps(outer)})


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "number": lambda header: header.update(number=5),
    "huge number": lambda header: header.update(number=10**30),
    "owner": lambda header: header.update(owner="x"),
    "senders twice": lambda header: header.update(senders=["ada", "ada"]),
    "senders without end": lambda header: header.update(senders=[str(n) for n in range(100)]),
    "more senders": lambda header: header.update(senders=["ada", "ben", "cid", "dan"]),
    "marks": lambda header: header["marks"].update({"0": "x"}),
    "no marks": lambda header: header.update(marks={}),
    "release": lambda header: header.update(release="soup"),
    "format": lambda header: header.update(format=9),
    "kind of key": lambda header: header.update(run="rm"),
    "bfloat16": lambda header: header.update(bfloat16=3),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_round_that_describes_itself_wrongly_is_refused(change: Any, tmp_path: Path) -> None:
    played(tmp_path)
    rewritten(tmp_path / "round-000000.safetensors", change)
    store = ls.RoundFiles(tmp_path)
    with pytest.raises(BadInput):
        list(store.updates())


def test_tensors_of_other_shapes_and_types_are_refused(tmp_path: Path) -> None:
    store = played(tmp_path)
    sent = store.load(0, store.senders(0))
    odd: dict[str, dict[str, torch.Tensor]] = {
        "expected \\(4, 6\\)": {"1.weight": torch.zeros(4, 7)},
        "expected None": {"other": torch.zeros(1)},
        "floating numbers": {"1.weight": torch.zeros(4, 6, dtype=torch.int64)},
    }
    for why, tree in odd.items():
        store.keep(Sent(0, sent.weights, {"ada": ls.Gradient(tree)}))
        with pytest.raises(BadInput, match=why):
            ls.RoundFiles(tmp_path).load(0, ("ada",))
    store.keep(Sent(0, {"1.weight": sent.weights["1.weight"]}, sent.releases))
    with pytest.raises(BadInput, match="lacks"):
        ls.RoundFiles(tmp_path).load(0, ())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255), st.booleans())
def test_no_byte_that_is_changed_goes_unnoticed(place: int, change: int, cut: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = ls.RoundFiles(Path(folder))
        weights = {"w": torch.arange(6.0), "b": torch.ones(1)}
        store.begin(Cast("me", "FedSGD()", ("ada",), (3,), {"w": (6,), "b": (1,)}))
        store.keep(Sent(0, weights, {"ada": ls.Gradient(weights)}))
        path = Path(folder) / "round-000000.safetensors"
        whole = path.read_bytes()
        wanted = said(store)
        place %= len(whole)
        path.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        try:
            found = said(ls.RoundFiles(Path(folder)))
        except BadInput:
            return
        # spaces between the names of the header may change and mean nothing
        assert found == wanted


def test_a_header_that_promises_more_than_is_there_costs_nothing(tmp_path: Path) -> None:
    played(tmp_path)
    described = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(described).encode()
    (tmp_path / "round-000000.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BadInput, match="cut short"):
        ls.RoundFiles(tmp_path).senders(0)


def test_who_began_at_the_same_time_is_not_taken_for_the_other(tmp_path: Path) -> None:
    """Two federations find an empty folder, and each writes its cast: the rounds of the one are none of the other's."""
    casts = [dataclasses.replace(ADAM, rounds=rounds).cast(model(), people(), key=ls.Key(0)) for rounds in (6, 7)]
    one, other = ls.RoundFiles(tmp_path), ls.RoundFiles(tmp_path)
    one.begin(casts[0])
    (tmp_path / "federation.safetensors").unlink()
    other.begin(casts[1])
    weights = model().parameters()
    one.keep(Sent(0, weights, {"ada": ls.Delta(weights)}))
    assert one.cast == casts[0]
    for store in (other, ls.RoundFiles(tmp_path)):
        with pytest.raises(BadInput, match="another federation"):
            store.load(0, ("ada",))


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    wanted = said(played(tmp_path))
    for name in ("round-x.safetensors", "round-.safetensors", "round-99999999999999999999.safetensors", "notes.txt"):
        (tmp_path / name).write_text("mine")
    # The same round under another spelling of its number, which would count twice.
    for number in ("1", "0000001", "00000\u0661"):
        shutil.copy(tmp_path / "round-000001.safetensors", tmp_path / f"round-{number}.safetensors")
    assert said(ls.RoundFiles(tmp_path)) == wanted


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read as Linux has it")
def test_memory_is_flat_in_rounds(tmp_path: Path) -> None:
    """The peak of a process that plays and reads 4 and one that plays and reads 20 rounds of 1.5 MB each."""
    # not `getrusage`, whose peak is also that of the process which started this one
    script = f"""
import sys, torch
import leakscope as ls
from leakscope.domains.vectors import Vectors
torch.set_num_threads(1)
draw = ls.Key(0).generator()
people = ls.Population(tuple(
    ls.Batch(torch.randn(4, 100, generator=draw), torch.arange(4)) for _ in range(6)
))
target = ls.MLP((500,)).build(Vectors(100, -6, 6), 4, key=ls.Key(0))
store = ls.RoundFiles({str(tmp_path)!r} + "/" + sys.argv[1])
ls.Federation(ls.FedSGD(), rounds=int(sys.argv[1]), fraction=1.0).run(target, people, key=ls.Key(0), into=store)
for name, one in store.updates():
    pass
for name in people.names:
    for one in store.each_of(name):
        pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    peaks = [
        int(subprocess.run([sys.executable, "-c", script, rounds], capture_output=True, check=True).stdout)
        for rounds in ("4", "20")
    ]
    # 16 rounds more are 23 MB on the disk; the peak itself moves by a few
    assert peaks[1] - peaks[0] < 10_000


def test_a_file_in_the_place_of_the_folder_is_named_at_once(tmp_path: Path) -> None:
    taken = tmp_path / "rounds"
    taken.write_text("notes of somebody")
    with pytest.raises(ls.BadInput, match="rounds is a file; rounds are kept in a folder"):
        ls.RoundFiles(taken)
    assert taken.read_text() == "notes of somebody"
