"""What public speech says of MFCC frames beforehand: their mean, their covariance and how they follow each other."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from leakscope.attacks.parts.priors.prior import AbstractPrior, Penalty
from leakscope.core.errors import BadInput
from leakscope.core.observation import Observation
from leakscope.ledger.files import write_atomically

Array = NDArray[np.float64]

LAGS = 3
"""Covariances of frames 0, 1 and 2 apart: what a recursion of order 2 needs."""


@final
@dataclass(frozen=True)
class SpeechPrior(AbstractPrior):
    """-log p of m = mean + V y, each y_k an autoregression of order 2: sum_kt e_tk^2 / (2 s_k), constants left out.

    V are the eigenvectors of the covariance of one frame; y_tk = a_k y_(t-1)k + b_k y_(t-2)k + e_tk with a, b by the
    equations of Yule and Walker, e_tk ~ N(0, s_k), the first two frames as in the stationary process.
    file: statistics that `learn` wrote, or "" for those of the package: 26 MFCC of synthetic English voices (eSpeak NG,
    360 sentences of 40 speakers). spread > 0 multiplies the standard deviations: below 1 believes more, above 1 less.
    Fewer coefficients than were learned use the first ones. Raises `BadInput` on another spread, or a bad file.

    >>> SpeechPrior(spread=2.0)
    SpeechPrior(file='', spread=2.0)
    """

    file: str = ""
    spread: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.spread, bool) or not 0 < self.spread < np.inf:
            raise BadInput(f"expected a finite spread > 0, got {self.spread!r}")

    @classmethod
    def learn(cls, frames: Tensor, lengths: Tensor, *, file: str | Path) -> SpeechPrior:
        """The prior of public utterances (N, T, F) of `lengths` (N,), kept in `file` (safetensors).

        Use public speech only: a prior that has seen the private half of a data set is no prior. Raises `BadInput` on
        fewer than 2 F frames, or on utterances shorter than 3 frames.
        """
        # float64: the innovations' variances are differences of nearly equal covariances.
        pieces = [row[:count].double().numpy() for row, count in zip(frames, lengths.tolist(), strict=True)]
        mean, lagged = _statistics(pieces)
        write_atomically(Path(file), save({"mean": torch.from_numpy(mean), "lagged": torch.from_numpy(lagged)}))
        return cls(str(file))

    def chain(self, features: int) -> Chain:
        """The recursion for frames of `features` coefficients. Raises `BadInput` when more than were learned."""
        return _chain(self.file, _stamp(self.file), self.spread, features)

    def penalty(self, seen: Observation) -> Penalty:
        """The penalty on utterances (B, T, F)."""
        chain = self.chain(int(seen.target.domain.shape[-1]))

        def improbable(inputs: Tensor) -> Tensor:
            # y_t = V^T (m_t - mean), (B, T, K).
            components = (inputs - inputs.new_tensor(chain.mean)) @ inputs.new_tensor(chain.axes)
            total = inputs.new_zeros(())
            for order in range(LAGS):
                # The first frame has no past and the second one of one frame: e_0, e_1, and then all later e_t at once.
                some = components[:, order:] if order == LAGS - 1 else components[:, order : order + 1]
                for back in range(1, order + 1):
                    earlier = components[:, order - back : order - back + some.shape[1]]
                    # e_t = y_t - a y_(t-1) - b y_(t-2), the frames shifted by `back`.
                    some = some - inputs.new_tensor(chain.steps[order][back - 1]) * earlier
                # Summed, not averaged: it is a logarithm of a probability, which a likelihood can be added to.
                total = total + (some.square() / inputs.new_tensor(chain.rest[order])).sum() / 2
            return total

        return improbable


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """The recursion as numbers. mean: (F,). axes: (F, K) columns. rest: (3, K) variances of the first, second and any
    later innovation. steps: coefficients of earlier frames, () for the first, (K,) each after it.
    """

    mean: Array
    axes: Array
    rest: Array
    steps: tuple[tuple[Array, ...], ...]

    def precision(self, count: int) -> tuple[Array, ...]:
        """The inverse covariance of `count` frames, per axis: its diagonal (T, K), and the two below it."""
        return _precision(self, count)

    def drawn(self, count: int, random: np.random.Generator) -> Array:
        """`count` frames (T, F) of one utterance as the prior believes them."""
        components = np.zeros((count, self.axes.shape[1]))
        noise = random.standard_normal(components.shape)
        for frame in range(count):
            order = min(frame, LAGS - 1)
            # y_t = sqrt(s) n_t + a y_(t-1) + b y_(t-2): the same recursion as in the penalty, run forward.
            components[frame] = np.sqrt(self.rest[order]) * noise[frame]
            for back, step in enumerate(self.steps[order], start=1):
                components[frame] += step * components[frame - back]
        return np.asarray(self.mean + components @ self.axes.T)


@functools.lru_cache(maxsize=16)
def _precision(chain: Chain, count: int) -> tuple[Array, ...]:
    # P = L^T diag(1 / s) L with L y = e; L is unit lower triangular with two bands, so P has two below its diagonal.
    bands = [np.zeros((max(0, count - lag), chain.axes.shape[1])) for lag in range(LAGS)]
    for frame in range(count):
        order = min(frame, LAGS - 1)
        row = [np.ones(chain.axes.shape[1]), *(-step for step in chain.steps[order])]
        for left, one in enumerate(row):
            for right in range(left, len(row)):
                # Row t of L holds 1, -a, -b at t, t - 1, t - 2; each pair adds to entry (t - left, t - right).
                bands[right - left][frame - right] += one * row[right] / chain.rest[order]
    return tuple(bands)


def _statistics(pieces: list[Array]) -> tuple[Array, Array]:
    """Mean (F,) and covariances at lags 0, 1, 2 (3, F, F) of utterances (T_i, F)."""
    features = pieces[0].shape[1]
    if sum(map(len, pieces)) < 2 * features or min(map(len, pieces)) < LAGS:
        raise BadInput(f"a prior needs at least {2 * features} frames, in utterances of {LAGS} or more")
    mean = np.vstack(pieces).mean(0)
    centered = [piece - mean for piece in pieces]
    lagged = np.zeros((LAGS, features, features))
    for lag in range(LAGS):
        # Pairs within an utterance only: the last frame of one says nothing of the first of the next.
        pairs = sum(len(piece) - lag for piece in centered)
        found = sum(piece[lag:].T @ piece[: len(piece) - lag] for piece in centered) / pairs
        # Only v^T C v is read below, to which the antisymmetric part contributes nothing.
        lagged[lag] = (found + found.T) / 2
    return mean, lagged


def _stamp(file: str) -> tuple[int, int]:
    """When the file was last written, and its size: what was learned anew in its place is not what was kept."""
    try:
        said = Path(file).stat()
    except OSError:
        return 0, 0  # the packaged statistics, or a file that is not there: reading it says so
    return said.st_mtime_ns, said.st_size


@functools.lru_cache(maxsize=16)
def _chain(file: str, stamp: tuple[int, int], spread: float, features: int) -> Chain:
    del stamp
    mean, lagged = _packaged() if not file else _read(file)
    if not 1 <= features <= len(mean):
        raise BadInput(f"the prior knows {len(mean)} coefficients, asked for {features}; learn one from such frames")
    lagged = lagged[:, :features, :features]
    # In these axes frames are uncorrelated at lag 0; at lags 1 and 2 what is left between axes is neglected.
    values, axes = np.linalg.eigh(lagged[0])
    # Autocovariances r_0, r_1, r_2 of each component: diag(V^T C_lag V).
    none, one, two = (np.einsum("fk,fg,gk->k", axes, part, axes) for part in lagged)
    # An axis without variance gets a billionth of the largest: its precision stays finite.
    none = np.maximum(values, 1e-9 * values[-1])
    # |r_1| < r_0, |r_2| <= r_0: estimates from different numbers of pairs need not obey it.
    one, two = np.clip(one, -0.999 * none, 0.999 * none), np.clip(two, -none, none)
    # Yule-Walker: r_1 = a r_0 + b r_1, r_2 = a r_1 + b r_0, solved for a and b.
    first, second = one * (none - two) / (none**2 - one**2), (none * two - one**2) / (none**2 - one**2)
    # Stationary where |b| < 1 and |a| < 1 - b (roots outside of the unit circle); a little inside.
    second = np.clip(second, -0.999, 0.999)
    first = np.clip(first, -0.999 * (1 - second), 0.999 * (1 - second))
    # s = r_0 - a r_1 - b r_2; the floor, since a and b were moved and s must be positive.
    later = np.maximum(none - first * one - second * two, 1e-4 * none)
    # Variances of e_0, e_1 and later ones: r_0, r_0 - r_1^2 / r_0, s. All by spread^2: no correlation changes.
    rest = spread**2 * np.stack([none, none - one**2 / none, later])
    return Chain(mean[:features], axes, rest, ((), (one / none,), (first, second)))


def _packaged() -> tuple[Array, Array]:
    text = resources.files("leakscope.attacks.parts.priors").joinpath("speech.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return np.array(table["mean"]), np.array(table["lagged"])


def _read(file: str) -> tuple[Array, Array]:
    if not Path(file).is_file():
        raise BadInput(f"there are no statistics at {file!r}; write them with SpeechPrior.learn")
    table = load_file(file)
    if table.keys() != {"mean", "lagged"} or table["lagged"].shape != (LAGS, *2 * table["mean"].shape):
        raise BadInput(f"{file!r} holds no statistics of speech; write them with SpeechPrior.learn")
    return table["mean"].double().numpy(), table["lagged"].double().numpy()
