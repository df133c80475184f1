"""Claims of sequences of any length: completed, paired, and guessed blindly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.claim import AbstractClaim, Inputs
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.numerics.rng import Key
from leakscope.scoring.case import Case, displayed
from leakscope.scoring.chance import AbstractGuess, Constant, keys
from leakscope.scoring.kinds.kind import AbstractKind, Comparison, Judged, Outsider, PairedSequences, Shown, filled
from leakscope.scoring.metrics.metric import AbstractMetric, AbstractSequenceMetric
from leakscope.scoring.metrics.speech import FrameError
from leakscope.scoring.pairing import Pairing, assigned
from leakscope.scoring.proved import FRAMES

EXACT_FRAMES = 1e-4
"""A sequence of the right length with no larger mean absolute error is exact: MFCC reach 26, where float32 rounds at
2e-6, and the solution of a long utterance multiplies that."""

DRAWS = 4
"""Over how many draws of random public utterances their expectation is taken; they are far from the best guess."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class SequenceTruth:
    """The private sequences (T_i, F) in display units, and what takes the place of a frame that was not claimed.

    frame: (F,) the mean public frame in display units, or the middle of the domain's range.
    """

    frames: tuple[Tensor, ...]
    domain: AbstractDomain | None
    frame: Tensor

    def __len__(self) -> int:
        return len(self.frames)


@final
@dataclass(frozen=True, eq=False)
class RandomSequences(AbstractGuess[Inputs]):
    """Random public sequences, without repeating one while the pool lasts."""

    public: Batch
    count: int

    def claims(self, *, key: Key) -> Iterator[tuple[float, Inputs]]:
        """`count` members of the pool, drawn `DRAWS` times."""
        size, lengths = len(self.public), self.public.lengths
        assert lengths is not None
        for one in keys(self, key, DRAWS):
            generator = one.generator()
            # As for whole inputs: no utterance is repeated before all were used.
            order = torch.cat([torch.randperm(size, generator=generator) for _ in range(-(-self.count // size))])
            chosen = order[: self.count]
            yield 1 / DRAWS, Inputs(self.public.inputs[chosen].double(), lengths=lengths[chosen])


def mean_frame(public: Batch, domain: AbstractDomain | None = None) -> Tensor:
    """(F,) float64: the mean of all real frames of a public batch, in display units."""
    assert public.lengths is not None
    return torch.cat(frames_of(displayed(public.inputs, domain), public.lengths.tolist())).mean(0)


def blind_frame(features: int, case: Case) -> Tensor:
    """(F,) the frame that says least. Raises `BadInput` without public data and without a range."""
    if case.public is not None:
        # The mean over frames, not over utterances: a long one says more of what a frame looks like.
        return mean_frame(case.public, case.domain)
    like = torch.zeros(features, dtype=torch.float64)
    low, high = (torch.zeros(()), torch.ones(())) if case.domain is None else case.domain.bounds(like)
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise BadInput("no blind guess exists for an unbounded domain without public data; pass public=")
    middle = ((low.double() + high.double()) / 2).expand_as(like)
    # As a batch of one sequence of one frame: a domain is asked for (B, T, F).
    return displayed(middle[None, None], case.domain)[0, 0]


def frames_of(values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The real frames of each padded sequence. Raises `BadInput` on a length that `values` (N, T, F) do not have."""
    if values.dim() != 3 or any(not 0 <= length <= values.shape[1] for length in lengths):
        raise BadInput(f"sequences (N, T, F) of lengths {list(lengths)} cannot be {tuple(values.shape)}; check both")
    return [row[:length] for row, length in zip(values, lengths, strict=True)]


def completed(frames: Tensor, count: int, frame: Tensor) -> Tensor:
    """Exactly `count` frames: what is missing at the end becomes the blind `frame`, what is beyond is cut off.

    >>> completed(torch.ones(1, 1), 2, torch.zeros(1)).tolist(), completed(torch.ones(3, 1), 2, torch.zeros(1)).shape
    ([[1.0], [0.0]], torch.Size([2, 1]))
    """
    # At the end: attacks find frames in their order, so what lacks is what comes last.
    missing = max(0, count - len(frames))
    return torch.cat([frames[:count], frame.to(frames).expand(missing, -1)])


@final
@dataclass(frozen=True)
class Sequences(AbstractKind[Inputs, SequenceTruth, AbstractSequenceMetric]):
    """Sequences of frames with their lengths."""

    claims: ClassVar[type[AbstractClaim]] = Inputs
    default: ClassVar[tuple[AbstractMetric, ...]] = (FrameError(),)

    @property
    def examples(self) -> tuple[Inputs, ...]:
        """One sequence."""
        return (Inputs(torch.zeros(1, 4, 3), lengths=torch.tensor([4])),)

    def holds(self, claim: AbstractClaim) -> bool:
        """Inputs with lengths."""
        return isinstance(claim, Inputs) and claim.lengths is not None

    def takes(self, metric: AbstractMetric) -> bool:
        """Metrics of sequences."""
        return isinstance(metric, AbstractSequenceMetric)

    def truth(self, claim: Inputs, case: Case) -> SequenceTruth:
        """Each private sequence. Raises `BadInput` where the secret, the claim or the public data hold none like it."""
        batch = case.batch()
        if batch.lengths is None:
            raise BadInput("claimed sequences with lengths cannot be scored against inputs without; claim whole inputs")
        public = case.public
        if public is not None and (public.lengths is None or public.inputs.shape[2] != batch.inputs.shape[2]):
            raise BadInput(
                f"public inputs {tuple(public.inputs.shape)} are no sequences like {tuple(batch.inputs.shape)}"
            )
        if claim.values.dim() != 3 or claim.values.shape[2] != batch.inputs.shape[2]:
            raise BadInput(
                f"claimed sequences {tuple(claim.values.shape)} do not fit private ones {tuple(batch.inputs.shape)}"
            )
        frames = frames_of(displayed(batch.inputs, case.domain), batch.lengths.tolist())
        return SequenceTruth(tuple(frames), case.domain, blind_frame(int(batch.inputs.shape[2]), case))

    def pair(self, claim: Inputs, truth: SequenceTruth) -> Pairing:
        """Pairs with the lowest total `FrameError`."""
        # All claimed ones once, since each is compared with every private one below.
        claimed = claimed_frames(claim, truth)

        def costs(rows: list[int], columns: list[int]) -> ArrayLike:
            return [
                [
                    FrameError().items([completed(claimed[row], len(truth.frames[i]), truth.frame)], [truth.frames[i]])[
                        0
                    ]
                    for i in columns
                ]
                for row in rows
            ]

        true = [_bytes(frames) for frames in truth.frames]
        return assigned(claim, true, lambda places: [_bytes(claimed[place]) for place in places], costs)

    def guesses(self, at: Comparison[Inputs, SequenceTruth], case: Case) -> Sequence[AbstractGuess[Inputs]]:
        """Silence, which is completed with the blind frame; the middle of the range; random public sequences.

        No uniform noise: |x - noise| is convex in the noise, so its mean, the middle, has no larger error than noise.
        """
        # Silence claims no frame: completed with the blind frame it is the constant guess of the mean frame, exactly.
        count, features = len(at.truth), at.truth.frame.shape[0]
        found: list[AbstractGuess[Inputs]] = [Constant(_repeated(torch.zeros(features), [0] * count))]
        if case.public is not None:
            found.append(RandomSequences(case.public, count))
            like = torch.zeros(features, dtype=torch.float64)
            low, high = (like, like + 1) if case.domain is None else case.domain.bounds(like)
            middle = ((low.double() + high.double()) / 2).expand_as(like)
            # Without public data the blind frame is this middle already.
            if case.domain is not None and bool(torch.isfinite(middle).all()):
                found.append(Constant(_repeated(middle, [len(frames) for frames in at.truth.frames])))
        return found

    def items(
        self, metric: AbstractSequenceMetric, at: Comparison[Inputs, SequenceTruth], blind: Sequence[float]
    ) -> Judged:
        """The metric of each pair; a sequence without a claim scores the blind guess."""
        places, partners = at.pairing.known()
        claimed, wanted = claimed_frames(at.claim, at.truth), [at.truth.frames[place] for place in places]
        chosen = [claimed[partner] for partner in partners]
        # To the true length, so that padding can neither count as recovered nor dilute an error.
        whole = [completed(one, len(other), at.truth.frame) for one, other in zip(chosen, wanted, strict=True)]
        # Exact only with the right length: a claim that goes on after the end has not found where it is.
        sizes = [len(one) == len(other) for one, other in zip(chosen, wanted, strict=True)]
        errors = FrameError().items(whole, wanted)
        exact = sum(fits and error <= EXACT_FRAMES for fits, error in zip(sizes, errors, strict=True))
        return Judged(filled(blind, places, metric.items(whole, wanted)), exact)

    def nearest(
        self, metric: AbstractSequenceMetric, at: Comparison[Inputs, SequenceTruth], public: Batch
    ) -> tuple[float, ...]:
        """The error of the public sequence that is nearest to each private one, cut or completed to its length."""
        truth = at.truth
        if metric != FrameError() or public.lengths is None:
            return ()
        known = frames_of(displayed(public.inputs, truth.domain), public.lengths.tolist())
        return tuple(
            min(metric.items([completed(other, len(one), truth.frame)], [one])[0] for other in known)
            for one in truth.frames
        )

    def right(self, claim: Inputs, truth: SequenceTruth, tolerances: Sequence[float]) -> tuple[bool, ...]:
        """Whether some private sequence has as many frames and differs by `proved.FRAMES` at most."""
        del tolerances
        return tuple(
            any(len(one) == len(other) and FrameError().items([one], [other])[0] <= FRAMES for other in truth.frames)
            for one in claimed_frames(claim, truth)
        )

    def claimed(self, at: Comparison[Inputs, SequenceTruth]) -> int:
        """Those with a frame: silence of no length says nothing."""
        assert at.claim.lengths is not None
        lengths = at.claim.lengths.tolist()
        return sum(lengths[partner] > 0 for partner in at.pairing.known()[1])

    def notes(
        self, at: Comparison[Inputs, SequenceTruth], metrics: Sequence[AbstractSequenceMetric]
    ) -> tuple[str, ...]:
        """How many claimed sequences are too short or too long."""
        del metrics
        assert at.claim.lengths is not None
        # Only of pairs: a sequence that was not claimed has no length to be wrong.
        lengths, (places, partners) = at.claim.lengths.tolist(), at.pairing.known()
        pairs = zip(places, partners, strict=True)
        wrong = sum(lengths[partner] != len(at.truth.frames[place]) for place, partner in pairs)
        if not wrong:
            return ()
        return (
            f"{wrong} of {len(places)} claimed sequences have a wrong length; "
            "missing frames count as the mean public frame, frames beyond the end as nothing",
        )

    def shown(self, claim: Inputs, case: Case) -> Shown:
        """Originals beside their claims, each as long as it is."""
        at = self.compared(claim, case)
        claimed = claimed_frames(claim, at.truth)
        partners = (None if place is None else claimed[place] for place in at.pairing.partners)
        return Shown(frames=PairedSequences(at.truth.frames, tuple(partners)))

    def control(self, outsider: Outsider, *, key: Key) -> Inputs | None:
        """The mean public frame, for as many frames as public sequences have on average."""
        del key
        public = outsider.public
        if public.lengths is None:
            return None
        count = round(float(public.lengths.double().mean()))
        return _repeated(mean_frame(public).to(public.inputs.dtype), [count] * outsider.count)


def claimed_frames(claim: Inputs, truth: SequenceTruth) -> list[Tensor]:
    """Each claimed sequence (T, F) in display units."""
    assert claim.lengths is not None
    return frames_of(displayed(claim.values, truth.domain), claim.lengths.tolist())


def _repeated(frame: Tensor, lengths: Sequence[int]) -> Inputs:
    """The same frame (F,), lengths[i] times in the i-th of the sequences."""
    values = frame.expand(len(lengths), max(1, *lengths), -1).clone()
    return Inputs(values, lengths=torch.tensor(list(lengths)))


def _bytes(frames: Tensor) -> bytes:
    raw: bytes = frames.numpy().tobytes()
    return raw
