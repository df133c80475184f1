"""Unknown means no proof; what an attack does not read is refused with a sentence. Crossed with every attack."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from tests.laws.test_attacks import ATTACKS, built, facts, net, observed, private
from torch import Tensor, nn

import leakscope as ls
from leakscope.cli.names import Family, Trait, rows
from leakscope.core.mechanism import AbstractMechanism, AbstractReplayable, AbstractStep
from leakscope.core.refusal import Refusal
from leakscope.core.release import Gradient, Weights
from leakscope.core.rounds import Round
from leakscope.mechanisms import reading
from leakscope.mechanisms.compose import (
    AbstractInputDefense,
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Sensitivity,
)
from leakscope.mechanisms.effects import Answer, InputEffect, ModelEffect, ProtocolEffect, UpdateEffect
from leakscope.numerics.trees import Named

EXACT = {"LinearLayer", "LowRank", "Recursive", "FirstAttention", "LabelSigns", "EmbeddingSpan", "WindowedFrames"}
EXACT |= {"LongFrames", "CtcTranscript", "RevealedLabels"}
"""The attacks that certify; those that prove something here, under a mechanism that is known, are counted below."""


@final
@dataclass(frozen=True)
class Elsewhere(AbstractStep):
    """A step by somebody else's code: the gradient, without a word on what it is."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return ls.FedSGD().release(target, batch, key=key)

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release: Any) -> Gradient:
        return ls.FedSGD().as_gradient(release)

    def event(self, *, rounds: int = 1) -> Any:
        return ls.FedSGD().event(rounds=rounds)

    @property
    def undefended(self) -> AbstractMechanism:
        return self


@final
@dataclass(frozen=True)
class Silent(AbstractProtocol):
    """A protocol that declares nothing."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return ls.FedSGD().release(target, batch, key=key)

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release: Any) -> Gradient:
        return ls.FedSGD().as_gradient(release)


@final
@dataclass(frozen=True)
class Softly(AbstractUpdateDefense):
    """tanh(1000 u): all but signs, which agree with each other to the last digit."""

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return {name: torch.tanh(1000 * value) for name, value in update.items()}

    def replay(self, update: Named) -> dict[str, Tensor]:
        return {name: torch.tanh(1000 * value) for name, value in update.items()}

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return Sensitivity()

    def event(self, before: Sensitivity) -> None:
        return None


@final
@dataclass(frozen=True)
class Untouched(AbstractUpdateDefense):
    """Does nothing, and does not say so."""

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return dict(update)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return dict(update)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return before

    def event(self, before: Sensitivity) -> None:
        return None


@final
@dataclass(frozen=True)
class Shifted(AbstractInputDefense):
    """Trains on other inputs."""

    def apply(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> ls.Batch:
        return batch if batch.holds_tokens else batch.with_inputs(0.5 * batch.inputs)

    def replay(self, target: ls.Target, batch: ls.Batch) -> ls.Batch:
        return batch


@final
@dataclass(frozen=True)
class Otherwise(AbstractModelDefense):
    """Runs the model in some other way."""

    def apply(self, target: ls.Target) -> ls.Target:
        return target

    def replay(self, target: ls.Target) -> ls.Target:
        return target


UNKNOWN = [
    Elsewhere(), Silent(), ls.FedSGD() >> Softly(), ls.FedSGD() >> Untouched(), ls.FedSGD() >> Shifted(),
    ls.FedSGD() >> Otherwise(), ls.FedAvg(1, 0.1) >> Untouched(), ls.FedSGD() >> ls.InputNoise(0.1),
]  # fmt: skip


@pytest.mark.parametrize("mechanism", UNKNOWN, ids=repr)
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_an_unknown_mechanism_gets_no_certificate(row: Any, mechanism: Any) -> None:
    if "InputNoise" in repr(mechanism) and private(row).holds_tokens:
        return
    attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=12))
    assert attempt.certificate is None or attempt.outcome is not ls.Outcome.CLAIMED


def test_the_same_attacks_do_certify_where_the_mechanism_is_known() -> None:
    """Else the law above could not fail."""
    proved = set()
    for row in ATTACKS:
        if row.name in EXACT:
            attempt = built(row).run(observed(row, ls.FedSGD()), key=ls.Key(1))
            if attempt.certificate is not None and attempt.certificate.holds:
                proved.add(row.name)
    assert len(proved) >= 5, proved


def test_what_is_not_proved_is_said_with_its_reason() -> None:
    row = next(row for row in ATTACKS if row.name == "WindowedFrames")
    attempt = built(row).run(observed(row, ls.FedSGD() >> Untouched()), key=ls.Key(1))
    assert "Untouched() does not declare" in attempt.sentence


def by_tensor(update: Named) -> dict[str, Tensor]:
    """Each tensor clipped to a norm of 0.1 by itself: an honest, common defense."""
    return {name: value * (0.1 / (value.norm() + 1e-12)).clamp(max=1.0) for name, value in update.items()}


def mirrored(update: Named) -> dict[str, Tensor]:
    """The columns of matrices in the reverse order: of every input, the reverse."""
    return {name: value.flip(-1) if value.dim() > 1 else value for name, value in update.items()}


def doubled(update: Named) -> dict[str, Tensor]:
    """Biases with twice the step."""
    return {name: value * (2.0 if value.dim() == 1 else 1.0) for name, value in update.items()}


@final
@dataclass(frozen=True)
class Changed(AbstractUpdateDefense):
    """An update defense with a declaration."""

    change: Callable[[Named], dict[str, Tensor]]
    declared: UpdateEffect
    size: float | None = None

    @property
    def effect(self) -> UpdateEffect:
        return self.declared

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        return self.change(update)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return self.change(update)

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return Sensitivity()

    def event(self, before: Sensitivity) -> None:
        return None

    def noise(self, sent: Tensor) -> float | None:
        return self.size


@final
@dataclass(frozen=True)
class Stepping(AbstractProtocol):
    """A protocol with a declaration, whose biases take steps of twice the size."""

    declared: ProtocolEffect
    size: float | None = None

    @property
    def effect(self) -> ProtocolEffect:
        return self.declared

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return Gradient(doubled(ls.FedSGD().release(target, batch, key=key).by_name))

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return Gradient(doubled(ls.FedSGD().replay(target, batch).by_name))

    def as_gradient(self, release: Any) -> Gradient:
        return ls.FedSGD().as_gradient(release)

    def noise(self, examples: int | None) -> float | None:
        return self.size


@final
@dataclass(frozen=True)
class Halving(AbstractModelDefense):
    """The client's copy of the model halves what it is given."""

    declared: ModelEffect

    @property
    def effect(self) -> ModelEffect:
        return self.declared

    def apply(self, target: ls.Target) -> ls.Target:
        module = copy.deepcopy(target.module)
        module.register_forward_pre_hook(half)
        return dataclasses.replace(target, module=module)

    def replay(self, target: ls.Target) -> ls.Target:
        return target


def half(module: Any, given: Any) -> Any:
    return (0.5 * given[0], *given[1:]) if given[0].is_floating_point() else None


@final
@dataclass(frozen=True)
class Dimmed(AbstractInputDefense):
    """The client trains on inputs of half the size."""

    declared: InputEffect

    @property
    def effect(self) -> InputEffect:
        return self.declared

    def apply(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> ls.Batch:
        return batch if batch.holds_tokens else batch.with_inputs(0.5 * batch.inputs)

    def replay(self, target: ls.Target, batch: ls.Batch) -> ls.Batch:
        return self.apply(target, batch, key=ls.Key(0))


YES, NO = Answer.YES, Answer.NO
CLIPPED = UpdateEffect(NO, YES, NO, NO, NO, YES, NO)
MIRRORED = UpdateEffect(NO, NO, NO, NO, NO, NO, NO)
STEPS = ProtocolEffect(YES, NO, NO, YES, NO, NO, keeps_inputs=YES)
"""What is so: of a clip by tensor, of mirrored columns, and of doubled biases."""


def with_one_no(truth: Any) -> Iterator[tuple[Any, float | None]]:
    """Every single trait declared as no, beside nothing and beside the truth, and the noise that is declared.

    That nothing was added is a declaration too, and explains as little.
    """
    for field in dataclasses.fields(truth):
        yield dataclasses.replace(type(truth)(), **{field.name: NO}), None
        yield dataclasses.replace(truth, **{field.name: NO}), 0.0


def partly_declared() -> list[AbstractMechanism]:
    plain, found = ls.FedSGD(), list[AbstractMechanism]()
    for change, truth in ((by_tensor, CLIPPED), (mirrored, MIRRORED)):
        found += [plain >> Changed(change, *said) for said in with_one_no(truth)]
    found += [Stepping(*said) for said in with_one_no(STEPS)]
    found += [plain >> Halving(effect) for effect, _ in with_one_no(ModelEffect(NO, NO, NO))]
    found += [plain >> Dimmed(effect) for effect, _ in with_one_no(InputEffect(NO, YES))]
    return list(dict.fromkeys(found))


PARTLY = partly_declared()


@pytest.mark.parametrize("row", [row for row in ATTACKS if row.name in EXACT], ids=lambda row: row.name)
def test_what_is_partly_declared_proves_no_more_than_what_is_not(row: Any) -> None:
    """No certificate that holds on a mechanism that breaks what the equations assume, whichever trait it denies."""
    for mechanism in PARTLY:
        attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
        assert attempt.certificate is None or not attempt.certificate.holds, mechanism
        assert reading.doubt(mechanism) is not None, mechanism


@final
@dataclass(frozen=True)
class Relabeling(AbstractProtocol):
    """The mean gradient of examples whose labels were moved by one, or whose inputs were turned upside down."""

    declared: ProtocolEffect
    labels: bool = True

    @property
    def effect(self) -> ProtocolEffect:
        return self.declared

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Gradient:
        return ls.FedSGD().release(target, self.changed(target, batch), key=key)

    def replay(self, target: ls.Target, batch: ls.Batch) -> Gradient:
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release: Any) -> Gradient:
        return ls.FedSGD().as_gradient(release)

    def changed(self, target: ls.Target, batch: ls.Batch) -> ls.Batch:
        if not self.labels:
            return batch if batch.holds_tokens else batch.with_inputs(batch.inputs.flip(-1))
        if batch.labels.dim() > 1:
            return dataclasses.replace(batch, labels=batch.labels.flip(1))
        return dataclasses.replace(batch, labels=(batch.labels + 1) % target.classes)


PLAINLY = ls.FedSGD().effect
"""All that is so of a mean gradient; a protocol that moves labels can say the rest without a lie."""


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("row", [row for row in ATTACKS if row.name in EXACT], ids=lambda row: row.name)
def test_a_protocol_that_does_not_keep_the_examples_proves_nothing_of_them(row: Any, labels: bool) -> None:
    """Whatever else it declares; where it says that it keeps them it is believed, or the law could not fail."""
    said = [dataclasses.replace(PLAINLY, keeps_inputs=one) for one in (Answer.UNKNOWN, NO)]
    said.append(ProtocolEffect(keeps_ratios=YES))
    for effect in said:
        mechanism = Relabeling(effect, labels)
        attempt = built(row).run(observed(row, mechanism), key=ls.Key(1), budget=ls.Budget(evaluations=8))
        assert attempt.certificate is None or not attempt.certificate.holds, mechanism
        assert "keeps_inputs" in str(reading.doubt(mechanism))
        assert reading.keeps_inputs(mechanism) is not YES
    assert reading.doubt(Relabeling(PLAINLY, labels)) is None


def test_noise_and_rounding_of_a_declared_size_leave_the_proof_to_the_equations() -> None:
    """And dropout, whose draws the attacks allow for: the law above is not held by doubting everything."""
    for defense in (ls.GaussianNoise(1e-3), ls.LaplaceNoise(1e-3), ls.Quantize(8), ls.Clip(1.0), ls.Dropout(0.1)):
        assert reading.doubt(ls.FedSGD() >> defense) is None
    assert reading.doubt(ls.DPSGD(clip=1.0, noise_multiplier=0.1)) is None
    for defense in (ls.Sign(), ls.Prune(0.5), ls.RandomDrop(0.5)):
        assert "otherwise than by noise" in str(reading.doubt(ls.FedSGD() >> defense))


@final
@dataclass(frozen=True)
class Released(AbstractMechanism):
    """A trained model, of whose course nothing is known."""

    def release(self, target: ls.Target, batch: ls.Batch, *, key: ls.Key) -> Weights:
        return Weights(target.parameters())

    def event(self, *, rounds: int = 1) -> Any:
        return ls.FedSGD().event(rounds=rounds)

    @property
    def undefended(self) -> AbstractMechanism:
        return self


@pytest.mark.parametrize("mechanism", [Released(), ls.FedSGD(), ls.FedAvg(2, 0.1) >> ls.Clip(1.0)], ids=repr)
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_released_weights_are_refused_with_a_sentence(row: Any, mechanism: Any) -> None:
    target = net(row)
    seen = ls.Observation(target, Weights(target.parameters()), mechanism, tuple(facts(row)))
    refusal = built(row).refusal(seen)
    assert refusal is not None
    assert "Weights" in refusal.sentence
    assert built(row).run(seen, key=ls.Key(1)).outcome is ls.Outcome.REFUSED


def test_the_attacks_that_read_released_weights_are_named() -> None:
    """Nobody else does: the law above is crossed with all others."""
    reading = {row.name for row in rows(Family.ATTACKS) if Trait.READS_WEIGHTS in row.traits}
    assert reading == {"HeadFeatures", "HeadImages", "HeadMembership", "HeadReconstructor"}
    assert all(built(row).reads == {Weights} for row in rows(Family.ATTACKS) if row.name in reading)
    assert not any(Weights in built(row).reads for row in ATTACKS)


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_several_rounds_are_refused_by_whoever_reads_one(row: Any) -> None:
    one = observed(row, ls.FedSGD())
    rounds = (Round(3, one.release, one.target.parameters()), Round(7, one.release))
    seen = ls.Observation(one.target, rounds, one.mechanism, one.facts)
    refusal = built(row).refusal(seen)
    assert refusal is not None
    assert "2" in refusal.sentence
    assert "each" in refusal.sentence


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_a_gradient_of_an_unreadable_mechanism_is_refused(row: Any) -> None:
    """A gradient beside a mechanism whose release is declared to be none."""
    seen = observed(row, ls.FedSGD())
    refusal = built(row).refusal(ls.Observation(seen.target, seen.release, Released(), seen.facts))
    assert refusal is not None
    assert "read as a gradient" in refusal.sentence


@pytest.mark.parametrize("kind", ["empty", "foreign", "one"])
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_no_refusal_raises(row: Any, kind: str) -> None:
    """Whatever a release lacks, asking whether an attack applies gives an answer."""
    seen = observed(row, ls.FedSGD())
    named = dict(seen.release.by_name)
    names = {"empty": {}, "foreign": {"not.a.layer": torch.ones(3)}, "one": dict(list(named.items())[:1])}[kind]
    if not names:
        names = {name: torch.zeros_like(value) for name, value in named.items()}
    found = built(row).refusal(ls.Observation(seen.target, Gradient(names), seen.mechanism, seen.facts))
    assert found is None or isinstance(found, Refusal)


def test_an_answer_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match="compare it"):
        bool(Answer.UNKNOWN)


def test_unknown_is_read_as_unknown_and_never_as_no() -> None:
    for mechanism in UNKNOWN[:2]:
        traits = (reading.keeps_ratios, reading.keeps_inputs, reading.keeps_model, reading.keeps_zeros)
        traits += (reading.bends, reading.signs, reading.rounds, reading.one_gradient, reading.known_weights)
        assert {trait(mechanism) for trait in traits} == {Answer.UNKNOWN}
        assert reading.replayed_as_protocol(mechanism) is Answer.UNKNOWN
    assert UpdateEffect() == UpdateEffect(*[Answer.UNKNOWN] * 7)
    assert isinstance(Elsewhere(), AbstractReplayable)


def test_a_certain_no_outweighs_what_is_unknown() -> None:
    mixed = ls.FedSGD() >> Untouched() >> ls.Sign()
    assert reading.keeps_ratios(mixed) is Answer.NO
    assert reading.signs(mixed) is Answer.YES
    assert reading.rounds(mixed) is Answer.UNKNOWN


def test_a_part_of_a_clipped_update_is_not_read_as_unclipped() -> None:
    """The norm of a part says nothing of whether the whole had reached the bound."""
    target = ls.MLP((16,)).build(ls.Images(1, 4, 4), 3, key=ls.Key(0))
    batch = ls.Batch(torch.rand(1, 1, 4, 4, generator=ls.Key(1).generator()), torch.tensor([0]))
    for norm, wanted in ((1e-3, Answer.YES), (1e3, Answer.NO)):
        seen = ls.observe(target, batch, ls.FedSGD() >> ls.Clip(norm), key=ls.Key(2))
        assert reading.clipped(seen) is wanted
        part = dict(list(seen.release.by_name.items())[-1:])
        assert reading.clipped(ls.Observation(target, Gradient(part), seen.mechanism)) is Answer.YES


class Moved(ls.FedSGD):  # type: ignore[misc]
    """Moves every label by one, and inherits what FedSGD says of itself."""

    def release(self, target, batch, *, key):
        return super().release(target, dataclasses.replace(batch, labels=(batch.labels + 1) % target.classes), key=key)


@final
@dataclass(frozen=True)
class Rolled(AbstractUpdateDefense):
    """Moves the rows of the output layer by one class, and says nothing but that signs stay."""

    @property
    def effect(self) -> UpdateEffect:
        return UpdateEffect(keeps_signs=Answer.YES)

    def apply(self, update: Named, *, key: ls.Key) -> dict[str, Tensor]:
        del key
        return self.replay(update)

    def replay(self, update: Named) -> dict[str, Tensor]:
        return {name: value.roll(1, 0) if name.startswith("3.") else value for name, value in update.items()}

    def sensitivity(self, before: Sensitivity) -> Sensitivity:
        return before

    def event(self, before: Sensitivity) -> None:
        return None


@pytest.mark.parametrize("mechanism", [Moved(), ls.FedSGD() >> Rolled()], ids=["inherits", "keeps signs, it says"])
@pytest.mark.parametrize("attack", [ls.RevealedLabels(), ls.RevealedLabels(weights=False), ls.LabelSigns()], ids=repr)
def test_what_speaks_of_other_code_or_of_signs_alone_proves_no_labels(mechanism, attack):
    with ls.Key(0).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24))
    target = ls.Target(net, ls.Images(1, 8, 8), 24)
    batch = ls.Batch(torch.rand(1, 1, 8, 8, generator=ls.Key(1).generator()), torch.tensor([4]))
    seen = ls.observe(target, batch, mechanism, key=ls.Key(0), tell=[ls.BatchSize(1)])
    assert not attack.run(seen, key=ls.Key(1)).certified
