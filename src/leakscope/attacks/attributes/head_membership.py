"""Which of two suspects a released classifier head was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.attacks.inputs.heads.reading import SeenHead, features_of, read_head
from leakscope.attacks.inputs.heads.sampled import Sampled
from leakscope.core.arguments import count, instance
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Attribute, Scale
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import MEMBER, BatchSize, Fact, Suspects
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.release import AbstractRelease, Weights
from leakscope.mechanisms.heads.private import left_of, train_private
from leakscope.mechanisms.heads.together import Heads, first, sets, together, train
from leakscope.mechanisms.protocols.training import PrivateHeadTraining
from leakscope.numerics.rng import Key

RIDGE = 1e-3
"""Of a number's variance: what keeps numbers of a head that are nearly the same apart."""
LEAST = 64
"""Heads of each kind: with as few as the numbers that are read off one, no covariance is known."""


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """The suspects' features (2, d), their class, and where along the weights of a class (d,) they are told apart."""

    features: Tensor
    one: int
    along: Tensor


@final
@dataclass(frozen=True)
class HeadMembership(AbstractAttack[SeenHead, Attribute]):
    """log P(W | first) - log P(W | second), by heads that were trained on each of two suspects and on public examples.

    pool: public examples of all classes, with which suspects are trained. heads: trained with each suspect, >= 64. Of a
    head its logits on both and its weights along S^-1 (first - second) are looked at, S the covariance of what it holds
    beside a suspect; with each suspect these are taken as normal (Carlini et al. 2022, arXiv:2112.03570, take the loss
    alone). In pairs: the same companions, first weights, samples and noise, so that few heads tell the means apart.
    Where each step draws its examples, who took part is random and outweighs that: it is read off the bias, and the
    odds are those given it (`Sampled.told_apart`), as sure as they are right about the public heads.
    The claim's scores are logarithms of probabilities, of equally likely suspects. Raises `BadInput` on heads < 64.
    """

    pool: Pool
    heads: int = 512

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize, Suspects})
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Weights})
    asks: ClassVar[Asks] = Asks.NOTHING

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Digits())")
        object.__setattr__(self, "heads", count("heads", self.heads, low=LEAST))

    @property
    def citation(self) -> str:
        """Carlini et al. 2022."""
        return citations.LIKELIHOOD_RATIO

    def _read(self, seen: Observation) -> SeenHead | Refusal:
        found = read_head(seen, self.pool, learned=True)
        if isinstance(found, Refusal):
            return found
        if found.weights.shape[1] == 1 and acts_as(seen.mechanism, PrivateHeadTraining):
            return Refusal("heads of one logit are trained with noise one at a time, which takes too long for hundreds")
        if acts_as(seen.mechanism, PrivateHeadTraining):
            try:
                left_of(seen.mechanism)
            except BadInput as error:
                return Refusal(str(error))
        if found.bias is None:
            return Refusal("the release lacks the head's bias, without which it has no logits")
        suspects = seen.told(Suspects).examples
        if not seen.target.domain.fits(suspects.inputs) or int(suspects.labels[0]) >= seen.target.classes:
            return Refusal(f"the suspects are no inputs of {seen.target.domain} with one of its classes")
        if int(torch.bincount(self.pool.batch.labels).min()) < found.each:
            return Refusal(f"needs {found.each} public examples of each class for the suspects' company; give more")
        return found

    def _attempt(
        self, seen: Observation, read: SeenHead, *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Attribute]:
        del clock, watch  # a second
        assert read.bias is not None
        suspects = seen.told(Suspects).examples
        features = features_of(seen.target, read.public.layer, suspects.inputs)
        asked = Asked(features, int(suspects.labels[0]), _along(features, read))
        company = features_of(seen.target, read.public.layer, self.pool.batch.inputs)
        sides = zip(*self._shadows(seen.mechanism, read, asked, company, key), strict=True)
        shadows, own = [_joined(one) for one in sides], Heads((read.weights,), (read.bias,))
        if acts_as(seen.mechanism, PrivateHeadTraining):
            odds = _sampled_odds(own, shadows, asked, read, seen.mechanism)
        else:
            odds = _odds(*(_numbers(one.weights[0], one.biases[0], asked) for one in (own, *shadows)))
        if not bool(torch.isfinite(odds).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the odds are not finite: the declared training diverges")
        scores = torch.log_softmax(odds, 1)
        best = scores.argmax(1)
        claim = Attribute(MEMBER, best, scores.exp().amax(1).float(), scores, Scale.LOG_PROBABILITY)
        said = f"the {'second' if int(best) else 'first'} suspect, by {self.heads} heads trained with each of both"
        return Attempt(repr(self), Outcome.CLAIMED, said, claim)

    def _shadows(
        self, mechanism: AbstractMechanism, read: SeenHead, asked: Asked, company: Tensor, key: Key
    ) -> Iterator[tuple[Heads, Heads]]:
        """Heads that were trained with the first suspect, and those with the second."""
        labels = self.pool.batch.labels
        drawn = sets(labels, read.each, key=key.child("sets"))
        chunk = together(read.each * int(labels.max() + 1), company.shape[1])
        for place, begin in enumerate(range(0, self.heads, chunk)):
            rows = torch.stack(list(itertools.islice(drawn, min(chunk, self.heads - begin))))
            sides = []
            for suspect in asked.features:
                examples = company[rows]
                examples[:, asked.one * read.each] = suspect
                start = _start(read, len(rows), key.child("start", place))
                sides.append(_trained(mechanism, read, (examples, labels[rows]), start, key.child("course", place)))
            yield sides[0], sides[1]


def _start(read: SeenHead, many: int, key: Key) -> Heads:
    if read.start is None:
        classes, wide = read.weights.shape[1:]
        return first(read.public.training, (wide, classes), many, key=key)
    weight, bias = read.start
    return Heads((weight.detach().repeat(many, 1, 1),), (bias.detach().repeat(many, 1),))


def _trained(
    mechanism: AbstractMechanism, read: SeenHead, examples: tuple[Tensor, Tensor], start: Heads, key: Key
) -> Heads:
    if acts_as(mechanism, PrivateHeadTraining):
        return train_private(mechanism, *examples, start, key=key)
    return train(read.public.training, *examples, start, positive_weight=read.public.positive_weight)


def _along(features: Tensor, read: SeenHead) -> Tensor:
    """S^-1 (first - second): noise of first weights and of steps is of the size of the least spread of the weights."""
    prior = read.public.prior
    difference = (features[0] - features[1]) @ prior.axes
    # What the other examples bring along an axis, and what is secret or noise, which is the same along all axes.
    held = read.weights[0] @ prior.axes
    floor = held.square().mean(0).sort().values[: max(1, held.shape[1] // 8)].mean()
    signal = held.square().mean() / prior.variances.mean()
    spread = prior.variances * signal / max(1, read.weights.shape[1]) + floor
    along: Tensor = prior.axes @ (difference / spread.clamp_min(1e-12 * float(spread.max())))
    length: Tensor = along.norm().clamp_min(1e-30)
    return along / length


def _numbers(weights: Tensor, biases: Tensor, asked: Asked) -> Tensor:
    """(m, 3 C) float64: logits on both suspects, less their mean over classes, and every class's weights `along`."""
    logits = asked.features @ weights.transpose(1, 2) + biases.unsqueeze(1)
    whole = torch.cat([logits.flatten(1), weights @ asked.along], 1)
    return whole.double()


def _joined(heads: tuple[Heads, ...]) -> Heads:
    known = [one.coefficients for one in heads if one.coefficients is not None]
    weights, biases = (torch.cat(one) for one in zip(*((h.weights[0], h.biases[0]) for h in heads), strict=True))
    return Heads((weights,), (biases,), torch.cat(known) if known else None)


def _sampled_odds(
    own: Heads, shadows: list[Heads], asked: Asked, read: SeenHead, mechanism: PrivateHeadTraining
) -> Tensor:
    """(1, 2): log-likelihoods, but for a common constant, given who took part in which step."""
    both = _joined(tuple(shadows))
    assert both.coefficients is not None
    each = read.each
    classes = both.coefficients.unflatten(1, (-1, each)).sum(2)
    sampled = Sampled.learned(both, classes, read.public.prior.mean_of(each), mechanism)
    first, second = (sampled.told_apart(one, asked.features, asked.one, each) for one in shadows)
    found = sampled.told_apart(own, asked.features, asked.one, each)
    # positive where it is right
    times = _times(torch.cat([first, -second]))
    return 0.5 * times * torch.stack([found, -found], 1)


def _times(right: Tensor) -> float:
    """The factor t on log-odds under which they are as sure as they are right: sum log s(t z) - (t - 1)^2 / 2 at most.

    right: (m,), each positive where it is right. What the odds take as normal is not: t is near 1 where that does not
    matter. The last term is for odds that are right throughout, which would be as sure as one likes.
    """
    times = 1.0
    for _ in range(50):
        sure = torch.sigmoid(times * right)
        slope = float((right * (1 - sure)).sum()) - (times - 1)
        bend = float((right.square() * sure * (1 - sure)).sum()) + 1
        times = max(0.0, times + slope / bend)
    return times


def _odds(own: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(1, 2): log-likelihoods, but for a common constant, under two normal laws of one covariance.

    One suspect among many examples moves the mean of a head and hardly its spread; two covariances would double the
    noise.
    """
    means = torch.stack([one.mean(0), other.mean(0)])
    around = torch.cat([one - means[0], other - means[1]])
    scale = around.std(0)
    # a number that no head varies in says nothing
    scale = torch.where(scale > 0, scale, torch.inf)
    z = around / scale
    covariance = z.T @ z / (len(z) - 2) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
    far = (own - means) / scale
    odds: Tensor = -0.5 * (far * torch.linalg.solve(covariance, far.T).T).sum(1, keepdim=True).T
    return odds
