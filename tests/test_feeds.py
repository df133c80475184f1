"""Ways into the model: every feed by both routes of every protocol, beside a forward that is called by hand."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.tolerance import close, close_trees
from torch import nn

import leakscope as ls
from leakscope.attacks.parts.search.execution import Course, executed, laid_out
from leakscope.cli.expressions import build
from leakscope.cli.models import recipe
from leakscope.cli.names import Family
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.core.feed import InputsOnly, Keywords, TeacherForced, WithLengths, picked
from leakscope.core.target import AbstractLoss, CrossEntropy, Target
from leakscope.domains.speech import Frames
from leakscope.domains.text import Text
from leakscope.domains.vision import Images
from leakscope.mechanisms.observe import observe
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.targets.looking.context_window import context_window
from leakscope.targets.looking.dense_ends import input_layer, output_layer
from leakscope.targets.looking.token_entry import token_entry
from leakscope.targets.recipes.imported import Imported
from leakscope.targets.recipes.trained import Trained
from leakscope.targets.restricted import only
from leakscope.targets.vetting.model import vet

# ---- models that are called in other ways


class Pooling(nn.Module):
    """Classifies the mean of the real frames: forward(frames, lengths)."""

    def __init__(self):
        nn.Module.__init__(self)
        self.one, self.two = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, frames, lengths):
        real = (torch.arange(frames.shape[1]) < lengths[:, None]).to(frames.dtype)[..., None]
        return self.two((torch.tanh(self.one(frames)) * real).sum(1) / lengths[:, None])


class Recognizer(nn.Module):
    """A decoder that attends to frames and is told the tokens so far: forward(frames, tokens)."""

    def __init__(self):
        nn.Module.__init__(self)
        self.frames, self.tokens, self.head = nn.Linear(3, 5), nn.Embedding(6, 5), nn.Linear(10, 6)

    def forward(self, frames, tokens):
        keys, queries = torch.tanh(self.frames(frames)), self.tokens(tokens).cumsum(1)
        seen = torch.softmax(queries @ keys.transpose(1, 2), -1) @ keys
        return self.head(torch.cat([seen, queries], -1))


class Masked(nn.Module):
    """Classifies texts, is called by keywords and returns an object, as the models of Hugging Face."""

    def __init__(self):
        nn.Module.__init__(self)
        self.tokens, self.one, self.head = nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, *, input_ids, attention_mask):
        real = attention_mask[..., None].to(self.head.weight.dtype)
        states = torch.tanh(self.one(self.tokens(input_ids)))
        return Output(self.head((states * real).sum(1) / real.sum(1)), states)


class Pictures(nn.Module):
    """Returns several tensors by name."""

    def __init__(self):
        nn.Module.__init__(self)
        self.one, self.two = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        hidden = torch.tanh(self.one(x.flatten(1)))
        return {"hidden": hidden, "logits": self.two(hidden), "auxiliary": -self.two(hidden)}


@dataclass
class Output:
    logits: Any
    states: Any


@dataclass(frozen=True)
class PerLabel(AbstractLoss):
    """Mean cross-entropy of the real labels, in their order; a loss of the user's own."""

    def __call__(self, outputs, batch):
        real = torch.arange(batch.labels.shape[1]) < batch.label_lengths[:, None]
        each = F.cross_entropy(outputs.transpose(1, 2), batch.labels, reduction="none")
        return (each * real).sum(1).div(batch.label_lengths).mean()

    def check(self, batch, classes):
        assert batch.label_lengths is not None

    def labeled(self, inputs, classes):
        count, whole = len(inputs), torch.full((len(inputs),), 2)
        return Batch(inputs, torch.ones(count, 2, dtype=torch.int64), whole.clamp(max=inputs.shape[1]), whole)


@dataclass(frozen=True)
class First(AbstractLoss):
    """Cross-entropy of the first label of each sequence."""

    def __call__(self, outputs, batch):
        return F.cross_entropy(outputs, batch.labels[:, 0])

    def check(self, batch, classes):
        assert batch.label_lengths is not None

    def labeled(self, inputs, classes):
        return PerLabel().labeled(inputs, classes)


SOUND = torch.rand(3, 6, 3, generator=Key(1).generator(), dtype=torch.float64)
LENGTHS, SAID = torch.tensor([6, 4, 2]), torch.tensor([2, 3, 1])
SOUND[1, 4:], SOUND[2, 2:] = 0, 0
SPOKEN = Batch(SOUND, torch.tensor([[3, 1, 0], [2, 2, 1], [0, 0, 0]]), LENGTHS, SAID)
TEXTS = Batch(torch.tensor([[5, 2, 8, 0], [1, 1, 0, 0], [7, 3, 4, 6]]), torch.tensor([3, 0, 1]))
SEEN = Batch(torch.rand(3, 3, 2, 2, generator=Key(2).generator(), dtype=torch.float64), torch.tensor([1, 0, 3]))


@dataclass(frozen=True)
class Case:
    """A target with a feed, a batch for it, and the forward written out by hand."""

    make: Callable[[], Target]
    batch: Batch
    by_hand: Callable[[nn.Module, Batch], torch.Tensor]


def target(module, domain, classes, **rest):
    with Key(5).isolated():
        return Target(module().double(), domain, classes, **rest)


CASES = {
    "lengths": Case(
        lambda: target(Pooling, Frames(3), 4, loss=First(), feed=WithLengths()),
        SPOKEN,
        lambda module, batch: module(batch.inputs, batch.lengths),
    ),
    "decoder": Case(
        lambda: target(Recognizer, Frames(3), 6, loss=PerLabel(), feed=TeacherForced(start=1)),
        SPOKEN,
        lambda module, batch: module(batch.inputs, torch.tensor([[1, *row[:-1]] for row in batch.labels.tolist()])),
    ),
    "keywords": Case(
        lambda: target(Masked, Text(9, 4), 4, feed=Keywords(mask="attention_mask")),
        TEXTS,
        lambda module, batch: module(input_ids=batch.inputs, attention_mask=(batch.inputs > 0).long()).logits,
    ),
    "names": Case(
        lambda: target(Pictures, Images(3, 2, 2), 4, feed=InputsOnly(pick="logits")),
        SEEN,
        lambda module, batch: module(batch.inputs)["logits"],
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def steps_by_hand(case, steps, lr):
    """Plain gradient descent on the bare module: no feed, no Target, no functional call."""
    made = case.make()
    module = made.module.requires_grad_(True)
    for _ in range(steps):
        loss = made.loss(case.by_hand(module, case.batch), case.batch)
        named = dict(module.named_parameters())
        slopes = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for parameter, slope in zip(named.values(), slopes, strict=True):
                parameter -= lr * slope
    return dict(zip(named, slopes, strict=True)), {name: p.detach() for name, p in named.items()}


@cases
def test_both_routes_of_the_gradient_are_the_forward_that_is_called_by_hand(case):
    made = case.make()
    wanted, _ = steps_by_hand(case, 1, 0.0)
    seen = observe(made, case.batch, FedSGD(), key=Key(0))
    close_trees(seen.release.by_name, wanted)
    close_trees(FedSGD().replay(made, case.batch).by_name, wanted)
    assert all(bool((value != 0).any()) for value in wanted.values())


@cases
def test_local_steps_go_through_the_feed_too(case):
    made = case.make()
    _, after = steps_by_hand(case, 3, 0.3)
    moved = trees.subtract(after, made.parameters())
    mechanism = FedAvg(steps=3, lr=0.3)
    close_trees(observe(made, case.batch, mechanism, key=Key(0)).release.by_name, moved)
    close_trees(mechanism.replay(made, case.batch).by_name, moved)


@cases
def test_single_examples_keep_their_lengths_and_labels(case):
    made, mechanism = case.make(), DPSGD(clip=0.1, noise_multiplier=0.0)
    sent = observe(made, case.batch, mechanism, key=Key(0)).release
    close_trees(mechanism.replay(made, case.batch).by_name, sent.by_name)


@cases
def test_outputs_side_by_side_are_those_one_after_the_other(case):
    made = case.make()
    orders = [torch.tensor(order) for order in ([0, 1, 2], [2, 0, 1])]
    fields = ["inputs", "labels", *(["lengths", "label_lengths"] if case.batch.lengths is not None else [])]
    stacked = [torch.stack([getattr(case.batch, name)[order] for order in orders]) for name in fields]
    together = torch.func.vmap(lambda *given: made.outputs(made.parameters(), Batch(*given)))(*stacked)
    close(together, torch.stack([made.outputs(made.parameters(), case.batch.rows(order)) for order in orders]))


@pytest.mark.parametrize("name", ["lengths", "decoder", "names"])
def test_the_gradient_of_a_matching_loss_can_be_recorded(name):
    case = CASES[name]
    made = case.make()
    seen = FedSGD().replay(made, case.batch).by_name

    def slope(at):
        def mismatch(inputs):
            replayed = FedSGD().replay(made, case.batch.with_inputs(inputs)).by_name
            return sum((replayed[key] - seen[key]).square().sum() for key in seen)

        found, loss = torch.func.vmap(torch.func.grad_and_value(mismatch))(at["inputs"])
        return {"inputs": found}, loss

    start = {"inputs": (case.batch.inputs + 0.1)[None].repeat(2, *[1] * case.batch.inputs.dim())}
    recorded = executed(slope, start, Course.RECORDED)
    assert recorded is not slope, "it could not be recorded"
    (wanted, loss), (got, loss_too) = slope(start), recorded(start)
    close(got["inputs"], wanted["inputs"])
    close(loss_too, loss)
    assert float(loss[0]) > 0


# ---- what feeds promise


def test_the_decoder_never_sees_the_label_that_it_is_asked_for():
    made = CASES["decoder"].make()
    outputs = made.outputs(made.parameters(), SPOKEN)
    for place in range(3):
        other = SPOKEN.labels.clone()
        other[:, place] = (other[:, place] + 1) % 6
        changed = made.outputs(made.parameters(), dataclasses.replace(SPOKEN, labels=other))
        close(changed[:, : place + 1], outputs[:, : place + 1])
        assert place == 2 or not torch.equal(changed[:, place + 1], outputs[:, place + 1])


def test_a_look_without_a_batch_takes_whole_lengths_and_the_start_alone():
    pooling, decoder = CASES["lengths"].make(), CASES["decoder"].make()
    whole = dataclasses.replace(SPOKEN, lengths=torch.tensor([6, 6, 6]))
    close(pooling.outputs(pooling.parameters(), SOUND), pooling.outputs(pooling.parameters(), whole))
    close(decoder.outputs(decoder.parameters(), SOUND), decoder.outputs(decoder.parameters(), SPOKEN)[:, :1])


def test_all_that_a_model_may_take_is_given_by_name_and_in_order():
    named = Keywords("x", "n", "m", "y").arguments(SOUND, SPOKEN)
    assert list(named.by_name) == ["x", "n", "m", "y"]
    assert named.by_place == ()
    assert named.by_name["m"].tolist() == [[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4]
    assert named.by_name["y"] is SPOKEN.labels
    assert list(Keywords("x", labels="y").arguments(SOUND, None).by_name) == ["x"]
    three = TeacherForced(start=1, lengths=True).arguments(SOUND, SPOKEN).by_place
    assert [tuple(value.shape) for value in three] == [(3, 6, 3), (3,), (3, 3)]
    assert three[2].tolist() == [[1, 3, 1], [1, 2, 2], [1, 0, 0]]


Pair = namedtuple("Pair", ["logits", "auxiliary"])


class Lazy:
    @property
    def logits(self):
        return torch.ones(2, 3)


ONE, TWO, OTHER = torch.ones(2, 3), 2 * torch.ones(2, 3), torch.ones(2, 5)


@pytest.mark.parametrize(
    ("returned", "pick", "wanted"),
    [
        (ONE, None, 1),
        (OTHER, None, 1),  # a tensor is taken as it is: who reads it checks its shape
        ((ONE,), None, 1),
        ([OTHER, TWO, None], None, 2),
        ({"loss": ONE.sum(), "logits": TWO}, None, 2),
        ({"a": ONE, "b": TWO}, "b", 2),
        (Pair(ONE, TWO), "auxiliary", 2),
        (Pair(ONE, TWO), 1, 2),
        ((ONE, TWO), 1, 2),
        (Output(TWO, OTHER), None, 2),
        (Output(ONE, TWO), "states", 2),
        (Lazy(), "logits", 1),
        ((ONE[:, None].expand(2, 4, 3), OTHER), None, 1),
    ],
)
def test_the_logits_are_found_or_named(returned, pick, wanted):
    assert float(picked(returned, pick, (2, 3)).flatten()[0]) == wanted


@pytest.mark.parametrize(
    ("returned", "pick", "says"),
    [
        ((ONE, TWO), None, r"it has 0 \(2, 3\), 1 \(2, 3\): name the right one, as in feed=InputsOnly\(pick=0\)"),
        ({"a": OTHER}, None, r"returns a dict, expected one tensor of logits \(2, 3\); it has a \(2, 5\)"),
        ({"a": ONE}, "b", r"logits \(2, 3\) at 'b'; it has a \(2, 3\)"),
        ((ONE, TWO), 2, r"at 2; it has 0 \(2, 3\), 1 \(2, 3\)"),
        (Pair(ONE, TWO), None, r"it has logits \(2, 3\), auxiliary \(2, 3\)"),
        (ONE, "logits", r"returns one tensor \(2, 3\); leave out pick='logits'"),
        ("logits", None, "returns a str, expected one tensor of logits"),
        (None, 0, "returns a NoneType, expected one tensor of logits"),
    ],
)
def test_what_holds_none_or_several_says_what_it_holds(returned, pick, says):
    with pytest.raises(BadInput, match=says):
        picked(returned, pick, (2, 3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: InputsOnly(pick=1.5), "a name, a place or None, got 1.5"),
        (lambda: WithLengths(pick=True), "got True"),
        (lambda: TeacherForced(start=-1), "start >= 0, got -1"),
        (lambda: TeacherForced(start=1, lengths=2), "lengths to be True or False, got 2"),
        (lambda: Keywords("input ids"), "different keywords .* got 'input ids'"),
        (lambda: Keywords("x", mask="x"), "different keywords .* got 'x', 'x'"),
        (lambda: TeacherForced(start=1).arguments(SEEN.inputs, SEEN), "needs label sequences"),
        (lambda: WithLengths().arguments(torch.zeros(3), None), r"sequences \(B, T, ...\), got .* \(3,\)"),
    ],
)
def test_impossible_feeds_are_refused(make, says):
    with pytest.raises(BadInput, match=says):
        make()


# ---- a feed stays with its target


@cases
def test_the_feed_is_part_of_what_a_target_is(case):
    made = case.make()
    plain = dataclasses.replace(made, feed=InputsOnly())
    assert made.fingerprint() == f"{plain.fingerprint()}|{made.feed!r}"
    assert repr(made) == repr(plain).removesuffix(")") + f", {made.feed!r})"
    assert repr(plain).endswith(f"{plain.domain})"), "as it was before there were feeds"
    assert eval(repr(made.feed)) == made.feed
    assert laid_out(made).feed == only(made, [next(iter(made.parameters()))]).feed == made.feed


def test_trained_and_fitted_targets_keep_feed_loss_and_classes(tmp_path):
    @dataclass(frozen=True)
    class Family:
        def build(self, domain, classes, *, key):
            with key.isolated():
                return Target(Pictures(), domain, classes, loss=CrossEntropy(0.1), feed=InputsOnly("logits"))

    path, domain = str(tmp_path / "w.pt"), Images(3, 2, 2)
    torch.save(Family().build(domain, 4, key=Key(0)).module.state_dict(), path)
    data = ls.Synthetic((3, 2, 2), classes=4, count=8)
    for family in (Trained(Family(), path), ls.Fitted(Family(), data, epochs=1)):
        made = family.build(domain, 4, key=Key(1))
        assert (made.feed, made.loss, made.classes) == (InputsOnly("logits"), CrossEntropy(0.1), 4)
        assert made.name == repr(family)


# ---- looks and attacks


def test_layers_are_found_through_every_feed():
    pictures, pooling, masked = (CASES[name].make() for name in ("names", "lengths", "keywords"))
    assert (input_layer(pictures).name, output_layer(pictures).name) == ("one", "two")
    assert output_layer(pooling).name == "two"
    assert context_window(pooling).width == 1
    entry = token_entry(masked)
    assert (entry.first.weights, entry.embedding) == (("one.weight",), "tokens.weight")
    ids = torch.tensor([[4, 2, 0, 0]])
    close(entry.fed(entry.first, ids), masked.parameters()["tokens.weight"][ids])


@cases
def test_every_model_with_its_feed_is_fit_for_an_audit(case):
    assert [finding for finding in vet(case.make()) if finding.about in ("output shape", "gradient")] == []


def test_an_exact_attack_reads_the_input_of_a_model_that_returns_several_tensors():
    made = CASES["names"].make()
    attempt = ls.LinearLayer().run(observe(made, SEEN.rows(torch.tensor([0])), FedSGD(), key=Key(0)), key=Key(1))
    close(attempt.claim.values, SEEN.inputs[:1], loosened=1e3, because="a quotient of two gradients")


def test_a_search_follows_the_gradient_through_keywords():
    class ByName(nn.Module):
        def __init__(self):
            nn.Module.__init__(self)
            self.inner = Pictures()

        def forward(self, *, pixels):
            return self.inner(pixels)

    made = target(ByName, Images(3, 2, 2), 4, feed=Keywords("pixels", pick="logits"))
    one = SEEN.rows(torch.tensor([0]))
    seen = observe(made, one, FedSGD(), key=Key(0), tell=[ls.BatchSize(1), ls.TrueLabels((1,))])
    attack = ls.GradientInversion(search=ls.Adam(lr=0.05, steps=400), labeling=ls.Told())
    attempt = attack.run(seen, key=Key(1))
    assert attempt.trace.losses[-1] < 1e-3 * attempt.trace.losses[0]
    assert float((attempt.claim.values - one.inputs).abs().max()) < 0.1


# ---- in plans


MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(12, 4)
    def forward(self, *, x):
        logits = self.dense(x.flatten(1))
        return {"a": logits, "b": -logits}
"""


def test_a_recipe_says_how_its_model_is_called(tmp_path, monkeypatch):
    (tmp_path / "fed_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = 'Imported("fed_model:Net", loss=CrossEntropy(smoothing=0.1), feed=Keywords("x", pick="b"))'
    recipe = build(text, Family.TARGETS)
    assert build(repr(recipe), Family.TARGETS) == recipe
    made = recipe.build(Images(3, 2, 2), 4, key=Key(0))
    plain = made.parameters()
    close(
        made.outputs(plain, SEEN.inputs.float()),
        -(SEEN.inputs.float().flatten(1) @ plain["dense.weight"].T + plain["dense.bias"]),
    )
    assert made.loss == CrossEntropy(0.1)
    with pytest.raises(BadInput, match=r"it has a \(2, 4\), b \(2, 4\): name the right one"):
        Imported("fed_model:Net", feed=Keywords("x")).build(Images(3, 2, 2), 4, key=Key(0))
    with pytest.raises(BadInput, match="fails on inputs of shape"):
        Imported("fed_model:Net").build(Images(3, 2, 2), 4, key=Key(0))
    with pytest.raises(BadInput, match="expected a loss and a feed, such as"):
        Imported("fed_model:Net", feed="x")


def test_recipes_of_earlier_records_keep_their_text():
    wanted = "Imported(path='a:b', arguments=(('c', 1),), state=None, training=True)"
    assert repr(Imported("a:b", {"c": 1}, training=True)) == wanted


RECOGNIZER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3, 4)
    def forward(self, frames, lengths):
        real = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        return self.dense(frames) * real[..., None], lengths
"""


def test_a_recognizer_by_import_path_is_trained_by_ctc_and_told_its_lengths(tmp_path, monkeypatch):
    (tmp_path / "fed_recognizer.py").write_text(RECOGNIZER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = recipe('Imported("fed_recognizer:Net", loss=CTC(blank=3), feed=WithLengths())', 4)
    target = made.build(Frames(3), 4, key=Key(0))
    said = torch.tensor([[0, 1], [2, 0], [1, 0]])
    batch = Batch(SOUND.float(), said, LENGTHS, torch.tensor([2, 1, 1]))
    sent = observe(target, batch, FedSGD(), key=Key(0)).release.by_name
    close_trees(FedSGD().replay(target, batch).by_name, sent)
    module = target.module.requires_grad_(True)
    loss = F.ctc_loss(
        module(batch.inputs, LENGTHS)[0].log_softmax(-1).transpose(0, 1), said, LENGTHS, batch.label_lengths, 3, "none"
    ).mean()
    slopes = torch.autograd.grad(loss, list(module.parameters()))
    close_trees(sent, dict(zip(("dense.weight", "dense.bias"), slopes, strict=True)))


def test_the_model_is_called_functionally_in_one_place():
    """So that no pass of an attack forgets the feed; what trains a module of its own asks `Target.through`."""
    package = Path(ls.__file__).parent
    where = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "functional_call" in path.read_text(encoding="utf-8").replace("`functional_call`", "")
    }
    assert where == {"core/target.py"}
