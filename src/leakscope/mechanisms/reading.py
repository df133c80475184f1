"""What an adversary reads off a mechanism: how much noise an update counts as, and traits that are yes, no or unknown.

The one place where a mechanism is taken apart. Attacks ask here and never which defense it is, so that a new one costs
no attack a line: it declares its effect beside its own code (`mechanisms.effects`). Whatever is not declared is
unknown, and `doubt` turns that into the sentence with which an exact attack withholds its certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from leakscope.core.asking import asking, unit_of
from leakscope.core.errors import UnusableMechanism
from leakscope.core.facts import BatchSize
from leakscope.core.mechanism import AbstractMechanism, AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.mechanisms.compose import (
    AbstractDefense,
    AbstractInputDefense,
    AbstractModelDefense,
    AbstractProtocol,
    AbstractUpdateDefense,
    Cells,
    Defended,
    Sensitivity,
    protocol_of,
)
from leakscope.mechanisms.declared import Declares, asked, effect_complaint, effect_of, size_of
from leakscope.mechanisms.effects import (
    Answer,
    InputEffect,
    ModelEffect,
    ProtocolEffect,
    UpdateEffect,
    all_yes,
    any_yes,
)
from leakscope.mechanisms.running import models
from leakscope.numerics import trees
from leakscope.numerics.trees import Named


def keeps_ratios(mechanism: AbstractMechanism) -> Answer:
    """Whether the update is a multiple of a weighted sum of the examples' gradients, with nothing added or bent.

    >>> from leakscope import Clip, FedSGD, Sign
    >>> keeps_ratios(FedSGD() >> Clip(1.0)), keeps_ratios(FedSGD() >> Sign())
    (<Answer.YES: 'yes'>, <Answer.NO: 'no'>)
    """
    # A chain keeps what each of its links keeps; input and model defenses change what is summed, not the sum.
    protocol = _protocol(mechanism)
    # What decay added is taken off a release that is the protocol's own; behind a defense its share is not known.
    changed = any(isinstance(one, AbstractUpdateDefense) for one in _defenses(mechanism))
    own = [protocol.keeps_ratios, *([_not(protocol.adds_weights)] if changed else [])]
    return all_yes([*own, *(one.keeps_ratios for one in _updates(mechanism))])


def keeps_inputs(mechanism: AbstractMechanism) -> Answer:
    """Whether the client trains on the private inputs themselves, with their own labels."""
    # A closed box may change inputs where we do not look: its list of defenses is empty because it shows none.
    own = (_protocol(mechanism).keeps_inputs, *(() if _known(mechanism) else (Answer.UNKNOWN,)))
    inputs = (one for one in _defenses(mechanism) if isinstance(one, AbstractInputDefense))
    return all_yes([*own, *(effect_of(one, InputEffect).keeps_inputs for one in inputs)])


def keeps_model(mechanism: AbstractMechanism) -> Answer:
    """Whether the client runs the model as the adversary does."""
    own = () if _known(mechanism) else (Answer.UNKNOWN,)
    return all_yes([*own, *(effect_of(one, ModelEffect).keeps_model for one in models(mechanism))])


def drops_units(mechanism: AbstractMechanism) -> Answer:
    """Whether the client's dropout layers drop, which the adversary runs without."""
    own = () if _known(mechanism) else (Answer.UNKNOWN,)
    return any_yes([*own, *(effect_of(one, ModelEffect).drops_units for one in models(mechanism))])


def runs_layers(mechanism: AbstractMechanism) -> Answer:
    """Whether the client runs the model's own functions: as the adversary does, or with dropout layers that drop.

    >>> from leakscope import Dropout, FedSGD
    >>> runs_layers(FedSGD() >> Dropout(0.5)), keeps_model(FedSGD() >> Dropout(0.5))
    (<Answer.YES: 'yes'>, <Answer.NO: 'no'>)
    """
    own = () if _known(mechanism) else (Answer.UNKNOWN,)
    effects = [effect_of(one, ModelEffect) for one in models(mechanism)]
    # What is neither is another model, whatever else it declares.
    return all_yes([*own, *(any_yes([one.keeps_model, one.drops_units]) for one in effects)])


def keeps_zeros(mechanism: AbstractMechanism) -> Answer:
    """Whether what is zero in every example's gradient is zero in the release, for certain.

    >>> from leakscope import FedSGD, GaussianNoise, Sign
    >>> keeps_zeros(FedSGD() >> Sign()), keeps_zeros(FedSGD() >> GaussianNoise(0.1) >> Sign())
    (<Answer.YES: 'yes'>, <Answer.NO: 'no'>)
    """
    # All links, since noise anywhere fills zeros: a sign taken after it makes 1 or -1 of them.
    return all_yes([_protocol(mechanism).keeps_zeros, *(one.keeps_zeros for one in _updates(mechanism))])


def keeps_signs(mechanism: AbstractMechanism) -> Answer:
    """Whether no entry of a weighted sum of the examples' gradients is turned around on its way to the release.

    >>> from leakscope import FedSGD, GaussianNoise, Sign
    >>> keeps_signs(FedSGD() >> Sign()), keeps_signs(FedSGD() >> GaussianNoise(0.1))
    (<Answer.YES: 'yes'>, <Answer.NO: 'no'>)
    """
    # What a protocol adds may turn an entry; what it only sums keeps the sign that all summands have.
    protocol = _protocol(mechanism)
    own = [protocol.keeps_ratios, _not(protocol.adds_weights)]
    return all_yes([*own, *(one.keeps_signs for one in _updates(mechanism))])


def known_weights(mechanism: AbstractMechanism) -> Answer:
    """Whether all gradients in the update are at the weights that the adversary knows: one local step at most.

    >>> from leakscope import FedAvg, FedSGD
    >>> known_weights(FedAvg(steps=1, lr=0.1)), known_weights(FedAvg(steps=2, lr=0.1))
    (<Answer.YES: 'yes'>, <Answer.NO: 'no'>)
    """
    return _protocol(mechanism).known_weights


def evenly(seen: Observation, count: int | None = None) -> Answer:
    """Whether the told examples, or `count` of them, are in the update equally often, so that each has the share 1/N.

    NO of a client that takes fewer than it has, or some twice; UNKNOWN where that is not declared or no count was told.
    """
    protocol = protocol_of(seen.mechanism)
    count = seen.told(BatchSize).count if count is None and seen.knows(BatchSize) else count
    if not isinstance(protocol, AbstractProtocol) or count is None:
        return Answer.UNKNOWN
    found, _ = asked(lambda: protocol.evenly(count))
    return found if isinstance(found, Answer) else Answer.UNKNOWN


def one_gradient(mechanism: AbstractMechanism) -> Answer:
    """Whether the protocol sends the mean gradient at the known weights, whatever defenses follow."""
    return _protocol(mechanism).one_gradient


def bends(mechanism: AbstractMechanism) -> Answer:
    """Whether entries become signs or zeros, which is no noise: ranks have nothing to do with examples then."""
    # One link that bends is enough: none after it can unbend.
    return any_yes([_protocol(mechanism).bends, *(one.bends for one in _updates(mechanism))])


def signs(mechanism: AbstractMechanism) -> Answer:
    """Whether entries are replaced by signs: no size is left to compare."""
    return any_yes([_protocol(mechanism).signs, *(one.signs for one in _updates(mechanism))])


def rounds(mechanism: AbstractMechanism) -> Answer:
    """Whether entries are rounded to levels."""
    return any_yes(one.rounds for one in _updates(mechanism))


def clipped(seen: Observation) -> Answer:
    """Whether the release may be a multiple below one of the true update: a clip that may have been in force.

    A lone clip whose bound the release does not reach was not: what it scales has that norm exactly. (A thousandth of
    slack for rounding.)
    """
    mechanism = seen.mechanism
    updates = [one for one in _defenses(mechanism) if isinstance(one, AbstractUpdateDefense)]
    answer = any_yes([_protocol(mechanism).clips, *(one.clips for one in _updates(mechanism))])
    # Any other step before or behind a clip changes the norm, and the test by the bound says nothing.
    if answer is not Answer.YES or len(updates) != 1 or _protocol(mechanism).clips is not Answer.NO:
        return answer
    # Of a partial release the norm is less than that of the whole, which is what was clipped.
    if seen.target.parameters().keys() - seen.release.by_name.keys():
        return answer
    # Of an unbounded update: what comes out is the clip's own bound, in its own order.
    bound, _ = asked(lambda: updates[0].sensitivity(Sensitivity()))
    if not isinstance(bound, Sensitivity):
        return answer
    # A bound of order 1 is one of order 2 as well, so order 1 is asked first.
    order, most = next(((p, b) for p, b in ((1, bound.l1), (2, bound.l2)) if _is_bound(b)), (2, None))
    # A clip that names no bound may have been in force whatever the norm is.
    if most is None:
        return answer
    # u min(1, C / |u|) has the norm C where it was scaled and less where it was not.
    return Answer.YES if float(trees.norm(seen.release.by_name, order)) > 0.999 * most else Answer.NO


def replayed_as_protocol(mechanism: AbstractMechanism, *, up_to_scale: bool = False) -> Answer:
    """Whether the replay is that of the protocol alone, since what the defenses do has mean zero or is off.

    up_to_scale: a common factor counts as nothing, for a distance that is blind to it.
    """
    if not _known(mechanism):
        return Answer.UNKNOWN
    # Each link by itself: the mean of a chain is taken step by step, as `Defended.replay` does.
    return all_yes(_unbiased(one, up_to_scale=up_to_scale) for one in _defenses(mechanism))


def noise(seen: Observation, name: str) -> float | None:
    """The standard deviation of what the mechanism adds to one tensor, in units of the gradient; 0 where nothing is.

    Rounding to levels counts as noise of the same variance. None where it is not declared.
    """
    mechanism, sent = seen.mechanism, seen.release.by_name[name]
    if not isinstance(mechanism, AbstractStep) or not _known(mechanism):
        return None
    # DPSGD divides its noise by the batch, so its size per entry depends on a fact.
    examples = seen.told(BatchSize).count if seen.knows(BatchSize) else None
    protocol = protocol_of(mechanism)
    asks: list[Callable[[], float | None]] = []
    if isinstance(protocol, AbstractProtocol):
        asks.append(lambda: protocol.noise(examples))
    asks += [_size(one, sent) for one in _defenses(mechanism) if isinstance(one, AbstractUpdateDefense)]
    parts = [size_of(ask)[0] for ask in asks]
    # One undeclared part makes the sum unknown: to leave it out would be to call it 0.
    if any(part is None for part in parts):
        return None
    # independent draws: variances add
    return math.sqrt(math.fsum(part**2 for part in parts if part is not None)) * unit_of(mechanism, seen.release, name)


def cells(seen: Observation) -> Cells | None:
    """The intervals in which the entries of the release lay before the last defense; None where there are none.

    None too where an earlier defense bends or rounds: the interval would be around what that one left.
    """
    mechanism = seen.mechanism
    if not acts_as(mechanism, Defended):
        return None
    *earlier, last = mechanism.defenses
    # What the last defense was given; its cells are intervals around that and nothing else.
    before = Defended(mechanism.protocol, tuple(earlier)) if earlier else mechanism.protocol
    # Chained `is`: both are NO. Unknown is no NO.
    if not (bends(before) is rounds(before) is Answer.NO) or not isinstance(last, AbstractUpdateDefense):
        return None
    with asking(last, "say between which values entries lay"):
        found: object = last.cells(seen.release.by_name)
    if found is None:
        return None
    sides = found if isinstance(found, tuple) and len(found) == 2 else ()
    if not sides or not all(_of_release(side, seen) for side in sides):
        raise UnusableMechanism(
            f"{last!r} cannot say between which values entries lay: expected two values for each that was sent, got "
            f"{type(found).__name__}"
        )
    return cast(Cells, found)


def _of_release(side: object, seen: Observation) -> bool:
    """Whether it has a number for each entry of the release."""
    sent = seen.release.by_name
    if not isinstance(side, Mapping) or not sent.keys() <= side.keys():
        return False
    return all(
        isinstance(side[name], torch.Tensor)
        and side[name].shape == value.shape
        and side[name].is_floating_point()
        and not bool(side[name].isnan().any())
        for name, value in sent.items()
    )


def _is_bound(given: object) -> bool:
    """Whether it is a finite number >= 0, as far as somebody else's code says."""
    return isinstance(given, int | float) and math.isfinite(given) and given >= 0


BATCHES = (1, 2, 1000)
"""Of how many examples a protocol is asked for the size of its noise, beside what was told."""


def doubt(
    mechanism: AbstractMechanism, sent: Named | None = None, *, examples: tuple[int, ...] = BATCHES
) -> str | None:
    """Why nothing about private inputs can be proved from what this mechanism sends; None where nothing speaks against.

    An undeclared effect is a doubt. So is a batch that the client changed: what is proved then is what it trained on.
    So is a change of entries that is declared, unless all that is changed is noise of mean zero or rounding
    (`only_disturbs`), whose size is declared too: of what else was done to them no equation of an attack knows. So is a
    model that was run in another way, unless that is a dropout, whose draws the attacks allow for.
    sent: the tensors that the size is asked of; without them, some of any shape. examples: the same of a protocol.
    """
    protocol = protocol_of(mechanism)
    if isinstance(protocol, AbstractProtocol):
        why = effect_complaint(protocol, ProtocolEffect)
        if why is not None:
            return f"{protocol!r} {why}, so nothing is proved"
    if isinstance(mechanism, Defended) and not acts_as(mechanism, Defended):
        return f"{mechanism!r} is a {type(mechanism).__name__}, which does something else than >>, so nothing is proved"
    if not _known(mechanism):
        return f"{mechanism!r} declares nothing of what it does to an update, so nothing is proved"
    assert isinstance(protocol, AbstractProtocol)  # what is none declares nothing
    why = _uneven(protocol, examples) or _more_than_noise(protocol, examples)
    if why is not None:
        return f"{protocol!r} {why}, so nothing is proved"
    for one in _defenses(mechanism):
        why = _undescribed(one, PROBES if sent is None else list(sent.values()))
        if why is not None:
            return f"{one!r} {why}, so nothing is proved"
    # A gradient of labels that were moved is a gradient all the same, and proves the moved ones.
    if effect_of(protocol, ProtocolEffect).keeps_inputs is not Answer.YES:
        return (
            f"{protocol!r} does not declare that it trains on the private inputs and labels themselves (keeps_inputs), "
            "so nothing is proved"
        )
    # Equations hold for what was trained on: an exact solution would prove the noised inputs.
    if keeps_inputs(mechanism) is not Answer.YES:
        return f"the client trained on inputs that {mechanism!r} had changed, so nothing is proved of the private ones"
    return None


PROBES = [torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8).reshape(2, 4)]
"""What a defense is asked for the size of its noise on, where no update is there: a vector and a matrix."""


EFFECTS = {
    AbstractInputDefense: InputEffect,
    AbstractModelDefense: ModelEffect,
    AbstractUpdateDefense: UpdateEffect,
}
"""What each kind of defense declares."""


def _undescribed(one: AbstractDefense, sent: list[torch.Tensor]) -> str | None:
    """What a defense leaves open of what it does to an update or to the model; inputs are asked for as a whole."""
    kind = next((effect for base, effect in EFFECTS.items() if isinstance(one, base)), None)
    if kind is None:
        return "is no defense of a known kind"
    # Each kind of defense has an effect, of its own type, which their common base does not know.
    why = effect_complaint(cast(Declares[Any], one), kind)
    if why is not None:
        return why
    if isinstance(one, AbstractUpdateDefense):
        effect = effect_of(one, UpdateEffect)
        if effect.keeps_ratios is Answer.UNKNOWN:
            return "does not declare what it does to an update"
        return _undisturbed(one, effect, sent)
    if isinstance(one, AbstractModelDefense):
        run = effect_of(one, ModelEffect)
        if run.keeps_model is Answer.UNKNOWN:
            return "does not declare what it does to the model"
        if run.keeps_model is Answer.NO and run.drops_units is not Answer.YES:
            return "runs the model in a way that it does not declare"
    return None


def _undisturbed(one: AbstractUpdateDefense, effect: UpdateEffect, sent: list[torch.Tensor]) -> str | None:
    """Why what it does beyond scaling may be more than noise or rounding of a declared size; None where it is not."""
    scales = effect.keeps_ratios is Answer.YES
    # Noise of one law and mean zero that does nothing else disturbs only; for rounding there is no such pair of traits.
    adds = effect.adds is effect.unbiased is Answer.YES
    only = effect.only_disturbs is Answer.YES or (adds and effect.only_disturbs is not Answer.NO)
    if not scales and not (only and effect.bends is effect.signs is Answer.NO):
        return "changes entries of the update otherwise than by noise or rounding of a declared size"
    for value in sent:
        if not value.numel():
            continue
        size, wrong = size_of(_size(one, value))
        if wrong is not None:
            return wrong
        # Rounding leaves a tensor of zeros as it is.
        still = effect.rounds is Answer.YES and not bool((value != 0).any())
        if not scales and (size is None or not (size > 0 or still)):
            # Zero would say that entries change, and that nothing was added to them.
            return "changes entries of the update otherwise than by noise or rounding of a declared size"
        # Undeclared is the default of what adds nothing; noise that is added has to be of the size zero.
        if scales and (bool(size) or (size is None and effect.adds is Answer.YES)):
            return "declares both that it only scales the update and that it adds to it"
    return None


def _uneven(protocol: AbstractProtocol, examples: tuple[int, ...]) -> str | None:
    """Why it cannot be said how often each example is taken: an answer that fails is no silence."""
    for count in examples:
        found, raised = asked(_evenly(protocol, count))
        if raised is not None:
            return f"{raised}, when it is asked how often it takes each of {count} examples"
        if not isinstance(found, Answer):
            return f"says {found!r} and no Answer, when it is asked how often it takes each of {count} examples"
    return None


def _more_than_noise(protocol: AbstractProtocol, examples: tuple[int, ...]) -> str | None:
    """Why a protocol may send more than a sum of gradients and noise of a size that it declares; None where not."""
    effect = effect_of(protocol, ProtocolEffect)
    answers = [size_of(_noise(protocol, count)) for count in examples]
    for _, wrong in answers:
        if wrong is not None:
            return wrong
    sizes = [size for size, _ in answers]
    if effect.keeps_ratios is Answer.YES:
        # Undeclared is the default, of a protocol that adds nothing.
        return "declares both a mere sum of gradients and noise" if any(sizes) else None
    only = effect.only_disturbs is Answer.YES and effect.bends is effect.signs is effect.adds_weights is Answer.NO
    if only and all(size is not None and size > 0 for size in sizes):
        return None
    return "sends more than a sum of gradients and noise of a declared size"


def _size(one: AbstractUpdateDefense, sent: torch.Tensor) -> Callable[[], float | None]:
    return lambda: one.noise(sent)


def _evenly(protocol: AbstractProtocol, examples: int) -> Callable[[], object]:
    return lambda: protocol.evenly(examples)


def _noise(protocol: AbstractProtocol, examples: int) -> Callable[[], float | None]:
    return lambda: protocol.noise(examples)


def _known(mechanism: AbstractMechanism) -> bool:
    """Whether protocol and defenses are taken apart below; a mechanism of another build is a closed box."""
    # It stands for the whole declaration: without it there is no proof (`doubt`), whatever else is declared.
    return _protocol(mechanism).keeps_ratios is not Answer.UNKNOWN


def _protocol(mechanism: AbstractMechanism) -> ProtocolEffect:
    protocol = protocol_of(mechanism)
    # ProtocolEffect() is unknown throughout.
    return effect_of(protocol, ProtocolEffect) if isinstance(protocol, AbstractProtocol) else ProtocolEffect()


def _not(answer: Answer) -> Answer:
    return {Answer.YES: Answer.NO, Answer.NO: Answer.YES}.get(answer, Answer.UNKNOWN)


def _defenses(mechanism: AbstractMechanism) -> tuple[AbstractDefense, ...]:
    return mechanism.defenses if acts_as(mechanism, Defended) else ()


def _updates(mechanism: AbstractMechanism) -> list[UpdateEffect]:
    """The effects of the update defenses, in their order; one unknown effect of a mechanism of another build."""
    own = [] if _known(mechanism) else [UpdateEffect()]
    updates = [one for one in _defenses(mechanism) if isinstance(one, AbstractUpdateDefense)]
    return own + [effect_of(one, UpdateEffect) for one in updates]


def _unbiased(defense: AbstractDefense, *, up_to_scale: bool) -> Answer:
    if isinstance(defense, AbstractUpdateDefense):
        effect = effect_of(defense, UpdateEffect)
        # What only scales the update is nothing to a distance that divides the scale out.
        return Answer.YES if up_to_scale and effect.keeps_ratios is Answer.YES else effect.unbiased
    if isinstance(defense, AbstractInputDefense):
        return effect_of(defense, InputEffect).unbiased
    return effect_of(defense, ModelEffect).unbiased if isinstance(defense, AbstractModelDefense) else Answer.UNKNOWN
