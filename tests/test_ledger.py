"""Laws of the ledger: what was written is read back, what is damaged is said to be, one runner per folder."""

import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakscope.core.errors import BadInput, DamagedRecord
from leakscope.ledger.identity import SILENT, identity
from leakscope.ledger.lock import as_worker, sole_runner
from leakscope.ledger.record import CellSpec, Ending, Record, Role, ScoreRecord, Summary, Word
from leakscope.ledger.run_folder import RunStore


def spec(**changes):
    plain = {
        "role": Role.AUDITED,
        "target": "LeNet()",
        "dataset": "Digits()",
        "mechanism": "FedSGD()",
        "attack": "dlg()",
        "batch_size": 2,
        "told": ("BatchSize", "Labels"),
        "metrics": ("PSNR()", "SSIM()"),
        "trial": 0,
        "seed": 0,
        "seconds": 1.5,
        "evaluations": 10,
    }
    return CellSpec(**{**plain, **changes})


def record(a_spec=None, **changes):
    a_spec = a_spec or spec()
    plain = {"identity": identity(a_spec), "spec": a_spec, "ending": Ending.CLAIMED, "sentence": "claimed"}
    return Record(**{**plain, **changes})


OTHER = {
    "target": "MLP()",
    "dataset": "Faces()",
    "mechanism": "FedAvg()",
    "attack": "idlg()",
    "batch_size": 3,
    "told": ("BatchSize",),
    "metrics": ("PSNR()",),
    "trial": 1,
    "seed": 1,
    "seconds": None,
    "evaluations": None,
}


@pytest.mark.parametrize("field", sorted(CellSpec.model_fields))
def test_identity_speaks_exactly_the_fields_that_change_the_answer(field):
    if field == "role":
        assert frozenset({field}) == SILENT
        assert identity(spec(role=Role.BLIND)) == identity(spec())
    else:
        assert identity(spec(**{field: OTHER[field]})) != identity(spec())


def test_identity_ignores_the_order_of_sets_only():
    assert identity(spec(told=("Labels", "BatchSize"))) == identity(spec())
    assert identity(spec(metrics=("SSIM()", "PSNR()"))) == identity(spec())


def test_identity_is_the_same_in_another_process():
    code = "from tests_spec import spec; from leakscope.ledger.identity import identity; print(identity(spec))"
    program = code.replace("from tests_spec import spec;", f"from leakscope.ledger.record import *; spec = {spec()!r};")
    program = program.replace("<Role.AUDITED: 'audited'>", "Role.AUDITED")
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == identity(spec())


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(losses=st.lists(numbers, max_size=5), sentence=st.text(min_size=1, max_size=30), value=numbers)
def test_every_number_survives_the_round_trip(tmp_path_factory, losses, sentence, value):
    store = RunStore(tmp_path_factory.mktemp("run"))
    score = ScoreRecord(
        metric="psnr", value=value, unit="dB", higher_is_better=True, low=value, high=value, chance=0.0, perfect=100.0,
        items=(value,),
    )  # fmt: skip
    arrays = {"claim": np.array([[value, 1.0]]), "pictures": np.arange(12.0).reshape(3, 4).T}
    wrote = record(trace_losses=tuple(losses), sentence=sentence, scores=(score,))
    store.write(wrote, arrays)
    read, back = store.read(wrote.identity)
    assert repr(read) == repr(wrote)  # by repr, where NaN equals itself
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_record_without_arrays_is_a_file_too(tmp_path):
    store = RunStore(tmp_path)
    store.write(record())
    assert store.names() == [identity(spec())]
    assert list(store.records()) == [record()]


def test_unknown_keys_and_foreign_identities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="surprise"):
        Record.model_validate({**record().model_dump(), "surprise": 1})
    with pytest.raises(DamagedRecord, match="does not describe its own cell"):
        RunStore(tmp_path).write(record(identity="0" * 20))


def test_every_single_byte_of_a_record_is_guarded(tmp_path):
    store = RunStore(tmp_path)
    path = store.write(record(), {"claim": np.linspace(0, 1, 7)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        with pytest.raises(DamagedRecord):
            store.read(identity(spec()))
    for length in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedRecord):
            store.read(identity(spec()))
    path.write_bytes(whole)
    store.read(identity(spec()))


def test_damage_is_told_in_a_sentence_and_moved_aside(tmp_path):
    store = RunStore(tmp_path)
    name = identity(spec())
    with pytest.raises(DamagedRecord, match="does not exist"):
        store.read(name)
    for count in range(3):
        store.write(record())
        store.path(name).write_bytes(b"half a rec")
        with pytest.raises(DamagedRecord, match="cannot be read"):
            store.read(name)
        store.set_aside(name)
        assert store.names() == []
        assert len(list((tmp_path / "damaged").iterdir())) == count + 1


def test_a_record_under_another_name_is_damage(tmp_path):
    store = RunStore(tmp_path)
    path = store.write(record())
    path.rename(store.path("f" * 20))
    with pytest.raises(DamagedRecord, match="another cell"):
        store.read("f" * 20)


def test_a_failed_write_leaves_the_old_file_and_no_stray(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    store.write(record())

    def no_space(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        store.write(record(sentence="newer"))
    monkeypatch.undo()
    assert store.record(identity(spec())).sentence == "claimed"
    assert [p.name for p in store.cells.iterdir()] == [f"{identity(spec())}.safetensors"]


def test_index_summary_and_json(tmp_path):
    store = RunStore(tmp_path)
    assert store.read_json("plan.json") is None
    store.write_json("plan.json", {"a": 1})
    assert store.read_json("plan.json") == {"a": 1}
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(DamagedRecord, match="not JSON"):
        store.read_json("plan.json")
    store.write_index([record()])
    store.append_index(record(spec(trial=1)))
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["identity"] for line in lines] == [identity(spec()), identity(spec(trial=1))]
    with pytest.raises(DamagedRecord, match="--resume"):
        store.summary()
    summary = Summary(
        title="t", word=Word.INCONCLUSIVE, sentence="s", groups=(), planned=1, finished=1, seconds=math.inf, seed=0,
        versions={}, machine="m", command="c", started="now",
    )  # fmt: skip
    store.write_summary(summary)
    assert store.summary() == summary


def test_sweep_removes_what_a_killed_writer_left(tmp_path):
    store = RunStore(tmp_path)
    store.write(record())
    (store.cells / ".x.safetensors.abc.tmp").write_bytes(b"half")
    store.sweep()
    assert len(list(store.cells.iterdir())) == 1


def test_two_runners_are_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from leakscope.ledger.lock import sole_runner
        with sole_runner(Path({str(tmp_path)!r})):
            print("held", flush=True)
            time.sleep(60)
    """)
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=f"process {other.pid} on"), sole_runner(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with sole_runner(tmp_path):
        pass


def test_a_runner_waits_for_the_workers_of_a_dead_one(tmp_path):
    with as_worker(tmp_path), pytest.raises(BadInput, match="workers of an earlier run"):  # noqa: SIM117
        with sole_runner(tmp_path, patience=0.1):
            pass
    with sole_runner(tmp_path, patience=0.1):
        pass


def test_the_ledger_needs_no_torch():
    code = "import sys, leakscope.ledger.run_folder, leakscope.ledger.lock; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
