"""What updates say of a person: decisions against closed forms, the whole attack on a world in which sex is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.covariance import ledoit_wolf
from tests.emotion_toys import CLASSES, DOMAIN, NET, federation, observed, speakers, taught

import leakscope as ls
from leakscope.attacks.attributes.decide import Discriminant, Lessons, Logistic, correlation, together
from leakscope.attacks.attributes.experts import Study, Updates, judged, learned
from leakscope.attacks.attributes.recovered import AttributeOfVectors, different
from leakscope.attacks.attributes.shadow import ShadowUpdates
from leakscope.attacks.attributes.signals import ClassInputs, ColumnEnergy, MeanInput, RawUpdate, SharedInput
from leakscope.attacks.attributes.update_network import Network, UpdateNetwork, pools
from leakscope.attacks.preparing import Setting
from leakscope.core.attempt import Outcome
from leakscope.core.effort import Budget, unwatched
from leakscope.core.errors import BadInput
from leakscope.core.pool import Pool
from leakscope.numerics.rng import Key
from leakscope.scoring import persons
from leakscope.scoring.persons import People

KEY = Key(0)
LOCAL = ls.FedAvg(steps=2, lr=0.05, batch_size=12)


def lessons(seed=0, *, people=6, each=5, size=4, apart=2.0, uneven=False):
    """Normal signals of two categories whose means are `apart`; of persons with means of their own."""
    random = torch.Generator().manual_seed(seed)
    rows, members, whose = [], [], []
    for person in range(people):
        category = int(person >= people // 3) if uneven else person % 2
        center = apart * (category - 0.5) + 0.3 * torch.randn(size, generator=random)
        rows.append(center + torch.randn(each, size, generator=random))
        members += [category] * each
        whose += [person] * each
    return Lessons(torch.cat(rows), torch.tensor(members), torch.tensor(whose), 2)


def run(decision, given_lessons):
    return decision.learn(given_lessons, (1, 4), key=KEY, clock=Budget().start(), watch=unwatched)


def study(decision, folds=3):
    return Study(decision, folds, KEY, Budget().start(), unwatched)


def test_all_categories_count_alike_and_in_each_all_persons():
    found = lessons(uneven=True)
    for category in (0, 1):
        assert float(found.weight[found.members == category].sum()) == pytest.approx(len(found.weight) / 2)
    few = Lessons(found.vectors[2:], found.members[2:], found.persons[2:], 2)  # person 0 has 3 updates, others 5
    sums = [float(few.weight[few.persons == person].sum()) for person in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert float(few.weight.mean()) == pytest.approx(1.0)


def test_the_logistic_decision_is_a_minimum_of_its_equation():
    """The gradient of what the docstring says, by autograd, is zero there; and another strength is another minimum."""
    known, decision = lessons(), Logistic(0.5)
    state = run(decision, known)
    weights = state["weights"].double().requires_grad_(True)
    offsets = state["offsets"].clone().requires_grad_(True)
    rows = torch.log_softmax(known.vectors.double() @ weights.T + offsets, 1)
    each = -rows[torch.arange(len(rows)), known.members]
    # two symmetric halves: |w_1 - w_0|^2 = 2 (|w_0|^2 + |w_1|^2)
    loss = (known.weight * each).sum() + (weights[1] - weights[0]).square().sum() / (2 * 0.5)
    slopes = torch.autograd.grad(loss, (weights, offsets))
    assert max(float(one.abs().max()) for one in slopes) < 1e-2
    assert not torch.allclose(run(Logistic(5.0), known)["weights"], state["weights"])


def tuned(decision, state, given_lessons):
    return decision.tuned(state, given_lessons, (1, 4), key=KEY, clock=Budget().start(), watch=unwatched)


def test_what_is_tuned_is_a_minimum_around_what_was_known():
    """By autograd its slopes vanish; from nothing known it is scikit-learn's minimum for three categories."""
    from sklearn.linear_model import LogisticRegression

    known, decision = lessons(), Logistic(0.5)
    before, new = run(decision, known), lessons(3, people=8, apart=-1.0)
    state = tuned(decision, before, new)
    weights = state["weights"].double().requires_grad_(True)
    offsets = state["offsets"].clone().requires_grad_(True)
    rows = torch.log_softmax(new.vectors.double() @ weights.T + offsets, 1)
    each = -rows[torch.arange(len(rows)), new.members]
    loss = (new.weight * each).sum() + (weights - before["weights"].double()).square().sum() / (2 * 0.5)
    assert max(float(one.abs().max()) for one in torch.autograd.grad(loss, (weights, offsets))) < 1e-2
    three = Lessons(new.vectors, new.persons % 3, new.persons, 3)
    empty = {**run(decision, three), "weights": torch.zeros(3, 4), "offsets": torch.zeros(3).double()}
    model = LogisticRegression(C=0.5, max_iter=2000, tol=1e-8)
    model.fit(three.vectors.double().numpy(), three.members.numpy(), sample_weight=three.weight.numpy())
    assert np.allclose(tuned(decision, empty, three)["weights"].numpy(), model.coef_, atol=2e-3)


def test_what_cannot_be_tuned_says_so():
    known = lessons()
    three = Lessons(known.vectors, known.persons % 3, known.persons, 3)
    for decision in (Logistic(), UpdateNetwork(epochs=1)):
        with pytest.raises(BadInput, match="go on with"):
            tuned(decision, {"present": [0, 1]}, three)
    with pytest.raises(BadInput, match="Discriminant"):
        tuned(Discriminant(), run(Discriminant(), known), known)


def test_a_network_is_tuned_from_its_own_weights():
    """At a rate that moves nothing they come back, as they were learned and not as they are drawn."""
    known = lessons()
    state = run(UpdateNetwork(epochs=1, lr=1e-3), known)
    again = tuned(UpdateNetwork(epochs=1, lr=1e-12), state, known)
    first = "dense.0.weight"
    assert torch.allclose(again["network"][first], state["network"][first], atol=1e-6)


def test_tuned_to_leaked_models_far_away_more_is_said_of_persons():
    """What a sex does is another thing at models that were trained on for long; tuning sees those, shadows do not."""
    short, long = (federation(ls.FedSGD(), rounds=count, server_lr=1.0) for count in (1, 12))
    public, found = speakers(1, by_class=0.6), []
    late = [
        (sex, ls.Observation(seen.target, seen.rounds[8:], seen.mechanism))
        for _, sex, seen in observed(speakers(2, 8, by_class=0.6), long)
    ]
    for leaked in (0, 3):
        learner = ShadowUpdates(public, short, signals=(RawUpdate(1),), shadows=1, folds=0, leaked=leaked)
        attack = taught(learner, ls.FedSGD())
        attempts = [(sex, attack.run(seen, key=KEY)) for sex, seen in late]
        found.append(sum(float(one.claim.scores[0, sex]) for sex, one in attempts) / len(attempts))
        assert ("tuned to 3" in attempts[0][1].sentence) is bool(leaked)
    assert found[1] > found[0]


@pytest.mark.parametrize("size", [4, 60])
def test_the_discriminant_is_bayes_rule_with_the_covariance_of_scikit_learn(size):
    """Also of more numbers than updates; densely, by normal densities and scikit-learn's own shrunk covariance."""
    known = lessons(size=size, uneven=True)
    state = run(Discriminant(), known)
    rows, members = known.vectors.double().numpy(), known.members.numpy()
    means = np.stack([rows[members == g].mean(0) for g in (0, 1)])
    covariance = ledoit_wolf(rows - means[members], assume_centered=True)[0]
    new = lessons(9, size=size).vectors
    densities = np.stack(
        [stats.multivariate_normal.logpdf(new.double().numpy(), one, covariance) for one in means], axis=1
    )
    wanted = densities - np.logaddexp.reduce(densities, axis=1, keepdims=True)
    assert np.allclose(Discriminant().probabilities(state, new).numpy(), wanted, atol=1e-3)


def test_a_category_without_lessons_is_ruled_out_and_others_never():
    known = lessons()
    state = run(Logistic(100.0), Lessons(known.vectors, known.members, known.persons, 3))
    found = Logistic().probabilities(state, 1e8 * known.vectors)
    assert bool(torch.isneginf(found[:, 2]).all())
    assert bool(torch.isfinite(found[:, :2]).all())


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 999))
def test_updates_are_joined_by_bayes_rule(count, seed):
    """Against the product of likelihoods of normal updates, with the even prior counted once."""
    random = np.random.default_rng(seed)
    values, centers = random.standard_normal(count), np.array([-1.0, 0.0, 2.0])
    likelihood = stats.norm.pdf(values[:, None], centers)
    posterior = np.log(likelihood / likelihood.sum(1, keepdims=True))
    wanted = likelihood.prod(0) / likelihood.prod(0).sum()
    assert np.allclose(together(torch.from_numpy(posterior), 0.0).exp().numpy(), wanted)
    # of updates that are all the same, one
    same = torch.from_numpy(posterior[:1]).expand(count, 3)
    assert torch.allclose(together(same, 1.0), same[0])


def test_the_correlation_is_the_one_that_data_were_made_with():
    random = np.random.default_rng(0)
    people, each, share = 400, 6, 0.3
    own = np.repeat(random.standard_normal(people) * math.sqrt(share), each)
    score = own + random.standard_normal(people * each) * math.sqrt(1 - share)
    whose, members = np.repeat(np.arange(people), each), np.repeat(np.arange(people) % 2, each)
    score = score + 3.0 * members  # what tells categories apart is no repetition
    scores = torch.from_numpy(np.stack([score, -score], 1))
    assert correlation(scores, torch.from_numpy(members), torch.from_numpy(whose)) == pytest.approx(share, abs=0.06)


def test_where_nothing_tells_the_correlation_claims_the_least():
    scores, two = torch.zeros(4, 2).double(), torch.tensor([0, 0, 1, 1])
    assert correlation(scores, two, torch.tensor([0, 0, 1, 1])) == 1.0  # a person of each: no spread between persons
    assert correlation(scores, two, torch.arange(4)) == 1.0  # an update of each
    assert correlation(scores, two, torch.tensor([0, 1, 2, 2])) == 1.0  # no spread at all


def test_folds_leave_persons_out_and_not_updates():
    """A signal that names the person, and of sex says nothing: in learning it is right, on new persons at chance."""
    right = []
    for seed in range(6):
        random = torch.Generator().manual_seed(seed)
        whose = torch.arange(12).repeat_interleave(5)
        vectors = torch.randn(12, 30, generator=random)[whose] + 0.01 * torch.randn(60, 30, generator=random)
        updates = Updates((vectors,), ((1, 30),), whose % 2, whose, 2)
        state = learned(updates, study(Logistic(100.0)))
        own = judged(Logistic(100.0), state, [vectors]).argmax(1)
        assert bool((own == whose % 2).all())
        assert state["repeats"] > 0.9
        right.append(state["right"])
    assert sum(right) < 6 * 12 * 0.7


def test_two_persons_of_a_category_are_learned_from_and_none_is_left_out():
    known = lessons(people=4)
    updates = Updates((known.vectors,), ((1, 1),), known.members, known.persons, 2)
    state = learned(updates, study(Logistic(), 4))
    assert ("of" in state, state["repeats"]) == (False, 1.0)


def test_signals_are_joined_by_the_parameters_of_their_layers():
    known = lessons()
    updates = Updates((known.vectors, known.vectors[:, :2]), ((3, 1), (1, 1)), known.members, known.persons, 2)
    state = learned(updates, study(Logistic(), 0))
    assert state["shares"] == [0.75, 0.25]
    parts = []
    for place, vectors in enumerate(updates.vectors):
        alone = learned(Updates((vectors,), ((1, 1),), known.members, known.persons, 2), study(Logistic(), 0))
        parts.append(state["shares"][place] * judged(Logistic(), alone, [vectors]).exp())
    assert torch.allclose(judged(Logistic(), state, updates.vectors).exp(), sum(parts), atol=1e-6)
    assert (state["repeats"], "of" in state) == (1.0, False)


@pytest.mark.parametrize("mechanism", [ls.FedSGD(), LOCAL, ls.FedSGD() >> ls.Clip(0.5) >> ls.GaussianNoise(1e-4)])
def test_sex_is_named_by_what_normalizing_each_person_leaves(mechanism):
    """Learned of other speakers, with a p-value over persons; and the chances that it gives are fair."""
    played = federation(mechanism)
    attack = taught(ShadowUpdates(speakers(1, by_class=1.0), played, shadows=1, folds=3), mechanism)
    found = [(sex, attack.run(seen, key=KEY)) for _, sex, seen in observed(speakers(2, by_class=1.0), played)]
    assert all(attempt.outcome is Outcome.CLAIMED for _, attempt in found), found[0][1].sentence
    people = People([sex for sex, _ in found], np.concatenate([one.claim.scores.numpy() for _, one in found]))
    assert persons.uar(people.truth, people.scores) >= 0.9
    assert persons.luck(people, key=KEY) <= 0.01
    assert persons.log_loss(people.truth, people.scores) < 0.9 * math.log(2)
    assert found[0][1].certificate is None
    assert "when left out" in found[0][1].sentence


def test_a_world_without_a_leak_is_at_chance():
    """Sex does nothing: over five worlds no more is right than chance allows, one time in ten thousand."""
    right = total = 0
    for seed in range(5):
        played = federation(ls.FedSGD(), rounds=2)
        attack = taught(ShadowUpdates(speakers(100 + seed), played, shadows=1, folds=0), ls.FedSGD(), key=Key(seed))
        for _, sex, seen in observed(speakers(200 + seed), played, key=Key(seed)):
            right, total = right + (int(attack.run(seen, key=KEY).claim.values[0]) == sex), total + 1
    assert total == 60
    assert stats.binom.ppf(1e-4, total, 0.5) <= right <= stats.binom.ppf(1 - 1e-4, total, 0.5)


def test_a_common_shift_of_a_sex_is_taken_out_by_normalizing_each_person():
    """The control of the first test: classes say nothing either where sex is a common shift."""
    played = federation(ls.FedSGD(), rounds=3)
    found = []
    for made in ({"own": 3.0}, {"by_class": 1.0}):
        attack = taught(
            ShadowUpdates(speakers(1, **made), played, signals=(ClassInputs(),), shadows=1, folds=0), ls.FedSGD()
        )
        hits = [
            int(attack.run(seen, key=KEY).claim.values[0]) == sex
            for _, sex, seen in observed(speakers(2, **made), played)
        ]
        found.append(sum(hits) / len(hits))
    assert found[0] < 0.85 < found[1]


def test_what_was_learned_survives_a_file_and_is_the_same_again(tmp_path):
    """Prepared twice, one half of it in another life: the same bytes."""
    from leakscope.attacks.parts.search.state_file import StateFile

    learner = ShadowUpdates(speakers(1, by_class=1.0), federation(ls.FedSGD(), rounds=2), shadows=2, folds=2)
    setting = Setting(NET, DOMAIN, CLASSES, ls.FedSGD())
    whole = learner.prepare(setting, key=KEY, clock=Budget().start())
    file = StateFile(tmp_path / "half.safetensors", every=0.0, whose="learner")
    file.open(learner.fingerprint(setting, KEY))

    class Killed(Exception):
        pass

    def kill(progress):
        raise Killed

    with pytest.raises(Killed):
        learner.prepare(setting, key=KEY, clock=Budget().start().kept(file), watch=kill)
    again = learner.prepare(setting, key=KEY, clock=Budget().start().kept(file))
    one, other = whole.state["parts"][0], again.state["parts"][0]
    assert torch.equal(one["mean"], other["mean"])
    assert torch.equal(one["learned"]["weights"], other["learned"]["weights"])
    assert whole.fingerprint == again.fingerprint != learner.fingerprint(setting, Key(1))


def test_the_step_that_is_attacked_is_the_one_that_is_played():
    """Noise-aware: what was learned of noised updates is not what was learned of plain ones."""
    learner = ShadowUpdates(speakers(1, by_class=1.0), federation(ls.FedSGD(), rounds=2), shadows=1, folds=0)
    plain, noised = (taught(learner, one) for one in (ls.FedSGD(), ls.FedSGD() >> ls.GaussianNoise(1.0)))
    deviations = [float(one.learned.state["parts"][0]["deviation"].mean()) for one in (plain, noised)]
    assert deviations[1] > 1.5 * deviations[0]


def test_shadows_are_clipped_and_noised_once():
    """The mechanism that is attacked has user-level privacy already, also where the shadow federation has the same."""
    privacy = ls.UserLevel(0.5, 0.3)
    mechanism = privacy.on(ls.FedSGD(), 12)
    plain, private = (
        ShadowUpdates(speakers(1), federation(ls.FedSGD(), rounds=2, weighted=False, privacy=one), shadows=1, folds=0)
        for one in (None, privacy)
    )
    once, twice = (taught(one, mechanism).learned.state["parts"][0] for one in (plain, private))
    assert torch.equal(once["deviation"], twice["deviation"])


def test_each_round_is_read_at_the_weights_that_it_began_with():
    """As if each were observed by itself, its target at these weights; far from the first ones it matters."""
    played = federation(ls.FedSGD(), rounds=3, server_lr=3.0)
    attack = taught(ShadowUpdates(speakers(1, by_class=1.0), played, shadows=1, folds=0), ls.FedSGD())
    _, _, seen = next(observed(speakers(2, by_class=1.0), played))
    each = torch.cat([attack.run(one, key=KEY).claim.scores for one in seen.each()])
    whole = attack.run(seen, key=KEY).claim.scores[0]
    assert torch.allclose(whole, together(each, 1.0), atol=1e-6)
    rounds = [dataclasses.replace(one, weights=seen.target.parameters()) for one in seen.rounds]
    lost = attack.run(ls.Observation(seen.target, rounds, seen.mechanism), key=KEY).claim.scores[0]
    assert not torch.allclose(whole, lost, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attribute": "age"}, "age"),
        ({"owner": "nobody"}, "nobody"),
        ({"signals": (ColumnEnergy(7),)}, "has 3"),
        ({"pool": speakers(1, 3)}, "at least two public persons of each"),
    ],
)
def test_what_cannot_be_learned_is_a_refusal_with_its_reason(changes, said):
    made = {"pool": speakers(1), "federation": federation(ls.FedSGD(), rounds=1), "folds": 0, "shadows": 1, **changes}
    _, _, seen = next(observed(speakers(2), federation(ls.FedSGD(), rounds=1)))
    attempt = taught(ShadowUpdates(**made), ls.FedSGD()).run(seen, key=KEY)
    assert attempt.outcome is Outcome.REFUSED
    assert said in attempt.sentence


def test_an_update_without_the_layer_is_refused():
    attack = taught(ShadowUpdates(speakers(1), federation(ls.FedSGD(), rounds=1), shadows=1, folds=0), ls.FedSGD())
    _, _, seen = next(observed(speakers(2), federation(ls.FedSGD(), rounds=1)))
    release = ls.Gradient({n: v for n, v in seen.release.by_name.items() if not n.startswith("1.")})
    attempt = attack.run(ls.Observation(seen.target, release, seen.mechanism), key=KEY)
    assert attempt.outcome is Outcome.REFUSED
    assert "does not hold" in attempt.sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signals": ()}, "at least one signal"),
        ({"signals": ("energy",)}, "each signal"),
        ({"shadows": 0}, "shadows"),
        ({"folds": 1}, "one fold"),
        ({"pool": speakers(1).batch}, "pool"),
        ({"federation": ls.FedSGD()}, "federation"),
        ({"decision": "svm"}, "decision"),
        ({"attribute": 1}, "attribute"),
        ({"client": 1}, "client"),
        ({"leaked": -1}, "leaked"),
        ({"leaked": 1, "federation": federation(ls.FedSGD(), secure=2)}, "single clients"),
    ],
)
def test_bad_settings_say_what_is_wrong(changes, said):
    with pytest.raises(BadInput, match=said):
        ShadowUpdates(**{"pool": speakers(1), "federation": federation(ls.FedSGD()), **changes})


def test_the_network_has_the_published_sizes():
    """Inputs of the first dense layer, bias included, as in the published code by feature set and layer."""
    published = {(256, 988): 4096, (256, 768): 3328, (256, 512): 3456, (128, 256): 2176, (4, 128): 1028}
    for shape, size in published.items():
        assert Network(shape, 2, 0.2).dense[0].in_features == size


@settings(max_examples=12, deadline=None)
@example(rows=2, columns=32, biased=True)
@example(rows=40, columns=1, biased=False)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), biased=st.booleans())
def test_the_network_takes_layers_of_any_size(rows, columns, biased):
    assert len(pools((rows, columns))) <= 3
    updates = torch.randn(3, rows * (columns + biased))
    assert Network((rows, columns), 2, 0.0).eval()(updates).shape == (3, 2)


def test_the_network_learns_where_in_an_update_a_category_stands():
    """A bright patch above or below, anywhere along the row: what convolutions are for, and no mean of a column."""
    random = torch.Generator().manual_seed(0)
    members, whose = torch.arange(60) % 2, torch.arange(60) % 20
    images = 0.1 * torch.randn(60, 32, 33, generator=random)
    for place, category in enumerate(members.tolist()):
        at = int(torch.randint(4, 24, (), generator=random))
        images[place, 4 + 16 * category : 10 + 16 * category, at : at + 6] += 2.0
    known = Lessons(images[:40].flatten(1), members[:40], whose[:40], 2)
    decision = UpdateNetwork(epochs=12, lr=1e-3, batch=8)
    state = decision.learn(known, (32, 32), key=KEY, clock=Budget().start(), watch=unwatched)
    again = decision.learn(known, (32, 32), key=KEY, clock=Budget().start(), watch=unwatched)
    found = decision.probabilities(state, images[40:].flatten(1))
    assert float((found.argmax(1) == members[40:]).float().mean()) >= 0.9
    assert torch.equal(found, decision.probabilities(again, images[40:].flatten(1)))


def test_the_network_wants_whole_updates():
    with pytest.raises(BadInput, match="RawUpdate"):
        run(UpdateNetwork(epochs=1), lessons(size=7))
    with pytest.raises(BadInput, match="batch"):
        UpdateNetwork(batch=1)


def test_vectors_that_were_recovered_name_the_sex_as_true_ones_do():
    """By LowRank from two rounds of each client, through dropout, labels read off the errors: as with the true ones."""
    net = ls.MLP((96, 16), dropout=0.2, training=True)
    played = federation(ls.FedSGD(), rounds=2, batch=4)
    public, private = speakers(1, by_class=1.5), speakers(2, 4, by_class=1.5)
    attack = AttributeOfVectors(public)
    for name, sex, seen in observed(private, played, net):
        attempt = attack.run(seen, key=KEY)
        assert attempt.outcome is Outcome.CLAIMED, (name, attempt.sentence)
        assert "proved" in attempt.sentence
        assert attempt.certificate is None
        own = Pool(private.batch, private.annotations)
        rows = torch.tensor(own.annotation("speaker").values) == own.annotation("speaker").categories.index(name)
        ceiling, _ = attack.named(private.batch.inputs[rows], private.batch.labels[rows], classes=CLASSES, key=KEY)
        assert int(ceiling.values[0]) == sex
        assert int(attempt.claim.values[0]) == sex


def test_equal_vectors_are_one():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0000001], [-1.0, -2.0]])
    assert different(rows).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"of": "LowRank"}, "attack"), ({"draws": 0}, "draws"), ({"strength": 0.0}, "strength"), ({"pool": 3}, "pool")],
)
def test_bad_settings_of_recovered_vectors(changes, said):
    with pytest.raises(BadInput, match=said):
        AttributeOfVectors(**{"pool": speakers(1), **changes})


def test_signals_of_several_layers_and_kinds_are_joined():
    played = federation(ls.FedSGD(), rounds=2)
    made = (ClassInputs(), ClassInputs(2), MeanInput(), SharedInput(), RawUpdate(3))
    attack = taught(ShadowUpdates(speakers(1, by_class=1.0), played, signals=made, shadows=1, folds=2), ls.FedSGD())
    assert len(attack.learned.state["parts"]) == 5
    _, _, seen = next(observed(speakers(2, by_class=1.0), played))
    assert attack.run(seen, key=KEY).claim is not None


# The laws of attacks, which `tests/laws` crosses with all others: these two learn of a pool of persons.
PLAYED = federation(ls.FedSGD(), rounds=2, batch=4)
WIDE = ls.MLP((96, 16))
FIELDS: dict[str, object] = {
    "pool": speakers(7, by_class=1.0),
    "federation": federation(ls.FedSGD(), rounds=3, batch=4),
    "attribute": "speaker",
    "owner": "sex",
    "signals": (ColumnEnergy(),),
    "decision": Discriminant(),
    "shadows": 2,
    "folds": 2,
    "of": ls.LinearLayer(),
    "draws": 3,
    "strength": 1.0,
    "leaked": 2,
    "client": "sex",
}


def made(kind, **changes):
    """The attack, taught where it learns first."""
    if kind is AttributeOfVectors:
        return AttributeOfVectors(**{"pool": speakers(1, by_class=1.0), **changes})
    settings_of = {"pool": speakers(1, by_class=1.0), "federation": PLAYED, "shadows": 1, "folds": 0, **changes}
    return taught(ShadowUpdates(**settings_of), ls.FedSGD(), WIDE)


def one_seen(place=0):
    return list(observed(speakers(2, 4, by_class=1.0), PLAYED, WIDE))[place][2]


def said(attempt):
    claim = attempt.claim
    return attempt.sentence, None if claim is None else (claim.values.tolist(), claim.scores.tolist())


@pytest.mark.parametrize("kind", [ShadowUpdates, AttributeOfVectors])
def test_the_claim_is_a_function_of_the_observation_and_nothing_is_touched(kind):
    attack, one = made(kind), one_seen()
    before, state = one.fingerprint(), torch.get_rng_state()
    first = said(attack.run(one, key=KEY))
    assert first == said(attack.run(one_seen(), key=KEY)) != said(attack.run(one_seen(1), key=KEY))
    assert one.fingerprint() == before
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", [ShadowUpdates, AttributeOfVectors])
def test_every_field_speaks(kind):
    one = one_seen()
    plain = made(kind)
    first = said(plain.run(one, key=KEY))
    for field in dataclasses.fields(kind):
        changed = made(kind, **{field.name: FIELDS[field.name]})
        assert repr(changed) != repr(plain)
        assert said(changed.run(one, key=KEY)) != first, f"{field.name} does nothing"


@pytest.mark.parametrize("kind", [ShadowUpdates, AttributeOfVectors])
def test_released_weights_and_foreign_numbers_are_refused(kind):
    attack, one = made(kind), one_seen()
    weights = ls.Observation(one.target, ls.Weights(one.target.parameters()), ls.FedSGD())
    assert "Weights" in attack.run(weights, key=KEY).sentence
    for change in (lambda value: value * torch.nan, lambda value: value[:-1]):
        odd = ls.Gradient({name: change(value) for name, value in one.rounds[0].release.by_name.items()})
        attempt = attack.run(ls.Observation(one.target, odd, ls.FedSGD()), key=KEY)
        assert attempt.outcome is Outcome.REFUSED


def test_who_has_learned_nothing_says_so():
    attempt = ShadowUpdates(speakers(1), PLAYED).run(one_seen(), key=KEY)
    assert "learned nothing" in attempt.sentence


def test_no_numbers_of_a_private_round_reach_what_is_learned():
    """The law of preparing: the setting has neither source nor weights, and what is learned is a function of it."""
    learner = ShadowUpdates(speakers(1), PLAYED, shadows=1, folds=0)
    setting = Setting(WIDE, DOMAIN, CLASSES, ls.FedSGD())
    one = learner.prepare(setting, key=KEY, clock=Budget().start())
    list(observed(speakers(2), PLAYED, WIDE))
    other = learner.prepare(setting, key=KEY, clock=Budget().start())
    assert torch.equal(one.state["parts"][0]["learned"]["weights"], other.state["parts"][0]["learned"]["weights"])
