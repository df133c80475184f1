"""Which results may be held against a mechanism's promise, and the line of theory beside its finding (`theory`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import final

from leakscope.audit.measures import SHARES, kind
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
    replaced_power,
    scores_needed,
    theory,
)
from leakscope.core.facts import Fact, Gallery, Suspects, TrueLabels
from leakscope.core.mechanism import AbstractMechanism
from leakscope.ledger.record import Finding, GroupVerdict, ScoreRecord, Word
from leakscope.numerics.decimals import downward, upward, upward_share
from leakscope.scoring.metrics.ranks import TopOne

Judged = Sequence[tuple[GroupVerdict, Group]]
"""What was found of groups, each with what was planned: the size of its batches, what its attack asks to be told."""

Told = Collection[type[Fact]]
"""The kinds of facts that the adversary of a scene is told."""


@final
class Promises:
    """What theory says of the mechanisms of a plan, each computed once: it takes half a second."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._known: dict[str, Theory | None] = {}
        self._needed: dict[str, int | None] = {}
        self._allowed: dict[str, float | None] = {}
        self._powers: dict[tuple[str, float], float | None] = {}

    @property
    def delta(self) -> float:
        """At which epsilon is given."""
        return self._delta

    def of(self, mechanism: AbstractMechanism) -> Theory | None:
        """The promises of this mechanism; None where they cannot be computed."""
        name = repr(mechanism)
        if name not in self._known:
            self._known[name] = theory(mechanism, delta=self._delta)
        return self._known[name]

    def allowed(self, mechanism: AbstractMechanism) -> float | None:
        """The largest epsilon that the replaced control may show (`replaced_epsilon`)."""
        name = repr(mechanism)
        if name not in self._allowed:
            self._allowed[name] = self._unless_open(
                mechanism, math.inf, lambda: replaced_epsilon(mechanism, delta=self._delta)
            )
        return self._allowed[name]

    def power(self, mechanism: AbstractMechanism, fpr: float) -> float | None:
        """The largest share of examples that are told from others in their place (`replaced_power`)."""
        key = repr(mechanism), fpr
        if key not in self._powers:
            self._powers[key] = self._unless_open(mechanism, 1.0, lambda: replaced_power(mechanism, fpr=fpr))
        return self._powers[key]

    def _unless_open(
        self, mechanism: AbstractMechanism, most: float, asked: Callable[[], float | None]
    ) -> float | None:
        """What is asked; `most` where nothing is promised, and None where nobody knows."""
        promised = self.of(mechanism)
        if promised is None:
            return None
        return most if math.isinf(promised.epsilon) else asked()

    def too_few(self, mechanism: AbstractMechanism, trials: int) -> str:
        """Why scores of so many trials cannot break the promise, however good they are; empty where they could."""
        promised = self.of(mechanism)
        if promised is None or math.isinf(promised.epsilon):
            return ""
        name = repr(mechanism)
        if name not in self._needed:
            self._needed[name] = scores_needed(mechanism)
        return _too_few(trials, "trials of the replaced control", self._needed[name])


def beside(
    finding: Finding, groups: Sequence[Group], verdicts: Sequence[GroupVerdict], known: tuple[Promises, Plan]
) -> Finding:
    """The finding with what theory says; where more was found than it allows, the promise is broken, and that leaks."""
    promises, plan = known
    mechanism = groups[0].mechanism
    judged = list(zip((verdicts[place] for place in finding.groups), groups, strict=True))
    promised = promises.of(mechanism)
    told = plan.told_in(groups[0].scene)
    broken = _broken(mechanism, judged, told)
    said: dict[str, object] = {
        "theory": _theory(finding, promises, judged, told) + _uncompared(mechanism, promised, judged, told),
        "broken": broken,
    }
    if broken:
        said |= {"word": Word.LEAKS, "sentence": f"the mechanism breaks its promise: {broken}; {finding.sentence}"}
    return finding.model_copy(update=said)


def _theory(
    finding: Finding,
    promises: Promises,
    judged: Judged,
    told: Told,
) -> str:
    promised = promises.of(judged[0][1].mechanism)
    if promised is None:
        return ""
    if math.isinf(promised.epsilon):
        # A leak needs no bound beside it; of anything else it is what a reader has to know.
        return "" if finding.word is Word.LEAKS else "theory allows more: nothing bounds what other attacks may find"
    hidden = "" if promised.adjacency is None else f", which hides {promised.adjacency.value}"
    said = f"theory: epsilon {upward(promised.epsilon, 3)} at delta {promised.delta:g} for one release{hidden}"
    if promised.training_epsilon < promised.epsilon:
        said += f" ({upward(promised.training_epsilon, 3)} for a round of training where nobody knows who takes part)"
    return said + _allowed(judged, told) + _observed(judged, promises, told)


def _observed(judged: Judged, promises: Promises, told: Told) -> str:
    """What the replaced control has shown of epsilon, and what the event allows; empty where it was not run."""
    shown = [one.observed_epsilon for one, _ in judged if one.observed_epsilon is not None]
    if not shown or _tells_which(told):
        return ""
    allowed = promises.allowed(judged[0][1].mechanism)
    most = "" if allowed is None or math.isinf(allowed) else f"; theory allows {upward(allowed, 3)}"
    return (
        f"; an example and another in its place were told apart as by an epsilon of at least {downward(max(shown), 3)} "
        f"(95 % confidence{most})"
    )


def _allowed(judged: Judged, told: Told) -> str:
    """What share of right guesses that allows, beside the share that was found."""
    mechanism = judged[0][1].mechanism
    # Of one example alone: what is known of several, or was told, may be right as often as it likes.
    shares = [
        score
        for verdict, group in judged
        for score in verdict.scores
        if score.metric in SHARES and not _another_game(score, group, told)
    ]
    if not shares:
        power = largest_power(mechanism, fpr=0.01)
        return (
            "" if power is None else f"; it allows tests with up to {upward_share(power)} true at 1 % false positives"
        )
    found = max(shares, key=lambda score: score.value)
    most = largest_share(mechanism, chance=found.chance)
    if most is None or most <= found.value:
        return ""
    return (
        f"; theory allows more than was found: {upward_share(most)} of {kind(found.metric)} right, found were "
        f"{found.value:.0%}"
    )


def _broken(mechanism: AbstractMechanism, groups: Judged, told: Told) -> str:
    """The first contradiction between what was found and the declared event; empty where there is none.

    Only where the game is the one that the event bounds: the replaced control, one guess which of two suspects is in,
    or of a label or a person about one example, released alone (`theory.contradiction`). A trial without a claim is a
    guess that is not right: of the releases of which an attack is sure more guesses are right than of all, and it is
    all that the event bounds.
    """
    for verdict, group in groups:
        if verdict.broken and not _tells_which(told):
            return verdict.broken
        for score in verdict.scores:
            # `_why_no_guesses` says of the others why they are left out.
            if score.metric in SHARES and not _another_game(score, group, told) and _one_each(score, verdict):
                right, chance = math.floor(math.fsum(score.items)), _chance(score, verdict)
                said = contradiction(mechanism, right=right, guesses=verdict.finished, chance=chance)
                if said is not None:
                    return said
    return ""


def _another_game(score: ScoreRecord, group: Group, told: Told) -> str:
    """Why these guesses are not of what one example brought into the release; empty where they are."""
    # Which of two suspects it is: one question of one example, whatever else is in the batch and is known of it. Of an
    # attack that does not ask for them a person is named by all of the batch, although suspects are told to others.
    asked = Suspects in told and Suspects in group.attack.needs
    member = asked and score.metric == TopOne.name and Gallery not in told
    # The suspects are of one class, so that labels do not tell them apart.
    known = private_facts(one for one in told if not (member and one in (Suspects, TrueLabels)))
    if known:
        return f"the adversary was told {', '.join(known)}, so that what was found is not the release's alone"
    alone = member or group.batch_size == 1
    return "" if alone else f"{kind(score.metric)} of batches of several examples are another game"


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


def _uncompared(mechanism: AbstractMechanism, promised: Theory | None, groups: Judged, told: Told) -> str:
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


def _why_no_guesses(mechanism: AbstractMechanism, groups: Judged, told: Told) -> Iterator[str]:
    """For each score of labels or persons why it could not have been a `contradiction`; empty where it could."""
    for verdict, group in groups:
        for score in verdict.scores:
            if score.metric not in SHARES or not score.items:
                continue
            why = _another_game(score, group, told)
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
