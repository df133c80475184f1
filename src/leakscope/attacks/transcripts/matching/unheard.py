"""What stands for the speech while pieces are searched: contexts, what the output layer is fed, or the frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.facts import Lengths
from leakscope.core.observation import Observation
from leakscope.numerics.rng import Key, normal
from leakscope.targets.zoo.listen_attend_spell import Listener, Speller

SILENCE = 80
"""Frames of noise by which the size of a listener's states is taken: they hardly depend on what is heard."""


@final
@dataclass(frozen=True, eq=False)
class Recognizer:
    """The known model, on the CPU. end: the output that ends a sentence and begins one. frames, width: (T, F) of the
    utterance; T is 0 where no length was told. spread: standard deviation of the listener's states."""

    listener: Listener
    speller: Speller
    end: int
    frames: int
    width: int
    spread: float

    def fed(self, pieces: Tensor) -> Tensor:
        """(R, n, C) distributions over the outputs to (R, n + 1, E) what the decoder is given: the end, then these."""
        table = self.speller.embedding.weight
        return torch.cat([table[self.end].expand(len(pieces), 1, -1), pieces @ table], 1)


def spread_of(listener: Listener, width: int, key: Key) -> float:
    """The standard deviation of a listener's states over frames of standard normal noise, at least 1e-6."""
    noise = normal(torch.empty(1, SILENCE, width), key)
    with torch.no_grad():
        states, _ = listener(noise, torch.tensor([SILENCE]))
    return max(float(states.std()), 1e-6)


class AbstractUnheard(ABC):
    """What a search over pieces leaves free besides them. The output layer's inputs follow from both."""

    @property
    def ordered(self) -> bool:
        """Whether the gradient depends on the order of the pieces."""
        return True

    def refusal(self, seen: Observation) -> str | None:
        """What has to be told besides; None where nothing has."""
        del seen
        return None

    @abstractmethod
    def start(self, model: Recognizer, shape: tuple[int, int], key: Key) -> Tensor:
        """Where `shape[0]` restarts begin, for sentences of `shape[1]` pieces, the end among them."""

    @abstractmethod
    def inputs(self, model: Recognizer, free: Tensor, pieces: Tensor) -> Tensor:
        """(R, N, d) of the output layer, from what is free and (R, N - 1, C) distributions of the pieces."""


@final
@dataclass(frozen=True)
class AttentionContexts(AbstractUnheard):
    """c_i of every step, (N, 2 hidden), as free numbers: r_i = decoder(pieces, c_1 .. c_(i-1)), h_i = [r_i ; c_i].

    Begins at one draw for all steps, as large as the listener's states over noise: attention that moves little is where
    matching is needed, and draws that differ from step to step end at wrong orders more often. Published otherwise:
    a standard normal draw for each step.

    >>> AttentionContexts()
    AttentionContexts()
    """

    def start(self, model: Recognizer, shape: tuple[int, int], key: Key) -> Tensor:
        """(R, N, 2 hidden), in units of the listener's states."""
        restarts, count = shape
        return normal(torch.empty(restarts, 1, model.speller.context), key).repeat(1, count, 1)

    def inputs(self, model: Recognizer, free: Tensor, pieces: Tensor) -> Tensor:
        """The decoder is run on the contexts as they are."""
        contexts, fed = free * model.spread, model.fed(pieces)
        before, memory = model.speller.start(fed)
        found = []
        for x, context in zip(fed.unbind(1), contexts.unbind(1), strict=True):
            reached, memory = model.speller.fed(x, before, memory)
            before = context
            found.append(torch.cat([reached, context], 1))
        return torch.stack(found, 1)


@final
@dataclass(frozen=True)
class SoftmaxInputs(AbstractUnheard):
    """h_i of every step, (N, decoded + 2 hidden), as free numbers. dL/dW is a sum over steps and has no order then.

    The least that is known of the model: its output layer. Which pieces and how often is all that is found.

    >>> SoftmaxInputs().ordered
    False
    """

    @property
    def ordered(self) -> bool:
        """False."""
        return False

    def start(self, model: Recognizer, shape: tuple[int, int], key: Key) -> Tensor:
        """(R, N, d), in units of the listener's states."""
        return normal(torch.empty(*shape, model.speller.output.in_features), key)

    def inputs(self, model: Recognizer, free: Tensor, pieces: Tensor) -> Tensor:
        """As they are."""
        del pieces
        return free * model.spread


@final
@dataclass(frozen=True)
class SpeechFrames(AbstractUnheard):
    """The frames (T, F) themselves, through the whole recognizer; T has to be told (`Lengths`).

    >>> SpeechFrames()
    SpeechFrames()
    """

    def refusal(self, seen: Observation) -> str | None:
        """Nobody knows how many frames there are but who was told."""
        if not seen.knows(Lengths):
            return "needs to be told Lengths to search the frames of an utterance"
        return None if len(seen.told(Lengths).values) == 1 else "searches one utterance, and was told several Lengths"

    def start(self, model: Recognizer, shape: tuple[int, int], key: Key) -> Tensor:
        """(R, T, F), standard normal."""
        return normal(torch.empty(shape[0], model.frames, model.width), key)

    def inputs(self, model: Recognizer, free: Tensor, pieces: Tensor) -> Tensor:
        """Listened to, then attended to step by step."""
        fed, speller = model.fed(pieces), model.speller
        states, real = model.listener(free, torch.full((len(free),), model.frames))
        keys = speller.keys(states)
        context, memory = speller.start(fed)
        found = []
        for x in fed.unbind(1):
            reached, memory = speller.fed(x, context, memory)
            context = speller.attended(reached, keys, states, real)
            found.append(torch.cat([reached, context], 1))
        return torch.stack(found, 1)
