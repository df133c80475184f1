"""What is found about a mechanism: the groups of one scene that judge it, joined to one word.

What is asked is whether an update may leave the device, and not whether one attack worked. So, for each mechanism in
each scene:

**leaks**, if any of its groups recovered something that no luck explains, or if one leaks beyond luck even when all
of them are judged together. Twenty attacks on nothing would find something at the 5 % level; Holm's procedure (1979,
Scand. J. Statist. 6, p. 65) holds the probability that any of them does to `evidence.LUCK`.

**no leak found at this power**, if none leaks and, for each kind of thing that was claimed (inputs, labels, ...) at
each batch size, at least one attack was conclusive: it can find such a leak undefended, and its interval excludes one
here.

**inconclusive** otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from leakscope.audit.evidence import LUCK
from leakscope.audit.plan import Group, Plan
from leakscope.ledger.record import Finding, GainRecord, GroupVerdict, Word
from leakscope.scoring.metrics.guesses import LabelAccuracy
from leakscope.scoring.metrics.ranks import TopOne
from leakscope.scoring.metrics.speech import CharacterErrorRate

KINDS = {LabelAccuracy.name: "labels", CharacterErrorRate.name: "transcripts", TopOne.name: "persons"}
"""What is claimed where this metric decides; inputs for all others."""


@final
@dataclass(frozen=True)
class _Test:
    """One metric of one group: a question that luck may answer with yes."""

    place: int
    group: Group
    verdict: GroupVerdict
    gain: GainRecord


def findings(plan: Plan, verdicts: Sequence[GroupVerdict]) -> tuple[Finding, ...]:
    """One for each mechanism in each scene, in the plan's order. verdicts: of `plan.groups()`, in that order."""
    together: dict[tuple[str, str], list[int]] = {}
    groups = plan.groups()
    for place, group in enumerate(groups):
        together.setdefault((group.scene.name, repr(group.mechanism)), []).append(place)
    return tuple(_finding(plan, groups, verdicts, places) for places in together.values())


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
    word, attack, sentence = _joined(tests, certain, beyond, [verdicts[place] for place in places])
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


def _joined(
    tests: Sequence[_Test], certain: Sequence[_Test], beyond: Sequence[_Test], verdicts: Sequence[GroupVerdict]
) -> tuple[Word, str, str]:
    """The word, the attack that leaks most, and the sentence."""
    leaking = [*certain, *(one for one in beyond if one not in certain)]
    if leaking:
        # What was proved comes first, then what gains most, counted in what would matter.
        best = max(leaking, key=lambda one: (one.gain.proven, one.gain.gain / one.gain.smallest))
        count = len({one.place for one in leaking})
        others = f"; {count} of {len(verdicts)} attacks leak" if count > 1 else ""
        said = f"{_who(best.verdict)}: {best.verdict.sentence}{others}{_luck(best, tests)}"
        return Word.LEAKS, best.verdict.attack, said
    missed = [one for one in tests if one.gain.luck <= LUCK]
    if missed:
        least = min(missed, key=lambda one: one.gain.luck)
        said = (
            f"{_who(least.verdict)} looks like a leak, which luck does with a probability of {least.gain.luck:.1g}: "
            f"not beyond it among {len(tests)} tests judged together (Holm); more trials would tell"
        )
        return Word.INCONCLUSIVE, "", said
    undecided = _undecided(tests)
    if not undecided and tests:
        return Word.NO_LEAK_FOUND, "", _cleared(tests)
    return Word.INCONCLUSIVE, "", _doubts(undecided, verdicts)


def _undecided(tests: Sequence[_Test]) -> tuple[str, ...]:
    """The kinds of things, with their batch size where there are several, that no attack was conclusive about."""
    sizes = {one.group.batch_size for one in tests}
    asked: dict[tuple[str, int], bool] = {}
    for one in tests:
        key = (kind(one.gain.metric), one.group.batch_size)
        asked[key] = asked.get(key, False) or one.gain.cleared
    return tuple(
        f"{what} in batches of {size}" if len(sizes) > 1 else what
        for (what, size), cleared in asked.items()
        if not cleared
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


def _doubts(undecided: Sequence[str], verdicts: Sequence[GroupVerdict]) -> str:
    """What is open, and the sentence of the first group that leaves it open."""
    open_ = next(one for one in verdicts if one.word is not Word.NO_LEAK_FOUND)
    what = f"no attack was conclusive about {', '.join(undecided)}; " if undecided else ""
    return f"{what}{_who(open_)}: {open_.sentence}"


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
