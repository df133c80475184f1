"""What a mechanism says of itself: loose, contradicting or broken, it costs the proof and gives no false one.

Crossed with every attack that certifies. The changes are real ones: a clip tensor by tensor, biases of twice the size
and mirrored columns satisfy the equations of one layer to the last digit, and a billionth of noise hides none of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built, observed, private
from tests.laws.test_unknown import EXACT, NO, YES, by_tensor, doubled, mirrored
from torch import Tensor

import leakscope as ls
from leakscope.core.errors import BadInput
from leakscope.core.release import Gradient
from leakscope.mechanisms import reading
from leakscope.mechanisms.compose import (
    AbstractInputDefense,
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Sensitivity,
)
from leakscope.mechanisms.effects import (
    Answer,
    InputEffect,
    ModelEffect,
    ProtocolEffect,
    UpdateEffect,
    all_yes,
    any_yes,
)
from leakscope.mechanisms.protocols.optimizers import ClientSGD
from leakscope.numerics.trees import Named

UNKNOWN = Answer.UNKNOWN
STEP = 1e-9
"""Of the noise and of the levels: next to nothing."""
ROUNDING = STEP / math.sqrt(12)
Change = Callable[[Named, ls.Key], dict[str, Tensor]]


def noised(update: Named, key: ls.Key) -> dict[str, Tensor]:
    return ls.GaussianNoise(STEP).apply(update, key=key)


def rounded(update: Named, key: ls.Key) -> dict[str, Tensor]:
    return {name: (value / STEP).round() * STEP for name, value in update.items()}


def unchanged(update: Named, key: ls.Key) -> dict[str, Tensor]:
    return dict(update)


def then(first: Callable[[Named], dict[str, Tensor]], second: Change) -> Change:
    return lambda update, key: second(first(update), key)


@final
@dataclass(frozen=True)
class Declared(AbstractUpdateDefense):
    """Somebody's update defense: what it does, what it says of it, and what it says of the size of its noise."""

    change: Change
    said: Callable[[], Any]
    size: Callable[[Tensor], Any]

    @property
    def effect(self) -> UpdateEffect:
        return self.said()  # type: ignore[no-any-return]

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return self.change(update, key)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return self.change(update, ls.Key(0))

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return Sensitivity()

    def event(self, before: Sensitivity) -> None:
        return None

    def noise(self, sent: Tensor) -> float | None:
        return self.size(sent)  # type: ignore[no-any-return]


@final
@dataclass(frozen=True)
class Protocolled(AbstractProtocol):
    """The same as a protocol; its noise is asked for by the number of examples."""

    change: Change
    said: Callable[[], Any]
    size: Callable[[int | None], Any]

    @property
    def effect(self) -> ProtocolEffect:
        return self.said()  # type: ignore[no-any-return]

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return Gradient(self.change(ls.FedSGD().release(target, batch, key=key).by_name, key))

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return Gradient(self.change(ls.FedSGD().replay(target, batch).by_name, ls.Key(0)))

    def as_gradient(self, release: Any) -> Gradient:
        return ls.FedSGD().as_gradient(release)

    def noise(self, examples: int | None) -> float | None:
        return self.size(examples)  # type: ignore[no-any-return]


NONE = UpdateEffect(NO, YES, NO, NO, NO, NO, NO, NO)
"""Nothing but zeros is kept, and nothing of what has a name is done."""
BESIDE = ProtocolEffect(YES, NO, NO, NO, NO, NO, NO, NO, YES, keeps_inputs=YES)


def update(change: Change, size: Callable[[Tensor], Any] | float = STEP, **said: Answer) -> Any:
    asked = size if callable(size) else lambda sent: size
    return ls.FedSGD() >> Declared(change, lambda: dataclasses.replace(NONE, **said), asked)


def protocol(change: Change, size: Callable[[int | None], Any] | float = STEP, **said: Answer) -> Any:
    asked = size if callable(size) else lambda examples: size
    return Protocolled(change, lambda: dataclasses.replace(BESIDE, **said), asked)


LOOSE = {
    # Honest: none of these says a word that is not so.
    "clipped by tensor, rounded": update(then(by_tensor, rounded), ROUNDING, rounds=YES, clips=YES),
    "scaled by tensor, rounded": update(then(doubled, rounded), ROUNDING, rounds=YES),
    "mirrored, rounded": update(then(mirrored, rounded), ROUNDING, rounds=YES, keeps_zeros=NO),
    "clipped by tensor, noised": update(then(by_tensor, noised), clips=YES, keeps_zeros=NO),
    "DPSGD with a clip by tensor": protocol(then(by_tensor, noised), clips=YES),
    "DPSGD of which clips is not known": protocol(then(by_tensor, noised), clips=UNKNOWN),
    # Loose: unbiased beside a change of another kind, or beside nothing.
    "unbiased and clips": update(then(by_tensor, noised), unbiased=YES, clips=YES, keeps_zeros=NO),
    "unbiased and bends": update(then(doubled, noised), unbiased=YES, bends=YES, keeps_zeros=NO),
    "unbiased and signs": update(then(doubled, noised), unbiased=YES, bends=YES, signs=YES, keeps_zeros=NO),
    "unbiased, bends not known": update(then(doubled, noised), unbiased=YES, adds=YES, bends=UNKNOWN),
    "unbiased, signs not known": update(then(doubled, noised), unbiased=YES, adds=YES, signs=UNKNOWN),
    "adds what has no mean of zero": update(then(doubled, noised), adds=YES, keeps_zeros=NO),
    "protocol that bends": protocol(then(doubled, noised), bends=YES),
    "protocol that adds weights": protocol(then(doubled, noised), adds_weights=YES),
    "protocol, nothing else": Protocolled(
        then(doubled, noised),
        lambda: ProtocolEffect(keeps_ratios=NO, unbiased=YES, keeps_inputs=YES),
        lambda examples: STEP,
    ),
    "denies that it only disturbs": update(then(doubled, noised), unbiased=YES, adds=YES, only_disturbs=NO),
    "keeps ratios and adds": update(lambda u, key: doubled(u), lambda sent: None, keeps_ratios=YES, adds=YES),
    "keeps ratios, of a size": update(lambda u, key: doubled(u), keeps_ratios=YES),
    "a sum of gradients, of a size": protocol(lambda u, key: doubled(u), keeps_ratios=YES, keeps_zeros=YES),
    # No effect at all, or one that contradicts itself when it is asked for.
    "bool": Declared(unchanged, lambda: UpdateEffect(keeps_ratios=True), lambda sent: 0.0),  # type: ignore[arg-type]
    "nothing": Declared(unchanged, lambda: None, lambda sent: 0.0),
    "of a protocol": Declared(unchanged, ls.FedSGD().__class__.effect.fget, lambda sent: 0.0),  # type: ignore[attr-defined]
    "contradiction": Declared(unchanged, lambda: UpdateEffect(keeps_ratios=YES, bends=YES), lambda sent: 0.0),
    "raises": Declared(unchanged, lambda: 1 // 0, lambda sent: 0.0),
    "protocol raises": Protocolled(unchanged, lambda: {}["effect"], lambda examples: 0.0),
    "protocol of an update": Protocolled(unchanged, lambda: UpdateEffect(keeps_ratios=YES), lambda examples: 0.0),
}
"""None of these may prove anything, whatever the equations leave."""
LOOSE = {name: ls.FedSGD() >> one if isinstance(one, Declared) else one for name, one in LOOSE.items()}
SIZES: dict[str, Callable[[Any], Any]] = {
    "not declared": lambda asked: None,
    "zero": lambda asked: 0.0,
    "infinite": lambda asked: math.inf,
    "no number": lambda asked: math.nan,
    "negative": lambda asked: -STEP,
    "a truth value": lambda asked: True,
    "a text": lambda asked: "1e-9",
    "raises": lambda asked: [][0],
    "divides by zero": lambda asked: 1 / 0,
}


def partly(bad: Callable[[Any], Any]) -> list[Any]:
    """Noise whose size is declared of what a probe might be, and not of what is there."""
    honest: dict[str, Answer] = {"unbiased": YES, "adds": YES, "keeps_zeros": NO, "only_disturbs": YES}
    return [
        update(then(doubled, noised), lambda sent: STEP if sent.dim() == 1 else bad(sent), **honest),
        update(then(doubled, noised), lambda sent: STEP if sent.numel() == 8 else bad(sent), **honest),
        protocol(then(doubled, noised), lambda examples: STEP if examples == 1 else bad(examples), only_disturbs=YES),
        protocol(then(doubled, noised), lambda examples: STEP if examples == 2 else bad(examples), only_disturbs=YES),
    ]


PROVERS = [row for row in ATTACKS if row.name in EXACT]


def certified(row: Any, mechanism: Any) -> bool:
    attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
    return attempt.certificate is not None and attempt.certificate.holds


@pytest.mark.parametrize("name", LOOSE)
def test_what_is_declared_loosely_proves_nothing(name: str) -> None:
    """No doubt about it, no certificate, and nothing raises, whichever of the attacks that certify looks at it."""
    mechanism = LOOSE[name]
    assert "so nothing is proved" in str(reading.doubt(mechanism))
    for row in PROVERS:
        assert not certified(row, mechanism), row.name


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_the_noise_is_asked_of_the_tensors_that_are_there(name: str) -> None:
    for mechanism in partly(SIZES[name]):
        for row in PROVERS:
            assert not certified(row, mechanism), (row.name, mechanism)


def test_what_a_declaration_raised_is_in_the_sentence() -> None:
    row = next(row for row in ATTACKS if row.name == "WindowedFrames")
    for mechanism, said in (
        (partly(lambda asked: [][0])[0], "raises IndexError: list index out of range, when it is asked for the size"),
        (partly(lambda asked: 1 / 0)[2], "raises ZeroDivisionError: division by zero, when it is asked for the size"),
        (LOOSE["raises"], "raises ZeroDivisionError: integer division or modulo by zero, when it is asked for its eff"),
        (LOOSE["nothing"], "declares an effect that is no UpdateEffect"),
        (LOOSE["contradiction"], "raises BadInput: keeps_ratios=YES contradicts bends=YES"),
        (partly(lambda asked: math.inf)[0], "declares noise of the size inf"),
    ):
        attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
        assert said in attempt.sentence


def test_declared_noise_and_rounding_of_somebody_else_leave_the_proof_to_the_equations() -> None:
    """Else the laws above would be held by doubting everything; all that is proved is right."""
    honest = [
        update(noised, unbiased=YES, adds=YES, keeps_zeros=NO),
        update(noised, unbiased=YES, keeps_zeros=NO, only_disturbs=YES),
        update(rounded, ROUNDING, rounds=YES, only_disturbs=YES),
        protocol(noised, only_disturbs=YES),
    ]
    row = next(row for row in ATTACKS if row.name == "WindowedFrames")
    for mechanism in honest:
        assert reading.doubt(mechanism) is None
        attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
        assert attempt.certificate is not None
        assert attempt.certificate.holds
        assert torch.allclose(attempt.claim.values, private(row).inputs, atol=1e-4)


OWN = [
    ls.FedSGD() >> ls.Clip(1e-2) >> ls.GaussianNoise(STEP), ls.FedSGD() >> ls.LaplaceNoise(STEP),
    ls.FedSGD() >> ls.GaussianNoise(0.0), ls.FedSGD() >> ls.Quantize(16) >> ls.Clip(1.0),
    ls.FedSGD() >> ls.Quantize(16, stochastic=True), ls.DPSGD(clip=1e-2, noise_multiplier=STEP),
    ls.DPSGD(clip=1e-2, noise_multiplier=0.0), ls.FedAvg(1, 0.1, optimizer=ClientSGD(weight_decay=0.1)),
]  # fmt: skip


@pytest.mark.parametrize("mechanism", OWN, ids=repr)
def test_the_mechanisms_of_the_table_say_enough(mechanism: Any) -> None:
    """A clip of whole gradients is one weight per example: what is proved behind it is right."""
    assert reading.doubt(mechanism) is None
    for row in PROVERS:
        attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
        if attempt.certificate is not None and attempt.certificate.holds and isinstance(attempt.claim, ls.Inputs):
            assert torch.allclose(attempt.claim.values, private(row).inputs, atol=1e-3), row.name


CONTRADICTIONS: list[tuple[Any, dict[str, Answer]]] = [
    *[(UpdateEffect, {"keeps_ratios": YES, trait: YES}) for trait in ("bends", "signs", "rounds")],
    *[(UpdateEffect, {"keeps_ratios": YES, trait: NO}) for trait in ("keeps_zeros", "only_disturbs")],
    *[(UpdateEffect, {"adds": YES, trait: YES}) for trait in ("bends", "signs", "rounds", "clips")],
    *[(UpdateEffect, {"only_disturbs": YES, trait: YES}) for trait in ("bends", "signs")],
    *[(one, {"signs": YES, "bends": NO}) for one in (UpdateEffect, ProtocolEffect)],
    *[(ProtocolEffect, {"keeps_ratios": YES, trait: YES}) for trait in ("bends", "signs")],
    *[(ProtocolEffect, {"keeps_ratios": YES, trait: NO}) for trait in ("keeps_zeros", "only_disturbs")],
    *[(ProtocolEffect, {"one_gradient": YES, trait: YES}) for trait in ("bends", "signs", "clips", "adds_weights")],
    *[(ProtocolEffect, {"one_gradient": YES, trait: NO}) for trait in ("known_weights", "keeps_ratios")],
    (InputEffect, {"keeps_inputs": YES, "unbiased": NO}),
    (ModelEffect, {"keeps_model": YES, "drops_units": YES}),
    (ModelEffect, {"keeps_model": YES, "unbiased": NO}),
]


@pytest.mark.parametrize(("kind", "said"), CONTRADICTIONS, ids=repr)
def test_traits_that_contradict_each_other_are_no_declaration(kind: Any, said: dict[str, Answer]) -> None:
    for trait, answer in said.items():
        kind(**{trait: answer})
    with pytest.raises(BadInput, match=r"contradicts .* leave it unknown"):
        kind(**said)


@pytest.mark.parametrize("kind", [UpdateEffect, InputEffect, ModelEffect, ProtocolEffect])
@pytest.mark.parametrize("given", [True, False, "no", None, 1], ids=repr)
def test_a_trait_is_an_answer(kind: Any, given: Any) -> None:
    """A bool that is meant as no would be read as no `Answer.NO`, and as nothing that forbids a proof."""
    for field in dataclasses.fields(kind):
        with pytest.raises(BadInput, match=r"write Answer\.YES"):
            kind(**{field.name: given})
    for read in (all_yes, any_yes):
        with pytest.raises(BadInput, match=r"write Answer\.YES"):
            read([Answer.YES, given])


def test_a_defense_is_of_one_kind() -> None:
    """As two it would act in one place, and be read as if it acted in the other."""

    class Both(AbstractUpdateDefense, AbstractInputDefense):
        pass

    class Other(AbstractUpdateDefense, AbstractModelDefense):
        pass

    for kind in (Both, Other):
        kind.__abstractmethods__ = frozenset()  # type: ignore[misc]
        with pytest.raises(BadInput, match="of several kinds"):
            ls.FedSGD() >> kind()  # type: ignore[operator, abstract]
