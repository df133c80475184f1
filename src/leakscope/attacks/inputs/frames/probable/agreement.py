"""How much of frames that do not explain an update is worth claiming: what independent searches agree on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leakscope.attacks.parts.priors.speech import Chain

Array = NDArray[np.float64]


def agreed(best: Array, others: list[Array], chain: Chain, *, width: int) -> tuple[Array, Array]:
    """Frames (T, F) shrunk to the prior's mean, mean + k_t (best_t - mean), and the shares k (T,) in [0, 1].

    k is the least-squares coefficient of the other searches' deviations on those of the best, each coefficient in
    standard deviations of the prior, over the `width` frames around t. Were all of them draws from the posterior, as
    the truth is one, this would be the coefficient of the truth too: where searches that began elsewhere found the same
    frames it is 1, where they contradict each other 0, and the claim is then that of the prior alone.

    >>> from leakscope.attacks.parts.priors.speech import SpeechPrior
    >>> chain = SpeechPrior().chain(26)
    >>> one, other = (chain.drawn(300, np.random.default_rng(seed)) for seed in (0, 1))
    >>> mirrored = 2 * chain.mean - one
    >>> [round(float(agreed(one, [it], chain, width=300)[1][150]), 1) for it in (one, other, mirrored)]
    [1.0, 0.0, 0.0]
    """
    # rest[0]: the variances of a single frame along the prior's axes. In their units loud coefficients do not decide
    # alone.
    size = np.sqrt(chain.rest[0])
    found = (best - chain.mean) @ chain.axes / size
    common = np.mean([((other - chain.mean) @ chain.axes / size * found).sum(1) for other in others], axis=0)
    # `same` answers with the longer of the two lengths, so the sum must not be longer than the utterance.
    around = np.ones(min(width, len(best)))
    shared, whole = (np.convolve(part, around, mode="same") for part in (common, (found**2).sum(1)))
    shares = np.clip(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0), 0.0, 1.0)
    return chain.mean + shares[:, None] * (best - chain.mean), shares
