"""Deep Speaker's residual network on MFCC, to be trained on any corpus that tells its speakers."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakscope.attacks import citations
from leakscope.attacks.attributes.encoder import COEFFICIENTS, AbstractSpeakerEncoder, checked
from leakscope.core.errors import BadInput
from leakscope.domains.speech import mfcc
from leakscope.ledger import container
from leakscope.ledger.container import Header
from leakscope.numerics.arrays import as_arrays, as_tensors
from leakscope.numerics.rng import Key
from leakscope.numerics.trees import Named
from leakscope.version import VERSION

FRAMES = 160
"""Of each utterance so many are looked at (3.2 s); shorter ones are padded with zeros."""
# Each halves time and coefficients: 160 frames become 10.
STAGES = 4
CEILING = 20.0
"""Where the rectifiers are cut off."""


@final
@dataclass(frozen=True)
class Shape:
    """How large the network is: width, 2, 4 and 8 times width filters, each with so many residual blocks.

    The paper's is `Shape()`, with 24 million numbers; a width of 8 with one block trains in a minute on one core.
    coefficients: of each frame. Raises `BadInput` on sizes below 1.
    """

    width: int = 64
    blocks: int = 3
    dimensions: int = 512
    coefficients: int = COEFFICIENTS

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.dimensions, self.coefficients) < 1:
            raise BadInput(f"expected sizes of at least 1, got {self}")

    @property
    def bands(self) -> int:
        """How many values of the coefficients are left after each stage has halved them, rounded up."""
        bands = self.coefficients
        for _ in range(STAGES):
            # A 5 x 5 convolution with padding 2 and stride 2 gives ceil(n / 2): for 26 coefficients 13, 7, 4, 2.
            bands = (bands + 1) // 2
        return bands


@final
class ResCNNNetwork(nn.Module):
    """(N, 160, F) prepared frames to (N, D) unit vectors.

    Four stages of a 5 x 5 convolution with stride 2 and residual blocks of 3 x 3 ones, batch normalization and
    min(relu(.), 20) throughout; then each time step is one vector of (channels x bands) numbers, their mean over time
    goes through a dense layer and is scaled to length 1 (Li et al. 2017, section 2). The size of that vector follows
    from the number of coefficients, so that 26 of them do not mix neighboring time steps.
    """

    def __init__(self, shape: Shape) -> None:
        nn.Module.__init__(self)
        widths = [shape.width * 2**stage for stage in range(STAGES)]
        layers: list[nn.Module] = []
        for before, after in zip([1, *widths[:-1]], widths, strict=True):
            layers.append(_Convolution(before, after, size=5, stride=2))
            layers += [_Residual(after) for _ in range(shape.blocks)]
        self.body = nn.Sequential(*layers)
        self.dense = nn.Linear(widths[-1] * shape.bands, shape.dimensions)

    def forward(self, frames: Tensor) -> Tensor:
        """The embeddings."""
        maps = self.body(frames.unsqueeze(1))  # (N, C, T / 16, bands)
        # Time before channels, so that what is flattened is one time step: (N, T / 16, C bands).
        steps = maps.transpose(1, 2).flatten(2)
        return F.normalize(self.dense(steps.mean(1)), dim=1)


@final
class _Convolution(nn.Module):
    def __init__(self, before: int, after: int, *, size: int, stride: int) -> None:
        nn.Module.__init__(self)
        # Without bias: the normalization subtracts the mean, and has a shift of its own.
        self.weights = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.norm(self.weights(maps))).clamp(max=CEILING)


@final
class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.first = _Convolution(width, width, size=3, stride=1)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        change = self.norm(self.second(self.first(maps)))
        # Cut off after the sum, not before: the change may be negative.
        return torch.relu(maps + change).clamp(max=CEILING)


@final
@dataclass(frozen=True)
class ResCNN(AbstractSpeakerEncoder):
    """Embeddings by the network in the file `weights`, which `leakscope train speaker` writes.

    The file says how large the network is. Frames need no sound; of recordings the MFCC are taken. Looked at are the
    first 160 frames (3.2 s). Raises `BadInput` when the file is missing, damaged or for another number of coefficients.
    """

    weights: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", os.fspath(self.weights))

    @property
    def citation(self) -> str:
        """Li et al. 2017."""
        return citations.DEEP_SPEAKER

    def version(self) -> str:
        """The repr and a hash of the file."""
        content = _existing(self.weights).read_bytes()
        return f"{self!r} {hashlib.blake2b(content, digest_size=16).hexdigest()}"

    def of_frames(self, utterances: Sequence[Tensor]) -> Tensor:
        """Of the first 160 frames of each."""
        checked(utterances)
        path = _existing(self.weights)
        state = path.stat()
        network, shape = _loaded(str(path), state.st_mtime_ns, state.st_size)
        counts = sorted({frames.shape[1] for frames in utterances})
        if counts != [shape.coefficients]:
            raise BadInput(f"{self.weights} is for {shape.coefficients} coefficients, got {counts}; train another")
        with torch.no_grad():  # one by one: nothing that stands beside an utterance can change its last bit
            return torch.cat([network(prepared(frames)[None]) for frames in utterances]).double()

    def of_sound(self, recordings: Sequence[Tensor]) -> Tensor:
        """Of the MFCC of each recording."""
        return self.of_frames([mfcc(samples.double(), coefficients=COEFFICIENTS) for samples in recordings])


def prepared(frames: Tensor, *, start: int = 0) -> Tensor:
    """(160, F) float32: each frame with mean 0 and variance 1 over its coefficients, 160 of them from `start` on.

    >>> prepared(torch.tensor([[1.0, 3.0]]))[:2].tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    some = frames.detach().float()[start : start + FRAMES]
    # A constant frame, such as one of zeros, becomes zero and not 0 / 0.
    spread = some.std(1, correction=0, keepdim=True).clamp(min=1e-6)
    scaled = (some - some.mean(1, keepdim=True)) / spread
    # Afterwards: padding is zero, the mean of any frame.
    return F.pad(scaled, (0, 0, 0, FRAMES - len(scaled)))


def fresh(shape: Shape, *, key: Key) -> ResCNNNetwork:
    """A network with weights drawn from `key`."""
    with key.child("weights").isolated():
        return ResCNNNetwork(shape)


@final
class EncoderHeader(Header):
    """How large the network in the file is."""

    kind: ClassVar[str] = container.ENCODER
    wanted: ClassVar[str] = "a speaker encoder, as `leakscope train speaker` writes it"

    shape: Shape


def save(network: ResCNNNetwork, shape: Shape, path: str) -> None:
    """Write the weights into the place of `path`, all of them or nothing."""
    arrays, narrow = as_arrays(network.state_dict())
    container.write(Path(path), EncoderHeader(leakscope=VERSION, bfloat16=narrow, shape=shape), arrays)


def _existing(path: str) -> Path:
    place = Path(path)
    if not place.is_file():
        raise BadInput(f"no file {path}; make it with leakscope train speaker --out {path}")
    return place


@functools.lru_cache(maxsize=4)
def _loaded(path: str, modified: int, size: int) -> tuple[ResCNNNetwork, Shape]:
    del modified, size  # a file that was written anew is another one
    try:
        header, arrays = container.read(Path(path), EncoderHeader)
        shape, state = header.shape, as_tensors(arrays, header.bfloat16)
        _check_size(shape, state)
        network = fresh(shape, key=Key(0))
        network.load_state_dict(state)
    except (BadInput, RuntimeError) as error:
        raise BadInput(
            f"{path} holds no speaker encoder ({str(error).splitlines()[0]}); make it with leakscope train speaker"
        ) from error
    # Batch normalization by its running means.
    return network.eval(), shape


def _check_size(shape: Shape, state: Named) -> None:
    """Raises `BadInput` where the header promises another network than the tensors make: it would be built first."""
    wanted = (shape.dimensions, shape.width * 2 ** (STAGES - 1) * shape.bands)
    dense = state.get("dense.weight")
    # each residual block has tensors of its own, so there are fewer blocks than tensors
    if dense is None or tuple(dense.shape) != wanted or shape.blocks > len(state):
        raise BadInput(f"its tensors are not those of {shape}")
