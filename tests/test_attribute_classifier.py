"""What a classifier of public examples says of recovered features: what it would say of the true ones."""

from __future__ import annotations

from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.attacks.attributes.classifier import _unlike, classified
from leakscope.core.feed import WithLengths

DIGITS = ls.Digits(size=16)
NAMES = tuple("0123456789")


def gallery(count: int = 300) -> ls.Gallery:
    """Which digit it is: here an attribute, for the model is trained on something else."""
    public = DIGITS.public()
    few = public.rows(torch.arange(count))
    return ls.Gallery("digit", NAMES, tuple(few.labels.tolist()), few)


def update(net: nn.Module, classes: int, count: int, seed: int) -> tuple[ls.Observation, ls.Batch]:
    """Of digits whose labels are random: what is told of the digit are the features alone."""
    secret = DIGITS.draw(count, key=ls.Key(seed)).reveal()
    labels = torch.randint(classes, (count,), generator=ls.Key(seed).generator())
    target = ls.Target(net, DIGITS.domain, classes)
    seen = ls.observe(target, ls.Batch(secret.inputs, labels), ls.FedSGD(), key=ls.Key(seed), tell=[gallery()])
    return seen, secret


def conv(classes: int) -> nn.Sequential:
    with ls.Key(3).isolated():
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, classes)
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_recovered_features_tell_the_attribute_as_often_as_the_true_ones(seed: int) -> None:
    net = conv(100)
    seen, secret = update(net, 100, 8, seed)
    attempt = ls.AttributeClassifier().run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    with torch.no_grad():
        true = net[:5](secret.inputs)
    ceiling, _ = ls.AttributeClassifier().named(seen, ls.Features("5", true))
    # In any order: a batch has none.
    assert sorted(attempt.claim.values.tolist()) == sorted(ceiling.values.tolist())
    right = sum((np.array(ceiling.values) == secret.labels.numpy()).tolist())
    assert right >= 6, "eight digits by 128 features of a fresh net"
    assert "digit" in attempt.sentence
    assert "300 public examples of 10 categories" in attempt.sentence
    assert attempt.certificate is None


def test_inputs_that_an_exact_attack_recovers_are_read_too() -> None:
    with ls.Key(4).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 10))
    seen, secret = update(net, 10, 1, 5)
    attempt = ls.AttributeClassifier(of=ls.LinearLayer()).run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    ceiling, _ = ls.AttributeClassifier().named(seen, ls.Inputs(secret.inputs))
    assert attempt.claim.scores is not None
    assert ceiling.scores is not None
    torch.testing.assert_close(attempt.claim.scores, ceiling.scores, atol=1e-3, rtol=1e-3)


def test_the_log_probabilities_are_those_of_two_normal_laws() -> None:
    """Of N(+m, 1) against N(-m, 1) the log-odds are 2 m.v (Fisher), to which many examples lead."""
    random = np.random.default_rng(0)
    mean = np.array([0.7, 0.0, -0.4])
    members = random.integers(2, size=20_000)
    rows = random.standard_normal((20_000, 3)) + np.where(members[:, None] == 1, mean, -mean)
    own = random.standard_normal((50, 3))
    categories, found, right = classified(rows, members, own, strength=100.0)
    assert list(categories) == [0, 1]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 2 * own @ mean, atol=0.15)
    assert right == pytest.approx(0.7897, abs=0.01), "Phi(|m|): what no rule can surpass"


def test_the_share_that_is_right_is_of_examples_that_were_left_out() -> None:
    """Random members of few examples in many dimensions: all of them are learned, and of new ones half are right."""
    random = np.random.default_rng(1)
    rows, members = random.standard_normal((100, 400)), random.integers(2, size=100)
    _, found, right = classified(rows, members, rows, strength=1.0)
    assert (found.argmax(1) == members).all()
    assert right is not None
    assert 0.3 < right < 0.7


def test_a_category_without_an_example_is_ruled_out_and_one_alone_is_refused() -> None:
    net = conv(100)
    seen, _ = update(net, 100, 2, 7)
    three = gallery().examples.rows(torch.tensor([place for place, one in enumerate(gallery().members) if one < 3]))
    few = ls.Gallery("digit", NAMES, tuple(three.labels.tolist()), three)
    attempt = ls.AttributeClassifier().run(told(seen, few), key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute)
    assert attempt.claim.scores is not None
    assert (attempt.claim.scores[:, 3:] == -torch.inf).all()
    assert torch.isfinite(attempt.claim.scores[:, :3]).all()
    alone = ls.Gallery("digit", NAMES, (4,), three.rows(torch.tensor([0])))
    refusal = ls.AttributeClassifier().refusal(told(seen, alone))
    assert refusal is not None
    assert "1 category" in refusal.sentence


def told(seen: ls.Observation, gallery: ls.Gallery) -> ls.Observation:
    return ls.Observation(seen.target, seen.release, seen.mechanism, (gallery,))


def test_one_example_of_each_category_is_enough_and_nothing_is_said_of_new_ones() -> None:
    rows, members = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])
    _, found, right = classified(rows, members, np.array([[0.1, 0.9]]), strength=1.0)
    assert right is None
    assert found.argmax(1).tolist() == [0]


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(ls.BadInput, match="strength"):
        ls.AttributeClassifier(strength=strength)


def test_examples_of_one_person_are_weighed_together_by_bayes_rule() -> None:
    """Two normal laws: the log-odds of several draws of one are the sum of theirs (Fisher), to one claim."""
    random = np.random.default_rng(3)
    mean = np.array([0.4, -0.3, 0.2])
    members = random.integers(2, size=4000)
    rows = random.standard_normal((4000, 3)) + np.where(members[:, None] == 1, mean, -mean)
    with ls.Key(4).isolated():
        net = nn.Sequential(nn.Flatten(), nn.Linear(3, 30))
    public = ls.Batch(torch.from_numpy(rows).float().reshape(-1, 1, 1, 3), torch.zeros(4000, dtype=torch.int64))
    lineup = ls.Gallery("kind", ("a", "b"), tuple(members.tolist()), public)
    own = torch.from_numpy(random.standard_normal((6, 3)) + mean).float()
    batch = ls.Batch(own.reshape(-1, 1, 1, 3), torch.arange(6))
    # Any numbers may be inputs, so that they are those of the two laws.
    domain = ls.Images(1, 1, 3, mean=(0.5,), std=(0.05,))
    seen = ls.observe(ls.Target(net, domain, 30), batch, ls.FedSGD(), key=ls.Key(1), tell=[lineup])
    attack = ls.AttributeClassifier(strength=100.0, together=True)
    claim, said = attack.named(seen, ls.Features("1", own))
    assert claim.scores is not None
    odds = float(claim.scores[0, 1] - claim.scores[0, 0])
    assert odds == pytest.approx(float(2 * own.double().numpy().sum(0) @ mean), abs=1.0)
    assert len(claim) == 1
    assert float(claim.scores.exp().sum()) == pytest.approx(1)
    assert "of 6 examples together" in said
    each, _ = ls.AttributeClassifier(strength=100.0).named(seen, ls.Features("1", own))
    assert each.scores is not None
    assert len(each) == 6
    assert odds == pytest.approx(float((each.scores[:, 1] - each.scores[:, 0]).sum()), abs=1e-6)


@final
class Keywords(nn.Module):
    """What an utterance is: means over its own frames, dense layers, many words to choose from."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.frame, self.hidden, self.words = nn.Linear(5, 48), nn.Linear(48, 40), nn.Linear(40, 60)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        inside = (torch.arange(frames.shape[1])[None] < lengths[:, None])[..., None]
        mean = (torch.relu(self.frame(frames)) * inside).sum(1) / lengths[:, None]
        words: Tensor = self.words(torch.relu(self.hidden(mean)))
        return words


def voices(person: int, count: int, seed: int, frames: int = 30) -> Tensor:
    """Frames around a point of the person's own."""
    center = torch.randn(5, generator=ls.Key(person).child("voice").generator())
    draw = ls.Key(seed).child("said", person).generator()
    return center + torch.randn(count, frames, 5, generator=draw)


def test_a_voice_is_named_by_the_features_of_utterances_whatever_their_lengths() -> None:
    with ls.Key(8).isolated():
        net = Keywords()
    target = ls.Target(net, ls.Frames(5), 60, feed=WithLengths())
    shown = torch.cat([voices(person, 6, 2) for person in range(5)])
    lengths = torch.tensor([30 - place % 12 for place in range(30)])
    # What lies behind an utterance's end is no part of it.
    shown[torch.arange(30)[None] >= lengths[:, None]] = 50.0
    words = torch.zeros(30, 1, dtype=torch.int64)
    public = ls.Batch(shown, words, lengths, torch.ones(30, dtype=torch.int64))
    lineup = ls.Gallery("speaker", tuple("abcde"), tuple(place // 6 for place in range(30)), public)
    spoken = [3, 0, 2, 2]
    secret = ls.Batch(
        torch.cat([voices(one, 1, 40 + at) for at, one in enumerate(spoken)]), torch.tensor([5, 9, 31, 50])
    )
    seen = ls.observe(target, secret, ls.FedSGD(), key=ls.Key(1), tell=[lineup])
    attempt = ls.AttributeClassifier().run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    assert sorted(attempt.claim.values.tolist()) == sorted(spoken)
    alone = ls.Batch(voices(4, 5, 60), torch.tensor([5, 9, 31, 50, 2]))
    seen = ls.observe(target, alone, ls.FedSGD(), key=ls.Key(1), tell=[lineup])
    attempt = ls.AttributeClassifier(together=True).run(seen, key=ls.Key(0))
    assert isinstance(attempt.claim, ls.Attribute), attempt.sentence
    assert attempt.claim.values.tolist() == [4]


def test_utterances_themselves_are_left_to_who_compares_voices() -> None:
    seen, _ = update(conv(100), 100, 2, 9)
    sound = ls.Inputs(torch.zeros(2, 4, 3), lengths=torch.tensor([4, 3]))
    why = _unlike(seen, sound)
    assert why is not None
    assert "SpeakerIdentity" in why
    other = ls.Features("5", torch.zeros(2, 7))
    why = _unlike(seen, other)
    assert why is not None
    assert "one vector of 7" in why
    with pytest.raises(ls.BadInput, match="together"):
        ls.AttributeClassifier(together=3)  # type: ignore[arg-type]


def test_what_is_left_out_is_left_out_with_its_person() -> None:
    """An attribute that has nothing to do with anybody's rows: who is known in one example is known in the next."""
    random = np.random.default_rng(6)
    people = np.repeat(np.arange(16), 12)
    rows = random.standard_normal((16, 20))[people] + 0.1 * random.standard_normal((192, 20))
    members = people % 2
    *_, mixed = classified(rows, members, rows[:1], 1.0)
    *_, apart = classified(rows, members, rows[:1], 1.0, people)
    assert mixed is not None
    assert apart is not None
    assert mixed > 0.95
    assert apart < 0.8
    *_, none = classified(rows[:24], members[:24], rows[:1], 1.0, people[:24])
    assert none is None, "one person of each category"


def test_a_gallery_says_whose_its_examples_are() -> None:
    few = DIGITS.public().rows(torch.arange(4))
    known = ls.Gallery("sex", ("f", "m"), (0, 0, 1, 1), few, [7, 7, 8, 9])
    assert known.people == (7, 7, 8, 9)
    assert known.fingerprint() != ls.Gallery("sex", ("f", "m"), (0, 0, 1, 1), few).fingerprint()
    with pytest.raises(ls.BadInput, match="3 people do not fit 4 examples"):
        ls.Gallery("sex", ("f", "m"), (0, 0, 1, 1), few, (1, 2, 3))
