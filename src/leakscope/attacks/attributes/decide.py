"""From signals to a category: what is learned of the updates of public persons, and how several updates are joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from leakscope.core.arguments import number
from leakscope.core.effort import Clock, State, Watch
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key

Array = NDArray[np.float64]

FLOOR = 1e-5
"""Added to deviations over shadow updates, so that what never changes becomes 0 (Feng et al. 2021, their code)."""
ROUNDS = 2000
"""Iterations of L-BFGS at most: some tens are enough."""
WIDEST = 20_000
"""Numbers of a signal beyond which it is learned of in float32: of a whole layer's update float64 is two gigabytes."""
LEAST = 1e-6
"""How far a covariance is shrunk at least, so that it has an inverse."""
UNSURE = -1e4
"""Least log-probability of a category that was learned: one update rules nobody out, whatever its numbers are."""


@final
@dataclass(frozen=True, eq=False)
class Lessons:
    """Signals of shadow updates. vectors: (N, n). members: (N,) category of each, 0 .. G - 1. persons: (N,) whose.

    weight: (N,) by which each counts, mean 1: all categories alike, in each all persons, of each all updates. The prior
    is even then, in what is learned, whatever the public corpus is like.
    """

    vectors: Tensor
    members: Tensor
    persons: Tensor
    categories: int

    def __post_init__(self) -> None:
        if len(self.present) < 2 or self.fewest < 2:
            raise BadInput(
                f"categories are told apart by at least two public persons of each, got {len(self.present)} categories"
                + (", one of them with a single person" if self.fewest < 2 else "")
            )

    @property
    def present(self) -> list[int]:
        """The categories that occur, rising."""
        found: list[int] = self.members.unique().tolist()
        return found

    @property
    def fewest(self) -> int:
        """Persons of the category that has least of them."""
        return min(len(self.persons[self.members == one].unique()) for one in self.present)

    @property
    def weight(self) -> Tensor:
        """Float64, by the counts."""
        weight = torch.zeros(len(self.members), dtype=torch.float64)
        for category in self.present:
            own = self.members == category
            people = self.persons[own].unique().tolist()
            for person in people:
                rows = own & (self.persons == person)
                weight[rows] = len(self.members) / (len(self.present) * len(people) * int(rows.sum()))
        return weight

    def of(self, persons: list[int]) -> Lessons:
        """Of these persons alone."""
        rows = torch.isin(self.persons, torch.tensor(persons))
        return Lessons(self.vectors[rows], self.members[rows], self.persons[rows], self.categories)

    def folds(self, most: int) -> list[list[int]]:
        """Persons held out together: at most `most` parts, in each as many of every category as can be."""
        parts = min(most, self.fewest)
        held: list[list[int]] = [[] for _ in range(parts)]
        for category in self.present:
            for place, person in enumerate(self.persons[self.members == category].unique().tolist()):
                held[place % parts].append(person)
        return held


class AbstractDecision(ABC):
    """How a category is learned of signals; a frozen value. What it learned is a state of tensors and numbers."""

    @abstractmethod
    def learn(self, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch) -> State:
        """The state. lessons: of normalized signals. shape: (H, D) of the layer. Draws only from `key`."""

    @abstractmethod
    def tuned(
        self, state: State, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch
    ) -> State:
        """A state of `learn`, brought further by fewer lessons of the very models that are attacked.

        Raises `BadInput` where this kind of decision cannot go on from a state, or the categories are others.
        """

    @abstractmethod
    def probabilities(self, state: State, vectors: Tensor) -> Tensor:
        """(N, G) float64, log P(g | vector) under an even prior, of normalized signals (N, n); -inf for no lessons."""


@final
@dataclass(frozen=True)
class Logistic(AbstractDecision):
    """log P(g | v) = w_g . v + b_g - log sum, min sum_i c_i (-log P(g_i | v_i)) + |w|^2 / (2 strength), c of `Lessons`.

    strength: > 0, how freely it learns: far below 1 where signals have thousands of numbers and persons are tens.
    Raises `BadInput` on another one.
    """

    strength: float = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", number("strength", self.strength, low=0, low_open=True))

    def learn(self, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch) -> State:
        """By scikit-learn's solver, from zero: nothing is drawn."""
        del shape, key, clock, watch
        # It takes a second to import, and no other attack needs it.
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.strength, max_iter=ROUNDS)
        model.fit(_doubles(lessons.vectors), lessons.members.numpy(), sample_weight=lessons.weight.numpy())
        return _linear(model.coef_, model.intercept_, lessons)

    def tuned(
        self, state: State, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch
    ) -> State:
        """min sum_i c_i (-log P(g_i | v_i)) + |w - w_0|^2 / (2 strength), w_0 the state's: what is known is the prior.

        By L-BFGS from w_0; nothing is drawn.
        """
        del shape, key, clock, watch
        if list(state["present"]) != lessons.present:
            raise BadInput(f"has learned categories {state['present']}, and is to go on with {lessons.present}")
        before = state["weights"].double()
        weights, offsets = before.clone().requires_grad_(), state["offsets"].double().clone().requires_grad_()
        place = {category: at for at, category in enumerate(lessons.present)}
        members = torch.tensor([place[int(one)] for one in lessons.members])
        rows, counts = lessons.vectors.double(), lessons.weight
        solver = torch.optim.LBFGS(
            [weights, offsets], max_iter=ROUNDS, tolerance_grad=1e-7, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            each = F.cross_entropy(rows @ weights.T + offsets, members, reduction="none")
            total: Tensor = (counts * each).sum() + (weights - before).square().sum() / (2 * self.strength)
            total.backward()
            return total

        with torch.enable_grad():
            solver.step(loss)
        return {**state, "weights": weights.detach().float(), "offsets": offsets.detach()}

    def probabilities(self, state: State, vectors: Tensor) -> Tensor:
        """By the equation."""
        return _of_linear(state, vectors)


@final
@dataclass(frozen=True)
class Discriminant(AbstractDecision):
    """Linear discriminant analysis: v ~ N(m_g, S) for each category g, S shrunk by Ledoit and Wolf (2004).

    log P(g | v) = v^T S^-1 m_g - m_g^T S^-1 m_g / 2 - log sum, with the same prior for all categories, m_g the mean
    over updates. S = (1 - a) R^T R / N + a t I of the updates R (N, n) less the means of their categories, t the mean
    of its diagonal, a by Ledoit and Wolf (doi:10.1016/S0047-259X(03)00096-4): as far as the error of R^T R / N says.
    """

    def learn(self, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch) -> State:
        """In closed form."""
        del shape, key, clock, watch
        from sklearn.covariance import ledoit_wolf_shrinkage

        rows = lessons.vectors.double()
        means = torch.stack([rows[lessons.members == category].mean(0) for category in lessons.present])
        place = {category: at for at, category in enumerate(lessons.present)}
        rest = rows - means[[place[int(member)] for member in lessons.members]]
        share = max(float(ledoit_wolf_shrinkage(rest.numpy(), assume_centered=True)), LEAST)
        floor = max(share * float(rest.square().sum()) / rest.numel(), FLOOR)
        # (f I + U^T U)^-1 v = (v - U^T (f I + U U^T)^-1 U v) / f: as many equations as updates, and not as numbers
        half = rest * ((1 - share) / len(rest)) ** 0.5
        inner = floor * torch.eye(len(half), dtype=torch.float64) + half @ half.T
        weights = (means - torch.linalg.solve(inner, half @ means.T).T @ half) / floor
        return _linear(weights.numpy(), (-0.5 * (weights * means).sum(1)).numpy(), lessons)

    def tuned(
        self, state: State, lessons: Lessons, shape: tuple[int, int], *, key: Key, clock: Clock, watch: Watch
    ) -> State:
        """Means and covariances are learned at once: there is nothing to go on from."""
        del state, lessons, shape, key, clock, watch
        raise BadInput("Discriminant cannot go on from what it has learned; use Logistic or UpdateNetwork with leaked")

    def probabilities(self, state: State, vectors: Tensor) -> Tensor:
        """By the equation."""
        return _of_linear(state, vectors)


def together(each: Tensor, repeats: float) -> Tensor:
    """(G,) log P(g | u_1 .. u_n) of log P(g | u_i) (n, G) under an even prior: s sum_i log P(g | u_i) - log sum.

    With s = 1 this is Bayes' rule for updates that are independent given g: log P(u_i | g) = log P(g | u_i) - log P(g)
    + const, so that n - 1 of n priors have to be taken off. The prior is even here: it is a constant, and counts once
    as it counts n times. s = 1 / (1 + (n - 1) repeats) where they are not independent, since one person has spoken in
    all of them: n items with a correlation of r count as n / (1 + (n - 1) r) (Kish 1965, Survey Sampling, section 8.2).

    >>> one = torch.log(torch.tensor([[0.8, 0.2], [0.8, 0.2]], dtype=torch.float64))
    >>> together(one, 0.0).exp().round(decimals=3).tolist(), together(one, 1.0).exp().round(decimals=3).tolist()
    ([0.941, 0.059], [0.8, 0.2])
    """
    # 0 times -inf is no number: who has no lessons stays ruled out.
    learned = ~torch.isneginf(each).any(0)
    total = each.sum(0) / (1 + (len(each) - 1) * repeats)
    return torch.log_softmax(torch.where(learned, total, -torch.inf), 0)


def correlation(scores: Tensor, members: Tensor, persons: Tensor) -> float:
    """r in [0, 1]: how alike the log-probabilities of two updates of a person are, against two of one category.

    The intraclass correlation by analysis of variance (Donner 1986, doi:10.2307/1403259, section 2): with A and W the
    mean squares between persons within categories and within persons, and m the (adjusted) number of updates of a
    person, r = (A - W) / (A + (m - 1) W). scores: (N, G) of updates that nothing was learned of. 1 where nothing tells,
    which claims the least.
    """
    values = scores[:, ~torch.isneginf(scores).any(0)]
    values = values - values.mean(1, keepdim=True)
    groups = [(person, members[persons == person][0].item()) for person in persons.unique().tolist()]
    sizes = torch.tensor([float((persons == person).sum()) for person, _ in groups])
    count, categories = len(groups), len({category for _, category in groups})
    if count <= categories or float(sizes.sum()) <= count:
        return 1.0
    means = torch.stack([values[persons == person].mean(0) for person, _ in groups])
    centers = {c: values[members == c].mean(0) for c in {category for _, category in groups}}
    away = means - torch.stack([centers[category] for _, category in groups])
    between = float((sizes[:, None] * away.square()).sum()) / (count - categories)
    inside = [values[persons == person] - mean for (person, _), mean in zip(groups, means, strict=True)]
    within = float(torch.cat(inside).square().sum()) / (float(sizes.sum()) - count)
    usual = (float(sizes.sum()) - float(sizes.square().sum() / sizes.sum())) / (count - 1)
    scale = between + (usual - 1) * within
    return 1.0 if not scale > 0 else min(max((between - within) / scale, 0.0), 1.0)


def _doubles(vectors: Tensor) -> NDArray[np.floating]:
    # float64 for the second derivatives of some hundred updates; signals of a whole layer stay in float32
    wide = vectors.shape[1] > WIDEST
    return np.asarray((vectors.float() if wide else vectors.double()).numpy())


def _linear(weights: Array, offsets: Array, lessons: Lessons) -> State:
    """Of two categories scikit-learn gives the difference alone, of which each has a half, with its sign."""
    if len(weights) == 1:
        weights, offsets = np.concatenate([-weights, weights]) / 2, np.concatenate([-offsets, offsets]) / 2
    return {
        "weights": torch.from_numpy(np.asarray(weights)).float(),
        "offsets": torch.from_numpy(np.asarray(offsets)).double(),
        "present": lessons.present,
        "categories": lessons.categories,
    }


def _of_linear(state: State, vectors: Tensor) -> Tensor:
    return spread(vectors.double() @ state["weights"].double().T + state["offsets"], state)


def spread(scores: Tensor, state: State) -> Tensor:
    """(N, G) log-probabilities of scores (N, K) of the K categories that were learned; -inf for the others."""
    found = torch.full((len(scores), int(state["categories"])), -torch.inf, dtype=torch.float64)
    found[:, list(state["present"])] = torch.log_softmax(scores.double(), 1).clamp(min=UNSURE)
    return found
