"""From records to one of three words, by a rule that is written down.

A group is all trials of one scene, batch size, mechanism and attack. It is judged on its primary metric: PSNR where
inputs are claimed, label accuracy where labels are; of speech, the frame error where frames are claimed, the
character error rate where transcripts are and the piece error where bags of pieces are; of text, the token error. These
are errors and are read in decibels, -20 log10(error), so that one rule with one margin serves all: 3 dB above the blind
guess is an error below 71 % of its own. Where persons are named it is top-1, and what is said of labels holds for it.
A trial's *gain* is its mean score minus what a blind guess scores on the same secret: for inputs and transcripts the
blind control's own score, for labels the chance level, which is the expected score of the best blind guess. A trial
without a claim gains 0. Then:

Where the *replaced* control was run (each trial again, on a release for which the first private example was exchanged
for another of its class), what was scored there counts as a blind guess of that example, if it is the better one, and
the gain is that of these examples alone: what the class tells is no leak of the example. Of the controls it is what the
class tells undefended: behind noise it tells less, and against that a control would work better with more noise.

**leaks**, if any of these holds for the audited trials:

1. a certificate holds in some trial and its score confirms it (`proofs.certified`); one proved item that is wrong
   voids all certificates of the group (`proofs.refuted`), and the sentence reports the defect;
2. some input is recovered far beyond every blind guess, and beyond the public example nearest to it
   (`measures.recovered`);
3. there are at least 3 trials, the mean score is above chance, and the probability that luck alone looks like it is at
   most 1 % (`LUCK`): of a mean gain so far above 3 dB (inputs, transcripts), or of so many hits (labels, persons);
4. the attack claims inputs, was not told the labels, and the labels that it claims along leak by 1 or 3.

What the adversary was told leaks nothing when it is claimed again: a group that claims the labels or the transcripts
that it was told is inconclusive, and has no say in the finding.

**no leak found at this power**, if all of these hold. It is an equivalence test: what is not excluded is not cleared.

1. it does not leak, and nothing that was proved is wrong;
2. every planned trial, its undefended and its blind control ended with a claim, there are at least 3 trials, each trial
   claims something that this metric judges, and all together claim something of more than half of the private items
   (`measures.HEARD`): what is not claimed scores as a guess, so that an attack that abstains would clear everything; of
   labels it claims how often each occurs, since a set of them is understated by the metric that decides;
3. the undefended control leaks by the same rule, and by more than the smallest leak of interest (`evidence.SMALLEST`,
   or the plan's): the attack can work here. So does, of an attack that solves undefended and searches behind a defense,
   the search alone (`AbstractAttack.remaining`). Where a mechanism does more than to add noise, as samples and clips
   are, it does so on the same mechanism without its noise too (`AbstractMechanism.noiseless`); one that declares noise
   and does not say what that is clears nothing (`mechanisms.silencing`);
4. the upper end of the 95 % interval of the mean gain is below the smallest leak of interest, also where what is worse
   than a guess, or not claimed, counts as a guess (`evidence.Evidence.best`). This is the power. The sentence says how
   many trials that would take where it is not;
5. claimed labels and persons do not tell the true ones under other names (`renamed`), nor claimed transcripts
   the words or the letters in another order (`reordered`).

**inconclusive** otherwise: the sentence says which of these failed. So a refusal, a divergence, a crash, a control that
does not work, few trials or a wide interval never become an all-clear.

What a person asks about is the mechanism: `findings` joins the groups of one. The whole audit has the worst word of its
findings: leaks, then inconclusive, then no leak found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from leakscope.audit.evidence import (
    Evidence,
    evidence,
    excludes,
    highest,
    leaks,
    most,
    needed,
    smallest,
)
from leakscope.audit.measures import (
    HEARD,
    ITEM_BAR,
    NOTHING,
    SHARES,
    TRIALS,
    Records,
    kind,
    mean,
    primary,
    score_of,
)
from leakscope.audit.renamed import renaming
from leakscope.audit.reordered import reordering
from leakscope.core.attempt import ASSISTED
from leakscope.ledger.record import Ending, GainRecord, Word
from leakscope.scoring.metrics.features import FeatureError
from leakscope.scoring.metrics.guesses import LabelAccuracy, LabelSet
from leakscope.scoring.metrics.pieces import PieceError
from leakscope.scoring.metrics.speech import CharacterErrorRate
from leakscope.scoring.metrics.tokens import TokenError

WITHOUT_UNIT = {CharacterErrorRate.name: "errors per character"}
"""What the number of a metric without a unit counts."""
WHAT = {TokenError.name: "texts", FeatureError.name: "inputs of a layer", PieceError.name: "bags of pieces"}
"""What the items of these errors are; utterances of the others."""


@final
@dataclass(frozen=True)
class Trials:
    """The records of one group, one per planned trial; None where there is none. No torch, no files: easy to test."""

    audited: Records
    undefended: Records
    blind: Records
    labels_told: bool = False
    transcripts_told: bool = False
    own_control: bool = False
    smallest: Mapping[str, float] = field(default_factory=dict)
    replaced: Records = ()
    remaining: Records = ()
    undefended_replaced: Records = ()
    noiseless: Records = ()
    silent: bool = False
    unsilenced: str = ""


@final
@dataclass(frozen=True)
class Judgment:
    """The word for a group, the sentence that gives its numbers, and what each metric that was judged shows.

    The first of `gains` is of the metric that decides; the labels that were claimed along may follow.
    """

    word: Word
    sentence: str
    gains: tuple[GainRecord, ...] = ()


def judge(trials: Trials) -> Judgment:
    """The word for a group and the sentence that gives its numbers, by the rule at the top of this module."""
    metric = primary(trials.audited)
    if metric is not None and (said := _told(trials, metric)):
        return Judgment(Word.INCONCLUSIVE, _joined(said, _failures(trials.audited)))
    found = None if metric is None else evidence(metric, trials.audited, trials.blind, trials.replaced)
    along = _labels_along(trials, metric)
    doubt = _doubt(trials, found)
    gains = _gains(trials, found, doubt, along)
    failures, defect = _failures(trials.audited), "" if found is None else _defect(found)
    if found is not None and leaks(found):
        return Judgment(Word.LEAKS, _joined(_leak(found), _assisted(trials.audited), defect, failures), gains)
    if along is not None and leaks(along):
        said = f"the labels leak, the inputs were not found: {_leak(along)}"
        return Judgment(Word.LEAKS, _joined(said, defect, failures), gains)
    if found is None or doubt is not None or defect:
        # An attack whose proofs are wrong has no say in an all-clear either.
        return Judgment(Word.INCONCLUSIVE, _joined(doubt or "", defect), gains)
    control = evidence(found.metric, trials.undefended, trials.blind, trials.undefended_replaced)
    assert control is not None
    least = smallest(found.metric, trials.smallest)
    said = (
        f"{_against(found)}, over {len(found.gains)} trials: a gain of {_number(least)} {found.gain_unit} is excluded; "
        f"undefended, the same attack gains {_number(control.gain)} {control.gain_unit}"
    )
    if trials.remaining:
        left = evidence(found.metric, trials.remaining, trials.blind, trials.undefended_replaced)
        assert left is not None
        said += f", and {_number(left.gain)} by the part of it that defenses leave"
    if trials.noiseless:
        bare = evidence(found.metric, trials.noiseless, trials.blind, trials.undefended_replaced)
        assert bare is not None
        said += f"; without the noise, sampled and clipped as it is, {_number(bare.gain)}"
    return Judgment(Word.NO_LEAK_FOUND, said, gains)


def _gains(trials: Trials, found: Evidence | None, doubt: str | None, along: Evidence | None) -> tuple[GainRecord, ...]:
    """What each judged metric shows, for the finding about the mechanism."""
    if found is None:
        return ()
    # A doubt about the group (a crash, a control that cannot tell) is one about all that it claims.
    first = _gain(trials, found, cleared=doubt is None and not leaks(found) and not found.refuted)
    if along is None:
        return (first,)
    doubt = _doubt(trials, along)
    return first, _gain(trials, along, cleared=doubt is None and not leaks(along) and not along.refuted)


def _gain(trials: Trials, found: Evidence, *, cleared: bool) -> GainRecord:
    least = smallest(found.metric, trials.smallest)
    return GainRecord(
        metric=found.metric,
        unit=found.gain_unit,
        gain=found.gain,
        low=None if found.interval is None else found.interval.low,
        high=highest(found),
        best=most(found),
        smallest=least,
        luck=found.luck,
        # Right labels are always a matter of luck too, proved or not; how much of it, their `luck` says.
        proven=found.proven and found.metric not in SHARES,
        cleared=cleared,
        needed=needed(found, least),
    )


def _told(trials: Trials, metric: str) -> str:
    """Why what decides says nothing of the release: it was told. Empty where it was not."""
    if trials.labels_told and metric == LabelAccuracy.name:
        return "the labels were told, so that whoever claims them shows nothing of what the release let out"
    if trials.transcripts_told and metric in (CharacterErrorRate.name, PieceError.name):
        return "the transcripts were told, so that whoever claims them shows nothing of what the release let out"
    return ""


def _labels_along(trials: Trials, metric: str | None) -> Evidence | None:
    """What the labels show that an attack on inputs claims along, unless they were told."""
    if metric is None or metric == LabelAccuracy.name or trials.labels_told:
        return None
    return evidence(LabelAccuracy.name, trials.audited, trials.blind, trials.replaced)


def _doubt(trials: Trials, found: Evidence | None) -> str | None:
    """The first condition of "no leak found" that fails, in a sentence; None when all hold."""
    for side, what in (
        (trials.audited, ""),
        (trials.blind, "blind control: "),
        (trials.undefended, "control: "),
        (trials.remaining, "control, the part that defenses leave: "),
        (trials.noiseless, "control, without the noise: "),
    ):
        failures = _failures(side)
        if failures:
            return _joined(f"{what}{failures}", "" if found is None else _against(found))
    if found is None:
        return "no score that a verdict could be read from; the claim is none of inputs, labels, transcripts or persons"
    silent = _silent(found)
    if silent:
        return f"{_against(found)}; {silent}"
    if found.metric == LabelAccuracy.name and any(score_of(LabelSet.name, one) is not None for one in trials.audited):
        # Each class once, of a batch that holds it three times: right classes look like a guess.
        return (
            f"{_against(found)}; the attack claims which labels occur and not how often, which {found.metric} "
            "understates, so that it clears nothing"
        )
    if found.interval is None:
        return f"{_against(found)}; too few trials for an interval: {len(found.gains)}, needed are {TRIALS}"
    if trials.own_control:
        return f"{_against(found)}; without any defense this attack does not reliably beat a blind guess here"
    if trials.silent:
        return f"{_against(found)}; without any noise this attack does not reliably beat a blind guess here"
    if trials.unsilenced:
        return f"{_against(found)}; {trials.unsilenced}"
    least = smallest(found.metric, trials.smallest)
    said = _unable(trials, trials.undefended, found, "undefended the attack")
    if not said and trials.remaining:
        said = _unable(trials, trials.remaining, found, "undefended the part of the attack that defenses leave")
    if not said and trials.noiseless:
        who = "without the noise, sampled and clipped as it is, the attack"
        said = _unable(trials, trials.noiseless, found, who)
    if said:
        return said
    if not excludes(found, least):
        said = f"a gain of {_number(least)} {found.gain_unit} is not excluded{_more(found, least)}"
        return f"{_against(found)}{_hidden(found, least)}: {said}"
    said = renaming(trials.audited, found, least) or reordering(trials.audited, found, least)
    return f"{_against(found)}; {said}" if said else None


def _unable(trials: Trials, control: Records, found: Evidence, who: str) -> str:
    """Why `who` cannot tell, as `control` shows; empty where it can."""
    least, shown = (
        smallest(found.metric, trials.smallest),
        evidence(found.metric, control, trials.blind, trials.undefended_replaced),
    )
    if shown is None or not leaks(shown):
        return f"{_against(found)}, but {who} does not reliably beat it either: it cannot tell"
    if not shown.gain > least:
        return (
            f"{_against(found)}, but {who} gains no more than {_number(shown.gain)} "
            f"{shown.gain_unit}: it cannot tell a leak of {_number(least)} from none"
        )
    return ""


def _silent(found: Evidence) -> str:
    """Why a group says nothing about what its attack did not claim; empty where it claims enough to be judged."""
    none, what = sum(share == 0 for share in found.claims), kind(found.metric)
    if found.metric in (CharacterErrorRate.name, PieceError.name):
        what += " of half the true number" if found.metric == PieceError.name else " of half the true length"
    if none:
        return (
            f"in {none} of {len(found.claims)} trials the attack claims no {what}: what is not claimed scores as a "
            "guess, and an attack that abstains clears nothing"
        )
    if mean(found.claims) <= HEARD:
        return (
            f"the attack claims {what} for {mean(found.claims):.0%} of the private examples only: the others score as "
            "a guess, and an attack that mostly abstains clears nothing"
        )
    return ""


def _hidden(found: Evidence, least: float) -> str:
    """What the mean hides, where it alone would exclude a leak; empty otherwise."""
    if found.interval is None or found.best is None or found.interval.high >= least:
        return ""
    what = "not claimed" if found.metric in SHARES else "worse than a guess"
    return (
        f", and {_number(found.best.value)} [{_number(found.best.low)}, {_number(found.best.high)}] where what is "
        f"{what} counts as a guess"
    )


def _more(found: Evidence, least: float) -> str:
    """How many trials would exclude it, as far as that can be said."""
    if most(found) >= least:
        return ", and no number of trials would exclude what was found"
    count = needed(found, least)
    return "" if count is None else f"; about {count} trials like these would exclude it"


def _leak(found: Evidence) -> str:
    if found.metric in SHARES:
        hits, count = math.fsum(found.values), len(found.values)
        said = f"{hits:g} of {count} {SHARES[found.metric]}, chance {_number(found.chance * count)}"
    else:
        said = _against(found)
    if found.certified:
        said += f"; proved by its own equations in {found.certified} of {len(found.gains)} trials"
    if found.recovered:
        what, best, most = "inputs", max(found.values), f"at most {_number(max(found.blind))} dB"
        if found.is_error:
            what = WHAT.get(found.metric, "utterances")
            best, most = min(found.values), f"at least {min(found.blind):.3g} {found.unit}".rstrip()
        unit = found.unit or WITHOUT_UNIT.get(found.metric, "")
        # What stands in the brackets is of single examples: a redacted page leaves it out (`report.withheld.SINGLE`).
        said += (
            f"; {found.recovered} of {len(found.values)} {what} recovered more than {ITEM_BAR:g} dB beyond any blind "
            f"guess (best {f'{best:.3g} {unit}'.rstrip()}, blind {most})"
        )
    return said


def _defect(found: Evidence) -> str:
    """The sentence on certified claims that are wrong; empty without any."""
    if not found.refuted:
        return ""
    return (
        f"a defect of the attack: in {found.refuted} of {len(found.gains)} trials something that its certificate "
        "proves is wrong, or what its statement assumes is not so, so none of its certificates counts here"
    )


def _against(found: Evidence) -> str:
    interval = found.interval
    span = "" if interval is None else f" [{_number(interval.low)}, {_number(interval.high)}]"
    if found.is_error:
        value = f"{found.metric} {found.value:.3g} {found.unit}".rstrip()
        return f"{value}, {_number(found.gain)}{span} dB against the blind guess"
    return f"{found.metric} {_number(found.value)} {found.unit}, {_number(found.gain)}{span} against the blind guess"


def _assisted(side: Records) -> str:
    """What to hold claims against that public examples fill in; empty where none of the side's is such a one."""
    claimed = [one for one in side if one is not None and one.ending is Ending.CLAIMED]
    if not any(one.sentence.startswith(ASSISTED) for one in claimed):
        return ""
    return f"{ASSISTED}read it beside the nearest public example"


def _failures(side: Records) -> str:
    """How many trials have no claim and why, with the most frequent sentence of each ending."""
    lost = [record for record in side if record is None or record.ending is not Ending.CLAIMED]
    if not lost:
        return ""
    absent = sum(record is None for record in lost)
    sentences: dict[Ending, Counter[str]] = {}
    for record in lost:
        if record is not None:
            sentences.setdefault(record.ending, Counter())[record.sentence] += 1
    parts = [
        f"{sum(counter.values())} {ending.value} ({counter.most_common(1)[0][0]})"
        for ending, counter in sentences.items()
    ]
    if absent:
        parts.append(f"{absent} not run")
    return f"{len(lost)} of {len(side)} trials without a claim: {', '.join(parts)}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _number(value: float) -> str:
    return "0" if abs(value) < NOTHING else f"{value:.3g}"
