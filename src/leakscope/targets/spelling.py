"""How a decoder spells a transcript: letters or word pieces, what it is told so far, and what it is asked for."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.feed import AbstractFeed, Arguments, Pick
from leakscope.core.target import AbstractLoss

SPACE = 0
"""The letter that ends a word: the space of `domains.speech.ENGLISH`."""

Letters = tuple[int, ...]


class PublicTexts(Protocol):
    """What pieces are learned from: a source of transcripts that anybody may read."""

    def public(self) -> Batch:
        """The examples that are nobody's secret."""
        ...


@final
@dataclass(frozen=True)
class WordPieces:
    """At most `count` strings of two letters or more, learned from the public transcripts of `data`.

    Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1): the pair of neighboring pieces that occurs
    most often becomes a piece, again and again; a word is taken with the space after it, and no piece goes on into the
    next word. A text is spelled by the longest piece that fits, from left to right, and by letters where none does.
    Raises `BadInput` on a count below 1, and where the data holds no transcripts.
    """

    data: PublicTexts
    count: int = 300

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"expected count >= 1, got {self.count}")

    def learned(self) -> tuple[Letters, ...]:
        """The pieces, each as its letters, in the order in which they were learned."""
        return _learned(self)


@functools.lru_cache(maxsize=8)
def _learned(pieces: WordPieces) -> tuple[Letters, ...]:
    # A plan is rehearsed on the meta device: texts that were loaded there would have no letters for anybody after.
    with torch.device("cpu"):
        texts = pieces.data.public().transcripts()
    words = Counter(word for said in texts for word in _words(said))
    return merged(words, pieces.count)


def _words(said: Letters) -> list[Letters]:
    """Each word with the space that ends it."""
    found, word = [], []
    for letter in said:
        word.append(letter)
        if letter == SPACE:
            found.append(tuple(word))
            word = []
    return [*found, tuple(word)] if word else found


def merged(words: Counter[Letters], count: int) -> tuple[Letters, ...]:
    """At most `count` pieces of words that occur so often; of equally frequent pairs the first in the alphabet.

    >>> merged(Counter({(1, 2, 3): 2, (1, 2): 1}), 2)
    ((1, 2), (1, 2, 3))
    """
    split: dict[Letters, list[Letters]] = {word: [(letter,) for letter in word] for word in words}
    found: list[Letters] = []
    while len(found) < count:
        pairs: Counter[tuple[Letters, Letters]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        # The most frequent, and of equals the first, so that every process learns the same.
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        whole = left + right
        if whole not in found:
            found.append(whole)
        split = {word: _joined(parts, left, right) for word, parts in split.items()}
    return tuple(found)


def _joined(parts: list[Letters], left: Letters, right: Letters) -> list[Letters]:
    joined: list[Letters] = []
    for part in parts:
        if joined and joined[-1] == left and part == right:
            joined[-1] = left + right
        else:
            joined.append(part)
    return joined


@final
@dataclass(frozen=True)
class Spelling:
    """The outputs of a decoder: letters 0 to letters - 1, then the pieces, and last the one that ends a sentence.

    Raises `BadInput` on fewer than one letter.

    >>> Spelling(28).end
    28
    """

    letters: int
    pieces: WordPieces | None = None

    def __post_init__(self) -> None:
        if self.letters < 1:
            raise BadInput(f"expected at least one letter, got {self.letters}")

    def known(self) -> tuple[Letters, ...]:
        """The pieces; none where letters are all there is."""
        return () if self.pieces is None else self.pieces.learned()

    @property
    def end(self) -> int:
        """The output that ends a sentence; told as the first token, it begins one."""
        return self.letters + len(self.known())

    @property
    def classes(self) -> int:
        """How many outputs there are."""
        return self.end + 1

    def read(self, outputs: Letters) -> Letters:
        """The letters that outputs stand for; the end stands for none."""
        known = self.known()
        spelled = [(one,) if one < self.letters else known[one - self.letters] for one in outputs if one != self.end]
        return tuple(letter for piece in spelled for letter in piece)

    def of(self, labels: Tensor, label_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, L) in letters to outputs (B, L), filled up with `end`, and how many of them are real (B,).

        In operations of tensors alone, and as long as the letters, since `torch.func.vmap` allows no shape that depends
        on values.
        """
        width = labels.shape[1]
        inside = torch.arange(width, device=labels.device) < label_lengths.unsqueeze(1)
        known = self.known()
        if not known:
            return torch.where(inside, labels, self.end), label_lengths
        table = _table(known).to(labels.device)
        longest = table.shape[1]
        # Nothing fits beyond the end, where no letter is.
        bare = torch.cat([torch.where(inside, labels, -1), labels.new_full((len(labels), longest), -1)], 1)
        ahead = bare.unfold(1, longest, 1)[:, :width].unsqueeze(2)
        fits = ((ahead == table) | (table < 0)).all(3)
        sizes = (table >= 0).sum(1)
        length, which = (fits * sizes).max(2)
        best = torch.where(length > 0, self.letters + which, labels)
        return _walked(best, length.clamp(min=1), label_lengths, self.end)


@functools.lru_cache(maxsize=8)
def _table(known: tuple[Letters, ...]) -> Tensor:
    """(P, longest) int64, each piece filled up with -1."""
    longest = max(map(len, known))
    # On the processor, for the same reason: it is kept for all.
    return torch.tensor([[*piece, *[-1] * (longest - len(piece))] for piece in known], device="cpu")


def _walked(best: Tensor, length: Tensor, letters: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """From the best piece at each place those that follow one another from the first on."""
    at, said = torch.zeros_like(letters), []
    count = torch.zeros_like(letters)
    for _ in range(best.shape[1]):
        going = at < letters
        place = at.clamp(max=best.shape[1] - 1).unsqueeze(1)
        said.append(torch.where(going, best.gather(1, place).squeeze(1), end))
        at = torch.where(going, at + length.gather(1, place).squeeze(1), at)
        count = count + going
    return (torch.stack(said, 1) if said else best), count


@final
@dataclass(frozen=True)
class PiecesSoFar(AbstractFeed):
    """forward(inputs, lengths, tokens): a decoder that is told the pieces before the one it is asked for.

    Tokens (B, L + 1) int64 are the end and then the pieces of the labels (B, L), filled up with the end: output i is
    asked for piece i, and the last real one for the end. Where there is no batch (the model is only looked at), lengths
    are whole and the tokens are the end alone, (B, 1). Raises `BadInput` for a batch without label sequences.

    >>> said = Batch(torch.zeros(1, 4, 2), torch.tensor([[7, 8]]), torch.tensor([4]), torch.tensor([2]))
    >>> PiecesSoFar(Spelling(28)).arguments(said.inputs, said).by_place[2]
    tensor([[28,  7,  8]])
    """

    spelling: Spelling

    @property
    def pick(self) -> Pick:
        """The model returns its logits."""
        return None

    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """The inputs, their lengths and the pieces so far."""
        tokens = torch.full((len(inputs), 1), self.spelling.end, device=inputs.device)
        if rest is None or rest.lengths is None or rest.label_lengths is None:
            if rest is not None:
                raise BadInput("a decoder needs label sequences: give the batch lengths and label_lengths")
            return Arguments((inputs, torch.full((len(inputs),), inputs.shape[1], device=inputs.device), tokens))
        said, _ = self.spelling.of(rest.labels, rest.label_lengths)
        return Arguments((inputs, rest.lengths, torch.cat([tokens, said], 1)))


@final
@dataclass(frozen=True)
class NextPiece(AbstractLoss):
    """-(1 / N) sum_b sum_i log softmax(outputs_bi)[piece_bi] over the N pieces of all utterances and their ends.

    outputs: (B, L + 1, C) logits of a model with the feed `PiecesSoFar`. A mean over the pieces of the batch, as lingvo
    takes it: a long utterance weighs more than a short one.
    Raises `BadInput` when the batch holds no sequences or the outputs have another shape.

    >>> said = Batch(torch.zeros(1, 4, 2), torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1]))
    >>> NextPiece(Spelling(3))(torch.zeros(1, 2, 4), said).exp()
    tensor(4.)
    """

    spelling: Spelling

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The scalar loss."""
        if batch.label_lengths is None:
            raise BadInput("NextPiece needs a batch of sequences: give lengths and label_lengths")
        wanted = (len(batch), batch.labels.shape[1] + 1, self.spelling.classes)
        if tuple(outputs.shape) != wanted:
            raise BadInput(f"NextPiece needs logits {wanted}, got {tuple(outputs.shape)}; use the feed PiecesSoFar")
        said, count = self.spelling.of(batch.labels, batch.label_lengths)
        # What fills up is the end already; one more for an utterance that is as long as the batch.
        asked = torch.cat([said, torch.full_like(said[:, :1] if said.shape[1] else count[:, None], wanted[2] - 1)], 1)
        real = (torch.arange(wanted[1], device=outputs.device) <= count.unsqueeze(1)).to(outputs.dtype)
        each = F.cross_entropy(outputs.transpose(1, 2), asked, reduction="none") * real
        return each.sum() / real.sum()

    def check(self, batch: Batch, classes: int) -> None:
        """Raises `BadInput` on labels that are no letters, and on frames beyond an utterance that are not zero."""
        if batch.lengths is None or batch.label_lengths is None:
            raise BadInput("NextPiece needs a batch of sequences: give lengths and label_lengths")
        if classes != self.spelling.classes:
            raise BadInput(f"{self!r} is for {self.spelling.classes} outputs, the model has {classes}; make them agree")
        width, frames = batch.labels.shape[1], batch.inputs.shape[1]
        if bool(((batch.label_lengths < 0) | (batch.label_lengths > width)).any()):
            raise BadInput(f"expected label lengths from 0 to {width}, got {batch.label_lengths.tolist()}")
        if bool(((batch.lengths < 1) | (batch.lengths > frames)).any()):
            raise BadInput(f"expected lengths from 1 to {frames}, got {batch.lengths.tolist()}")
        real = batch.labels[torch.arange(width, device=batch.labels.device) < batch.label_lengths.unsqueeze(1)]
        wrong = real[(real < 0) | (real >= self.spelling.letters)]
        if len(wrong):
            raise BadInput(
                f"expected letters from 0 to {self.spelling.letters - 1}, got {int(wrong[0])}; use the alphabet that "
                "the model was made for"
            )
        beyond = torch.arange(frames, device=batch.inputs.device) >= batch.lengths.unsqueeze(1)
        if bool((batch.inputs != 0).any(2)[beyond].any()):
            raise BadInput("frames beyond an utterance's length must be zero, as padding is")

    def labeled(self, inputs: Tensor, classes: int) -> Batch:
        """Whole utterances of the first two letters."""
        del classes
        letters = min(2, self.spelling.letters)
        said = torch.arange(letters, device=inputs.device).expand(len(inputs), -1)
        whole = torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        return Batch(inputs, said.clone(), whole, torch.full_like(whole, letters))
