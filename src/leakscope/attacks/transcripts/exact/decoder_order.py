"""The sentences behind an output layer's gradient, piece after piece, by running the known decoder.

dL/dW = (1 / N) sum_s g_s h_s^T over all pieces of all sentences, h_s = [r_s ; c_s] what the decoder reached and the
context that it attended to. r_s follows from the piece and the context before, which the model shows; and where the
gradient has fewer directions than r_s has entries, r_s alone says where in their span h_s lies: context, probabilities
and piece follow, and with them the next r. No search, and no word of the language.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.attacks.labels.rows.taken_apart import KnownRows
from leakscope.targets.zoo.listen_attend_spell import Speller, State

Array = NDArray[np.float64]

FITS = 1e-2
"""Largest relative distance of what the decoder reaches from the span of the gradient, and of an error from its rows,
that is taken for rounding; of a wrong piece it is a tenth and more."""
APART = 10.0
"""How many times farther off the second best piece has to be."""
ALIKE = 1e-3
"""Relative size of directions of the gradient in which the decoder's own part differs by rounding: several sentences
begin alike, and only their contexts tell them apart."""
TRIES = 6
"""Starts for the first piece of each of several sentences."""


@final
@dataclass(frozen=True, eq=False)
class Sentence:
    """Outputs of one sentence, in order. features: (n, k) coordinates of h = left @ a. errors: (n, C). misfit: the
    worst relative distance of a step. stuck: why it does not end; empty where it does."""

    outputs: tuple[int, ...]
    features: Array
    errors: Array
    misfit: float
    stuck: str = ""


@final
class Following:
    """A decoder that is followed through the gradient of its output layer. end: the output that ends a sentence."""

    def __init__(self, speller: Speller, space: RowSpace, end: int) -> None:
        # In double precision, so that sentences of any length are followed to within the client's own rounding.
        self.speller = copy.deepcopy(speller).double().cpu().requires_grad_(False)
        self.space, self.end = space, end
        self.known = KnownRows(space, self.speller.output.weight.numpy(), self.speller.output.bias.numpy())
        self.own = space.left[: speller.decoded]
        sizes = np.linalg.svd(self.own, compute_uv=False)
        # Directions of features that differ in their context alone: of B sentences the first pieces, B - 1 of them.
        self.several = 1 + int((sizes < ALIKE * sizes[0]).sum()) + max(0, space.rank - len(sizes))

    def sentences(self, stop: Callable[[], bool], random: np.random.Generator) -> list[Sentence]:
        """As many as there are, each as far as it can be followed."""
        context, state = self.speller.start(torch.zeros(1, 1, dtype=torch.float64))
        with torch.no_grad():
            reached, state = self.speller.step(torch.tensor([self.end]), context, state)
        if self.several == 1:
            return [self._followed(reached[0].numpy(), state, None, np.zeros((0, self.space.rank)), stop)]
        first = self._first(reached[0].numpy(), stop, random)
        # A sentence's features lie across the errors of all others (T6), which the first pieces of all of them are.
        duals = np.stack([self._dual(label, point) for label, point in first]) if first else np.zeros((0, 0))
        return [
            self._followed(reached[0].numpy(), state, one, duals / np.linalg.norm(duals, axis=1)[:, None], stop)
            for one in first
        ]

    def _dual(self, label: int, point: Array) -> Array:
        return (self.space.right @ (self.known.error(point, label) * self.space.scale)) / self.space.values

    def _followed(
        self, reached: Array, state: State, first: tuple[int, Array] | None, across: Array, stop: Callable[[], bool]
    ) -> Sentence:
        """From the first piece on, which is given where several sentences begin alike."""
        inverse = np.linalg.pinv(np.vstack([self.own, across]), rcond=ALIKE)
        said: list[int] = []
        points: list[Array] = []
        worst, stuck = 0.0, ""
        while not stuck and self.end not in said[-1:]:
            if stop():
                stuck = "the budget is spent"
                break
            if len(said) > 4 * self.space.rank + 8:
                stuck = "no end was found"
                break
            if first is not None and not said:
                label, point = first
                misfit = self.known.solve(label, point, self.known.slopes, self.space.right)[1]
            else:
                point = inverse @ np.concatenate([reached, np.zeros(len(across))])
                misfit = float(np.linalg.norm(self.own @ point - reached) / np.linalg.norm(reached))
                label, point, more, stuck = self._piece(point, misfit, len(said))
                misfit = max(misfit, more)
            if stuck:
                break
            worst = max(worst, misfit)
            said.append(label)
            points.append(point)
            context = torch.from_numpy((self.space.left @ point)[self.speller.decoded :])[None]
            with torch.no_grad():
                ahead, state = self.speller.step(torch.tensor([label]), context, state)
            reached = ahead[0].numpy()
        errors = [self.known.error(point, label) for label, point in zip(said, points, strict=True)]
        empty = np.zeros((0, self.space.rank)), np.zeros((0, len(self.known.offset)))
        return Sentence(
            tuple(said), np.array(points) if said else empty[0], np.array(errors) if said else empty[1], worst, stuck
        )

    def _piece(self, point: Array, misfit: float, place: int) -> tuple[int, Array, float, str]:
        """The piece whose error at `point` lies in the rows of the gradient; refined features; why there is none."""
        where = f"piece {place + 1}"
        if not misfit <= FITS:
            why = f"{where} is hidden: what the decoder reaches is {misfit:.0e} from the features in the gradient"
            return 0, point, misfit, why
        off = self.distances(point)
        best, other = np.argsort(off)[:2]
        refined, left = self.known.solve(int(best), point, self.known.slopes, self.space.right)
        if not left <= FITS:
            return 0, point, left, f"{where} is hidden: no piece's error is in the gradient ({left:.0e} off)"
        if off[other] < APART * max(left, float(off[best]), 1e-9):
            return 0, point, left, f"{where} is open: two are {off[best]:.0e} and {off[other]:.0e} off"
        return int(best), refined, left, ""

    def distances(self, point: Array) -> Array:
        """(C,) the relative distance of scale (rho - e_y) from the row space for each y, rho as in `KnownRows`."""
        scale, right = self.space.scale, self.space.right
        logits = self.known.slopes @ point + self.known.offset
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        others = np.maximum(shares.sum() - shares, 1e-12)
        weighed = scale * shares
        inside, columns = right @ weighed, right.T
        # wanted = weighed / others without its entry y, and -scale_y there
        own = weighed / others + scale
        size = (weighed @ weighed - weighed**2) / others**2 + scale**2
        within = (inside @ inside) / others**2 - 2 * own * (columns @ inside) / others + own**2 * (columns**2).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.sqrt(np.maximum(size - within, 0) / size)
        return np.where(scale > 0, found, math.inf)

    def _first(self, reached: Array, stop: Callable[[], bool], random: np.random.Generator) -> list[tuple[int, Array]]:
        """The first piece of each sentence: all have the same r, so that features are known but for their contexts."""
        sizes = np.linalg.svd(self.own)
        count = self.several - 1
        free = sizes.Vh[len(sizes.Vh) - count :].T
        base = np.linalg.pinv(self.own, rcond=ALIKE) @ reached
        slopes = self.known.slopes @ free
        part = KnownRows(self.space, self.known.weight, self.known.offset + self.known.slopes @ base)
        found: list[tuple[int, Array]] = []
        spread = float(np.linalg.norm(base))
        for turn in range(TRIES):
            begin = np.zeros(count) if turn == 0 else spread * random.standard_normal(count) / math.sqrt(count)
            off = self.distances(base + free @ begin)
            for label in np.argsort(off):
                if len(found) == self.several or stop():
                    return found
                moved, left = part.solve(int(label), begin, slopes, self.space.right)
                point = base + free @ moved
                if left > 1e-4 or any(
                    label == old and np.linalg.norm(point - at) < 1e-3 * np.linalg.norm(point) for old, at in found
                ):
                    continue
                found.append((int(label), point))
        return found
