"""The feature sets of openSMILE: statistics of pitch, energy and spectrum over one recording (extra "emotion")."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from leakscope.core.arguments import member
from leakscope.core.errors import BadInput, optional
from leakscope.datasets.emotion.corpus import AbstractCorpus
from leakscope.datasets.emotion.features import AbstractFeatures
from leakscope.domains.speech import RATE
from leakscope.ledger import container
from leakscope.version import VERSION


@final
class FeatureSet(enum.Enum):
    """By the name that openSMILE gives it: emobase (988), eGeMAPSv02 (88), ComParE_2016 (6373).

    >>> FeatureSet("emobase"), FeatureSet.COMPARE.size
    (FeatureSet.EMOBASE, 6373)
    """

    EMOBASE = "emobase"
    EGEMAPS = "eGeMAPSv02"
    COMPARE = "ComParE_2016"

    def __repr__(self) -> str:
        return f"FeatureSet.{self.name}"

    @property
    def size(self) -> int:
        """The functionals of one recording."""
        return {FeatureSet.EMOBASE: 988, FeatureSet.EGEMAPS: 88, FeatureSet.COMPARE: 6373}[self]


class FeaturesHeader(container.Header):
    """A vector that was computed of one recording. features: by what, with its version."""

    kind: ClassVar[str] = "features"
    wanted: ClassVar[str] = "features of a recording, as OpenSmile keeps them"

    features: str


@final
@dataclass(frozen=True)
class OpenSmile(AbstractFeatures):
    """The functionals of a `FeatureSet` over the whole recording (Eyben et al. 2010, doi:10.1145/1873951.1874246).

    cache: a folder that keeps each vector under a hash of feature set, openSMILE's version and samples, so that what
    was computed once is read; empty for none. A damaged file in it is computed anew. Raises `BadInput`, naming the
    recording, where a value is not finite; `MissingExtra` without the extra `emotion`.

    >>> OpenSmile().size, OpenSmile("eGeMAPSv02")
    (988, OpenSmile(kind=FeatureSet.EGEMAPS, cache=''))
    """

    kind: FeatureSet = FeatureSet.EMOBASE
    cache: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", member("kind", self.kind, FeatureSet))
        object.__setattr__(self, "cache", os.fspath(self.cache))

    @property
    def size(self) -> int:
        """Of the feature set."""
        return self.kind.size

    def of(self, corpus: AbstractCorpus, positions: Sequence[int]) -> Tensor:
        """Computed, or read from the cache."""
        known = corpus.recordings()
        rows = []
        for place in positions:
            try:
                rows.append(torch.from_numpy(self._vector(corpus.sound(place))))
            except _NotFinite as error:
                raise BadInput(
                    f"openSMILE gives {known[place].name} of {known[place].corpus} {error} of {self.size} features "
                    "that are not finite; leave it out with skip, or take another feature set"
                ) from None
        return torch.stack(rows)

    def _vector(self, samples: Tensor) -> Any:
        package = optional("opensmile", extra="emotion", purpose="computing features of speech")
        by = f"{self.kind.value} {package.__version__}"
        if not self.cache:
            return _computed(samples, self.kind)
        name = hashlib.blake2b(by.encode() + samples.numpy().tobytes(), digest_size=16).hexdigest()
        path = Path(self.cache) / self.kind.value / f"{name}.safetensors"
        kept = _kept(path, by, self.size)
        if kept is None:
            kept = _computed(samples, self.kind)
            container.write(path, FeaturesHeader(leakscope=VERSION, features=by), {"values": kept})
        return kept


class _NotFinite(Exception):
    """How many features are not finite."""


def _kept(path: Path, by: str, size: int) -> Any:
    """The vector in the cache; None where there is none, or one that cannot be used."""
    if not path.is_file():
        return None
    try:
        header, arrays = container.read(path, FeaturesHeader)
    except BadInput:
        return None  # a cache: what is in it can be made anew
    values = arrays.get("values")
    if header.features != by or values is None or values.shape != (size,) or values.dtype != np.float32:
        return None
    return values.copy()


def _computed(samples: Tensor, kind: FeatureSet) -> Any:
    """(size,) float32."""
    found = _extractor(kind)(samples.numpy(), RATE)
    values = np.asarray(found, dtype=np.float32).reshape(-1)
    if values.shape != (kind.size,):
        raise BadInput(
            f"openSMILE gives {len(values)} features of {kind.value}, expected {kind.size}; install 2.5 or later"
        )
    strange = int((~np.isfinite(values)).sum())
    if strange:
        raise _NotFinite(strange)
    return values


@functools.lru_cache(maxsize=3)
def _extractor(kind: FeatureSet) -> Any:
    package = optional("opensmile", extra="emotion", purpose="computing features of speech")
    return package.Smile(
        feature_set=getattr(package.FeatureSet, kind.value),
        feature_level=package.FeatureLevel.Functionals,
        num_workers=1,  # more would be threads beside those of the audit
    )
