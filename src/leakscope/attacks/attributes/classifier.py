"""What is the person like: a classifier learned from public examples, applied to what an exact attack recovers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.layer_by_layer.revealed_features import RevealedFeatures
from leakscope.core.arguments import instance, number
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Attribute, Features, Inputs, Scale
from leakscope.core.effort import Clock, Watch
from leakscope.core.errors import BadInput
from leakscope.core.facts import Fact, Gallery
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.looking.tape import Doubled, given_to

Array = NDArray[np.float64]

FOLDS = 5
"""Into so many parts the public examples are divided to see how often the classifier is right about new ones."""
ROUNDS = 1000
"""Iterations of L-BFGS: standardized features take some ten of them."""


@final
@dataclass(frozen=True)
class AttributeClassifier(AbstractAttack[Ready[Any], Attribute]):
    """log P(g | v) of logistic regression for the categories g of the `Gallery`, v being what was recovered.

    of: the attack that recovers v, features of a layer or inputs; it refuses and fails for both. The gallery's examples
    are run through the same model to the same layer, in the model's own mode, each coordinate is standardized by their
    mean and deviation, and min_W sum_i c_i log P(g_i | v_i) + |W|^2 / (2 strength) is solved for, with weights c_i that
    make all categories count alike. What this can read, whoever sees the true features can read; the sentence says how
    often it is right about public examples that it did not learn from.
    Claims for each example its most probable category and the log-probabilities of all, -inf for those without a public
    example. Utterances are read where the model makes one row of each, as a classifier of keywords does.
    together: the batch is one person's, as in a federation of people: one claim, log prod_s P(g | v_s) over
    the examples recovered, normalized, since all categories count alike beforehand.
    strength: > 0, how freely it learns. Raises `BadInput` on another one, and on what is no attack.
    The two steps, recover and classify, are those of Feng et al. 2021 (arXiv:2112.13416), where the classifier reads
    the gradient itself.
    """

    of: Attack[Features] | Attack[Inputs] = field(default_factory=lambda: RevealedFeatures(1))
    strength: float = 0.1
    together: bool = False

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Gallery})

    def __post_init__(self) -> None:
        if not isinstance(self.of, AbstractAttack):
            raise BadInput(f"expected an attack that recovers features or inputs, got {self.of!r}")
        object.__setattr__(self, "strength", number("strength", self.strength, low=0, low_open=True))
        instance("together", self.together, bool, "write True or False")

    @property
    def citation(self) -> str:
        """Feng et al. 2021, and the source of the attack that recovers."""
        return "\n\n".join(part for part in (citations.EMOTION, self.of.citation) if part)

    def _read(self, seen: Observation) -> Ready[Any] | Refusal:
        gallery = seen.told(Gallery)
        if not seen.target.domain.fits(gallery.examples.inputs):
            return Refusal(f"the gallery holds examples that do not fit the target's domain {seen.target.domain}")
        if len(set(gallery.members)) < 2:
            return Refusal(f"the gallery shows {len(set(gallery.members))} category of {gallery.attribute!r}, not two")
        return self.of.ready(seen)

    def _attempt(
        self, seen: Observation, read: Ready[Any], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Attribute]:
        inner = read.within(key=key.child("of"), clock=clock, watch=watch)
        claim = inner.claim
        if not isinstance(claim, Features | Inputs) or not claim.values.is_floating_point():
            outcome = inner.outcome if claim is None else Outcome.DIVERGED
            sentence = inner.sentence if claim is None else f"{self.of!r} claims nothing that a classifier could read"
            return Attempt(repr(self), outcome, sentence, cost=inner.cost, steps=inner.steps)
        steps = (*inner.steps, inner.sentence)
        why = _unlike(seen, claim)
        if why is not None:
            return Attempt(repr(self), Outcome.DIVERGED, why, cost=inner.cost, steps=steps)
        named, said = self.named(seen, claim)
        return Attempt(repr(self), inner.outcome, said, named, cost=inner.cost, trace=inner.trace, steps=steps)

    def named(self, seen: Observation, claim: Features | Inputs) -> tuple[Attribute, str]:
        """The claim about recovered rows, and a sentence about it. The true ones give the ceiling."""
        gallery = seen.told(Gallery)
        if isinstance(claim, Features):
            public, what = fed(seen, claim.layer, gallery.examples), f"what {claim.layer} was fed"
        else:
            public, what = gallery.examples.inputs.double(), "the inputs"
        rows, own = public.flatten(1).numpy(), claim.values.double().flatten(1).numpy()
        members = np.array(gallery.members)
        scores = torch.full((len(own), len(gallery.categories)), -torch.inf, dtype=torch.float64)
        people = None if gallery.people is None else np.array(gallery.people)
        categories, found, right = classified(rows, members, own, self.strength, people)
        if self.together:
            found, scores = _together(found), scores[:1]
        scores[:, categories.tolist()] = torch.from_numpy(found)
        held = ""
        if right is not None:
            # Who is known in one example is known in the next, whatever was learned of others.
            whose = ", which may be of the same persons" if people is None else " with all of their person"
            held = f", where it names {right:.0%} of those left out{whose}"
        sentence = (
            f"{gallery.attribute!r} by {what}: logistic regression on {len(rows)} public examples of "
            f"{len(categories)} categories{held}"
        )
        if self.together:
            sentence += f"; of {len(own)} examples together, taken for one person's"
        return Attribute(gallery.attribute, scores.argmax(1), scores=scores, scale=Scale.LOG_PROBABILITY), sentence


def fed(seen: Observation, layer: str, examples: Batch) -> Tensor:
    """(P, d) float64: what a layer is given for each example, in the model's own mode, so that dropout falls alike."""
    batch = dataclasses.replace(examples, inputs=examples.inputs.double())
    given = batch.inputs if examples.lengths is None else batch
    return given_to(Doubled.of(seen.target), layer, given).double().cpu()


def _unlike(seen: Observation, claim: Features | Inputs) -> str | None:
    """Why the gallery has no vectors to compare the recovered ones with; None where it has."""
    examples = seen.told(Gallery).examples
    if isinstance(claim, Inputs):
        utterances = claim.lengths is not None or examples.lengths is not None
        return "voices in utterances are compared by SpeakerIdentity, not frame by frame" if utterances else None
    wide = fed(seen, claim.layer, examples.rows(torch.arange(1)).trimmed())
    if wide.shape == (1, claim.values.shape[1]):
        return None
    return (
        f"{claim.layer} is fed {tuple(wide.shape)} for one public example, and one vector of {claim.values.shape[1]} "
        "numbers is compared: the model makes several rows of each"
    )


def _together(found: Array) -> Array:
    """(1, K) log-probabilities of one person from (N, K) of each example, under categories that are alike beforehand.

    >>> np.exp(_together(np.log([[0.8, 0.2], [0.5, 0.5]]))).round(3).tolist()
    [[0.8, 0.2]]
    """
    total = found.sum(0, keepdims=True)
    total = total - total.max()
    return np.asarray(total - np.log(np.exp(total).sum()))


def classified(
    rows: Array, members: NDArray[np.int64], own: Array, strength: float, people: NDArray[np.int64] | None = None
) -> tuple[Any, Array, float | None]:
    """The K categories that occur, log-probabilities (N, K) of `own` (N, d), and the share right of `rows` left out.

    rows: (P, d) with the category of each, (P,). people: (P,) whose each is, so that nobody is in two folds. The share
    is None where a category has one example, or one person, only.
    """
    # They take seconds to import, and no other attack needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # The deviations are the pipeline's own, so that those left out do not help to set them.
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=ROUNDS, random_state=0)
    )
    # Of each category every fold leaves some out, and every fold's rest has some.
    each = zip(members.tolist(), range(len(members)) if people is None else people.tolist(), strict=True)
    folds = min(FOLDS, *Counter(member for member, _ in set(each)).values())
    right = None
    if folds > 1:
        kind = StratifiedKFold if people is None else StratifiedGroupKFold
        parts = kind(folds, shuffle=True, random_state=0)
        right = float(cross_val_score(model, rows, members, cv=parts, groups=people).mean())
    model.fit(rows, members)
    return model.classes_, np.asarray(model.predict_log_proba(own)), right
