"""Who spoke, from one gradient: 40 synthetic speakers, one recording of each as enrollment, utterances of 3 seconds.

    python benchmarks/speaker_identity.py [--speakers 40] [--hidden 512] [--folds 5]

For each encoder of voices: how often the speaker is first, among the first five, and the mean reciprocal rank, from the
reconstruction without and with dropout, from the true MFCC on the same path (the ceiling of any attack on frames) and
from the original sound. Enrollment is public, private utterances are others of the same speakers. Every fold enrolls
other recordings; intervals (95 %) redraw utterances with all their folds, Wilson's is of the first fold alone. Takes
about five minutes on one core. Exits with 1 where exact frames do not give the ranks that the true ones give.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import leakscope as ls
from leakscope.attacks.attributes.learning import Course, Recipe, learn
from leakscope.attacks.attributes.rescnn import Shape, save
from leakscope.attacks.attributes.speaker import picked
from leakscope.numerics import intervals
from leakscope.scoring.kinds.attributes import table
from leakscope.scoring.standing import Standing

SHAPE = Shape(width=16, blocks=1, dimensions=128)
RECIPE = Recipe(softmax=300, triplet=150)
DROPOUTS = (0.0, 0.2)
Utterances = list[Tensor]
Encode = Callable[[Sequence[Tensor]], Tensor]


def frames_of(batch: ls.Batch) -> Utterances:
    assert batch.lengths is not None
    return [row[:length] for row, length in zip(batch.inputs, batch.lengths.tolist(), strict=True)]


def one_of_each(source: ls.Spoken) -> tuple[ls.Batch, list[int]]:
    """A private utterance of every speaker that has one, and the speakers."""
    private = source.draw(len(source.load()) - len(source.public()), key=ls.Key(0))
    speakers = private.annotation("speaker").values
    first = [speakers.index(speaker) for speaker in sorted(set(speakers))]
    return private.reveal().rows(torch.tensor(first)), [speakers[place] for place in first]


def recovered(secret: ls.Batch, dropout: float, hidden: int) -> Utterances:
    """What `WindowedFrames` makes of the gradient of each utterance, one client each."""
    found = []
    for place in range(len(secret)):
        one = secret.rows(torch.tensor([place])).trimmed()
        target = ls.DeepSpeech(hidden=hidden).build(ls.Frames(26), 29, key=ls.Key(place))
        mechanism = ls.FedSGD() >> ls.Dropout(dropout) if dropout else ls.FedSGD()
        seen = ls.observe(target, one, mechanism, key=ls.Key(place))
        claim = ls.WindowedFrames().run(seen, key=ls.Key(place)).claim
        found.append(torch.zeros(1, 26) if claim is None else claim.values[0])
    return found


def standings(encode: Encode, utterances: Utterances, enrolled: Utterances, pick: list[list[int]]) -> list[Tensor]:
    """For each fold the cosines (N, G) of the utterances to one enrollment of each speaker."""
    needed = sorted({place for fold in pick for place in fold})
    embedded = dict(zip(needed, encode([enrolled[place] for place in needed]), strict=True))
    own = encode(utterances)
    return [own @ torch.stack([embedded[place] for place in fold]).T for fold in pick]


def line(name: str, scores: list[Tensor], speakers: list[int]) -> tuple[str, list[list[Standing]]]:
    """One row of the table, and where each speaker stands in each fold."""
    where = [[table(fold[at : at + 1], [speaker])[0][0] for fold in scores] for at, speaker in enumerate(speakers)]
    known = [[one for one in folds if one is not None] for folds in where]
    shown = []
    for value in (lambda s: s.within(1), lambda s: s.within(5), lambda s: s.reciprocal()):
        found = intervals.clustered_mean([[value(one) for one in folds] for folds in known])
        shown.append(f"{found.value:5.3f} [{found.low:.3f}, {found.high:.3f}]")
    first = sum(folds[0].within(1) == 1 for folds in known)
    wilson = intervals.wilson(first, len(known))
    shown.append(f"{first:2d} of {len(known)} [{wilson.low:.3f}, {wilson.high:.3f}]")
    return f"  {name:<34}" + "  ".join(shown), known


def trained(public: ls.Batch, members: tuple[int, ...], folder: str) -> ls.ResCNN:
    """The small network, trained on the public half."""
    began = time.perf_counter()
    learned = learn(Course(tuple(frames_of(public)), members, SHAPE, RECIPE))
    path = str(Path(folder) / "speakers.safetensors")
    save(learned.network, SHAPE, path)
    print(f"trained {SHAPE} in {time.perf_counter() - began:.0f} s; it names {100 * learned.accuracy:.0f} % of the")
    print(f"{len(members)} public utterances that it has seen\n")
    return ls.ResCNN(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--speakers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--folds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    source = ls.Spoken(speakers=asked.speakers, each=12, shortest=3.0, longest=3.0)
    public, (members, *_) = source.public(), source.public_annotations()
    secret, speakers = one_of_each(source)
    own = [[p for p, member in enumerate(members.values) if member == g] for g in range(asked.speakers)]
    if not all(own) or len(speakers) < asked.speakers:
        raise SystemExit("a speaker has no public or no private utterance; ask for another number of speakers")
    pick = [[picked(places, 1, fold)[0] for places in own] for fold in range(asked.folds)]
    count, harmonic = asked.speakers, sum(1 / rank for rank in range(1, asked.speakers + 1))
    print(f"{source!r}: {len(public)} public utterances, {len(speakers)} private ones looked at")
    print(f"chance: top-1 {1 / count:.3f}, top-5 {min(1, 5 / count):.3f}, reciprocal rank {harmonic / count:.3f}\n")
    true = frames_of(secret)
    found = {dropout: recovered(secret, dropout, asked.hidden) for dropout in DROPOUTS}
    for dropout, utterances in found.items():
        same = [one.shape == other.shape for one, other in zip(utterances, true, strict=True)]
        errors = [float((a - b).abs().mean()) for a, b, fits in zip(utterances, true, same, strict=True) if fits]
        worst = f"worst mean absolute error {max(errors):.1e}" if errors else "nothing of the right length"
        print(f"dropout {dropout:g}: {sum(same)} of {len(true)} recovered, {worst}")
    sounds = [source.sound(place) for place in source.positions(secret)]
    enrolled_sounds = [source.sound(place) for place in source.positions(public)]
    with tempfile.TemporaryDirectory() as folder:
        encoders = (ls.Resemblyzer(), trained(public, members.values, folder), ls.CepstralMoments())
        heading = "top-1 [95 %]          top-5                 reciprocal rank       top-1, first fold (Wilson)"
        agree = True
        for encoder in encoders:
            print(f"{type(encoder).__name__:<36}{heading}")
            ceiling, at = line(
                "true MFCC, same path", standings(encoder.of_frames, true, frames_of(public), pick), speakers
            )
            for dropout, utterances in found.items():
                scores = standings(encoder.of_frames, utterances, frames_of(public), pick)
                said, here = line(f"reconstruction, dropout {dropout:g}", scores, speakers)
                agree &= here == at
                print(said)
            print(ceiling)
            print(line("original sound", standings(encoder.of_sound, sounds, enrolled_sounds, pick), speakers)[0])
            print(flush=True)
    print("ranks from the reconstruction and from the true MFCC", "agree" if agree else "DIFFER")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
