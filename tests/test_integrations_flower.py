"""Updates out of real Flower federations: one simulated by Ray, one by Flower's own server loop in this process."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.audit.files import fingerprint, read_claim, read_update
from leakscope.cli.ending import Exit
from leakscope.cli.main import app
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.integrations.federation import LOG, Arrays, Exchange, Setting, observe, record
from leakscope.integrations.flower import watch
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.round_files import RoundFiles
from leakscope.mechanisms.federated.stores import RoundsInMemory
from leakscope.mechanisms.population import Population
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.targets.files.foreign import for_model, load_tensors, read_foreign

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
pytest.importorskip("flwr", reason="the extra flower is not installed")

LR = 0.5
PLACE = Images(1, 3, 3)


def network():
    with Key(0).isolated():
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Sigmoid(), nn.Linear(6, 4))


def setting(folder, **more):
    target = Target(network(), PLACE, 4)
    return Setting(**{"target": target, "mechanism": FedAvg(steps=1, lr=LR), "folder": folder, **more})


def private(client):
    """The one image that a client has."""
    return torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(client)), torch.tensor([client])


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / LOG).read_text(encoding="utf-8").splitlines()]


def apart(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# --- messages, simulated by Ray ------------------------------------------------------------------------------------


OWN = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.entrance, self.exit = torch.nn.Linear(9, 6), torch.nn.Linear(6, 4)
        self.norm = torch.nn.LayerNorm(6)

    def forward(self, images):
        return self.exit(torch.nn.functional.silu(self.norm(self.entrance(images.flatten(1)))))
"""


def own_network(source=OWN):
    """Somebody's model, as their file says it."""
    space = {}
    exec(compile(source, "own_flower_net.py", "exec"), space)
    with Key(0).isolated():
        return space["Net"]()


def client_app(rate, seeds, source):
    """Everything inside, so that Ray's workers need nothing of this module."""
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from torch import nn

    app = ClientApp()

    @app.train()
    def train(message, context):
        space = {}
        exec(source, space)
        module = space["Net"]()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        client = seeds[context.node_config["partition-id"]]
        image = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(client))
        optimizer = torch.optim.SGD(module.parameters(), lr=rate)
        nn.functional.cross_entropy(module(image), torch.tensor([client])).backward()
        optimizer.step()
        metrics = MetricRecord({"num-examples": 1, "client": client})
        content = RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_two_rounds_of_a_simulated_federation_are_seen_and_inverted(tmp_path, monkeypatch):
    """A model file of the user's own, trained by Flower, audited from what the server saw by one command."""
    from flwr.app import ArrayRecord
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg as Strategy
    from flwr.simulation import run_simulation

    own = Strategy(fraction_evaluate=0.0)
    watched = watch(
        own,
        setting(
            tmp_path,
            target=Target(own_network(), PLACE, 4),
            most=2,
            attacks=(LinearLayer(),),
            model="own_flower_net:Net",
        ),
    )
    server, results = ServerApp(), []

    @server.main()
    def main(grid, context):
        initial = ArrayRecord(own_network().state_dict())
        results.append(watched.strategy.start(grid=grid, initial_arrays=initial, num_rounds=2))

    run_simulation(
        server,
        client_app(LR, [2, 3], OWN),
        num_supernodes=2,
        backend_config={
            "init_args": {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20},
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
        },
    )
    assert type(watched.strategy) is Strategy
    assert "configure_train" not in vars(own), "the caller's strategy is as it was"
    assert [entry.round for entry in watched.entries] == [1, 1, 2, 2]
    assert lines(tmp_path) == [vars(entry) for entry in watched.entries]
    weights = [read_update(tmp_path / entry.update).header.weights for entry in watched.entries]
    assert weights[0] == weights[1] == fingerprint(Target(own_network(), PLACE, 4))
    assert weights[2] == weights[3] != weights[0]
    images = {client: private(client)[0] for client in (2, 3)}
    for first in (0, 2):
        found = []
        for entry in watched.entries[first : first + 2]:
            claim = read_claim(tmp_path / entry.claim).attempt.claim.values
            found += [client for client, image in images.items() if float((claim - image).abs().max()) < 1e-3]
        assert sorted(found) == [2, 3], "each round gives away the image of each client"
    header = read_update(tmp_path / watched.entries[0].update).header
    assert (header.model, header.told, header.mechanism) == (
        "own_flower_net:Net",
        ("BatchSize(count=1)",),
        repr(FedAvg(steps=1, lr=LR)),
    )
    # the mean of what was seen is what the federation went on with: the updates are the real ones
    moved = [read_update(tmp_path / entry.update).release.by_name for entry in watched.entries[2:]]
    state = for_model(read_foreign(tmp_path / f"weights-{weights[2][:16]}.safetensors"), own_network()).parameters
    final = results[0].arrays.to_torch_state_dict()
    assert apart({name: state[name] + (moved[0][name] + moved[1][name]) / 2 for name in state}, final) < 1e-6
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_flower_net.py").write_text(OWN, encoding="utf-8")
    for entry, weight in zip(watched.entries[1:3], weights[1:3], strict=True):
        audited_by_one_command(entry.update, f"weights-{weight[:16]}.safetensors", images)
    audited_as_two_state_dicts(state, moved[0], images)


def audited_by_one_command(update, weights, images):
    """`leakscope attack` on the file of one client in one round, with the user's model file and nothing else."""
    done = command("attack", update, "--model", "own_flower_net:Net", "--state", weights, "--out", "claim.safetensors")
    assert done.exit_code == Exit.LEAK, done.stderr
    assert re.search(r"claimed +LinearLayer\(\): 1 inputs? in closed form.*proved", done.stdout), done.stdout
    assert_claimed(images)


def audited_as_two_state_dicts(state, moved, images):
    """The same from what two calls of `torch.save` leave behind."""
    torch.save(state, "before.pt")
    torch.save({name: state[name] + moved[name] for name in state}, "after.pt")
    done = command(
        "capture", "--model", "own_flower_net:Net", "--before", "before.pt", "--after", "after.pt", "--domain", "1x3x3",
        "--classes", 4, "--mechanism", f"FedAvg(steps=1, lr={LR})", "--tell", "BatchSize(1)", "--out", "u.safetensors",
    )  # fmt: skip
    assert done.exit_code == Exit.NO_LEAK_FOUND, done.stderr
    again = command(
        "attack", "u.safetensors", "--model", "own_flower_net:Net", "--state", "before.pt", "--out", "claim.safetensors"
    )
    assert again.exit_code == Exit.LEAK, again.stderr
    assert_claimed(images)


def assert_claimed(images):
    claim = read_claim(Path("claim.safetensors")).attempt.claim.values
    assert min(float((claim - image).abs().max()) for image in images.values()) < 1e-3
    Path("claim.safetensors").unlink()


def command(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# --- the older interface, in this process --------------------------------------------------------------------------


def older_client(number, behave):
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server.client_proxy import ClientProxy

    class Client(ClientProxy):
        def fit(self, ins, timeout, group_id):
            arrays = behave(number, parameters_to_ndarrays(ins.parameters))
            if arrays is None:
                raise RuntimeError("lost")
            return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), 1, {})

        evaluate = get_parameters = get_properties = reconnect = lambda self, *rest: None

    return Client(f"client-{number}")


def trained(number, arrays):
    module = network()
    module.load_state_dict(dict(zip(module.state_dict(), map(torch.tensor, arrays), strict=True)))
    image, label = private(number)
    nn.functional.cross_entropy(module(image), label).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= LR * parameter.grad
    return [value.numpy() for value in module.state_dict().values()]


def serve(strategy, behave=trained, rounds=2, clients=3):
    from flwr.server import Server, SimpleClientManager

    manager = SimpleClientManager()
    for number in range(clients):
        manager.register(older_client(number, behave))
    server = Server(client_manager=manager, strategy=strategy)
    server.fit(num_rounds=rounds, timeout=10.0)
    return server.parameters


def ndarrays(parameters):
    from flwr.common import parameters_to_ndarrays

    return parameters_to_ndarrays(parameters)


def older_strategy(**more):
    from flwr.common import ndarrays_to_parameters
    from flwr.server.strategy import FedAvg as Strategy

    initial = ndarrays_to_parameters([value.numpy() for value in network().state_dict().values()])
    return Strategy(fraction_evaluate=0.0, initial_parameters=initial, **more)


def test_the_older_interface_gives_the_same_updates_and_trains_the_same(tmp_path):
    watched = watch(older_strategy(), setting(tmp_path, nodes=("client-1",)))
    with_us, without = (ndarrays(serve(strategy)) for strategy in (watched.strategy, older_strategy()))
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(with_us, without, strict=True))
    assert [(entry.round, entry.node) for entry in watched.entries] == [(1, "client-1"), (2, "client-1")]
    update = read_update(tmp_path / watched.entries[0].update)
    target = Target(network(), PLACE, 4)
    expected = FedAvg(steps=1, lr=LR).release(target, batch(1), key=Key(0)).by_name
    assert apart(update.release.by_name, expected) < 1e-6
    second = network()
    load_tensors(second, for_model(read_foreign(next(iter(later(tmp_path, watched)))), second), "")
    expected = FedAvg(steps=1, lr=LR).release(Target(second, PLACE, 4), batch(1), key=Key(0)).by_name
    assert apart(read_update(tmp_path / watched.entries[1].update).release.by_name, expected) < 1e-6


def batch(client):
    from leakscope.core.batch import Batch

    return Batch(*private(client))


def later(folder, watched):
    header = read_update(folder / watched.entries[1].update).header
    return folder.glob(f"weights-{header.weights[:16]}.safetensors")


def test_what_goes_wrong_is_a_line_and_not_the_end_of_the_training(tmp_path):
    def behave(number, arrays):
        if number == 0:
            return None
        if number == 1:
            return [value * np.nan for value in arrays]
        return arrays

    names = ("client-0", "client-1", "client-2", "client-9")
    watched = watch(older_strategy(accept_failures=True), setting(tmp_path, nodes=names))
    serve(watched.strategy, behave, rounds=1)
    said = {entry.node: entry.sentence for entry in watched.entries}
    assert said["client-0"] == "it returned nothing"
    assert "1.weight in what the client returned holds numbers that are not finite" in said["client-1"]
    assert said["client-2"] == "the client returned what it was sent: nothing was trained"
    assert said["client-9"] == "it was not asked in this round"
    assert {line["node"]: line["sentence"] for line in lines(tmp_path)} == said


def test_without_names_the_first_that_answers_is_chosen(tmp_path):
    watched = watch(older_strategy(), setting(tmp_path))
    serve(watched.strategy, lambda number, arrays: None if number == 0 else trained(number, arrays))
    assert [entry.node for entry in watched.entries] == ["client-1", "client-1"]
    nobody = watch(older_strategy(), setting(tmp_path / "nobody"))
    serve(nobody.strategy, lambda number, arrays: None, rounds=1)
    assert [entry.sentence for entry in nobody.entries] == ["no client returned anything in this round"]


def test_the_page_shows_what_can_be_imported_and_set():
    page = (Path(__file__).parents[1] / "docs" / "integrations.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page.partition("## Opacus")[0], flags=re.DOTALL)[0]
    space = {}
    exec(compile(example, "docs/integrations.md", "exec"), space)
    assert space["setting"].target.count() == 65 * 32 + 33 * 10
    assert type(watch(space["FedAvg"](), space["setting"]).strategy) is space["FedAvg"]


# --- what is observed ----------------------------------------------------------------------------------------------


def exchange(before, after, examples=None, names=None):
    return Exchange(1, 7, Arrays(before, names), Arrays(after, names), examples)


def plain(module):
    return [value.numpy() for value in module.state_dict().values()]


@pytest.mark.parametrize(
    ("mechanism", "examples", "told"),
    [
        (FedAvg(steps=2, lr=1.0), 9, 9),
        (FedAvg(steps=2, lr=1.0, batch_size=3), 9, 6),
        (FedAvg(steps=2, lr=1.0, batch_size=3) >> Clip(1.0), 4, 4),
        (FedAvg(steps=2, lr=1.0), None, None),
    ],
)
def test_the_size_that_is_told_is_what_the_steps_can_have_touched(tmp_path, mechanism, examples, told):
    weights = plain(network())
    seen, _ = observe(setting(tmp_path, mechanism=mechanism), exchange(weights, weights, examples))
    assert (seen.told(BatchSize).count if seen.knows(BatchSize) else None) == told
    silent, _ = observe(setting(tmp_path, mechanism=mechanism, tell_size=False), exchange(weights, weights, examples))
    assert not silent.knows(BatchSize)
    own, _ = observe(setting(tmp_path, facts=(BatchSize(1),)), exchange(weights, weights, 50))
    assert own.told(BatchSize).count == 1


def test_running_statistics_are_put_into_the_model_and_said_to_be_left_out(tmp_path):
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4)), PLACE, 4)
    before, after = plain(target.module), [value + 1 for value in plain(target.module)]
    seen, notes = observe(setting(tmp_path, target=target), exchange([np.array(v) for v in after], before))
    assert float(seen.target.buffers()["2.running_mean"].min()) == 1
    assert set(seen.release.by_name) == set(target.parameters())
    assert all(float(value.max()) == pytest.approx(-1) for value in seen.release.by_name.values())
    assert any("running statistics" in note for note in notes)


def test_names_and_their_wrappers_are_understood(tmp_path):
    module = network()
    names = [f"module.{name}" for name in module.state_dict()]
    seen, notes = observe(setting(tmp_path), exchange(plain(module), [v + 1 for v in plain(module)], names=names))
    assert set(seen.release.by_name) == set(module.state_dict())
    assert any("'module.'" in note for note in notes)


def test_what_is_odd_about_an_update_is_noted(tmp_path):
    weights, names = plain(network()), list(network().state_dict())
    head = Exchange(1, 7, Arrays(weights), Arrays([value + 1 for value in weights[2:]], names[2:]))
    seen, notes = observe(setting(tmp_path), head)
    assert list(seen.release.by_name) == ["3.weight", "3.bias"]
    assert any("partial update: 2 of 4 tensors are missing" in note for note in notes)
    _, notes = observe(setting(tmp_path), exchange(weights, weights))
    assert notes[-1] == "every number of the update is zero: nothing was trained"


def test_the_attacks_failure_is_kept_beside_the_update(tmp_path):
    one = exchange(plain(network()), [value + 1 for value in plain(network())])
    entry = record(setting(tmp_path, attacks=(LinearLayer(),), target=Target(odd(), PLACE, 4)), one)
    assert entry.update
    assert "refused, reading the observation failed with RuntimeError: odd" in entry.sentence
    assert read_update(tmp_path / entry.update).release.by_name.keys() == network().state_dict().keys()


class Odd(nn.Sequential):
    def forward(self, x):
        raise RuntimeError("odd")


def odd():
    return Odd(*network())


def test_other_protocols_and_strategies_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"the clients of a federation send weights, but FedSGD\(\)"):
        setting(tmp_path, mechanism=FedSGD())
    with pytest.raises(BadInput, match="most >= 1, got 0"):
        setting(tmp_path, most=0)
    with pytest.raises(BadInput, match=r"expected a strategy of flwr\.serverapp\.strategy .* got FedAvg"):
        watch(FedAvg(steps=1, lr=1.0), setting(tmp_path))


# --- the store of a federation --------------------------------------------------------------------------------------


def test_flower_s_updates_are_those_of_a_federation_that_is_played_here(tmp_path):
    """Flower's own server trains three clients for two rounds; a Federation of the same three leaves the same store."""
    store = RoundFiles(tmp_path / "store")
    watched = watch(older_strategy(), setting(tmp_path, most=3, store=store))
    serve(watched.strategy)
    assert [entry.sentence for entry in watched.entries if not entry.update] == []
    people = Population(tuple(Batch(*private(n)) for n in range(3)), tuple(f"client-{n}" for n in range(3)))
    played = RoundsInMemory()
    Federation(FedAvg(steps=1, lr=LR), rounds=2, fraction=1.0).run(
        Target(network(), PLACE, 4), people, key=Key(0), into=played
    )
    assert store.numbers() == (1, 2), "Flower counts from 1"
    for name in people.names:
        for one, other in zip(store.rounds_of(name), played.rounds_of(name), strict=True):
            assert apart(one.weights, other.weights) < 1e-6
            assert apart(one.release.by_name, other.release.by_name) < 1e-6
    with pytest.raises(BadInput, match="the store has rounds already"):
        setting(tmp_path, store=RoundFiles(tmp_path / "store"))


def test_what_the_store_cannot_take_is_said_and_ends_nothing(tmp_path):
    store = RoundFiles(tmp_path / "store")
    watched = watch(older_strategy(), setting(tmp_path, store=store))
    (tmp_path / "store" / "round-000001.safetensors").mkdir()
    serve(watched.strategy)
    assert [entry.sentence for entry in watched.entries if entry.sentence.startswith("the store lacks")] != []
    assert lines(tmp_path) == [vars(entry) for entry in watched.entries]
    assert 2 in store.numbers()
