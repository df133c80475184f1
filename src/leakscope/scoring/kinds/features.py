"""Claims of what a dense layer was fed: compared by running the model on the secret, as the client ran it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Features, Labels, Tokens
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.overriding import acts_as
from leakscope.core.target import Target
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case, Client
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Answer, Comparison, Judged, Outsider, Shown, filled
from leakscope.scoring.kinds.tokens import read_as
from leakscope.scoring.metrics.features import (
    EXACT,
    MOST,
    AbstractFeatureMetric,
    FeatureError,
    FeaturesFound,
    relative_errors,
)
from leakscope.scoring.metrics.metric import AbstractMetric
from leakscope.scoring.pairing import Pairing, assigned
from leakscope.scoring.proved import FEATURES
from leakscope.targets.looking.dense_ends import output_layer, probe_inputs
from leakscope.targets.losses import NextToken

POOL = 256
"""How many public examples are run through the model at most."""
EACH = 64
"""The same of each class, where the labels are public."""
DRAWS = 4
"""Over how many draws of random public examples their expectation is taken."""


@final
@dataclass(frozen=True, eq=False)
class FeatureTruth:
    """layer: its name. values: (B, d) float64, what it was fed for each private example."""

    layer: str
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)


@final
@dataclass(frozen=True, eq=False)
class RandomFeatures(AbstractGuess[Features]):
    """What the layer is fed for random public examples, without repeating one while the pool (P, d) lasts."""

    layer: str
    pool: Tensor
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Features]]:
        """`count` members of the pool, drawn `DRAWS` times."""
        for one in keys(self, key, DRAWS):
            generator = one.generator()
            # Rounded up: a pool that is smaller than the batch is dealt out again, from the top.
            rounds = -(-self.count // len(self.pool))
            order = torch.cat([torch.randperm(len(self.pool), generator=generator) for _ in range(rounds)])
            yield 1 / DRAWS, Features(self.layer, self.pool[order[: self.count]])


@final
@dataclass(frozen=True)
class LayerFeatures(AbstractKind[Features, FeatureTruth, AbstractFeatureMetric]):
    """What a dense layer was fed. Labels, where the claim has them, are a claim of their own."""

    claims: ClassVar[type[AbstractClaim]] = Features
    default: ClassVar[tuple[AbstractMetric, ...]] = (FeatureError(), FeaturesFound())

    @property
    def examples(self) -> tuple[Features, ...]:
        """One example's features."""
        return (Features("fc", torch.zeros(1, 2)),)

    def holds(self, claim: AbstractClaim) -> bool:
        """Features."""
        return isinstance(claim, Features)

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of features."""
        return isinstance(metric, AbstractFeatureMetric)

    def truth(self, claim: Features, case: Case) -> FeatureTruth:
        """What the layer was fed for the private batch. Raises `BadInput` without the client whose model that is."""
        batch = case.batch()
        # Of images the secret is itself what is claimed; features are what a model made of it, so one has to be told.
        if case.client is None:
            raise BadInput(
                "what a layer was fed is compared by running the model on the secret; pass "
                "client=Client(target, mechanism, key)"
            )
        return FeatureTruth(claim.layer, case.client.fed(claim.layer, batch))

    def pair(self, claim: Features, truth: FeatureTruth) -> Pairing:
        """Pairs with the lowest total relative error; one beyond 1 counts as 1, so that no far one decides.

        Raises `BadInput` with both widths where the layer is fed something of another width.
        """
        if claim.values.shape[1] != truth.values.shape[1]:
            raise BadInput(
                f"claimed features of {claim.values.shape[1]} numbers, and the layer {truth.layer!r} is fed "
                f"{truth.values.shape[1]}; claim what that layer is fed"
            )
        values = claim.values.double()

        # By its bytes: which of two equal distances is taken may not depend on the order of a claim.
        def content(places: list[int]) -> list[bytes]:
            return [values[place].numpy().tobytes() for place in places]

        def costs(rows: list[int], columns: list[int]) -> NDArray[np.float64]:
            return _away(values[rows], truth.values[columns]).clamp(max=1.0).numpy()

        return assigned(claim, [one.numpy().tobytes() for one in truth.values], content, costs)

    def guesses(self, at: Comparison[Features, FeatureTruth], case: Case) -> Sequence[AbstractGuess[Features]]:
        """The mean feature of public examples and random ones of them, of noise where none are public; and zeros."""
        assert case.client is not None
        layer, count = at.truth.layer, len(at.truth)
        pool = public_features(case.client.target, layer, case.public)
        # The mean is the best constant in squares; zeros are better where features are sparse and examples differ.
        mean = pool.mean(0, keepdim=True).expand(count, -1).clone()
        zeros = torch.zeros(count, pool.shape[1], dtype=torch.float64)
        return [Constant(Features(layer, one)) for one in (mean, zeros)] + [RandomFeatures(layer, pool, count)]

    def items(
        self, metric: AbstractFeatureMetric, at: Comparison[Features, FeatureTruth], blind: Sequence[float]
    ) -> Judged:
        """The metric of each pair; an example of which nothing was claimed scores the blind guess."""
        places, partners = at.pairing.known()
        # In float64 on both sides: a distance of 1e-7 is what a claim is held to.
        claimed, true = at.claim.values[partners].double(), at.truth.values[places]
        exact = int((relative_errors(claimed, true) <= EXACT).sum())
        return Judged(filled(blind, places, metric.items(claimed, true)), exact)

    def right(self, claim: Features, truth: FeatureTruth, tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether the layer was fed it, to within `proved.FEATURES`, for some private example."""
        # One bound for all: a certificate's own is of its equations, and says nothing of how far features may be.
        del tolerances
        if not len(claim) or not len(truth):
            return (False,) * len(claim)
        return tuple((_away(claim.values.double(), truth.values).min(1).values <= FEATURES).tolist())

    def carried(self, claim: Features, case: Case) -> Labels | Tokens | None:
        """The labels that the features bring along; of a language model these are tokens, next ones, as one bag."""
        if claim.labels is None:
            return None
        if _of_tokens(case):
            return Tokens((tuple(sorted(set(claim.labels.tolist()))),), bag=True)
        return Labels(claim.labels.detach().cpu().long(), claim.confidence)

    def shown(self, claim: Features, case: Case) -> Shown:
        """How far each is from what the layer was fed, in words, and the label that it brings along."""
        at = self.compared(claim, case)
        places, partners = at.pairing.known()
        errors = relative_errors(claim.values[partners].double(), at.truth.values[places]).tolist()
        said: list[str | None] = [None] * len(at.truth)
        for place, error in zip(places, errors, strict=True):
            said[place] = f"known to {error:.1e}"
        asked, true = f"what layer {claim.layer!r} was fed", f"{at.truth.values.shape[1]} numbers"
        labels, answers = tuple[int, ...](), tuple(Answer(asked, true, one) for one in said)
        if claim.labels is not None and _of_tokens(case):
            bag = read_as(sorted(set(claim.labels.tolist())), case.words)
            return Shown(tokens=(bag,), tokens_bag=True, answers=answers)
        if claim.labels is not None:
            labels = tuple(-1 if place is None else int(claim.labels[place]) for place in at.pairing.partners)
        return Shown(labels=labels, answers=answers)

    def control(self, outsider: Outsider, *, key: Key) -> Features | None:
        """The mean public feature at the output layer, for every example; None where the model has no such layer.

        Where the labels are fixed, the mean of each example's class.
        """
        del key
        public, target = outsider.public, outsider.target
        if target is None or public.lengths is not None or not target.domain.fits(public.inputs):
            return None
        try:
            layer = output_layer(target).name
            pool = public_features(target, layer, public)
        except (NoSuchLayer, BadInput):
            # A layer that is fed several rows for each example has no feature of its own for it.
            return None
        if outsider.labels is not None:
            return _class_means(layer, target, outsider.labels, public, pool)
        # Of a text one for each place that may have a next token: more than there are are not looked at.
        count = outsider.count * (public.inputs.shape[1] - 1 if acts_as(target.loss, NextToken) else 1)
        return Features(layer, pool.mean(0, keepdim=True).expand(count, -1).clone())


def _class_means(layer: str, target: Target, labels: Tensor, public: Batch, pool: Tensor) -> Features:
    """The mean of `EACH` public examples of each one's class; of a class without any, that of `pool`."""
    places = {one: (public.labels == one).nonzero().flatten()[:EACH] for one in sorted(set(labels.tolist()))}
    rows = public.rows(torch.cat(list(places.values())))
    found = Client(target).fed(layer, rows).split([len(one) for one in places.values()])
    means = {one: mine.mean(0) if len(mine) else pool.mean(0) for one, mine in zip(places, found, strict=True)}
    return Features(layer, torch.stack([means[one] for one in labels.tolist()]), labels)


def public_features(target: Target, layer: str, public: Batch | None) -> Tensor:
    """(P, d) float64: what the layer is fed for some public examples, for noise where there are none."""
    inputs = probe_inputs(target, POOL, key=Key(0).child("features")) if public is None else public.inputs[:POOL]
    # Labels change no feature: whatever a feed asks for.
    labels = torch.zeros(len(inputs), dtype=torch.int64) if public is None else public.labels[:POOL]
    return Client(target).fed(layer, Batch(inputs, labels))


def _of_tokens(case: Case) -> bool:
    """Whether the client's model predicts next tokens, so that a sample is a place in a text."""
    return case.client is not None and acts_as(case.client.target.loss, NextToken)


def _away(claimed: Tensor, true: Tensor) -> Tensor:
    """(N, B) relative distances."""
    # Differences, not |a|^2 + |b|^2 - 2ab, which cancels where a claim is nearly exact.
    distances = torch.cdist(claimed, true, compute_mode="donot_use_mm_for_euclid_dist")
    sizes = torch.linalg.vector_norm(true, dim=1).clamp_min(1e-300)
    return torch.where(distances > 0, distances / sizes, 0.0).clamp(max=MOST)
