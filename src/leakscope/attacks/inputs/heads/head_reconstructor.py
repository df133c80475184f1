"""Pictures behind a released head, by the published route: a generator that is trained on shadow heads' weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.attacks.inputs.heads import reconstructor
from leakscope.attacks.inputs.heads.learning import MECHANISM, UNFIT, backbone, read_learned, teachable
from leakscope.attacks.inputs.heads.perceptual import Perceptual
from leakscope.attacks.inputs.heads.reading import SeenHead, features_of
from leakscope.attacks.inputs.heads.reconstructor import Course, Generator, Statistics
from leakscope.attacks.inputs.heads.regression import made
from leakscope.attacks.preparing import AbstractLearner, Learned, Setting
from leakscope.core.arguments import count, instance, number
from leakscope.core.attempt import ASSISTED, Attempt, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, State, Watch
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.release import AbstractRelease, Weights
from leakscope.core.target import Target
from leakscope.mechanisms.heads.together import CHUNK, Heads
from leakscope.numerics.rng import Key
from leakscope.targets.recipes.architecture import AbstractArchitecture

COUNTED = 4096
"""Shadow heads that the mean and the deviation of each weight are taken over."""


@final
@dataclass(frozen=True)
class HeadReconstructor(AbstractLearner[Inputs]):
    """G(z, c), z the head's weights, each normalized over shadow heads, G a generator that is trained on such heads.

    The published attack (Balle et al. 2022, section 5, and its successors on transfer-learned heads): shadow heads are
    trained on public sets, and a residual generator learns to give a picture of the set for the weights, by half of
    squared plus absolute error to the nearest of the candidates. Here the heads are streamed, never the same twice.
    pool: public pictures of all classes. each: examples of each class behind a head. steps: of 32 heads. width: of the
    generator, whose first layer has 64 width parameters for each weight of the head. conditional: G is told a class c,
    and gives a picture for each; otherwise one for the head, of whichever example. rate: > 0, of Adam; the published
    one is for a million steps. look: a backbone whose maps of both pictures are compared besides (`Perceptual`), as is
    published for photographs; None compares pixels alone. bfloat16: whether the generator's products are of it, in half
    of the memory. Raises `BadInput` on other values.
    """

    pool: Pool
    each: int = 1
    steps: int = 20000
    width: int = 64
    conditional: bool = True
    rate: float = 2e-4
    look: AbstractArchitecture | None = None
    bfloat16: bool = False

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Weights})
    asks: ClassVar[Asks] = Asks.NOTHING

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Digits())")
        for name in ("each", "steps", "width"):
            object.__setattr__(self, name, count(name, getattr(self, name)))
        object.__setattr__(self, "rate", number("rate", self.rate, low=0, low_open=True))
        for name in ("conditional", "bfloat16"):
            instance(name, getattr(self, name), bool, "write True or False")
        if self.look is not None:
            instance("look", self.look, AbstractArchitecture, "write EfficientNetLite0(), or leave it out")

    @property
    def citation(self) -> str:
        """Balle et al. 2022."""
        return citations.INFORMED

    def taught(self, learned: Learned) -> ReconstructedHead:
        """The attack with its generator."""
        return ReconstructedHead(self, learned)

    def _prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch) -> State:
        try:
            target, known, low, high = teachable(setting, self.pool, self.each, "a generator", key=key)
            look = None if self.look is None else Perceptual.of(self.look, target.domain, (low, high))
        except (BadInput, MissingExtra) as error:
            return {UNFIT: str(error)}
        features = features_of(target, known.layer, self.pool.batch.inputs)

        def shadows(many: int, own: Key) -> tuple[Tensor, Tensor]:
            parts = list(made(setting.mechanism, features, self.pool.batch.labels, self.each, many, key=own))
            return torch.cat([rows for rows, _ in parts]), torch.cat([heads.flat() for _, heads in parts])

        statistics = Statistics.of(shadows(COUNTED, key.child("statistics"))[1])

        def draw(place: int) -> tuple[Tensor, Tensor]:
            rows, heads = shadows(CHUNK, key.child("heads", place))
            return self._lesson(statistics.normalized(heads), rows, setting.classes, key.child("class", place))

        with key.child("generator").isolated():
            numbers = int(statistics.varies.sum()) + (setting.classes if self.conditional else 0)
            fresh = Generator(numbers, target.domain.shape, (low, high), width=self.width)
        course = Course(self.steps, self.rate, look, self.bfloat16)
        found = reconstructor.trained(fresh, draw, course, clock=clock, watch=watch)
        kept = {"center": statistics.center, "deviation": statistics.deviation, "varies": statistics.varies}
        return {
            MECHANISM: repr(setting.mechanism), "backbone": backbone(target), "limits": (low, high),
            "generator": found.state_dict(), "statistics": kept,
        }  # fmt: skip

    def _lesson(self, z: Tensor, rows: Tensor, classes: int, key: Key) -> tuple[Tensor, Tensor]:
        """What the generator is given, and the pictures of which it is to give one."""
        if not self.conditional:
            return z, self.pool.batch.inputs[rows]
        chosen = torch.randint(classes, (len(z),), generator=key.generator())
        own = rows.unflatten(1, (classes, self.each))[torch.arange(len(z)), chosen]
        return torch.cat([z, F.one_hot(chosen, classes).to(z.dtype)], 1), self.pool.batch.inputs[own]


@final
@dataclass(frozen=True, eq=False)
class ReconstructedHead(AbstractAttack[SeenHead, Inputs]):
    """What `HeadReconstructor` teaches: the generator. Made by `HeadReconstructor.taught`."""

    learner: HeadReconstructor
    learned: Learned

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Weights})
    asks: ClassVar[Asks] = Asks.NOTHING

    def __repr__(self) -> str:
        return repr(self.learner)

    @property
    def citation(self) -> str:
        """The learner's."""
        return self.learner.citation

    def reconstructed(self, heads: Heads, target: Target) -> Tensor:
        """(m, C, *shape) of m heads, one picture for each class; (m, 1, *shape) where no class is told."""
        state = self.learned.state
        statistics = Statistics(**state["statistics"])
        z = statistics.normalized(heads.flat())
        low, high = state["limits"]
        numbers = z.shape[1] + (target.classes if self.learner.conditional else 0)
        # its layers draw first weights from the global stream, which is given back
        with Key(0).isolated():
            network = Generator(numbers, target.domain.shape, (float(low), float(high)), width=self.learner.width)
        network.load_state_dict(state["generator"])
        network.eval()
        with torch.no_grad():
            if not self.learner.conditional:
                one_for_all: Tensor = network(z).unsqueeze(1)
                return one_for_all
            each = [torch.cat([z, one.expand(len(z), -1)], 1) for one in torch.eye(target.classes)]
            return torch.stack([network(one) for one in each], 1)

    def _read(self, seen: Observation) -> SeenHead | Refusal:
        found = read_learned(seen, self.learned, self.learner.pool, self.learner.each, "generator")
        if isinstance(found, Refusal):
            return found
        if found.bias is None:
            return Refusal("the release lacks the head's bias, which the generator was trained to see")
        return found

    def _attempt(self, seen: Observation, read: SeenHead, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        del key, clock, watch  # nothing is drawn, and it is over at once
        assert read.bias is not None
        pictures = self.reconstructed(Heads((read.weights,), (read.bias,)), seen.target)[0]
        if not bool(torch.isfinite(pictures).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the pictures are not finite: the declared training diverges")
        labels = torch.arange(len(pictures)) if self.learner.conditional else None
        what = "the example of each class" if self.learner.conditional else "one example of the head, of no named class"
        said = f"{what}, by a generator that {self.learner.steps * reconstructor.BATCH} shadow heads taught"
        if read.each > 1:
            said = f"{ASSISTED}{said}; of {read.each} examples of each class a head holds only the mean"
        return Attempt(repr(self), Outcome.CLAIMED, said, Inputs(pictures, labels))
