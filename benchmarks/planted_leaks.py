"""Whether verdicts find the leaks that were planted, and none where there is nothing to find.

    python benchmarks/planted_leaks.py [--quick] [--seed 0] [--workers 2]

Four parts, a line for each point with what is expected and what was measured; exit code 1 below expectation.

1. Planted leaks: audits of mechanisms that do leak inputs or labels (bare, clipped, hardly noisy, quantized, for some
   clients only, with labels that are right now and then). All findings must be *leaks*.
2. Worlds without a leak: the client declares FedSGD and sends something that has nothing to do with the private batch
   (the update of other data, shuffled coordinates, zeros, noise, one constant, signs of noise). At most 1 % of findings
   may be *leaks*, and none may be cleared by a wrong certificate.
3. A planted fault: an attack that certifies everything, right for some clients and wrong for the others. Its right
   certificates may not count, since wrong ones refute them all, and the sentence has to report the defect. Also of
   other data, where a label that is certified is right by luck.
4. Every rule at its boundary, on simulated scores: how often it says *leaks* where there is nothing beyond the rule's
   margin, and *no leak found* where the smallest leak of interest is there.

The seeds of audits are hashed from --seed, so that no test has used them.
"""

from __future__ import annotations

import argparse
import enum
import functools
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import leakscope as ls
from leakscope.attacks.attack import AbstractAttack
from leakscope.audit.engines.inline import Inline
from leakscope.audit.findings import holm
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.audit.verdict import Trials, judge
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Labels
from leakscope.core.effort import Clock, Watch
from leakscope.core.observation import Observation
from leakscope.core.refusal import Refusal
from leakscope.core.release import Gradient
from leakscope.core.target import Target
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.vision import Images
from leakscope.ledger.record import CellSpec, Ending, Record, Role, ScoreRecord, Word
from leakscope.mechanisms.compose import AbstractProtocol
from leakscope.mechanisms.effects import ProtocolEffect
from leakscope.numerics.rng import Key

MOST_FALSE = 0.01
Floats = NDArray[np.float64]


class World(enum.Enum):
    """What is sent in place of the update of the private batch."""

    OTHER_DATA = "the update of other data"
    SHUFFLED = "shuffled coordinates"
    ZEROS = "zeros"
    NOISE = "noise"
    CONSTANT = "one constant"
    SIGNS = "signs of noise"


@dataclass(frozen=True)
class Parity(AbstractSource):
    """Digits with two classes: even and odd."""

    @property
    def domain(self) -> Images:
        """Gray images."""
        return Images(1, 8, 8)

    @property
    def classes(self) -> int:
        """Even and odd."""
        return 2

    def load(self) -> Batch:
        """All examples."""
        return _parity()


@functools.cache
def _parity() -> Batch:
    whole = ls.Digits(size=8).load()
    assert whole.labels is not None
    return Batch(whole.inputs, whole.labels % 2)


@dataclass(frozen=True)
class Pretends(AbstractProtocol):
    """Declares FedSGD in every respect and sends something else. share: of clients that send the truth."""

    world: World
    source: AbstractSource
    share: float = 0.0

    @property
    def undefended(self) -> AbstractProtocol:
        """What it pretends to be."""
        return ls.FedSGD()

    @property
    def effect(self) -> ProtocolEffect:
        """What it pretends to be."""
        return ls.FedSGD().effect

    def noise(self, examples: int | None) -> float | None:
        """What it pretends to be."""
        return ls.FedSGD().noise(examples)

    def replay(self, target: Target, batch: Batch) -> Gradient:
        """What it pretends to be."""
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release: Any) -> Gradient:
        """What it pretends to be."""
        return ls.FedSGD().as_gradient(release)

    def release(self, target: Target, batch: Batch, *, key: Key) -> Gradient:
        """Something that has nothing to do with the batch, but for a share of clients."""
        honest = ls.FedSGD().release(target, batch, key=key)
        draw = key.child("pretended").generator()
        if float(torch.rand((), generator=draw)) < self.share:
            return honest
        if self.world is World.OTHER_DATA:
            return ls.FedSGD().release(target, self._other(batch, key.child("other")), key=key)
        return Gradient({name: _instead(self.world, value, draw) for name, value in honest.by_name.items()})

    def _other(self, batch: Batch, key: Key) -> Batch:
        """A batch without any of these examples: one in a hundred would hold one, and leak it."""
        drawn = (self.source.draw(len(batch), key=key.child(turn)).reveal() for turn in range(100))
        return next(other for other in drawn if _apart(batch, other))


def _apart(one: Batch, other: Batch) -> bool:
    return bool(torch.cdist(one.inputs.flatten(1), other.inputs.flatten(1)).min() > 0)


def _instead(world: World, value: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    size = value.square().mean().sqrt()
    noise = torch.randn(value.shape, generator=draw)
    if world is World.SHUFFLED:
        return value.flatten()[torch.randperm(value.numel(), generator=draw)].reshape(value.shape)
    return {
        World.ZEROS: torch.zeros_like(value),
        World.NOISE: size * noise,
        World.CONSTANT: torch.ones_like(value) * size,
        World.SIGNS: size * noise.sign(),
    }[world]


@dataclass(frozen=True)
class Flipped(AbstractProtocol):
    """FedSGD of a client that tells a random label with this probability: labels leak, but not all of them."""

    rate: float

    @property
    def undefended(self) -> AbstractProtocol:
        """Without the lie."""
        return ls.FedSGD()

    def replay(self, target: Target, batch: Batch) -> Gradient:
        """As if there were none."""
        return ls.FedSGD().replay(target, batch)

    def as_gradient(self, release: Any) -> Gradient:
        """The release itself."""
        return ls.FedSGD().as_gradient(release)

    def release(self, target: Target, batch: Batch, *, key: Key) -> Gradient:
        """The gradient with some of the labels drawn anew."""
        assert batch.labels is not None
        draw = key.child("flip").generator()
        lies = torch.randint(target.classes, batch.labels.shape, generator=draw)
        kept = torch.rand(batch.labels.shape, generator=draw) >= self.rate
        return ls.FedSGD().release(target, Batch(batch.inputs, torch.where(kept, batch.labels, lies)), key=key)


@dataclass(frozen=True)
class Point:
    """One audit: a plan with one mechanism, and the word that is right.

    faulty: whether some certificate of it is wrong, so that none may count and the sentence has to say so.
    """

    name: str
    plan: Plan
    leaks: bool
    faulty: bool = False


def _plan(name: str, mechanism: AbstractProtocol | Any, source: AbstractSource, seed: int, **said: Any) -> Plan:
    # Wide enough for a batch of 4: behind 32 units no attack of the table separates four digits of two classes.
    usual = ls.MLP((256,)) if said.get("batch_sizes") == (4,) else ls.MLP((32,))
    target = said.pop("target", usual)
    attacks = said.pop(
        "attacks",
        (ls.LinearLayer(), ls.LowRank(), ls.LabelSigns(), ls.LabelCounts(), ls.idlg(evaluations=30)),
    )
    scene = Scene(name, source, target)
    return Plan(name, (scene,), (mechanism,), attacks, seed=seed, told=(ls.BatchSize,), **said)


def planted(seed: int, quick: bool) -> Iterator[Point]:
    """Leaks that are there."""
    ten, two = ls.Digits(size=8), Parity()
    step = ls.FedSGD()
    if quick:
        for source in (two, ten):
            said = f"bare, {source.classes} classes, batch of 4, 3 trials"
            yield Point(said, _plan(said, step, source, _seed(seed, said), trials=3, batch_sizes=(4,)), True)
        return
    mechanisms: dict[str, Any] = {
        "bare": step,
        "clipped": step >> ls.Clip(0.1),
        "hardly noisy": step >> ls.GaussianNoise(1e-7),
        "8 bits": step >> ls.Quantize(bits=8),
        "one local step": ls.FedAvg(steps=1, lr=0.1),
    }
    for trials in (3, 8):
        for source in (two, ten):
            for size in (1, 4):
                for name, mechanism in mechanisms.items():
                    if source is two and size > 1 and name in ("hardly noisy", "8 bits"):
                        # Four digits of two classes are not separated there by any attack of the table: what is tried
                        # here are verdicts, which can only find what an attack finds.
                        continue
                    said = f"{name}, {source.classes} classes, batch of {size}, {trials} trials"
                    yield Point(
                        said,
                        _plan(said, mechanism, source, _seed(seed, said), trials=trials, batch_sizes=(size,)),
                        True,
                    )
    for source in (two, ten):
        rare = Pretends(World.OTHER_DATA, source, share=0.7)
        said = f"for seven of ten clients, {source.classes} classes, 8 trials"
        yield Point(said, _plan(said, rare, source, _seed(seed, said), trials=8), True)
    # So many that one seed in a thousand draws labels whose share, 0.55, is not beyond luck: of 16 one in three does.
    said = "half of the labels replaced, 10 classes, batch of 1, 96 trials"
    labels = (ls.LabelCounts(),)
    yield Point(said, _plan(said, Flipped(0.5), ten, _seed(seed, said), trials=96, attacks=labels), True)
    for trials in (3, 8):
        said = f"labels of a convolutional net, 10 classes, batch of 16, {trials} trials"
        more = {"trials": trials, "batch_sizes": (16,), "attacks": labels, "target": ls.ConvNet(8)}
        yield Point(said, _plan(said, step, ten, _seed(seed, said), **more), True)


def leak_free(seed: int, quick: bool) -> Iterator[Point]:
    """Worlds in which there is nothing to find."""
    sources = (Parity(), ls.Digits(size=8))
    for again in range(1 if quick else 3):
        for world in World:
            for source in sources:
                for trials in (3,) if quick else (3, 8):
                    for size in (1,) if quick else (1, 4):
                        said = f"{world.value}, {source.classes} classes, batch of {size}, {trials} trials, {again}"
                        plan = _plan(
                            said, Pretends(world, source), source, _seed(seed, said), trials=trials, batch_sizes=(size,)
                        )
                        yield Point(said, plan, False)


@dataclass(frozen=True)
class Overconfident(AbstractAttack[Attempt[Labels], Labels]):
    """Claims the label that the update tells for a share of clients, else the next class, and proves all of it.

    The certificate is the fault: its residual is zero whatever is claimed.
    """

    share: float

    @property
    def citation(self) -> str:
        """None: nobody published it."""
        return ""

    def _read(self, seen: Observation) -> Attempt[Labels] | Refusal:
        found = ls.LabelSigns().run(seen, key=Key(0))
        return found if found.claim is not None else Refusal(found.sentence)

    def _attempt(
        self, seen: Observation, read: Attempt[Labels], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Labels]:
        del clock, watch
        assert read.claim is not None
        lies = float(torch.rand((), generator=key.child("lies").generator())) >= self.share
        values = (read.claim.values + lies) % seen.target.classes
        proof = Certificate((0.0,) * len(values), (0.5,) * len(values), "nothing at all")
        return Attempt(repr(self), Outcome.CLAIMED, "claimed with a certificate", Labels(values), proof)


DEFECT, COUNTED = "so none of its certificates counts here", "proved by its own equations"
"""What a sentence says of certificates of which one is wrong, and of those that count (`audit.verdict`)."""


def faulty(seed: int, quick: bool) -> Iterator[Point]:
    """Certificates of which a quarter are wrong: labels leak beyond luck, or by luck in another's update not at all."""
    ten, two = ls.Digits(size=8), Parity()
    said_by = {"trials": 16, "attacks": (Overconfident(0.75),)}
    for again in range(1 if quick else 5):
        said = f"certifies wrongly a quarter of the time, 10 classes, {again}"
        yield Point(said, _plan(said, ls.FedSGD(), ten, _seed(seed, said), **said_by), True, faulty=True)
        said = f"certifies labels of other data, 2 classes, {again}"
        other = Pretends(World.OTHER_DATA, two)
        yield Point(said, _plan(said, other, two, _seed(seed, said), **said_by), False, faulty=True)


def _seed(seed: int, name: str) -> int:
    return Key(seed).child("planted", name).number() % 2**31


def judged(point: Point) -> tuple[Point, str, str]:
    """Run the audit; the word of its finding, and its sentence."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        summary = run(point.plan, Path(folder) / "run", Inline())
    (finding,) = summary.findings
    return point, finding.word.value, finding.sentence


def audits(points: list[Point], workers: int) -> Iterator[tuple[Point, str, str]]:
    """All of them, in processes of their own, as they end."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(judged, points)
        # Waited for, since only then their seconds are known.
        pool.close()
        pool.join()


# --- the rules at their boundaries ------------------------------------------------------------------------------------


SPEC = CellSpec(
    role=Role.AUDITED,
    target="T",
    dataset="D",
    mechanism="M",
    attack="A",
    batch_size=1,
    told=(),
    metrics=(),
    trial=0,
    seed=0,
)


def record(metric: str, items: Floats, chance: float) -> Record:
    """A trial with these scores."""
    unit, perfect = ("dB", 120.0) if metric == "psnr" else ("of 1", 1.0)
    mean = float(items.mean())
    score = ScoreRecord(
        metric=metric,
        value=mean,
        unit=unit,
        higher_is_better=True,
        low=mean,
        high=mean,
        chance=chance,
        perfect=perfect,
        items=tuple(map(float, items)),
        claimed=len(items),
    )
    return Record(identity="0", spec=SPEC, ending=Ending.CLAIMED, sentence="", scores=(score,))


@dataclass(frozen=True)
class Boundary:
    """Scores with a known truth, and the word that may be said of them only rarely."""

    name: str
    metric: str
    chance: float
    perfect: float
    draw: Callable[[np.random.Generator], Floats]
    word: Word
    most: float


def boundaries() -> Iterator[Boundary]:
    """Each rule where it is hardest: exactly at what it must not call a leak, or must not clear."""
    leaks, cleared = Word.LEAKS, Word.NO_LEAK_FOUND
    for count in (3, 8, 16):
        for name, draw in {
            # A spread of 1 dB: with more, single items are recovered now and then, which is a leak by another rule.
            "normal": lambda g, n: g.normal(0, 1.0, n),
            "skewed up": lambda g, n: g.exponential(size=n) - 1,
            "skewed down": lambda g, n: 1 - g.exponential(size=n),
        }.items():
            at = functools.partial(_shifted, draw=draw, count=count)
            said = f"mean gain of 3 dB, {name}, {count} trials"
            # A gain that is skewed down is 3 dB or more in most trials: its mean is overrated now and then.
            yield Boundary(said, "psnr", 12.0, 120.0, at, leaks, 0.05 if name == "skewed down" else 0.01)
            yield Boundary(said, "psnr", 12.0, 120.0, at, cleared, 0.05 if name == "skewed up" else 0.025)
        for chance in (0.5, 0.1):
            for size in (1, 8):
                said = f"labels, {count} trials of {size}, chance {chance}"
                at = functools.partial(_hits, accuracy=chance, count=count, size=size)
                yield Boundary(f"{said}: at chance", "label-accuracy", chance, 1.0, at, leaks, 0.01)
                at = functools.partial(_hits, accuracy=chance + 0.2, count=count, size=size)
                yield Boundary(f"{said}: 0.2 above", "label-accuracy", chance, 1.0, at, cleared, 0.025)
                at = functools.partial(_alike, accuracy=chance, count=count, size=size)
                if size > 1:
                    yield Boundary(f"{said}, alike: at chance", "label-accuracy", chance, 1.0, at, leaks, 0.01)


def _shifted(g: np.random.Generator, *, draw: Callable[..., Floats], count: int) -> Floats:
    return (15.0 + draw(g, count))[:, None]


def _hits(g: np.random.Generator, *, accuracy: float, count: int, size: int) -> Floats:
    return (g.random((count, size)) < accuracy).astype(float)


def _alike(g: np.random.Generator, *, accuracy: float, count: int, size: int) -> Floats:
    """Clients that have one class each: a guess is right for all of a batch or for none."""
    return np.repeat((g.random((count, 1)) < accuracy).astype(float), size, axis=1)


def rate(at: Boundary, repeats: int, generator: np.random.Generator) -> float:
    """How often the word is said."""
    said = 0
    for _ in range(repeats):
        scores = at.draw(generator)
        blind = [
            record(at.metric, np.full(row.shape, 12.0 if at.metric == "psnr" else 0.0), at.chance) for row in scores
        ]
        open_ = [
            record(at.metric, np.full(row.shape, 90.0 if at.metric == "psnr" else 1.0), at.chance) for row in scores
        ]
        audited = [record(at.metric, row, at.chance) for row in scores]
        said += judge(Trials(audited, open_, blind)).word is at.word
    return said / repeats


def together(repeats: int, generator: np.random.Generator) -> float:
    """How often Holm finds anything among ten attacks on nothing, two of which say the same."""
    lucks = generator.random((repeats, 10))
    lucks[:, 9] = lucks[:, 8]
    return float(np.mean([min(holm(row.tolist())) <= MOST_FALSE for row in lucks]))


def main() -> int:
    """Run the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    failed = 0
    started = time.monotonic()
    points = [part for make in (planted, leak_free, faulty) for part in make(chosen.seed, chosen.quick)]
    found = []
    for point, word, sentence in audits(points, chosen.workers):
        wrong = (word == Word.LEAKS.value) is not point.leaks
        believed = point.faulty and (DEFECT not in sentence or COUNTED in sentence)
        found.append((point, word, believed))
        expected = "leaks" if point.leaks else "no leak"
        mark = "   WRONG: " + sentence if wrong else "   BELIEVED: " + sentence if believed else ""
        print(f"{point.name:62} expected {expected:8} said {word}{mark}", flush=True)
    missed = sum(point.leaks and word != Word.LEAKS.value for point, word, _ in found)
    words = Counter(word for point, word, _ in found if not point.leaks)
    false, worlds = words[Word.LEAKS.value], words.total()
    believed, planned = sum(one for *_, one in found), sum(point.faulty for point in points)
    failed += missed + believed + (false > max(MOST_FALSE * worlds, 0))
    print(f"planted leaks: {len(found) - worlds - missed} of {len(found) - worlds} found, expected all")
    print(f"worlds without a leak: {dict(words)}, expected at most {MOST_FALSE:.0%} leaks")
    print(f"wrong certificates: {planned - believed} of {planned} void and reported as a defect, expected all")
    repeats = 400 if chosen.quick else 4000
    generator = np.random.default_rng([chosen.seed, 7])
    for at in boundaries() if not chosen.quick else list(boundaries())[::4]:
        share = rate(at, repeats, generator)
        # Three standard errors: a rate that keeps its bound is not called broken by luck.
        broken = share > at.most + 3 * math.sqrt(at.most * (1 - at.most) / repeats)
        failed += broken
        print(
            f"{at.name:58} said {at.word.value:28} {share:6.2%}, at most {at.most:.1%}{'   BROKEN' if broken else ''}"
        )
    any_of_ten = together(20_000, generator)
    failed += any_of_ten > MOST_FALSE * 1.3
    print(f"any of ten attacks on nothing beyond luck (Holm): {any_of_ten:.2%}, expected at most {MOST_FALSE:.0%}")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    each = (spent.ru_utime + spent.ru_stime) / chosen.workers
    print(
        f"{failed} below expectation; seed {chosen.seed}, {time.monotonic() - started:.0f} s; CPU seconds: "
        f"{each:.0f} for each of {chosen.workers} workers, {time.process_time():.0f} for the rest"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
