"""What a cell may use of a machine changes how long an answer takes, and neither which cell it is nor the answer."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_toys import CountsThreads, Guesses, toy_plan

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit import resources as module
from leakscope.audit.engines.inline import Inline
from leakscope.audit.engines.processes import Processes
from leakscope.audit.resources import Resources
from leakscope.audit.run import Resumption, run
from leakscope.audit.work import attempt
from leakscope.cli.config import parse
from leakscope.core.errors import BadInput, BadPlan
from leakscope.ledger.record import Ending, Role
from leakscope.ledger.run_folder import RunStore

ROOT = Path(__file__).parent.parent

several = st.builds(
    Resources,
    threads=st.integers(1, 64),
    device=st.sampled_from(["cpu", "cuda", "cuda:3", "mps"]),
    memory=st.none() | st.floats(0.1, 1e4),
    minutes=st.none() | st.floats(0.1, 1e4),
)


@given(resources=several)
def test_the_identity_is_the_same_for_any_resources(resources):
    plain, other = toy_plan().cells(), toy_plan(resources=resources).cells()
    assert all(cell.resources == resources for cell in other)
    assert [cell.spec for cell in other] == [cell.spec for cell in plain]
    assert [cell.identity for cell in other] == [cell.identity for cell in plain]


@pytest.mark.parametrize("resources", [Resources(threads=3), Resources(memory=0.1, minutes=1e-9)])
@pytest.mark.parametrize("attack", [LinearLayer(), Guesses()])
def test_the_record_is_the_same_for_any_resources(attack, resources):
    cell = next(cell for cell in toy_plan(attacks=(attack,)).cells() if cell.role is Role.AUDITED)
    one, other = attempt(cell), attempt(dataclasses.replace(cell, resources=resources))
    still = {"seconds": 0.0}
    assert one.record.ending is Ending.CLAIMED
    assert one.record.model_copy(update=still) == other.record.model_copy(update=still)
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays | other.arrays)


@pytest.mark.parametrize("engine", [Inline(), Processes(1)])
def test_every_engine_sets_the_threads(tmp_path, monkeypatch, engine):
    monkeypatch.syspath_prepend(str(ROOT))
    before = torch.get_num_threads()
    for threads in (1, 3):
        plan = toy_plan(attacks=(CountsThreads(),), trials=1, resources=Resources(threads=threads))
        run(plan, tmp_path / str(threads), engine)
        assert f"{threads} threads" in {record.sentence for record in RunStore(tmp_path / str(threads)).records()}
    assert torch.get_num_threads() == before


def test_a_device_that_cannot_be_used_is_said_before_anything_is_written(tmp_path, monkeypatch):
    absent = toy_plan(resources=Resources(device="cuda:99"))
    with pytest.raises(BadInput, match=r"this machine has no device cuda:99; it has cpu"):
        run(absent, tmp_path / "run", Inline())
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(module, "devices", lambda: ("cpu", "cuda:0"))
    for name in ("cuda", "cuda:0"):
        with pytest.raises(BadInput, match=f"would leave {name} idle"):
            run(toy_plan(resources=Resources(device=name)), tmp_path / "run", Inline())
    found = attempt(absent.cells()[0])  # a machine that joins later: a record with a sentence, never a silent CPU
    assert found.record.ending is Ending.CRASHED
    assert "no device cuda:99" in found.record.sentence


def test_a_run_goes_on_with_other_resources(tmp_path):
    run(toy_plan(), tmp_path, Inline())
    before = {path: path.stat().st_mtime_ns for path in RunStore(tmp_path).cells.iterdir()}
    run(toy_plan(resources=Resources(threads=2)), tmp_path, Inline(), resumption=Resumption(allowed=True))
    assert {path: path.stat().st_mtime_ns for path in RunStore(tmp_path).cells.iterdir()} == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads >= 1, got 0"),
        ({"threads": True}, "threads >= 1, got True"),
        ({"threads": 1.5}, "threads >= 1, got 1.5"),
        ({"device": "GPU 1"}, "such as cpu or cuda:0, got 'GPU 1'"),
        ({"device": 1}, "such as cpu or cuda:0, got 1"),
        ({"memory": 0}, "memory > 0 and finite, got 0"),
        ({"memory": math.inf}, "memory > 0 and finite, got inf"),
        ({"minutes": math.nan}, "minutes > 0 and finite, got nan"),
        ({"minutes": -1.0}, "minutes > 0 and finite, got -1.0"),
    ],
)
def test_wrong_resources_are_named(wrong, message):
    with pytest.raises(BadInput, match=message):
        Resources(**wrong)


PLAN = """
title = "t"
attacks = ["LinearLayer()"]
mechanisms = ["FedSGD()"]
{resources}
[[scene]]
dataset = "Digits()"
target = "Linear()"
"""


def test_a_plan_file_gives_resources():
    assert parse(PLAN.format(resources=""), "p").resources == Resources()
    said = "[resources]\nthreads = 2\ndevice = 'cpu'\nmemory = 4\nminutes = 1.5"
    assert parse(PLAN.format(resources=said), "p").resources == Resources(2, "cpu", 4, 1.5)
    for text, message in (
        ("threads = 0", r"line 6: resources.threads: expected threads >= 1, got 0"),
        ("thread = 1", r"line 6: unknown key in \[resources\] 'thread'; did you mean 'threads'"),
        ("memory = 'much'", "line 6: resources.memory: expected a number"),
        ("memory = 0", "line 6: resources.memory: expected memory > 0"),
        ("device = 'a b'", "line 6: resources.device: expected a device such as cpu"),
    ):
        with pytest.raises(BadPlan, match=message):
            parse(PLAN.format(resources=f"[resources]\n{text}"), "p")
