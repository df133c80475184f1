"""Claims of labels: compared as multisets, or as sets, since the gradient of a batch has no order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Labels
from leakscope.core.errors import BadInput
from leakscope.core.labels import are_classes
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case
from leakscope.scoring.chance import AbstractGuess, keys
from leakscope.scoring.kinds.inputs import fitting_public
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, Shown
from leakscope.scoring.metrics.guesses import LabelAccuracy, LabelCounts, LabelSet
from leakscope.scoring.metrics.metric import AbstractLabelMetric, AbstractMetric
from leakscope.scoring.pairing import Pairing, kept

DRAWS = 64
"""Over how many draws the expectation of a random guess is taken; a share of hits is then known to within 6 %."""
SET_DRAWS = 8
"""The same of a set of likely labels, which is random only where several labels are equally frequent."""

Frequencies = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False, repr=False)
class LabelTruth:
    """The private labels (B,) int64, the most probable class of soft ones, and the number of classes."""

    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@final
@dataclass(frozen=True, eq=False)
class FrequentLabel(AbstractGuess[Labels]):
    """The most frequent public label for every item; where several are equally frequent, one of them at random."""

    frequencies: Frequencies
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """`count` times the same label."""
        # Balanced classes are all modes: always to take the first would make chance depend on how classes are numbered.
        ties = np.flatnonzero(self.frequencies == self.frequencies.max())
        for one in keys(self, key, DRAWS):
            yield 1 / DRAWS, Labels(torch.full((self.count,), int(one.numpy().choice(ties)), dtype=torch.int64))


@final
@dataclass(frozen=True, eq=False)
class RandomLabel(AbstractGuess[Labels]):
    """Labels drawn independently from the public frequencies."""

    frequencies: Frequencies
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """`count` labels, drawn `DRAWS` times."""
        for one in keys(self, key, DRAWS):
            drawn = one.numpy().choice(len(self.frequencies), size=self.count, p=self.frequencies)
            yield 1 / DRAWS, Labels(torch.from_numpy(drawn.astype(np.int64)))


@final
@dataclass(frozen=True, eq=False)
class LikelyCounts(AbstractGuess[Labels]):
    """The counts g with the largest expected overlap sum_c E min(g_c, N_c), N_c ~ Binomial(B, frequency_c).

    For large batches far better than any single label: 256 of 10 equally frequent classes overlap by about 0.93 with a
    blind 25 or 26 of each. Built one label at a time by the largest P(N_c > g_c), which is optimal as these fall in
    g_c; equal ones are chosen at random.
    """

    frequencies: Frequencies
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """`count` labels with these counts, drawn `DRAWS` times."""
        for one in keys(self, key, DRAWS):
            yield 1 / DRAWS, likely(self.frequencies, self.count, one)


@final
@dataclass(frozen=True, eq=False)
class UniformCounts(AbstractGuess[Labels]):
    """`LikelyCounts` of an adversary who does not believe the public frequencies and takes all classes as equal."""

    classes: int
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """`count` labels, each class as often as the others or once more, drawn `DRAWS` times."""
        # For a batch of many labels of few classes this is far above a single class for all.
        even = np.full(self.classes, 1 / self.classes)
        for one in keys(self, key, DRAWS):
            yield 1 / DRAWS, likely(even, self.count, one)


@final
@dataclass(frozen=True, eq=False)
class UniformLabel(AbstractGuess[Labels]):
    """One class for every item, each of C classes with probability 1 / C: exactly, so never 0 by unlucky draws.

    truth: which classes occur. All others score alike, so one of them stands for them all. distinct: as a set of one.
    """

    truth: LabelTruth
    distinct: bool = False

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """Each class that occurs, and one of those that do not."""
        del key
        classes, there = self.truth.classes, sorted(set(self.truth.labels.tolist()))
        absent = next((c for c in range(classes) if c not in there), None)
        weights = [(1 / classes, c) for c in there]
        if absent is not None:
            weights.append(((classes - len(there)) / classes, absent))
        times = 1 if self.distinct else len(self.truth)
        for weight, label in weights:
            yield weight, Labels(torch.full((times,), label, dtype=torch.int64), distinct=self.distinct)


@final
@dataclass(frozen=True, eq=False)
class LikelySet(AbstractGuess[Labels]):
    """The `size` most frequent public labels as a set; where several are equally frequent, random ones of them."""

    frequencies: Frequencies
    size: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """One set, drawn `SET_DRAWS` times."""
        for one in keys(self, key.child(self.size), SET_DRAWS):
            # A random order first: the stable sort by frequency then breaks ties by it.
            order = one.numpy().permutation(len(self.frequencies))
            best = order[np.argsort(-self.frequencies[order], kind="stable")][: self.size]
            yield 1 / SET_DRAWS, Labels(torch.from_numpy(np.sort(best).astype(np.int64)), distinct=True)


@final
@dataclass(frozen=True, eq=False)
class RandomSet(AbstractGuess[Labels]):
    """The labels of a random public batch of the same size, as a set."""

    frequencies: Frequencies
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Labels]]:
        """One set, drawn `DRAWS` times."""
        for one in keys(self, key, DRAWS):
            drawn = one.numpy().choice(len(self.frequencies), size=self.count, p=self.frequencies)
            yield 1 / DRAWS, Labels(torch.from_numpy(np.unique(drawn).astype(np.int64)), distinct=True)


def likely(frequencies: Frequencies, count: int, key: Key) -> Labels:
    """`count` labels with the largest expected overlap; see `LikelyCounts`.

    >>> likely(np.array([0.7, 0.3]), 10, Key(0)).values.bincount().tolist()
    [7, 3]
    """
    # In a random order, as argmax takes the first of equal gains.
    order = key.numpy().permutation(len(frequencies))
    shares = frequencies[order]
    guessed = np.zeros(len(shares), dtype=np.int64)
    # E min(g + 1, N) - E min(g, N) = P(N > g): what one more label of this class gains.
    gains = _exceeds(guessed, count, shares)
    for _ in range(count):
        best = int(gains.argmax())
        guessed[best] += 1
        gains[best] = _exceeds(guessed[[best]], count, shares[[best]])[0]
    return Labels(torch.from_numpy(np.repeat(order, guessed).astype(np.int64)))


def _exceeds(counts: NDArray[np.int64], size: int, shares: Frequencies) -> Frequencies:
    # P(N > g) for N ~ Binomial(size, share) is the regularized incomplete beta function I_share(g + 1, size - g).
    return np.asarray(special.betainc(counts + 1, np.maximum(size - counts, 1e-300), shares), dtype=np.float64)


def classes_of(labels: Tensor) -> Tensor:
    """(B,) class indices of hard (B,) or soft (B, C) labels, by the largest probability."""
    hard = labels.detach().cpu()
    return hard.clone() if hard.dim() == 1 else hard.flatten(1).argmax(1)


def label_guesses(truth: LabelTruth, public: Batch | None, *, distinct: bool) -> tuple[AbstractGuess[Labels], ...]:
    """What can be guessed of labels: uniformly, the most frequent public one, random public ones, likely counts.

    distinct: the same as sets, besides: a metric takes what it can judge.
    """
    count, classes = len(truth), truth.classes
    # Public soft labels count as their most probable class, as private ones do.
    counts = np.ones(classes) if public is None else np.bincount(classes_of(public.labels).numpy(), minlength=classes)
    shares = counts / counts.sum()
    known = LabelTruth(truth.labels, len(shares))
    found: list[AbstractGuess[Labels]] = [FrequentLabel(shares, count), RandomLabel(shares, count)]
    # The uniform guesses as well: a public part without the class in question would make their chance zero, and then a
    # guess at random would count as a leak.
    found += [LikelyCounts(shares, count), UniformLabel(known)]
    if public is not None:
        found.append(UniformCounts(len(shares), count))
    return (*found, *(_set_guesses(shares, known) if distinct else ()))


def _set_guesses(shares: Frequencies, truth: LabelTruth) -> Iterator[AbstractGuess[Labels]]:
    """Sets of 1, 2, 4, ... likely labels up to as many as there are items or classes, and random ones."""
    count = len(truth)
    most = min(count, len(shares))  # a claim of more labels than items would be cut to as many
    sizes = {min(2**power, most) for power in range(most.bit_length() + 1)}
    yield from (LikelySet(shares, size) for size in sorted(sizes))
    even = np.full(len(shares), 1 / len(shares))
    yield from (UniformLabel(truth, distinct=True), RandomSet(shares, count), RandomSet(even, count))


@final
@dataclass(frozen=True)
class PrivateLabels(AbstractKind[Labels, LabelTruth, AbstractLabelMetric]):
    """Labels, how often each occurs or only which."""

    claims: ClassVar[type[AbstractClaim]] = Labels
    default: ClassVar[tuple[AbstractMetric, ...]] = (LabelAccuracy(), LabelCounts(), LabelSet())

    @property
    def examples(self) -> tuple[Labels, ...]:
        """One label, a set of them, and one beside classes that do not occur."""
        single = torch.tensor([1])
        return Labels(single), Labels(single, distinct=True), Labels(single, absent=torch.tensor([0, 2]))

    def holds(self, claim: AbstractClaim) -> bool:
        """Labels."""
        return isinstance(claim, Labels)

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of labels."""
        return isinstance(metric, AbstractLabelMetric)

    def truth(self, claim: Labels, case: Case) -> LabelTruth:
        """The private labels. Raises `BadInput` where the examples have transcripts, or numbers that are no classes."""
        batch = case.batch()
        if batch.lengths is not None:
            name = type(claim).__name__
            raise BadInput(f"sequences are compared with Inputs or Transcripts, not with a claim of {name}")
        if not are_classes(batch):
            raise BadInput("the private targets are numbers, not classes, so no claim of classes is right or wrong")
        if case.public is not None:
            fitting_public(case.public, tuple(batch.inputs.shape[1:]))
        labels = classes_of(batch.labels)
        # Hard labels do not say how many classes there are: the fewest that they allow make chance highest.
        soft = batch.labels.dim() > 1
        return LabelTruth(labels, math.prod(batch.labels.shape[1:]) if soft else max(2, int(labels.max()) + 1))

    def pair(self, claim: Labels, truth: LabelTruth) -> Pairing:
        """Equal labels first, each used once; what is left over is paired in order, so that a report can show it."""
        places = kept(claim, len(truth))
        partners: list[int | None] = [None] * len(truth)
        waiting: dict[int, list[int]] = {}
        for place in places:
            waiting.setdefault(int(claim.values[place]), []).append(place)
        for item, label in enumerate(truth.labels.tolist()):
            if waiting.get(label):
                partners[item] = waiting[label].pop(0)
        # No assignment: metrics of labels count, and do not look at pairs; these are for the eye alone.
        rest = sorted(place for group in waiting.values() for place in group)
        for item, partner in enumerate(partners):
            if partner is None and rest:
                partners[item] = rest.pop(0)
        return Pairing(tuple(partners), len(claim) - len(places))

    def guesses(self, at: Comparison[Labels, LabelTruth], case: Case) -> Sequence[AbstractGuess[Labels]]:
        """See `label_guesses`."""
        return label_guesses(at.truth, case.public, distinct=at.claim.distinct)

    def items(self, metric: AbstractLabelMetric, at: Comparison[Labels, LabelTruth], blind: Sequence[float]) -> Judged:
        """The metric of all labels that are judged; a label that was not claimed was not found."""
        del blind
        # As a multiset: which label belongs to which example is nothing that a gradient tells.
        values = metric.items(at.claim.values[kept(at.claim, len(at.truth))], at.truth.labels)
        return Judged(values, sum(value == metric.perfect for value in values))

    def right(self, claim: Labels, truth: LabelTruth, tolerances: Sequence[float]) -> tuple[bool, ...]:
        """As a multiset: the second of two equal labels is right where it occurs twice; of a set, where it occurs."""
        del tolerances
        left, found = Counter(truth.labels.tolist()), []
        for label in claim.values.tolist():
            found.append(left[label] > 0)
            left[label] -= 1
        return tuple(found)

    def claimed(self, at: Comparison[Labels, LabelTruth]) -> int:
        """All items, where which labels occur was claimed."""
        return len(at.truth) if at.claim.distinct and len(at.claim) else len(at.pairing.known()[0])

    def notes(self, at: Comparison[Labels, LabelTruth], metrics: Sequence[AbstractLabelMetric]) -> tuple[str, ...]:
        """That a set says nothing of how often a label occurs, and what was said not to occur."""
        found = []
        if at.claim.distinct and any(metric.name == LabelAccuracy.name for metric in metrics):
            found.append(
                "the claim is a set of labels: label-accuracy counts each claimed label once, which understates it"
            )
        if at.claim.absent is not None:
            wrong = sorted(set(at.claim.absent.tolist()) & set(at.truth.labels.tolist()))
            said = f"{len(at.claim.absent)} classes were said not to occur"
            found.append(f"{said}, WRONGLY of {wrong}: a defect of the attack" if wrong else f"{said}, and none does")
        return tuple(found)

    def shown(self, claim: Labels, case: Case) -> Shown:
        """The claimed label for each private item, equal ones first."""
        partners = self.compared(claim, case).pairing.partners
        return Shown(labels=tuple(-1 if place is None else int(claim.values[place]) for place in partners))

    def control(self, outsider: Outsider, *, key: Key) -> Labels | None:
        """Of texts random public labels. Whole inputs bring their labels along, sequences have transcripts."""
        if not outsider.public.holds_tokens:
            return None
        public = outsider.public.labels
        return Labels(public[torch.randint(len(public), (outsider.count,), generator=key.child("labels").generator())])
