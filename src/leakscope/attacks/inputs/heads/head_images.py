"""Pictures that a released classifier head on a public backbone was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Asks
from leakscope.attacks.inputs.heads import decoder, local_decoder
from leakscope.attacks.inputs.heads.head_features import many
from leakscope.attacks.inputs.heads.inversion import invert
from leakscope.attacks.inputs.heads.learning import MECHANISM, UNFIT, backbone, read_learned, teachable
from leakscope.attacks.inputs.heads.reading import Public, SeenHead, features_of
from leakscope.attacks.inputs.heads.reading import unclosed as reason
from leakscope.attacks.inputs.heads.regression import Reading, made
from leakscope.attacks.preparing import AbstractLearner, Learned, Setting
from leakscope.core.arguments import count, flag, instance
from leakscope.core.attempt import Attempt, Outcome
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Progress, State, Watch, part_of
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize, Fact
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.release import AbstractRelease, Weights
from leakscope.core.target import Target
from leakscope.mechanisms.heads.together import Heads
from leakscope.numerics.rng import Key

HEADS = 12000
"""Public heads that are trained and inverted for the decoder, which learns what the inversion leaves open."""
PICTURES = 16000
"""A smaller pool is enlarged to so many by slightly turned, slanted, shifted and stretched copies."""
ANGLE, SHEAR, SHIFT, STRETCH = 0.15, 0.1, 0.06, 1.1
"""How far copies are moved at most: radians, radians, halves of a picture, a factor."""


@final
@dataclass(frozen=True)
class HeadImages(AbstractLearner[Inputs]):
    """D(x^), x^ the posterior mean of the features (`HeadFeatures`), D a decoder that is trained on public pictures.

    A head depends on a picture through its features alone, so that E[picture | W] = E[E[picture | features] | W]: one
    network from features to pictures does what others learn on whole heads. It is trained on estimates that carry the
    inversion's own error: thousands of heads on sets of the public pool are trained in closed form and inverted.
    pool: public pictures of all classes. each: examples of each class behind the attacked head. steps: of D's training.
    heads: public ones that D learns from, `HEADS` where it is None. pictures: to how many a smaller pool is enlarged by
    moved copies, `PICTURES` where it is None; the backbone is run on each. All >= 1, or `BadInput` is raised.
    closed: whether heads are inverted where their training has a closed form. Without it a regression on public heads
    reads all, which is what noise and Adam leave (`remaining`).
    local: whether D is a kernel regression instead of a network (`local_decoder`), whose directions of pictures are
    enlarged as held-out public ones allow: for wide backbones and few pictures, photographs. It finds more, and its
    squared error is larger than a blur's. `steps` are not taken then.
    """

    pool: Pool
    each: int = 1
    steps: int = 5000
    heads: int | None = None
    pictures: int | None = None
    closed: bool = True
    local: bool = False

    needs: ClassVar[frozenset[type[Fact]]] = frozenset({BatchSize})
    reads: ClassVar[frozenset[type[AbstractRelease]]] = frozenset({Weights})
    asks: ClassVar[Asks] = Asks.NOTHING

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Digits())")
        for name in ("each", "steps"):
            object.__setattr__(self, name, count(name, getattr(self, name)))
        for name in ("heads", "pictures"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else count(name, given))
        flag("closed", self.closed)
        flag("local", self.local)

    @property
    def remaining(self) -> HeadImages | None:
        """The regression: the closed form bears no noise, however little, and undefended it ends the matter."""
        return replace(self, closed=False) if self.closed else None

    def unclosed(self, mechanism: AbstractMechanism) -> str | None:
        """Why heads of this mechanism are read by a regression; None where they are inverted."""
        return reason(mechanism) if self.closed else "no closed form is asked for"

    @property
    def citation(self) -> str:
        """Balle et al. 2022, whose reconstructor network reads whole models."""
        return citations.INFORMED

    @property
    def many(self) -> int:
        """Public heads that are trained, and once more for a regression."""
        return HEADS if self.heads is None else self.heads

    def taught(self, learned: Learned) -> DecodedHead:
        """The attack with its decoder."""
        return DecodedHead(self, learned)

    def _prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch) -> State:
        try:
            target, known, low, high = teachable(setting, self.pool, self.each, "a decoder", key=key)
            share = _share(self, known, target)
            watched = part_of(watch, 0.0, share)
            lessons, reading = self._lessons(target, setting.mechanism, known, key, watched, (low, high))
            found = self.decoder_of(lessons, key=key.child("decoder"), clock=clock, watch=part_of(watch, share, 1.0))
        except BadInput as error:
            return {UNFIT: str(error)}
        learned = {} if reading is None else {"reading": reading.state}
        own = {MECHANISM: repr(setting.mechanism), "backbone": backbone(target), "limits": (low, high)}
        return {**own, "decoder": found, **learned}

    def decoder_of(self, lessons: decoder.Lessons, *, key: Key, clock: Clock, watch: Watch) -> State:
        """The state of D, for `decoded`. Raises `BadInput` where a kernel regression has nothing to learn from."""
        if not self.local:
            return decoder.taught(lessons, key=key, clock=clock, watch=watch, steps=self.steps).state_dict()
        # in closed form, within a minute: what is killed there begins it again, and comes to the same
        found = local_decoder.learned(lessons, key=key)
        watch(Progress(1.0, math.nan, "has learned to decode features"))
        return found

    def decoded(
        self, state: State, limits: tuple[float, float], features: Tensor, classes: Tensor, target: Target
    ) -> Tensor:
        """(n, d) features of (n,) classes to (n, *shape) pictures, by what `decoder_of` gave."""
        if self.local:
            return local_decoder.decoded(state, limits, features, classes, target.domain.shape)
        return decoder.decoded(state, limits, features, classes, (target.classes, target.domain.shape))

    def _lessons(
        self,
        target: Target,
        mechanism: AbstractMechanism,
        known: Public,
        key: Key,
        watch: Watch,
        limits: tuple[float, float],
    ) -> tuple[decoder.Lessons, Reading | None]:
        """Estimates of public features from heads that were trained on them, beside their pictures.

        Where the training has no closed form, also what a regression on as many other heads has learned of reading it.
        """
        pictures, labels = enlarged(self.pool, self.pictures, key.child("copies").generator())
        features = features_of(target, known.layer, pictures)
        prior, classes, reading = known.prior.mean_of(self.each), target.classes, None
        passes = 1 if self.unclosed(mechanism) is None else 2
        if self.unclosed(mechanism) is not None:
            # other heads than those of the lessons, whose errors would be too small
            others = made(mechanism, features, labels, self.each, self.many, key=key.child("reading"))
            others = self._watched(others, part_of(watch, 0.0, 0.5))
            wanted = ((heads, features[rows].unflatten(1, (classes, self.each)).mean(2)) for rows, heads in others)
            reading = Reading.learned(wanted, prior, mechanism)
        estimates, places = [], []
        stream = made(mechanism, features, labels, self.each, self.many, key=key.child("heads"))
        for rows, heads in self._watched(stream, part_of(watch, 1 - 1 / passes, 1.0)):
            if reading is None:
                found = invert(heads.weights[0], prior, known.training, floor=known.floor)
            else:
                found = reading.read(heads, floor=known.floor)
            # the mean of several examples is an estimate of each of them
            estimates.append(found.repeat_interleave(self.each, 1).flatten(0, 1))
            places.append(rows.flatten())
        where = torch.cat(places)
        different = int(torch.bincount(labels, minlength=classes).min())
        # copies of a picture stand a whole pool behind it
        which = where % len(self.pool)
        lessons = decoder.Lessons(
            torch.cat(estimates), labels[where], classes, pictures[where], *limits, different, which
        )
        return lessons, reading

    def _watched(self, stream: Iterator[tuple[Tensor, Heads]], watch: Watch) -> Iterator[tuple[Tensor, Heads]]:
        """The same, with a sign of life for each chunk: a thousand examples of a class take an hour."""
        done = 0
        for rows, heads in stream:
            yield rows, heads
            done += len(rows)
            watch(Progress(min(1.0, done / self.many), math.nan, "trains public heads"))


def _share(learner: HeadImages, known: Public, target: Target) -> float:
    """About which part of the time goes into public heads, by counting products; the rest is the decoder's."""
    wide, pixels = known.layer.features, math.prod(target.domain.shape)
    size = target.classes * learner.each
    heads = learner.many * len(known.training.rates) * size * target.classes * 2 * min(size, 2 * wide)
    network = wide * decoder.WIDTH + decoder.WIDTH**2 + (wide + decoder.WIDTH) * pixels
    return heads / (heads + 6 * learner.steps * decoder.BATCH * network)


@final
@dataclass(frozen=True, eq=False)
class DecodedHead(AbstractAttack[SeenHead, Inputs]):
    """What `HeadImages` teaches: the inversion and the decoder. Made by `HeadImages.taught`."""

    learner: HeadImages
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

    def decoded(self, features: Tensor, classes: Tensor, target: Target) -> Tensor:
        """(n, d) estimates of (n,) classes to (n, *shape) pictures.

        Of estimates as the inversion makes them: true features have another spread, and are decoded worse.
        """
        state = self.learned.state
        low, high = state["limits"]
        return self.learner.decoded(state["decoder"], (float(low), float(high)), features, classes, target)

    def estimated(self, seen: Observation) -> Tensor:
        """(C, d): the features that are decoded, what a public neighbor is near to. Raises `BadInput` if it refuses."""
        read = self._read(seen)
        if isinstance(read, Refusal):
            raise BadInput(read.sentence)
        return self._estimate(read)

    def _read(self, seen: Observation) -> SeenHead | Refusal:
        found = read_learned(seen, self.learned, self.learner.pool, self.learner.each, "decoder")
        if isinstance(found, SeenHead) and found.bias is None and "sampled" in self.learned.state.get("reading", {}):
            return Refusal("the release lacks the head's bias, off which it is read who took part in which step")
        return found

    def _attempt(self, seen: Observation, read: SeenHead, *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        del key, clock, watch  # nothing is drawn, and it is over at once
        found = self._estimate(read)
        if not bool(torch.isfinite(found).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the features are not finite: the declared training diverges")
        classes = torch.arange(len(found))
        claim = Inputs(self.decoded(found, classes, seen.target), classes)
        why = self.learner.unclosed(seen.mechanism)
        how = "" if why is None else f" read by a regression on {self.learner.many} public heads, as {why};"
        said = f"{many(read)}{how} decoded by what {len(self.learner.pool)} public pictures taught"
        return Attempt(repr(self), Outcome.CLAIMED, said, claim)

    def _estimate(self, read: SeenHead) -> Tensor:
        if "reading" in self.learned.state:
            # a release without its bias was refused where it is needed (`_read`)
            bias = read.weights[:, :, 0] if read.bias is None else read.bias
            heads = Heads((read.weights,), (bias,))
            return Reading.kept(self.learned.state["reading"]).read(heads, floor=read.public.floor)[0]
        prior = read.public.prior.mean_of(read.each)
        return invert(read.weights, prior, read.public.training, floor=read.public.floor)[0]


def enlarged(pool: Pool, wanted: int | None, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures and labels of the pool, and of one that is smaller than `wanted` (`PICTURES`) moved copies besides."""
    pictures, labels = pool.batch.inputs, pool.batch.labels
    if pictures.dim() != 4:
        raise BadInput(f"expected pictures (n, channels, height, width) in {pool!r}, got {tuple(pictures.shape)}")
    copies = max(0, math.ceil((PICTURES if wanted is None else wanted) / len(pictures)) - 1)
    moved = [_moved(pictures, stream) for _ in range(copies)]
    return torch.cat([pictures, *moved]), labels.repeat(copies + 1)


def _moved(pictures: Tensor, stream: torch.Generator) -> Tensor:
    """Each picture by a small affine map of its own."""

    def uniform(most: float) -> Tensor:
        return (2 * torch.rand(len(pictures), generator=stream) - 1) * most

    angle, shear, across, down = uniform(ANGLE), uniform(SHEAR), uniform(math.log(STRETCH)), uniform(math.log(STRETCH))
    rows = (
        torch.stack([angle.cos() * across.exp(), (shear - angle.sin()) * across.exp(), uniform(SHIFT)], 1),
        torch.stack([angle.sin() * down.exp(), angle.cos() * down.exp(), uniform(SHIFT)], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
