"""What `--redact` leaves out of a page: no example by itself, and scores only over enough of them together.

What a page never gets it cannot show: cells and verdicts are emptied here, before anything is drawn of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import final

from leakscope.ledger.record import Finding, GroupVerdict, Record, ScoreRecord, Summary
from leakscope.report.media import Array
from leakscope.report.redact import masked
from leakscope.report.tables import Cell, Cells

FEWEST = 5
"""Examples behind a score that is shown: of fewer, whoever knows the others can compute the last one."""

LISTS = ("scores", "undefended_scores", "blind_scores", "replaced_scores")
"""What a verdict holds of scores."""

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
PUBLIC = re.compile(
    rf"epsilon {_NUMBER}(?: at delta {_NUMBER})?|\({_NUMBER} for a round of training|in batches of \d+"
    rf"|theory allows more than was found: {_NUMBER}%|with up to {_NUMBER}% true at {_NUMBER} % false positives"
)
"""What sentences say of the plan and of the mechanism, as `audit.findings` and `audit.promises`
have it: it stands on the page anyway.
What was observed stands in other words, and is masked."""
SINGLE = re.compile(r"\(best [^()]*\)")
"""What the verdict's sentence on recovered items says of the best one: the score of one example (`verdict._leak`)."""

_NOTHING: Mapping[str, Array] = MappingProxyType({})


def summary(given: Summary) -> Summary:
    """The verdicts with scores over at least `FEWEST` examples; where there are fewer, sentences without numbers."""
    found = tuple(_finding(one, given.groups) for one in given.findings)
    return given.model_copy(update={"groups": tuple(_group(one) for one in given.groups), "findings": found})


def _group(given: GroupVerdict) -> GroupVerdict:
    kept: dict[str, object] = {name: together(getattr(given, name)) for name in LISTS}
    if _few(given):
        # a sentence that quotes the mean of three examples says what the table withholds
        said = {name: masked(getattr(given, name), spared=PUBLIC) for name in ("sentence", "broken")}
        kept |= {**said, "gains": (), "observed_epsilon": None, "game": None, "undefended_game": None}
    else:
        kept |= {"sentence": without_single(given.sentence)}
    return given.model_copy(update=kept)


def without_single(sentence: str) -> str:
    """A sentence of a verdict without what it says of one example: the best score, and the best of blind guesses.

    >>> without_single("2 of 8 inputs recovered (best 120 dB, blind at most 12.5 dB); psnr 41.2 dB")
    '2 of 8 inputs recovered (best ▮▮ dB, blind at most ▮▮ dB); psnr 41.2 dB'
    """
    return SINGLE.sub(lambda one: masked(one[0]), sentence)


def _finding(given: Finding, groups: Sequence[GroupVerdict]) -> Finding:
    """It quotes its groups: one of few examples is enough to leave the numbers out."""
    if not any(_few(groups[place]) for place in given.groups):
        return given.model_copy(update={"sentence": without_single(given.sentence)})
    said = {name: masked(getattr(given, name), spared=PUBLIC) for name in ("sentence", "theory", "broken")}
    return given.model_copy(update=said)


def _few(given: GroupVerdict) -> bool:
    return any(len(one.items) < FEWEST for name in LISTS for one in getattr(given, name))


def together(scores: Sequence[ScoreRecord]) -> tuple[ScoreRecord, ...]:
    """Those over at least `FEWEST` examples; of how many shows, of each nothing."""
    enough = (one for one in scores if len(one.items) >= FEWEST)
    # NaN in the place of each: a page counts items, and draws those that are numbers
    return tuple(
        one.model_copy(update={"items": (math.nan,) * len(one.items), "blind": (), "nearest": ()}) for one in enough
    )


@final
class Withheld(Mapping[str, Cell]):
    """The cells of a run without what is of one example. coarse: pictures stay, for the page to make averages of."""

    def __init__(self, cells: Cells, *, coarse: bool) -> None:
        self._cells, self._coarse = cells, coarse

    def __getitem__(self, name: str) -> Cell:
        record, arrays = self._cells[name]
        return _record(record), arrays if self._coarse else _NOTHING

    def __contains__(self, name: object) -> bool:
        return name in self._cells

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


def _record(given: Record) -> Record:
    """Without labels, texts, names and answers of single examples; what is of a large batch together stays."""
    few = given.spec.batch_size < FEWEST
    gone: dict[str, object] = dict.fromkeys(
        ("transcripts_true", "transcripts_claimed", "tokens_true", "tokens_claimed", "rankings", "answers"), ()
    )
    gone |= {"tokens_bag": False, "scores": together(given.scores)}
    if few:
        # the loss of a search for one example, and the residual of its equations, are figures of that example
        gone |= dict.fromkeys(
            ("labels_true", "labels_claimed", "owners", "trace_evaluations", "trace_losses", "steps"), ()
        )
        gone |= {"certificate": None}
    return given.model_copy(update=gone)
