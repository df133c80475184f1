"""Arguments of another kind than a constructor declares are refused from the text; what is declared never is."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import leakscope as ls
from leakscope.cli.names import ROWS
from leakscope.cli.text import models, spelling
from leakscope.cli.text.kinds import _above
from leakscope.core.errors import BadInput
from leakscope.homes import Home

REFUSED = {
    "Clip(LeNet())": "norm takes float, got LeNet()",
    "FedAvg(1, 0.1, optimizer=LeNet())": "optimizer takes AbstractOptimizer, got LeNet()",
    "Fitted(LeNet(), LeNet())": "data takes PublicData, got LeNet()",
    "Trained(LeNet(), 5)": "state takes str, got 5",
    "Trained(LeNet(), None)": "state takes str, got None",
    "Imported(5)": "path takes str, got 5",
    "AtRest(Clip(1.0))": "attack takes Attack[Inputs], got Clip(1.0)",
    "GradientInversion(search=Flat())": "search takes AbstractSearch, got Flat()",
    "LinearProbe(Digits(), 5)": "backbone takes AbstractArchitecture, got Digits()",
    "MLP((8,), activation='rleu')": "'rleu' is not a valid Activation",
    "BatchSize(Clip(1.0))": "count takes int, got Clip(1.0)",
}
TAKEN = (
    "FedAvg(1, 0.1, optimizer=Adam())",
    "FedAvg(1, 1)",
    "Fitted(LeNet(), Digits(size=8))",
    "LeNet(None, 'relu')",
    "LeNet(activation=Activation('relu'))",
    "AtRest(idlg())",
    "GradientInversion(prior=0.1 * TotalVariation() + Energy())",
    "Trained(LinearProbe(LeNet(), 5), 'a.pt')",
)


@pytest.mark.parametrize("text", REFUSED)
def test_another_kind_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="^" + text.partition("(")[0]) as told:
        spelling.read(text, "part", "Flat()")
    assert REFUSED[text] in str(told.value)


@pytest.mark.parametrize("text", [*TAKEN, *(row.example for row in ROWS)])
def test_what_is_declared_is_taken(text: str) -> None:
    spelling.read(text, "part", "Flat()")


def test_what_a_class_derives_from_is_what_python_says() -> None:
    for row in ROWS:
        if not inspect.isclass(row.build):
            continue
        own = {one for one in row.build.__mro__ if one.__module__.startswith("leakscope.")}
        read = {one for one in _above(Home(row.build.__module__, row.build.__name__)) if "leakscope." in one.module}
        assert read == {Home(one.__module__, one.__name__) for one in own}, row.name


@pytest.mark.parametrize(
    "made", [ls.LeNet, ls.ConvNet, ls.ResNet20, lambda activation: ls.MLP((4,), activation=activation)]
)
def test_constructors_take_the_values_of_enumerations(made: Any) -> None:
    assert made(activation="relu").activation is ls.Activation.RELU
    with pytest.raises(ValueError, match="'rleu' is not a valid Activation"):
        made(activation="rleu")


@pytest.mark.parametrize(
    "text", ["torch.nn:Linear", "torch.nosuch:Net", "numpy.linalg:nosuch", "Imported('torch.nn:Linear')"]
)
def test_libraries_of_parts_give_no_model(text: str) -> None:
    with pytest.raises(BadInput, match="has parts of models, and none that is one"):
        models.findable(text)


def test_a_part_with_its_arguments_and_leakscope_s_own_are_told_apart() -> None:
    models.findable("Imported('torch.nn:Linear', (('in_features', 4), ('out_features', 2)))")
    with pytest.raises(BadInput, match=r"leakscope:LeNet is one of leakscope's own; write LeNet\(\)"):
        models.findable("leakscope:LeNet")
