"""What is found about a mechanism: the groups of one scene that judge it, joined to one word.

What is asked is whether an update may leave the device, and not whether one attack worked. So, for each mechanism in
each scene:

**leaks**, if any of its groups recovered something that no luck explains, or if one leaks beyond luck even when all
of them are judged together. Twenty attacks on nothing would find something at the 5 % level; Holm's procedure (1979,
Scand. J. Statist. 6, p. 65) holds the probability that any of them does to `evidence.LUCK`.

**no leak found at this power**, if none leaks and, for each kind of thing that was claimed (inputs, labels, ...) at
each batch size, at least one attack was conclusive: it can find such a leak undefended, and its interval excludes one
here. What an attack claims undefended and not here (it refuses, diverges, crashes, or claims labels alone) is among
these kinds: else it would clear by its silence. And no other attack may gain as much as the smallest leak of interest,
beyond luck or not: a weak attack that is conclusive excludes nothing that a stronger one may have found.

**inconclusive** otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.measures import DECIDING, LUCK, SHARES
from leakscope.audit.plan import Group, Plan
from leakscope.audit.telling import private_facts
from leakscope.audit.theory import (
    MOST_TRIALS,
    Theory,
    contradiction,
    guesses_needed,
    largest_power,
    largest_share,
    replaced_epsilon,
    scores_needed,
    theory,
)
from leakscope.core.facts import Fact, Gallery, Suspects, TrueLabels, TrueTranscripts
from leakscope.core.mechanism import AbstractMechanism
from leakscope.ledger.record import Finding, GainRecord, GroupVerdict, ScoreRecord, Word
from leakscope.scoring.metrics.features import FeatureError
from leakscope.scoring.metrics.guesses import LabelAccuracy
from leakscope.scoring.metrics.pieces import PieceError
from leakscope.scoring.metrics.ranks import TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate

KINDS = {
    LabelAccuracy.name: "labels",
    CharacterErrorRate.name: "transcripts",
    PieceError.name: "pieces",
    TopOne.name: "persons",
    FeatureError.name: "features",
}
"""What is claimed where this metric decides; inputs for all others. What a deep layer was fed is no input: that nobody
finds it says nothing of the pictures that the first layer was fed."""


@final
@dataclass(frozen=True)
class _Test:
    """One metric of one group: a question that luck may answer with yes."""

    place: int
    group: Group
    verdict: GroupVerdict
    gain: GainRecord


@final
@dataclass(frozen=True)
class _Tests:
    """Those of a finding: all, those that no luck explains, and those beyond luck.

    silent: what attacks claim undefended that claim nothing here, with the batch size.
    """

    all: Sequence[_Test]
    certain: Sequence[_Test]
    beyond: Sequence[_Test]
    silent: tuple[tuple[str, int], ...]


Sized = Sequence[tuple[GroupVerdict, int]]
"""Groups, each with the size of its batches."""

Told = Collection[type[Fact]]
"""The kinds of facts that the adversary of a scene is told."""


@final
class Promises:
    """What theory says of the mechanisms of a plan, each computed once: it takes half a second."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._known: dict[str, Theory | None] = {}
        self._needed: dict[str, int | None] = {}

    def of(self, mechanism: AbstractMechanism) -> Theory | None:
        """The promises of this mechanism; None where they cannot be computed."""
        name = repr(mechanism)
        if name not in self._known:
            self._known[name] = theory(mechanism, delta=self._delta)
        return self._known[name]

    def too_few(self, mechanism: AbstractMechanism, trials: int) -> str:
        """Why scores of so many trials cannot break the promise, however good they are; empty where they could."""
        promised = self.of(mechanism)
        if promised is None or math.isinf(promised.epsilon):
            return ""
        name = repr(mechanism)
        if name not in self._needed:
            self._needed[name] = scores_needed(mechanism)
        return _too_few(trials, "trials of the replaced control", self._needed[name])


def findings(plan: Plan, verdicts: Sequence[GroupVerdict], promises: Promises) -> tuple[Finding, ...]:
    """One for each mechanism in each scene, in the plan's order. verdicts: of `plan.groups()`, in that order."""
    together: dict[tuple[str, str], list[int]] = {}
    groups = plan.groups()
    for place, group in enumerate(groups):
        together.setdefault((group.scene.name, repr(group.mechanism)), []).append(place)
    found = (_finding(plan, groups, verdicts, places) for places in together.values())
    return tuple(_beside(one, [groups[place] for place in one.groups], verdicts, (promises, plan)) for one in found)


def holm(lucks: Sequence[float]) -> tuple[float, ...]:
    """The lucks corrected for being judged together: max over j <= i of (m - j) luck_(j), sorted, at most 1.

    What stays at or below a level may be called found, and the probability that any of them is found wrongly is at most
    that level, whatever they have to do with each other.

    >>> holm([0.004, 0.5, 0.001])
    (0.008, 0.5, 0.003)
    """
    order = sorted(range(len(lucks)), key=lambda place: lucks[place])
    corrected, worst = [1.0] * len(lucks), 0.0
    for rank, place in enumerate(order):
        # Once one is not beyond luck, none that is less so may be.
        worst = max(worst, min(1.0, (len(lucks) - rank) * lucks[place]))
        corrected[place] = worst
    return tuple(corrected)


def _finding(plan: Plan, groups: Sequence[Group], verdicts: Sequence[GroupVerdict], places: Sequence[int]) -> Finding:
    tests = [_Test(place, groups[place], verdicts[place], gain) for place in places for gain in verdicts[place].gains]
    corrected = holm([one.gain.luck for one in tests])
    certain = [one for one in tests if one.gain.proven]
    beyond = [one for one, luck in zip(tests, corrected, strict=True) if luck <= LUCK]
    first, verdict = groups[places[0]], verdicts[places[0]]
    own = [verdicts[place] for place in places]
    silent = _silenced(plan, [groups[place] for place in places], own)
    word, attack, sentence = _joined(_Tests(tests, certain, beyond, silent), own)
    return Finding(
        scene=first.scene.name,
        target=verdict.target,
        dataset=verdict.dataset,
        mechanism=plan.name(first.mechanism),
        word=word,
        sentence=sentence,
        groups=tuple(places),
        attack=attack,
        luck=0.0 if certain else min(corrected, default=1.0),
    )


def _beside(
    finding: Finding, groups: Sequence[Group], verdicts: Sequence[GroupVerdict], known: tuple[Promises, Plan]
) -> Finding:
    """The finding with what theory says; where more was found than it allows, the promise is broken, and that leaks."""
    promises, plan = known
    own, mechanism = [verdicts[place] for place in finding.groups], groups[0].mechanism
    sized = list(zip(own, (group.batch_size for group in groups), strict=True))
    promised = promises.of(mechanism)
    told = plan.told_in(groups[0].scene)
    broken = _broken(mechanism, sized, told)
    said: dict[str, object] = {
        "theory": _theory(finding, mechanism, promised, own, told) + _uncompared(mechanism, promised, sized, told),
        "broken": broken,
    }
    if broken:
        said |= {"word": Word.LEAKS, "sentence": f"the mechanism breaks its promise: {broken}; {finding.sentence}"}
    return finding.model_copy(update=said)


def _theory(
    finding: Finding,
    mechanism: AbstractMechanism,
    promised: Theory | None,
    verdicts: Sequence[GroupVerdict],
    told: Told,
) -> str:
    if promised is None:
        return ""
    if math.isinf(promised.epsilon):
        # A leak needs no bound beside it; of anything else it is what a reader has to know.
        return "" if finding.word is Word.LEAKS else "theory allows more: nothing bounds what other attacks may find"
    hidden = "" if promised.adjacency is None else f", which hides {promised.adjacency.value}"
    said = f"theory: epsilon {promised.epsilon:.3g} at delta {promised.delta:g} for one release{hidden}"
    if promised.training_epsilon < promised.epsilon:
        said += f" ({promised.training_epsilon:.3g} for a round of training where nobody knows who takes part)"
    return said + _allowed(mechanism, verdicts, told) + _observed(mechanism, verdicts, promised.delta, told)


def _observed(mechanism: AbstractMechanism, verdicts: Sequence[GroupVerdict], delta: float, told: Told) -> str:
    """What the replaced control has shown of epsilon, and what the event allows; empty where it was not run."""
    shown = [one.observed_epsilon for one in verdicts if one.observed_epsilon is not None]
    if not shown or _tells_which(told):
        return ""
    allowed = replaced_epsilon(mechanism, delta=delta)
    most = "" if allowed is None or math.isinf(allowed) else f"; theory allows {allowed:.3g}"
    return (
        f"; an example and another in its place were told apart as by an epsilon of at least {max(shown):.3g} "
        f"(95 % confidence{most})"
    )


def _allowed(mechanism: AbstractMechanism, verdicts: Sequence[GroupVerdict], told: Told) -> str:
    """What share of right guesses that allows, beside the share that was found."""
    # Of labels that were told, none is a guess.
    known = {LabelAccuracy.name} if TrueLabels in told else set()
    shares = [score for verdict in verdicts for score in verdict.scores if score.metric in SHARES.keys() - known]
    if not shares:
        power = largest_power(mechanism, fpr=0.01)
        return "" if power is None else f"; it allows tests with up to {power:.0%} true at 1 % false positives"
    found = max(shares, key=lambda score: score.value)
    most = largest_share(mechanism, chance=found.chance)
    if most is None or most <= found.value:
        return ""
    return (
        f"; theory allows more than was found: {most:.0%} of {kind(found.metric)} right, found were {found.value:.0%}"
    )


def _broken(mechanism: AbstractMechanism, groups: Sized, told: Told) -> str:
    """The first contradiction between what was found and the declared event; empty where there is none.

    Only where the game is the one that the event bounds: the replaced control, one guess which of two suspects is in,
    or of a label or a person about one example, released alone (`theory.contradiction`). A trial without a claim is a
    guess that is not right: of the releases of which an attack is sure more guesses are right than of all, and it is
    all that the event bounds.
    """
    for verdict, size in groups:
        if verdict.broken and not _tells_which(told):
            return verdict.broken
        for score in verdict.scores:
            # `_why_no_guesses` says of the others why they are left out.
            if score.metric in SHARES and not _another_game(score, size, told) and _one_each(score, verdict):
                right, chance = math.floor(math.fsum(score.items)), _chance(score, verdict)
                said = contradiction(mechanism, right=right, guesses=verdict.finished, chance=chance)
                if said is not None:
                    return said
    return ""


def _another_game(score: ScoreRecord, size: int, told: Told) -> str:
    """Why these guesses are not of what one example brought into the release; empty where they are."""
    # Which of two suspects it is: one question of one example, whatever else is in the batch and is known of it.
    member = score.metric == TopOne.name and Suspects in told and Gallery not in told
    # The suspects are of one class, so that labels do not tell them apart.
    known = private_facts(one for one in told if not (member and one in (Suspects, TrueLabels)))
    if known:
        return f"the adversary was told {', '.join(known)}, so that what was found is not the release's alone"
    return "" if member or size == 1 else f"{kind(score.metric)} of batches of several examples are another game"


def _tells_which(told: Told) -> bool:
    """Whether something besides the release says if it holds the example or the other one in its place.

    Suspects do: one of them is in what is sent. All other facts are of the private batch on both sides (`cell.set_up`),
    and what an adversary knows besides, a promise holds against.
    """
    return Suspects in told


def _one_each(score: ScoreRecord, verdict: GroupVerdict) -> bool:
    """Whether it is of one guess for each trial: two in every other one are as many."""
    return 0 < len(score.items) <= verdict.finished


def _chance(score: ScoreRecord, verdict: GroupVerdict) -> float:
    """That of all trials where it is known, and not only of those in which something was claimed."""
    blind = next((one for one in verdict.blind_scores if one.metric == score.metric), score)
    return max(score.chance, blind.chance)


def _uncompared(mechanism: AbstractMechanism, promised: Theory | None, groups: Sized, told: Told) -> str:
    """That nothing that was found could have broken the promise, and why; empty where something could.

    A promise that no result could have contradicted was not tested, and silence would look as if it had been kept.
    """
    if promised is None or math.isinf(promised.epsilon):
        return ""
    reasons = dict.fromkeys(_why_no_guesses(mechanism, groups, told))
    if _tells_which(told):
        reasons["what is told of the batch says which example it holds"] = None
    else:
        reasons |= dict.fromkeys(
            one.uncompared if one.replaced else "the replaced control was not run (replaced = true)"
            for one, _ in groups
        )
    return "" if "" in reasons else f"; not tested: no result could have broken this promise: {'; '.join(reasons)}"


def _why_no_guesses(mechanism: AbstractMechanism, groups: Sized, told: Told) -> Iterator[str]:
    """For each score of labels or persons why it could not have been a `contradiction`; empty where it could."""
    for verdict, size in groups:
        for score in verdict.scores:
            if score.metric not in SHARES or not score.items:
                continue
            why = _another_game(score, size, told)
            if not why and not _one_each(score, verdict):
                why = f"{kind(score.metric)} of batches of several examples are another game"
            if why:
                yield why
            else:
                what, chance, count = f"guesses of {kind(score.metric)}", _chance(score, verdict), len(score.items)
                few = _too_few(count, what, guesses_needed(mechanism, chance=chance))
                if few or contradiction(mechanism, right=count, guesses=verdict.finished, chance=chance):
                    yield few
                else:
                    yield f"{count} {what} are too few of {verdict.finished} trials, where one without counts as wrong"


def _too_few(count: int, what: str, needed: int | None) -> str:
    if needed is not None and needed <= count:
        return ""
    takes = f"{MOST_TRIALS} would not do" if needed is None else f"it takes about {needed}"
    return f"{count} {what} are too few, {takes}"


def _silenced(plan: Plan, groups: Sequence[Group], verdicts: Sequence[GroupVerdict]) -> tuple[tuple[str, int], ...]:
    """What attacks claim undefended and not here, but for what was told, with the batch size.

    Of the metrics that decide: one that claims pictures undefended, and here their labels alone, is silent about
    pictures.
    """
    found: dict[tuple[str, int], None] = {}
    for group, verdict in zip(groups, verdicts, strict=True):
        told = plan.told_in(group.scene)
        known = {"labels"} if TrueLabels in told else set()
        known |= {"transcripts", "pieces"} if TrueTranscripts in told else set()
        known |= {kind(gain.metric) for gain in verdict.gains}
        # As `verdict.judge` would: by the metric that decides, which comes first, and by labels that come along.
        metrics = [score.metric for score in verdict.undefended_scores]
        for metric in (*metrics[:1], *(one for one in metrics[1:] if one == LabelAccuracy.name)):
            if metric in DECIDING and kind(metric) not in known:
                found[kind(metric), group.batch_size] = None
    return tuple(found)


def _joined(tests: _Tests, verdicts: Sequence[GroupVerdict]) -> tuple[Word, str, str]:
    """The word, the attack that leaks most, and the sentence."""
    leaking = [*tests.certain, *(one for one in tests.beyond if one not in tests.certain)]
    if leaking:
        # What was proved comes first, then what gains most, counted in what would matter.
        best = max(leaking, key=lambda one: (one.gain.proven, one.gain.gain / one.gain.smallest))
        count = len({one.place for one in leaking})
        others = f"; {count} of {len(verdicts)} attacks leak" if count > 1 else ""
        said = f"{_who(best.verdict)}: {best.verdict.sentence}{others}{_luck(best, tests.all)}"
        return Word.LEAKS, best.verdict.attack, said
    missed = [one for one in tests.all if one.gain.luck <= LUCK]
    if missed:
        least = min(missed, key=lambda one: one.gain.luck)
        said = (
            f"{_who(least.verdict)} looks like a leak, which luck does with a probability of {least.gain.luck:.1g}: "
            f"not beyond it among {len(tests.all)} tests judged together (Holm); more trials would tell"
        )
        return Word.INCONCLUSIVE, "", said
    if not tests.all or _undecided(tests):
        return Word.INCONCLUSIVE, "", _doubts(tests, verdicts)
    large = [one for one in tests.all if not one.gain.cleared and _most(one.gain) >= one.gain.smallest]
    if large:
        return Word.INCONCLUSIVE, "", _large(max(large, key=lambda one: _most(one.gain) / one.gain.smallest))
    return Word.NO_LEAK_FOUND, "", _cleared(tests.all)


def _large(one: _Test) -> str:
    """That an attack gains what would be a leak of interest were it beyond luck, while others are conclusive."""
    gain = one.gain
    return (
        f"{_who(one.verdict)} gains {_number(_most(gain))} [{_number(gain.low)}, {_number(gain.high)}] in "
        f"{kind(gain.metric)}: as much as the smallest leak of interest, {_number(gain.smallest)} {gain.unit}, though "
        "luck may do it too; what other attacks exclude they exclude of themselves alone; more trials would tell"
    )


def _most(gain: GainRecord) -> float:
    """The mean gain, or that of who never does worse than a guess."""
    return gain.gain if gain.best is None else max(gain.gain, gain.best)


def _undecided(tests: _Tests) -> tuple[str, ...]:
    """The kinds of things, with their batch size where there are several, that no attack was conclusive about."""
    asked = dict.fromkeys(tests.silent, False)
    for one in tests.all:
        key = (kind(one.gain.metric), one.group.batch_size)
        asked[key] = asked.get(key, False) or one.gain.cleared
    several = len({size for _, size in asked}) > 1
    return tuple(
        f"{what} in batches of {size}" if several else what for (what, size), cleared in asked.items() if not cleared
    )


def _cleared(tests: Sequence[_Test]) -> str:
    """What was excluded, kind by kind, by the attack that excludes most."""
    best: dict[str, _Test] = {}
    for one in (one for one in tests if one.gain.cleared):
        what = kind(one.gain.metric)
        high = math.inf if one.gain.high is None else one.gain.high
        if what not in best or high < (best[what].gain.high or math.inf):
            best[what] = one
    said = [
        f"{what}: gain at most {_number(one.gain.high)} {one.gain.unit} with {_who(one.verdict)}, "
        f"a leak of {_number(one.gain.smallest)} is excluded"
        for what, one in best.items()
    ]
    return "; ".join(said)


def _doubts(tests: _Tests, verdicts: Sequence[GroupVerdict]) -> str:
    """What is open, and why: the sentence of the first group that leaves it open, or the figures of what came along."""
    undecided = _undecided(tests)
    what = f"no attack was conclusive about {', '.join(undecided)}; " if undecided else ""
    doubtful = next((one for one in verdicts if one.word is not Word.NO_LEAK_FOUND), None)
    if doubtful is not None:
        return f"{what}{_who(doubtful)}: {doubtful.sentence}"
    first = next((one for one in tests.all if not one.gain.cleared), None)
    if first is None:
        return f"{what}undefended an attack claims that, and here it does not: it excludes nothing of it"
    more = "" if first.gain.needed is None else f"; about {first.gain.needed} trials like these would exclude it"
    return (
        f"{what}{_who(first.verdict)} gains {_number(first.gain.gain)} [{_number(first.gain.low)}, "
        f"{_number(first.gain.high)}] in {kind(first.gain.metric)}: a gain of {_number(first.gain.smallest)} "
        f"{first.gain.unit} is not excluded{more}"
    )


def _luck(best: _Test, tests: Sequence[_Test]) -> str:
    if best.gain.proven or len(tests) == 1:
        return ""
    return f"; beyond luck at {LUCK:.0%} among {len(tests)} tests judged together (Holm)"


def kind(metric: str) -> str:
    """What is claimed where this metric decides.

    >>> kind("psnr"), kind("label-accuracy")
    ('inputs', 'labels')
    """
    return KINDS.get(metric, "inputs")


def _who(verdict: GroupVerdict) -> str:
    """The attack by its first word: reprs with all their settings stand in the groups below."""
    return verdict.attack.partition("(")[0]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
