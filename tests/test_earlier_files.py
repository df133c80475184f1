"""Files that an earlier version wrote are read, or refused with a sentence that names the version.

The oracle is the bytes themselves: safetensors and JSON, read here without any of leakscope's readers.
"""

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.fixtures.earlier.write import course, observed, plan

import leakscope as ls
from leakscope.attacks.attributes.learning import learn
from leakscope.attacks.attributes.rescnn import ResCNNNetwork, Shape, save
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.audit import run as run_module
from leakscope.audit.engines.inline import Inline
from leakscope.audit.files import Provenance, read_claim, read_secret, read_update, write_update
from leakscope.audit.run import Resumption, run
from leakscope.cli.text import files as text_files
from leakscope.core.errors import BadInput, BadPlan, DamagedRecord
from leakscope.ledger import container
from leakscope.ledger.container import Content, read_content
from leakscope.ledger.exchange import UpdateHeader
from leakscope.ledger.run_folder import RunStore

EARLIER = sorted((Path(__file__).parent / "fixtures" / "earlier").glob("v*"))


@pytest.fixture(params=EARLIER, ids=lambda folder: folder.name)
def earlier(request, tmp_path):
    """A copy of what one version wrote."""
    return Path(shutil.copytree(request.param, tmp_path / "earlier"))


def metadata(path):
    """The header of a safetensors file, by hand: eight bytes of length, then JSON."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def without_intervals(record):
    """What was done and scored: version 0.2 makes other intervals of the same scores, says of how many items anything
    was claimed, what the nearest public ones score, and which proved ones are private; no two runs take as long."""
    plain = {"claimed": None, "worst": None, "nearest": ()}
    scores = tuple(
        score.model_copy(update={**plain, "low": score.value, "high": score.value}) for score in record.scores
    )
    proof = record.certificate and record.certificate.model_copy(update={"right": ()})
    return record.model_copy(update={"seconds": 0.0, "scores": scores, "certificate": proof})


def kept(before, now):
    """Whether everything of an earlier record is in it as it is read now, which may have more fields, also inside."""
    if isinstance(before, dict):
        return all(name in now and kept(value, now[name]) for name, value in before.items())
    if isinstance(before, list):
        return len(before) == len(now) and all(map(kept, before, now))
    return before == now


def test_a_run_is_read_and_gone_on_with_by_its_own_version_only(earlier, monkeypatch):
    """Its records and its page are read by every later version; what two versions computed is never judged together."""
    store = RunStore(earlier / "run")
    planned = {cell.identity for cell in plan().cells()}
    assert set(store.names()) == planned
    for name in planned:
        record, arrays = store.read(name)
        assert kept(json.loads(metadata(store.path(name))["record"]), json.loads(record.model_dump_json()))
        assert arrays.keys() == load_file(store.path(name)).keys()
    stamps = {name: store.path(name).stat().st_mtime_ns for name in planned}
    victim = min(planned)
    before = store.record(victim)
    store.path(victim).unlink()
    with pytest.raises(BadPlan, match=r"was written by leakscope 0\.1\.0, this is"):
        run(plan(), store.folder, Inline(), resumption=Resumption(allowed=True))
    monkeypatch.setattr(run_module, "VERSION", "0.1.0")
    summary = run(plan(), store.folder, Inline(), resumption=Resumption(allowed=True))
    assert summary.finished == summary.planned == 2
    assert all(store.path(name).stat().st_mtime_ns == stamps[name] for name in planned - {victim}), "run twice"
    assert without_intervals(store.record(victim)) == without_intervals(before)


def test_every_single_byte_of_an_earlier_record_is_guarded(earlier):
    store = RunStore(earlier / "run")
    name = store.names()[0]
    path = store.path(name)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        with pytest.raises(DamagedRecord):
            store.read(name)


def test_updates_secrets_and_claims_are_read(earlier):
    seen, secret = observed()
    update = read_update(earlier / "update.safetensors")
    assert update.release.fingerprint() == seen.release.fingerprint()
    assert update.header.notes == ("a note",)
    narrow = read_update(earlier / "bfloat16.safetensors").release.by_name
    for name, value in load_file(earlier / "bfloat16.safetensors").items():
        assert narrow[name].dtype is torch.bfloat16
        np.testing.assert_array_equal(narrow[name].float().numpy(), value)
    assert read_secret(earlier / "secret.safetensors").secret.fingerprint() == secret.fingerprint()
    claim = read_claim(earlier / "claim.safetensors").attempt.claim
    np.testing.assert_array_equal(claim.values.numpy(), load_file(earlier / "claim.safetensors")["claim.values"])


def test_the_state_of_an_earlier_search_is_read(earlier):
    path = earlier / "search.state"
    file = StateFile(path)
    said = metadata(path)
    if "owner" in said:  # up to 0.1.0
        assert file.seconds() == float(said["seconds"]) > 0
    tensors = load_file(path)
    read = [value for value in _leaves(file.load()) if isinstance(value, torch.Tensor)]
    assert len(read) == len(tensors) > 0
    assert all(any(np.array_equal(one.numpy(), other) for other in tensors.values()) for one in read)
    saved = StateFile(path)
    saved.open(said.get("owner", ""))
    saved.save(file.load(), seconds=file.seconds())
    again = StateFile(path)
    assert repr(again.load()) == repr(saved.load())
    with pytest.raises(BadInput, match="another attack, observation or key"):
        again.open("somebody else")


def _leaves(value):
    if isinstance(value, dict | list):
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(one)]
    return [value]


def test_an_earlier_training_is_refused_by_its_version(earlier):
    place = earlier / "training.checkpoint"
    before = place.read_bytes()
    with pytest.raises(BadInput, match=r"checkpoint of leakscope 0\.1\.0"):
        learn(course(), checkpoint=str(place))
    assert place.read_bytes() == before


def test_an_earlier_encoder_and_an_earlier_prior_are_read(earlier):
    path = earlier / "encoder.safetensors"
    network = ResCNNNetwork(Shape(1, 1, 2, 4))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(path).items()})
    network.eval()
    encoder, utterances = ls.ResCNN(str(path)), list(course().utterances)
    old = encoder.of_frames(utterances)
    save(network, Shape(1, 1, 2, 4), str(earlier / "again.safetensors"))
    torch.testing.assert_close(ls.ResCNN(str(earlier / "again.safetensors")).of_frames(utterances), old)
    np.testing.assert_allclose(old.norm(dim=1), 1, atol=1e-6)
    chain = ls.SpeechPrior(str(earlier / "prior.safetensors")).chain(4)
    np.testing.assert_array_equal(chain.mean, load_file(earlier / "prior.safetensors")["mean"])


# --- what a header may promise --------------------------------------------------------------------------------------


def rewritten(path, **changes):
    """The same file with other things said in its header and a checksum that fits."""
    found = read_content(path)
    assert isinstance(found, Content)
    container.write_content(path, found.kind, json.dumps({**json.loads(found.text), **changes}), found.arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 10**12}, "1000000000000 classes in a file of"),
        ({"classes": 0}, "classes: Input should be greater than or equal to 1"),
        ({"weights_seed": -1}, "weights_seed: Input should be greater than or equal to 0"),
        ({"classes": math.nan}, "classes"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_update_cannot_promise_more_than_it_holds(tmp_path, changes, message):
    seen, _ = observed()
    write_update(tmp_path / "u", seen, Provenance("Linear()", 0))
    rewritten(tmp_path / "u", **changes)
    with pytest.raises(BadInput, match=message):
        read_update(tmp_path / "u")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"layout": '{"tensor": "t99"}'}, "does not hold the tensors"),
        ({"layout": "[" * 100000}, "does not hold the tensors"),
        ({"layout": "[1]"}, "holds a list, expected a state"),
        ({"layout": "not JSON"}, "does not hold the tensors"),
    ],
)
def test_a_state_cannot_promise_more_than_it_holds(tmp_path, changes, message):
    file = StateFile(tmp_path / "state")
    file.save({"a": torch.ones(2)}, seconds=1.0)
    rewritten(tmp_path / "state", **changes)
    with pytest.raises(BadInput, match=message):
        StateFile(tmp_path / "state").load()


@pytest.mark.parametrize("shape", [{"width": 10**9}, {"blocks": 10**9}, {"dimensions": 10**9}, {"coefficients": 10**9}])
def test_an_encoder_cannot_promise_more_than_it_holds(tmp_path, shape):
    path = tmp_path / "encoder.safetensors"
    save(ResCNNNetwork(Shape(1, 1, 2, 4)), Shape(1, 1, 2, 4), str(path))
    rewritten(path, shape={"width": 1, "blocks": 1, "dimensions": 2, "coefficients": 4, **shape})
    with pytest.raises(BadInput, match="holds no speaker encoder"):
        ls.ResCNN(str(path)).of_frames([torch.zeros(3, 4)])


def test_tensors_that_are_not_there_are_not_promised(tmp_path):
    """The header claims a shape of 2^40 numbers; the reader asks for no memory before it has compared it."""
    path = tmp_path / "u"
    text = json.dumps({"w": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\0\0")
    with pytest.raises(BadInput, match="cannot be read"):
        container.read(path, UpdateHeader)


def test_a_state_keeps_every_kind_of_number(tmp_path):
    state = {
        "best": math.inf,
        "nothing": None,
        "yes": True,
        "third": 1 / 3,
        "parts": [torch.ones((), dtype=torch.bfloat16), torch.arange(6).reshape(2, 3).T, "text"],
    }
    StateFile(tmp_path / "state").save(state, seconds=0.5)
    with safe_open(tmp_path / "state", framework="numpy") as file:
        assert set(file.metadata()) == {"leakscope"}
    back = StateFile(tmp_path / "state").load()
    assert repr(back) == repr(state)
    assert [one.dtype for one in back["parts"][:2]] == [torch.bfloat16, torch.int64]


def test_a_file_of_another_program_is_named_as_one(tmp_path):
    save_file({"w": np.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match="was not written by leakscope, expected an update"):
        read_update(tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match="was not written by leakscope, expected a state"):
        StateFile(tmp_path / "w.safetensors").load()


@pytest.mark.parametrize("place", ["groups.0", "groups.0.scores.0", "groups.0.gains.0", "findings.0"])
@pytest.mark.parametrize("judge", [lambda folder: RunStore(folder).summary(), text_files.run], ids=["whole", "text"])
def test_a_key_that_is_not_known_names_the_version_at_any_depth(earlier, place, judge):
    path = earlier / "run" / "summary.json"
    said = json.loads(path.read_text())
    group = said["groups"][0]
    group["gains"] = [{"gain": 0.0}]
    said["findings"] = [{"groups": [0]}]
    inner = said
    for part in place.split("."):
        inner = inner[int(part) if part.isdigit() else part]
    inner["fresh"] = 1
    if "gains" not in place:
        del group["gains"]
    if "findings" not in place:
        del said["findings"]
    said["versions"]["leakscope"] = "9.9.9"
    path.write_text(json.dumps(said))
    # What else the inner objects lack is told by the whole reader first.
    told = "9.9.9 wrote it" if judge is text_files.run or "0.scores" in place or place == "groups.0" else "summary"
    with pytest.raises(DamagedRecord, match=told):
        judge(earlier / "run")


@pytest.mark.parametrize("judge", [lambda folder: RunStore(folder).summary(), text_files.run], ids=["whole", "text"])
def test_another_schema_names_the_version(earlier, judge):
    path = earlier / "run" / "summary.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"schema_version": 99, "versions": {"leakscope": "9.9.9"}}))
    with pytest.raises(
        DamagedRecord, match=r"schema 99, this leakscope reads 1; it says that leakscope 9\.9\.9 wrote it"
    ):
        judge(earlier / "run")
