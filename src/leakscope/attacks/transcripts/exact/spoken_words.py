"""What was said to a recognizer with a decoder, from the gradient of its output layer alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Ready
from leakscope.attacks.labels.rows.row_space import RowSpace, row_space
from leakscope.attacks.parts.reading.fed_pieces import fed_pieces
from leakscope.attacks.parts.reading.proof import assumed, bent, miscounted, strange
from leakscope.attacks.parts.reading.trained import NOT_TRAINED, idle
from leakscope.attacks.transcripts.exact.decoder_beam import Beam, Language
from leakscope.attacks.transcripts.exact.decoder_order import APART, PLACED, TOLD, Following, Sentence
from leakscope.attacks.transcripts.exact.said_pieces import Bag, said_pieces
from leakscope.attacks.transcripts.matching.relaxed_words import RelaxedWords
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Transcripts
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.pieces import Pieces
from leakscope.core.refusal import Refusal
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import bends, clipped, known_weights
from leakscope.numerics.rng import Key
from leakscope.targets.spelling import NextPiece, PublicTexts, Spelling
from leakscope.targets.zoo.listen_attend_spell import Speller

WHOLE = 1e-3
"""Relative distance of the gradient from the sum over all pieces that is rounding."""
STATEMENT = (
    "largest relative distance of the decoder's state from the features in the output layer's gradient, and of each "
    "piece's error from its rows; all pieces together give dL/dW again"
)
REPEATED = "; a batch in which each is said as often again has the same mean gradient"
"""What nothing contradicts where the batch size is not told."""


@final
@dataclass(frozen=True, eq=False)
class Heard:
    """The decoder, the output layer's weight gradient (C, d), its spaces, and (C,) which pieces may have been said."""

    speller: Speller
    gradient: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    space: RowSpace
    fed: NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False)
class Weak:
    """Why the rows cannot be followed, and the matching that is ready in their place."""

    why: str
    ready: Ready[Transcripts | Pieces]


@final
@dataclass(frozen=True)
class SpokenWords(AbstractAttack[Heard | Bag | Weak, Transcripts | Pieces]):
    """The pieces of every sentence in their order, from dL/dW of the output layer of `ListenAttendSpell`.

    The decoder is run from its start: what it reaches says where among the features in the gradient the context lies,
    which gives the probabilities, the one piece whose error lies in the gradient's rows, and so the next state
    (`decoder_order`). Ends where a sentence ends. Neither length nor language nor number of sentences is assumed.
    Of several sentences, which begin alike, the first pieces are solved for beforehand.

    Where two pieces fit a place nearly alike, or none does well, a beam of `beam` paths goes on (`decoder_beam`; 0: the
    sentence ends there), among the pieces whose rows of the embedding's gradient are not zero, if that was sent: those
    that the decoder was fed. language: public transcripts, whose pairs of pieces the beam weighs as well. What it chose
    is never proved; the sentence says how well it replays.

    matching: what is tried where the rows say nothing, be they bent, noisy, or of weights that moved, or be the
    first piece hidden, such as RelaxedWords(); it takes the update for that of one utterance, and proves nothing.
    None refuses or stops there. Undefended, rows are followed, which says nothing of what matching can do where they
    are gone, and its failure would be taken for protection: an audit runs the matching alone as well (`remaining`).
    With several proportional positions, or more than min(features, outputs) of them, it refuses: letters alone suffice
    for two dozen positions at most, word pieces for hundreds.
    The certificate is the largest residual of a sentence's steps; it is given where every sentence ends, all together
    have as many pieces as the gradient has directions, their errors and features give dL/dW again, each example is
    taken once, and the decoder tells this order and these sentences from others (`PLACED`, `TOLD`).
    order=False is for updates from which no order comes (signs, pruning, noise, local steps, many sentences): one bag
    for the whole batch, without a certificate. By the first of these that was sent: the rows of dL/dE that moved, which
    only what was fed does; the pieces that no combination of dL/dW's rows excludes, of all steps together, while these
    are fewer than features and outputs; those whose dL/db_c = (1 / N) sum_s (p_sc - y_sc) is negative, which only a
    piece that was said can make; behind declared noise, those that fell lower than noise makes any absent piece in 99
    of 100 batches.
    Source: Dang et al. 2021 (arXiv:2111.00556) take the set of pieces from the same gradient; the order is new here.
    """

    order: bool = True
    beam: int = 8
    language: PublicTexts | None = None
    matching: RelaxedWords | None = None

    def __post_init__(self) -> None:
        if self.beam < 0:
            raise BadInput(f"expected beam >= 0, got {self.beam}; 0 stops where a piece is open")

    @property
    def remaining(self) -> RelaxedWords | None:
        """The matching, if any: where rows are gone that is all there is."""
        return self.matching if self.order else None

    @property
    def citation(self) -> str:
        """Dang et al. 2021."""
        return citations.RLG

    def _read(self, seen: Observation) -> Heard | Bag | Weak | Refusal:
        target = seen.target
        spellers = [(name, one) for name, one in target.module.named_modules() if isinstance(one, Speller)]
        if not isinstance(target.loss, NextPiece) or len(spellers) != 1:
            return Refusal(f"follows the decoder of ListenAttendSpell, got {target.name} trained with {target.loss!r}")
        name, speller = spellers[0]
        if not self.order:
            return said_pieces(seen, f"{name}.output", f"{name}.embedding.weight", speller)
        weight, sent = f"{name}.output.weight", seen.gradient().by_name
        if weight not in sent or weight in idle(sent):
            what = f"the gradient of {weight} {NOT_TRAINED}" if weight in sent else f"the release lacks {weight}"
            return Refusal(what)
        gradient = sent[weight].detach().double().cpu().numpy()
        space = _rows(seen, gradient)
        if isinstance(space, str):
            ready = None if self.matching is None else self.matching.ready(seen)
            return Weak(space, ready) if isinstance(ready, Ready) else Refusal(space)
        if space.rank > speller.decoded:
            return Refusal(f"{space.rank} pieces are more than the {speller.decoded} units of the decoder can place")
        fed = fed_pieces(seen, f"{name}.embedding.weight")
        # Of the end's own row nothing is asked: a sentence ends with it, and need not begin with it.
        allowed = np.ones(len(gradient), bool) if fed is None else fed | (np.arange(len(fed)) == len(fed) - 1)
        return Heard(speller, gradient, space, allowed)

    def _attempt(
        self, seen: Observation, read: Heard | Bag | Weak, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Transcripts | Pieces]:
        assert isinstance(seen.target.loss, NextPiece)
        spelling = seen.target.loss.spelling
        if isinstance(read, Bag):
            return self._bag(read, spelling, clock)
        if isinstance(read, Weak):
            return self._matched(read.why, read.ready.within(key=key.child("matching"), clock=clock, watch=watch))
        steps = 0

        def stop() -> bool:
            nonlocal steps
            steps += 1
            watch(Progress(clock.fraction(steps, 2 * read.space.rank), 0.0, f"{steps} steps of the decoder"))
            return clock.exhausted(steps)

        following = Following(read.speller, read.space, spelling.end)
        found = following.sentences(stop, key.child("starts").numpy())
        if self.beam and (len(found) < following.several or any(one.stuck for one in found)):
            language = None if self.language is None else Language(spelling, self.language)
            beam = Beam(following, self.beam, read.fed, language, stop)
            found = beam.completed(found, key.child("beam").numpy())
        said = [one for one in found if one.outputs]
        stuck = [one.stuck for one in found if one.stuck]
        if not said:
            spent = clock.exhausted(steps)
            lost = "the budget is spent" if spent else "the first pieces of several sentences were not told apart"
            why = stuck[0] if stuck else lost
            if self.matching is None or following.several > 1 or spent:
                return Attempt(repr(self), Outcome.DIVERGED, why)
            within = self.matching.within(seen, key=key.child("matching"), clock=clock, watch=watch)
            return self._matched(why, within)
        pieces = sum(len(one.outputs) for one in said)
        sentence = f"{pieces} pieces in {len(said)} sentences of a gradient of rank {read.space.rank}, in their order"
        doubt = (
            stuck[0] if stuck else self._chosen(read, said) or _doubted(seen, read, said) or _untold(following, said)
        )
        certificate = None
        if doubt is None:
            residuals = tuple(one.misfit for one in said)
            stated = STATEMENT + ("" if seen.knows(BatchSize) else REPEATED) + assumed(seen)
            certificate = Certificate(residuals, (PLACED,) * len(said), stated)
        else:
            sentence += f"; no proof: {doubt}"
        claim = Transcripts(
            tuple(spelling.read(one.outputs) for one in said), None if certificate is None else torch.ones(len(said))
        )
        return Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate)

    def _bag(self, read: Bag, spelling: Spelling, clock: Clock) -> Attempt[Transcripts | Pieces]:
        """Which pieces were said, without an order."""
        outputs, by = read.read(lambda: clock.exhausted(0))
        bag = sorted(spelling.read((one,)) for one in outputs if one != spelling.end)
        if not bag:
            return Attempt(repr(self), Outcome.DIVERGED, f"no piece stands out: {by}")
        what = f"{len(bag)} pieces, {by}; no order, and no proof that they are all"
        return Attempt(repr(self), Outcome.CLAIMED, what, Pieces(tuple(bag)))

    def _matched(self, why: str, found: Attempt[Transcripts | Pieces]) -> Attempt[Transcripts | Pieces]:
        """What matching claims in place of the rows, and why it was asked."""
        # A refusal of the matching is no refusal here: the rows were followed, and led nowhere.
        outcome = Outcome.DIVERGED if found.outcome is Outcome.REFUSED else found.outcome
        sentence = f"{why}; by matching instead: {found.sentence}"
        return Attempt(repr(self), outcome, sentence, found.claim, cost=found.cost, trace=found.trace)

    def _chosen(self, read: Heard, said: list[Sentence]) -> str | None:
        """What there is to say of sentences that a beam chose; None where it chose none."""
        chosen = sum(one.searched for one in said)
        if not chosen:
            return None
        left, _ = _replayed(read, said, scaled=True)
        beam = "a beam" if self.language is None else "a beam that knows a language"
        return f"{beam} chose {chosen} of the sentences, and all together give the gradient to {left:.0e}"


def _rows(seen: Observation, gradient: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> RowSpace | str:
    """The space of the gradient's rows, or why they are not those of pieces at the known weights."""
    if known_weights(seen.mechanism) is not Answer.YES:
        return "needs a gradient at the known weights: after a local step, features are those of others"
    if bends(seen.mechanism) is not Answer.NO:
        return "needs the rows of the gradient, and the mechanism changes entries one by one"
    # A fixed key: whether an attack refuses may not depend on the trial's.
    return row_space(gradient.T, Key(0).child("rows").numpy())


def _replayed(read: Heard, said: list[Sentence], *, scaled: bool) -> tuple[float, float]:
    """How far dL/dW is from the mean over all pieces, relative to it, and the factor between the two if `scaled`."""
    errors = np.concatenate([one.errors for one in said])
    features = np.concatenate([one.features for one in said]) @ read.space.left.T
    # C x d, and as large as it was sent, but for a clip.
    mean = errors.T @ features / len(errors)
    factor = float((mean * read.gradient).sum() / (mean**2).sum()) if scaled else 1.0
    return float(np.linalg.norm(factor * mean - read.gradient) / np.linalg.norm(read.gradient)), factor


def _untold(following: Following, said: list[Sentence]) -> str | None:
    """Why the order may be another one: the sum over all pieces does not depend on it, and the decoder hardly does."""
    off = following.off(max(one.misfit for one in said))
    if not off <= PLACED:
        return f"what the decoder reaches is {off:.0e} from the features in the gradient, which may be another place's"
    # What tells one history from another has to be larger than what was refined away.
    needed = max(TOLD, APART * max(one.moved for one in said))
    told, apart = min(one.told for one in said), following.apart(said)
    if not told >= needed:
        return f"what came before the last piece moves the decoder by {told:.0e}, too little to tell the order"
    if not apart >= needed:
        return f"another sentence's context moves the decoder by {apart:.0e}, too little to tell sentences apart"
    return None


def _doubted(seen: Observation, read: Heard, said: list[Sentence]) -> str | None:
    """Why sentences that were followed to their ends are no proof; None where nothing speaks against."""
    refusal = bent(seen)
    if refusal is not None:
        return refusal.sentence
    why = miscounted(seen, len(said), "sentences")
    if why is not None:
        return why
    pieces = sum(len(one.outputs) for one in said)
    if pieces != read.space.rank:
        return f"{pieces} pieces were read of a gradient of {read.space.rank} directions"
    left, factor = _replayed(read, said, scaled=clipped(seen) is not Answer.NO)
    if not left <= WHOLE or not 0 < factor <= 1 + WHOLE:
        return f"the pieces give the output layer's gradient to {left:.0e} only"
    return strange(seen)
