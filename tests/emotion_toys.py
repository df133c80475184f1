"""A small world of speakers: three emotions, two sexes, vectors of twelve numbers; what sex does is chosen."""

from __future__ import annotations

import functools

import torch

import leakscope as ls
from leakscope.attacks.preparing import Setting
from leakscope.core.annotation import Annotation
from leakscope.core.effort import Budget
from leakscope.core.pool import Pool
from leakscope.domains.vectors import Vectors
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.stores import RoundsInMemory
from leakscope.mechanisms.population import Population

CLASSES, SIZE, EACH = 3, 12, 24
DOMAIN = Vectors(SIZE, -6, 6)
NET = ls.MLP((24, 16))
KEY, SEEN = ls.Key(0), ls.Key(5)


@functools.cache
def speakers(seed, count=12, *, own=0.0, by_class=0.0):
    """A pool of `count` speakers, every other one male, each normalized to mean 0 and deviation 1.

    own: how far a sex is from the other in all classes alike, before normalization, so that nothing of it is left.
    by_class: how far in each class, along directions that are no common shift, so that it stays.
    """
    world = ls.Key(1).generator()
    centers = 2 * torch.randn(CLASSES, SIZE, generator=world)
    shift, tilt = torch.randn(SIZE, generator=world), torch.randn(CLASSES, SIZE, generator=world)
    random = ls.Key(seed).child("speakers").generator()
    inputs, labels, who, sexes = [], [], [], []
    for person in range(count):
        sign = 2 * (person % 2) - 1
        emotion = torch.arange(EACH) % CLASSES
        rows = centers[emotion] + sign * (own * shift + by_class * tilt[emotion])
        rows = rows + 0.3 * torch.randn(SIZE, generator=random) + torch.randn(EACH, SIZE, generator=random)
        inputs.append((rows - rows.mean(0)) / rows.std(0))
        labels.append(emotion)
        who += [person] * EACH
        sexes += [person % 2] * EACH
    names = tuple(f"{seed}-{one:02d}" for one in range(count))
    known = (Annotation("speaker", tuple(who), names), Annotation("sex", tuple(sexes), ("female", "male")))
    return Pool(ls.Batch(torch.cat(inputs), torch.cat(labels)), known)


def federation(step, **changes):
    return Federation(step, **{"rounds": 5, "fraction": 1.0, "server_lr": 0.3, **changes})


def taught(learner, mechanism, architecture=NET, key=KEY):
    setting = Setting(architecture, DOMAIN, CLASSES, mechanism)
    return learner.taught(learner.prepare(setting, key=key, clock=Budget().start()))


def observed(pool, played, architecture=NET, key=SEEN):
    """(name, category of the sex, observation of all rounds) of every speaker of the pool."""
    people = Population.of_owners(pool.batch, pool.annotations)
    target, store = architecture.build(DOMAIN, CLASSES, key=key), RoundsInMemory()
    played.run(target, people, key=key.child("played"), into=store)
    for name, size, sex in zip(people.names, people.sizes, people.annotation("sex").values, strict=True):
        yield name, sex, ls.Observation(target, store.rounds_of(name), played.sends(size, len(people)))
