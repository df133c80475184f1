"""The law: preparing sees no secret. What is learned is the same whatever the private half holds."""

from __future__ import annotations

import dataclasses
import gc
import pickle

import pytest
import torch
from tests.audit_toys import toy_plan
from tests.preparing_toys import COUNT, Averages, Halves, Pool

from leakscope.attacks.preparing import AbstractLearner, Setting
from leakscope.audit.plan import Scene
from leakscope.audit.preparation import Shelf
from leakscope.audit.work import attempt
from leakscope.core.batch import Batch
from leakscope.core.observation import Observation
from leakscope.core.secret import Secret
from leakscope.datasets.draw import AbstractSource
from leakscope.domains.vision import Images
from leakscope.ledger.container import read_content
from leakscope.ledger.record import Role
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics import trees
from leakscope.numerics.rng import Key
from leakscope.targets.zoo.mlp import MLP, Linear

KEY = Key(0)


def learned(folder, source, learner):
    """What lies on the shelf after one trial on this source: names, and the bytes of all tensors and texts."""
    scene = Scene("law", source, Linear())
    cell = next(cell for cell in toy_plan(scenes=(scene,), attacks=(learner,)).cells() if cell.role is Role.AUDITED)
    record = attempt(cell, shelf=Shelf(folder)).record
    assert record.prepared, record.sentence
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = read_content(path)
        said = content.text.partition('"layout"')[2]  # before it: owner (the name) and seconds
        tensors = {name: torch.from_numpy(value) for name, value in content.arrays.items()}
        found[path.name] = (said, trees.fingerprint(tensors))
    return found, record


def test_the_two_sources_share_their_public_half_and_nothing_else():
    one, other = Halves(1), Halves(2)
    assert torch.equal(one.public().inputs, other.public().inputs)
    assert len(one.public()) == COUNT // 2
    private = one.draw(COUNT // 2, key=KEY).reveal().inputs
    everything = one.load().inputs.flatten(1).tolist()
    assert sorted(torch.cat([one.public().inputs, private]).flatten(1).tolist()) == sorted(everything)
    assert not torch.equal(one.draw(3, key=KEY).reveal().inputs, other.draw(3, key=KEY).reveal().inputs)


def test_what_is_learned_is_the_same_whatever_the_private_half_holds(tmp_path):
    one, a_record = learned(tmp_path / "1", Halves(1), Averages())
    other, b_record = learned(tmp_path / "2", Halves(2), Averages())
    assert one == other
    assert len(one) == 1
    assert a_record.identity != b_record.identity
    assert a_record.scores != b_record.scores, "the private halves did not differ"


def test_a_learner_that_looks_is_caught(tmp_path):
    """The planted fault: a pool that is no pool but the source, private half included."""

    class Peeking(Pool):
        def images(self):
            return source.load().inputs

    found = []
    for private in (1, 2):
        source = Halves(private)
        found.append(learned(tmp_path / str(private), source, Averages(Peeking()))[0])
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]


@pytest.mark.parametrize("forbidden", [AbstractSource, Secret, Batch, Observation, torch.Tensor])
def test_a_setting_leads_to_nothing_private(tmp_path, forbidden):
    """From the very setting that an audit hands over no reference leads to a source, a batch or a tensor."""
    handed = []

    class Keeps(AbstractLearner):
        citation = ""

        def _prepare(self, setting, *, key, clock, watch):
            handed.append(setting)
            return {"mean": torch.zeros(1, 4, 4), "noise": 0}

        taught = Averages.taught

    learned(tmp_path, Halves(1), Keeps())
    (setting,) = handed
    assert isinstance(setting, Setting)
    assert not [one for one in _reachable(setting) if isinstance(one, forbidden)]
    private = Halves(1).draw(1, key=KEY).reveal().inputs
    assert private.numpy().tobytes() not in pickle.dumps(setting)


def _reachable(start):
    """Everything that the fields of `start` lead to; classes and modules are shared by all, and no way in."""
    found, waiting = {}, [start]
    while waiting:
        one = waiting.pop()
        if id(one) in found or isinstance(one, type | type(gc) | type(_reachable)):
            continue
        found[id(one)] = one
        waiting += gc.get_referents(one)
    return found.values()


def test_what_changes_what_is_learned_changes_its_name():
    learner, setting = Averages(), _setting()
    names = {
        learner.fingerprint(setting, KEY),
        learner.fingerprint(setting, KEY.child("other")),
        Averages(Pool(1)).fingerprint(setting, KEY),
        Averages(steps=3).fingerprint(setting, KEY),
        *(learner.fingerprint(other, KEY) for other in _other_settings(setting)),
    }
    assert len(names) == 4 + len(_other_settings(setting))
    assert learner.fingerprint(_setting(), KEY) == Averages().fingerprint(setting, KEY)


def _setting():
    return Setting(Linear(), Halves(1).domain, 3, FedSGD())


def _other_settings(setting):
    mechanism = setting.mechanism >> Clip(1)
    changes = {"architecture": MLP((3,)), "domain": Images(1, 4, 5), "classes": 4, "mechanism": mechanism}
    assert changes.keys() == {field.name for field in dataclasses.fields(Setting)}
    return [dataclasses.replace(setting, **{name: value}) for name, value in changes.items()]
