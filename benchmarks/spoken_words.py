"""What the output layer of a recognizer with a decoder gives away: `SpokenWords`, nothing told, on synthetic speech.

    python benchmarks/spoken_words.py [--quick] [--seed 0]

A line for each point, expected and measured with 95 % intervals (Clopper-Pearson); exit code 1 below expectation.
Utterances of up to 50 characters in word pieces, of which the model has seen none; p is the probability that it gives
their pieces. A bag is all pieces of a batch with their counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest

import leakscope as ls
from leakscope.targets.spelling import SPACE, NextPiece


@dataclass(frozen=True)
class Point:
    """One line: what is expected of a share, and how often it was so."""

    name: str
    least: float
    good: int
    of: int
    also: str = ""

    def show(self) -> bool:
        """Prints it; whether it is as expected."""
        inside = binomtest(self.good, self.of).proportion_ci()
        ok = self.good >= self.least * self.of - 1e-9
        print(
            f"{self.name:64} expected >= {self.least:.2f}  measured {self.good / self.of:.3f} "
            f"[{inside.low:.3f}, {inside.high:.3f}] of {self.of}  {self.also}{'' if ok else '   BELOW'}",
            flush=True,
        )
        return ok


@dataclass(frozen=True)
class Scale:
    """How much of it is done. epochs: of training, with the share of transcripts that is expected after it."""

    source: ls.Spoken
    utterances: int
    epochs: tuple[tuple[int, float], ...]
    batches: tuple[tuple[int, int], ...]


def scale(seed: int, quick: bool) -> Scale:
    """Untrained, partly trained and trained; batches as (utterances, how many)."""
    if quick:
        source = ls.Spoken(speakers=8, each=8, shortest=1.4, longest=2.4, seed=seed)
        return Scale(source, 20, ((0, 0.9), (20, 0.8)), ((2, 4),))
    source = ls.Spoken(speakers=20, each=30, shortest=1.4, longest=2.4, seed=seed)
    return Scale(source, 100, ((0, 0.9), (12, 0.8), (24, 0.8), (60, 0.5)), ((2, 20), (4, 15), (8, 8)))


def pieces(target: ls.Target, said: tuple[tuple[int, ...], ...]) -> Counter[int]:
    """All pieces of these transcripts."""
    assert isinstance(target.loss, NextPiece)
    found: Counter[int] = Counter()
    for one in said:
        outputs, count = target.loss.spelling.of(torch.tensor([one], dtype=torch.int64), torch.tensor([len(one)]))
        found.update(outputs[0, : int(count)].tolist())
    return found


def sure(target: ls.Target, batch: ls.Batch) -> float:
    """The mean probability of the pieces of a batch of one."""
    assert isinstance(target.loss, NextPiece)
    with torch.no_grad():
        shares = target.outputs(target.parameters(), batch).softmax(2)
    said, count = target.loss.spelling.of(batch.labels, batch.label_lengths)
    asked = torch.cat([said, torch.full_like(said[:, :1], target.loss.spelling.end)], 1)
    return float(shares.gather(2, asked[..., None])[0, : int(count) + 1].mean())


def measured(
    target: ls.Target, batches: list[ls.Batch], name: str, least: tuple[float, float], seed: int
) -> Iterator[Point]:
    """Bags and transcripts of some batches, and that nothing false is proved."""
    bags, texts, wrong, proofs, seconds, notes = 0, 0, 0, 0, [], Counter[str]()
    for turn, batch in enumerate(batches):
        seen = ls.observe(target, batch, ls.FedSGD(), key=ls.Key(seed))
        start = time.process_time()
        attempt = ls.SpokenWords().run(seen, key=ls.Key(seed).child(turn))
        seconds.append(time.process_time() - start)
        claimed = () if attempt.claim is None else attempt.claim.labels
        exact = Counter(claimed) == Counter(batch.transcripts())
        texts += exact
        bags += pieces(target, claimed) == pieces(target, batch.transcripts())
        proofs += attempt.certified
        wrong += attempt.certified and not exact
        if not exact:
            notes[attempt.sentence] += 1
    for note, often in notes.most_common():
        print(f"    missed {often} times: {note}")
    also = f"median {np.median(seconds):.2f} s, {proofs} proofs"
    yield Point(f"{name}: bags", least[0], bags, len(batches))
    yield Point(f"{name}: transcripts in order", least[1], texts, len(batches), also)
    yield Point(f"{name}: nothing false is proved", 1.0, len(batches) - wrong, len(batches))


def bagged(
    target: ls.Target,
    source: ls.Spoken,
    batches: list[ls.Batch],
    name: str,
    mechanism: ls.FedSGD | ls.FedAvg,
    least: float,
    seed: int,
) -> Iterator[Point]:
    """Bags without order: how many are right to the piece, their mean error beside the best blind guess's, misses."""
    exact, errors, chances, wrong = 0, [], [], 0
    for turn, batch in enumerate(batches):
        seen = ls.observe(target, batch, mechanism, key=ls.Key(seed))
        claim = ls.SpokenWords(order=False).run(seen, key=ls.Key(seed).child(turn)).claim
        if claim is None:
            claim = ls.Pieces(())
        found = ls.score(
            claim, batch, domain=source.domain, public=source.public(), client=ls.Client(target), key=ls.Key(seed)
        )["piece-error"]
        exact += found.exact
        errors.append(found.value)
        chances.append(found.chance)
        said = {target.loss.spelling.read((one,)) for one in pieces(target, batch.transcripts())}  # type: ignore[attr-defined]
        wrong += not set(claim.pieces) <= said
    also = f"mean error {np.mean(errors):.3f}, of the best blind guess {np.mean(chances):.3f}"
    yield Point(f"{name}: bags of pieces", least, exact, len(batches), also)
    yield Point(f"{name}: no piece that was not said", 1.0, len(batches) - wrong, len(batches))


def few_words(target: ls.Target, batches: list[ls.Batch], name: str, seed: int) -> Iterator[Point]:
    """Utterances of up to five words: at least half of the transcripts, whatever the training."""
    few = [batch for batch in batches if sum(letter == SPACE for letter in batch.transcripts()[0]) < 5]
    if few:
        yield from measured(target, few, f"{name}, 1 to 5 words", (0.5, 0.5), seed)


def matched(target: ls.Target, batches: list[ls.Batch], name: str, least: float, seed: int) -> Iterator[Point]:
    """Behind noise that hides all rows: what `RelaxedWords` finds, told how many pieces a sentence has."""
    good, seconds, errors, notes = 0, [], [], list[str]()
    for turn, batch in enumerate(batches):
        seen = ls.observe(target, batch, ls.FedSGD() >> ls.GaussianNoise(1e-3), key=ls.Key(seed).child("noise", turn))
        assert ls.SpokenWords(matching=None).run(seen, key=ls.Key(seed)).claim is None
        length = sum(pieces(target, batch.transcripts()).values())
        start = time.process_time()
        attempt = ls.RelaxedWords(length=length).run(seen, key=ls.Key(seed).child(turn))
        seconds.append(time.process_time() - start)
        exact = attempt.claim is not None and attempt.claim.labels == batch.transcripts()
        good += exact
        if not exact:
            notes.append(f"{length} pieces: {attempt.sentence}")
        errors.append(ls.score(attempt.claim, batch)["character-error-rate"].value)
    for note in notes:
        print(f"    missed: {note}")
    also = f"median {np.median(seconds):.1f} s, mean character error rate {np.mean(errors):.3f}"
    yield Point(f"{name}: behind noise of 1e-3, matched", least, good, len(batches), also)


def few(batches: list[ls.Batch], most: int) -> list[ls.Batch]:
    """The shortest ones, which are searched in seconds."""
    return sorted(batches, key=lambda one: int(one.label_lengths[0]))[:most]


def points(seed: int, quick: bool) -> Iterator[Point]:
    """All of them."""
    chosen = scale(seed, quick)
    source, key = chosen.source, ls.Key(seed).child("spoken words")
    recipe = ls.ListenAttendSpell(8, 64, 1, 32, 128, 1, 64, pieces=ls.WordPieces(source, 300))
    most = min(chosen.utterances, len(source.load()) // 2)
    drawn = source.draw(most, key=key).reveal()
    short = torch.nonzero(drawn.label_lengths <= 50).flatten()
    single = [drawn.rows(one[None]).trimmed() for one in short]
    for epochs, least in chosen.epochs:
        start = time.process_time()
        family = ls.Fitted(recipe, source, epochs=epochs, lr=3e-3, batch_size=16) if epochs else recipe
        target = family.build(source.domain, source.classes, key=key)
        trained = time.process_time() - start
        p = np.mean([sure(target, batch) for batch in single])
        name = f"{epochs} epochs ({trained:.0f} s, p {p:.2f}), single utterances"
        yield from measured(target, single, name, (0.95 if epochs == 0 else least, least), seed)
        yield from few_words(target, single, f"{epochs} epochs", seed)
        if epochs:
            # Measured, with its interval: how often a search finds the order behind noise is expected by nobody.
            yield from matched(target, few(single, 2 if quick else 20), f"{epochs} epochs", 0.0, seed)
        # The rows of the embedding that moved are those that were fed, however well a model is trained.
        least_bags = 0.9
        for mechanism, sent in ((ls.FedSGD(), "a gradient"), (ls.FedAvg(steps=4, lr=0.1), "4 local steps")):
            yield from bagged(target, source, single, f"{epochs} epochs, no order, {sent}", mechanism, least_bags, seed)
        for size, many in chosen.batches:
            groups = [drawn.rows(short[torch.randperm(len(short), generator=key.child(size, turn).generator())[:size]])
                      for turn in range(many)]  # fmt: skip
            name = f"{epochs} epochs, batches of {size}"
            yield from measured(target, [group.trimmed() for group in groups], name, (0.0, 0.0), seed)


def main() -> int:
    """1 below expectation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few utterances, in less than a minute")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shown = [point.show() for point in points(asked.seed, asked.quick)]
    return 0 if all(shown) else 1


if __name__ == "__main__":
    sys.exit(main())
