"""The demo of a federation of speakers, on a corpus that is spoken in a second."""

from __future__ import annotations

import json

import pytest

import leakscope as ls
from leakscope.cli.commands import demo_emotion
from leakscope.cli.ending import Exit
from leakscope.cli.options.demo import Subject


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    pytest.importorskip("opensmile")
    monkeypatch.setattr(demo_emotion, "CORPUS", ls.SpokenEmotions(speakers=8, each=1))
    played = ls.Federation(ls.FedSGD(), rounds=2, fraction=1.0, batch=4, server_lr=0.1)
    monkeypatch.setattr(demo_emotion, "FEDERATION", played)


def test_it_says_a_word_for_both_worlds_and_goes_on_in_its_folder(tmp_path, capsys):
    assert demo_emotion.shown(tmp_path, as_json=False) is Exit.NO_LEAK_FOUND
    text = capsys.readouterr().out
    # Four private persons can be named right by luck one time in six: nothing leaks, and nothing is cleared.
    assert text.count("inconclusive: UAR") == 2
    assert "4 persons" in text
    assert demo_emotion.shown(tmp_path, as_json=True) is Exit.NO_LEAK_FOUND
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"speakers", "shuffled"}
    assert all(one["sentence"] in text for one in found.values())
    assert all(0 <= one["low"] <= one["uar"] <= one["high"] <= 1 for one in found.values())


def test_both_halves_have_as_many_of_both_sexes_and_the_shuffled_ones_others(tmp_path, monkeypatch):
    seen = {}

    def keep(scene, public, private, folder):
        seen[scene.name] = (public, private)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_emotion, "_played", keep)
    with pytest.raises(KeyboardInterrupt):
        demo_emotion.shown(tmp_path, as_json=False)
    for half in seen["speakers"]:
        sexes = ls.Population.of_owners(half.load(), half.annotations()).annotation("sex").values
        assert sorted(sexes) == [0, 0, 1, 1]
    assert not set(seen["speakers"][0].speakers) & set(seen["speakers"][1].speakers)


def test_a_federation_is_no_plan():
    assert Subject.EMOTION.plan == ""
    assert Subject.EMOTION.folder == "demo-emotion"
