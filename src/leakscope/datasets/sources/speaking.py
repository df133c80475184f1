"""Speech on demand: many synthetic speakers, made by eSpeak NG on this machine, the same in every run."""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leakscope.core.errors import BadInput, optional
from leakscope.datasets.sources.sentences import sentence
from leakscope.datasets.sources.speech import AbstractSpeech, Sex, Utterance
from leakscope.domains.audio import resampled
from leakscope.domains.speech import ENGLISH, RATE, WINDOW
from leakscope.numerics.rng import Key

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-us-nyc")
FEMALE = (
    *("f1", "f2", "f3", "f4", "f5", "Alicia", "Andrea", "Annie", "anika", "aunty", "belinda", "linda"),
    *("steph", "steph2", "steph3", "grandma"),
)
MALE = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Andy", "Denis", "Diogo", "Henrique", "Hugo", "Lee", "Marco"),
    *("antonio", "michel", "miguel", "sandro", "travis", "victor", "adam"),
)
MOST = 2 * len(FEMALE) * len(ACCENTS)
"""How many speakers differ in more than their pitch."""

QUIET = 10 ** (-50 / 20)
"""Leading and trailing sound below -50 dBFS is cut off, in steps of 10 ms."""
NOISE = 10 ** (-70 / 20)
"""Standard deviation of the room: digital silence would give features that no microphone gives."""
FULLEST, EMPTIEST = 1.0, 0.85
"""Which part of the wanted time may be speech."""
LEAST_SECONDS, MOST_SECONDS = 0.8, 40.0
TRIES = 40

# the numbers of espeak_ng/speak_lib.h
_SYNCHRONOUS, _DO_NOT_EXIT, _CHARACTERS, _UTF8 = 2, 0x8000, 1, 1
_SPEED, _PITCH, _RANGE = 1, 3, 4
_SYNTHESIZER = threading.Lock()


@final
@dataclass(frozen=True)
class Voice:
    """A speaker of eSpeak NG: an accent (`en-us`), a variant of the voice (`f2`), and how it speaks.

    speed: words per minute, 80 to 450. pitch, liveliness (the range of the pitch): 0 to 99. Raises `BadInput` outside.
    """

    accent: str
    variant: str
    sex: Sex = Sex.UNKNOWN
    speed: int = 170
    pitch: int = 50
    liveliness: int = 50

    def __post_init__(self) -> None:
        if not 80 <= self.speed <= 450 or not 0 <= self.pitch <= 99 or not 0 <= self.liveliness <= 99:
            raise BadInput(
                "expected a speed of 80 to 450, pitch and liveliness of 0 to 99, "
                f"got {self.speed}, {self.pitch}, {self.liveliness}"
            )

    @property
    def name(self) -> str:
        """Tells the speakers of one corpus apart."""
        return f"{self.accent}+{self.variant}"


@final
@dataclass(frozen=True)
class Spoken(AbstractSpeech):
    """`speakers` x `each` utterances of `shortest` to `longest` seconds, all sentences different.

    Half of the speakers are female (rounded up). A speaker is an accent, a voice and habits of pitch and speed; a
    sentence is made to last 85 to 100 % of a time drawn uniformly from the range. Before and after it is only the noise
    of the room (white, -70 dBFS), so that the utterance lasts as long as drawn to within one sample: with `shortest ==
    longest` all are equally long. 16 bit, 16 kHz. Raises `BadInput` on sizes below 1, more than 224 speakers, or times
    outside 0.8 to 40 s; `MissingExtra` without the extra `speech`.
    """

    speakers: int = 20
    each: int = 5
    shortest: float = 1.0
    longest: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.each < 1 or not 1 <= self.speakers <= MOST:
            raise BadInput(f"expected 1 to {MOST} speakers and each >= 1, got {self.speakers} and {self.each}")
        if not LEAST_SECONDS <= self.shortest <= self.longest <= MOST_SECONDS:
            raise BadInput(
                f"expected {LEAST_SECONDS} <= shortest <= longest <= {MOST_SECONDS} s, "
                f"got {self.shortest} and {self.longest}"
            )
        if self.seed < 0:
            raise BadInput(f"expected seed >= 0, got {self.seed}")

    @property
    def most(self) -> int:
        """As many as were asked for."""
        return self.speakers * self.each

    @property
    def most_private(self) -> int:
        """The larger half: no utterance is said twice alike."""
        return self.speakers * self.each - self.speakers * self.each // 2

    def utterances(self) -> tuple[Utterance, ...]:
        """Speaker after speaker."""
        return tuple(utterance for utterance, _ in _corpus(self))

    def sound(self, position: int) -> Tensor:
        """The samples."""
        return _corpus(self)[position][1].clone()


def voice(number: int, *, key: Key) -> Voice:
    """Speaker `number` (from 0) of a corpus: even ones are female. Raises `BadInput` beyond the last.

    >>> voice(0, key=Key(0)).name, voice(1, key=Key(0)).name
    ('en-us+f1', 'en-us+m1')
    """
    if not 0 <= number < MOST:
        raise BadInput(f"expected a speaker from 0 to {MOST - 1}, got {number}")
    random = key.child("voice", number).numpy()
    female, place = number % 2 == 0, number // 2
    variants = FEMALE if female else MALE
    return Voice(
        # neither 16 nor 22 has a factor in common with 7, so all pairs come up before one comes again
        ACCENTS[place % len(ACCENTS)],
        variants[place % len(variants)],
        Sex.FEMALE if female else Sex.MALE,
        speed=int(random.integers(140, 200)),
        pitch=int(random.integers(35, 65)),
        liveliness=int(random.integers(30, 70)),
    )


def speak(text: str, by: Voice) -> Tensor:
    """`text` as spoken by eSpeak NG, silence at the ends cut off: (N,) float32 at 16 kHz.

    The same in every process. Raises `BadInput` on text outside the alphabet or without a sound, on an unknown voice,
    and where the synthesizer is not repeatable; `MissingExtra` without the extra `speech`.
    """
    ENGLISH.encode(text)
    loader = optional("espeakng_loader", extra="speech", purpose="synthetic speech")
    with _SYNTHESIZER:
        _check_repeatable(loader)
        sound, rate = _synthesized(loader, text, by)
    samples = _trimmed(resampled(sound.astype(np.float64) / 2**15, rate))
    if len(samples) < WINDOW:
        raise BadInput(f"{text!r} gives {len(samples)} samples of sound, less than one frame; say more")
    return samples


@functools.lru_cache(maxsize=8)
def _corpus(source: Spoken) -> tuple[tuple[Utterance, Tensor], ...]:
    key = Key(source.seed).child("spoken")
    used: set[str] = set()
    made = []
    for number in range(source.speakers):
        by = voice(number, key=key)
        for turn in range(source.each):
            purpose = key.child("utterance", number, turn)
            low, high = source.shortest, source.longest
            seconds = low + (high - low) * float(purpose.child("seconds").numpy().random())
            text, samples = _fitted(by, seconds, used, purpose)
            used.add(text)
            sound = _recorded(samples, round(seconds * RATE), purpose.child("room"))
            made.append((Utterance(f"{by.name} {turn}", text, by.name, by.sex), sound))
    return tuple(made)


def _fitted(by: Voice, seconds: float, used: set[str], key: Key) -> tuple[str, Tensor]:
    """A sentence not in `used`, and its sound of 85 to 100 % of `seconds`."""
    wanted = seconds * (EMPTIEST + FULLEST) / 2
    pace = by.speed / 170 * 18.0
    for attempt in range(TRIES):
        text = sentence(max(1, round(wanted * pace)), random=key.child("text", attempt).numpy())
        if text in used:
            continue
        samples = speak(text, by)
        lasted = len(samples) / RATE
        if EMPTIEST * seconds <= lasted <= FULLEST * seconds:
            return text, samples
        pace = 0.5 * (pace + len(text) / lasted)
    raise BadInput(f"found no new sentence of {seconds:.2f} s in {TRIES} tries; ask for fewer or longer utterances")


def _recorded(samples: Tensor, count: int, key: Key) -> Tensor:
    """Speech in the middle of `count` samples of room noise, in 16 bits."""
    room = NOISE * torch.from_numpy(key.numpy().standard_normal(count)).float()
    before = (count - len(samples)) // 2
    speech = torch.nn.functional.pad(samples, (before, count - len(samples) - before))
    return ((speech + room) * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def _trimmed(samples: Tensor) -> Tensor:
    """Without the ends below -50 dBFS (root mean square of 10 ms)."""
    step = RATE // 100
    pieces = samples[: len(samples) // step * step].reshape(-1, step)
    loud = torch.nonzero(pieces.square().mean(1).sqrt() >= QUIET).flatten()
    if len(loud) == 0:
        return samples[:0]
    return samples[int(loud[0]) * step : (int(loud[-1]) + 1) * step]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
Pcm = npt.NDArray[np.int16]


def _synthesized(loader: Any, text: str, by: Voice) -> tuple[Pcm, int]:
    """Sound and its rate, from a copy of the library loaded for this text alone.

    eSpeak NG keeps the state of its oscillators and random numbers from text to text, and resets neither when it is
    initialized again; only a fresh copy makes the sound a function of text and voice.
    """
    data = Path(loader.get_data_path())
    # a variant that does not exist is not an error to eSpeak NG: it would speak with the plain voice of the accent
    if not (data / "voices" / "!v" / by.variant).is_file():
        raise BadInput(f"eSpeak NG has no voice {by.name!r}; use a variant such as f2")
    library = ctypes.CDLL(loader.get_library_path())
    try:
        # synchronous: no thread of the library is left behind that would outlive its code
        rate = int(library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT))
        if rate <= 0:
            raise BadInput("eSpeak NG does not start; reinstall espeakng-loader")
        try:
            sound = _pcm(library, text, by)
        finally:
            library.espeak_Terminate()
    finally:
        _unload(library)
    return sound, rate


def _pcm(library: ctypes.CDLL, text: str, by: Voice) -> Pcm:
    """The sound from a library that was initialized."""
    pieces: list[Pcm] = []

    def keep(sound: Any, count: int, _: Any) -> int:
        if sound and count > 0:
            pieces.append(np.ctypeslib.as_array(sound, (count,)).copy())
        return 0

    callback = _Callback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(by.name.encode()) != 0:
        raise BadInput(f"eSpeak NG has no voice {by.name!r}; use an accent such as en-us")
    for setting, value in ((_SPEED, by.speed), (_PITCH, by.pitch), (_RANGE, by.liveliness)):
        library.espeak_SetParameter(setting, value, 0)
    words = text.encode() + b"\0"
    failed = library.espeak_Synth(words, ctypes.c_size_t(len(words)), 0, _CHARACTERS, 0, _UTF8, None, None)
    if failed:
        raise BadInput(f"eSpeak NG could not speak {text!r} (error {failed}); use other words")
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def _unload(library: ctypes.CDLL) -> None:
    handle = library._handle
    if sys.platform == "win32":
        _ctypes.FreeLibrary(handle)
    else:
        _ctypes.dlclose(handle)


@functools.lru_cache(maxsize=1)
def _check_repeatable(loader: Any) -> None:
    """Some systems keep a library that was unloaded; then the sound would depend on what was said before."""
    by = Voice("en-us", "f2")
    first, _ = _synthesized(loader, "one two", by)
    second, _ = _synthesized(loader, "one two", by)
    if not np.array_equal(first, second):
        raise BadInput("eSpeak NG cannot be reset on this system, so its speech is not repeatable; use recorded speech")
