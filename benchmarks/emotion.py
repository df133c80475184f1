"""Emotional speech: what true features say of a speaker, what comes back of a gradient, and what updates say.

    python benchmarks/emotion.py [--quick] [--data DIR] [--seed 0] [--cache DIR] [--part NAME] [--figure FILE]

A line for each point of what is expected and what was measured; exit code 1 below expectation. Without --data the
embedded corpus speaks; with it DIR is a folder of RAVDESS or EmoDB in its published layout. --cache keeps the features
for the next run. --quick takes fewer speakers and rounds, on two cores; what it expects is what so few can show.

"data": emobase features of half of the speakers teach a linear classifier, those of the other half are judged, and the
other way round. UAR is the mean over both directions; of speakers, by the mean score of their recordings, with the 95 %
interval of a bootstrap over speakers. What is judged are true features: the ceiling of attacks on single vectors.
"exact", "limits": `LowRank` on the gradients of one speaker's recordings, and how far it goes (`emotion_exact.py`).
"attack", "linkage", "counts", "network": a federation of speakers, attacked (`emotion_attacks.py`). "network" trains
the published network, for minutes, and is run only by name.
"planted", "privacy": worlds without a leak, and user-level noise, with a figure (`emotion_worlds.py`).
"rounds": how fast a federation of speakers is played, and what its store takes (`emotion_rounds.py`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import emotion_attacks
import emotion_exact
import emotion_rounds
import emotion_worlds
import numpy as np
import torch
from emotion_exact import STRENGTH
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

import leakscope as ls

DRAWS = 2000
PARTS = ("data", "exact", "limits", "attack", "planted", "linkage", "counts", "privacy", "rounds", "network")
SLOW = ("network",)
"""Run by name alone."""
LONGEST = ("attack", "rounds", "planted", "exact", "privacy", "data", "limits", "linkage", "counts", "network")
"""The order in which parts are begun side by side."""
AT_LENGTH = ("limits", "linkage", "counts")
"""Left out by --quick."""


@dataclass(frozen=True)
class Given:
    """What is measured: the embedded corpus unless `data`. cache: a folder for features, figure: for the figure."""

    quick: bool
    seed: int
    data: str
    cache: str
    figure: str

    def corpus(self) -> ls.AbstractCorpus:
        """Quick: 24 speakers of 20 recordings each."""
        if self.data:
            return published(self.data)
        return ls.SpokenEmotions(speakers=24 if self.quick else 32, each=5, seed=self.seed)

    def crowd(self) -> ls.AbstractCorpus:
        """Who excludes a small leak needs many speakers."""
        if self.data or self.quick:
            return self.corpus()
        return ls.SpokenEmotions(speakers=64, each=4, seed=self.seed)

    def features(self) -> ls.OpenSmile:
        """Emobase."""
        return ls.OpenSmile(cache=self.cache)


def main() -> int:
    """Run the parts, print their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="", help="a folder of RAVDESS or EmoDB")
    parser.add_argument("--cache", default="", help="a folder for features")
    parser.add_argument("--part", choices=PARTS, help="all but the last by default")
    parser.add_argument("--figure", default="", help="where the figure of privacy is drawn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    left_out = SLOW + (AT_LENGTH if args.quick else ())
    wanted = (args.part,) if args.part else tuple(name for name in PARTS if name not in left_out)
    with tempfile.TemporaryDirectory() as folder:
        given = Given(args.quick, args.seed, args.data, args.cache or (folder if args.quick else ""), args.figure)
        found = side_by_side(given, wanted) if args.quick and not args.part else in_turn(given, wanted)
        good = True
        for line, fine in found:
            print(line, flush=True)
            good &= fine
    return 0 if good else 1


def in_turn(given: Given, names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Lines of all parts, each as soon as it is known."""
    for name in names:
        begun = time.process_time()
        for line, fine in parts(given)[name]():
            yield ("ok    " if fine else "BELOW ") + line, fine
        yield f"      {name}: {time.process_time() - begun:.0f} s of one core", True


def side_by_side(given: Given, names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The same on two cores: first the features, half by each, then one part after the other as a core is free."""
    # Before NumPy is loaded there: two processes with a thread per core of its linear algebra took twice as long.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # spawned: a copy of a process that has run torch may hang
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(known, [(given, side) for side in (0, 1)])
        # the longest first, printed in their order
        begun = {name: pool.apply_async(measured, (given, name)) for name in sorted(names, key=LONGEST.index)}
        for name in names:
            yield from begun[name].get()


def known(given: Given, side: int) -> None:
    """Every other recording's features into the cache."""
    torch.set_num_threads(1)
    corpus = given.corpus()
    given.features().of(corpus, range(side, len(corpus.recordings()), 2))


def measured(given: Given, name: str) -> list[tuple[str, bool]]:
    """All lines of one part."""
    torch.set_num_threads(1)
    return list(in_turn(given, (name,)))


def parts(run: Given) -> dict[str, Callable[[], Iterator[tuple[str, bool]]]]:
    """By name; nothing is computed before a line is asked for."""
    given, features, quick, seed = run.corpus(), run.features(), run.quick, run.seed
    halves = emotion_attacks.halves(given)
    noises = (float("inf"), 1.0) if quick else emotion_worlds.EPSILONS
    length, counts = (20, (8, 20)) if quick else (60, emotion_exact.COUNTS)
    return {
        "data": lambda: said_by_features(given, features, seed),
        "exact": lambda: emotion_exact.recovered(
            given, features, halves, each=1 if quick else 13, seed=seed, counts=counts
        ),
        "limits": lambda: emotion_exact.limits(given, features, halves[1], each=2 if quick else 4, seed=seed),
        "attack": lambda: emotion_attacks.attacked(given, features, seed, quick=quick),
        "planted": lambda: emotion_worlds.planted(run.crowd(), features, seed, worlds=20, quick=quick),
        "linkage": lambda: emotion_attacks.linked(given, features, seed),
        "counts": lambda: emotion_attacks.counted(given, features, seed, each=2 if quick else 10),
        "privacy": lambda: emotion_worlds.hidden(given, features, seed, rounds=length, epsilons=noises, out=run.figure),
        "rounds": lambda: emotion_rounds.rounds(given, features, quick, seed),
        "network": lambda: emotion_attacks.networks(given, features, seed, epochs=(1, 2, 10) if quick else (2, 6, 30)),
    }


def published(folder: str) -> ls.AbstractCorpus:
    """RAVDESS where there are folders of actors, else EmoDB."""
    return ls.Ravdess(folder) if next(Path(folder).rglob("Actor_*"), None) else ls.EmoDB(folder)


def said_by_features(given: ls.AbstractCorpus, features: ls.OpenSmile, seed: int) -> Iterator[tuple[str, bool]]:
    """Sex and emotion by normalization."""
    by_sex: dict[str, list[str]] = {}
    for one in given.recordings():
        by_sex.setdefault(one.sex.value, []).append(one.speaker)
    # Of each sex every other speaker: both halves have both.
    names = [sorted(set(own)) for own in by_sex.values()]
    halves = [tuple(name for own in names for name in own[side::2]) for side in (0, 1)]
    for how in ls.Normalization:
        parts = [ls.EmotionFeatures(given, features, how, speakers=half) for half in halves]
        found = [directed(*pair) for pair in (parts, parts[::-1])]
        sex, emotion = (float(np.mean([one[at] for one in found])) for at in (0, 1))
        speakers = np.concatenate([one[2] for one in found])
        uar, low, high = by_speaker(speakers, seed)
        line = (
            f"true features, normalized per {how.value}: sex UAR {sex:.3f} per recording, {uar:.3f} "
            f"({low:.3f} to {high:.3f}) of {len(speakers)} speakers; emotion UAR {emotion:.3f}, chance 0.25"
        )
        if how is ls.Normalization.SPEAKER:
            # No linear classifier tells sexes of which every speaker has mean zero; see docs/emotion.md.
            yield f"{line}; expected sex at 0.5 +- 0.05, emotion > 0.4", abs(sex - 0.5) <= 0.05 and emotion > 0.4
        else:
            wanted = 0.9 if how is ls.Normalization.CORPUS else 0.75
            yield f"{line}; expected sex of speakers >= {wanted}, emotion > 0.35", uar >= wanted and emotion > 0.35


def directed(public: ls.EmotionFeatures, private: ls.EmotionFeatures) -> tuple[float, float, np.ndarray]:
    """UAR of sex and of emotion per recording, and of each private speaker (sex, whether it is named right)."""
    (rows, feelings, sexes, _), (own, true, own_sex, who) = plain(public), plain(private)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    emotion = recall_score(true, model.fit(rows, feelings).predict(own), average="macro")
    model.fit(rows, sexes)
    sex = recall_score(own_sex, model.predict(own), average="macro")
    score = model.decision_function(own)
    speakers = [(own_sex[who == one][0], (score[who == one].mean() > 0) == own_sex[who == one][0]) for one in set(who)]
    return float(sex), float(emotion), np.array(speakers, dtype=int)


def plain(source: ls.EmotionFeatures) -> tuple[np.ndarray, ...]:
    """Features, emotion, sex and speaker of each recording."""
    batch, known = source.load(), {one.name: np.array(one.values) for one in source.annotations()}
    return batch.inputs.numpy(), batch.labels.numpy(), known["sex"], known["speaker"]


def by_speaker(speakers: np.ndarray, seed: int) -> tuple[float, float, float]:
    """UAR over speakers (sex, right), and its interval: speakers of each sex are drawn again."""
    random, own = np.random.default_rng(seed), [speakers[speakers[:, 0] == sex, 1] for sex in (0, 1)]
    drawn = [np.mean([random.choice(one, len(one)).mean() for one in own]) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(np.mean([one.mean() for one in own])), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
