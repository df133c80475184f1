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
from torch import Tensor

from leakscope.attacks.labels.rows.known_rows import KnownRows
from leakscope.attacks.labels.rows.row_space import RowSpace
from leakscope.targets.zoo.listen_attend_spell import Speller, State

Array = NDArray[np.float64]

FITS = 1e-2
"""Largest relative distance of what the decoder reaches from the span of the gradient, and of an error from its rows,
that is taken for rounding; of a wrong piece it is a tenth and more."""
PLACED = 1e-4
"""Largest such distance of a proof. Of honest gradients it is 1e-6, at most 5e-5. A decoder that hardly remembers
reaches the features of another place to 1e-3, and without this bound sentences were proved in a wrong order."""
TOLD = 10 * PLACED
"""Least relative change of what a decoder reaches by which one history is told from another in a proof: of a client
that feeds other pieces than it asks for, only this says that the chain of pieces is not the sentence."""
APART = 10.0
"""How many times farther off the second best piece has to be."""
ALIKE = 1e-3
"""Relative size of directions of the gradient in which the decoder's own part differs by rounding: several sentences
begin alike, and only their contexts tell them apart."""
FIRST = 1e-4
"""Largest relative distance of a first piece's error from the rows of the gradient."""
TRIES = 6
"""Starts for the first pieces of several sentences."""
TURNS = 5
"""How often what was read to the end helps to find the rest."""
RIVALS = 5
"""Pieces that are tried at each step, the nearest first."""
SAME = 1e-3
"""Largest share of a feature that points along the error of another piece."""


@final
@dataclass(frozen=True, eq=False)
class Sentence:
    """Outputs of one sentence, in order. features: (n, k) coordinates of h = left @ a. errors: (n, C). misfit: the
    worst relative distance of a step. moved: how far refined features are from what the decoder reached. told: the
    least relative change of what the decoder reaches where it forgets all but the last piece. stuck: why it does not
    end; empty where it does. searched: whether a beam chose among several."""

    outputs: tuple[int, ...]
    features: Array
    errors: Array
    misfit: float
    moved: float
    told: float
    stuck: str = ""
    searched: bool = False


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
        with torch.no_grad():
            context, self.fresh = self.speller.start(torch.zeros(1, 1, dtype=torch.float64))
            ahead, self.begun = self.speller.step(torch.tensor([self.end]), context, self.fresh)
        self.reached = ahead[0].numpy()
        self.several = 1 + int((sizes < ALIKE * sizes[0]).sum()) + max(0, space.rank - len(sizes))

    def sentences(self, stop: Callable[[], bool], random: np.random.Generator) -> list[Sentence]:
        """As many as there are, each as far as it can be followed."""
        reached, state = self.reached, self.begun
        if self.several == 1:
            return [self._followed(reached, state, None, np.zeros((0, self.space.rank)), stop)]
        ended: list[Sentence] = []
        begun: list[tuple[int, Array]] = []
        held: list[Sentence] = []
        for turn in range(TURNS):
            # A sentence's features lie across the errors of all others (T6): of those that were read to their ends,
            # and of the first pieces of the rest. What is known of some is what hides the others no longer.
            across = self.across([*self.pieces(ended), *begun])
            begun += self.first(self.several - len(ended) - len(begun), across, stop, random, turn)
            across = self.across([*self.pieces(ended), *begun])
            held = [self._followed(reached, state, one, across, stop) for one in begun]
            done = [one for one in held if not one.stuck]
            ended += done
            if len(ended) == self.several or stop() or (turn and not done):
                break
            # Of a first piece from which nothing follows, nothing speaks for it either.
            begun = [
                one for one, sentence in zip(begun, held, strict=True) if sentence.stuck and len(sentence.outputs) > 1
            ]
        return [*ended, *(one for one in held if one.stuck)]

    def pieces(self, sentences: list[Sentence]) -> list[tuple[int, Array]]:
        """All pieces of these sentences, with their features."""
        return [piece for one in sentences for piece in zip(one.outputs, one.features, strict=True)]

    def across(self, pieces: list[tuple[int, Array]]) -> Array:
        """(n, k) the unit vectors to which the features of all other pieces are perpendicular."""
        if not pieces:
            return np.zeros((0, self.space.rank))
        duals = np.stack([self.dual(label, point) for label, point in pieces])
        units: Array = duals / np.linalg.norm(duals, axis=1)[:, None]
        return units

    def dual(self, label: int, point: Array) -> Array:
        """(k,) what is perpendicular to the features of all other pieces, and N where it meets this one's (T6)."""
        return (self.space.right @ (self.known.error(point, label) * self.space.scale)) / self.space.values

    def _followed(
        self, reached: Array, state: State, first: tuple[int, Array] | None, across: Array, stop: Callable[[], bool]
    ) -> Sentence:
        """From the first piece on, which is given where several sentences begin alike."""
        inverse = np.linalg.pinv(np.vstack([self.own, across]), rcond=ALIKE)
        said: list[int] = []
        points: list[Array] = []
        worst, moved, told, stuck = 0.0, 0.0, math.inf, ""
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
            worst, moved = max(worst, misfit), max(moved, away(self.own @ point, reached))
            said.append(label)
            points.append(point)
            bare, _ = self.ahead(label, point, self.fresh)
            reached, state = self.ahead(label, point, state)
            if len(said) > 1 and label != self.end:
                told = min(told, away(bare, reached))
        errors = [self.known.error(point, label) for label, point in zip(said, points, strict=True)]
        empty = np.zeros((0, self.space.rank)), np.zeros((0, len(self.known.offset)))
        return Sentence(
            tuple(said),
            np.array(points) if said else empty[0],
            np.array(errors) if said else empty[1],
            worst,
            moved,
            told,
            stuck,
        )

    def ahead(self, label: int, point: Array, state: State) -> tuple[Array, State]:
        """What the decoder reaches after a piece with these features, and its states then."""
        with torch.no_grad():
            reached, after = self.speller.step(torch.tensor([label]), self._context(point), state)
        return reached[0].numpy(), after

    def _context(self, point: Array) -> Tensor:
        return torch.from_numpy((self.space.left @ point)[self.speller.decoded :])[None]

    def apart(self, sentences: list[Sentence]) -> float:
        """The least relative change of what the decoder reaches after a first piece, in another sentence's context."""
        longer = [one for one in sentences if len(one.outputs) > 1]
        contexts = [self._context(one.features[0]) for one in longer]
        with torch.no_grad():
            ahead = [
                [self.speller.step(torch.tensor(one.outputs[:1]), at, self.begun)[0][0].numpy() for at in contexts]
                for one in longer
            ]
        pairs = [(i, j) for i in range(len(ahead)) for j in range(len(ahead)) if i != j]
        return min((away(ahead[i][j], ahead[i][i]) for i, j in pairs), default=math.inf)

    def off(self, misfit: float) -> float:
        """The distance from what was reached, of which `misfit` is what a span of rank k in d directions does not fit.

        Of a distance in any direction that is a share of sqrt((d - k) / d); of none where the span is all there is.
        """
        left = self.speller.decoded - self.space.rank
        return misfit * math.sqrt(self.speller.decoded / left) if left > 0 else math.inf

    def _piece(self, point: Array, misfit: float, place: int) -> tuple[int, Array, float, str]:
        """The piece whose error at `point` lies in the rows of the gradient; refined features; why there is none."""
        where = f"piece {place + 1}"
        if not misfit <= FITS:
            why = f"{where} is hidden: what the decoder reaches is {misfit:.0e} from the features in the gradient"
            return 0, point, misfit, why
        off = self.distances(point)
        tried = []
        for label in np.argsort(off)[:RIVALS]:
            refined, left = self.known.solve(int(label), point, self.known.slopes, self.space.right)
            # Free to move, a rival ends at a piece elsewhere in the gradient, which the decoder does not reach here.
            with np.errstate(over="ignore", invalid="ignore"):
                moved = float(np.linalg.norm(self.own @ (refined - point)) / np.linalg.norm(self.own @ point))
            tried.append((max(left, moved) if math.isfinite(moved) else math.inf, left, int(label), refined))
        tried.sort(key=lambda one: one[0])
        (score, left, best, refined), rival = tried[0], tried[1][0]
        if not score <= FITS:
            return 0, point, score, f"{where} is hidden: no piece's error is in the gradient ({score:.0e} off)"
        if rival < APART * max(score, 1e-9):
            return 0, point, left, f"{where} is open: two are {score:.0e} and {rival:.0e} off"
        return best, refined, left, ""

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

    def first(
        self,
        wanted: int,
        across: Array,
        stop: Callable[[], bool],
        random: np.random.Generator,
        turn: int,
        loose: bool = False,
    ) -> list[tuple[int, Array]]:
        """First pieces of `wanted` sentences: all have the same r, so that features are known but for their contexts.

        Of the contexts that are left free, `across` fixes as many as it knows of other sentences' pieces: of the last
        sentence none is free. loose: more starts, and errors up to ten times as far off, for what follows to decide.
        """
        found: list[tuple[int, Array]] = []
        reached, most, tries = self.reached, FIRST * (10 if loose else 1), TRIES * (3 if loose else 1)
        for trial in range(tries):
            if len(found) >= wanted or stop():
                break
            narrow = trial % 2 == 0 and len(across) + len(found) > 0
            known = np.vstack([across, self.across(found)]) if narrow else np.zeros((0, self.space.rank))
            base, free = self._open(reached, known)
            slopes = self.known.slopes @ free
            part = KnownRows(self.space, self.known.weight, self.known.offset + self.known.slopes @ base)
            spread, count = float(np.linalg.norm(base)), int(free.shape[1])
            begin = np.zeros(count)
            if trial + turn > 0 and not (narrow and trial == 0):
                begin = spread * random.standard_normal(count) / math.sqrt(max(count, 1))
            off = self.distances(base + free @ begin)
            for label in np.argsort(off):
                if len(found) >= wanted or stop():
                    break
                moved, left = part.solve(int(label), begin, slopes, self.space.right)
                point = base + free @ moved
                if left > (1e-2 if narrow else most):
                    continue
                if narrow:
                    point, left = self.known.solve(int(label), point, self.known.slopes, self.space.right)
                    with np.errstate(over="ignore", invalid="ignore"):
                        far = away(self.own @ point, reached)
                    if left > most or not far <= FITS:
                        continue
                if not self._new(int(label), point, found, across):
                    continue
                found.append((int(label), point))
        return found

    def _new(self, label: int, point: Array, found: list[tuple[int, Array]], across: Array) -> bool:
        """Whether it is none that was found before: features of a piece are not perpendicular to its own error."""
        if any(label == old and np.linalg.norm(point - at) < 1e-3 * np.linalg.norm(point) for old, at in found):
            return False
        return not len(across) or float(abs(across @ point).max()) < SAME * float(np.linalg.norm(point))

    def _open(self, reached: Array, across: Array) -> tuple[Array, Array]:
        """(k,) the least features with r = `reached` that are perpendicular to `across`; (k, n) what is free."""
        sizes = np.linalg.svd(self.own)
        base = np.linalg.pinv(self.own, rcond=ALIKE) @ reached
        free = sizes.Vh[len(sizes.Vh) - (self.several - 1) :].T
        if not len(across):
            return base, free
        left, values, rows = np.linalg.svd(across @ free)
        count = int((values > ALIKE).sum())
        base = base - free @ (rows[:count].T @ ((left[:, :count].T @ (across @ base)) / values[:count]))
        return base, free @ rows[count:].T


def away(one: Array, other: Array) -> float:
    """The distance relative to `other`."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
