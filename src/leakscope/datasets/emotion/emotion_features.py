"""Emotional speech as a data set: a feature vector for each recording, its emotion as the label, its speaker beside."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.arguments import instance, member
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, UnknownName
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.emotion.corpus import AbstractCorpus, Emotion, Recording
from leakscope.datasets.emotion.features import AbstractFeatures
from leakscope.datasets.emotion.normalization import Normalization, limits, normalized
from leakscope.datasets.emotion.opensmile import OpenSmile
from leakscope.datasets.sources.speech import Sex
from leakscope.domains.vectors import Vectors

FOUR = (Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD, Emotion.ANGRY)
"""What recognizers of emotion are most often trained on."""


@final
@dataclass(frozen=True)
class EmotionFeatures(AbstractSource):
    """inputs (N, d): the normalized features of each recording of `corpus` in one of `emotions`, the classes.

    speakers: only these, by name; all where empty. Statistics of the normalization are of the recordings that are taken
    and no others. Annotations: `speaker`, `sex` (where the corpus tells it of all) and, of several corpora, `corpus`.
    All recordings of a speaker are on the same side of the split into public and private.
    Raises `BadInput` on an unknown speaker, on fewer than two or repeated emotions, on an emotion that none of the
    recordings has, and as corpus and features do.

    >>> from leakscope.datasets.emotion.spoken_emotions import SpokenEmotions
    >>> EmotionFeatures(SpokenEmotions(speakers=4, each=2)).domain  # eight recordings of each speaker
    Vectors(size=988, low=-3.0, high=3.0)
    """

    corpus: AbstractCorpus
    features: AbstractFeatures = field(default_factory=OpenSmile)
    normalization: Normalization = Normalization.SPEAKER
    emotions: tuple[Emotion, ...] = FOUR
    speakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        instance("corpus", self.corpus, AbstractCorpus, 'write for example Ravdess("RAVDESS")')
        instance("features", self.features, AbstractFeatures, "write for example OpenSmile()")
        object.__setattr__(self, "normalization", member("normalization", self.normalization, Normalization))
        instance("emotions", self.emotions, tuple, 'write for example (Emotion("happy"), Emotion("sad"))')
        named = tuple(member("each of the emotions", one, Emotion) for one in self.emotions)
        object.__setattr__(self, "emotions", named)
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise BadInput(f"expected at least two different emotions, got {self.emotions}")
        instance("speakers", self.speakers, tuple, 'write for example ("01", "02")')

    @property
    def domain(self) -> Vectors:
        """Vectors as long as there are features, in the range that normalization leaves."""
        taken = self.recordings()
        ends = limits(self.normalization, speakers=_said(taken, "speaker"), corpora=_said(taken, "corpus"))
        return Vectors(self.features.size, *ends)

    @property
    def classes(self) -> int:
        """The number of emotions."""
        return len(self.emotions)

    def load(self) -> Batch:
        """All recordings that are taken, in the order of the corpus."""
        return _loaded(self)[0]

    def annotations(self) -> tuple[Annotation, ...]:
        """Who speaks, of which sex, in which corpus."""
        return _loaded(self)[1]

    @property
    def told(self) -> tuple[str, ...]:
        """The names of the annotations, without a feature being computed."""
        taken = self.recordings()
        sex = all(one.sex is not Sex.UNKNOWN for one in taken)
        several = len({one.corpus for one in taken}) > 1
        return ("speaker", *(("sex",) if sex else ()), *(("corpus",) if several else ()))

    def owners(self) -> tuple[int, ...]:
        """The speaker of each recording."""
        return self.annotations()[0].values

    def recordings(self) -> tuple[Recording, ...]:
        """What is known of each example, in the order of `load`."""
        known = self.corpus.recordings()
        return tuple(known[place] for place in _taken(self))


@functools.lru_cache(maxsize=8)
def _loaded(source: EmotionFeatures) -> tuple[Batch, tuple[Annotation, ...]]:
    taken = source.recordings()
    everybody = _vectors(source.corpus, source.features, source.emotions)
    values = torch.stack([everybody[place] for place in _taken(source)])
    names = _said(taken, "speaker")
    inputs = normalized(values, source.normalization, speakers=names, corpora=_said(taken, "corpus"))
    labels = torch.tensor([source.emotions.index(one.emotion) for one in taken])
    said = {"speaker": names, "sex": [one.sex.value for one in taken], "corpus": _said(taken, "corpus")}
    return Batch(inputs, labels).checked(), tuple(_annotation(name, said[name]) for name in source.told)


@functools.lru_cache(maxsize=8)
def _vectors(corpus: AbstractCorpus, features: AbstractFeatures, emotions: tuple[Emotion, ...]) -> dict[int, Tensor]:
    """By position in the corpus, of all speakers: the halves of an experiment are computed once."""
    positions = [place for place, one in enumerate(corpus.recordings()) if one.emotion in emotions]
    return dict(zip(positions, features.of(corpus, positions), strict=True)) if positions else {}


def _taken(source: EmotionFeatures) -> list[int]:
    known = source.corpus.recordings()
    everybody = sorted({one.speaker for one in known})
    for name in source.speakers:
        if name not in everybody:
            raise UnknownName(f"speaker of {source.corpus!r}", str(name), everybody)
    taken = [
        place
        for place, one in enumerate(known)
        if one.emotion in source.emotions and (not source.speakers or one.speaker in source.speakers)
    ]
    there = {known[place].emotion for place in taken}
    lacking = [one.value for one in source.emotions if one not in there]
    if lacking:
        raise BadInput(
            f"no recording of {source.corpus!r} that is taken is {lacking[0]}; give other emotions or speakers"
        )
    return taken


def _said(taken: tuple[Recording, ...], what: str) -> list[str]:
    return [getattr(one, what) for one in taken]


def _annotation(name: str, said: list[str]) -> Annotation:
    categories = tuple(sorted(set(said)))
    place = {one: at for at, one in enumerate(categories)}
    return Annotation(name, tuple(place[one] for one in said), categories)
