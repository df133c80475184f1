"""`leakscope demo emotion`: what the updates of a federation of synthetic speakers say of their sex."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from leakscope.attacks.attributes.shadow import ShadowUpdates
from leakscope.audit.by_person import PersonsVerdict, judged
from leakscope.audit.federated import Claims, Game, played
from leakscope.cli.console import say
from leakscope.cli.ending import Exit
from leakscope.core.annotation import Annotation
from leakscope.core.effort import Progress
from leakscope.core.pool import Pool
from leakscope.datasets.emotion.emotion_features import EmotionFeatures
from leakscope.datasets.emotion.normalization import Normalization
from leakscope.datasets.emotion.opensmile import OpenSmile
from leakscope.datasets.emotion.spoken_emotions import SpokenEmotions
from leakscope.datasets.sources.speech import Sex
from leakscope.mechanisms.federated.federation import Federation
from leakscope.mechanisms.federated.round_files import RoundFiles
from leakscope.mechanisms.population import Population
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.numerics.rng import Key
from leakscope.targets.zoo.emotion_net import EmotionNet

CORPUS = SpokenEmotions(speakers=32, each=3)
"""Half of the speakers are public; of each sex there are eight on either side."""
FEDERATION = Federation(FedSGD(), rounds=40, fraction=0.25, batch=20, server_lr=0.1)
SMALLEST = 0.2
"""The smallest gain of interest, over a chance of one half."""


@final
@dataclass(frozen=True)
class Scene:
    """What is shown: its name in the folder, and in words; shuffled: the sexes are drawn anew over all speakers."""

    name: str
    title: str
    shuffled: bool = False


SCENES = (
    Scene("speakers", "sex of each speaker, by all of their updates"),
    Scene(
        "shuffled", "the same with sexes that are shuffled over the speakers, which no update can tell", shuffled=True
    ),
)


def shown(folder: Path, *, as_json: bool) -> Exit:
    """Play both, print a line for each. Rounds and features are kept in the folder, where a later call goes on."""
    by_sex: dict[Sex, dict[str, None]] = {}
    for one in CORPUS.recordings():
        by_sex.setdefault(one.sex, {})[one.speaker] = None
    # Of each sex every other one by name: accents and kinds of voices are on both sides then.
    halves = [tuple(name for own in by_sex.values() for name in sorted(own)[side::2]) for side in (0, 1)]
    features = OpenSmile(cache=str(folder / "features"))
    say(f"{CORPUS.speakers} synthetic speakers; computing features of {len(CORPUS.recordings())} recordings")
    public, private = (EmotionFeatures(CORPUS, features, Normalization.SPEAKER, speakers=half) for half in halves)
    claims = {scene: _played(scene, public, private, folder) for scene in SCENES}
    # The first is the control of the second: that the attack can work here at all.
    control = claims[SCENES[0]].people
    found = {
        scene: judged(one.people, control, smallest=SMALLEST, key=Key(0).child(scene.name), silent=one.silent)
        for scene, one in claims.items()
    }
    if as_json:
        print(json.dumps({scene.name: _plain(verdict) for scene, verdict in found.items()}, indent=2))
    else:
        for scene, verdict in found.items():
            print(f"{scene.title}\n  {verdict.word.value}: {verdict.sentence}")
    return Exit.NO_LEAK_FOUND


def _played(scene: Scene, public: EmotionFeatures, private: EmotionFeatures, folder: Path) -> Claims:
    key = Key(0).child("demo", scene.name)
    people = [Population.of_owners(one.load(), one.annotations()) for one in (public, private)]
    annotations = public.annotations()
    if scene.shuffled:
        people = [_shuffled(one, key.child("shuffled", at)) for at, one in enumerate(people)]
        annotations = _of_examples(public, people[0])
    attack = ShadowUpdates(Pool(public.load(), annotations), FEDERATION)
    game = Game(EmotionNet(), private.domain, private.classes, FEDERATION, attack)

    def watch(progress: Progress) -> None:
        if progress.note.startswith("played"):
            say(f"{scene.name}: {progress.note}")

    return played(game, people[1], key=key, store=RoundFiles(folder / "rounds" / scene.name), watch=watch)


def _shuffled(people: Population, key: Key) -> Population:
    """The sexes in another order over the same clients."""
    order = torch.randperm(len(people), generator=key.generator()).tolist()
    known = tuple(one.rows(order) if one.name == "sex" else one for one in people.annotations)
    return replace(people, annotations=known)


def _of_examples(public: EmotionFeatures, people: Population) -> tuple[Annotation, ...]:
    """What the clients are told to be, of each of their examples."""
    speaker, sex = public.annotations()[0], people.annotation("sex")
    place = {name: at for at, name in enumerate(people.names)}
    values = tuple(sex.values[place[speaker.categories[one]]] for one in speaker.values)
    return speaker, Annotation("sex", values, sex.categories)


def _plain(verdict: PersonsVerdict) -> dict[str, object]:
    uar = verdict.uar
    return {
        "word": verdict.word.value,
        "uar": uar.value,
        "low": uar.low,
        "high": uar.high,
        "chance": verdict.chance,
        "luck": verdict.luck,
        "sentence": verdict.sentence,
    }
