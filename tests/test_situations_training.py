"""Clients that normalized over their own batch: what running statistics tell, and what is found with them or not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import leakscope as ls
from leakscope.audit.files import read_update
from leakscope.cli.ending import Exit
from leakscope.cli.main import app
from leakscope.mechanisms.state import without_buffers
from leakscope.targets.looking.batch_statistics import variance_traces

K = ls.Key
DIGITS = ls.Digits(size=8)


def normalized(act=nn.ReLU, width=16, channels=1, side=8, **given):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width, **given), act(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width, **given), act(),
        nn.Flatten(), nn.Linear(side * side * width, 10),
    )  # fmt: skip


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10))


def used(make, seed):
    """A net whose running statistics are those of some use."""
    with K(seed).isolated(), torch.no_grad():
        net = make()
        for _ in range(3):
            net(DIGITS.public().inputs[:32])
    return net


def stepped(net, batch, steps=1, lr=0.1):
    """What whole state dicts say of steps in training mode, by torch's own optimizer."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.train().parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(batch.inputs), batch.labels).backward()
        optimizer.step()
    after = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(before)
    net.eval()
    return before, after


def statistics(net, inputs):
    """Mean and biased variance of what each normalization is given, by hooks of our own."""
    found = {}

    def note(name):
        def hook(_, given):
            axes = [axis for axis in range(given[0].dim()) if axis != 1]
            found[name] = (given[0].mean(axes), given[0].var(axes, correction=0))

        return hook

    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    handles = [module.register_forward_pre_hook(note(name)) for name, module in layers.items()]
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        net.train()(inputs)
    net.load_state_dict(kept)
    net.eval()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    "make",
    [
        normalized,
        dense,
        lambda: normalized(momentum=0.3),
        lambda: normalized(momentum=None),
        lambda: normalized(affine=False),
    ],
    ids=["images", "dense", "another momentum", "cumulative", "without scales"],
)
@pytest.mark.parametrize("count", [2, 5])
def test_running_statistics_that_moved_once_are_those_of_the_batch(make, count):
    net, secret = used(make, 3), DIGITS.draw(count, key=K(4)).reveal()
    before, after = stepped(net, secret)
    wanted = statistics(net, secret.inputs)
    seen = ls.Observation(
        ls.Target(net, DIGITS.domain, 10), ls.Delta.between(before, after), ls.FedAvg(steps=1, lr=0.1),
        (ls.BatchSize(count),),
    )  # fmt: skip
    found = without_buffers(seen)
    assert found.target.training
    assert set(found.release.by_name) == dict(net.named_parameters()).keys()
    told = dict(found.told(ls.BatchNormStatistics).by_layer)
    assert told.keys() == wanted.keys()
    for name, (mean, variance) in wanted.items():
        torch.testing.assert_close(torch.tensor(told[name].mean), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(told[name].variance), variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mechanism", "steps"),
    [
        (ls.FedAvg(steps=3, lr=0.1), 3),
        (ls.FedAvg(steps=1, lr=0.1, batch_size=2, accumulate=2), 1),
        (ls.FedAvg(steps=1, lr=0.1, batch_size=2), 1),
        (ls.FedAvg(steps=1, lr=0.1) >> ls.Clip(0.1), 1),
    ],
    ids=repr,
)
def test_of_several_passes_or_behind_a_defense_nothing_is_told(mechanism, steps):
    net, secret = used(normalized, 3), DIGITS.draw(4, key=K(4)).reveal()
    delta = ls.Delta.between(*stepped(net, secret, steps))
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), delta, mechanism, (ls.BatchSize(4),))
    found = without_buffers(seen)
    assert found.target.training
    assert not found.knows(ls.BatchNormStatistics)
    assert not [name for name in found.release.by_name if "running" in name]


@pytest.mark.parametrize("momentum", [1.0, 0.95, None, 0.1])
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "without counters"])
def test_of_two_passes_that_are_declared_one_nothing_is_told(momentum, counted):
    # at a momentum of 1, or in the first cumulative pass, any numbers look like those of one batch
    net, secret = used(lambda: normalized(momentum=momentum), 3), DIGITS.draw(4, key=K(4)).reveal()
    delta = ls.Delta.between(*stepped(net, secret, 2)).by_name
    assert sum(name.endswith("num_batches_tracked") for name in delta) == len(statistics(net, secret.inputs))
    kept = ls.Delta({name: v for name, v in delta.items() if counted or not name.endswith("num_batches_tracked")})
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), kept, ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(4),))
    found = without_buffers(seen)
    assert found.target.training
    assert not found.knows(ls.BatchNormStatistics)
    assert not found.release.by_name.keys() - dict(net.named_parameters()).keys()


@pytest.mark.parametrize("momentum", [1.0, 0.1])
def test_without_counters_or_without_a_trace_of_the_past_nothing_is_told(momentum):
    net, secret = used(lambda: normalized(momentum=momentum), 3), DIGITS.draw(4, key=K(4)).reveal()
    delta = ls.Delta.between(*stepped(net, secret)).by_name
    if momentum < 1:
        delta = {name: value for name, value in delta.items() if not name.endswith("num_batches_tracked")}
    seen = ls.Observation(
        ls.Target(net, DIGITS.domain, 10), ls.Delta(delta), ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(4),)
    )
    assert not without_buffers(seen).knows(ls.BatchNormStatistics)


def test_statistics_that_did_not_move_leave_the_mode_alone():
    net, secret = used(normalized, 3), DIGITS.draw(1, key=K(4)).reveal()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    F.cross_entropy(net.eval()(secret.inputs), secret.labels).backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    delta = ls.Delta.between(before, net.state_dict())
    net.load_state_dict(before)
    seen = ls.Observation(ls.Target(net, DIGITS.domain, 10), delta, ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(1),))
    found = without_buffers(seen)
    assert not found.target.training
    assert found.facts == seen.facts
    attempt = ls.inverting_gradients(steps=150, tv=1e-3).run(seen, key=K(0))
    assert ls.score(attempt.claim, secret, domain=DIGITS.domain)["psnr"].value > 20, attempt.sentence


@pytest.mark.parametrize(
    ("sent", "act", "count"),
    # each with each other once
    [
        ("the gradient", nn.ReLU, 4), ("the gradient", nn.Sigmoid, 1),
        ("the state dict", nn.ReLU, 1), ("the state dict", nn.Sigmoid, 4),
    ],
)  # fmt: skip
def test_a_batch_is_found_behind_its_own_normalization(sent, act, count):
    # 10 to 12 dB without the statistics and without the contrast, which the update does not tell
    with K(40).isolated():
        net = normalized(act)
    secret = DIGITS.draw(count, key=K(41)).reveal()
    before, after = stepped(net, secret)
    delta = ls.Delta.between(before, after)
    parameters = {name: value for name, value in delta.by_name.items() if "running" not in name}
    release = delta if sent == "the state dict" else ls.Delta(parameters)
    seen = ls.Observation(
        ls.Target(net, DIGITS.domain, 10), release, ls.FedAvg(steps=1, lr=0.1), (ls.BatchSize(count),)
    )
    attempt = ls.inverting_gradients(steps=400, tv=1e-3).run(seen, key=K(0))
    assert ls.score(attempt.claim, secret, domain=DIGITS.domain)["psnr"].value > 25, attempt.sentence
    assert ("added to their variance" in attempt.sentence) is (sent == "the gradient")
    assert "taken from the statistics of the batch" not in attempt.sentence or sent == "the state dict"
    assert "assumes one client alone" in attempt.sentence or "taken from the statistics" not in attempt.sentence
    assert "mean and std" not in attempt.sentence


def derived(net, batch):
    """The gradient in training mode, by autograd; the net is left as it was."""
    before, _ = stepped(net, batch, lr=0.0)
    slopes = torch.autograd.grad(F.cross_entropy(net.train()(batch.inputs), batch.labels), list(net.parameters()))
    net.load_state_dict(before)
    net.eval()
    return {name: slope for (name, _), slope in zip(net.named_parameters(), slopes, strict=True)}


@pytest.mark.parametrize("make", [normalized, dense, lambda: normalized(eps=1e-3)], ids=["images", "dense", "eps"])
@pytest.mark.parametrize("count", [2, 5])
def test_eps_betrays_the_variance_of_each_channel(make, count):
    net, secret = used(make, 5), DIGITS.draw(count, key=K(6)).reveal()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.copy_(torch.rand(len(module.weight), generator=K(7).generator()) + 0.5)
    (wanted_name, (_, wanted)), *_ = statistics(net, secret.inputs).items()
    target = ls.Target(net, DIGITS.domain, 10, training=True)
    name, found, learned = variance_traces(target, derived(net, secret))
    assert name == wanted_name
    layer = net.get_submodule(name)
    # most channels to some percent: what cancels in float32 is larger than what is left by eps
    said = learned / found - layer.eps
    assert float(((said / wanted - 1).abs() < 0.1).float().mean()) > 0.6
    assert float(((found * (wanted + layer.eps) - learned) / learned.norm()).norm()) < 0.05


def test_without_learned_scales_or_out_of_training_mode_eps_says_nothing():
    secret = DIGITS.draw(2, key=K(6)).reveal()
    for net, training in ((used(lambda: normalized(affine=False), 5), True), (used(normalized, 5), False)):
        assert variance_traces(ls.Target(net, DIGITS.domain, 10, training=training), derived(net, secret)) is None


@pytest.mark.parametrize(
    ("low", "high", "sent"), [(0.3, 0.6, "the gradient"), (0.0, 0.5, "its half"), (0.4, 1.0, "the gradient")]
)
def test_inputs_that_do_not_fill_the_range_keep_their_contrast(low, high, sent):
    # 11 dB when what was found was stretched to the range
    with K(50).isolated():
        net = normalized()
    drawn = DIGITS.draw(1, key=K(51)).reveal()
    secret = ls.Batch(low + (high - low) * drawn.inputs, drawn.labels)
    gradient = derived(net, secret)
    mechanism = ls.FedSGD() >> ls.Clip(0.5 * float(sum(v.square().sum() for v in gradient.values())) ** 0.5)
    plain = sent == "the gradient"
    release = ls.Gradient({name: value if plain else 0.5 * value for name, value in gradient.items()})
    target = ls.Target(net, DIGITS.domain, 10, training=True)
    seen = ls.Observation(target, release, ls.FedSGD() if plain else mechanism, (ls.BatchSize(1),))
    attempt = ls.inverting_gradients(steps=400, tv=1e-3).run(seen, key=K(0))
    assert ls.score(attempt.claim, secret, domain=DIGITS.domain)["psnr"].value > 35, attempt.sentence


def test_where_nothing_tells_the_contrast_nothing_is_made_of_it():
    with K(50).isolated():
        net = normalized()
    secret = DIGITS.draw(1, key=K(51)).reveal()
    signs = {name: value.sign() for name, value in derived(net, secret).items()}
    target = ls.Target(net, DIGITS.domain, 10, training=True)
    seen = ls.Observation(target, ls.Gradient(signs), ls.FedSGD() >> ls.Sign(), (ls.BatchSize(1),))
    attempt = ls.inverting_gradients(steps=100, tv=1e-3).run(seen, key=K(0))
    assert "contrast" not in attempt.sentence


def test_capture_reads_the_batchs_statistics_off_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    first = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()\n"
        "    return nn.Sequential(*first, nn.Flatten(), nn.Linear(512, 10))\n"
    )
    with K(7).isolated():
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
    secret = DIGITS.draw(2, key=K(8)).reveal()
    for name, state in zip(("before.pt", "after.pt"), stepped(net, secret), strict=True):
        torch.save(state, name)
    done = CliRunner().invoke(
        app,
        ["capture", "--model", "own:make", "--state", "before.pt", "--before", "before.pt", "--after", "after.pt",
         "--domain", "Images(1, 8, 8)", "--classes", "10", "--mechanism", "FedAvg(steps=1, lr=0.1)",
         "--tell", "BatchSize(2)", "--out", "u.safetensors"],
    )  # fmt: skip
    assert done.exit_code == Exit.NO_LEAK_FOUND, done.output
    assert "tell the mean and the variance of the client's batch" in " ".join(done.output.split())
    told = read_update(tmp_path / "u.safetensors").header.told
    assert [one.partition("(")[0] for one in told] == ["BatchSize", "BatchNormStatistics"]
