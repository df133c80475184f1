"""The parts "planted" and "privacy" of `benchmarks/emotion.py`: worlds without a leak, and what user-level noise buys.

"planted": sex is shuffled over the speakers of both halves, so that no update tells it; the attack learns of shuffled
public speakers, and the verdict is asked for. No federation looks at sex, so that all worlds share those that are
played; labels, learning and verdict are each world's own. The smallest gain of interest is what so few speakers can
exclude at all (`excluded`), or nearly what the control gains if that is less, and is printed: that is "this power". The
control is the same attack with the true sexes.
"privacy": noise that is calibrated to an epsilon of one update, each client adding its share, shadows too.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from emotion_attacks import FRACTION, decided, directions, federations, halves, joined, population, read
from scipy import stats

import leakscope as ls
from leakscope.attacks.attributes.decide import Logistic
from leakscope.attacks.attributes.experts import Updates
from leakscope.attacks.attributes.signals import ClassInputs
from leakscope.audit.by_person import judged
from leakscope.bounds.user_level import models_epsilon, updates_epsilon
from leakscope.ledger.record import Word
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.utility import utility
from leakscope.numerics import intervals
from leakscope.numerics.intervals import Interval
from leakscope.scoring import persons
from leakscope.scoring.persons import People

Line = tuple[str, bool]
SURE = 0.99
"""How often the upper end of a world without a leak shall lie below the smallest gain of interest. And how often the
lower end, as an attack may be read turned round, above as much below chance."""
BELOW = 0.005
"""So much less than the attack gains with the true sexes is the largest gain that it can exclude."""
EPSILONS = (math.inf, 100.0, 25.0, 5.0, 1.0)
CLIP = 0.5


def excluded(speakers: int) -> float:
    """The smallest gain over 0.5 that so many speakers exclude in `SURE` of worlds without a leak, to 0.01 above.

    UAR of two halves of m each at chance has a deviation of sqrt(1 / 8 m); its upper end is that of the binomial
    intervals at 97.5 % of each half, as `by_person.interval` has it. AUC of a half, k = m / 2 of each sex, has one of
    sqrt((2 k + 1) / 12 k^2), and so has the mean of two that are right or wrong together; its end is that of
    `by_person.order`.
    """
    each, k, z = speakers / 2, speakers / 4, float(stats.norm.ppf(SURE))
    named = intervals.binomial(min(0.5 + z * math.sqrt(1 / (8 * each)), 1.0), each, level=0.975).high
    seen = min(0.5 + z * math.sqrt((2 * k + 1) / (12 * k**2)), 1.0)
    ordered = max(intervals.score(seen, k).high, intervals.binomial(seen, 2 * k, level=0.9).high)
    return math.ceil(100 * (max(named, ordered) - 0.5)) / 100


def shuffled(updates: Updates, key: ls.Key) -> Updates:
    """The categories in another order over the persons."""
    everybody = updates.persons.unique()
    own = torch.stack([updates.members[updates.persons == one][0] for one in everybody])
    drawn = own[torch.randperm(len(own), generator=key.generator())]
    place = torch.searchsorted(everybody, updates.persons)
    return dataclasses.replace(updates, members=drawn[place])


def together(found: list[tuple[np.ndarray, ...]]) -> People:
    """The speakers of both directions, each by all of their updates."""
    sides = np.repeat(np.arange(len(found)), [len(one[3]) for one in found])
    return People(np.concatenate([one[3] for one in found]), np.concatenate([one[4] for one in found]), sides=sides)


def planted(given: ls.AbstractCorpus, features: ls.OpenSmile, seed: int, *, worlds: int, quick: bool) -> Iterator[Line]:
    """As many worlds as seeds, on federations that are played once for each normalization."""
    for how in (ls.Normalization.CORPUS,) if quick else (ls.Normalization.CORPUS, ls.Normalization.SPEAKER):
        parts = [ls.EmotionFeatures(given, features, how, speakers=half) for half in halves(given)]
        key = ls.Key(seed).child("worlds", how.value)
        federation = dataclasses.replace(federations(20)["FedSGD"], fraction=0.5)
        played = []
        for at, (public, private) in enumerate(directions(parts)):
            own, signals = key.child(at), (ClassInputs(),)
            shadow = read(public, population(public), federation, signals, own.child("shadow"))
            played.append((shadow, read(private, population(private), federation, signals, own.child("private"))))
        decision = Logistic()
        control = together([decided(*pair, decision, key) for pair in played])
        sure = persons.uar(control.truth, control.fused().scores) - 0.5
        smallest = max(min(excluded(control.count), sure - BELOW), BELOW)
        words, uars = Counter[Word](), []
        why = Counter[str]()
        for world in range(worlds):
            own = key.child("world", world)
            found = [
                # Half 0 learns in the first direction and is attacked in the second, with one and the same truth.
                decided(
                    shuffled(shadow, own.child("half", at)), shuffled(theirs, own.child("half", 1 - at)), decision, own
                )
                for at, (shadow, theirs) in enumerate(played)
            ]
            verdict = judged(together(found), control, smallest=smallest, key=own.child("verdict"))
            words[verdict.word] += 1
            uars.append(verdict.uar.value)
            if verdict.word is not Word.NO_LEAK_FOUND:
                why[verdict.sentence] += 1
        real = judged(control, None, smallest=smallest, key=key.child("control"))
        mean, error = float(np.mean(uars)), float(np.std(uars, ddof=1) / math.sqrt(worlds))
        clear = words[Word.NO_LEAK_FOUND]
        fine = abs(mean - 0.5) <= 3 * error and (quick or real.word is Word.LEAKS)
        # to clear anything the attack must work on the true sexes nearly always, for which quick is too short
        wanted = "at most one leaks" if quick else "95 % clear"
        fine &= words[Word.LEAKS] <= 1 if quick else clear >= 0.95 * worlds
        yield (
            f"{how.value}, sex shuffled over {control.count} speakers, {worlds} worlds: {clear} times no leak found "
            f"(a gain of {smallest:.2f} excluded), {words[Word.LEAKS]} leaks, {words[Word.INCONCLUSIVE]} inconclusive; "
            f"UAR {mean:.3f} +- {error:.3f} in the mean, {min(uars):.2f} to {max(uars):.2f}; with the true sexes "
            f"{real.word.value}, {real.uar.value:.3f}; expected {wanted}, and the mean within 3 errors of 0.5"
            + "".join(f"\n        {one}" for one in list(why)[:3]),
            fine,
        )


def noise_for(federation: Federation, wanted: float, *, clients: int, delta: float) -> float:
    """The noise multiplier at which one update of a client has the epsilon `wanted`, by bisection to 0.1 %."""
    if math.isinf(wanted):
        return 0.0
    low, high = 1e-3, 1e3
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        private = dataclasses.replace(federation, privacy=ls.UserLevel(CLIP, middle))
        over = updates_epsilon(private, clients=clients, delta=delta, rounds=1) > wanted
        low, high = (middle, high) if over else (low, middle)
    return high


@dataclasses.dataclass(frozen=True)
class Point:
    """What one noise does: epsilon of one update, of all of a client, of the training; attack and recognizer."""

    one: float
    all_of_one: float
    training: float
    single: Interval
    fused: Interval
    emotion: float


def hidden(
    given: ls.AbstractCorpus, features: ls.OpenSmile, seed: int, *, rounds: int, epsilons: tuple[float, ...], out: str
) -> Iterator[Line]:
    """Attack and recognizer against epsilon, in lines and, with `out`, in one figure."""
    parts = [ls.EmotionFeatures(given, features, ls.Normalization.CORPUS, speakers=half) for half in halves(given)]
    clients = len(population(parts[0]))
    delta, points = 0.1 / clients, []
    for wanted in epsilons:
        plain = Federation(ls.FedSGD(), rounds=rounds, fraction=FRACTION, batch=20, server_lr=0.1, weighted=False)
        noise = noise_for(plain, wanted, clients=clients, delta=delta)
        federation = dataclasses.replace(plain, privacy=ls.UserLevel(clip=CLIP, noise_multiplier=noise))
        found, uars, key = [], [], ls.Key(seed).child("hidden", str(wanted))
        for at, (public, private) in enumerate(directions(parts)):
            own, people = key.child(at), population(public)
            shadows = [read(public, people, federation, (ClassInputs(),), own.child("shadow", turn)) for turn in (0, 1)]
            theirs = read(private, population(private), federation, (ClassInputs(),), own.child("private"))
            found.append(decided(joined(shadows), theirs, Logistic(), own))
            held = population(private).held_out(0.2, key=own)
            target = ls.EmotionNet().build(private.domain, private.classes, key=own.child("weights"))
            trained = federation.run(target, held, key=own.child("useful")).weights
            assert held.held is not None
            uars.append(utility(target, trained, held.held).uar)
        updates = People(
            np.concatenate([one[0] for one in found]),
            np.concatenate([one[1] for one in found]),
            np.concatenate([one[2] + 1000 * at for at, one in enumerate(found)]),
            np.repeat(np.arange(len(found)), [len(one[0]) for one in found]),
        )
        speakers, many = together(found), max(1, round(rounds * FRACTION))
        point = Point(
            updates_epsilon(federation, clients=clients, delta=delta, rounds=1),
            updates_epsilon(federation, clients=clients, delta=delta, rounds=many),
            models_epsilon(federation, clients=clients, delta=delta),
            persons.interval(updates, key=key),
            persons.interval(speakers, key=key),
            float(np.mean(uars)),
        )
        points.append(point)
        single, fused = point.single, point.fused
        line = (
            f"epsilon {point.one:.3g} of one update (noise {noise:.3g} clips, delta {delta:.2g}), "
            f"{point.all_of_one:.3g} of {many} updates, {point.training:.3g} of the training; sex by single updates "
            f"{single.value:.3f} ({single.low:.3f} to {single.high:.3f}), by all of a speaker {fused.value:.3f} "
            f"({fused.low:.3f} to {fused.high:.3f}, p {persons.luck(speakers, key=key):.4f}); emotion UAR "
            f"{point.emotion:.3f}"
        )
        if wanted <= 1:
            yield f"{line}; expected single updates at chance, 0.5 in their interval", single.low <= 0.5 <= single.high
        elif math.isinf(wanted):
            yield f"{line}; expected a leak, the interval of single updates above 0.5", single.low > 0.5
        else:
            yield line, True
    if out:
        figure(points, Path(out))


def figure(points: list[Point], path: Path) -> None:
    """Attack and recognizer against the epsilon of one update; above it the composed one."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panel, axis = plt.subplots(figsize=(7.5, 4.2))
    places = range(len(points))
    for name, mark, pick in (("sex, single updates", "o", "single"), ("sex, all updates of a speaker", "s", "fused")):
        own = [getattr(one, pick) for one in points]
        middle = np.array([one.value for one in own])
        spread = np.abs(np.array([[one.low for one in own], [one.high for one in own]]) - middle)
        shift = -0.06 if pick == "single" else 0.06
        axis.errorbar([at + shift for at in places], middle, spread, marker=mark, capsize=3, label=name)
    axis.plot(places, [one.emotion for one in points], marker="^", color="gray", label="emotion, by the recognizer")
    axis.axhline(0.5, color="black", linewidth=0.7, linestyle=":")
    axis.axhline(0.25, color="gray", linewidth=0.7, linestyle=":")
    labels = [f"{_short(one.one)}\n{_short(one.all_of_one)}\n{_short(one.training)}" for one in points]
    axis.set_xticks(list(places), labels)
    axis.set_xlabel("epsilon of one update / of all updates of a client / of who sees the models")
    axis.set_ylabel("UAR (95 % over speakers)")
    axis.set_ylim(0.15, 1.03)
    axis.legend(loc="lower left", fontsize=8)
    panel.tight_layout()
    panel.savefig(path, dpi=110)
    plt.close(panel)


def _short(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.2g}" if value < 10 else f"{value:.0f}"
