"""Whether silence around what was found would have left a trace in the update, by the declared model's own gradient."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.attacks.inputs.frames.window.window_span import Span
from leakscope.attacks.parts.reading.replayed import halfway
from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import known_weights
from leakscope.numerics.rng import Key, normal
from leakscope.numerics.trees import Named
from leakscope.targets.looking.context_window import ContextWindow

Array = NDArray[np.float64]

FAINT = 30.0
"""A trace below so many times what the update holds outside of its span may be missing from it: the errors of CTC are
those tried here but for the share of the classes that were said, and rounding is not the same twice."""
PAIRS = 12
"""So many pairs of utterances are tried as one with a pause; of more, each with the next one only."""


@final
@dataclass(frozen=True, eq=False)
class Counted:
    """The layer whose gradient counted the frames. names: of weight and bias. read: their gradients as a matrix (n, H)
    with rows as those of `span`, which is that of the update's."""

    names: tuple[str, str]
    read: Callable[[Named], Array]
    span: Span

    def outside(self, gradient: Named) -> tuple[float, Array]:
        """The largest singular value outside of the span, and the norm of each column, rows and columns scaled."""
        scaled = self.read(gradient) * self.span.scale[:, None] * self.span.columns
        away = self.span.basis[:, self.span.rank :].T @ scaled
        return float(np.linalg.norm(away, 2)), np.linalg.norm(scaled, axis=0)


def traceless(
    seen: Observation, utterances: Sequence[Array], window: ContextWindow, counted: Counted
) -> Refusal | None:
    """Why there may have been more frames than were found, of which the update holds nothing; None where it would.

    A rank counts the frames that leave a direction x_t delta_t^T. Where the model is sure of what is said, as a trained
    recognizer is of the blank in digital silence, delta_t is zero, and silence before and behind an utterance is in the
    same update as no silence: what is around the found frames is zeros either way. So is a pause between two utterances
    that are one. Each such longer utterance is run here, and has to leave, outside of the span that was sent, what
    rounding does not hide. Its errors at added outputs are the smallest there can be, those of p - y with the likeliest
    class for y. A layer that does not look ahead does not see zeros behind the last frame, and any may have followed:
    then the last and the first one are tried as well. `Lengths`, where told, leave no room for more.
    """
    if seen.knows(Lengths):
        return None
    sent = seen.gradient().by_name
    floor, sizes = counted.outside(sent)
    heard, total = sizes > 0, sum(map(len, utterances))
    # After steps silence has to have left nothing at any of the weights on the way: the first are known.
    middle = [] if known_weights(seen.mechanism) is Answer.YES else [halfway(seen).target]
    for one in (seen.target, *middle):
        target = dataclasses.replace(one, module=copy.deepcopy(one.module).double())

        def trace(frames: Longer, target: Target = target) -> float:
            away, norms = counted.outside(frames.gradient(target, counted.names))
            # To the size of what was sent, of which these frames are a share; as most units say it, for one that is
            # awake in silence alone is scaled by errors that were nearly zero.
            size = np.median(norms[heard] / sizes[heard])
            return float(away / max(size, 1e-300) * (frames.found / total) ** 0.5)

        # Frames that were found to within rounding are themselves outside of the span by as much.
        least = max(floor, *(trace(Longer(frames, 0, 0, "")) for frames in utterances))
        for one_more in longer(utterances, window, joined=not seen.knows(BatchSize)):
            # Not `<=`: a trace that is not finite is none.
            if not trace(one_more) > FAINT * least:
                return Refusal(
                    f"the declared model leaves next to no trace of {one_more.what}, so the utterance may have been "
                    "longer: how many frames there were is not determined"
                )
    return None


@final
@dataclass(frozen=True, eq=False)
class Longer:
    """An utterance that may have been said instead: frames (T, F), of which those from `first` to `last` were added.

    what: these, in words. joined: whether they are between two utterances that were found.
    """

    frames: Array
    first: int
    last: int
    what: str
    joined: bool = False

    @property
    def found(self) -> int:
        """How many were not added."""
        return len(self.frames) - (self.last - self.first)

    def added(self, rows: int) -> slice:
        """Which of a model's rows of outputs are of added frames: none of one that sums up a whole utterance."""
        # fewer rows than frames where it passes over some: then any that an added frame has a part in
        first, last = (place * rows / len(self.frames) for place in (self.first, self.last))
        return slice(math.floor(first), math.ceil(last)) if rows > 1 else slice(0, 0)

    def gradient(self, target: Target, names: tuple[str, str]) -> dict[str, Tensor]:
        """Of these parameters: random errors at found outputs, at added ones p - y with the likeliest class for y."""
        parameters = {name: value.clone().requires_grad_(name in names) for name, value in target.parameters().items()}
        key = Key(0).child("traceless")
        with key.isolated(), quiet(target), torch.enable_grad():
            made = target.outputs(
                parameters, torch.from_numpy(np.ascontiguousarray(self.frames))[None].to(target.device())
            )
            errors = normal(made.detach(), key)
            rows = made.detach().reshape(-1, made.shape[-1])
            place = self.added(len(rows))
            errors.view(rows.shape)[place] = _least(rows[place].softmax(-1))
            slopes = torch.autograd.grad((made * errors).sum(), [parameters[name] for name in names])
        return dict(zip(names, slopes, strict=True))


def _least(rows: Tensor) -> Tensor:
    """p - y for probabilities p (n, C), y the likeliest class."""
    likeliest = torch.nn.functional.one_hot(rows.argmax(-1), rows.shape[-1])
    # p - 1 of a class that is sure is lost in rounding; what the others sum to is not
    others = rows * (1 - likeliest)
    return others - likeliest * others.sum(-1, keepdim=True)


def longer(utterances: Sequence[Array], window: ContextWindow, *, joined: bool) -> Iterator[Longer]:
    """One frame and a window's width of them at each side; joined: and pairs of utterances as one, with a pause."""
    for frames in utterances:
        count = len(frames)
        silence = np.zeros((1, window.features))
        # What is seen beyond the edge is zeros; where nothing is, the next frame may be any.
        behind = [silence] if window.right else [silence, frames[-1:], frames[:1]]
        before = [silence] if window.left else [silence, frames[:1], frames[-1:]]
        for more in (1, window.width):
            for added in behind:
                what = f"{_named(added, more)} behind what was found"
                yield Longer(np.vstack([frames, *[added] * more]), count, count + more, what)
            for added in before:
                yield Longer(np.vstack([*[added] * more, frames]), 0, more, f"{_named(added, more)} before it")
    pairs = list(itertools.permutations(range(len(utterances)), 2)) if joined else []
    if len(pairs) > PAIRS:
        pairs = [(one, (one + 1) % len(utterances)) for one in range(len(utterances))]
    # the shortest that leaves every found window as it is
    more = max(window.left, window.right)
    pause = np.zeros((more, window.features))
    for one, other in pairs:
        start, end = utterances[one], utterances[other]
        what = f"a pause of {more} silent frames between two of them"
        yield Longer(np.vstack([start, pause, end]), len(start), len(start) + more, what, joined=True)


def _named(added: Array, more: int) -> str:
    kind = "silent" if not added.any() else "repeated"
    return f"{more} {kind} frame{'s' if more > 1 else ''}"
