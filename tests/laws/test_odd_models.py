"""Models, losses and facts that nobody thought of: asked whether it applies, an attack answers, and what runs ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built
from torch import Tensor, nn

import leakscope as ls
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.refusal import Refusal
from leakscope.core.release import Gradient
from leakscope.core.target import AbstractLoss

IMAGES = ls.Images(1, 8, 8)


class By(nn.Module):
    """A forward by a function of the module and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Shapeless(AbstractDomain):
    """A domain whose author forgot half of it."""

    shape = None  # type: ignore[assignment]

    def fits(self, inputs: Tensor) -> bool:
        return True

    def bounds(self, like: Tensor) -> Any:
        raise KeyError("bounds")

    def to_display(self, inputs: Tensor) -> Tensor:
        return inputs


def dense() -> nn.Linear:
    with ls.Key(0).isolated():
        return nn.Linear(64, 5)


ODD: dict[str, Callable[[], ls.Target]] = {
    "only one example": lambda: ls.Target(By(lambda s, x: s.l(x.view(1, 64)), l=dense()), IMAGES, 5),
    "bfloat16": lambda: ls.Target(By(lambda s, x: s.l(x.flatten(1).bfloat16()), l=dense().bfloat16()), IMAGES, 5),
    "unused parameters": lambda: ls.Target(By(lambda s, x: x.flatten(1)[:, :5], l=dense()), IMAGES, 5),
    "complex": lambda: ls.Target(By(lambda s, x: torch.fft.fft(s.l(x.flatten(1))), l=dense()), IMAGES, 5),
    "nothing": lambda: ls.Target(By(lambda s, x: None, l=dense()), IMAGES, 5),
    "a bug": lambda: ls.Target(By(lambda s, x: {}["h"], l=dense()), IMAGES, 5),
    "no shape": lambda: ls.Target(By(lambda s, x: s.l(x.flatten(1)), l=dense()), Shapeless(), 5),
}


@pytest.mark.parametrize("name", ODD)
def test_no_refusal_raises(name: str) -> None:
    target = ODD[name]()
    random = {n: torch.randn(v.shape, generator=ls.Key(0).generator()).to(v) for n, v in target.parameters().items()}
    seen = ls.Observation(target, Gradient(random), ls.FedSGD(), [ls.BatchSize(1)])
    for row in ATTACKS:
        found = built(row).refusal(seen)
        assert found is None or isinstance(found, Refusal), row.name


def test_a_reading_that_failed_says_so_and_does_not_say_that_it_does_not_apply() -> None:
    target = ODD["a bug"]()
    seen = ls.Observation(target, Gradient(dict(target.parameters())), ls.FedSGD(), [ls.BatchSize(1)])
    attempt = ls.LinearLayer().run(seen, key=ls.Key(0))
    assert attempt.outcome is ls.Outcome.REFUSED
    assert "failed with KeyError: 'h'; nothing is known of it here" in attempt.sentence


def two_layers() -> ls.Target:
    with ls.Key(0).isolated():
        return ls.Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 5)), IMAGES, 5)


@pytest.mark.parametrize("attack", [ls.dlg(), ls.idlg(), ls.inverting_gradients(), ls.hessian_free()], ids=repr)
@pytest.mark.parametrize("fact", [ls.Lengths((1, 1)), ls.TrueLabels((1, 2))], ids=repr)
def test_facts_of_another_kind_of_model_raise_nowhere(attack: Any, fact: Any) -> None:
    target = two_layers()
    seen = ls.Observation(target, Gradient(dict(target.parameters())), ls.FedSGD(), [ls.BatchSize(2), fact])
    attempt = attack.run(seen, key=ls.Key(1), budget=ls.Budget(evaluations=4))
    assert attempt.outcome in (ls.Outcome.CLAIMED, ls.Outcome.REFUSED, ls.Outcome.DIVERGED)


def test_a_model_without_second_derivatives_ends_with_a_sentence() -> None:
    with ls.Key(0).isolated():
        module = By(
            lambda s, x: s.l(s.e((x.flatten(1) * 9).long().clamp(0, 9))), e=nn.EmbeddingBag(10, 4), l=nn.Linear(4, 5)
        )
    batch = ls.Batch(torch.rand(1, 1, 8, 8, generator=ls.Key(0).generator()), torch.tensor([2]))
    seen = ls.observe(ls.Target(module, IMAGES, 5), batch, ls.FedSGD(), key=ls.Key(0), tell=[ls.BatchSize(1)])
    attempt = ls.dlg().run(seen, key=ls.Key(1), budget=ls.Budget(evaluations=4))
    assert attempt.outcome is ls.Outcome.DIVERGED
    assert "cannot be differentiated twice" in attempt.sentence


class Returns(AbstractLoss):
    """A loss by what it returns."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def __call__(self, outputs: Tensor, batch: ls.Batch) -> Any:
        return self.found(outputs)


@pytest.mark.parametrize(
    "found", [lambda o: 0.5, lambda o: None, lambda o: o.sum().to(torch.complex64), lambda o: o[0]]
)
def test_a_loss_that_is_no_number_is_named(found: Any) -> None:
    target = ls.Target(two_layers().module, IMAGES, 5, loss=Returns(found))
    batch = ls.Batch(torch.rand(1, 1, 8, 8), torch.tensor([2]))
    with pytest.raises(BadInput, match="expected a tensor with one real number"):
        ls.observe(target, batch, ls.FedSGD(), key=ls.Key(0))


@pytest.mark.parametrize(
    "given", [("s", ("a",), ("0",)), ("s", ("a",), (0.0,)), ("s", ("a",), 5), ("s", 5, (0,)), (None, ("a",), (0,))]
)
def test_a_gallery_of_something_else_is_refused(given: Any) -> None:
    with pytest.raises(BadInput):
        ls.Gallery(*given, ls.Batch(torch.rand(1, 1, 8, 8), torch.tensor([0])))
    with pytest.raises(BadInput):
        ls.Gallery("s", ("a",), (0,), 5)  # type: ignore[arg-type]
