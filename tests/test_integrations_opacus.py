"""Steps of a real Opacus optimizer, against our own mechanism and Opacus's own accountants."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from dp_accounting import GaussianDpEvent
from torch import nn

from leakscope.attacks.inputs.dense.linear import LinearLayer
from leakscope.bounds.accounting import epsilon
from leakscope.core.attempt import Outcome
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.facts import BatchSize
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.integrations.opacus import watch
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key

opacus = pytest.importorskip("opacus", reason="the extra opacus is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]

PLACE = Images(1, 4, 4)
DELTA = 1e-5
CLIP = 1.19
"""Among the norms of the examples' gradients, so that some are clipped and some are not."""


def network():
    with Key(0).isolated():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


class Training:
    """Twelve private examples and an optimizer by `PrivacyEngine.make_private`."""

    def __init__(self, module=None, *, clip=CLIP, noise=0.0, poisson=False, **more):
        self.module = module or network()
        self.target = Target(self.module, PLACE, 3)
        images = torch.rand(12, 1, 4, 4, generator=Key(1).generator())
        data = torch.utils.data.TensorDataset(images, torch.arange(12) % 3)
        self.engine = opacus.PrivacyEngine()
        trained = [p for p in self.module.parameters() if p.requires_grad]
        self.model, self.optimizer, self.loader = self.engine.make_private(
            module=self.module,
            optimizer=torch.optim.SGD(trained, lr=0.5, momentum=0.5),
            data_loader=torch.utils.data.DataLoader(data, batch_size=4),
            noise_multiplier=noise,
            max_grad_norm=clip,
            poisson_sampling=poisson,
            **more,
        )

    def step(self, batch, reduction="mean"):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(batch.inputs), batch.labels, reduction=reduction).backward()
        self.optimizer.step()

    def batches(self):
        return [Batch(x, y) for x, y in self.loader]


def apart(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_without_noise_the_step_is_our_mechanism_at_the_weights_before_it():
    run = Training()
    steps = watch(run.target, run.model, run.optimizer, keep=3, facts=[BatchSize(4)])
    weights = []
    for batch in run.batches():
        weights.append(trees.detached(dict(run.module.named_parameters())))
        run.step(batch)
    assert steps.seen == len(steps.observations) == 3
    norms: list[float] = []
    for seen, batch, before in zip(steps.observations, run.batches(), weights, strict=True):
        assert apart(seen.target.parameters(), before) == 0
        assert seen.mechanism == DPSGD(CLIP, 0.0, expected=4)
        assert seen.told(BatchSize).count == 4
        alone = [DPSGD(99.0, 0.0).replay(seen.target, batch.rows(torch.tensor([i]))) for i in range(4)]
        norms += [float(trees.norm(one.by_name)) for one in alone]
        assert apart(seen.release.by_name, seen.mechanism.release(seen.target, batch, key=Key(0)).by_name) < 1e-5
        assert apart(seen.release.by_name, seen.mechanism.replay(seen.target, batch).by_name) < 1e-5
        assert all(not name.startswith("_module") for name in seen.release.by_name)
    assert 2 <= sum(norm > CLIP for norm in norms) <= len(norms) - 2
    assert not any(module._forward_hooks for module in seen.target.module.modules())


def test_a_poisson_batch_is_divided_by_what_was_expected():
    run = Training(poisson=True)
    steps = watch(run.target, run.model, run.optimizer, rate=run.loader.sample_rate)
    with Key(5).isolated():
        sizes = []
        for batch in run.batches():
            run.step(batch)
            sizes.append(len(batch))
            (seen,) = steps.observations
            assert seen.mechanism == DPSGD(CLIP, 0.0, expected=4, rate=1 / 3)
            assert apart(seen.release.by_name, seen.mechanism.replay(seen.target, batch).by_name) < 1e-5
    assert set(sizes) != {4}


def test_a_sum_is_not_divided_and_schedules_are_followed():
    run = Training(loss_reduction="sum")
    steps = watch(run.target, run.model, run.optimizer, keep=2)
    first, second, _ = run.batches()
    run.step(first, "sum")
    run.optimizer.max_grad_norm, run.optimizer.noise_multiplier = 0.3, 2.0
    run.step(second, "sum")
    one, two = steps.observations
    assert apart(one.release.by_name, DPSGD(CLIP, 0.0, expected=1).replay(one.target, first).by_name) < 1e-5
    assert two.mechanism == DPSGD(0.3, 2.0, expected=1)


def test_the_noise_is_as_large_as_declared():
    run = Training(noise=3.0)
    steps = watch(run.target, run.model, run.optimizer, keep=9)
    with Key(2).isolated():
        for _ in range(3):
            for batch in run.batches():
                run.step(batch)
    added = []
    for seen, batch in zip(steps.observations, 3 * run.batches(), strict=True):
        added.append(
            trees.flatten(trees.subtract(seen.release.by_name, seen.mechanism.replay(seen.target, batch).by_name))
        )
    noise = torch.cat(added)
    assert float(noise.std()) == pytest.approx(3.0 * CLIP / 4, rel=5 / math.sqrt(2 * len(noise)))


def test_epsilon_agrees_with_opacus():
    run = Training(noise=1.1, poisson=True)
    steps = watch(run.target, run.model, run.optimizer, rate=run.loader.sample_rate)
    assert epsilon(steps.event(), delta=DELTA) == epsilon(steps.training_event(), delta=DELTA) == 0
    with Key(3).isolated():
        for _ in range(2):
            for batch in run.batches():
                run.step(batch)
    run.optimizer.noise_multiplier = 2.2
    run.step(Batch(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])))
    assert steps.seen == sum(times for _, _, times in run.engine.accountant.history) == 7
    ours = epsilon(steps.training_event(), delta=DELTA)
    renyi = opacus.accountants.RDPAccountant()
    renyi.history = list(run.engine.accountant.history)
    assert run.engine.get_epsilon(DELTA) == pytest.approx(ours, abs=0.02)  # its PRV accountant's own error is 0.01
    assert ours <= renyi.get_epsilon(DELTA) <= 1.3 * ours
    # steps that the example is known to be in are not amplified: six of noise 1.1 and one of 2.2 are one of noise
    # 1 / sqrt(6 / 1.1^2 + 1 / 2.2^2)
    one = GaussianDpEvent(1 / math.sqrt(6 / 1.1**2 + 1 / 2.2**2))
    assert epsilon(steps.event(), delta=DELTA) == pytest.approx(epsilon(one, delta=DELTA), rel=1e-3)
    assert epsilon(one, delta=DELTA) > 2 * ours


def test_the_accountant_goes_on_and_the_hook_is_taken_back():
    run = Training(noise=1.0)
    accountant = run.optimizer.step_hook
    steps = watch(run.target, run.model, run.optimizer)
    run.step(run.batches()[0])
    steps.stop()
    assert run.optimizer.step_hook is accountant
    run.step(run.batches()[1])
    assert steps.seen == 1
    assert run.engine.accountant.history[0][2] == 2


def test_clipping_without_noise_gives_the_image_away():
    """The whole way: a private step of a real optimizer, seen, and inverted in closed form."""
    with Key(0).isolated():
        run = Training(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), clip=0.1)
    steps = watch(run.target, run.model, run.optimizer, facts=[BatchSize(1)])
    batch = run.batches()[0].rows(torch.tensor([2]))
    run.step(batch)
    attempt = LinearLayer().run(steps.observations[0], key=Key(0))
    assert attempt.outcome is Outcome.CLAIMED
    assert float((attempt.claim.values - batch.inputs).abs().max()) < 1e-4


def test_the_page_shows_what_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "integrations.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page.partition("## Opacus")[2], flags=re.DOTALL)
    with Key(0).isolated():
        exec(compile(example, "docs/integrations.md", "exec"), {})
    steps, bound = capsys.readouterr().out.split()[:2]
    assert int(steps) == 10
    assert 0 < float(bound) < 20


def frozen():
    module = network()
    module[0].requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda run: (run.target, run.model, torch.optim.SGD(run.module.parameters(), lr=1.0)),
            "DPOptimizer with flat",
        ),
        (lambda run: (Target(nn.Sequential(nn.Linear(16, 3)), PLACE, 3), run.model, run.optimizer), "differ in 0.bias"),
    ],
)
def test_what_cannot_be_watched_says_why(make, says):
    with pytest.raises(BadInput, match=says):
        watch(*make(Training()))


def test_other_clipping_and_frozen_layers_are_refused():
    run = Training(clip=[0.1] * 4, clipping="per_layer")
    with pytest.raises(BadInput, match="got DPPerLayerOptimizer; other clipping is another mechanism"):
        watch(run.target, run.model, run.optimizer)
    run = Training(frozen())
    with pytest.raises(BadInput, match=r"does not train 0.weight, 0.bias, .* trained part"):
        watch(run.target, run.model, run.optimizer)
    run = Training()
    with pytest.raises(BadInput, match="0 < rate <= 1, got 2"):
        watch(run.target, run.model, run.optimizer, rate=2)
