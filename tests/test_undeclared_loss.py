"""Output layers without a bias, and losses that were not declared, by a client in plain PyTorch: no false proof."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.inputs.layer_by_layer.revealed_features import ONE_FACTOR
from leakscope.attacks.parts.reading.proof import ANY_SIZE
from leakscope.attacks.parts.reading.scale import any_size


def hot(out: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, out.shape[1]).to(out)


LOSSES = {
    "mixed labels": lambda o, y: 0.6 * F.cross_entropy(o, y) + 0.4 * F.cross_entropy(o, (y + 1) % o.shape[1]),
    "uniform labels": lambda o, y: F.cross_entropy(o, torch.full_like(o, 1 / o.shape[1])),
    "smoothing": lambda o, y: F.cross_entropy(o, y, label_smoothing=0.9),
    "absolute error": lambda o, y: F.l1_loss(o, hot(o, y)),
    "hinge": F.multi_margin_loss,
    "normalized logits": lambda o, y: F.cross_entropy(F.normalize(o) / 0.1, y),
    "a teacher": lambda o, y: -((o.flip(1) * 3).detach().softmax(1) * (o / 4).log_softmax(1)).sum(1).mean(),
    "opposite sign": lambda o, y: -F.cross_entropy(o, y),
}


def net(
    seed: int, classes: int, act: type[nn.Module] = nn.ReLU, *, below: bool = True, scale: float = 1.0
) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.Linear(36, 40, bias=below), act(), nn.Linear(40, classes, bias=False)).eval()
    with torch.no_grad():
        made[-1].weight.mul_(scale)
    return made


def seen(module: nn.Module, inputs: Tensor, labels: Tensor, loss=F.cross_entropy, *facts, mechanism=None):
    slopes = torch.autograd.grad(loss(module(inputs), labels), tuple(module.parameters()))
    sent = {name: slope for (name, _), slope in zip(module.named_parameters(), slopes, strict=True)}
    target = ls.Target(module, ls.Images(*inputs.shape[1:]), module[-1].out_features)
    return ls.Observation(target, ls.Gradient(sent), mechanism or ls.FedSGD(), facts)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_sign_of_one_label_is_no_proof_under_another_loss(loss) -> None:
    for seed in range(8):
        classes = (3, 4, 5, 10)[seed % 4]
        module = net(seed, classes, scale=(1.0, 6.0)[seed % 2])
        inputs, labels = torch.rand(1, 1, 6, 6), torch.randint(classes, (1,))
        attempt = ls.LabelSigns().run(seen(module, inputs, labels, loss, ls.BatchSize(1)), key=ls.Key(0))
        assert not attempt.certified


@pytest.mark.parametrize("scale", [1.0, 6.0, 20.0])
def test_the_sign_of_one_label_is_proved_under_the_declared_loss(scale: float) -> None:
    for seed in range(6):
        module = net(seed, (3, 4, 10)[seed % 3], scale=scale)
        inputs, labels = torch.rand(1, 1, 6, 6), torch.randint(3, (1,))
        attempt = ls.LabelSigns().run(seen(module, inputs, labels, F.cross_entropy, ls.BatchSize(1)), key=ls.Key(0))
        assert attempt.certified
        assert attempt.claim.values.tolist() == labels.tolist()
        assert "given the declared loss" in attempt.certificate.statement


def test_a_clip_leaves_the_direction_of_the_one_error() -> None:
    module = net(0, 5)
    inputs, labels = torch.rand(1, 1, 6, 6), torch.tensor([2])
    for loss, proved in ((F.cross_entropy, True), (LOSSES["mixed labels"], False), (LOSSES["smoothing"], False)):
        clipped = ls.FedSGD() >> ls.Clip(0.05)
        plain = seen(module, inputs, labels, loss)
        size = torch.cat([one.flatten() for one in plain.release.by_name.values()]).norm()
        sent = ls.Gradient({name: one * 0.05 / size for name, one in plain.release.by_name.items()})
        told = ls.Observation(plain.target, sent, clipped, (ls.BatchSize(1),))
        assert ls.LabelSigns().run(told, key=ls.Key(0)).certified == proved


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_labels_that_could_come_apart_and_do_not_are_not_proved(loss) -> None:
    for seed in range(6):
        module, count = net(seed, 20), 1 + seed % 3
        inputs, labels = torch.rand(count, 1, 6, 6), torch.randint(20, (count,))
        attempt = ls.RevealedLabels().run(
            seen(module, inputs, labels, loss, ls.BatchSize(count)), key=ls.Key(seed), budget=ls.Budget(seconds=2)
        )
        assert attempt.certificate is None or not any(attempt.certificate.proved)
        assert attempt.claim is None or attempt.claim.absent is None


def features(module: nn.Module, seed: int, temperature: float):
    inputs, labels = torch.rand(1 + seed % 3, 1, 6, 6), torch.randint(30, (1 + seed % 3,))
    told = ls.BatchSize(len(labels))
    attempt = ls.RevealedFeatures().run(
        seen(module, inputs, labels, lambda o, y: F.cross_entropy(o / temperature, y), told), key=ls.Key(seed)
    )
    with torch.no_grad():
        fed = inputs
        for name, layer in module.named_children():
            if name == attempt.claim.layer:
                break
            fed = layer(fed)
    return attempt, fed.flatten(1).double()


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.ReLU])
def test_a_temperature_contradicts_the_layer_below(act: type[nn.Module]) -> None:
    proved = 0
    for seed in range(6):
        attempt, _ = features(net(seed, 30, act), seed, 3.0)
        assert attempt.certificate is None or not any(attempt.certificate.proved)
        attempt, fed = features(net(seed, 30, act), seed, 1.0)
        if attempt.certified:
            proved += 1
            assert ONE_FACTOR not in attempt.certificate.statement
            assert float(torch.cdist(attempt.claim.values, fed).min(1).values.max()) < 1e-3 * float(fed.norm())
    assert proved >= 4


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU])
def test_where_nothing_shows_a_temperature_one_factor_is_left_open(act: type[nn.Module]) -> None:
    """A net without biases gives the same gradient of other inputs; of GELU no layer below is read."""
    for temperature in (1.0, 3.0):
        attempt, fed = features(net(1, 30, act, below=False), 0, temperature)
        assert any(attempt.certificate.proved)
        assert ONE_FACTOR in attempt.certificate.statement
        claimed = attempt.claim.values.double()
        cosine = (claimed @ fed.T) / claimed.norm(dim=1, keepdim=True) / fed.norm(dim=1)
        assert float(cosine.max(1).values.min()) > 1 - 1e-6


@pytest.mark.parametrize("faint", [1e-3, 1e-4])
def test_the_mean_that_a_faint_layer_was_fed_is_no_input(faint: float) -> None:
    """Its size is not told, and pictures of one class have one error where the layer hardly sees them."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)).eval()
    with torch.no_grad():
        module[1].weight.mul_(faint)
        module[1].bias.fill_(0.5)
    inputs, labels = torch.rand(3, 1, 8, 8), torch.full((3,), 4)
    attempt = ls.RevealedFeatures().run(seen(module, inputs, labels), key=ls.Key(0))
    assert attempt.certificate is None or not any(attempt.certificate.proved)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("divided", [1.0, 2.0, 0.5])
def test_the_size_of_an_input_rests_on_the_loss_where_no_layer_has_a_bias(divided: float, biased: bool) -> None:
    """A loss with a temperature sends of x what the declared one sends of x / T, to the last digit."""
    proved = 0
    for seed in range(6):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(36, 40, bias=biased), nn.ReLU(), nn.Linear(40, 9, bias=False))
        inputs, labels = 0.5 * torch.rand(1, 1, 6, 6), torch.randint(9, (1,))
        given = seen(module.eval(), inputs, labels, lambda o, y: F.cross_entropy(o / divided, y), ls.BatchSize(1))
        attempt = ls.Recursive().run(given, key=ls.Key(0))
        if not attempt.certified:
            continue
        proved += 1
        assert (ANY_SIZE in attempt.certificate.statement) is not biased
        factor = divided if not biased else 1.0
        torch.testing.assert_close(factor * attempt.claim.values, inputs, atol=1e-3, rtol=0)
    assert proved or (biased and divided != 1)


class Exposed(nn.Module):
    """Fails where it is run on tensors that `torch.func` made."""

    def forward(self, given: Tensor) -> Tensor:
        if torch._C._functorch.is_gradtrackingtensor(given):
            raise RuntimeError("no function of tensors")
        return given


def test_a_model_whose_size_cannot_be_looked_at_is_said_to_have_any() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), Exposed(), nn.ReLU(), nn.Linear(40, 9)).eval()
    inputs = torch.rand(1, 1, 6, 6)
    given = seen(module, inputs, torch.tensor([1]), F.cross_entropy, ls.BatchSize(1))
    assert any_size(given, ls.Inputs(inputs, torch.tensor([1])))


def test_no_class_is_absent_where_the_rows_do_not_sum_to_zero() -> None:
    """Too many samples to come apart, and a loss that pulls the logits to zero: its errors are no p - y."""

    def pulled(out: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(out, labels) + 0.05 * out.square().sum(1).mean()

    found = 0
    for seed in range(24):
        classes, count = ((10, 5), (10, 6), (20, 9), (19, 9))[seed % 4]
        module = net(seed, classes, nn.Tanh)
        inputs, labels = torch.rand(count, 1, 6, 6), torch.randint(classes, (count,))
        for loss in (F.cross_entropy, pulled):
            given = seen(module, inputs, labels, loss, ls.BatchSize(count))
            claim = ls.RevealedLabels().run(given, key=ls.Key(seed), budget=ls.Budget(seconds=2)).claim
            absent = set() if claim is None or claim.absent is None else set(claim.absent.tolist())
            assert not absent & set(labels.tolist())
            assert not absent or loss is F.cross_entropy
            found += len(absent)
    assert found


def test_how_often_a_label_occurs_is_proved_given_that_all_weigh_alike() -> None:
    """A loss that counts one class double sends what two equal examples of it send, and nothing tells them apart."""
    module = net(3, 40, below=True)
    inputs, labels = torch.rand(3, 1, 6, 6), torch.tensor([4, 11, 30])
    weights = torch.ones(40)
    weights[11] = 2.0
    sent = seen(module, inputs, labels, lambda o, y: F.cross_entropy(o, y, weight=weights))
    attempt = ls.RevealedLabels().run(sent, key=ls.Key(0))
    assert sorted(attempt.claim.values.tolist()) == [4, 11, 11, 30]
    assert attempt.certificate is not None
    assert "given the declared loss, in which all weigh alike" in attempt.certificate.statement
    told = ls.Observation(sent.target, sent.release, sent.mechanism, (ls.BatchSize(3),))
    attempt = ls.RevealedLabels().run(told, key=ls.Key(0))
    assert attempt.certificate is None or not any(attempt.certificate.proved)


def sure_as_smoothed(seed: int, classes: int, steps: int, *, smoothing: float, factor: float = 1.13):
    """What a client sends whose model is as sure as it was trained to be with smoothing, of four examples."""
    with ls.Key(seed).isolated():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
        labels, inputs = torch.randint(classes, (4,)), 0.1 * torch.rand(4, 16)
        inputs[torch.arange(4), labels] = 0.9 + 0.1 * torch.rand(4)
    noise = torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # log p / (1 - p) of p = 0.9, about which the examples' own lie.
        module[1].weight.copy_(factor * math.log(9 * (classes - 1)) * torch.eye(classes, 16) + 0.35 * noise)
        module[1].bias.zero_()
    inputs, names = inputs.view(4, 1, 4, 4), ("1.weight", "1.bias")
    target, start = ls.Target(module, ls.Images(1, 4, 4), classes), [p.detach().clone() for p in module.parameters()]
    descent = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(steps):
        descent.zero_grad()
        F.cross_entropy(module(inputs), labels, label_smoothing=smoothing).backward()
        descent.step()
    moved = [p.detach() - s for p, s in zip(module.parameters(), start, strict=True)]
    if steps == 1:
        # Of one step at this rate the gradient itself.
        sent, mechanism = ls.Gradient({n: p.grad for n, p in module.named_parameters()}), ls.FedSGD()
    else:
        sent, mechanism = ls.Delta(dict(zip(names, moved, strict=True))), ls.FedAvg(steps=steps, lr=0.01)
    attempt = ls.RevealedLabels().run(ls.Observation(target, sent, mechanism, (ls.BatchSize(4),)), key=ls.Key(0))
    return attempt, set(labels.tolist())


def proved_labels(attempt: ls.Attempt[ls.Labels]) -> set[int]:
    if attempt.certificate is None:
        return set()
    pairs = zip(attempt.claim.values.tolist(), attempt.certificate.proved, strict=True)
    return {label for label, sure in pairs if sure}


@pytest.mark.parametrize("seed", [771020, 771080, 771094, 771122, 771148, 771262])
def test_the_sign_of_smoothing_is_no_label_where_the_model_is_as_sure_as_smoothing_makes_it(seed: int) -> None:
    """All errors are small then, and what smoothing adds to absent classes is as deep as those of labels."""
    attempt, labels = sure_as_smoothed(seed, 10, 3, smoothing=0.1)
    assert attempt.claim is not None
    assert not proved_labels(attempt) - labels


@pytest.mark.parametrize("seed", [771000, 771002, 771025, 771052])
def test_no_class_is_absent_where_signs_may_be_those_of_smoothing(seed: int) -> None:
    attempt, labels = sure_as_smoothed(seed, 9, 1, smoothing=0.1)
    assert attempt.claim is not None
    assert attempt.claim.absent is None or not labels & set(attempt.claim.absent.tolist())


@pytest.mark.parametrize("seed", range(771000, 771006))
def test_labels_of_which_a_model_is_not_so_sure_are_proved_by_signs(seed: int) -> None:
    attempt, labels = sure_as_smoothed(seed, 10, 3, smoothing=0.0, factor=0.3)
    proved = proved_labels(attempt)
    assert proved
    assert proved <= labels


@pytest.mark.parametrize(("decay", "momentum"), [(0.01, 0.9), (0.005, 0.9), (0.01, 0.0)])
def test_a_penalty_that_momentum_adds_up_is_no_label(decay: float, momentum: float) -> None:
    """A client of one class, which the model knows, and biases of classes that are rare: these are pulled to zero."""
    for seed in range(771300, 771306):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 10))
        with torch.no_grad():
            module[3].bias.zero_()
            module[3].bias[[2, 7]], module[3].bias[5] = -5.0, 4.5
        inputs, labels = torch.rand(4, 1, 4, 4), torch.full((4,), 5)
        target, start = ls.Target(module, ls.Images(1, 4, 4), 10), [p.detach().clone() for p in module.parameters()]
        descent = torch.optim.SGD(module.parameters(), lr=0.02, momentum=momentum, weight_decay=decay)
        for _ in range(20):
            descent.zero_grad()
            F.cross_entropy(module(inputs), labels).backward()
            descent.step()
        moved = {n: p.detach() - s for (n, p), s in zip(module.named_parameters(), start, strict=True)}
        told = ls.Observation(target, ls.Delta(moved), ls.FedAvg(steps=20, lr=0.02), (ls.BatchSize(4),))
        assert proved_labels(ls.RevealedLabels().run(told, key=ls.Key(0))) <= {5}
