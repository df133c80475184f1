"""Pictures of a batch from what its dense layers were fed, by a decoder that public pictures teach."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.heads import decoder
from leakscope.attacks.inputs.heads.head_images import enlarged
from leakscope.attacks.inputs.heads.reading import rows_fed
from leakscope.attacks.inputs.layer_by_layer import public_pictures
from leakscope.attacks.inputs.layer_by_layer.revealed_features import RevealedFeatures
from leakscope.attacks.parts.search.staged import staged
from leakscope.attacks.preparing import AbstractLearner, Learned, Setting
from leakscope.core.arguments import count, instance
from leakscope.core.attempt import ASSISTED, Attempt, Outcome
from leakscope.core.claim import Features, Inputs
from leakscope.core.effort import Clock, State, Watch, part_of
from leakscope.core.errors import NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.running import as_run
from leakscope.numerics.rng import Key
from leakscope.targets.looking.dense_tail import dense_tail


@final
@dataclass(frozen=True)
class FeatureImages(AbstractLearner[Inputs]):
    """D_l(h_s), h_s what the dense layer l was fed for sample s (`of`), D_l a decoder of public pictures x.

    D_l is learned of pairs (phi_l(x), x) alone, phi_l the model up to that layer: linear by ridge regression, with what
    a network of three dense layers adds to it (`heads.decoder`). The features are those of the batch; whatever phi_l
    threw away is filled in by what public pictures are like, so that a picture is prior-assisted and never proved.
    A model whose weights everybody has (a file, a public backbone) is learned once, for each dense layer at its end; of
    one that has new weights in each trial the layer that was revealed is learned in the attempt, within its seconds.
    pool: public pictures of the model's size, 100 at least; their labels do not matter. of: the attack that reveals
    features; it refuses and fails for both. steps: of Adam. pictures: a smaller pool is enlarged to so many by copies
    that are slightly moved. Raises `BadInput` on what is no pool or no attack, and on steps or pictures < 1.
    """

    pool: Pool
    of: Attack[Features] = field(default_factory=RevealedFeatures)
    steps: int = 2000
    pictures: int = 8000

    def __post_init__(self) -> None:
        instance("pool", self.pool, Pool, "write pool(Photographs())")
        public_pictures.instance_of(self.of)
        object.__setattr__(self, "steps", count("steps", self.steps))
        object.__setattr__(self, "pictures", count("pictures", self.pictures))

    @property
    def citation(self) -> str:
        """Balle et al. 2022, whose reconstructor learns of public pictures too, and the attack that reveals."""
        return "\n\n".join(part for part in (self.of.citation, citations.INFORMED) if part)

    def taught(self, learned: Learned) -> DecodedFeatures:
        """The attack with its decoders."""
        return DecodedFeatures(self, learned)

    def _prepare(self, setting: Setting, *, key: Key, clock: Clock, watch: Watch) -> State:
        target, other = (
            as_run(setting.mechanism, setting.architecture.build(setting.domain, setting.classes, key=key.child(name)))
            for name in ("target", "another target")
        )
        try:
            model = public_pictures.described(target)
            # Whose weights are drawn has others in each trial; what does not apply is said by each attempt.
            if model != public_pictures.described(other) or not self._applies(target):
                return {"decoders": {}}
            # What refuses one public picture refuses every batch, and nothing would be decoded of what was learned.
            if public_pictures.refuses(self.of, setting.mechanism, target, self.pool, key.child("refused")):
                return {"decoders": {}}
            tail = dense_tail(target)
        except NoSuchLayer:
            return {"decoders": {}}
        most = self.of.layers if isinstance(self.of, RevealedFeatures) else None
        names = [layer.name for layer in tail[:most]]
        found: dict[str, State] = {}
        for place, name in enumerate(names):
            part = part_of(watch, place / len(names), (place + 1) / len(names))
            own, done = staged(clock, name, found)
            found[name] = done or self.learn(target, name, key=key.child("decoder", name), clock=own, watch=part)
        return {"model": model, "decoders": found}

    def _applies(self, target: Target) -> bool:
        public = self.pool.batch
        pictures = public.lengths is None and public.inputs.dim() == 4 and len(public) >= public_pictures.LEAST
        return pictures and target.domain.fits(public.inputs)

    def learn(self, model: Target, layer: str, *, key: Key, clock: Clock, watch: Watch) -> State:
        """What a decoder of this layer's inputs has learned, and the range of pictures. Raises `NoSuchLayer`."""
        pictures, _ = enlarged(self.pool, self.pictures, key.child("copies").generator())
        like = next(iter(model.parameters().values()))
        features = rows_fed(model, layer, pictures.to(like)).float().cpu()
        low, high = (float(bound) for bound in _range(model, pictures))
        lessons = decoder.Lessons(
            features, torch.zeros(len(features), dtype=torch.int64), 1, pictures.float().cpu(), low, high,
            # One class of all pictures, whose linear part is the common one.
            0, torch.arange(len(features)) % len(self.pool), decoder.EXACT,
        )  # fmt: skip
        found = decoder.taught(lessons, key=key, clock=clock, watch=watch, steps=self.steps)
        return {"limits": [low, high], "decoder": found.state_dict()}


@final
@dataclass(frozen=True, eq=False)
class DecodedFeatures(AbstractAttack[Ready[Any], Inputs]):
    """What `FeatureImages` teaches: features first, then the decoder. Made by `FeatureImages.taught`."""

    learner: FeatureImages
    learned: Learned

    def __repr__(self) -> str:
        return repr(self.learner)

    @property
    def citation(self) -> str:
        """The learner's."""
        return self.learner.citation

    def _read(self, seen: Observation) -> Ready[Any] | Refusal:
        return public_pictures.readied(self.learner.pool, self.learner.of, seen)

    def _attempt(self, seen: Observation, read: Ready[Any], *, key: Key, clock: Clock, watch: Watch) -> Attempt[Inputs]:
        # Revealing takes seconds, and a state that is kept is the decoder's.
        inner = read.within(key=key.child("of"), clock=dataclasses.replace(clock, checkpoint=None), watch=watch)
        claim = public_pictures.revealed(inner, repr(self))
        if isinstance(claim, Attempt):
            return claim
        model = public_pictures.ran(seen)
        known, when = self._known(model, claim.layer), "beforehand"
        if known is None:
            known = self.learner.learn(model, claim.layer, key=key.child("decoder"), clock=clock, watch=watch)
            when = "for these weights"
        low, high = known["limits"]
        shape = seen.target.domain.shape
        classes = torch.zeros(len(claim), dtype=torch.int64)
        pictures = decoder.decoded(known["decoder"], (low, high), claim.values.float(), classes, (1, tuple(shape)))
        if not bool(torch.isfinite(pictures).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the decoder's pictures are not finite", cost=inner.cost)
        pictures = _inside(seen.target, pictures)
        off = public_pictures.away(model, claim, pictures)
        sentence = (
            f"{ASSISTED}{len(claim)} pictures, decoded from what {claim.layer} was fed by what "
            f"{len(self.learner.pool)} public ones taught {when}{public_pictures.told_apart(off)}"
        )
        steps = (*inner.steps, inner.sentence)
        return Attempt(
            repr(self), inner.outcome, sentence, Inputs(pictures, claim.labels), cost=inner.cost, steps=steps
        )

    def _known(self, model: Target, layer: str) -> State | None:
        """What was learned beforehand of this layer, for these weights and this way of running it."""
        state = self.learned.state
        if layer not in state["decoders"] or state["model"] != public_pictures.described(model):
            return None
        found: State = state["decoders"][layer]
        return found


def _range(model: Target, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value that a pixel of any channel may have."""
    low, high = (torch.as_tensor(bound) for bound in model.domain.bounds(pictures[:1]))
    return low.min(), high.max()


def _inside(target: Target, pictures: Tensor) -> Tensor:
    """Within each channel's own range."""
    low, high = (torch.as_tensor(bound).to(pictures) for bound in target.domain.bounds(pictures))
    return torch.minimum(torch.maximum(pictures, low), high)
