"""`leakscope attack`: what can be recovered from an update, by somebody who has nothing but its file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from leakscope.attacks.attack import Attack
from leakscope.attacks.failing import FAILURES, failed
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.portfolio.handed_on import Offer, Portfolio, best, portfolio, solved
from leakscope.attacks.preparing import AbstractLearner, Setting
from leakscope.audit.affordable import check_facts, check_model, check_step
from leakscope.audit.display_speech import heard
from leakscope.audit.files import display, read_update, write_claim
from leakscope.audit.preparation import Shelf
from leakscope.audit.telling import tell
from leakscope.cli import console, looks
from leakscope.cli.commands.capture import fact_of
from leakscope.cli.data import source
from leakscope.cli.ending import Exit
from leakscope.cli.expressions import build, domain
from leakscope.cli.models import architecture, brought, check_weights, recipe
from leakscope.cli.names import rows
from leakscope.cli.rows import Family, Trait
from leakscope.cli.scalars import scalars
from leakscope.cli.text.asked import Effort, Model, Recovery
from leakscope.core import file_limits
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Attribute, Claim, Features, Inputs, Labels, Tokens, Transcripts
from leakscope.core.effort import Budget
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact, Gallery
from leakscope.core.observation import Observation
from leakscope.domains.speech import Frames
from leakscope.ledger.exchange import ClaimHeader, UpdateHeader
from leakscope.ledger.record import CertificateRecord
from leakscope.numerics.rng import Key
from leakscope.report.page_claim import Shown, write_claim_page

EVERY = 10.0
"""Seconds between two states of a search on the disk."""


def attack(order: Recovery) -> Exit:
    """Attack, write the claim, say for each attack how it ended. 1 only for what is proved; nothing here is scored."""
    header, seen = _observation(order)
    tried, stopped = _tried(seen, order)
    chosen = best(tried)
    said = write_claim(order.out, seen, tried, chosen)
    page = None if order.report is None else _page(order.report, said, seen, chosen)
    if order.as_json:
        paths = {"claim": str(order.out), "report": page and str(page)}
        print(json.dumps({**paths, **json.loads(said.model_dump_json())}, indent=2))
    else:
        print("\n".join([f"{header.model}, {header.mechanism}:", *_lines(said), _conclusion(chosen, order)]))
        if page is not None:
            print(f"report: {page.resolve()}")
    if stopped:
        console.say(f"stopped; the best so far is in {order.out}{_again(order.effort)}")
        return Exit.INCOMPLETE
    return Exit.LEAK if any(one.certified for one in tried) else Exit.INCOMPLETE


def observation(path: Path, model: Model) -> tuple[UpdateHeader, Observation]:
    """What the file says, beside the model that belongs to it. Raises `BadInput` when the weights are others."""
    update = read_update(path)
    header = update.header
    asked = dataclasses.replace(model, seed=header.weights_seed or 0)
    takes, mechanism = domain(header.domain), build(header.mechanism, Family.PROTOCOLS)
    facts = _told(path, header)
    examples = check_facts(facts, takes, header.classes)
    weights = check_model(recipe(asked.model, header.classes), takes, header.classes, held=path.stat().st_size)
    check_step(mechanism, takes, examples, weights)
    target, notes = brought(asked, takes, header.classes)
    for note in notes:
        console.say(f"note: {note}")
    check_weights(asked, target, header.weights)
    return header, Observation(target, update.release, mechanism, tuple(facts))


def _told(path: Path, header: UpdateHeader) -> list[Fact]:
    facts: list[Fact] = []
    for text in header.told:
        found = fact_of(text)
        if found is None:
            said = file_limits.shortened(text, 60)
            raise BadInput(f"{path} tells {said}, which this leakscope does not know; use a newer one")
        facts.append(found)
    return facts


def _observation(order: Recovery) -> tuple[UpdateHeader, Observation]:
    """The same with what else the adversary is given, and what was noted said."""
    header, seen = observation(order.update, order.model)
    for note in header.notes:
        console.say(f"note: {note}")
    if order.gallery is not None:
        where = source(order.gallery, seen.target.domain)
        facts = (*seen.facts, *tell([Gallery], seen.target, where.public(), source=where))
        seen = Observation(seen.target, seen.rounds, seen.mechanism, facts)
    for sentence in looks.said(seen):
        console.say(f"note: {sentence}")
    return header, seen


def _tried(seen: Observation, order: Recovery) -> tuple[list[Attempt[Claim]], bool]:
    """Every attempt, and whether a person stopped them."""
    effort = order.effort
    called = {repr(build(row.example, Family.ATTACKS)): row.name for row in rows(Family.ATTACKS)}
    if effort.attacks:
        given = tuple(build(text, Family.ATTACKS) for text in effort.attacks)
        chosen = Portfolio((), given)
        called |= {repr(one): " ".join(text.split()) for one, text in zip(given, effort.attacks, strict=True)}
    else:
        chosen = portfolio(seen, _offers())
    tried: list[Attempt[Claim]] = []
    for place, one in enumerate((*chosen.quick, *chosen.searches)):
        if one in chosen.searches and not effort.attacks and any(solved(done) for done in tried):
            continue  # what is proved needs no search
        try:
            name = called.get(repr(one), type(one).__name__)
            tried.append(_run(_ready(one, seen, order), seen, effort, (place - len(chosen.quick), name)))
        except FAILURES as error:
            # What a person can put right, such as the state of another search in --checkpoint, ends the command.
            if isinstance(error, BadInput) and effort.checkpoint is not None:
                raise
            tried.append(failed(one, error))
        except KeyboardInterrupt:  # in an attack that is no search, and has no best so far
            return tried, True
        if tried[-1].outcome is Outcome.INTERRUPTED:
            return tried, True
    return tried, False


CLAIMS: dict[Trait, type[Claim]] = {
    Trait.CLAIMS_LABELS: Labels,
    Trait.CLAIMS_TRANSCRIPTS: Transcripts,
    Trait.CLAIMS_ATTRIBUTES: Attribute,
    Trait.CLAIMS_TOKENS: Tokens,
    Trait.CLAIMS_FEATURES: Features,
}
"""What a trait of the table says of the claim's kind; without one the claim is of inputs."""


def _offers() -> list[Offer]:
    """The attacks of the table."""
    return [
        Offer(
            build(row.example, Family.ATTACKS),
            next((kind for trait, kind in CLAIMS.items() if trait in row.traits), Inputs),
            exact=Trait.EXACT in row.traits,
            speech=Trait.SPEECH in row.traits,
        )
        for row in rows(Family.ATTACKS)
    ]


def _ready(one: Attack[Any], seen: Observation, order: Recovery) -> Attack[Any]:
    """The attack; of a learner the one that it teaches: what it learns is kept in FILE.prepared for --checkpoint."""
    if not isinstance(one, AbstractLearner):
        return one
    classes, kept = seen.target.classes, order.effort.checkpoint
    setting = Setting(architecture(order.model.model, classes), seen.target.domain, classes, seen.mechanism)
    shelf = Shelf(None if kept is None else kept.with_name(f"{kept.name}.prepared"), EVERY)
    with console.watching(f"{type(one).__name__} learns") as watch:
        return shelf.ready(one, setting, seed=order.effort.seed, watch=watch).attack


def _run(one: Attack[Any], seen: Observation, effort: Effort, at: tuple[int, str]) -> Attempt[Claim]:
    """at: its place among the searches, whose states lie in files of their own, negative for none; what it is called.

    By its name two recipes of one class are told apart.
    """
    place, called = at
    kept = effort.checkpoint if place <= 0 else _numbered(effort.checkpoint, place + 1)
    checkpoint = None if kept is None or place < 0 else StateFile(kept, every=EVERY)
    name = type(one).__name__
    with console.watching(called) as bar, scalars(effort.tensorboard, f"{max(place, 0)} {name}", bar) as watch:
        attempt: Attempt[Claim] = one.run(
            seen,
            key=Key(effort.seed).child("attack"),
            budget=Budget(effort.seconds, effort.evaluations),
            watch=watch,
            checkpoint=checkpoint,
        )
    return attempt


def _numbered(path: Path | None, number: int) -> Path | None:
    return None if path is None else path.with_name(f"{path.name}.{number}")


def _page(folder: Path, said: ClaimHeader, seen: Observation, chosen: Attempt[Claim] | None) -> Path:
    claim = None if chosen is None else chosen.claim
    if not isinstance(claim, Inputs):
        return write_claim_page(folder, said, Shown())
    if claim.lengths is not None and isinstance(seen.target.domain, Frames):
        frames = [one[: int(count)] for one, count in zip(claim.values, claim.lengths, strict=True)]
        sounds, rate = heard(frames, Key(0).child("page"))
        return write_claim_page(folder, said, Shown(tuple(one.float().numpy() for one in frames), sounds, rate))
    return write_claim_page(folder, said, Shown(tuple(display(seen.target.domain, claim.values))))


def _lines(said: ClaimHeader) -> list[str]:
    width = max((len(one.outcome) for one in said.tried), default=0)
    return [f"  {one.outcome:<{width}}  {one.attack}: {one.sentence}{_proof(one.certificate)}" for one in said.tried]


def _proof(certificate: CertificateRecord | None) -> str:
    if certificate is None:
        return ""
    return "; proved by its own equations" if certificate.holds else "; its own equations do not hold"


def _conclusion(chosen: Attempt[Claim] | None, order: Recovery) -> str:
    if chosen is None:
        return f"nothing was claimed; this does not show that nothing leaks ({order.out} has the reasons)"
    kind = type(chosen.claim).__name__.lower()
    if chosen.certified:
        return f"{order.out}: {kind}, proved; `leakscope score` compares it with the secret"
    return f"{order.out}: {kind}, claimed without proof; `leakscope score` compares it with the secret"


def _again(effort: Effort) -> str:
    there = effort.checkpoint is not None and effort.checkpoint.exists()
    return "; go on with --resume" if there else ""
