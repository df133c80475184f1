"""The portfolio: what can be solved is solved, labels are read, and the rest of the budget is searched from there."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.failing import FAILURES, failed
from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.attacks.inputs.dense.lowrank import LowRank
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.attacks.inputs.frames.long.long_frames import LongFrames
from leakscope.attacks.inputs.frames.probable.frame_likelihood import FrameLikelihood
from leakscope.attacks.inputs.layered.recursive import Recursive
from leakscope.attacks.inputs.matching.feature_inversion import FeatureInversion, masked, worthwhile
from leakscope.attacks.inputs.matching.image_recipes import idlg, inverting_gradients
from leakscope.attacks.inputs.matching.stages import FITS, Stage, overall_noise, stages
from leakscope.attacks.inputs.patches.first_attention import FirstAttention
from leakscope.attacks.labels.counts import LabelCounts, factor_of
from leakscope.attacks.parts.distance.distances import Squared
from leakscope.attacks.parts.labeling.labeling import AbstractLabeling, Held, Inferred
from leakscope.attacks.parts.priors.images import total_variation
from leakscope.attacks.parts.reading.trained import as_mean, as_trained
from leakscope.attacks.portfolio.in_turn import Several
from leakscope.core.arguments import instance
from leakscope.core.asking import gradient_of, replay_of
from leakscope.core.attempt import Attempt, Cost, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.effort import Budget, Clock, Watch
from leakscope.core.errors import BadInput, UnusableMechanism
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy
from leakscope.domains.text import Text
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.protocols.passes import quiet
from leakscope.mechanisms.reading import signs
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

EXACT: tuple[Attack[Inputs], ...] = (
    *(LinearLayer(), LowRank(), FirstAttention()),
    *(WindowedFrames(), LongFrames(), Recursive()),
)
"""In this order: each needs less of the model than the next, or costs less."""
NEARLY: tuple[Attack[Inputs], ...] = (FrameLikelihood(),)
"""What estimates in closed form where noise defeats the exact ones."""
ONE_BY_ONE = FeatureInversion()
PARTLY, MOSTLY = 0.3, 0.7
"""Share of the budget for it: where it ends well it needs few steps, and a search that matches needs the rest. More
behind dropout, where matching finds next to nothing."""
TRIED = 0.5
"""Share of the seconds for `LowRank`, which ends in moments where it ends well. In vain it went on until all was spent
(6 digits, 48 units: a minute), and what another attack had proved of a part was all that was handed on."""
SOLVED = 1e-13
"""Relative squared misfit below which nothing is left to be explained: rounding of float32."""
SOLVING = 1e-4
"""Relative squared misfit below which a search has found the valley, and another kind of search would leave it."""
ROUGH = 3.0
"""Orders of magnitude of misfit that total variation over the whole range is worth."""
ROUGH_SIGNED = 1.5
"""The same where only signs were sent. Their misfit falls slowly, hardly by one order of magnitude until all of them
agree, and with three to weigh against it what was smooth and did not fit was preferred (13.3 of 16.8 dB)."""


@final
@dataclass(frozen=True)
class Auto(AbstractAttack[tuple["Part", ...], Inputs]):
    """Exact attacks first; where none proves its claim, searches, each started from the best that was found so far.

    1. `LinearLayer`, `LowRank`, `FirstAttention`, `WindowedFrames`, `LongFrames`, `Recursive`: the first claim that
       its own certificate proves, for as many inputs as there are, is handed on.
       Of four samples and more, `FeatureInversion` is tried beside them with three tenths of the budget, where the
       deepest dense layer is fed half as many numbers as an input has (fewer leave out what pictures differ in);
       behind dropout between dense layers its claim is handed on, for no search can replay what was dropped.
    2. Labels, once for all searches: those that were told, else `LabelCounts`.
    3. Searches. Without declared noise: L-BFGS on the squared distance, which solves small smooth nets to the last
       digit, and else signed Adam on the cosine, which bears kinks, batches and lost scales, with less and less total
       variation and smaller and smaller steps, each leg from the end of the one before it (for pruned entries first
       on the squared distance; for signs on it alone, first with much of it). With noise of standard
       deviation s: signed Adam on the cosine, and from there the most probable images, squared distance + (2 s^2 / b)
       total variation with b = 0.05 of the range, the usual difference of neighbors, and then b = 0.2.
    4. The claim with the smallest misfit to the observed update is handed on, where ten times the misfit are worth a
       third of the range of total variation (of signs two thirds, and those that all but agree are alike); with noise
       the smoothest of those that fit. The private inputs play no part in the choice. Inputs that an exact attack
       proved for a part of the batch take the places of the nearest.

    Everything shares one budget; without one, searches do `evaluations` gradient evaluations altogether. The steps of
    the attempt tell what each part did and why it refused. With a checkpoint, parts that had ended are not run again.

    exact: whether step 1 is tried. smooth: whether L-BFGS is. Without both is what noise leaves (`remaining`).
    """

    evaluations: int = 3000
    exact: bool = True
    smooth: bool = True
    needs: ClassVar[frozenset[type[Fact]]] = frozenset()

    def __post_init__(self) -> None:
        if self.evaluations < 10:
            raise BadInput(f"expected evaluations >= 10, got {self.evaluations}")
        instance("exact", self.exact, bool, "write exact=False for the searches alone")
        instance("smooth", self.smooth, bool, "write smooth=False to leave L-BFGS out")

    @property
    def remaining(self) -> Auto | None:
        """The searches by signed Adam: no exact attack bears noise, nor does L-BFGS, and one of them often ends it."""
        return dataclasses.replace(self, exact=False, smooth=False) if self.exact or self.smooth else None

    @property
    def citation(self) -> str:
        """Those of its parts."""
        parts = (*EXACT, *NEARLY, ONE_BY_ONE, idlg(), inverting_gradients())
        return "\n\n".join(dict.fromkeys(part.citation for part in parts if part.citation))

    def _read(self, seen: Observation) -> tuple[Part, ...] | Refusal:
        if isinstance(seen.target.domain, Text):
            return Refusal("tokens are not searched for; EmbeddingSpan and EmbeddingRows solve for them")
        # One by one needs the features that the output layer's rows give, which noise closes as well.
        attacks = (*EXACT, *NEARLY, *((ONE_BY_ONE,) if worthwhile(seen) else ())) if self.exact else NEARLY
        solving = tuple(Part(attack, attack.ready(seen)) for attack in attacks)
        if any(isinstance(part.ready, Ready) for part in solving):
            return solving
        # only where nothing can be solved is it asked whether anything can be searched
        searching = tuple(Part(stage.attack, stage.attack.ready(seen)) for stage in stages(seen, smooth=self.smooth))
        if any(isinstance(part.ready, Ready) for part in searching):
            return solving
        said = [
            f"{_name(one.attack)}: {one.ready.sentence}"
            for one in (*solving, *searching)
            if isinstance(one.ready, Refusal)
        ]
        # The stages of a search are of one class and lack the same fact: said once.
        return Refusal(f"no part applies: {'; '.join(dict.fromkeys(said))}")

    def _attempt(
        self, seen: Observation, read: tuple[Part, ...], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        several = Several(clock, watch)
        told: list[str] = []
        partial: list[Attempt[Inputs]] = []
        spent = 0
        for part in read:
            attack = part.attack
            # Each may use all that is left: an exact attack ends by itself, but for `LowRank` in vain.
            budget = _left(clock, 1.0, spent=spent)
            if isinstance(attack, LowRank) and budget.seconds is not None:
                # Its rounds are no evaluations, of which it takes nothing away.
                budget = dataclasses.replace(budget, seconds=TRIED * budget.seconds)
            dropped = attack is ONE_BY_ONE and masked(seen)
            if attack is ONE_BY_ONE:
                # A search like those below, which may not take what they need.
                share = MOSTLY if dropped else PARTLY
                budget = _left(clock, share, evaluations=max(round(share * self.evaluations), 1), spent=spent)
            attempt = several.run(attack, part.ready, key=key.child(_name(attack)), budget=budget)
            spent += attempt.cost.evaluations
            told.append(f"{_name(attack)}: {attempt.outcome.value}, {attempt.sentence}")
            if _proves_all(attempt, seen) or attempt.outcome is Outcome.INTERRUPTED:
                named = _labeled(attempt, seen, key.child("labels"))
                return self._handed(named, told, _name(attack), spent)
            if dropped and _claimed(attempt) == seen.told(BatchSize).count:
                # Nobody can replay what was dropped, so the true images explain less of the gradient than wrong ones
                # that were searched for to explain it (digits: .5 of it is left, and .24 of what is 12 dB off).
                return self._handed(attempt, told, _name(attack), spent)
            # Not proved, or proved for fewer inputs than there are: a start for the searches, a candidate later.
            if attempt.claim is not None:
                partial.append(attempt)
        best, spent = self._searched(several, seen, key, (clock, told), partial, spent=spent)
        if best is None:
            # Refused where no search evaluated anything.
            outcome = Outcome.DIVERGED if spent else Outcome.REFUSED
            sentence = f"nothing was found; {told[-1]}"
            return Attempt(repr(self), outcome, sentence, cost=Cost(0.0, spent), steps=tuple(told))
        # The proof is of some inputs; the claim that is handed on is of all of them, and has no certificate.
        proved = max((one for one in partial if one.certified), key=_claimed, default=None)
        if proved is not None and best is not proved:
            best = _with_proved(best, proved)
            told.append(f"{proved.attack.partition('(')[0]}: the {_claimed(proved)} inputs that it proved are kept")
        return self._handed(best, told, best.attack.partition("(")[0], spent)

    def _searched(
        self,
        several: Several,
        seen: Observation,
        key: Key,
        around: tuple[Clock, list[str]],
        partial: list[Attempt[Inputs]],
        *,
        spent: int,
    ) -> tuple[Attempt[Inputs] | None, int]:
        """The best claim after the searches, and the evaluations that all took, `spent` of them before."""
        clock, told = around
        # What the parts before took is not there for these.
        room = max(self.evaluations - spent, 1)
        # Claims are compared as the searches look for them: in the mode that the update shows, as of a mean loss.
        judged = as_mean(as_trained(seen), factor_of(seen)) if seen.knows(BatchSize) else seen
        best = _best(partial, judged)
        before: Attempt[Inputs] | None = None
        last: Stage | None = None
        chain = False
        labeling: AbstractLabeling | None = None
        for stage in stages(seen, smooth=self.smooth):
            # Pure misfit, without the roughness of `_odds`: it asks whether there is something left to solve.
            misfit = math.inf if best is None else _misfit(best, judged)
            if clock.exhausted(spent) or misfit < SOLVED:
                break
            came = math.inf if before is None else _misfit(before, judged)
            if stage.sharpens and (last is None or last.attack.prior != stage.attack.prior or came > stage.fits):
                # Not told: it is a part of the leg before it, which has not come so far.
                continue
            why = _left_out(stage, misfit, came, chain=chain)
            if why:
                told.append(f"{stage.name}: left out, {why}")
                # Where a first leg is left out, those that follow it must not go on from an earlier chain.
                if not stage.follows and not stage.polishes:
                    before, chain = None, False
                continue
            if not stage.follows and not stage.polishes and not stage.sharpens:
                before, chain = None, True
            start = best if stage.polishes else before if stage.follows or stage.sharpens else None
            # All searches begin with the same labels: reading them can take longer than a leg.
            labeling = labeling or _read_once(judged, key=key.child("labels"), budget=clock.remaining(spent))
            attack = stage.started(None if start is None or start.claim is None else start.claim.values)
            attack = dataclasses.replace(attack, labeling=labeling)
            # Shares are of what is left, so what a search does not use goes to those after it.
            budget = _left(clock, stage.share, evaluations=round(stage.of_all * room), spent=spent)
            attempt = several.run(attack, attack.ready(seen), key=key.child(stage.name), budget=budget)
            spent += attempt.cost.evaluations
            told.append(f"{stage.name}: {attempt.outcome.value}, {attempt.sentence}")
            named = dataclasses.replace(attempt, attack=stage.name)
            # What polishes leaves the chain where it was.
            if named.claim is not None and not stage.polishes:
                before, last = named, stage
            best = _best([one for one in (best, named) if one is not None and one.claim is not None], judged)
            if attempt.outcome is Outcome.INTERRUPTED:
                break
        return best, spent

    def _handed(self, attempt: Attempt[Inputs], told: list[str], name: str, evaluations: int) -> Attempt[Inputs]:
        return dataclasses.replace(
            attempt,
            attack=repr(self),
            sentence=f"{name}: {attempt.sentence}",
            cost=Cost(0.0, evaluations),
            steps=(*told, f"handed on: {name}"),
        )


@final
@dataclass(frozen=True, eq=False)
class Part:
    """An attack of the portfolio with what it has read, or why it does not apply."""

    attack: Attack[Inputs]
    ready: Ready[Inputs] | Refusal


def _labeled(attempt: Attempt[Inputs], seen: Observation, key: Key) -> Attempt[Inputs]:
    """With labels, where the claim has none and they can be read: to each input the label that explains most.

    The labels are those of `LabelCounts`; they are dealt out so that the summed inner products of the gradients of
    (input, label) with the observed one are largest.
    """
    claim, target = attempt.claim, seen.target
    if claim is None or claim.labels is not None or claim.lengths is not None:
        return attempt
    if not acts_as(target.loss, CrossEntropy) or not seen.knows(BatchSize):
        return attempt
    labels = Inferred(LabelCounts())
    if labels.refusal(seen) is not None:
        return attempt
    values = labels.labels(seen, key=key, budget=Budget())
    if not isinstance(values, Tensor) or len(values) != len(claim):
        return attempt
    parameters = target.parameters()
    observed = trees.select(seen.gradient().by_name, parameters)
    # The observed gradient is a mean of the gradients of the true pairs, so a true pair tends to point along it: gain =
    # <g(x, l), observed> / |g(x, l)|, over the norm, since an unlikely label has a large gradient in any direction.
    gains = torch.zeros(len(claim), len(values))
    with quiet(target):
        for row, one in enumerate(claim.values.to(target.device())):
            # Labels that occur twice are one gradient; their columns get the same gain.
            for label in set(values.tolist()):
                slope = torch.func.grad(target.loss_at)(parameters, Batch(one[None], torch.tensor([label])))
                gain = sum(float((slope[name] * observed[name]).sum()) for name in observed)
                # A label of which the model is quite sure has no gradient, and explains nothing.
                gains[row, values == label] = gain / max(float(trees.norm(slope)), 1e-30)
    # A one-to-one dealing, for labels are known as a multiset: the best label for each input could take one twice.
    rows, columns = linear_sum_assignment(gains.numpy(), maximize=True)
    dealt = values[torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]]
    return dataclasses.replace(attempt, claim=Inputs(claim.values, dealt.cpu(), claim.confidence))


def _read_once(seen: Observation, *, key: Key, budget: Budget) -> AbstractLabeling:
    """The labels that searches infer, or why there are none."""
    labels = LabelCounts()
    try:
        return Held.of(Inferred(labels), seen, key=key, budget=budget)
    except FAILURES as error:
        return Held(Refusal(failed(labels, error).sentence))


def _left_out(stage: Stage, misfit: float, came: float, *, chain: bool) -> str:
    """Why this search is not run; empty when it is. came: the misfit of the claim of the one before it.

    chain: whether the first one of its legs was run. Where that found nothing, the next begins by itself.
    """
    if stage.polishes:
        return "" if misfit < SOLVING else "there is no smooth valley to go down"
    if not stage.sharpens and (came if stage.follows else misfit) <= stage.fits:
        return "what was sent is explained already, and with less total variation by noise as well"
    if stage.follows:
        return "" if chain else "there is nothing to go on from"
    return "a search before it has all but solved" if misfit < SOLVING else ""


def _with_proved(claim: Attempt[Inputs], proved: Attempt[Inputs]) -> Attempt[Inputs]:
    """The claim with each proved input in the place of the nearest one that was searched for, with that one's label."""
    assert claim.claim is not None
    assert proved.claim is not None
    values, sure = claim.claim.values, proved.claim.values
    if values.shape[1:] != sure.shape[1:] or claim.claim.lengths is not None:
        return claim
    # The nearest one is the same input less well found; no claimed input makes room for two.
    rows, columns = linear_sum_assignment(torch.cdist(sure.flatten(1), values.flatten(1)).numpy())
    merged = values.clone()
    merged[torch.from_numpy(columns)] = sure[torch.from_numpy(rows)].to(merged)
    return dataclasses.replace(claim, claim=Inputs(merged, claim.claim.labels, claim.claim.confidence))


def _name(attack: Attack[Inputs]) -> str:
    return type(attack).__name__


def _left(clock: Clock, share: float, *, evaluations: int | None = None, spent: int = 0) -> Budget:
    """A share of the seconds that are left; of evaluations what the budget leaves, else `evaluations`."""
    left = clock.remaining(spent)
    # A budget of nothing is none: a millisecond and one evaluation are the least.
    seconds = None if left.seconds is None else max(share * left.seconds, 1e-3)
    if left.evaluations is not None:
        return Budget(seconds, max(round(share * left.evaluations), 1))
    # `evaluations` bounds what nobody has bounded; where there are seconds, they do.
    return Budget(seconds, evaluations if seconds is None else None)


def _proves_all(attempt: Attempt[Inputs], seen: Observation) -> bool:
    """Whether a certificate holds for as many inputs as there are, as far as their number is known."""
    if not attempt.certified:
        return False
    return not seen.knows(BatchSize) or _claimed(attempt) >= seen.told(BatchSize).count


def _claimed(attempt: Attempt[Inputs]) -> int:
    return 0 if attempt.claim is None else len(attempt.claim)


def _implausible(squares: float, entries: int, inputs: Tensor) -> float:
    """How unlikely a claim is under noise: first how far its misfit is above that of noise, then how rough it is.

    At the truth |r|^2 / s^2 is n with standard deviation sqrt(2 n). Within three of them all claims fit as well as the
    truth, and the smoothest is the best guess (Morozov's discrepancy principle).
    """
    # |r|^2 / s^2 is chi-squared with n degrees of freedom at the truth.
    beyond = max((squares - entries) / math.sqrt(2 * entries) - 3, 0.0)
    # So small that it only decides among claims that fit.
    return beyond + 1e-3 * float(total_variation(inputs))


def _best(attempts: list[Attempt[Inputs]], seen: Observation) -> Attempt[Inputs] | None:
    """The claim that fits best and is not rough; the first of several that cannot be compared."""
    return min(attempts, key=lambda one: _odds(one, seen), default=None)


def _odds(attempt: Attempt[Inputs], seen: Observation) -> float:
    """log10 of the misfit plus `ROUGH` total variation, in units of the range; with noise `_misfit` itself.

    A search without a prior drives the misfit down by noise in the image; one that really solves it goes much lower.
    """
    misfit = _misfit(attempt, seen)
    # `_implausible` has weighed the roughness already.
    if not math.isfinite(misfit) or attempt.claim is None or overall_noise(seen) > 0:
        return misfit
    values = attempt.claim.values
    low, high = seen.target.domain.bounds(values)
    rough = float(total_variation((values - low) / (high - low))) if values.dim() > 2 else 0.0
    # A misfit of 0 needs a logarithm too; below the floor, itself below `SOLVED`, differences are rounding.
    weight = ROUGH_SIGNED if signs(seen.mechanism) is Answer.YES else ROUGH
    return math.log10(misfit + 1e-16) + weight * rough


def _misfit(attempt: Attempt[Inputs], seen: Observation) -> float:
    """|replay - observed|^2 / |observed|^2 on what was sent; with noise how unlikely the claim is.

    Infinite for sequences, and for claims of another number of inputs than the batch has.
    """
    claim = attempt.claim
    # The replay needs labels, and of sequences transcripts.
    if claim is None or claim.labels is None or claim.lengths is not None:
        return math.inf
    if seen.knows(BatchSize) and len(claim) != seen.told(BatchSize).count:
        return math.inf
    device = seen.target.device()
    # Buffers are no part of a replay.
    observed = trees.select(seen.gradient().by_name, seen.target.parameters())
    batch = Batch(claim.values.to(device), claim.labels.to(device))
    with torch.no_grad():
        # What the client would have sent, defenses included, noise not: at the truth the rest is the noise.
        try:
            sent = replay_of(seen.step, seen.target, batch, observed)
            replayed = gradient_of(seen.step, sent, seen.target.parameters()).by_name
        # Nothing is known of how well it fits, which must not cost what was found.
        except UnusableMechanism:
            return math.inf
        rest = float(Squared()(trees.select(replayed, observed), observed))
        scale = float(trees.norm(observed)) ** 2
        noise = overall_noise(seen)
        if noise > 0:
            return _implausible(rest / noise**2, sum(value.numel() for value in observed.values()), batch.inputs)
    # An update of zeros: only a replay of zeros fits it.
    misfit = rest / max(scale, 1e-300)
    return max(misfit, FITS) if signs(seen.mechanism) is Answer.YES else misfit
