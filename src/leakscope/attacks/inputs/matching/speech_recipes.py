"""Gradient matching of speech as published, and with second derivatives: each is one function that returns a value."""

from __future__ import annotations

from leakscope.attacks.inputs.matching.inversion import GradientInversion
from leakscope.attacks.parts.distance.distances import Cosine, Layers
from leakscope.attacks.parts.distance.norms import Euclidean
from leakscope.attacks.parts.labeling.labeling import AbstractLabeling, Told
from leakscope.attacks.parts.priors.prior import Flat
from leakscope.attacks.parts.search.direct import DirectSearch, Scales, Shrink
from leakscope.attacks.parts.search.directions import By
from leakscope.attacks.parts.search.first_order import Adam
from leakscope.attacks.parts.spaces import AbstractSpace, Pixels
from leakscope.attacks.parts.starts import Between

# What is not read is not computed: for each of 127 candidates no pass back through the layers below.
LAST = ("layer_6.*",)
LAST_TWO = ("layer_5.*", "layer_6.*")
"""Of `DeepSpeech`; give other patterns for another model."""


def hessian_free(
    *,
    search: DirectSearch | None = None,
    layers: tuple[str, ...] = LAST,
    euclidean: bool = False,
    labeling: AbstractLabeling | None = None,
    space: AbstractSpace | None = None,
) -> GradientInversion:
    """Dang et al. 2021 (arXiv:2104.07815): 1 - cosine of the last layer's gradient, direct search by frames.

    Begins at U(-1, 1), with the transcript told. The variants of the original are arguments: `euclidean` for the norm
    instead of the cosine, `layers` for the last two layers, `search=DirectSearch(shrink=Shrink(5000, smallest=0.05))`
    for the longer one, `labeling=Guessed()` for a random transcript and `Edits()` or `Listed(...)` for one that is
    searched along, `space=SomeFrames(...)` for a part of the utterance, fewer directions for local steps.
    """
    distance = Layers(Euclidean() if euclidean else Cosine(), layers)
    return GradientInversion(
        distance, Flat(), space or Pixels(), Between(), search or DirectSearch(), labeling or Told()
    )


def hessian_free_batch(
    *,
    iterations: int = 1_000_000,
    directions: int = 127,
    layers: tuple[str, ...] = LAST,
    labeling: AbstractLabeling | None = None,
) -> GradientInversion:
    """The variant for several utterances: the norm of the difference, one utterance in each step.

    Radius 0.5, checked every 5000 steps for 1 % of improvement, down to 0.05.
    """
    # A step moves one of B utterances, whose gradient is 1 / B of the mean: less is asked for, after more steps.
    shrink = Shrink(steps=5000, improvement=0.01, smallest=0.05)
    search = DirectSearch(0.5, iterations, directions, shrink=shrink, one_at_a_time=True)
    return hessian_free(search=search, layers=layers, euclidean=True, labeling=labeling)


def coefficient_search(*, iterations: int = 50_000, directions: int = 127) -> GradientInversion:
    """The older search of the original system: along one coefficient over time, radii by coefficient from 0.05.

    The first coefficients move further: 32, 16, 8, 4, 2 times, halved after 25 uses in vain. Norm of the difference.
    """
    # The default's end, 0.25, is above where this one begins: its first radius would be its last.
    shrink = Shrink(smallest=5e-4)
    search = DirectSearch(0.05, iterations, directions, By.COEFFICIENT, shrink=shrink, scales=Scales())
    return hessian_free(search=search, euclidean=True)


def speech_matching(
    *,
    steps: int = 2000,
    lr: float = 0.1,
    layers: tuple[str, ...] = ("*",),
    labeling: AbstractLabeling | None = None,
    space: AbstractSpace | None = None,
) -> GradientInversion:
    """Gradient matching with the slope that the original does without: double backward through CTC and all layers.

    1 - cosine over all layers, Adam on the sign of the slope, begun at U(-1, 1), with the transcript told: the search
    of Geiping et al. 2020 on speech. One step costs a few passes, a step of the direct search 128; and the first
    layers' gradients tell far more than the last one's.
    """
    # `*` matches every name, so the filter would do nothing.
    distance = Cosine() if layers == ("*",) else Layers(Cosine(), layers)
    search = Adam(lr=lr, steps=steps, signed=True)
    return GradientInversion(distance, Flat(), space or Pixels(), Between(), search, labeling or Told())
