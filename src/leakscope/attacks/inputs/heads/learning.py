"""What everybody who learns to read heads asks of a setting before it is learned, and of a head before it is read."""

from __future__ import annotations

import torch

from leakscope.attacks.inputs.heads.reading import Public, SeenHead, public, read_head
from leakscope.attacks.preparing import Learned, Setting
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.pool import Pool
from leakscope.core.refusal import Refusal
from leakscope.core.target import Target
from leakscope.mechanisms.heads.private import left_of
from leakscope.mechanisms.protocols.training import PrivateHeadTraining
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

UNFIT = "unfit"
"""Where a state says why nothing was learned: an audit that plans an attack beside others gets it with each trial."""

MECHANISM = "mechanism"
"""Where a state says of which mechanism it is: features read as of another training are anybody's."""


def teachable(setting: Setting, pool: Pool, each: int, what: str, *, key: Key) -> tuple[Target, Public, float, float]:
    """The target, what is public of its heads, and the range of its pictures.

    each: examples of each class. what: is learned, "a decoder". Raises `BadInput` where nothing can be.
    """
    if acts_as(setting.mechanism, PrivateHeadTraining):
        # raises for steps with a memory, of which no many are trained at once
        left_of(setting.mechanism)
    target = setting.architecture.build(setting.domain, setting.classes, key=key.child("target"))
    known = public(target, setting.mechanism, pool, learned=True)
    if isinstance(known, Refusal):
        raise BadInput(known.sentence)
    if known.layer.outputs == 1:
        raise BadInput(f"{what} is learned for heads with a row for each class; HeadFeatures reads one logit")
    if known.training.init_std is None:
        raise BadInput(f"{what} is learned for secret first weights, these are the target's own; give init_std")
    pictures = pool.batch.inputs
    if pictures.dim() != 4:
        raise BadInput(f"expected pictures (n, channels, height, width) in {pool!r}, got {tuple(pictures.shape)}")
    fewest = int(torch.bincount(pool.batch.labels, minlength=target.classes).min())
    if fewest < each:
        raise BadInput(f"every class needs {each} public examples, the smallest has {fewest}; give more")
    low, high = (float(bound.flatten()[0]) for bound in target.domain.bounds(pictures[:1]))
    return target, known, low, high


def read_learned(seen: Observation, learned: Learned, pool: Pool, each: int, what: str) -> SeenHead | Refusal:
    """The head, if it is of the kind that was learned; or the reason why it is not. what: was learned, "decoder"."""
    state = learned.state
    if UNFIT in state:
        return Refusal(str(state[UNFIT]))
    if learned_of(learned) not in (None, repr(seen.mechanism)):
        return Refusal(f"the {what} has learned heads of {learned_of(learned)}, this is one of {seen.mechanism!r}")
    found = read_head(seen, pool, learned=True)
    if isinstance(found, Refusal):
        return found
    if found.each != each:
        return Refusal(f"has learned heads of {each} examples of each class, this is of {found.each}")
    if state["backbone"] != backbone(seen.target):
        return Refusal(f"the backbone is another one than the {what} was trained for, or was fine-tuned since")
    return found


def learned_of(learned: Learned) -> str | None:
    """The mechanism whose heads were learned; None in what was kept before that was written down."""
    found = learned.state.get(MECHANISM)
    return None if found is None else str(found)


def backbone(target: Target) -> str:
    """A hash of all that makes features of inputs, and of nothing that is trained."""
    return trees.fingerprint(target.buffers())
