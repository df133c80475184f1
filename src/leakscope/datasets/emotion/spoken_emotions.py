"""Emotional speech on demand: synthetic speakers whose pitch, pace and loudness follow it, in three corpora."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.signal import butter, fftconvolve, sosfilt
from torch import Tensor

from leakscope.core.arguments import count, member
from leakscope.datasets.emotion.corpus import AbstractCorpus, Emotion, Recording
from leakscope.datasets.sources.sentences import sentence
from leakscope.datasets.sources.speaking import FEMALE, MALE, Voice, speak
from leakscope.datasets.sources.speech import Sex
from leakscope.domains.audio import Samples
from leakscope.domains.speech import RATE
from leakscope.numerics.rng import Key

MOST = 4 * len(FEMALE)
"""How many speakers of one corpus differ in voice or accent."""
MOST_EACH = 1000
"""Recordings of a speaker in one emotion: an hour of it."""
SHORTEST, LONGEST = 18, 40
"""Letters of a sentence: one to two and a half seconds."""
REVERBERATION = 0.3
"""Seconds in which the sound of the room falls by 60 dB."""


@final
@dataclass(frozen=True)
class Prosody:
    """How an emotion changes a voice: factor of the pace, steps of pitch and of its range (0 to 99), loudness in dB."""

    pace: float
    pitch: float
    liveliness: float
    loudness: float


PROSODY = {
    Emotion.NEUTRAL: Prosody(1.0, 0.0, 0.0, 0.0),
    Emotion.HAPPY: Prosody(1.08, 12.0, 25.0, 2.0),
    Emotion.SAD: Prosody(0.8, -10.0, -25.0, -5.0),
    Emotion.ANGRY: Prosody(1.15, 5.0, 10.0, 6.0),
}
SPREAD = Prosody(0.06, 4.0, 10.0, 1.5)
"""Standard deviations from recording to recording: emotions overlap, as those of people do."""


@final
class Style(enum.Enum):
    """Which of the three corpora: their accents, voices, sound and strength of expression differ.

    STUDIO: American, clean. TELEPHONE: English and Scottish, 300 to 3400 Hz, noise at -45 dBFS, restrained. ROOM:
    Caribbean and southern English, reverberant, noise at -55 dBFS, exaggerated.

    >>> Style("studio")
    Style.STUDIO
    """

    STUDIO = "studio"
    TELEPHONE = "telephone"
    ROOM = "room"

    def __repr__(self) -> str:
        return f"Style.{self.name}"


@final
@dataclass(frozen=True)
class _Sound:
    """accents; the place of the first voice in the lists; noise in dBFS; the factor on prosody."""

    accents: tuple[str, str]
    first: int
    noise: float
    strength: float


_SOUNDS = {
    Style.STUDIO: _Sound(("en-us", "en-us-nyc"), 0, -70.0, 1.0),
    Style.TELEPHONE: _Sound(("en", "en-gb-scotland"), 5, -45.0, 0.7),
    Style.ROOM: _Sound(("en-gb-x-rp", "en-029"), 10, -55.0, 1.3),
}


@final
@dataclass(frozen=True)
class SpokenEmotions(AbstractCorpus):
    """`speakers` x `each` recordings of four emotions (neutral, happy, sad, angry), spoken by eSpeak NG in one `Style`.

    Half of the speakers are female (rounded up). No two recordings say the same on purpose: a sentence is drawn for
    each. Emotion is in pace, pitch, its range and loudness alone, with noise on all four. 16 bit, 16 kHz.
    Raises `BadInput` on fewer than 1 or more than 64 speakers, and on each < 1 or > 1000; `MissingExtra` without the
    extra `emotion`.

    >>> SpokenEmotions(speakers=4, each=1)
    SpokenEmotions(style=Style.STUDIO, speakers=4, each=1, seed=0)
    """

    style: Style = Style.STUDIO
    speakers: int = 12
    each: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "style", member("style", self.style, Style))
        count("speakers", self.speakers, high=MOST)
        count("each", self.each, high=MOST_EACH)
        count("seed", self.seed, low=0)

    def recordings(self) -> tuple[Recording, ...]:
        """Speaker after speaker, each emotion `each` times."""
        return _listed(self)

    def sound(self, position: int) -> Tensor:
        """The samples."""
        return _spoken(self)[position].clone()


@functools.lru_cache(maxsize=8)
def _listed(source: SpokenEmotions) -> tuple[Recording, ...]:
    made = []
    for number in range(source.speakers):
        by = _voice(source, number)
        for emotion in PROSODY:
            for turn in range(source.each):
                name = f"{by.name} {emotion.value} {turn}"
                made.append(Recording(name, emotion, by.name, by.sex, f"spoken {source.style.value}"))
    return tuple(made)


def _voice(source: SpokenEmotions, number: int) -> Voice:
    """Speaker `number`: even ones are female; habits of pace and pitch are drawn."""
    sound = _SOUNDS[source.style]
    random = _key(source).child("voice", number).numpy()
    female, place = number % 2 == 0, number // 2
    variants = FEMALE if female else MALE
    # Both lists are of even length: the second time around, each voice meets the other accent.
    accent = sound.accents[(place + place // len(variants)) % 2]
    return Voice(
        accent,
        variants[(sound.first + place) % len(variants)],
        Sex.FEMALE if female else Sex.MALE,
        speed=int(random.integers(150, 190)),
        pitch=int(random.integers(35, 60)),
        liveliness=int(random.integers(35, 60)),
    )


@functools.lru_cache(maxsize=4)
def _spoken(source: SpokenEmotions) -> tuple[Tensor, ...]:
    made = []
    place = 0
    for number in range(source.speakers):
        by = _voice(source, number)
        for prosody in PROSODY.values():
            for _ in range(source.each):
                made.append(_recorded(source.style, by, prosody, _key(source).child("recording", place)))
                place += 1
    return tuple(made)


def _key(source: SpokenEmotions) -> Key:
    return Key(source.seed).child("spoken emotions", source.style.value)


def _recorded(style: Style, by: Voice, prosody: Prosody, key: Key) -> Tensor:
    """One sentence, through the corpus's microphone."""
    sound, random = _SOUNDS[style], key.child("prosody").numpy()
    pace, pitch, liveliness, loudness = random.standard_normal(4)
    spoken = dataclasses.replace(
        by,
        speed=_legal(by.speed * (1 + sound.strength * (prosody.pace - 1) + SPREAD.pace * pace), 80, 450),
        pitch=_legal(by.pitch + sound.strength * prosody.pitch + SPREAD.pitch * pitch, 0, 99),
        liveliness=_legal(by.liveliness + sound.strength * prosody.liveliness + SPREAD.liveliness * liveliness, 0, 99),
    )
    letters = int(random.integers(SHORTEST, LONGEST + 1))
    clean = speak(sentence(letters, random=key.child("text").numpy()), spoken).double().numpy()
    # From -12 dB, so that the loudest do not clip.
    gain = 10 ** ((sound.strength * prosody.loudness + SPREAD.loudness * loudness - 12) / 20)
    room = key.child("room").numpy()
    heard = _heard(clean * gain, style, room) + 10 ** (sound.noise / 20) * room.standard_normal(len(clean))
    samples = torch.from_numpy(heard).float()
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def _heard(clean: Samples, style: Style, random: np.random.Generator) -> Samples:
    """What arrives at the microphone, of the same length."""
    if style is Style.TELEPHONE:
        band = butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")
        return np.asarray(sosfilt(band, clean))
    if style is Style.ROOM:
        time = np.arange(round(REVERBERATION * RATE)) / RATE
        echoes = random.standard_normal(len(time)) * np.exp(-3 * math.log(10) * time / REVERBERATION)
        echoes *= 0.5 / np.linalg.norm(echoes)
        echoes[0] += 1.0
        return np.asarray(fftconvolve(clean, echoes)[: len(clean)])
    return clean


def _legal(value: float, low: int, high: int) -> int:
    return min(max(round(value), low), high)
