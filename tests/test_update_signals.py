"""Signals against autograd, against sums over examples, and against NumPy's decompositions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.emotion_toys import CLASSES, DOMAIN, NET, SIZE, speakers

import leakscope as ls
from leakscope.attacks.attributes import signals
from leakscope.attacks.attributes.signals import (
    ClassInputs,
    ColumnEnergy,
    MeanInput,
    RawUpdate,
    RowSpace,
    Sent,
    SharedInput,
    SignedMean,
    dense_layers,
    signal,
)
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.numerics.rng import Key

KEY = Key(0)
ALL = (MeanInput(), SignedMean(), ColumnEnergy(), SharedInput(), RowSpace(), RawUpdate(), ClassInputs())
KINDS = tuple(dict.fromkeys(type(one) for one in ALL))


def seen(examples=5, key=KEY, architecture=NET):
    """Target, batch, gradient by name, layers."""
    target = architecture.build(DOMAIN, CLASSES, key=key)
    batch = speakers(0).batch.rows(torch.arange(examples))
    gradient = ls.FedSGD().release(target, batch, key=key).by_name
    return target, batch, gradient, dense_layers(target)


def errors(target, batch, layers, at=0):
    """(B, H): dL_b/dz at a layer for each example alone, by its bias gradient; L is their mean."""
    one_by_one = [ls.FedSGD().release(target, batch.rows(torch.tensor([b])), key=Key(0)) for b in range(len(batch))]
    return torch.stack([one.by_name[layers[at].bias].double() for one in one_by_one]) / len(batch)


def test_the_layers_are_those_of_the_model_in_their_order():
    _, _, gradient, layers = seen()
    assert [one.shape for one in layers] == [(24, SIZE), (16, 24), (CLASSES, 16)]
    assert {name for one in layers for name in (one.weight, one.bias)} == set(gradient)
    assert layers[0].size == 24 * SIZE + 24


def test_one_example_is_its_own_mean_and_its_own_shared_input():
    target, batch, gradient, layers = seen(1)
    for one in (MeanInput(), SignedMean(), SharedInput()):
        found = signal(one, gradient, target.parameters(), layers)
        assert torch.allclose(found, batch.inputs[0].double(), atol=1e-4), one


@pytest.mark.parametrize("one", [MeanInput(), SignedMean()])
def test_means_are_sums_of_the_inputs_whose_weights_add_up_to_one(one):
    target, batch, gradient, layers = seen()
    error = errors(target, batch, layers)
    slope = error.sum(0)
    along = slope if isinstance(one, MeanInput) else slope.sign()
    weights = error @ along / (slope @ along)
    assert float(weights.sum()) == pytest.approx(1.0)
    found = signal(one, gradient, target.parameters(), layers)
    assert torch.allclose(found, weights @ batch.inputs.double(), atol=1e-4)


def test_energies_are_quadratic_in_the_examples():
    target, batch, gradient, layers = seen()
    error = errors(target, batch, layers)
    x = batch.inputs.double()
    energy = torch.einsum("bi,ci,bc->i", x, x, error @ error.T)
    wanted = energy.log() - energy.log().mean()
    assert torch.allclose(signal(ColumnEnergy(), gradient, target.parameters(), layers), wanted, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_shared_input_has_one_product_with_all_examples(steps):
    """s . x_b = |s|^2, by the examples themselves; also where the weights moved on the way."""
    target, batch, _, layers = seen()
    mechanism = ls.FedAvg(steps=steps, lr=0.05)
    update = mechanism.as_gradient(mechanism.release(target, batch, key=Key(0))).by_name
    found = signal(SharedInput(), update, target.parameters(), layers)
    products = batch.inputs.double() @ found
    assert torch.allclose(products, found.square().sum().expand(len(batch)), rtol=5e-3)
    # and it is the point nearest to zero: a sum of the examples, of weights that add up to one
    fitted = np.linalg.lstsq(batch.inputs.double().numpy().T, found.numpy(), rcond=None)[0]
    assert float(fitted.sum()) == pytest.approx(1.0, abs=1e-2)


def test_the_row_space_is_that_of_numpys_singular_vectors():
    target, _, gradient, layers = seen(8)
    found = signal(RowSpace(rank=3), gradient, target.parameters(), layers)
    right = np.linalg.svd(gradient[layers[0].weight].double().numpy(), full_matrices=False)[2][:3]
    assert np.allclose(found.numpy(), (right**2).sum(0), atol=1e-6)


def test_class_inputs_of_a_linear_model_are_exact_sums_by_class():
    """Without ReLU, M = P P^T sum_b (p_b - y_b) x_b^T exactly, p from the model's own outputs."""
    linear = torch.nn.Sequential(torch.nn.Linear(SIZE, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, CLASSES))
    target = ls.Target(linear, DOMAIN, CLASSES)
    batch = speakers(0).batch.rows(torch.arange(7))
    gradient = ls.FedSGD().release(target, batch, key=Key(0)).by_name
    weights = target.parameters()
    path = (weights["2.weight"] @ weights["1.weight"]).double()
    p = torch.softmax(target.outputs(weights, batch.inputs).double(), 1)
    by_class = path @ path.T @ (p - torch.nn.functional.one_hot(batch.labels, CLASSES)).T @ batch.inputs.double()
    found = signal(ClassInputs(), gradient, weights, dense_layers(target))
    assert torch.allclose(found, (by_class / by_class.norm()).flatten(), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-6, 1e6), place=st.integers(0, len(ALL) - 1))
def test_a_factor_says_nothing(factor, place):
    target, _, gradient, layers = seen()
    plain = signal(ALL[place], gradient, target.parameters(), layers)
    scaled = {name: factor * value.double() for name, value in gradient.items()}
    found = signal(ALL[place], scaled, target.parameters(), layers)
    assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    zero=st.booleans(),
    seed=st.integers(0, 99),
    place=st.integers(0, len(ALL) - 1),
)
def test_every_signal_is_finite_and_of_a_size_that_the_shape_decides(rows, columns, zero, seed, place):
    """Also of an update of zeros: what is divided by is never zero."""
    random = Key(seed).generator()

    def sent():
        scale = 0.0 if zero else 1.0
        drawn = (
            torch.randn(size, generator=random, dtype=torch.float64) for size in ((rows, columns), (rows,), (2, rows))
        )
        weight, bias, path = drawn
        return Sent(scale * weight, scale * bias, path)

    one, other = ALL[place].read(sent()), ALL[place].read(sent())
    assert one.shape == other.shape
    assert one.dtype == torch.float64
    assert bool(torch.isfinite(one).all())


def test_other_layers_are_read_by_their_number():
    target, _, gradient, layers = seen()
    sizes = [len(signal(ColumnEnergy(layer), gradient, target.parameters(), layers)) for layer in (1, 2, 3)]
    assert sizes == [SIZE, 24, 16]
    assert len(signal(ClassInputs(3), gradient, target.parameters(), layers)) == CLASSES * 16


@pytest.mark.parametrize(
    ("one", "change", "said"),
    [
        (ColumnEnergy(4), lambda update: update, "has 3"),
        (ColumnEnergy(), lambda update: {n: v for n, v in update.items() if not n.startswith("1.")}, "does not hold"),
        (RawUpdate(), lambda update: update | {"1.weight": update["1.weight"] * torch.nan}, "not finite"),
    ],
)
def test_what_cannot_be_read_is_said(one, change, said):
    target, _, gradient, layers = seen()
    with pytest.raises((BadInput, NoSuchLayer), match=said):
        signal(one, change(dict(gradient)), target.parameters(), layers)


def test_a_layer_without_a_bias_and_one_without_a_path_refuse():
    for one in (MeanInput(), SignedMean(), SharedInput()):
        with pytest.raises(BadInput, match="bias"):
            one.read(Sent(torch.ones(2, 2).double()))
    with pytest.raises(BadInput, match="dense layers only"):
        ClassInputs().read(Sent(torch.ones(2, 2).double()))


@pytest.mark.parametrize(("kind", "layer"), itertools.product(KINDS, (0, -1, 1.5, True)))
def test_layers_are_numbered_from_one(kind, layer):
    with pytest.raises(BadInput, match="layer"):
        kind(layer)


def test_every_signal_is_tested():
    kinds = {one for one in signals.AbstractSignal.__subclasses__() if one.__module__ == signals.__name__}
    assert kinds == {type(one) for one in ALL}
