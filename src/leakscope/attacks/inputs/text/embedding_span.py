"""Exact texts from the gradient of a transformer: which tokens lie in the span of its first attention's inputs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.text.counted import counts, pinned, repeated, short, uneven
from leakscope.attacks.inputs.text.ordering import (
    PATIENCE,
    ROUNDS,
    Context,
    Said,
    context_of,
    descended,
    leaves,
    prefixes,
    with_last_tokens,
)
from leakscope.attacks.inputs.text.other_texts import other_texts, other_tokens
from leakscope.attacks.inputs.text.row_span import RowSpan, covered, dimensions, row_span_of, strangers
from leakscope.attacks.parts.reading.explained import Explained, explained
from leakscope.attacks.parts.reading.proof import assumed, bent, drawn, strange
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Tokens
from leakscope.core.effort import Clock, Watch
from leakscope.core.facts import BatchSize
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta
from leakscope.domains.text import padded
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import known_weights
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.altered_inputs import alters_tokens, alters_vectors
from leakscope.targets.looking.token_entry import TokenEntry, token_entry
from leakscope.targets.losses import NextToken

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest relative residual that counts as exact, by the dtype of the release, as for `LinearLayer`."""
PRESENT = 1e-3
"""Smallest share of the batch, relative to the largest, that counts as a sequence of it."""
WHOLE = "|observed - best mixture of the claimed sequences' gradients| / |observed|, over all parameters"
BAG = "what the claimed tokens miss of the attention's gradient, or how many others are expected to fit by chance"
SAME = 1e-5
"""Distance of two tokens' unit inputs within which the model does not tell them apart."""
OVER = "; the time was up before their order was found"
UNLOOKED = "; no proof, since the time was over before the model was looked at"
MOST_PAIRS = 20_000_000
"""Pairs of tokens at places that are compared, at most."""
MOST_PLACES = 50_000
"""Tokens at places that are looked at further, at most."""


@final
@dataclass(frozen=True, eq=False)
class Spanned:
    """Tokens at places, with what they were found by. random: why what was fed need not be the private text."""

    entry: TokenEntry
    gradient: Named
    span: RowSpan
    inputs: Tensor
    room: int
    places: tuple[tuple[int, ...], ...]
    random: str | None


@final
@dataclass(frozen=True)
class EmbeddingSpan(AbstractAttack["Spanned", Tokens]):
    """A token v stands at place t of the batch iff its input u(v, t) to the attention lies in the span of the gradient.

    The first dense maps of the tokens (query, key, value) have gradients sum_n delta_n u_n^T, whose row space is
    spanned by the inputs u_n of the batch's tokens, at most d - 1 of them (Petrov et al. 2024, DAGER, section 4). u is
    public: embeddings, places and normalization of the model itself, which is run on every token of the vocabulary.
    Sequences follow in the same way from a later layer: prefix by prefix where no token sees a later one; where all
    see each other, by descending from random combinations until the layer confirms every token. A model that
    predicts the next token shows the last one at its output.
    The certificate replays the gradient of the claimed sequences. There is none where other texts would do as well:
    where the model does not see the order, or gives two tokens the same input.
    How often a text is claimed is its multiplicity: B times its share in the best mixture of gradients, rounded, where
    `BatchSize` tells B. It is proved with the text where the mixture explains the whole gradient, every B * share is
    within `COUNTED` of a whole number, no clip can have scaled the update, the client does not take its examples
    unevenly by declaration, and all together are B. Without `BatchSize` each text is claimed once, which proves that it
    is in the batch and nothing of how often; with it and texts that cannot be counted there is no proof.
    Where sequences cannot be told apart, the set of tokens is claimed, as a bag.
    Refuses where the rank of the gradient is that of all tokens: B * T >= d, or noise.
    """

    @property
    def citation(self) -> str:
        """Petrov et al. 2024."""
        return citations.DAGER

    def _read(self, seen: Observation) -> Spanned | Refusal:
        return _tokens(seen)

    def _attempt(self, seen: Observation, read: Spanned, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Tokens]:
        del watch
        found = read
        # A part of an update may hold one of query, key and value.
        read_of = next(name for name in found.entry.first.weights if name in found.gradient)
        tolerance = EXACT.get(seen.release.by_name[read_of].dtype, 0.0)
        order = _ordered(seen, found, tolerance, key=key, clock=clock)
        bag = self._bag(seen, found, tolerance, order.note, clock)
        # The set needs no order, so it stands where sequences are not found.
        if not order.whole:
            return bag
        best, proof = _explained(seen, order, tolerance, clock)
        residual = float("inf") if proof is None else proof.residual
        if residual > tolerance and bag.certificate is not None and bag.certificate.holds:
            # What is proved rather than more that is not.
            return dataclasses.replace(bag, sentence=f"{bag.sentence}; the sequences found do not explain everything")
        exact = residual <= tolerance
        # A share says how often a text occurs only where the shares explain the gradient to the end.
        claimed = repeated(seen, best, proof) if proof is not None and exact else best
        sentence = f"{len(claimed)} sequences of {sum(map(len, claimed))} tokens, rank {found.span.rank}{order.note}"
        if not exact:
            sentence += f"; their gradient differs by {residual:.1e}: not all are found, or noise"
        doubt = _doubt(seen, found, claimed) if exact else ""
        if proof is not None and exact and not doubt:
            doubt = short(seen, proof)
        if proof is not None and len(claimed) > len(best) and not doubt:
            doubt = uneven(counts(seen, proof))
        if proof is not None and exact and not doubt:
            doubt = _elsewise(seen, found, best, proof, clock)
        sentence += doubt
        # A residual at rounding proves nothing where other texts would leave the same.
        certificate = (
            None if doubt else Certificate.alike(residual, tolerance, WHOLE + assumed(seen), items=len(claimed))
        )
        confidence = torch.ones(len(claimed)) if exact and not doubt else None
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Tokens(claimed, confidence), certificate)

    def _bag(self, seen: Observation, found: Spanned, tolerance: float, note: str, clock: Clock) -> Attempt[Tokens]:
        pairs = [(token, place) for place, tokens in enumerate(found.places) for token in tokens]
        vectors = torch.stack([found.inputs[token, place] for token, place in pairs])
        gradients = [found.gradient[name] for name in found.entry.first.weights if name in found.gradient]
        # Two ways to be wrong: a token too few leaves some of the gradient uncovered, one too many fits by chance.
        left = covered(gradients, vectors)
        missed = max(left, strangers(found.span, found.room, found.inputs[..., 0].numel()))
        bag = tuple(sorted({token for token, _ in pairs}))
        sentence = f"the set of {len(bag)} tokens at {len(pairs)} places, rank {found.span.rank}{note}"
        if acts_as(seen.target.loss, NextToken):
            sentence += "; the last token of a text sends no gradient and is there only if it stands elsewhere too"
            # Looks run the model on thousands of texts: without time for them nothing is proved.
            # So it may be in the batch and not in the set, and what the set misses of the gradient does not tell.
            return Attempt(repr(self), Outcome.CLAIMED, sentence, Tokens((bag,), None, bag=True))
        doubt = UNLOOKED if clock.exhausted(0) else _bag_doubt(seen, found, pairs)
        # Only where there would be a proof, for it runs the model on thousands of texts.
        if missed <= tolerance and not doubt:
            doubt = _hidden(seen, found, vectors, left, clock)
        sentence += doubt
        certificate = None if doubt else Certificate.alike(missed, tolerance, BAG + assumed(seen))
        confidence = torch.ones(1) if certificate is not None and certificate.holds else None
        return Attempt(repr(self), Outcome.CLAIMED, sentence, Tokens((bag,), confidence, bag=True), certificate)


def _tokens(seen: Observation) -> Spanned | Refusal:
    """The tokens at their places, or why they are not identifiable."""
    entry = token_entry(seen.target)
    missing = [name for name in entry.first.weights if name not in seen.release.by_name]
    # One of query, key and value is enough: all are fed the same tokens.
    if len(missing) == len(entry.first.weights):
        return Refusal(f"the release lacks {', '.join(missing)}, the first dense layers that are fed the tokens")
    # float64, as the model copy that makes the table: the gap then shows the rounding of the release alone.
    # Buffers, which an update may hold besides, are no part of a gradient.
    read = trees.select(seen.gradient().by_name, seen.target.parameters())
    gradient = {name: value.double() for name, value in read.items()}
    span = row_span_of([gradient[name] for name in entry.first.weights if name in gradient])
    inputs = entry.table()
    room = dimensions(inputs)
    if span is None or span.rank >= room:
        return Refusal(
            f"not identifiable: the gradient fills all {room} dimensions that tokens have here, so every token fits; "
            f"there are {room} tokens (B * T) or more, or noise"
        )
    # u(v, t) for every token v at every place t: (V, T), so that a column holds the tokens of one place.
    inside = span.distance(inputs) <= span.tolerance
    places = tuple(tuple(column.nonzero().flatten().tolist()) for column in inside.T)
    count = sum(map(len, places))
    if not count:
        return Refusal(
            f"the gradient has rank {span.rank}, and no token lies in its span: it has fewer directions than the batch "
            "has tokens (one layer that is read at one token), or its entries were changed one by one"
        )
    if count > MOST_PLACES:
        return Refusal(f"not identifiable: {count} tokens at places fit the span of rank {span.rank}")
    # With the reading, whose passes a budget that is over still allows.
    return Spanned(entry, gradient, span, inputs, room, places, drawn(seen))


@final
@dataclass(frozen=True)
class _Order:
    """Sequences that a later layer confirms; parts of them that may be texts of their own; what there is to say."""

    whole: tuple[Said, ...] = ()
    parts: tuple[Said, ...] = ()
    note: str = ""


def _ordered(seen: Observation, found: Spanned, tolerance: float, *, key: Key, clock: Clock) -> _Order:
    entry = found.entry
    context = context_of(entry, found.gradient, found.span.rank)
    if context is None:
        return _Order(note="; no later layer tells the order")
    # Where tokens see later ones no prefix can be tested by itself.
    if not entry.causal:
        whole = _descended(seen, found, context, tolerance, key=key, clock=clock)
        nothing = OVER if clock.exhausted(0) else "; no combination of them is confirmed by a later layer"
        return _Order(tuple(whole), note="" if whole else nothing)
    known = prefixes(entry, context, found.places, clock=clock)
    if not known:
        return _Order(note=OVER if clock.exhausted(0) else "; no prefix is confirmed by a later layer")
    # A loss that reads all tokens gives the last one a gradient too: a text ends where no prefix goes on.
    if not acts_as(seen.target.loss, NextToken):
        return _Order(tuple(leaves(known)), tuple(known))
    output = None if entry.output is None else found.gradient.get(entry.output.weights[0])
    last = None if output is None else with_last_tokens(entry, known, output, clock=clock)
    if not last:
        return _Order(tuple(leaves(known)), tuple(known), "; last tokens are not known")
    # A text of one token predicts nothing, and has no gradient to be found by.
    return _Order(tuple(last), tuple(one for one in known if len(one) > 1))


def _descended(
    seen: Observation, found: Spanned, context: Context, tolerance: float, *, key: Key, clock: Clock
) -> list[Said]:
    """Sequences of every length, until together they explain the gradient or time is up."""
    known: dict[Said, None] = {}
    idle = 0
    # No text is longer than the places that have candidates.
    lengths = [end for end in range(1, len(found.places) + 1) if all(found.places[:end])]
    for turn in range(ROUNDS):
        before = len(known)
        for end in lengths:
            parts = found.places[:end]
            if clock.exhausted(0):
                return list(known)
            started = key.child("start", turn, end)
            known.update(dict.fromkeys(descended(found.entry, context, parts, key=started, clock=clock)))
        # A replay costs a gradient for each sequence and label, so only where there is something new.
        proof = _replayed(seen, tuple(known), clock) if len(known) > before else None
        idle = 0 if len(known) > before else idle + 1
        if (proof is not None and proof.residual <= tolerance) or idle == PATIENCE or clock.exhausted(0):
            break
    return list(known)


def _explained(
    seen: Observation, order: _Order, tolerance: float, clock: Clock
) -> tuple[tuple[Said, ...], Explained | None]:
    """The sequences that have a share in the gradient, the largest first, and the explanation by them.

    A text that begins a longer one leaves no trace in the order; it is tried where the longer ones do not suffice.
    """
    sequences, proof = order.whole, _replayed(seen, order.whole, clock)
    if order.parts and proof is not None and proof.residual > tolerance:
        more = tuple(dict.fromkeys((*order.whole, *order.parts)))
        second = _replayed(seen, more, clock)
        sequences, proof = (sequences, proof) if second is None else (more, second)
    if proof is None:
        return sequences, None
    # Enough weight and a trace: the gradients of a text whose labels cancel add up to nothing, for any weight.
    shares, least = proof.weights.sum(1), PRESENT * float(proof.weights.sum(1).max())
    kept = [int(s) for s in shares.argsort(descending=True) if shares[s] > least and proof.parts[s] > tolerance]
    return tuple(sequences[s] for s in kept), dataclasses.replace(
        proof, weights=proof.weights[kept], parts=proof.parts[kept]
    )


def _replayed(seen: Observation, sequences: tuple[Said, ...], clock: Clock) -> Explained | None:
    return explained(seen, padded(sequences).to(seen.target.device()), clock=clock)


def _elsewise(seen: Observation, found: Spanned, texts: tuple[Said, ...], proof: Explained, clock: Clock) -> str:
    """Why texts that explain the gradient may stand for others that do; empty where none of those tried does."""
    sent = trees.select(seen.gradient().by_name, seen.target.parameters())
    known = pinned(seen, proof)
    return other_texts(found.entry.model, sent, texts, proof.weights, proof.residual, pinned=known, clock=clock)


def _hidden(seen: Observation, found: Spanned, vectors: Tensor, left: float, clock: Clock) -> str:
    """Why a token that is not in the set may be in the batch; empty where none of those tried would be unseen."""
    filled = max(place for place, tokens in enumerate(found.places, 1) if tokens)
    if not all(found.places[:filled]):
        return "; no proof: nothing is seen at a place that a text with a later token must fill"
    count = seen.told(BatchSize).count if seen.knows(BatchSize) else None
    if count is not None and found.span.rank == count * len(found.places):
        return ""  # as many as there can be: `_bag_doubt` has seen that they are all different
    weights = seen.release.by_name
    sent = {name: weights[name] for name in found.entry.first.weights if name in weights}
    gradient = {name: found.gradient[name].to(one.dtype) for name, one in sent.items()}
    model = found.entry.model
    return other_tokens(model, gradient, vectors, found.places, left, count=count, clock=clock)


def _doubt(seen: Observation, found: Spanned, claimed: tuple[Said, ...]) -> str:
    """Why sequences that explain the gradient need not be those of the batch; empty when they are."""
    if seen.knows(BatchSize) and len(claimed) != seen.told(BatchSize).count:
        return f"; no proof, since the batch holds {seen.told(BatchSize).count}"
    pairs = [(token, place) for one in claimed for place, token in enumerate(one)]
    why = bent(seen)
    if why is not None:
        return f"; no proof: {why.sentence}"
    # A decoder tells the order by its prefixes, even without places.
    moved = known_weights(seen.mechanism) is not Answer.YES or isinstance(seen.release, Delta)
    looked = strange(seen) if moved else None
    looked = looked or found.random
    if looked is not None:
        return f"; no proof: {looked}"
    if not found.entry.causal and _twins(found, pairs, order=True):
        return "; no proof, since the model does not see the order of the tokens"
    # Rows of the embedding's gradient tell tokens apart that look the same further on; they are part of the replay.
    # But not where the model gives one token what another's row holds: then the gradient is in the other's row.
    rows = None
    if found.entry.embedding is not None and found.entry.embedding in seen.release.by_name:
        rows = seen.target.parameters()[found.entry.embedding].detach().cpu()
    if _twins(found, pairs, order=False, rows=rows):
        return "; no proof, since other tokens are the same to the model"
    if _alike(found, claimed):
        return "; no proof, since texts that are the same to the model could exchange tokens"
    return _altered(seen, found, claimed)


def _altered(seen: Observation, found: Spanned, texts: Sequence[tuple[int, ...]]) -> str:
    """Why what the model looked up need not be the private tokens; empty where no look shows it."""
    entry = found.entry
    replaced = entry.embedding is not None and alters_tokens(seen.target, texts, entry.embedding)
    # What replaces vectors, or looks up in a table that is no layer's, shows in what the attention is fed.
    if replaced or alters_vectors(entry.domain, texts, lambda ids: entry.fed(entry.first, ids), found.inputs):
        return "; no proof, since the model replaces tokens of some texts"
    return ""


def _bag_doubt(seen: Observation, found: Spanned, pairs: list[tuple[int, int]]) -> str:
    """Why tokens whose inputs span the gradient need not be those of the batch; empty when they are."""
    why = bent(seen)
    if why is not None:
        return f"; no proof: {why.sentence}"
    # A token whose input is zero is in no span and leaves nothing uncovered: it could be in any batch.
    looked = strange(seen) or found.random
    if looked is not None:
        return f"; no proof: {looked}"
    if not bool((found.inputs[1:] != 0).any(2).all()):
        return "; no proof, since the model gives a token nothing"
    if _twins(found, pairs, order=False):
        return "; no proof, since some of them are the same to the model"
    if _distinct(found, pairs) != found.span.rank:  # those of a batch are independent, as long as they are few
        return "; no proof, since they are not as many as the rank"
    most = max(len(tokens) for tokens in found.places)
    filled = [tokens for tokens in found.places if tokens]
    # Every token at its place, in one text or another: which of them belong together is not known.
    texts = {tuple(tokens[turn % len(tokens)] for tokens in filled) for turn in range(most)}
    return _altered(seen, found, sorted(texts))


def _distinct(found: Spanned, pairs: list[tuple[int, int]]) -> int:
    """How many different inputs the tokens at places have: a model without places gives a token one of them."""
    # Each against those before it: equal inputs are counted once.
    vectors = _unit(found.inputs, pairs)
    return sum(not bool((torch.cdist(vectors[[i]], vectors[:i]) <= SAME).any()) for i in range(len(vectors)))


def _twins(found: Spanned, pairs: list[tuple[int, int]], *, order: bool, rows: Tensor | None = None) -> bool:
    """Whether another token at the same place, or the same one at another place (`order`), is the same to the model.

    Looked for among what lies in the span: a twin of what is there lies in it too. rows: of the embedding, (V, d), by
    whose gradient tokens are told apart that have equal ones; these are no twins then.
    """
    inside = {(token, place) for place, tokens in enumerate(found.places) for token in tokens}
    tried = sorted(set(pairs))
    others = sorted(inside | set(pairs))
    # Too many to compare: then there is a doubt.
    if len(tried) * len(others) > MOST_PAIRS:
        return True
    one, other = (_unit(found.inputs, chosen) for chosen in (tried, others))
    same = (torch.cdist(one, other) <= SAME).nonzero().tolist()
    varied = 1 if order else 0  # what of (token, place) must differ; the other must not
    return any(
        tried[i][varied] != others[j][varied]
        and tried[i][1 - varied] == others[j][1 - varied]
        and (rows is None or not torch.equal(rows[tried[i][0]], rows[others[j][0]]))
        for i, j in same
    )


def _alike(found: Spanned, claimed: tuple[Said, ...]) -> bool:
    """Whether two claimed texts differ only in tokens of one vector.

    Their gradients are alike, so that the embedding's rows say which tokens occur in both together, and not in which.
    """
    texts = sorted(set(claimed), key=lambda one: (len(one), one))
    for one, other in itertools.combinations(texts, 2):
        if len(one) == len(other):
            first, second = (_unit(found.inputs, [(t, p) for p, t in enumerate(text)]) for text in (one, other))
            if bool((torch.linalg.vector_norm(first - second, dim=1) <= SAME).all()):
                return True
    return False


def _unit(inputs: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    # Of length one: a span knows directions alone. 1e-300: zero stays zero.
    vectors = torch.stack([inputs[token, place] for token, place in pairs]).double()
    sizes: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / sizes.clamp_min(1e-300)
