"""The contract of every attack: read or refuse, seed, time, attempt, classify."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast, final

import torch

from leakscope.attacks.failing import Heard, failed, is_theirs
from leakscope.core.arguments import instance
from leakscope.core.asking import gradient_of
from leakscope.core.attempt import Attempt, ClaimT, Cost, Outcome
from leakscope.core.effort import AbstractCheckpoint, Budget, Clock, Watch, unwatched
from leakscope.core.errors import BadState, LeakscopeError, LostLease, MissingExtra, UnusableMechanism, first_line
from leakscope.core.facts import BatchSize, Fact, Lengths, TrueLabels, TrueTranscripts
from leakscope.core.mechanism import AbstractReplayable, AbstractStep
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.release import AbstractRelease, Delta, Gradient
from leakscope.core.rounds import Round
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.running import unfit
from leakscope.mechanisms.state import without_buffers
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named

ReadT = TypeVar("ReadT")
REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""What an update can be computed in; of narrower types torch cannot even say which values are finite."""
READABLE = REAL | {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool}
"""What may stand under names of no parameter, as buffers and counters do."""
MOST_EXAMPLES = 2**20
"""Told examples beyond which nothing is attacked: counts, candidates and labels are made for each of them."""
MOST_FRAMES = 2**22
"""Told frames, utterances padded to the longest, beyond which nothing is: half a day of speech."""
MOST_NUMBERS = 2**27
"""Numbers of one input beyond which nothing is: half a gigabyte, for each candidate."""
LARGEST = 1e100
"""What no entry of an update reaches: squares of larger ones are infinite, in float64 and half way through a sum."""


@final
class Asks(enum.Enum):
    """What an attack asks of the mechanism: that a release is a gradient in disguise, a replay, or nothing."""

    GRADIENT = "gradient"
    REPLAY = "replay"
    NOTHING = "nothing"


class AbstractAttack(ABC, Generic[ReadT, ClaimT]):
    """A small value: frozen, printable, repeatable. `run` is final and owns what all attacks share.

    ReadT: what the attack reads off an observation before it works, such as its layers; None where there is nothing.
    needs: the facts without which the attack refuses. reads: the kinds of release that it understands. asks: what the
    mechanism has to be for it. several: whether it reads more than one round.
    """

    needs: ClassVar[frozenset[type[Fact]]] = frozenset()
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Gradient, Delta})
    asks: ClassVar[Asks] = Asks.GRADIENT
    several: ClassVar[bool] = False

    @property
    @abstractmethod
    def citation(self) -> str:
        """BibTeX of the sources, printed by the report; empty when there is none."""

    @abstractmethod
    def _read(self, seen: Observation) -> ReadT | Refusal:
        """What the attack works on, or why it does not apply to `seen`, beyond what the base class checks.

        A layer that the model lacks may be left to raise `NoSuchLayer`, whose sentence becomes the refusal.
        """

    @abstractmethod
    def _attempt(self, seen: Observation, read: ReadT, *, key: Key, clock: Clock, watch: Watch) -> Attempt[ClaimT]:
        """The attack itself. Draws only from `key`, stops when `clock` says so, never changes `seen`."""

    @property
    def remaining(self) -> Attack[Any] | None:
        """What a defense may leave of it, undefended the control of what it does there; None for an attack of one way.

        One that solves undefended and searches behind a defense would otherwise be shown to work by what is closed
        there: a search that finds nothing anywhere would clear the defense. Of attacks around attacks the inner ones'.
        """
        return cast("Attack[Any] | None", _within(self))

    @final
    def ready(self, seen: Observation) -> Ready[ClaimT] | Refusal:
        """The attack with what it has read, or why it does not apply: nothing is read twice.

        Models, domains and mechanisms are somebody else's code, which an attack runs to read them. Whatever is raised
        there is a refusal that says so.
        """
        instance("seen", seen, Observation, "attacks see an observation, not data; make one with observe(...)")
        try:
            refusal = self._unfit(seen)
            if refusal is not None:
                return refusal
            # Once for all attacks: running statistics in an update are no update, and say something by themselves.
            seen = without_buffers(seen)
            read = self._read(seen)
        # A sentence that was written for who reads it.
        except LeakscopeError as error:
            return Refusal(str(error))
        # All of it, as in `core.asking`. The sentence keeps it apart from "does not apply", which nobody knows here.
        except Exception as error:  # noqa: BLE001
            return Refusal(f"reading the observation failed with {first_line(error)}; nothing is known of it here")
        return read if isinstance(read, Refusal) else Ready(self, seen, read)

    @final
    def refusal(self, seen: Observation) -> Refusal | None:
        """A dry run: None when the attack applies, otherwise what is missing, in a sentence."""
        found = self.ready(seen)
        return found if isinstance(found, Refusal) else None

    @final
    def within(self, seen: Observation, *, key: Key, clock: Clock, watch: Watch = unwatched) -> Attempt[ClaimT]:
        """For attacks around attacks: under a clock that runs, with its checkpoint, drawing from `key` itself."""
        found = self.ready(seen)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence)
        # The key as it is: which one is handed on is for the attack around it to decide.
        return found.within(key=key, clock=clock, watch=watch)

    @final
    def run(
        self,
        seen: Observation,
        *,
        key: Key,
        budget: Budget | None = None,
        watch: Watch = unwatched,
        checkpoint: AbstractCheckpoint | None = None,
    ) -> Attempt[ClaimT]:
        """Attack `seen` within `budget`. Numerical failure is an outcome of the attempt, not an exception.

        Ctrl-C ends a search early with the best claim so far and the outcome INTERRUPTED. With a checkpoint, a search
        that was killed or interrupted goes on where it was saved last, and ends as if it had never stopped (unless it
        is the seconds that end it). Raises `BadInput` when the checkpoint is that of another attack, observation or
        key.
        """
        instance("key", key, Key, "write key=Key(0)")
        if budget is not None:
            instance("budget", budget, Budget, "write Budget(seconds=60) or Budget(evaluations=1000)")
        # Before anything is read: reading is paid for as well.
        clock = (budget or Budget()).start()
        found = self.ready(seen)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence, cost=Cost(clock.spent()))
        return found.run(key=key, clock=clock, watch=watch, checkpoint=checkpoint)

    @final
    def _unfit(self, seen: Observation) -> Refusal | None:
        """What no attack of this kind can do, asked once for all: of the facts, the releases and the mechanism."""
        # From what costs nothing to what reads every number: the first reason is the one that is said.
        missing = sorted(kind.__name__ for kind in self.needs if not seen.knows(kind))
        if missing:
            told = ", ".join(type(fact).__name__ for fact in seen.facts) or "nothing"
            return Refusal(f"needs to be told {' and '.join(missing)}; told: {told}")
        # Never silently the first of several: the claim would be about another release than the reader thinks.
        if len(seen.rounds) > 1 and not self.several:
            return Refusal(f"reads one round, the observation has {len(seen.rounds)}; give it one of `seen.each()`")
        # Of any round, since an observation holds one kind.
        kind = type(seen.rounds[0].release)
        if kind not in self.reads:
            wanted = " or ".join(sorted(one.__name__ for one in self.reads))
            return Refusal(f"reads a {wanted}, the release is {kind.__name__}")
        # Asked by type: a mechanism that is no step has no `as_gradient` to try.
        if self.asks is Asks.GRADIENT and not isinstance(seen.mechanism, AbstractStep):
            return Refusal(f"what {seen.mechanism!r} releases cannot be read as a gradient")
        if self.asks is Asks.REPLAY and not isinstance(seen.mechanism, AbstractReplayable):
            return Refusal(f"the course of {seen.mechanism!r} is not known, so it cannot be repeated on a candidate")
        odd = _alike(seen.target) or _shapeless(seen.target) or _boundless(seen) or _misshapen(seen) or _untrue(seen)
        odd = odd or unfit(seen.mechanism, seen.target)
        if odd is not None:
            return Refusal(odd)
        # One NaN would go through every sum below, and come out as a claim or as nothing, without a reason.
        finite = all(trees.finite(one.release.by_name) for one in seen.rounds)
        if self.asks is not Asks.NOTHING and isinstance(seen.mechanism, AbstractStep):
            for one in seen.rounds:
                why = _unreadable(seen.mechanism, one, seen.target, finite=finite)
                if why is not None:
                    return Refusal(why)
        if not finite:
            return Refusal("the release holds values that are not finite")
        size = max(_largest(one.release.by_name) for one in seen.rounds)
        return None if size < LARGEST else Refusal(f"the release holds values of {size:.0e}, which no update has")

    @final
    def _owner(self, seen: Observation, key: Key) -> str:
        """The hash of all that decides what a search does; the budget decides only when it ends."""
        # A frozen value prints all of its fields, so its repr is what it does.
        return hashlib.blake2b(repr((self, seen.fingerprint(), key)).encode(), digest_size=16).hexdigest()


def _left(value: Any) -> Any:
    """What defenses leave of attacks in a value, however deep (`Claimed(Auto())` is a start); None for all of it."""
    if isinstance(value, AbstractAttack):
        return value.remaining
    if isinstance(value, tuple) and type(value) is tuple:
        parts = [_left(one) for one in value]
        changed = any(part is not None for part in parts)
        return tuple(b if a is None else a for a, b in zip(parts, value, strict=True)) if changed else None
    return _within(value)


def _within(value: Any) -> Any:
    """The same of the fields of a dataclass."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return None
    parts = {field.name: _left(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    changed = {name: part for name, part in parts.items() if part is not None}
    return dataclasses.replace(value, **changed) if changed else None


def _largest(update: Named) -> float:
    """The size of the largest real entry; infinite ones do not count, as they are told apart."""
    sizes = [value.abs() for value in update.values() if value.numel() and value.is_floating_point()]
    return max((float(size[torch.isfinite(size)].max()) for size in sizes if torch.isfinite(size).any()), default=0.0)


def _unreadable(mechanism: AbstractStep, one: Round, target: Target, *, finite: bool) -> str | None:
    """Why the release of one round cannot be read as a gradient; None where it can. finite: the release is."""
    try:
        # A change of weights beside a protocol that sends gradients is neither: the mechanism says so itself.
        gradient = gradient_of(mechanism, one.release, one.weights or target.parameters())
    # Or it is somebody else's, which was not written for what this release lacks or holds besides.
    except UnusableMechanism as error:
        return str(error)
    if finite and _largest(gradient.by_name) >= LARGEST > _largest(one.release.by_name):
        return (
            f"read as a gradient by {mechanism!r}, the release holds values beyond {LARGEST:.0e}; check the step size"
        )
    # A change of weights is divided by the step: short numbers overflow.
    if finite and gradient.by_name is not one.release.by_name and not trees.finite(gradient.by_name):
        kinds = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in gradient.by_name.values()}))
        return (
            f"read as a gradient by {mechanism!r}, the release holds values that are not finite in {kinds}; check the "
            "step size, or give the update in a wider type"
        )
    return None


def _alike(target: Target) -> str | None:
    """Why a model with one output under a cross entropy teaches nothing: softmax of one logit is one, p - y is zero."""
    if target.classes >= 2 or not acts_as(target.loss, CrossEntropy):
        return None
    return (
        f"{target.name} has {target.classes} class under a cross entropy, whose gradient is zero whatever the batch; "
        "declare the loss that it is trained with, such as SquaredError()"
    )


def _shapeless(target: Target) -> str | None:
    """Why what the domain calls the shape of an input is none, or is too large for any model; None where it is one."""
    shape: object = target.domain.shape
    sizes = list(shape) if isinstance(shape, tuple | list) else [None]
    whole = [one for one in sizes if isinstance(one, int) and not isinstance(one, bool) and one >= 1]
    if len(whole) < len(sizes):
        return f"the domain says that an input has the shape {shape!r}, expected whole numbers >= 1"
    # First of all: candidates are made of that size, and a machine that runs out of memory says nothing any more.
    if math.prod(whole) > MOST_NUMBERS:
        return f"the domain says that an input has {math.prod(whole):.0e} numbers, at most {MOST_NUMBERS} are attacked"
    return None


def _boundless(seen: Observation) -> str | None:
    """Which told number is beyond what any attack works on; None where none is. First: much is made of that size."""
    counts = {
        type(fact).__name__: len(fact.values) for fact in seen.facts if isinstance(fact, TrueLabels | TrueTranscripts)
    }
    if seen.knows(BatchSize):
        counts["BatchSize"] = seen.told(BatchSize).count
    for name, count in counts.items():
        if count > MOST_EXAMPLES:
            return f"was told {count} examples ({name}), at most {MOST_EXAMPLES} are attacked; tell what is true"
    lengths = seen.told(Lengths).values if seen.knows(Lengths) else ()
    # In one tensor each utterance is as long as the longest.
    frames = len(lengths) * max(lengths, default=0)
    if frames > MOST_FRAMES:
        return (
            f"was told {len(lengths)} utterances of up to {max(lengths)} frames, at most {MOST_FRAMES} frames together "
            "are attacked; tell what is true"
        )
    return None


def _untrue(seen: Observation) -> str | None:
    """Which told facts cannot be true of any batch, since they contradict the model or each other; None where all may.

    An attack that is told what is no class, or more labels than examples, would fail on it half way.
    """
    labels = seen.told(TrueLabels).values if seen.knows(TrueLabels) else ()
    said = seen.told(TrueTranscripts).values if seen.knows(TrueTranscripts) else ()
    classes = seen.target.classes
    for label in (*labels, *(label for one in said for label in one)):
        if label >= classes:
            return f"was told the label {label}, but the model has the classes 0 to {classes - 1}; tell what is true"
    lengths = seen.told(Lengths).values if seen.knows(Lengths) else ()
    # Of several rounds, each has a batch of its own.
    if seen.knows(BatchSize) and len(seen.rounds) == 1:
        count = seen.told(BatchSize).count
        for given, what in ((labels, "labels"), (said, "transcripts"), (lengths, "lengths")):
            if given and len(given) != count:
                return f"was told {len(given)} {what} and BatchSize({count}); tell what is true"
    return None


def _misshapen(seen: Observation) -> str | None:
    """Which tensor of a release cannot be what was computed for the parameter of its name; None where all can.

    Foreign names are each attack's business: an update may hold buffers, and be of a part of the model.
    """
    parameters = seen.target.parameters()
    for one in seen.rounds:
        for name, value in one.release.by_name.items():
            # Of neither kind can even be asked whether it is finite.
            if value.is_meta:
                return f"the release holds no numbers under {name!r}, only a shape (a meta tensor)"
            if name not in parameters and value.dtype in READABLE:
                continue
            if value.dtype not in REAL:
                return f"the release holds {value.dtype} under {name!r}; an update is real floating point numbers"
            if value.shape != parameters[name].shape:
                return (
                    f"the release holds {tuple(value.shape)} under {name!r}, whose parameter has "
                    f"{tuple(parameters[name].shape)}; it is of another model"
                )
    return None


@final
@dataclass(frozen=True, eq=False)
class Ready(Generic[ClaimT]):
    """An attack that applies to an observation, with what it read of it."""

    attack: AbstractAttack[Any, ClaimT]
    seen: Observation
    read: Any

    def within(self, *, key: Key, clock: Clock, watch: Watch = unwatched) -> Attempt[ClaimT]:
        """As `AbstractAttack.within`; DIVERGED, with a sentence, where a stranger's code or numbers fail half way."""
        attempt, _ = self._ended(key=key, clock=clock, watch=watch)
        return attempt

    def run(
        self, *, key: Key, clock: Clock, watch: Watch = unwatched, checkpoint: AbstractCheckpoint | None = None
    ) -> Attempt[ClaimT]:
        """As `AbstractAttack.run`, from a clock that has started."""
        if checkpoint is not None:
            # First whose state it is, then what it says: another search's seconds are not ours.
            checkpoint.open(self.attack._owner(self.seen, key))
            clock = clock.kept(checkpoint)
        # By the class: two attacks under one key of a trial draw apart.
        attempt, ended = self._ended(key=key.child(type(self.attack).__name__), clock=clock, watch=watch)
        # Interrupted, or out of memory: somebody may want to go on.
        if checkpoint is not None and ended:
            checkpoint.close()
        return dataclasses.replace(attempt, cost=Cost(clock.spent(), attempt.cost.evaluations))

    def _ended(self, *, key: Key, clock: Clock, watch: Watch) -> tuple[Attempt[ClaimT], bool]:
        """The attempt, and whether it came to its own end."""
        # Searches ask whether anybody watches, and compute less where nobody does.
        watch = watch if watch is unwatched else Heard(watch)
        try:
            attempt = self.attack._attempt(self.seen, self.read, key=key, clock=clock, watch=watch)
        # These somebody has to put right, and the attack can be run again: nothing is known of the observation.
        except (BadState, LostLease, MissingExtra):
            raise
        # A sentence that was written for who reads it.
        except LeakscopeError as error:
            return Attempt(repr(self.attack), Outcome.DIVERGED, str(error)), True
        # A stranger's code raises kinds of its own. A bug of ours must be seen, and a full disk put right: they pass.
        except Exception as error:
            if not is_theirs(error, type(self.attack).__module__):
                raise
            return failed(self.attack, error), False
        return attempt, attempt.outcome is not Outcome.INTERRUPTED


Attack = AbstractAttack[Any, ClaimT]
"""An attack as others see it, by its claim alone: `Attack[Inputs]`."""
