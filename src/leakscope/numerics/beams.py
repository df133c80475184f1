"""The likeliest label strings of CTC outputs, by a beam over prefixes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

String = tuple[int, ...]
Floats = npt.NDArray[np.float64]


def likeliest(logits: Floats, *, blank: int, width: int, count: int) -> list[tuple[String, float]]:
    """The `count` strings of the largest probability and its logarithm, the largest first.

    logits: (T, C), unnormalized. After each frame the `width` likeliest prefixes are kept, so a probability is a lower
    bound: the sum over the alignments that were kept, at most log 1 = 0. Fewer strings where there are no more.
    Raises `ValueError` on counts below 1. Graves 2012 (Supervised Sequence Labelling with Recurrent Neural Networks,
    doi:10.1007/978-3-642-24797-2), section 7.5; the form with two masses per prefix is Hannun et al. 2014
    (arXiv:1408.2873), algorithm 1.

    >>> likeliest(np.log([[0.6, 0.4], [0.6, 0.4]]), blank=1, width=5, count=1)[0][0]
    (0,)
    """
    # Ours: decoders of speech libraries rank strings with a language model, and here the probability of each is wanted,
    # which the tests compare with the sum over all alignments.
    if width < 1 or count < 1:
        raise ValueError(f"expected width and count >= 1, got {width} and {count}")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    strings: list[String] = [()]
    masses, scale = np.array([[1.0, 0.0]]), 0.0
    for frame in shares:
        strings, masses = _extended(strings, masses, frame, blank=blank, width=width)
        # Divided out at each frame: a beam that keeps a third of the mass every time would underflow after 700.
        total = float(masses.sum())
        scale += math.log(total)
        masses = masses / total
    best = np.argsort(-masses.sum(1), kind="stable")[:count]
    return [(strings[row], scale + math.log(masses[row].sum())) for row in best if masses[row].sum() > 0]


def _extended(
    strings: list[String], masses: Floats, frame: Floats, *, blank: int, width: int
) -> tuple[list[String], Floats]:
    """The likeliest prefixes one frame later, with the masses (N, 2) of those that end in a blank and in a label."""
    rows = {string: row for row, string in enumerate(strings)}
    grown = masses.sum(1)[:, None] * frame
    # The same prefix, after a blank: by another blank, from either mass.
    stay = np.stack([grown[:, blank], np.zeros(len(strings))], 1)
    grown[:, blank] = 0.0
    full = [row for row, string in enumerate(strings) if string]
    last = [strings[row][-1] for row in full]
    # ... and after its last label: by the same label again, which is no new one.
    stay[full, 1] = masses[full, 1] * frame[last]
    grown[full, last] = masses[full, 0] * frame[last]  # the same label again only after a blank
    for row, label in zip(full, last, strict=True):
        shorter = rows.get(strings[row][:-1])
        if shorter is not None:  # the same prefix by two ways
            stay[row, 1] += grown[shorter, label]
            grown[shorter, label] = 0.0
    both = np.concatenate([stay.sum(1), grown.ravel()])
    order = np.argsort(-both, kind="stable")[:width]
    kept = [int(place) for place in order if both[place] > 0]
    count, classes = grown.shape
    following = [
        strings[place] if place < count else (*strings[(place - count) // classes], (place - count) % classes)
        for place in kept
    ]
    new = [stay[place] if place < count else np.array([0.0, both[place]]) for place in kept]
    return following, np.stack(new)
