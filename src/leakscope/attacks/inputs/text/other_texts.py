"""Whether other texts than the claimed ones would leave the same gradient: tokens that leave hardly a trace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakscope.core.batch import Batch
from leakscope.core.effort import Clock
from leakscope.core.errors import BadInput
from leakscope.domains.text import Text, padded
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.targets.looking.probe import FORWARD_ERRORS
from leakscope.targets.looking.tape import Doubled

SAFETY = 10.0
"""How many times what a claim leaves of the gradient another text's trace has to be, to be told from it: the measure is
right to a factor of three, and the rounding of the true text may hide as much again as is left."""
DIRECTIONS = 3
"""Random directions along which gradients are compared. That one which differs by D shows less than D / 100 along all
of them has a chance of 1e-4."""
MOST = 1500
"""Other texts that are run, at most; beyond it, the tokens of least trace at all places."""
MOST_TRACES = 1000
"""The same where the gradient of each is looked at."""
NEAREST = 64
"""Other texts whose gradients are compared, of all claimed ones together: those with the outputs nearest to theirs."""
TOGETHER = 256
"""Texts that are run at once."""
CONTEXTS = 3
"""Texts made of the tokens of a bag, in which others are tried."""
TAILS = 8
"""Random ends that each text is tried with."""
LABELS = 10
"""Labels that are tried where the label is not known, at most."""
SUREST = 3
"""Texts from which surer ones are climbed to, and how often each place of theirs is gone through."""
CLIMBED = 60
"""Tokens that are tried at each place on the way, at most."""
GONE = "; no proof: a text with other tokens, or more of them, leaves the same gradient to within rounding"
HIDDEN = "; no proof: a token that is none of them can leave too little to be seen"
FAILED = "; no proof: the model fails on other texts, so that these cannot be excluded"
APART = "; no proof: a text of its own, of which the model is sure, can leave too little to be seen"
LATE = "; no proof, since the time was over before other texts were tried"

Said = tuple[int, ...]
Measure = Callable[[int, Sequence[Said]], Tensor]
"""The trace that tells each of some texts from the text of that number, beside the least that can be seen: (S,)."""


def other_texts(
    model: Doubled,
    observed: Named,
    claimed: Sequence[Said],
    shares: Tensor,
    residual: float,
    *,
    pinned: bool,
    clock: Clock,
) -> str:
    """Why texts that explain the gradient up to `residual` need not be the private ones; empty where no other fits.

    A residual at rounding proves a text against all that leave another gradient, and against no other: a token that
    attention hardly looks at, or that stands behind the last one that the model reads, may be there, or be another.
    Each text is tried with every token exchanged for each other one, with one more at each place, one less, two
    exchanged, cut off, and gone on with to the longest; of large vocabularies, with those tokens at all places that
    leave least at some. A test and no proof: what only several changes together hide is not seen.
    observed: the gradient, as far as it was sent. shares: (S, C) of each text with each label, as in `Explained`.
    pinned: whether shares are known; else a text of any share is one that fits.
    """
    whole = torch.cat([one.flatten() for one in observed.values()]).double()
    near = SAFETY * max(residual, rounding(observed)) * float(torch.linalg.vector_norm(whole))
    directions = [_random(observed, turn) for turn in range(DIRECTIONS)]
    width = max(map(len, claimed))

    def shown(text: int, others: Sequence[Said]) -> Tensor:
        along, outputs, ids = _slopes(model, others, width, directions)
        labels = shares[text].nonzero().flatten().tolist()
        # The text's part of the gradient, with its labels as they were found.
        return torch.stack([shares[text, label] * _traces(model, along, outputs, ids, label) for label in labels]).sum(
            0
        )

    own = [shown(text, [said])[:, 0] for text, said in enumerate(claimed)]
    ends = [_ends(model, [said], width, shares[text]) for text, said in enumerate(claimed)]

    def moved(text: int, others: Sequence[Said]) -> Tensor:
        # Cheap, and without fail where the output layer was sent: its gradient is made of these two.
        pairs = [
            _aligned(one, other)
            for one, other in zip(_ends(model, others, width, shares[text]), ends[text], strict=True)
        ]
        apart = [(one - mine).flatten(1).norm(dim=1) / mine.norm().clamp_min(1e-300) for one, mine in pairs]
        # Texts without a loss last.
        return torch.stack(apart).sum(0).nan_to_num(torch.inf)

    def apart(text: int, others: Sequence[Said]) -> Tensor:
        mine, other = own[text][:, None], shown(text, others)
        factor = torch.ones_like(other[0])
        if not pinned:
            factor = ((mine * other).sum(0) / other.square().sum(0).clamp_min(1e-300)).clamp(min=0)
        return (mine - factor * other).square().mean(0).sqrt() / near

    tokens = range(1, _domain(model).vocabulary)
    return _tried(model, claimed, tokens, apart, GONE, clock, screen=moved)


def other_tokens(
    model: Doubled,
    gradient: Named,
    vectors: Tensor,
    places: Sequence[Sequence[int]],
    missed: float,
    *,
    count: int | None,
    clock: Clock,
) -> str:
    """Why tokens whose inputs span the gradient need not be all of the batch; empty where another one would be seen.

    In texts made of the tokens at their places, each other token of the vocabulary is put at each place, between and
    behind: it would be seen if the part of the layers' gradient outside of the span of `vectors` (n, d) is more than
    `missed`, which is what the true tokens leave by rounding. A test and no proof, as `other_texts`.
    gradient: of the layers that are fed the tokens, as observed. places: the tokens at each. count: of the texts, where
    it is known. Of one text, the part is measured beside its own gradient; of several, whose sizes differ with the
    labels and the model's confidence, beside the largest of them, and each is one of `count`; and unless as many tokens
    as texts are at the first place, one may be of other tokens throughout, of which the model is so sure that its error
    is none, though it is not sure of any text with one of them: such a text is climbed to.
    """
    near = SAFETY * max(missed, rounding(gradient))
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    _, sizes, axes = torch.linalg.svd(unit, full_matrices=False)
    axes = axes[sizes > 1e-6 * sizes[0]]
    scaled = [_random(gradient, turn, scaled=True) for turn in range(DIRECTIONS)]
    # <G, R (1 - Pi)> is zero where all of G's rows are in the span.
    outside = [{name: one - one @ axes.T @ axes for name, one in each.items()} for each in scaled]
    longest = max(place for place, tokens in enumerate(places, 1) if tokens)
    generator = Key(0).child("contexts").generator()
    texts: list[Said] = [
        tuple(tokens[int(torch.randint(len(tokens), (), generator=generator))] for tokens in places[:longest])
        for _ in range(CONTEXTS)
    ]
    texts = list(dict.fromkeys(texts))
    labels = range(min(model.target.classes, LABELS))

    def shown(others: Sequence[Said]) -> tuple[Tensor, Tensor]:
        along, outputs, ids = _slopes(model, others, longest, [*outside, *scaled])
        traces = torch.stack([_traces(model, along, outputs, ids, label) for label in labels])
        part, whole = traces.square().split(DIRECTIONS, 1)
        return part.mean(1).sqrt(), whole.mean(1).sqrt()

    several = count != 1
    number = count or max(map(len, places))

    def seen(text: int, others: Sequence[Said]) -> Tensor:
        del text
        part, whole = shown(others)
        beside = number * largest if several else whole
        # With any label: which it was is not known. Nothing beside nothing is nothing seen.
        return (part / (near * beside).clamp_min(1e-300)).min(0).values

    largest = torch.zeros(())
    if several:
        largest = shown(texts)[1].max()
    bag = {token for tokens in places for token in tokens}
    tokens = [token for token in range(1, _domain(model).vocabulary) if token not in bag]
    why = _tried(model, texts, tokens, seen, HIDDEN, clock)
    # Where places differ, as many different tokens at the first one are of as many texts, and no text is unseen.
    begun = count is not None and len(places[0]) >= count and len(axes) == len(vectors)
    if why or begun or not several:
        return why
    return _apart(model, tokens, sorted(bag), lambda others: seen(0, others), clock)


def rounding(gradient: Named) -> float:
    """The rounding of the coarsest of these tensors."""
    return max(torch.finfo(one.dtype).eps for one in gradient.values())


def _tried(
    model: Doubled,
    texts: Sequence[Said],
    tokens: Sequence[int],
    measure: Measure,
    why: str,
    clock: Clock,
    *,
    screen: Measure | None = None,
) -> str:
    """`why` where some change of a text is not seen; another sentence where it is not known; empty where all are.

    screen: what the nearest are chosen by; without it only changes by one of the tokens are tried, and all of them.
    """
    domain, added = _domain(model), set(tokens)
    try:
        for text, chosen in _plan(domain, texts, tokens, screen or measure, MOST if screen else MOST_TRACES, clock):
            others = _changed(texts[text], chosen, domain.length)
            if screen is not None:
                others = itertools.chain(_rearranged(texts[text], domain), others)
            kept = [one for one in dict.fromkeys(others) if one and one != texts[text]]
            if screen is not None:
                kept = _nearest(text, kept, screen, clock)[: max(8, NEAREST // len(texts))]
            for part in _together(one for one in kept if screen is not None or added.intersection(one)):
                if clock.exhausted(0):
                    return LATE
                # NaN is a text without a gradient, and no doubt.
                if bool((measure(text, part) <= 1).any()):
                    return why
            # The screening may have been cut short.
            if clock.exhausted(0):
                return LATE
    except (*FORWARD_ERRORS, BadInput):
        return FAILED
    return ""


def _apart(
    model: Doubled,
    tokens: Sequence[int],
    bag: Sequence[int],
    measure: Callable[[Sequence[Said]], Tensor],
    clock: Clock,
) -> str:
    """Why some text of these tokens, with or without some of the bag, is not seen; empty where none that was climbed to
    is.

    From the texts of one token throughout that leave least, exchanging one token after the other for the one with which
    least is left: a text of which the model is sure has many that speak for its label, and few texts at random do.
    """
    domain, added = _domain(model), set(tokens)
    drawn = sorted(Key(0).child("apart").numpy().permutation(len(tokens))[:MOST_TRACES].tolist())
    alike = [(tokens[one],) * length for length in sorted({1, domain.length}) for one in drawn]
    try:
        found = _ranked(alike, measure, clock)
        few = [said[0] for _, said in found if len(said) == domain.length][:CLIMBED] + list(bag)
        for left, begin in found[:SUREST]:
            said, least = begin, left
            for place in [*range(len(begin))] * SUREST:
                if clock.exhausted(0):
                    return LATE
                if least <= 1:
                    return APART
                others = [(*said[:place], token, *said[place + 1 :]) for token in few if token != said[place]]
                for value, one in _ranked([one for one in others if added.intersection(one)], measure, clock)[:1]:
                    said, least = (one, value) if value < least else (said, least)
            if least <= 1:
                return APART
    except (*FORWARD_ERRORS, BadInput):
        return FAILED
    return LATE if clock.exhausted(0) else ""


def _ranked(
    texts: Sequence[Said], measure: Callable[[Sequence[Said]], Tensor], clock: Clock
) -> list[tuple[float, Said]]:
    """The texts, those that leave least first; only some where the time was over."""
    found: list[tuple[float, Said]] = []
    for part in _together(texts):
        if clock.exhausted(0):
            break
        # Of a text without a gradient nothing is said, as in `_tried`.
        found += zip(measure(part).nan_to_num(torch.inf).tolist(), part, strict=True)
    return sorted(found, key=lambda each: each[0])


def _plan(
    domain: Text, texts: Sequence[Said], tokens: Sequence[int], measure: Measure, most: int, clock: Clock
) -> list[tuple[int, Sequence[int]]]:
    """Which tokens each text is tried with: all of a small vocabulary, else those of which least was seen once."""
    changes = sum(2 * len(one) + 3 for one in texts)
    if changes * len(tokens) <= most:
        return [(text, tokens) for text in range(len(texts))]
    random = Key(0).child("plan").numpy()
    # Each token once in place of another and once more, somewhere.
    drawn = sorted(random.permutation(len(tokens))[: most // 2].tolist())
    least: dict[int, float] = dict.fromkeys((tokens[one] for one in drawn), float("inf"))
    for text, said in enumerate(texts):
        mine = list(least)[text :: len(texts)]
        tried: list[Said] = []
        for token in mine:
            place = int(random.integers(len(said)))
            tried.append((*said[:place], token, *said[place + 1 :]))
            tried.append((*said[:place], token, *said[place:])[: domain.length])
        owners = iter(token for token in mine for _ in range(2))
        for part in _together(tried, sort=False):
            if clock.exhausted(0):
                break
            for value, token in zip(measure(text, part).tolist(), owners, strict=False):
                least[token] = min(least[token], value)
    # At least some, however many texts there are.
    few = max(4, most // changes)
    chosen = sorted(least, key=lambda token: least[token])[:few]
    return [(text, chosen) for text in range(len(texts))]


def _nearest(text: int, others: Sequence[Said], screen: Measure, clock: Clock) -> list[Said]:
    """The others, the nearest by what `screen` says first."""
    found: list[tuple[float, Said]] = []
    for part in _together(others):
        if clock.exhausted(0):
            break
        found += zip(screen(text, part).tolist(), part, strict=True)
    return [one for _, one in sorted(found, key=lambda each: each[0])]


def _changed(said: Said, tokens: Sequence[int], longest: int) -> Iterable[Said]:
    """A text with each of the tokens in the place of each one, and with it once more wherever there is room."""
    for token in tokens:
        for place in range(len(said)):
            yield (*said[:place], token, *said[place + 1 :])
        if len(said) < longest:
            for place in range(len(said) + 1):
                yield (*said[:place], token, *said[place:])
            yield (*said, *[token] * (longest - len(said)))


def _rearranged(said: Said, domain: Text) -> Iterable[Said]:
    """A text with one token less, cut off, with two exchanged, and with ends at random."""
    for place in range(len(said)):
        yield (*said[:place], *said[place + 1 :])
        yield said[:place]
    for one, other in itertools.combinations(range(len(said)), 2):
        moved = list(said)
        moved[one], moved[other] = moved[other], moved[one]
        yield tuple(moved)
    random = Key(0).child("tails").numpy()
    for _ in range(TAILS):
        yield (*said, *random.integers(1, domain.vocabulary, domain.length - len(said)).tolist())


def _together(texts: Iterable[Said], *, sort: bool = True) -> Iterable[list[Said]]:
    # By length: a model that does not leave the filling out gives a text another gradient with more of it.
    ordered = sorted(texts, key=len) if sort else list(texts)
    for _, alike in itertools.groupby(ordered, key=len):
        several = list(alike)
        for start in range(0, len(several), TOGETHER):
            yield several[start : start + TOGETHER]


def _slopes(
    model: Doubled, texts: Sequence[Said], width: int, directions: Sequence[Named]
) -> tuple[Tensor, Tensor, Tensor]:
    """J v for the Jacobian J of each text's outputs and each direction v, by the transpose of the transpose.

    J^T r is linear in r, so that the derivative of <J^T r, v> by r is J v, for all texts of a batch at once. The
    slopes (D, S, ...), the outputs (S, ...) and the ids (S, T).
    """
    ids = padded(texts, max(width, *map(len, texts))).to(model.target.device())
    values = dict(model.module.named_parameters())
    names = [name for name in directions[0] if name in values]
    # Fused attention has no second derivative.
    with Key(0).child("running").isolated(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = model(ids)
        chosen = torch.zeros_like(outputs, requires_grad=True)
        wanted = [values[name] for name in names]
        back = torch.autograd.grad(outputs, wanted, chosen, create_graph=True, materialize_grads=True)
        along = []
        for one in directions:
            total = torch.stack([(part * one[name]).sum() for name, part in zip(names, back, strict=True)]).sum()
            # Parameters that no output depends on leave nothing to differentiate.
            moved = torch.autograd.grad(total, chosen, retain_graph=True)[0] if total.requires_grad else 0 * outputs
            along.append(moved.detach())
    return torch.stack(along), outputs.detach(), ids


def _ends(model: Doubled, texts: Sequence[Said], width: int, shares: Tensor) -> tuple[Tensor, ...]:
    """Of each text with the labels of these shares (C,), how the loss depends on its outputs; and the outputs.

    Of a loss that reads the outputs of each token the first alone, as what the loss does not read does not matter.
    """
    ids = padded(texts, max(width, *map(len, texts))).to(model.target.device())
    with Key(0).child("running").isolated(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = model(ids).detach()
    labels = shares.nonzero().flatten().tolist()
    errors = torch.stack([float(shares[label]) * _errors(model, outputs, ids, label) for label in labels]).sum(0)
    return (errors, outputs) if outputs.dim() == 2 else (errors,)


def _aligned(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(S, T, ...) and (1, U, ...) filled up with zeros to as many tokens; as they are without tokens."""
    if one.dim() < 3 or one.shape[1] == other.shape[1]:
        return one, other
    longest = max(one.shape[1], other.shape[1])
    first, second = (
        torch.cat([each, each.new_zeros(len(each), longest - each.shape[1], *each.shape[2:])], 1)
        for each in (one, other)
    )
    return first, second


def _traces(model: Doubled, along: Tensor, outputs: Tensor, ids: Tensor, label: int) -> Tensor:
    """<gradient of each text with this label, direction>, (D, S), for what `_slopes` gives."""
    return (along * _errors(model, outputs, ids, label)).flatten(2).sum(2)


def _errors(model: Doubled, outputs: Tensor, ids: Tensor, label: int) -> Tensor:
    """The derivative of each text's own loss by its outputs, as these."""
    outputs = outputs.clone().requires_grad_(True)
    loss, classes = model.target.loss, model.target.classes
    # One of the labels that the loss reads, whatever their kind is.
    labels = loss.labeled(ids[:1].expand(classes, -1), classes).labels[[label]]
    with torch.enable_grad():
        total = loss(outputs, Batch(ids, labels.expand(len(ids), *labels.shape[1:])))
        # A mean over the batch: times their number it is each text's own.
        return torch.autograd.grad(total, outputs)[0] * len(ids)


def _random(gradient: Named, turn: int, *, scaled: bool = False) -> dict[str, Tensor]:
    """A random direction, of unit variance in each entry, or in each tensor beside its gradient's size (`scaled`)."""
    found = {}
    for name, one in gradient.items():
        generator = Key(0).child("direction", turn, name).generator()
        drawn = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one.device)
        size = float(torch.linalg.vector_norm(one.double())) if scaled else 1.0
        # A tensor without a gradient is left out of the span as well.
        found[name] = drawn / size if size > 0 else torch.zeros_like(drawn)
    return found


def _domain(model: Doubled) -> Text:
    domain = model.target.domain
    assert isinstance(domain, Text)
    return domain
