"""`leakscope score`: the referee. Claim and secret meet here, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from leakscope.audit.display import compared
from leakscope.audit.files import Kept, Made, read_claim, read_secret
from leakscope.audit.one_claim import judged, recorded
from leakscope.cli import console
from leakscope.cli.data import in_units, source
from leakscope.cli.ending import Exit, code
from leakscope.cli.expressions import build, domain
from leakscope.cli.rows import Family
from leakscope.cli.text.asked import Comparison
from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.ledger.record import Word
from leakscope.numerics.rng import Key
from leakscope.report.page_score import Compared, Verdict, write_score_page
from leakscope.scoring.case import Case
from leakscope.scoring.referee import Scores
from leakscope.scoring.referee import score as compare
from leakscope.scoring.score import Direction, Score


def score(order: Comparison) -> Exit:
    """Print each metric with its interval and its chance level, and what follows from them."""
    made, kept = read_claim(order.claim), read_secret(order.secret)
    _belong_together(order, made, kept)
    if made.attempt is None or made.attempt.claim is None:
        return _nothing(order, made)
    takes = domain(kept.header.domain)
    metrics = tuple(build(text, Family.METRICS) for text in order.metrics) or None
    key, (public, known) = Key(order.seed).child("score"), _public(order.public, takes)
    scores = compare(
        made.attempt.claim,
        kept.secret,
        domain=takes,
        metrics=metrics,
        public=public,
        public_annotations=known,
        key=key,
    )
    case = Case(kept.secret, takes, public, known, kept.header.words)
    found = judged(scores, made.attempt.certificate, compared(made.attempt, case))
    verdict = Verdict(*found, scores.notes)
    page = None
    if order.report is not None:
        shown = Compared(*recorded(made.attempt, scores, case, data=kept.header.data, key=key))
        page = write_score_page(order.report, verdict, shown, made.header.tried)
    if order.as_json:
        print(json.dumps(_said(order, verdict, scores, page), indent=2))
    else:
        _show(scores, verdict)
        _mention(page)
    return code(verdict.word)


def _belong_together(order: Comparison, made: Made, kept: Kept) -> None:
    if made.header.update != kept.header.update:
        raise BadInput(
            f"{order.claim} was made of another update than the one that {order.secret} is behind; give two files that "
            "belong together"
        )


def _public(text: str | None, takes: AbstractDomain) -> tuple[Batch | None, tuple[Annotation, ...]]:
    if text is None:
        return None, ()
    where = source(text, takes)
    return in_units(where.public(), where.domain, takes), where.public_annotations()


def _nothing(order: Comparison, made: Made) -> Exit:
    reasons = "; ".join(f"{one.attack}: {one.sentence}" for one in made.header.tried) or "nothing was tried"
    verdict = Verdict(Word.INCONCLUSIVE, f"nothing was claimed, so there is nothing to score: {reasons}")
    page = None if order.report is None else write_score_page(order.report, verdict, None, made.header.tried)
    if order.as_json:
        print(json.dumps(_said(order, verdict, (), page), indent=2))
    else:
        print(verdict.sentence)
        _mention(page)
    return Exit.INCOMPLETE


def _mention(page: Path | None) -> None:
    if page is not None:
        print(f"report: {page.resolve()}")


def _said(order: Comparison, verdict: Verdict, scores: Iterable[Score], page: Path | None) -> dict[str, Any]:
    return {
        "claim": str(order.claim),
        "report": page and str(page),
        "word": verdict.word.value,
        "sentence": verdict.sentence,
        "scores": [{**dataclasses.asdict(one), "direction": one.direction.value} for one in scores],
        "notes": list(verdict.notes),
    }


def _show(scores: Scores, verdict: Verdict) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "value", "95 % interval", "chance", "best", "leaks more", "items", "exact"):
        table.add_column(heading, no_wrap=True)
    for one in scores:
        table.add_row(*_cells(one))
    out = Console(soft_wrap=True, highlight=False)
    # Read by a script or in a narrow window, figures are not to be cut.
    Console(width=max(out.width, 110), highlight=False).print(table)
    for note in verdict.notes:
        out.print(f"note: {note}", markup=False)
    out.print(f"\n[{console.STYLES[verdict.word]}]{verdict.word.value}[/]: ", end="")
    out.print(verdict.sentence, markup=False)


def _cells(one: Score) -> tuple[str, ...]:
    return (
        one.metric,
        f"{one.value:.4g} {one.unit}".rstrip(),
        f"{one.low:.4g} to {one.high:.4g}" if math.isfinite(one.low) else "–",
        f"{one.chance:.4g}",
        f"{one.perfect:.4g}",
        "higher" if one.direction is Direction.HIGHER else "lower",
        str(len(one.items)),
        str(one.exact),
    )
