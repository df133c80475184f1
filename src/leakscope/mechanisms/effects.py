"""What a protocol or a defense does to an update, declared beside its code, as far as it is declared at all.

Attacks never ask which defense it is, they ask for these traits (`mechanisms.reading`). Whatever a class does not
declare is unknown, and of what is unknown nothing is proved: a mechanism that somebody else wrote costs certificates
until it says what it keeps, never a false one.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn, final

from leakscope.core.arguments import instance
from leakscope.core.errors import BadInput


@final
class Answer(enum.Enum):
    """Yes, no, or not declared. It has no truth value: `if answer:` would make one of two out of three."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __bool__(self) -> NoReturn:
        # An enum is true by default: `if bends(...)` would hold for NO and UNKNOWN as well.
        raise TypeError("an Answer is yes, no or unknown; compare it: answer is Answer.YES")


def all_yes(answers: Iterable[Answer]) -> Answer:
    """Whether all are yes: one no decides, else one unknown.

    >>> all_yes([Answer.YES, Answer.UNKNOWN, Answer.NO]), all_yes([])
    (<Answer.NO: 'no'>, <Answer.YES: 'yes'>)
    """
    # Kleene's and: whatever the unknown ones turn out to be, one no makes it no. Of none it is yes.
    given = _given(answers)
    return Answer.NO if Answer.NO in given else Answer.UNKNOWN if Answer.UNKNOWN in given else Answer.YES


def any_yes(answers: Iterable[Answer]) -> Answer:
    """Whether one is yes: one yes decides, else one unknown.

    >>> any_yes([Answer.NO, Answer.UNKNOWN]), any_yes([])
    (<Answer.UNKNOWN: 'unknown'>, <Answer.NO: 'no'>)
    """
    # Kleene's or, by the same argument. Of none it is no.
    given = _given(answers)
    return Answer.YES if Answer.YES in given else Answer.UNKNOWN if Answer.UNKNOWN in given else Answer.NO


def _given(answers: Iterable[Answer]) -> set[Answer]:
    """The answers as a set. Raises `BadInput` on anything else, which would count as a yes or as a no."""
    found = list(answers)
    for one in found:
        instance("each answer", one, Answer, ADVICE)
    return set(found)


ADVICE = "write Answer.YES, Answer.NO or Answer.UNKNOWN"
"""What to give in place of a truth value or a text."""


@final
@dataclass(frozen=True)
class UpdateEffect:
    """What an update defense makes of an update u.

    keeps_ratios: it sends one multiple of u. keeps_zeros: what is zero in u is zero in what is sent. bends: entries
    become signs or zeros whatever the rest is, so that ranks have nothing to do with examples. signs: only signs are
    sent, no size is left. rounds: entries go to levels. clips: what is sent may be a multiple of u below one. unbiased:
    its replay is u itself. adds: it adds noise of one law, whatever u is, and does nothing else. keeps_signs: no entry
    is turned around: what is not negative is not sent as negative, nor the other way round. only_disturbs: what is
    sent is one multiple of u but for noise of mean zero or rounding, of the size that `noise` says; no tensor and no
    entry is treated otherwise. Raises `BadInput` on what is no `Answer`, and on traits that contradict each other.

    >>> UpdateEffect(keeps_ratios=Answer.YES, signs=Answer.YES)
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: keeps_ratios=YES contradicts signs=YES; declare what is so for every update, or \
leave it unknown
    """

    # No default but unknown: whoever forgets a trait loses certificates, and gains no false one.
    keeps_ratios: Answer = Answer.UNKNOWN
    keeps_zeros: Answer = Answer.UNKNOWN
    bends: Answer = Answer.UNKNOWN
    signs: Answer = Answer.UNKNOWN
    rounds: Answer = Answer.UNKNOWN
    clips: Answer = Answer.UNKNOWN
    unbiased: Answer = Answer.UNKNOWN
    adds: Answer = Answer.UNKNOWN
    keeps_signs: Answer = Answer.UNKNOWN
    only_disturbs: Answer = Answer.UNKNOWN

    def __post_init__(self) -> None:
        _checked(self)
        # One multiple of u has no other signs and no levels, and its zeros are those of u.
        _excludes(
            self, "keeps_ratios", yes=("bends", "signs", "rounds"), no=("keeps_zeros", "keeps_signs", "only_disturbs")
        )
        _excludes(self, "adds", yes=("bends", "signs", "rounds", "clips"))
        _excludes(self, "only_disturbs", yes=("bends", "signs"))
        _excludes(self, "signs", no=("bends",))


@final
@dataclass(frozen=True)
class InputEffect:
    """What an input defense makes of a batch. keeps_inputs: the client trains on the private inputs and labels
    themselves. unbiased: its replay is the batch itself.
    """

    keeps_inputs: Answer = Answer.UNKNOWN
    unbiased: Answer = Answer.UNKNOWN

    def __post_init__(self) -> None:
        _checked(self)
        _excludes(self, "keeps_inputs", no=("unbiased",))


@final
@dataclass(frozen=True)
class ModelEffect:
    """What a model defense makes of the model. keeps_model: the client runs it as the adversary does. drops_units: what
    differs is that units of dropout layers are multiplied by zero or by a constant. unbiased: its replay is the model.
    """

    keeps_model: Answer = Answer.UNKNOWN
    drops_units: Answer = Answer.UNKNOWN
    unbiased: Answer = Answer.UNKNOWN

    def __post_init__(self) -> None:
        _checked(self)
        _excludes(self, "keeps_model", yes=("drops_units",), no=("unbiased",))


@final
@dataclass(frozen=True)
class ProtocolEffect:
    """What a protocol makes of the examples' gradients.

    known_weights: all of them are at the weights that the adversary knows. one_gradient: it sends their mean, and
    nothing else. keeps_ratios: a weighted sum of gradients of the
    examples, without anything added. keeps_zeros: what is zero in all of them is zero in what is sent. clips: an
    example's gradient may be shortened. unbiased: what is added to that sum, if anything, is noise of mean zero.
    adds_weights: a public multiple of the known weights is added, as by weight decay; what is said of ratios and zeros
    is so once it is taken off, which a defense behind it may prevent. bends, signs: as of `UpdateEffect`.
    only_disturbs: it sends such a sum, but for noise of mean zero of the size that `noise` says: each example has one
    weight for all tensors, as a clip of its whole gradient gives it, and a clip tensor by tensor does not.
    keeps_inputs: the examples are the private inputs with their own labels, and not what the protocol made of them
    (mixed, augmented, labels that were moved or drawn). What an input defense does is that one's to declare.
    Raises `BadInput` as `UpdateEffect`.
    """

    known_weights: Answer = Answer.UNKNOWN
    one_gradient: Answer = Answer.UNKNOWN
    keeps_ratios: Answer = Answer.UNKNOWN
    keeps_zeros: Answer = Answer.UNKNOWN
    clips: Answer = Answer.UNKNOWN
    adds_weights: Answer = Answer.UNKNOWN
    bends: Answer = Answer.UNKNOWN
    signs: Answer = Answer.UNKNOWN
    unbiased: Answer = Answer.UNKNOWN
    only_disturbs: Answer = Answer.UNKNOWN
    keeps_inputs: Answer = Answer.UNKNOWN

    def __post_init__(self) -> None:
        _checked(self)
        _excludes(self, "keeps_ratios", yes=("bends", "signs"), no=("only_disturbs",))
        if self.adds_weights is not Answer.YES:
            # With decay what was zero is rounding, of what is added and taken off again.
            _excludes(self, "keeps_ratios", no=("keeps_zeros",))
        _excludes(
            self, "one_gradient", yes=("bends", "signs", "clips", "adds_weights"), no=("known_weights", "keeps_ratios")
        )
        _excludes(self, "only_disturbs", yes=("bends", "signs"))
        _excludes(self, "signs", no=("bends",))


Effect = UpdateEffect | InputEffect | ModelEffect | ProtocolEffect


def _checked(effect: Effect) -> None:
    """Raises `BadInput` unless all traits are answers: a bool meant as no, or a text, would be read as neither."""
    for field in dataclasses.fields(effect):
        instance(field.name, getattr(effect, field.name), Answer, ADVICE)


def _excludes(effect: Effect, trait: str, *, yes: tuple[str, ...] = (), no: tuple[str, ...] = ()) -> None:
    """Raises `BadInput` where `trait` is a yes beside a yes, or a no, that it cannot stand beside."""
    if getattr(effect, trait) is not Answer.YES:
        return
    for wrong, others in ((Answer.YES, yes), (Answer.NO, no)):
        for other in others:
            if getattr(effect, other) is wrong:
                raise BadInput(
                    f"{trait}=YES contradicts {other}={wrong.name}; declare what is so for every update, or leave it "
                    "unknown"
                )
