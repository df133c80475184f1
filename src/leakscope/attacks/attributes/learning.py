"""Training a speaker encoder: first to name the speakers, then to tell them apart by the cosine."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.attacks.attributes.encoder import checked
from leakscope.attacks.attributes.rescnn import FRAMES, ResCNNNetwork, Shape, fresh, prepared
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.core.effort import Budget, Clock, Progress, State, Watch, unwatched
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key

MARGIN = 0.1
"""By how much an utterance should be nearer to its speaker than to the nearest other."""
SHARPNESS = 16.0
"""What embeddings of length 1 are multiplied with before the softmax: from logits in [-1, 1] nothing is learned."""
# As in the evaluation of Dang et al. 2021: an L2 penalty, whose gradient is what Adam's `weight_decay` adds.
DECAY = 1e-4
SAVED_EVERY = 25
"""Steps between two checkpoints."""


@final
@dataclass(frozen=True)
class Recipe:
    """How long and how fast: steps of `batch` utterances by softmax, then by triplets, with Adam at rate `lr`.

    Raises `BadInput` on no steps at all, negative ones, a batch below 4 (two speakers, twice each), or lr <= 0.
    """

    softmax: int = 200
    triplet: int = 100
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.softmax, self.triplet, self.seed) < 0 or self.softmax + self.triplet < 1:
            raise BadInput(f"expected steps and seed >= 0 and at least one step, got {self}")
        if self.batch < 4 or not self.lr > 0:
            raise BadInput(f"expected a batch >= 4 and lr > 0, got {self.batch} and {self.lr}")

    @property
    def steps(self) -> int:
        """Both phases."""
        return self.softmax + self.triplet


@final
@dataclass(frozen=True, eq=False)
class Course:
    """What is learned from: utterances (T_i, F) of MFCC, the number of the speaker of each, and how.

    Raises `BadInput` unless there are two speakers with two utterances each, or on frames of another size.
    """

    utterances: tuple[Tensor, ...]
    speakers: tuple[int, ...]
    shape: Shape = field(default_factory=Shape)
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        checked(self.utterances)
        if len(self.speakers) != len(self.utterances):
            raise BadInput(f"{len(self.speakers)} speakers for {len(self.utterances)} utterances; give one each")
        counts = sorted({frames.shape[1] for frames in self.utterances})
        if counts != [self.shape.coefficients]:
            raise BadInput(f"expected frames of {self.shape.coefficients} coefficients, got {counts}")
        if len(self.twice) < 2:
            raise BadInput("expected at least 2 speakers with 2 utterances each; give more public speech")

    @property
    def names(self) -> tuple[int, ...]:
        """The different speakers."""
        return tuple(sorted(set(self.speakers)))

    @property
    def twice(self) -> tuple[int, ...]:
        """The speakers that a triplet can be made of."""
        return tuple(name for name in self.names if self.speakers.count(name) > 1)

    def fingerprint(self) -> str:
        """A hash of all that decides the outcome."""
        digest = hashlib.blake2b(repr((self.speakers, self.shape, self.recipe)).encode(), digest_size=16)
        for frames in self.utterances:
            digest.update(frames.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """The network, ready to be used, and the share of the utterances it was trained on whose speaker it names."""

    network: ResCNNNetwork
    accuracy: float


def learn(course: Course, *, checkpoint: str | None = None, watch: Watch = unwatched) -> Learned:
    """Train an encoder; with `checkpoint`, go on from that file where it is there, and write it now and then.

    Softmax: cross-entropy of a dense layer on 16 times the embedding. Triplets: the mean of
    max(0, s_an - s_ap + 0.1) with the cosines s of an utterance and another of its speaker (p) and the nearest of
    other speakers in the batch (n) (Li et al. 2017, section 2.4). Each step draws from a key of its own, so that a
    training that was interrupted ends with the same bytes. Raises `BadInput` on a checkpoint of another course.
    """
    clock = _clock(course, checkpoint)
    state = _State.begin(course)
    saved = clock.saved()
    if saved is not None:
        state.restore(saved)
    # Batch normalization by the batch while learning, by its running means afterwards: then only the utterance counts.
    state.learner.train()
    for step in range(state.step, course.recipe.steps):
        loss = state.advance(course, step)
        watch(Progress((step + 1) / course.recipe.steps, loss, _note(course, step)))
        # Also after the last step, so that a training that has ended is not repeated.
        if clock.checkpoint is not None and (state.step % SAVED_EVERY == 0 or state.step == course.recipe.steps):
            clock.checkpoint.save(state.kept(), seconds=clock.spent())
    state.learner.eval()
    return Learned(state.learner.network, _accuracy(state.learner, course))


@final
class _Learner(nn.Module):
    """The network with the classifier that is thrown away afterwards."""

    def __init__(self, course: Course) -> None:
        nn.Module.__init__(self)
        key = Key(course.recipe.seed).child("speaker encoder")
        self.network = fresh(course.shape, key=key)
        # Its initializer draws from the global stream, which is set and given back.
        with key.child("classifier").isolated():
            self.classifier = nn.Linear(course.shape.dimensions, len(course.names))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and logits."""
        embeddings = self.network(frames)
        return embeddings, self.classifier(SHARPNESS * embeddings)


@final
@dataclass(eq=False)
class _State:
    """All that changes from step to step."""

    learner: _Learner
    optimizer: torch.optim.Adam
    step: int = 0

    @staticmethod
    def begin(course: Course) -> _State:
        learner = _Learner(course)
        return _State(learner, torch.optim.Adam(learner.parameters(), lr=course.recipe.lr, weight_decay=DECAY))

    def advance(self, course: Course, step: int) -> float:
        naming = step < course.recipe.softmax
        # Of the step alone, not of those before it: a resumed training draws the same.
        generator = Key(course.recipe.seed).child("step", step).generator()
        # Triplets need two utterances of a speaker, which a batch drawn at random need not have.
        chosen = _any(course, generator) if naming else _pairs(course, generator)
        embeddings, logits = self.learner(_frames(course, chosen, generator))
        who = torch.tensor([course.names.index(course.speakers[place]) for place in chosen])
        loss = F.cross_entropy(logits, who) if naming else triplet(embeddings, who)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step = step + 1
        return float(loss.detach())

    def kept(self) -> State:
        """What a later life needs. The optimizer's settings are the course's; it names its tensors by number."""
        moments = self.optimizer.state_dict()["state"]
        return {"step": self.step, "learner": self.learner.state_dict(), "optimizer": moments}

    def restore(self, state: State) -> None:
        """The inverse of `kept`: texts are numbers again."""
        moments = {int(place): value for place, value in state["optimizer"].items()}
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.step = int(state["step"])


def _clock(course: Course, checkpoint: str | None) -> Clock:
    """A clock without a bound, with the state of this course where there is a place for it."""
    clock = Budget().start()
    if checkpoint is None:
        return clock
    if zipfile.is_zipfile(checkpoint):
        raise BadInput(f"{checkpoint} is a checkpoint of leakscope 0.1.0, which nothing reads any more; remove it")
    file = StateFile(checkpoint, whose="training")
    file.open(course.fingerprint())
    return clock.kept(file)


def triplet(embeddings: Tensor, who: Tensor) -> Tensor:
    """mean max(0, s_an - s_ap + 0.1) over all pairs (a, p) of one speaker, n the nearest of another one.

    embeddings: (N, D) of length 1. who: (N,) int64. A scalar; 0 where no two are of one speaker.

    >>> triplet(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])).item()
    0.0
    """
    # Vectors of length 1: inner products are cosines.
    cosines, same = embeddings @ embeddings.T, who[:, None] == who[None]
    # -1 is the least cosine: with one speaker in the batch no other one is near.
    nearest = cosines.masked_fill(same, -1.0).amax(1, keepdim=True)
    # Row a, column p: each pair twice, once with either as the anchor.
    pairs = same & ~torch.eye(len(who), dtype=torch.bool)
    losses = torch.relu(nearest - cosines + MARGIN)[pairs]
    # A zero that can be differentiated: the mean of nothing is NaN.
    return losses.mean() if len(losses) else cosines.sum() * 0


def _any(course: Course, generator: torch.Generator) -> list[int]:
    return torch.randint(len(course.utterances), (course.recipe.batch,), generator=generator).tolist()


def _pairs(course: Course, generator: torch.Generator) -> list[int]:
    """Two utterances of each of half as many speakers as there are places."""
    order = torch.randperm(len(course.twice), generator=generator).tolist()
    chosen: list[int] = []
    # Fewer places where there are fewer speakers: nobody comes twice.
    for at in order[: course.recipe.batch // 2]:
        own = [place for place, speaker in enumerate(course.speakers) if speaker == course.twice[at]]
        chosen += [own[i] for i in torch.randperm(len(own), generator=generator).tolist()[:2]]
    return chosen


def _frames(course: Course, chosen: Sequence[int], generator: torch.Generator) -> Tensor:
    """Each utterance from a random frame on, where it is longer than what is looked at."""
    rows = []
    for place in chosen:
        room = max(0, len(course.utterances[place]) - FRAMES)
        # Drawn even where there is only one start: every utterance takes one number of the stream.
        start = int(torch.randint(room + 1, (1,), generator=generator))
        rows.append(prepared(course.utterances[place], start=start))
    return torch.stack(rows)


def _accuracy(learner: _Learner, course: Course) -> float:
    right = 0
    with torch.no_grad():
        for frames, speaker in zip(course.utterances, course.speakers, strict=True):
            # As `ResCNN` will look at it: from the first frame on, and one by one.
            _, logits = learner(prepared(frames)[None])
            right += course.names[int(logits.argmax())] == speaker
    return right / len(course.utterances)


def _note(course: Course, step: int) -> str:
    return "naming speakers" if step < course.recipe.softmax else "telling them apart"
