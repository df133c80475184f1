"""Plain English sentences of a wanted length, in the alphabet of the recognizer; written for this project."""

from __future__ import annotations

import numpy as np


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


SUBJECTS = _phrases("""
    the baker|my neighbor|a young sailor|the old teacher|our doctor|the tall gardener|her brother|his sister|
    the quiet farmer|a busy painter|the night nurse|your cousin|the village smith|a lost traveler|
    the new driver|an honest judge|the little girl|a clever boy|the music student|our best cook|
    the town clerk|a tired soldier
""")
SHORT_SUBJECTS = _phrases("""
    she|he|we both|they all|you two|someone|nobody|jack|ruth|quinn|felix|zoe|my aunt|his son|the king|
    some girls
""")
DEEDS = _phrases("""
    could carry a heavy basket|should paint the fence|found an old map|read a long letter|sold fresh bread|
    counted the copper coins|cleaned the kitchen window|opened the wooden gate|watered the vegetables|
    drew a small boat|heard a distant bell|wrote a short note|fixed the broken clock|picked ripe apples|
    boiled some water|fed the gray horse|kept the brass key|folded a blue shirt|bought seven oranges|
    didn't answer the question|never saw the ocean|built a stone wall|measured every plank|lost a silver ring|
    mixed flour and honey|taught us a song|wouldn't sell the house|chased the yellow dog|
    sharpened the kitchen knife
""")
SHORT_DEEDS = _phrases("""
    waited|sang|laughed|fell asleep|listened|came back|won't go|didn't move|ran away|stood up|agreed|
    drove home|ate lunch|got cold|went fishing|jumped|spoke first|looked up|lost it|had to go
""")
PLACES = _phrases("""
    near the harbor|behind the mill|at the corner shop|by the river|in the garden|under the bridge|
    across the street|on the hill|next to the station|outside the library|between two oak trees|
    beyond the village|in front of the church
""")
TIMES = _phrases("""
    before sunrise|every morning|late at night|after the rain|on quiet sundays|in early spring|
    during the storm|until the lamps went out|for an hour|just in time|twice a week|when it's cold|
    since last winter|as usual
""")
LINKS = ("and", "while", "because", "although", "so", "but", "and then")

DRAFTS = 24
"""How many drafts the one of the best length is chosen from."""


def sentence(characters: int, *, random: np.random.Generator) -> str:
    """A sentence of about `characters` letters and spaces, at least one clause; lower case without punctuation.

    >>> len(sentence(40, random=np.random.default_rng(0))) in range(36, 45)
    True
    """
    drafts = [_draft(characters, random) for _ in range(DRAFTS)]
    return min(drafts, key=lambda draft: abs(len(draft) - characters))


def _draft(characters: int, random: np.random.Generator) -> str:
    text = _clause(random, short=characters < 24)
    while len(text) < characters - 8:
        missing = characters - len(text)
        if missing < 24 or random.random() < 0.3:
            text = f"{text} {_one(PLACES if random.random() < 0.5 else TIMES, random)}"
        else:
            text = f"{text} {_one(LINKS, random)} {_clause(random, short=missing < 36)}"
    return text


def _clause(random: np.random.Generator, *, short: bool) -> str:
    subject = _one(SHORT_SUBJECTS if short or random.random() < 0.3 else SUBJECTS, random)
    return f"{subject} {_one(SHORT_DEEDS if short or random.random() < 0.2 else DEEDS, random)}"


def _one(words: tuple[str, ...], random: np.random.Generator) -> str:
    return words[int(random.integers(len(words)))]
