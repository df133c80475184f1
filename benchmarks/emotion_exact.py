"""The exact parts of `benchmarks/emotion.py`: what comes back of one gradient, how far it goes, and what it says then.

A round are recordings of one speaker at fresh weights, half of the rounds normalized per speaker, half per corpus. It
counts where every vector is there to a relative 1e-4. The limits: more recordings, several local steps, and weights
that a federation of the same speakers has come to, at which what is learned by heart has hardly any error. What vectors
say: sex and emotion by logistic regression on the other half of the speakers, the speaker by the nearest mean of the
speakers' other recordings (cosine), on true and on recovered vectors.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import leakscope as ls
from leakscope.datasets import partition
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.population import Population
from leakscope.numerics import intervals
from leakscope.targets.zoo.emotion_net import EmotionNet

STRENGTH = 0.01
"""Of the logistic regression, as 988 features stand against some hundred recordings; not tuned."""
COUNTS = (8, 12, 16, 20)
BEYOND = (20, 24, 28, 32, 36, 40)
DROPOUTS = (0.0, 0.2, 0.4, 0.6)
NEAR = 1e-4
TRAINED = (10, 40, 100)
SOON = 40
"""Rounds of training up to which all vectors are expected; beyond, some recordings leave no more than rounding."""
ADAM = ls.ClientAdam(betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)
LOCAL = {
    "2 steps": ls.FedAvg(2, 0.05),
    "5 steps": ls.FedAvg(5, 0.05),
    "20 steps": ls.FedAvg(20, 0.05),
    "2 steps of 10 each": ls.FedAvg(2, 0.05, batch_size=10),
    "a step of Adam": ls.FedAvg(1, 5e-4, optimizer=ADAM),
    "2 steps of Adam": ls.FedAvg(2, 5e-4, batch_size=10, optimizer=ADAM),
}
Line = tuple[str, bool]


@dataclass
class Half:
    """Recordings of some speakers: batch, sex and speaker of each, and the clients' rows."""

    source: ls.EmotionFeatures
    key: ls.Key

    def __post_init__(self) -> None:
        self.batch = self.source.load()
        known = {one.name: torch.tensor(one.values) for one in self.source.annotations()}
        self.sex, self.speaker = known["sex"], known["speaker"]
        self.clients = partition.by_owner(self.source.owners(), key=self.key)

    def net(self, rate: float, *, key: ls.Key, trained: int = 0) -> ls.Target:
        """Fresh, or what a federation of these speakers has come to after so many rounds."""
        target = EmotionNet(dropout=rate, second=rate, training=rate > 0).build(
            self.source.domain, self.source.classes, key=key.child("weights")
        )
        if not trained:
            return target
        people = Population.of_owners(self.batch, self.source.annotations())
        federation = Federation(ls.FedSGD(), rounds=trained, fraction=0.25, batch=20, server_lr=0.1)
        return target.at(federation.run(target, people, key=key.child("trained")).weights)


@dataclass
class Told:
    """What rounds gave: how many, how often all vectors and all labels were right, and what they say.

    proved: rounds of which every vector was. sure, wrong: vectors that were proved, and those of them that are off.
    """

    rounds: int = 0
    right: int = 0
    proved: int = 0
    sure: int = 0
    wrong: int = 0
    labeled: int = 0
    counted: int = 0
    why: Counter[str] = field(default_factory=Counter)

    def add(self, private: ls.Batch, attempt: ls.Attempt[ls.Inputs]) -> torch.Tensor | None:
        """The recovered vectors, in the order of the true ones, where all of them are there."""
        self.rounds += 1
        if not isinstance(attempt.claim, ls.Inputs) or not len(attempt.claim):
            self.why[attempt.sentence] += 1
            return None
        true, found = private.inputs.double(), attempt.claim.values.double().cpu()
        away = torch.cdist(true, found)
        near = away.min(1)
        there = bool((near.values <= NEAR * true.norm(dim=1)).all())
        if attempt.certificate is not None:
            known = torch.tensor(attempt.certificate.proved)
            self.proved += bool(known.all())
            self.sure += int(known.sum())
            self.wrong += int((known & ((away / true.norm(dim=1)[:, None]).min(0).values > NEAR)).sum())
        if not there:
            self.why[attempt.sentence] += 1
            return None
        self.right += 1
        if attempt.claim.labels is not None:
            self.labeled += 1
            said, own = attempt.claim.labels.tolist(), private.labels.tolist()
            self.counted += Counter(said) == Counter(own)
        return found[near.indices]

    def share(self) -> str:
        """Of the rounds, with the 95 % interval."""
        return _share(self.right, self.rounds)

    def proofs(self) -> str:
        """What was proved."""
        return f"all proved in {self.proved}, {self.sure} vectors proved, {self.wrong} of them wrong"

    def limit(self, what: str, *, silent: bool = False, least: float = 0.0) -> Line:
        """A line: of how many rounds all vectors came back, and why of the others none did. silent: none may.

        least: the share of rounds that is expected.
        """
        wanted = "none wrong" + (" and a sentence each" if silent else "") + (f", {least:.0%}" if least else "")
        line = f"limit: {what}: all vectors in {self.share()}, {self.proofs()}; expected {wanted}"
        good = (
            self.wrong == 0
            and self.right >= least * self.rounds
            and (not silent or sum(self.why.values()) == self.rounds)
        )
        return line + _reasons(self), good


def _share(right: int, rounds: int) -> str:
    if not rounds:
        return "of none"
    found = intervals.binomial(right / rounds, float(rounds))
    return f"{right} of {rounds} ({found.low:.1%} to {found.high:.1%})"


def _run(target: ls.Target, private: ls.Batch, mechanism: ls.FedSGD | ls.FedAvg, key: ls.Key) -> ls.Attempt[ls.Inputs]:
    seen = ls.observe(target, private, mechanism, key=key.child("client"), tell=[ls.BatchSize(len(private))])
    return ls.LowRank().run(seen, key=key.child("attack"))


def both(given: ls.AbstractCorpus, features: ls.OpenSmile, names: tuple[str, ...], key: ls.Key) -> list[Half]:
    """The same speakers, normalized per speaker and per corpus."""
    hows = (ls.Normalization.SPEAKER, ls.Normalization.CORPUS)
    return [Half(ls.EmotionFeatures(given, features, how, speakers=names), key) for how in hows]


def recovered(
    given: ls.AbstractCorpus,
    features: ls.OpenSmile,
    halves: list[tuple[str, ...]],
    *,
    each: int,
    seed: int,
    counts: tuple[int, ...] = COUNTS,
) -> Iterator[Line]:
    """Rounds of one speaker each, by dropout and number of recordings; then what they say. each: by both, per count."""
    key = ls.Key(seed).child("exact")
    private = both(given, features, halves[1], key)
    public = ls.EmotionFeatures(given, features, ls.Normalization.CORPUS, speakers=halves[0])
    speaking = Speaking(public, private[1])
    for rate in DROPOUTS:
        told = Told()
        for place, half in enumerate(private):
            for turn in range(each):
                # one net for each turn
                own = key.child("net", str(rate), place, turn)
                target = half.net(rate, key=own)
                for count in counts:
                    rows = _of_one(half, count, own.child("round", count))
                    batch = half.batch.rows(rows)
                    found = told.add(batch, _run(target, batch, ls.FedSGD(), own.child("seen", count)))
                    if found is not None and place == 1:
                        speaking.add(rows, found)
        line = (
            f"features of rounds of {counts[0]} to {counts[-1]} recordings, dropout {rate}: all of them to {NEAR:g} in "
            f"{told.share()}, {told.proofs()}; expected 99 % and 0 wrong"
        )
        yield line + _reasons(told), told.right >= 0.99 * told.rounds and told.wrong == 0
        yield (
            f"emotions by the labels of recovered vectors, dropout {rate}: counts claimed in "
            f"{_share(told.labeled, told.rounds)} rounds, right in {_share(told.counted, told.labeled)} of them; "
            "expected 95 % right, claimed in 90 %",
            told.labeled >= 0.9 * told.rounds and told.counted >= 0.95 * told.labeled,
        )
    yield from speaking.lines()


def uar(true: np.ndarray, said: np.ndarray) -> float:
    """Mean recall of the categories that occur."""
    return float(np.mean([(said[true == one] == one).mean() for one in np.unique(true)]))


def _of_one(half: Half, count: int, key: ls.Key) -> torch.Tensor:
    able = [one for one in half.clients if len(one) >= count]
    if not able:
        # nobody has so many: of one speaker all, the others of the next
        return _of_several(half, count, key)
    own = able[int(key.child("who").numpy().integers(len(able)))]
    return own[torch.randperm(len(own), generator=key.child("which").generator())[:count]]


def _reasons(told: Told) -> str:
    return "".join(f"\n        {many} x {one}" for one, many in told.why.most_common(3))


@dataclass
class Speaking:
    """Who and what speaks in true and in recovered vectors: each vector once for each round that it is in."""

    public: ls.EmotionFeatures
    private: Half

    def __post_init__(self) -> None:
        batch, known = self.public.load(), {one.name: np.array(one.values) for one in self.public.annotations()}
        self.model = {
            name: LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000).fit(batch.inputs.numpy(), true)
            for name, true in (("sex", known["sex"]), ("emotion", batch.labels.numpy()))
        }
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, rows: torch.Tensor, found: torch.Tensor) -> None:
        """A round of these rows, as it came back."""
        self.seen.append((rows, found.float()))

    def lines(self) -> Iterator[Line]:
        """Accuracy on recovered vectors beside that on true ones."""
        if not self.seen:
            yield "nothing was recovered of which anything could be said", False
            return
        own = self.private
        truth = {"sex": own.sex, "emotion": own.batch.labels, "speaker": own.speaker}
        said: dict[str, list[list[np.ndarray]]] = {name: [[], [], []] for name in truth}
        for rows, found in self.seen:
            for place, vectors in enumerate((own.batch.inputs[rows], found)):
                for name, model in self.model.items():
                    said[name][place].append(model.predict(vectors.numpy()))
                said["speaker"][place].append(self._nearest(rows, vectors).numpy())
            for name, true in truth.items():
                said[name][2].append(true[rows].numpy())
        for name, parts in said.items():
            ideal, found, true = (np.concatenate(one) for one in parts)
            first, second = (uar(true, one) for one in (ideal, found))
            chance = 1 / (4 if name == "emotion" else 2 if name == "sex" else len(own.clients))
            yield (
                f"{name} of {len(true)} recovered vectors: UAR {second:.3f}, of the true ones {first:.3f}, chance "
                f"{chance:.3f}, {int((ideal != found).sum())} named otherwise; expected equal to 0.005",
                abs(first - second) <= 0.005 and second > chance,
            )

    def _nearest(self, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """(n,) the speaker with the nearest mean of those recordings that are not in this round."""
        kept = torch.ones(len(self.private.batch), dtype=torch.bool)
        kept[rows] = False
        names = self.private.speaker.unique()
        # of a speaker all of whose recordings are in the round nothing else is known, and nobody can be named rightly
        means = [self.private.batch.inputs[kept & (self.private.speaker == one)] for one in names]
        stacked = torch.stack([one.mean(0) if len(one) else torch.zeros(vectors.shape[1]) for one in means])
        unit = torch.nn.functional.normalize
        return names[(unit(vectors, dim=1) @ unit(stacked, dim=1).T).argmax(1)]


def limits(
    given: ls.AbstractCorpus, features: ls.OpenSmile, names: tuple[str, ...], *, each: int, seed: int
) -> Iterator[Line]:
    """More recordings than a first mini-batch has, of as many speakers as it takes; and several local steps on 20."""
    key = ls.Key(seed).child("limits")
    half = both(given, features, names, key)[0]
    for rate, count in itertools.product((0.0, 0.2, 0.6), BEYOND):
        told = Told()
        for turn in range(each):
            own = key.child(str(rate), count, turn)
            target = half.net(rate, key=own)
            batch = half.batch.rows(_of_several(half, count, own))
            told.add(batch, _run(target, batch, ls.FedSGD(), own))
        yield told.limit(f"{count} recordings, dropout {rate}")
    yield from _learned(both(given, features, names, key), each=each, key=key)
    for name, local in LOCAL.items():
        told, rate = Told(), 0.2
        for turn in range(each):
            own = key.child(name, turn)
            target = half.net(rate, key=own)
            batch = half.batch.rows(_of_several(half, 20, own))
            told.add(batch, _run(target, batch, local, own))
        yield told.limit(f"FedAvg, {name}, 20 recordings, dropout {rate}", silent=local.optimizer == ADAM)


def _learned(halves: list[Half], *, each: int, key: ls.Key) -> Iterator[Line]:
    """At the weights that a federation of the same speakers has come to, normalized either way."""
    for rate, trained in itertools.product((0.0, 0.2), TRAINED):
        told = Told()
        for place, turn in itertools.product(range(len(halves)), range(each)):
            half, own = halves[place], key.child(str(rate), "trained", trained, place, turn)
            target = half.net(rate, key=own, trained=trained)
            for count in COUNTS[-2:]:
                batch = half.batch.rows(_of_one(half, count, own.child(count)))
                told.add(batch, _run(target, batch, ls.FedSGD(), own.child("seen", count)))
        yield told.limit(
            f"{COUNTS[-2]} and {COUNTS[-1]} recordings at the weights of a federation after {trained} rounds, "
            f"dropout {rate}",
            least=0.99 if trained <= SOON else 0.0,
        )


def _of_several(half: Half, count: int, key: ls.Key) -> torch.Tensor:
    order = torch.randperm(len(half.clients), generator=key.child("who").generator()).tolist()
    rows = torch.cat([half.clients[at] for at in order])
    # the first of them whole, then the next: most are of one speaker
    first = rows[: max(count, len(half.clients[order[0]]))]
    return first[torch.randperm(len(first), generator=key.child("which").generator())[:count]]
