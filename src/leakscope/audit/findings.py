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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.measures import DECIDING, LUCK, kind
from leakscope.audit.plan import Group, Plan
from leakscope.audit.promises import Promises, beside
from leakscope.core.facts import TrueLabels, TrueTranscripts
from leakscope.ledger.record import Finding, GainRecord, GroupVerdict, Word
from leakscope.scoring.metrics.guesses import LabelAccuracy


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


def findings(plan: Plan, verdicts: Sequence[GroupVerdict], promises: Promises) -> tuple[Finding, ...]:
    """One for each mechanism in each scene, in the plan's order. verdicts: of `plan.groups()`, in that order."""
    together: dict[tuple[str, str], list[int]] = {}
    groups = plan.groups()
    for place, group in enumerate(groups):
        together.setdefault((group.scene.name, repr(group.mechanism)), []).append(place)
    found = (_finding(plan, groups, verdicts, places) for places in together.values())
    return tuple(beside(one, [groups[place] for place in one.groups], verdicts, (promises, plan)) for one in found)


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


def _who(verdict: GroupVerdict) -> str:
    """The attack by its first word: reprs with all their settings stand in the groups below."""
    return verdict.attack.partition("(")[0]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
