"""Updates that other programs wrote: mapped to the model's names or refused with a sentence, whatever the bytes are."""

from __future__ import annotations

import ast
import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from leakscope.core import file_limits
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key
from leakscope.targets.files import tensors
from leakscope.targets.files.foreign import for_model, load_tensors, read_foreign
from leakscope.targets.recipes.trained import load_state


def net():
    with Key(0).isolated():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


TRAINED = [name for name, _ in net().named_parameters()]
RUNNING = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def written(tmp_path, suffix, state):
    """The state dict in each way in which people save one."""
    path = tmp_path / f"update{suffix}"
    arrays = {name: value.numpy() for name, value in state.items()}
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".pt":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(arrays))
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pkl"])
def test_every_format_gives_the_same_tensors_and_buffers_apart(tmp_path, suffix):
    state = net().state_dict()
    path = written(tmp_path, suffix, state)
    values = for_model(read_foreign(path, allow_pickle=suffix == ".pkl"), net())
    same(values.parameters, {name: state[name] for name in TRAINED})
    same(values.buffers, {name: state[name] for name in RUNNING})
    assert values.notes == ()
    other = net()
    for value in other.state_dict().values():
        value.zero_()
    load_tensors(other, values, "a")
    same(other.state_dict(), state)


@pytest.mark.parametrize("trained_only", [False, True], ids=["Flower: the whole state dict", "the parameters"])
def test_lists_without_names_are_taken_in_the_models_order(tmp_path, trained_only):
    state = net().state_dict()
    arrays = [value.numpy() for name, value in state.items() if not trained_only or name in TRAINED]
    np.savez(tmp_path / "a.npz", *arrays)
    torch.save([torch.from_numpy(np.array(one)) for one in arrays], tmp_path / "a.pt")
    for name in ("a.npz", "a.pt"):
        values = for_model(read_foreign(tmp_path / name), net())
        same(values.parameters, {name: state[name] for name in TRAINED})
        assert set(values.buffers) == (set() if trained_only else RUNNING)
        assert values.notes == (f"{len(arrays)} arrays without names, taken in the model's order",)
    np.savez(tmp_path / "short.npz", *arrays[:-2])
    with pytest.raises(
        BadInput, match=rf"a list of {len(arrays) - 2} arrays .* the model has 9 \(or 6 without buffers\)"
    ):
        for_model(read_foreign(tmp_path / "short.npz"), net())
    np.savez(tmp_path / "turned.npz", *reversed(arrays))
    with pytest.raises(BadInput, match=r"0\.weight has shape \(3,\) in .*turned\.npz, the model has \(2, 1, 3, 3\)"):
        for_model(read_foreign(tmp_path / "turned.npz"), net())


def test_more_than_ten_arrays_keep_their_order(tmp_path):
    deep = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    np.savez(tmp_path / "a.npz", *[np.full(value.shape, i, np.float32) for i, value in enumerate(deep.parameters())])
    values = for_model(read_foreign(tmp_path / "a.npz"), deep)
    assert [value.item() for value in values.parameters.values()] == list(range(12))


@pytest.mark.parametrize(
    "wrapped",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."],
    ids=["DataParallel", "compile", "both", "both the other way"],
)
def test_wrappers_are_taken_off_and_said(tmp_path, wrapped):
    state = net().state_dict()
    torch.save({"epoch": 3, "state_dict": {wrapped + name: value for name, value in state.items()}}, tmp_path / "a.pt")
    values = for_model(read_foreign(tmp_path / "a.pt"), net())
    same(values.parameters, {name: state[name] for name in TRAINED})
    took, off = values.notes
    assert "took 'state_dict' out of the checkpoint" in took
    assert f"'{wrapped}'" in off
    inner = {"0._orig_mod.weight": state["0.weight"]}
    save_file(inner, tmp_path / "inner.safetensors")
    assert for_model(read_foreign(tmp_path / "inner.safetensors"), net()).parameters.keys() == {"0.weight"}
    model = nn.Sequential()
    model.add_module("module", nn.Linear(2, 2))  # a model may have such a name itself
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    assert for_model(read_foreign(tmp_path / "own.safetensors"), model).notes == ()


def test_partial_and_unknown_names_are_said(tmp_path):
    state = net().state_dict()
    save_file({"3.weight": state["3.weight"], "head.bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    found = read_foreign(tmp_path / "a.safetensors")
    values = for_model(found, net())
    assert values.parameters.keys() == {"3.weight"}
    unknown, partial = values.notes
    assert unknown == "left out head.bias, which the model does not have"
    assert partial == "a partial update: it lacks 0.weight, 0.bias, 1.weight, 1.bias and 1 more"
    with pytest.raises(BadInput, match=r"lacks 0\.weight"):
        load_tensors(net(), values, "a.safetensors")
    with pytest.raises(
        BadInput, match=r"no name in common with the model: it has 3\.weight, head\.bias, the model weight"
    ):
        for_model(found, nn.Linear(2, 2))


def test_a_shared_parameter_is_counted_once(tmp_path):
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    np.savez(tmp_path / "named.npz", **{name: value.numpy() for name, value in tied.state_dict().items()})
    np.savez(tmp_path / "listed.npz", *[value.numpy() for value in tied.state_dict().values()])
    for name, notes in (("named.npz", ()), ("listed.npz", ("4 arrays without names, taken in the model's order",))):
        values = for_model(read_foreign(tmp_path / name), tied)
        assert values.parameters.keys() == {"0.weight", "0.bias", "1.bias"}
        assert values.notes == notes


def test_precision_is_never_made_up(tmp_path):
    state = net().state_dict()
    for dtype, kept in (
        (torch.float64, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ):
        save_file({"3.weight": state["3.weight"].to(dtype)}, tmp_path / "a.safetensors")
        assert for_model(read_foreign(tmp_path / "a.safetensors"), net()).parameters["3.weight"].dtype is kept


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"3.weight": torch.zeros(3, 7)}, r"3.weight has shape \(3, 7\) .* the model has \(3, 8\)"),
        ({"3.weight": torch.full((3, 8), torch.nan)}, "not finite"),
        ({"3.weight": torch.zeros(3, 8, dtype=torch.int8)}, "int8, expected floating point"),
        ({"3.weight": torch.zeros(3, 8).to_sparse()}, "expected a plain array"),
        ({"3.weight": "text"}, "'3.weight' in .* is a str, expected a plain array"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "no name in common"),
        ({"3.bias": torch.zeros(3), "module.3.bias": torch.zeros(3)}, "'module.3.bias' is there twice"),
        ({}, "holds nothing"),
        ([], "holds nothing"),
        (3, "holds a int"),
        ("text", "holds a str"),
    ],
)
def test_what_is_no_update_is_refused(tmp_path, content, says):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=says):
        for_model(read_foreign(tmp_path / "a.pt"), net())


class Bomb:
    def __reduce__(self):
        return print, ("code of the file was run",)


def test_pickles_are_for_those_who_ask(tmp_path, capsys):
    torch.save({"a": Bomb()}, tmp_path / "a.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Bomb()}))
    np.savez(tmp_path / "a.npz", a=np.array([Bomb()], dtype=object))
    (tmp_path / "disguised.safetensors").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.pt", "a.pkl", "a.npz", "disguised.safetensors"):
        with pytest.raises(BadInput, match="--allow-pickle"):
            read_foreign(tmp_path / name)
    assert capsys.readouterr().out == ""
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(BadInput, match="holds a Linear, expected tensors by name"):
        read_foreign(tmp_path / "whole.pt", allow_pickle=True)
    (tmp_path / "flower.pkl").write_bytes(pickle.dumps([np.zeros((3, 8), np.float32)]))
    assert read_foreign(tmp_path / "flower.pkl", allow_pickle=True).listed[0].shape == (3, 8)


def test_an_archive_that_promises_too_much_is_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2000))
    with file_limits.limited(1000), pytest.raises(BadInput, match=r"unpacked, would take 1\.95 KiB"):
        read_foreign(tmp_path / "a.npz")


def test_missing_files_and_strange_suffixes(tmp_path):
    with pytest.raises(BadInput, match="no file"):
        read_foreign(tmp_path / "none.npz")
    (tmp_path / "a.h5").touch()
    with pytest.raises(BadInput, match=r"suffix '\.h5'; expected \.safetensors, \.npz or \.pt"):
        read_foreign(tmp_path / "a.h5")


WHOLE = {}


def whole(suffix):
    if suffix not in WHOLE:
        state, file = {"3.weight": torch.ones(3, 8), "3.bias": torch.ones(3)}, io.BytesIO()
        if suffix == ".pt":
            torch.save(state, file)
        elif suffix == ".npz":
            np.savez_compressed(file, **{name: value.numpy() for name, value in state.items()})
        else:
            from safetensors.torch import save

            file.write(save(state))
        WHOLE[suffix] = file.getvalue()
    return WHOLE[suffix]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".pt", ".npz", ".safetensors"]), data=st.data())
def test_no_bytes_break_the_reader(tmp_path, suffix, data):
    damaged = bytearray(whole(suffix))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(bytes(damaged))
    with contextlib.suppress(BadInput):
        for_model(read_foreign(path), net())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".weights"])
def test_the_weights_of_a_recipe_are_read_from_every_plain_format(tmp_path, suffix):
    """By the reader of `Trained`, which asks for every name; any other suffix is torch's own format."""
    state = net().state_dict()
    path = written(tmp_path, suffix if suffix != ".weights" else ".pt", state)
    if suffix == ".weights":
        path = path.rename(path.with_suffix(suffix))
    other = net()
    for value in other.state_dict().values():
        value.zero_()
    load_state(other, str(path))
    same(other.state_dict(), state)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"cannot be read as plain tensors .* save the state dict itself: torch\.save"):
        load_state(other, str(path))


def test_tensor_files_are_opened_in_one_place_of_the_targets():
    """By the names of the calls that open one."""
    package = Path(tensors.__file__).parents[1]
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.load", "np.load", "load_file", "safe_open", "pickle.load")
    }
    assert found == {"files/tensors.py"}


@pytest.mark.parametrize("counter", [np.zeros(0, np.float32), np.zeros(1, np.int64), np.array([3.0])])
def test_counters_that_became_arrays_are_left_out_and_said(tmp_path, counter):
    state = net().state_dict()
    arrays = {name: value.numpy() if value.ndim else counter for name, value in state.items()}
    np.savez(tmp_path / "listed.npz", *arrays.values())
    np.savez(tmp_path / "named.npz", **arrays)
    for name in ("listed.npz", "named.npz"):
        values = for_model(read_foreign(tmp_path / name), net())
        same(values.parameters, {name: state[name] for name in TRAINED})
        assert set(values.buffers) == RUNNING - {"1.num_batches_tracked"}
        assert values.notes[-1].startswith("left out 1.num_batches_tracked: counters")
        load_tensors(net(), values, name)
    without = [value for value in state.values() if value.ndim]
    np.savez(tmp_path / "without.npz", *[value.numpy() for value in without])
    values = for_model(read_foreign(tmp_path / "without.npz"), net())
    same(values.parameters, {name: state[name] for name in TRAINED})
    whole = {**arrays, "1.running_mean": np.zeros(1, np.float32)}
    np.savez(tmp_path / "wrong.npz", **whole)
    with pytest.raises(BadInput, match=r"1\.running_mean has shape \(1,\)"):
        for_model(read_foreign(tmp_path / "wrong.npz"), net())


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("_module.", "_module."),
        ("model.", "model."),
        ("_forward_module.model.", "_forward_module.model."),
        ("model._module.", "model._module."),
        ("_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
        ("student.backbone.", "student.backbone."),
    ],
)
def test_prefixes_of_other_wrappers_are_taken_off_and_said(tmp_path, front, said):
    state = net().state_dict()
    others = {"criterion.weight": torch.ones(3), "3.unrelated": torch.ones(1)}
    torch.save({**{front + name: value for name, value in state.items()}, **others}, tmp_path / "a.pt")
    values = for_model(read_foreign(tmp_path / "a.pt"), net())
    same(values.parameters, {name: state[name] for name in TRAINED})
    assert f"took '{said}' off 9 names" in values.notes
    assert "left out criterion.weight, 3.unrelated, which the model does not have" in values.notes
    if not front.startswith("student"):  # a part of the model, behind what is known to be a wrapper
        torch.save({f"{front}3.bias": state["3.bias"]}, tmp_path / "part.pt")
        assert for_model(read_foreign(tmp_path / "part.pt"), net()).parameters.keys() == {"3.bias"}


def test_two_models_in_one_file_are_not_confused(tmp_path):
    state, other = net().state_dict(), {name: value + 1 for name, value in net().state_dict().items()}
    both = {**{f"model.{n}": v for n, v in state.items()}, **{f"ema.{n}": v for n, v in other.items()}}
    torch.save(both, tmp_path / "a.pt")
    values = for_model(read_foreign(tmp_path / "a.pt"), net())
    same(values.parameters, {name: state[name] for name in TRAINED})
    both = {**{f"student.{n}": v for n, v in state.items()}, **{f"teacher.{n}": v for n, v in other.items()}}
    torch.save(both, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"the model several times, under student\., teacher\.; save"):
        for_model(read_foreign(tmp_path / "a.pt"), net())
    partly = {f"encoder.{n}": v for n, v in state.items() if n != "3.bias"}
    torch.save(partly, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="no name in common"):
        for_model(read_foreign(tmp_path / "a.pt"), net())


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lambda state: {"network": state, "epoch": 3}, "took 'network' out"),
        (lambda state: {"params": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, "took 'params' out"),
        (lambda state: (list(state.values()), 32, {"loss": 0.5}), "took the list of 9 arrays out"),
    ],
    ids=["an unusual key", "beside an optimizer", "what Flower's fit returns"],
)
def test_a_state_dict_inside_of_something_is_taken_out_and_said(tmp_path, held, said):
    model = net()
    state = dict(model.state_dict())
    torch.save(held(state), tmp_path / "u.pt")
    found = for_model(read_foreign(tmp_path / "u.pt"), model)
    assert any(said.replace("9", str(len(state))) in note for note in found.notes), found.notes
    for name, value in model.named_parameters():
        assert torch.equal(found.parameters[name], value)


def test_which_of_several_state_dicts_is_the_update_is_not_guessed(tmp_path):
    state = dict(net().state_dict())
    torch.save({"online": state, "averaged": state}, tmp_path / "u.pt")
    with pytest.raises(BadInput, match="several sets of arrays, online, averaged"):
        read_foreign(tmp_path / "u.pt")
