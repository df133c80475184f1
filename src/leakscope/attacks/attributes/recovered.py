"""What kind of person is behind a set of vectors that an exact attack recovers: learned of sets of public vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.attributes.decide import Logistic
from leakscope.attacks.attributes.experts import Study, Updates, judged, learned
from leakscope.attacks.attributes.signals import dense_layers, through
from leakscope.attacks.inputs.dense.lowrank import LowRank
from leakscope.core.annotation import Annotation
from leakscope.core.arguments import count, instance
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Inputs, Scale
from leakscope.core.effort import Budget, Clock, Progress, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key

SAME = 1e-3
"""Relative distance within which two recovered vectors are of one example, which a client sends in many rounds."""
FOLDS = 4


@final
@dataclass(frozen=True)
class AttributeOfVectors(AbstractAttack[tuple[Ready[Inputs], ...], Attribute]):
    """log P(g | X) of logistic regression on the mean vector of each class, X all that `of` recovers of a client.

    Features: m_c = mean of the x_b in X with label c, for all classes, (C D,); of a class that is not in X the mean
    over public sets. One mean of all examples says nothing where each client has normalized its data to mean zero;
    those of the classes still do. Labels are those that `of` claims; where it claims none, the class whose logit the
    example's own error pulls up the most: argmin_c (P d_b)_c with d = (X X^T)^-1 X dL/dW^T and P of `ClassInputs`.
    It is learned of sets of the same size, drawn from each public person's examples, each person counting alike.
    pool: public examples whose annotations tell `owner` and `attribute`. of: the attack that recovers inputs, of each
    round alone; equal ones of several rounds are one example. draws: sets of each public person. strength: > 0, of
    `Logistic`. Raises `BadInput` on what is no attack, on draws < 1, and as `Logistic`.

    The certificate of `of` is of the vectors; what is learned of other people proves nothing of this one, so that the
    claim has none, and the sentence says how many vectors are proved.
    """

    pool: Pool
    attribute: str = "sex"
    owner: str = "speaker"
    of: Attack[Inputs] = field(default_factory=LowRank)
    draws: int = 10
    strength: float = 1e-3

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(EmotionFeatures(SpokenEmotions()))")
        if not isinstance(self.of, AbstractAttack):
            raise BadInput(f"expected an attack that recovers inputs, got {self.of!r}")
        object.__setattr__(self, "draws", count("draws", self.draws))
        object.__setattr__(self, "strength", Logistic(self.strength).strength)

    @property
    def citation(self) -> str:
        """Feng et al. 2021, and the source of the attack that recovers."""
        return "\n\n".join(part for part in (citations.EMOTION, self.of.citation) if part)

    def _read(self, seen: Observation) -> tuple[Ready[Inputs], ...] | Refusal:
        if self.pool.batch.lengths is not None or self.pool.batch.labels.dim() != 1:
            return Refusal("learns of vectors of one class each, and the pool holds others")
        if not seen.target.domain.fits(self.pool.batch.inputs):
            return Refusal(f"the pool holds examples that do not fit the target's domain {seen.target.domain}")
        self.pool.annotation(self.owner)
        self.pool.annotation(self.attribute)
        found = [self.of.ready(one) for one in seen.each()]
        ready = tuple(one for one in found if isinstance(one, Ready))
        refused = [one for one in found if isinstance(one, Refusal)]
        return ready if ready else refused[0]

    def _attempt(
        self, seen: Observation, read: tuple[Ready[Inputs], ...], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Attribute]:
        vectors, labels, proved, steps = [], [], 0, []
        last: Attempt[Any] | None = None
        for turn, one in enumerate(read):
            last = one.within(key=key.child("of", turn), clock=clock)
            steps.append(last.sentence)
            if last.outcome is Outcome.CLAIMED and isinstance(last.claim, Inputs) and len(last.claim):
                rows = last.claim.values.double().flatten(1)
                vectors.append(rows)
                labels.append(last.claim.labels if last.claim.labels is not None else pulled(one.seen, rows))
                proved += 0 if last.certificate is None else sum(last.certificate.proved)
            watch(Progress(clock.fraction(turn + 1, len(read)), 0.0, f"round {turn + 1} of {len(read)}"))
            if clock.exhausted(turn + 1):
                break
        if not vectors:
            assert last is not None
            return Attempt(repr(self), Outcome.DIVERGED, last.sentence, steps=tuple(steps))
        rows, own = torch.cat(vectors), torch.cat(labels)
        kept = different(rows)
        claim, said = self.named(rows[kept], own[kept], classes=seen.target.classes, key=key.child("sets"))
        many = f"{len(kept)} vectors of {len(vectors)} of {len(seen.rounds)} rounds, {proved} of {len(rows)} proved"
        return Attempt(repr(self), Outcome.CLAIMED, f"{said}; by {many}", claim, steps=tuple(steps))

    def named(self, vectors: Tensor, labels: Tensor, *, classes: int, key: Key) -> tuple[Attribute, str]:
        """The claim about vectors (n, D) with labels (n,), and a sentence. Of true vectors it is the ceiling.

        Raises `BadInput` where public persons have several attributes, or are too few.
        """
        public, known = self.pool.batch, self.pool.annotation(self.attribute)
        whose = torch.tensor(self.pool.annotation(self.owner).values)
        sets, members, persons = [], [], []
        for person in whose.unique().tolist():
            rows = torch.nonzero(whose == person).flatten()
            members += [_of_one(known, rows, person)] * self.draws
            persons += [person] * self.draws
            for turn in range(self.draws):
                order = torch.randperm(len(rows), generator=key.child(person, turn).generator())
                sets.append(_means(public.rows(rows[order[: len(vectors)]]), classes))
        stacked = torch.stack(sets)
        # Of a class that a set lacks: what all others have of it says nothing, as it should.
        usual = torch.nan_to_num(stacked.nanmean(0))
        filled = torch.where(torch.isnan(stacked), usual, stacked)
        shape = (classes, vectors.shape[1])
        updates = Updates((filled,), (shape,), torch.tensor(members), torch.tensor(persons), len(known.categories))
        decision = Logistic(self.strength)
        # A clock of its own: it takes a second, and has nothing to go on from.
        study = Study(decision, FOLDS, key, Budget().start(), unwatched)
        state = learned(updates, study)
        mine = _means(Batch(vectors, labels), classes)
        scores = judged(decision, state, [torch.where(torch.isnan(mine), usual, mine)[None]])
        best = scores.argmax(1)
        sentence = f"{self.attribute!r} by the means of {classes} classes: {known.categories[int(best)]!r}"
        # with two persons of a category nobody is left out
        if "of" in state:
            sentence += f"; of {state['of']} public persons {state['right']} are named right when left out"
        return Attribute(self.attribute, best, scores=scores, scale=Scale.LOG_PROBABILITY), sentence


def pulled(seen: Observation, rows: Tensor) -> Tensor:
    """(n,) int64: the class of each recovered input (n, D), by the error that the update holds of it; no proof.

    Raises `BadInput` where the layers are no chain, or the first one is not in the update.
    """
    layers, update = dense_layers(seen.target), seen.gradient().by_name
    if layers[0].shape[1] != rows.shape[1] or layers[0].weight not in update:
        raise BadInput(
            "labels are read off the gradient of a first dense layer that is fed the input, and it is not there"
        )
    path = through(layers[0], seen.target.parameters(), layers[1:])
    if path is None:
        raise BadInput("labels are read through dense layers only, and others lie behind the first")
    # dL/dW = d^T X, of as many independent rows as there are inputs
    errors = torch.linalg.lstsq(rows.T, update[layers[0].weight].double().cpu().T).solution
    # p - y is below zero for the true class alone, and P d_b a positive matrix times it where units are on
    found: Tensor = (errors @ path.T).argmin(1)
    return found


def different(rows: Tensor) -> Tensor:
    """(m,) places of rows (n, D) of which no earlier one is within `SAME` of their size.

    >>> different(torch.tensor([[1.0, 0.0], [1.0, 1e-6], [0.0, 1.0]])).tolist()
    [0, 2]
    """
    near = torch.cdist(rows, rows) <= SAME * rows.norm(dim=1, keepdim=True)
    return torch.nonzero(~near.tril(-1).any(1)).flatten()


def _means(batch: Batch, classes: int) -> Tensor:
    """(C D,) float64: the mean vector of each class, NaN where there is none."""
    rows = batch.inputs.double().flatten(1)
    return torch.cat([rows[batch.labels == label].mean(0) for label in range(classes)])


def _of_one(known: Annotation, rows: Tensor, person: int) -> int:
    values = {known.values[int(row)] for row in rows}
    if len(values) > 1:
        raise BadInput(f"person {person} of the pool has {len(values)} values of {known.name!r}; it must be one")
    return values.pop()
