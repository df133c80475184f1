"""What turns an utterance into a point, near to others of the same speaker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from leakscope.core.errors import BadInput
from leakscope.domains.speech import mfcc

COEFFICIENTS = 26
"""Of the MFCC that sound is turned into for encoders of frames."""


class AbstractSpeakerEncoder(ABC):
    """Utterances to unit vectors; the cosine of two says how alike the voices are. A frozen, hashable value.

    Embeddings are functions of the utterance alone: whatever is drawn on the way is drawn from a fixed key. So the
    same frames, recovered or original, have the same embedding.
    """

    @property
    @abstractmethod
    def citation(self) -> str:
        """BibTeX of the sources; empty when there is none."""

    @abstractmethod
    def version(self) -> str:
        """Changes whenever the embeddings would: the repr, and the content of a file of weights.

        Raises `MissingExtra` or `BadInput` when the weights are not there.
        """

    @abstractmethod
    def of_frames(self, utterances: Sequence[Tensor]) -> Tensor:
        """(N, D) unit vectors of N utterances (T_i, F) of MFCC. Raises `BadInput` on no or not finite frames."""

    @abstractmethod
    def of_sound(self, recordings: Sequence[Tensor]) -> Tensor:
        """(N, D) unit vectors of N recordings (S_i,) at 16 kHz, at least 512 samples each."""


@final
@dataclass(frozen=True)
class CepstralMoments(AbstractSpeakerEncoder):
    """(mean of c_1.., standard deviation of c_0..) over time, scaled to length 1: the long-term shape of a voice.

    No training, no weights: what a person of 1974 could do (Atal, doi:10.1121/1.1914702, on cepstra of voices). The
    mean of c_0, the loudness, says how near the microphone was and is left out. Fewer than 1 frame or 2 coefficients
    raise `BadInput`.

    >>> CepstralMoments().of_frames([torch.eye(3, 4)]).shape
    torch.Size([1, 7])
    """

    citation: ClassVar[str] = ""

    def version(self) -> str:
        """The repr: nothing is read from a file."""
        return repr(self)

    def of_frames(self, utterances: Sequence[Tensor]) -> Tensor:
        """Mean and spread of each coefficient."""
        checked(utterances, least=2)
        # float64: means over many frames add next to no rounding.
        wide = [frames.detach().double() for frames in utterances]
        # 1 / T, not 1 / (T - 1): an utterance of one frame has deviation 0, not NaN. Of c_0 only the deviation: a
        # factor on the sound adds a constant to its logarithm, hence to c_0 alone.
        moments = [torch.cat([frames.mean(0)[1:], frames.std(0, correction=0)]) for frames in wide]
        return F.normalize(torch.stack(moments), dim=1)

    def of_sound(self, recordings: Sequence[Tensor]) -> Tensor:
        """Of the MFCC of each recording."""
        return self.of_frames([mfcc(samples.double(), coefficients=COEFFICIENTS) for samples in recordings])


def checked(utterances: Sequence[Tensor], *, least: int = 1) -> None:
    """Refuse what is no utterance of at least `least` coefficients. Raises `BadInput`."""
    if not utterances:
        raise BadInput("expected at least one utterance, got none")
    for frames in utterances:
        # An embedding of NaN is near to nobody.
        if frames.dim() != 2 or len(frames) == 0 or frames.shape[1] < least or not bool(torch.isfinite(frames).all()):
            raise BadInput(
                f"expected finite frames (T, F) with T >= 1 and F >= {least}, got {tuple(frames.shape)}; "
                "leave out what is empty"
            )
