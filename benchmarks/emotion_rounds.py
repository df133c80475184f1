"""The part "rounds" of `benchmarks/emotion.py`: how fast a federation of speakers is played, and what its store holds.

Seconds are of the processor, so that other programs on it do not count; of long runs the clock's stand beside them.
Memory is the peak of a process of its own, as Linux says it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import leakscope as ls
from leakscope.mechanisms.federated.stores import AbstractSink, Cast, Sent

ADAM = ls.ClientAdam(betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)
PRESENT = 9
"""Clients of a round, as in the original: a tenth of ninety."""
FOLDS = 5
STORED = """
import resource
import sys
import torch
import leakscope as ls
from leakscope.core.pool import Pool
from leakscope.attacks.preparing import Setting
from leakscope.core.effort import Budget
torch.set_num_threads(1)
folder, rounds = sys.argv[1], int(sys.argv[2])

def people(count, key):
    # what a client is shows in its vectors
    draw = key.generator()
    sex = torch.arange(count) % 2
    return ls.Population(tuple(
        ls.Batch(torch.randn(20, 988, generator=draw) + 0.5 * int(one), torch.arange(20) % 4) for one in sex
    )), sex

everybody, sex = people(90, ls.Key(0))
net, domain, step = ls.EmotionNet(), ls.Vectors(988, -6, 6), ls.FedSGD()
target = net.build(domain, 4, key=ls.Key(0))
store = ls.RoundFiles(folder)
federation = ls.Federation(step, rounds=rounds, batch=20, server_lr=0.05)
federation.run(target, everybody, key=ls.Key(0), into=store)
peak = lambda: next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
written = peak()
public, own = people(30, ls.Key(1))
pool = Pool(
    ls.Batch(torch.cat([one.inputs for one in public.clients]), torch.cat([one.labels for one in public.clients])),
    (
        ls.Annotation("speaker", tuple(at for at in range(30) for _ in range(20)), tuple(f"p{at}" for at in range(30))),
        ls.Annotation("sex", tuple(int(one) for one in own for _ in range(20)), ("a", "b")),
    ),
)
shadow = ls.Federation(step, rounds=20, fraction=0.3, batch=20, server_lr=0.05)
learner = ls.ShadowUpdates(pool, shadow, shadows=1, folds=0)
attack = learner.taught(learner.prepare(Setting(net, domain, 4, step), key=ls.Key(2), clock=Budget().start()))
claimed = right = 0
taking_part = {name for number in store.numbers() for name in store.senders(number)}
for at, name in enumerate(everybody.names):
    if name not in taking_part:
        continue
    seen = ls.Observation(target, store.rounds_of(name), federation.sends(20, 90))
    attempt = attack.run(seen, key=ls.Key(3))
    claimed += attempt.claim is not None
    right += attempt.claim is not None and int(attempt.claim.values[0]) == int(sex[at])
print(written, peak(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, claimed, right)
"""


class Energies(AbstractSink):
    """Keeps one number of each update: what a shadow run streams through, so that it needs no room."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def begin(self, cast: Cast) -> None:
        """From the start."""
        del cast

    def keep(self, sent: Sent) -> None:
        """The size of the first layer's."""
        self.found += [float(one.by_name["1.weight"].square().sum()) for one in sent.releases.values()]


def federations(people: ls.Population, rounds: int) -> dict[str, ls.Federation]:
    """The original's two, and local SGD."""
    fraction = min(1.0, PRESENT / len(people))
    local = ls.FedAvg(1, 5e-4, batch_size=20, shuffle=True, optimizer=ADAM)
    plain = dataclasses.replace(local, lr=0.05, optimizer=ls.ClientSGD())
    return {
        "FedSGD": ls.Federation(ls.FedSGD(), rounds, fraction, batch=20, server_lr=0.05),
        "FedAvg, SGD": ls.Federation(plain, rounds, fraction, epochs=1),
        "FedAvg, Adam": ls.Federation(local, rounds, fraction, epochs=1),
    }


def rounds(given: ls.AbstractCorpus, features: ls.OpenSmile, quick: bool, seed: int) -> Iterator[tuple[str, bool]]:
    """All lines."""
    source = ls.EmotionFeatures(given, features, ls.Normalization.SPEAKER)
    people = ls.Population.of_owners(source.load(), source.annotations())
    target = ls.EmotionNet().build(source.domain, source.classes, key=ls.Key(seed))
    yield from compared(target, people, 2 if quick else 10, seed)
    yield from shadows(target, people, 4 if quick else 200, seed)
    yield from beside_flower(target, people, 2 if quick else 5, seed)
    yield stored(8 if quick else 200)


def compared(target: ls.Target, people: ls.Population, count: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Rounds per second of both routes, in turn."""
    for name, federation in federations(people, count).items():
        together = alone = 0.0
        key = ls.Key(seed)
        # what is loaded at first use belongs to neither
        federation.play(target, people, 0, key=key)
        federation.sends(1, len(people)).release(target, people.clients[0], key=key)
        for turn in range(count):
            begun = time.process_time()
            federation.play(target, people, turn, key=key)
            between = time.process_time()
            for place in federation.chosen(len(people), turn, key=key):
                own = people.clients[place]
                used = own if federation.batch is None else own.rows(torch.arange(min(federation.batch, len(own))))
                federation.sends(len(own), len(people)).release(target, used, key=key.child(turn, place))
            together += between - begun
            alone += time.process_time() - between
        wanted = 1.2 if name == "FedSGD" else 2.0
        yield (
            f"{name}: {count / together:.1f} rounds of {federation.present(len(people))} clients per second side by "
            f"side, {count / alone:.1f} one client at a time, ratio {alone / together:.1f}; expected >= {wanted}",
            alone / together >= wanted,
        )


def shadows(target: ls.Target, people: ls.Population, count: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Five runs, as five folds of shadow training, each update seen and let go."""
    for name, federation in federations(people, count).items():
        begun, clock, seen, last = time.process_time(), time.perf_counter(), 0, None
        kept = dataclasses.replace(federation, evaluate_every=count)
        for fold in range(FOLDS):
            sink = Energies()
            fresh = people.held_out(0.2, key=ls.Key(seed).child(fold))
            last = kept.run(target, fresh, key=ls.Key(seed).child(fold), into=sink).history[-1]
            seen += len(sink.found)
        spent, clock = ((now - then) * 200 / count for now, then in
                        ((time.process_time(), begun), (time.perf_counter(), clock)))  # fmt: skip
        yield (
            f"{name}: {FOLDS} x 200 shadow rounds of {seen // (FOLDS * count)} clients in {spent:.0f} s of one core "
            f"({clock:.0f} s by the clock)"
            f"{'' if count == 200 else f' (from {count} each)'}, UAR {last.uar:.2f} of emotion on what was held out; "
            "expected < 180 s",
            spent < 180,
        )


def beside_flower(target: ls.Target, people: ls.Population, count: int, seed: int) -> Iterator[tuple[str, bool]]:
    """The same local training under Flower's own server, whose clients are in this process."""
    if importlib.util.find_spec("flwr") is None:
        yield "Flower is not installed: not compared", True
        return
    federation = dataclasses.replace(federations(people, count)["FedAvg, SGD"], rounds=count)
    flower(target, people, dataclasses.replace(federation, rounds=1), ls.Key(seed))
    begun = time.process_time()
    federation.run(target, people, key=ls.Key(seed))
    between = time.process_time()
    flower(target, people, federation, ls.Key(seed))
    there, here = time.process_time() - between, between - begun
    yield (
        f"FedAvg, SGD: {count / here:.1f} rounds per second here, {count / there:.1f} under Flower's server in one "
        f"process, ratio {there / here:.1f}; expected >= 1.5",
        there / here >= 1.5,
    )


def flower(target: ls.Target, people: ls.Population, federation: ls.Federation, key: ls.Key) -> None:
    """As many rounds of Flower's server and FedAvg strategy."""
    import logging

    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import Server, SimpleClientManager
    from flwr.server.client_proxy import ClientProxy
    from flwr.server.strategy import FedAvg

    logging.getLogger("flwr").setLevel(logging.ERROR)
    names = list(target.parameters())

    class Client(ClientProxy):
        def fit(self, ins, timeout, group_id):
            sent = dict(zip(names, map(torch.tensor, parameters_to_ndarrays(ins.parameters)), strict=True))
            own = people.of(self.cid)
            delta = federation.sends(len(own), len(people)).release(target.at(sent), own, key=key).by_name
            back = ndarrays_to_parameters([(sent[name] + delta[name]).numpy() for name in names])
            return FitRes(Status(Code.OK, ""), back, len(own), {})

        evaluate = get_parameters = get_properties = reconnect = lambda self, *rest: None

    manager = SimpleClientManager()
    for name in people.names:
        manager.register(Client(name))
    first = ndarrays_to_parameters([value.numpy() for value in target.parameters().values()])
    strategy = FedAvg(
        fraction_fit=federation.fraction, fraction_evaluate=0.0, initial_parameters=first, min_fit_clients=1,
        min_available_clients=1,
    )  # fmt: skip
    Server(client_manager=manager, strategy=strategy).fit(num_rounds=federation.rounds, timeout=60.0)


def stored(count: int) -> tuple[str, bool]:
    """The peak of a process that writes the rounds of ninety clients of emobase and attacks every client by its store.

    By VmHWM, which is of this program alone: getrusage, printed beside it, begins with what its parent had.
    """
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", STORED, folder, str(count)], capture_output=True, check=True, text=True
        )
        spent = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    written, peak, usage, claimed, right = map(int, done.stdout.split())
    return (
        f"{count} rounds of 90 clients on the disk ({size / 1e9:.2f} GB), then attacked by their store: {claimed} "
        f"clients claimed, {right} right, in {spent:.0f} s by the clock: peak {written / 1e6:.2f} GB after writing, "
        f"{peak / 1e6:.2f} GB after the attack (getrusage {usage / 1e6:.2f}); expected < 1 GB, more right than wrong",
        peak < 1_000_000 and right > 0.5 * claimed,
    )
