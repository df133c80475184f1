"""Listen, attend and spell: convolutions, bidirectional LSTMs, and a decoder that attends to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.target import Target
from leakscope.domains.speech import BANDS, bands_of
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture
from leakscope.targets.spelling import NextPiece, PiecesSoFar, Spelling, WordPieces
from leakscope.targets.zoo.deepspeech import LSTM

MIDDLE, SPREAD = -1.0, 2.0
"""Mean and standard deviation of the log-mel of speech, in nepers; fixed, so that no utterance depends on another."""

State = tuple[tuple[Tensor, Tensor], ...]


@final
class Listener(nn.Module):
    """Two convolutions with stride 2 over time and bands, then LSTM layers in both directions.

    Between LSTM layers a dense layer, LayerNorm and a ReLU; none after the last. The original has batch normalization
    there and after the convolutions: its statistics would mix the utterances of a batch, and an update would no longer
    be that of its utterances, so each frame is normalized by itself. What lies beyond an utterance's end is zero
    everywhere, so that an utterance is heard in a batch as it is alone.
    """

    def __init__(self, recipe: ListenAttendSpell) -> None:
        nn.Module.__init__(self)
        channels, hidden = recipe.channels, recipe.hidden
        self.conv_1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        heard = channels * _halved(_halved(BANDS))
        widths = [heard] + [2 * hidden] * (recipe.layers - 1)
        self.forwards = nn.ModuleList(LSTM(width, hidden) for width in widths)
        self.backwards = nn.ModuleList(LSTM(width, hidden) for width in widths)
        self.projections = nn.ModuleList(nn.Linear(2 * hidden, 2 * hidden) for _ in widths[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(2 * hidden) for _ in widths[1:])

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, F) to states (B, ceil(T / 4), 2 hidden), and which of them are real (B, ceil(T / 4))."""
        heard = ((bands_of(frames) - MIDDLE) / SPREAD * _real(lengths, frames.shape[1])[..., None]).unsqueeze(1)
        for layer in (self.conv_1, self.conv_2):
            lengths = (lengths + 1) // 2
            heard = torch.relu(layer(heard))
            # the bias alone would be heard beyond the end, and by the next layer within
            heard = heard * _real(lengths, heard.shape[2])[:, None, :, None]
        real = _real(lengths, heard.shape[2])
        states = heard.transpose(1, 2).flatten(2)
        last = len(self.forwards) - 1
        for place, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            # the other direction begins at the utterance's own end, not at that of the longest
            both = [ahead(states), turned(back(turned(states, lengths)), lengths)]
            states = torch.cat(both, 2) * real[..., None]
            if place < last:
                states = torch.relu(self.norms[place](self.projections[place](states))) * real[..., None]
        return states, real > 0


def _halved(size: int) -> int:
    return (size + 1) // 2


def _real(lengths: Tensor, size: int) -> Tensor:
    """(B, size) float, 1 before the end."""
    inside = torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
    return inside.to(torch.get_default_dtype())


def turned(states: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (T, F) of (B, T, F) backward within its length; what lies beyond means nothing.

    >>> turned(torch.tensor([[[1.0], [2.0], [0.0]]]), torch.tensor([2])).flatten().tolist()[:2]
    [2.0, 1.0]
    """
    steps = torch.arange(states.shape[1], device=states.device)
    index = (lengths.unsqueeze(1) - 1 - steps).clamp(min=0)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[2]))


@final
class Cell(nn.Module):
    """One step of the LSTM of `zoo.deepspeech`, with the same parameters."""

    def __init__(self, inputs: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, inputs) and the states h, c (B, H) before to those after."""
        hidden, cell = before
        i, f, g, o = (F.linear(x, self.weight_ih, self.bias) + hidden @ self.weight_hh.T).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


@final
class Speller(nn.Module):
    """LSTM layers that are given the token before and the context before, additive attention, a dense layer.

    Step i: r_i from the token and c_(i-1); e_ij = v^T tanh(Q r_i + K s_j + k), c_i = sum_j softmax(e_i)_j s_j over the
    listener's states s_j (Bahdanau et al. 2015, appendix A.1.2); logits from [r_i ; c_i]. c_0 = 0, states begin at 0.
    """

    def __init__(self, recipe: ListenAttendSpell, classes: int) -> None:
        nn.Module.__init__(self)
        heard = 2 * recipe.hidden
        self.context = heard
        self.decoded = recipe.decoded
        self.embedding = nn.Embedding(classes, recipe.embedded)
        widths = [recipe.embedded] + [recipe.decoded] * (recipe.decoding - 1)
        self.cells = nn.ModuleList(Cell(width + heard, recipe.decoded) for width in widths)
        self.keys = nn.Linear(heard, recipe.attention)
        self.query = nn.Linear(recipe.decoded, recipe.attention, bias=False)
        self.score = nn.Linear(recipe.attention, 1, bias=False)
        self.output = nn.Linear(recipe.decoded + heard, classes)

    def start(self, like: Tensor) -> tuple[Tensor, State]:
        """The context and the states before the first step, for as many sentences as `like` (B, ...) has."""
        zeros = [like.new_zeros(len(like), self.decoded) for _ in self.cells]
        return like.new_zeros(len(like), self.context), tuple((zero, zero) for zero in zeros)

    def step(self, token: Tensor, context: Tensor, before: State) -> tuple[Tensor, State]:
        """r_i (B, decoded) and the states after, from the token (B,) and the context (B, 2 hidden) before."""
        return self.fed(self.embedding(token), context, before)

    def fed(self, x: Tensor, context: Tensor, before: State) -> tuple[Tensor, State]:
        """The same from what the token is embedded as (B, embedded), which need not be of one token alone."""
        after = []
        for cell, state in zip(self.cells, before, strict=True):
            state = cell(torch.cat([x, context], 1), state)
            x = state[0]
            after.append(state)
        return x, tuple(after)

    def attended(self, reached: Tensor, keys: Tensor, states: Tensor, real: Tensor) -> Tensor:
        """The context (B, 2 hidden) of r_i (B, decoded) among states (B, T, 2 hidden) with keys K s_j + k."""
        scores = self.score(torch.tanh(keys + self.query(reached).unsqueeze(1))).squeeze(2)
        # the lowest number and not minus infinity, whose derivatives are not numbers
        scores = torch.where(real, scores, torch.finfo(scores.dtype).min)
        context: Tensor = (torch.softmax(scores, 1).unsqueeze(2) * states).sum(1)
        return context

    def forward(self, states: Tensor, real: Tensor, tokens: Tensor) -> Tensor:
        """States (B, T, 2 hidden), which are real (B, T), tokens (B, L) to logits (B, L, classes)."""
        keys = self.keys(states)
        context, memory = self.start(states)
        fed = []
        for token in tokens.unbind(1):
            reached, memory = self.step(token, context, memory)
            context = self.attended(reached, keys, states, real)
            fed.append(torch.cat([reached, context], 1))
        logits: Tensor = self.output(torch.stack(fed, 1))
        return logits


@final
class _Network(nn.Module):
    def __init__(self, recipe: ListenAttendSpell, classes: int) -> None:
        nn.Module.__init__(self)
        self.listener = Listener(recipe)
        self.speller = Speller(recipe, classes)

    def forward(self, frames: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """(B, T, F), (B,), (B, L) to logits (B, L, classes)."""
        logits: Tensor = self.speller(*self.listener(frames, lengths), tokens)
        return logits


@final
@dataclass(frozen=True)
class ListenAttendSpell(AbstractArchitecture):
    """Two convolutions, `layers` bidirectional LSTMs, and `decoding` LSTMs with additive attention that spell pieces.

    Frames are turned into the 40 log-mel bands that they describe, over which the convolutions run (the original has
    80, every 10 ms instead of 20). channels: of the convolutions. hidden: units per direction. embedded: numbers per
    token. decoded: units of each LSTM of the decoder. attention: units of the attention. pieces: what is spelled
    besides single letters; None spells letters alone. As many outputs as classes, the last one of which ends a sentence
    (the place of the blank of CTC), and the pieces before it. Loss: cross entropy per piece, the mean over all pieces
    of a batch. No dropout, no statistics of batches. Twice differentiable, since every LSTM is written out.
    By default the sizes of lingvo's Librispeech960Wpm, after Chan et al. 2016 (arXiv:1508.01211), which has 16 328
    pieces and pieces alone.
    Parameters: listener.conv_1.weight, ..., speller.output.weight, speller.output.bias. Drawn as torch draws them.
    Raises `BadInput` on sizes below 1.

    >>> from leakscope.domains.speech import Frames
    >>> small = ListenAttendSpell(2, 8, 1, 4, 8, 1, 8)
    >>> small.build(Frames(26), 29, key=Key(0)).count()
    3891
    """

    channels: int = 32
    hidden: int = 1024
    layers: int = 4
    embedded: int = 96
    decoded: int = 1024
    decoding: int = 2
    attention: int = 128
    coefficients: int = 26
    pieces: WordPieces | None = None

    def __post_init__(self) -> None:
        sizes = (self.channels, self.hidden, self.layers, self.embedded, self.decoded, self.decoding, self.attention)
        if min(*sizes, self.coefficients) < 1:
            raise BadInput(f"expected sizes of at least 1, got {sizes} and {self.coefficients} coefficients")

    def build(self, domain: AbstractDomain, classes: int, *, key: Key) -> Target:
        """The target with weights drawn from `key`; `classes` counts the letters and the end.

        The target has as many classes more as there are pieces. Raises `BadInput` when the domain's inputs are not
        (T, coefficients) with any T, or on fewer than 2 classes.
        """
        if not all(domain.fits(torch.empty(1, frames, self.coefficients)) for frames in (1, 2)):
            raise BadInput(f"{self!r} takes Frames({self.coefficients}), got {domain!r}; make the two agree")
        if classes < 2:
            raise BadInput(f"expected at least one letter and the end, got {classes} classes")
        spelling = Spelling(classes - 1, self.pieces)
        with key.isolated():
            module = _Network(self, spelling.classes)
            for layer in module.modules():
                if isinstance(layer, LSTM | Cell):
                    _draw(layer)
        loss, feed = NextPiece(spelling), PiecesSoFar(spelling)
        return Target(module, domain, spelling.classes, name=repr(self), loss=loss, feed=feed)


def _draw(layer: LSTM | Cell) -> None:
    """U(-1 / sqrt(H), 1 / sqrt(H)) throughout, as torch's own LSTM begins."""
    reach = 1 / math.sqrt(layer.weight_hh.shape[1])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-reach, reach)
