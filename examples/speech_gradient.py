"""One gradient of a speech recognizer: the frames, the words and the sound of the utterance behind it.

Run it with `python examples/speech_gradient.py [FOLDER]`. The speaker is synthetic (eSpeak NG, the extra `speech`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import leakscope as ls
from leakscope.domains.speech import ENGLISH, RATE, to_sound
from leakscope.report.media import wav


def main(folder: Path) -> None:
    """The secret is used to make the gradient and to score, never by the attacks."""
    speech = ls.Spoken(speakers=1, each=4, shortest=1.0, longest=1.5)
    target = ls.DeepSpeech(hidden=256).build(speech.domain, speech.classes, key=ls.Key(0))
    batch = speech.draw(1, key=ls.Key(1)).reveal()
    seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(2))  # nothing is told: no length, no transcript

    frames = ls.WindowedFrames().run(seen, key=ls.Key(3))
    print("frames:", frames.sentence)
    words = ls.CtcTranscript().run(seen, key=ls.Key(4))
    print("words:", words.sentence)
    for attempt in (frames, words):
        if attempt.claim is not None:
            print(ls.score(attempt.claim, batch, domain=speech.domain))

    if words.claim is not None and batch.label_lengths is not None:
        print("said:   ", ENGLISH.decode(batch.labels[0, : int(batch.label_lengths[0])].tolist()))
        print("claimed:", ENGLISH.decode(words.claim.labels[0]))
    if frames.claim is not None and frames.claim.lengths is not None:
        sound = to_sound(frames.claim.values[0, : int(frames.claim.lengths[0])], key=ls.Key(5))
        path = folder / "recovered.wav"
        path.write_bytes(wav(sound.numpy(), RATE))
        print("sound:", path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
