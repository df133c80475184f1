"""The page: complete, self-contained, honest about failures, and blind to the secret when redacted."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
import re
import subprocess
import sys
import textwrap
import wave
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from tests.fixtures.report_run import BATCH, SENTENCES, TRIALS, synthetic

from leakscope.core.errors import BadInput, DamagedRecord
from leakscope.ledger.record import Ending, Role, ScoreRecord, Word
from leakscope.ledger.run_folder import RunStore
from leakscope.report import figures, media, prose, redact, strips, sweep, tables
from leakscope.report.cells import Shelf
from leakscope.report.figures import Curve
from leakscope.report.page_run import Unfinished, render, write_page
from leakscope.report.redact import Veil

VOID = {"wbr", "meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """What a browser would make of the page: tags balanced or not, what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{tag} at {self.getpos()}")

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def run():
    return synthetic()


@pytest.fixture(scope="module")
def page(run):
    return render(*run)


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def part(run, *groups):
    """The run with these groups only: pages of it are quick."""
    summary, records = run
    kept = tuple(summary.groups[g] for g in groups)
    names = {n for g in kept for n in (*g.members, *g.undefended, *g.blind)}
    return summary.model_copy(update={"groups": kept, "planned": len(names)}), {
        n: cell for n, cell in records.items() if n in names
    }


def decoded(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))))


# --- the page as HTML


def test_tags_are_balanced_and_ids_are_unique(read):
    assert not read.wrong
    assert not read.open
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert read.all("html")[0]["lang"] == "en"
    assert read.all("title")


def test_the_page_loads_nothing(page, read):
    for tag, attrs in read.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            target = attrs.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    assert not read.all("script")
    assert not re.search(r"@import|url\((?!['\"]?data:)", page)
    policy = [a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy[0].startswith("default-src 'none'")


def test_every_picture_is_inside_and_is_described(read):
    pictures = read.all("img")
    assert len(pictures) > 200
    for attrs in pictures:
        assert attrs["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        assert attrs["alt"].strip()


def test_links_lead_somewhere(read):
    ids = {attrs["id"] for _, attrs in read.tags if "id" in attrs}
    targets = {attrs["href"][1:] for attrs in read.all("a")}
    assert targets <= ids
    assert {f"group-{i + 1}" for i in range(12)} <= targets


def test_the_verdict_comes_first_and_every_group_is_there(run, read):
    summary, _ = run
    said = read.said
    assert said.index(summary.sentence) < said.index("Overview") < said.index("How this was measured")
    assert prose.MEANINGS[summary.word].means_not in said
    for group in summary.groups:
        assert said.count(group.title) >= 1
    assert said.count(Word.INCONCLUSIVE.value) >= sum(g.word is Word.INCONCLUSIVE for g in summary.groups)


def test_no_failure_is_hidden(run, read):
    """Cells without a claim, a planned cell without a record, and the counts of both."""
    summary, records = run
    said = read.said
    for ending in (Ending.DIVERGED, Ending.CRASHED):
        assert SENTENCES[ending] in said
    lost = [n for g in summary.groups for n in (*g.members, *g.undefended, *g.blind) if n not in records]
    assert lost
    assert all(f"cell {name}" in said for name in lost)
    endings = [record.ending for record, _ in records.values()]
    diverged, crashed = endings.count(Ending.DIVERGED), endings.count(Ending.CRASHED)
    assert f"Failed: {diverged} diverged, {crashed} crashed, {len(set(lost))} missing" in said
    assert f"cells planned {len(records) + len(set(lost))} " in said


def test_texts_of_records_are_escaped(run, page):
    hostile = "<script>alert(1)</script><img src=x onerror=y>\"'"
    summary, records = part(run, 5)
    group = summary.groups[0].model_copy(
        update={"title": hostile, "mechanism": hostile, "attack": hostile, "sentence": hostile, "target": hostile}
    )
    update = {"groups": (group,), "title": hostile, "machine": hostile, "command": hostile, "citations": (hostile,)}
    records = {
        name: (record.model_copy(update={"sentence": hostile, "steps": (hostile,), "traceback": hostile}), found)
        for name, (record, found) in records.items()
    }
    text = render(summary.model_copy(update=update | {"versions": {hostile: hostile}}), records)
    read = Reader(text)
    assert not read.wrong
    assert not read.all("script")
    assert not any("onerror" in attrs for _, attrs in read.tags)
    assert html.escape("<script>alert(1)") in text
    assert "<script" not in page


def test_strange_numbers_are_printed(run):
    summary, records = part(run, 0)
    strange = ScoreRecord(
        metric="psnr", value=math.nan, unit="dB", higher_is_better=True, low=-math.inf, high=1e300, chance=math.nan,
        perfect=math.inf, items=(math.nan, math.inf, -math.inf, 1e300),
    )  # fmt: skip
    update = {"scores": (strange,), "blind_scores": (strange,), "epsilon": math.nan, "delta": 0.0}
    groups = (summary.groups[0].model_copy(update=update),)
    records = {
        name: (record.model_copy(update={"scores": (strange,), "seconds": math.inf}), found)
        for name, (record, found) in records.items()
    }
    said = Reader(render(summary.model_copy(update={"groups": groups, "seconds": math.nan}), records)).said
    assert "not a number" in said
    assert "[−∞" not in said, "what is infinite is no interval"


def test_the_same_run_gives_the_same_page(run):
    assert render(*part(run, 0, 6)) == render(*part(run, 0, 6))


def test_the_page_stays_small(page):
    assert len(page) < 4_000_000


def test_large_pictures_and_many_examples_are_capped_and_said(run):
    summary, records = part(run, 0)
    rng = np.random.default_rng(0)
    many = {}
    for name, (record, _) in records.items():
        shape = (40, 3, 200, 200)
        noise = rng.random(shape, np.float32)
        items = tuple(float(v) for v in rng.normal(20, 5, 40))
        scores = tuple(score.model_copy(update={"items": items}) for score in record.scores)
        many[name] = record.model_copy(update={"scores": scores}), {"original": noise, "claim": noise}
    summary = summary.model_copy(update={"groups": summary.groups * 6})
    text = render(summary, many)
    assert len(text) < 5_000_000
    shown = re.search(r"(\d+) of 120 examples", Reader(text).said)
    assert shown
    assert 1 <= int(shown[1]) <= strips.MOST_PICTURES


# --- pictures beside pictures


def easel(run, index, **arrays_of):
    summary, records = part(run, index)
    for name, change in arrays_of.items():
        records[name] = (records[name][0], change)
    return strips.Easel(summary.groups[0], records, Veil())


def test_examples_run_from_the_most_to_the_least_leaked(run):
    summary, records = part(run, 4)
    strip = easel(run, 4).strip()
    assert strip.total == BATCH * TRIALS
    everything = [item for name in summary.groups[0].members for item in records[name][0].scores[0].items]
    best, worst = (tables.number(value) for value in (max(everything), min(everything)))
    assert strip.items[0].tiles[1].lines[0] == f"PSNR {best} dB"
    assert strip.items[-1].tiles[1].lines[0] == f"PSNR {worst} dB"


def test_tiles_hold_the_pixels_of_the_record(run):
    summary, records = part(run, 4)
    strip = easel(run, 4).strip()
    trial, example = map(int, re.findall(r"\d+", strip.items[0].name))
    for kind, names in (("claim", summary.groups[0].members), ("claim", summary.groups[0].undefended)):
        name = next(n for n in names if records[n][0].spec.trial == trial)
        wanted = np.rint(np.clip(records[name][1][kind][example - 1, 0], 0, 1) * 255)
        tile = strip.items[0].tiles[1 if names is summary.groups[0].members else 3]
        np.testing.assert_array_equal(decoded(tile.source), wanted)


def test_a_control_on_another_secret_is_not_set_beside(run):
    summary, records = part(run, 4)
    for name in summary.groups[0].blind:
        record, found = records[name]
        records[name] = record, found | {"original": 1 - found["original"]}
    strip = strips.Easel(summary.groups[0], records, Veil()).strip()
    assert all(item.tiles[2].note == "another secret" and not item.tiles[2].source for item in strip.items)
    assert all(item.tiles[3].source for item in strip.items)


def test_an_unclaimed_example_is_a_hole_not_a_gray_picture(run):
    summary, records = part(run, 4)
    for name in summary.groups[0].members:
        record, found = records[name]
        records[name] = record, found | {"unclaimed": np.array([True] * BATCH)}
    strip = strips.Easel(summary.groups[0], records, Veil()).strip()
    assert all(item.tiles[1].note == "not claimed" and not item.tiles[1].source for item in strip.items)


def test_matrices_and_recordings_have_their_place(run):
    summary, records = part(run, 0)
    rng = np.random.default_rng(0)
    for name, (record, _) in records.items():
        records[name] = (
            record,
            {
                "original": rng.normal(size=(BATCH, 20, 13)),
                "claim": rng.normal(size=(BATCH, 20, 13)),
                "audio_original": rng.uniform(-1, 1, (BATCH, 400)),
                "audio_claim": rng.uniform(-1, 1, (BATCH, 400)),
                "audio_rate": np.array([8000]),
            },
        )
    open_page, closed = Reader(render(summary, records)), Reader(render(summary, records, redact=True))
    assert len(open_page.all("audio")) == 2 * strips.MOST_PLAYERS
    assert all(a["src"].startswith("data:audio/wav;base64,") and a["aria-label"] for a in open_page.all("audio"))
    assert not closed.all("audio")
    assert not open_page.wrong


# --- redaction


def shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other pictures with the same block means: pixels change places within each of redact's blocks."""
    changed = images.copy()
    rows, columns = (
        np.array_split(np.arange(side), np.clip(side // redact.SPAN, 1, redact.GRID)) for side in images.shape[-2:]
    )
    for picture in changed.reshape(-1, *images.shape[-2:]):
        for r in rows:
            for c in columns:
                block = picture[np.ix_(r, c)]
                picture[np.ix_(r, c)] = rng.permutation(block.ravel()).reshape(block.shape)
    return changed


def test_a_redacted_page_knows_nothing_finer_than_its_blocks(run):
    """Whoever holds the page cannot tell apart two secrets with equal block means, for they give the same page."""
    rng = np.random.default_rng(0)
    summary, records = part(run, 1, 6)
    originals = {n: (r, {k: np.round(a * 255) / 255 for k, a in f.items()}) for n, (r, f) in records.items()}
    seeds = {r.spec.trial: int(rng.integers(1 << 30)) for r, _ in originals.values()}
    others = {
        name: (record, {k: shuffled(a, np.random.default_rng(seeds[record.spec.trial])) for k, a in found.items()})
        for name, (record, found) in originals.items()
    }
    first, second = render(summary, originals, redact=True), render(summary, others, redact=True)
    assert any(
        not np.array_equal(originals[n][1]["original"], others[n][1]["original"]) for n in originals if originals[n][1]
    )
    assert first == second
    assert render(summary, originals) != render(summary, others)


def test_a_redacted_page_has_no_picture_of_the_secret(run):
    summary, records = part(run, 1, 6)
    open_page, closed = render(summary, records), render(summary, records, redact=True)
    forbidden = {
        media.image(picture)
        for _, found in records.values()
        for name in ("original", "claim")
        if name in found
        for picture in found[name]
    }
    assert sum(source in open_page for source in forbidden) > 10
    assert not any(source in closed for source in forbidden)
    for attrs in Reader(closed).all("img"):
        if attrs["src"].startswith("data:image/png"):
            assert max(decoded(attrs["src"]).shape[:2]) <= redact.GRID


def test_a_redacted_page_has_no_labels_seeds_or_texts_of_the_secret(run):
    summary, records = part(run, 11)
    members = summary.groups[0].members
    quoted = f"cell 7 said: {SENTENCES[Ending.CLAIMED]}; the word 'hello'"
    name = members[0]
    records[name] = (
        records[name][0].model_copy(update={"ending": Ending.CRASHED, "sentence": quoted, "traceback": "label 8"}),
        {},
    )
    group = summary.groups[0].model_copy(update={"sentence": f"PSNR 25.7 dB; 1 crashed ({quoted})"})
    summary = summary.model_copy(update={"groups": (group,), "seed": 987654321})
    said = Reader(render(summary, records, redact=True)).said
    for telling in (
        *summary.groups[0].members,
        "987654321",
        "hello",
        "faces.toml",
        "label 8",
        "[3, 3, 5, 9]",
        "cell 7",
    ):
        assert telling not in said, telling
    assert "PSNR 25.7 dB" in said  # scores are kept
    # labels: a page of renamed classes is the same page
    renamed = {}
    for identity, (record, found) in records.items():
        update = {
            "labels_true": tuple(9 - v for v in record.labels_true),
            "labels_claimed": tuple(9 - v for v in record.labels_claimed),
        }
        renamed[identity] = record.model_copy(update=update), found
    assert render(summary, records, redact=True) == render(summary, renamed, redact=True)
    assert render(summary, records) != render(summary, renamed)


def test_a_quoted_sentence_of_a_lost_cell_is_masked_too(run):
    """The verdict may quote a record that is gone; then the whole sentence passes through the veil."""
    summary, records = part(run, 11)
    group = summary.groups[0].model_copy(update={"sentence": "1 crashed (label 8 of 'anna')"})
    del records[group.members[0]]
    said = Reader(render(summary.model_copy(update={"groups": (group,)}), records, redact=True)).said
    assert "anna" not in said
    assert "label 8" not in said


@given(st.text())
def test_masked_text_holds_no_number_and_no_quote(text):
    assert not re.search(r"\d", redact.masked(text))
    assert '"' not in redact.masked(text)


@given(arrays(np.float64, st.tuples(st.sampled_from([1, 3]), st.integers(1, 70), st.integers(1, 70)),
              elements=st.floats(allow_nan=True, allow_infinity=True)))  # fmt: skip
def test_what_is_left_of_a_picture_is_coarse(picture):
    left = redact.coarse(picture)
    assert left.shape[0] == picture.shape[0]
    assert all(
        side <= max(1, min(redact.GRID, was // redact.SPAN))
        for side, was in zip(left.shape[1:], picture.shape[1:], strict=True)
    )
    assert set(np.round(left * (redact.LEVELS - 1), 9).ravel()) <= set(range(redact.LEVELS))


# --- pictures, sounds, figures, numbers


@given(arrays(np.float64, st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
              elements=st.floats(-2, 3)))  # fmt: skip
@settings(max_examples=40)
def test_png_is_read_back_by_another_library(picture):
    seen = decoded(media.image(picture))
    wanted = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(seen, wanted[0] if len(wanted) == 1 else np.moveaxis(wanted, 0, 2))


def test_a_broken_pixel_is_painted_and_infinite_ones_are_clipped():
    seen = decoded(media.image(np.array([[[math.nan, math.inf, -math.inf, 0.5]]])))
    assert [tuple(p) for p in seen[0]] == [media.NOT_A_NUMBER, (255,) * 3, (0,) * 3, (128,) * 3]


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (4, 4), (1, 3, 0, 4)])
def test_wrong_pictures_are_refused(shape):
    with pytest.raises(BadInput, match="expected pictures"):
        media.images(np.zeros(shape))


@pytest.mark.parametrize("shape", [(4,), (6, 5), (1, 8, 8), (3, 8, 8), (2, 8, 8)])
def test_every_rank_can_be_drawn(shape):
    drawn = media.drawable(np.linspace(0, 1, math.prod(shape)).reshape(shape), (0.0, 1.0))
    assert drawn.ndim == 3
    assert drawn.shape[0] in (1, 3)


def test_a_matrix_shows_time_to_the_right_and_the_first_coefficient_lowest():
    ramp = np.zeros((5, 3))
    ramp[4, 0] = 1.0
    seen = decoded(media.matrix_picture(ramp)).astype(int).sum(2)
    assert seen.shape == (3, 5)
    assert np.unravel_index(seen.argmax(), seen.shape) == (2, 4)


def test_averaging_down_keeps_the_mean_of_whole_blocks():
    picture = np.random.default_rng(0).random((3, 192, 96))
    small = media.shrink(picture, 96)
    np.testing.assert_allclose(small, picture.reshape(3, 96, 2, 48, 2).mean((2, 4)), rtol=1e-12)


def test_wav_is_read_back_by_the_standard_library():
    sound = np.array([0.0, 1.0, -1.0, 2.0, math.nan, 0.5])
    with wave.open(io.BytesIO(media.wav(sound, 8000))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert heard.tolist() == [0, 32767, -32767, 32767, 0, 16384]


def score(**changed) -> ScoreRecord:
    said = {"metric": "psnr", "value": 20.0, "unit": "dB", "higher_is_better": True, "low": 18.0, "high": 22.0,
            "chance": 12.0, "perfect": 120.0, "items": (18.0, 22.0)}  # fmt: skip
    return ScoreRecord(**said | changed)


def svg(drawing: figures.Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(base64.b64decode(drawing.source.partition("base64,")[2]))


def test_figures_are_well_formed_and_follow_dark_pages():
    drawing = figures.intervals([(score(), score(value=30.0), None)])
    text = base64.b64decode(drawing.source.partition("base64,")[2]).decode()
    assert svg(drawing).tag.endswith("svg")
    assert "prefers-color-scheme:dark" in text
    assert "20 dB" in drawing.alt
    assert "30 dB" in drawing.alt
    assert not [
        color for color in (figures.INK, figures.UNDEFENDED, figures.BLIND, figures.FAINT) if text.count(color) > 1
    ]


def test_what_cannot_be_drawn_is_not_drawn():
    assert figures.intervals([(score(value=math.nan), None, None)]) is None
    assert figures.curves([Curve((1, 2), (math.nan, -1.0)), Curve((), ())]) is None


def test_a_divergence_does_not_press_the_other_curves_flat():
    drawing = figures.curves([Curve((1, 2, 3), (1.0, 0.5, 0.1)), Curve((1, 2), (1.0, 1e30), lost=True)])
    assert "above 1000" in drawing.note
    ticks = [text for text in svg(drawing).itertext() if text.startswith("10")]
    assert ticks
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    assert max(int(tick[2:].translate(plain)) for tick in ticks) < 9
    assert not figures.curves([Curve((1, 2, 3), (1.0, 0.5, 0.1))]).note


@given(st.floats(-1e300, 1e300))
def test_numbers_can_be_read_back(value):
    digits, _, power = tables.number(value).replace("−", "-").partition("×10")
    exponent = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or "0"
    assert math.isclose(float(f"{digits}e{exponent}"), value, rel_tol=6e-4, abs_tol=0.0)


@given(st.integers(0, 500), st.integers(2, 20))
def test_shown_ranks_hold_both_ends(count, most):
    ranks = strips.spread(count, most)
    assert len(ranks) == min(count, most)
    assert list(ranks) == sorted(set(ranks))
    assert not count or (ranks[0] == 0 and ranks[-1] == count - 1)


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)), st.randoms())
def test_labels_agree_in_any_order(true, claimed, random):
    mixed = random.sample(claimed, len(claimed))
    assert tables.agreement(true, mixed) == tables.agreement(claimed, true)
    assert tables.agreement(true, true) == len(true)


def test_gauges_point_to_the_right_where_more_leaks(run):
    def gauge(*scores):
        summary, _ = run
        groups = tuple(
            summary.groups[0].model_copy(update={"scores": (s,), "undefended_scores": (), "blind_scores": ()})
            for s in scores
        )
        ((_, rows),) = tables.overview(summary.model_copy(update={"groups": groups}))
        return [row.gauge.value for row in rows]

    rising = gauge(score(), score(value=30.0, low=29.0, high=31.0))
    falling = gauge(
        score(metric="mse", higher_is_better=False, value=0.1, low=0.1, high=0.1, chance=0.2),
        score(metric="mse", higher_is_better=False, value=0.01, low=0.01, high=0.01, chance=0.2),
    )
    assert rising[0] < rising[1]
    assert falling[0] < falling[1]


def test_every_word_and_ending_is_explained():
    assert set(prose.MEANINGS) == set(Word)
    assert set(tables.WORST_FIRST) == set(Word)
    assert not re.search(r"\bis safe\b", " ".join(m.means for m in prose.MEANINGS.values()))


# --- on disk


def stored(run, folder: Path) -> Path:
    summary, records = run
    store = RunStore(folder)
    for record, found in records.values():
        store.write(record, found)
    store.write_summary(summary)
    return folder


def test_a_run_on_disk_gives_the_page_of_its_records(run, tmp_path):
    some = part(run, 1)
    path = write_page(stored(some, tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    assert path.read_text(encoding="utf-8") == render(*some)
    assert not list(path.parent.glob(".*"))
    assert "Redacted" in write_page(path.parent, redact=True).read_text(encoding="utf-8")


def test_a_shelf_lets_go_of_arrays_and_finds_them_again(run, tmp_path):
    summary, records = part(run, 1)
    shelf = Shelf(RunStore(stored((summary, records), tmp_path)), held_bytes=1)
    assert set(shelf) == set(records)
    for name, (record, found) in records.items():
        assert shelf[name][0] == record
        assert set(shelf[name][1]) == set(found)
        for kind, array in found.items():
            np.testing.assert_array_equal(shelf[name][1][kind], array)
    with pytest.raises(KeyError):
        shelf[summary.groups[0].members[0]][1]["nothing"]


def test_a_damaged_cell_is_a_visible_failure(run, tmp_path):
    some = part(run, 1)
    folder = stored(some, tmp_path)
    name = some[0].groups[0].members[1]
    RunStore(folder).path(name).write_bytes(b"not what was written")
    said = Reader(write_page(folder).read_text(encoding="utf-8")).said
    assert f"cell {name}" in said
    assert "cannot be read" in said
    assert "1 missing or unreadable" in said
    assert str(tmp_path) not in Reader(write_page(folder, redact=True).read_text(encoding="utf-8")).said


def test_a_run_without_a_summary_is_called_incomplete(run, tmp_path):
    summary, records = part(run, 5)
    folder = stored((summary, records), tmp_path)
    (folder / "summary.json").unlink()
    planned = {n: record.spec.model_dump(mode="json") for n, (record, _) in records.items()}
    gone = summary.groups[0].members[0]
    RunStore(folder).path(gone).unlink()
    RunStore(folder).write_json("plan.json", {"title": "Half a run", "cells": planned})
    read = Reader(write_page(folder).read_text(encoding="utf-8"))
    assert "no verdict: the run has not ended" in read.said
    assert "Half a run" in read.said
    assert "not run yet" in read.said
    assert SENTENCES[Ending.DIVERGED] in read.said
    assert f"cells finished {len(records) - 1} " in read.said
    assert not read.wrong


def test_no_run_and_a_damaged_summary_are_errors(tmp_path):
    with pytest.raises(BadInput, match="holds no run"):
        write_page(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DamagedRecord, match="no valid summary"):
        write_page(tmp_path)


def test_an_empty_run_has_a_page():
    assert "no verdict" in render(Unfinished(), {})


def test_the_page_needs_no_torch(run, tmp_path):
    stored(part(run, 1), tmp_path)
    code = f"""
        import sys
        sys.modules["torch"] = None
        from pathlib import Path
        from leakscope.report.page_run import write_page
        print(write_page(Path({str(tmp_path)!r})).stat().st_size)
        assert not [name for name in sys.modules if name.startswith(("torch.", "torchvision"))]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


def test_roles_are_told_by_the_group_not_by_the_record(run):
    """An undefended cell that two groups share is recorded once, under its first role."""
    summary, records = part(run, 4)
    group = summary.groups[0]
    for name in group.undefended:
        record, found = records[name]
        spec = record.spec.model_copy(update={"role": Role.AUDITED})
        records[name] = record.model_copy(update={"spec": spec}), found
    assert strips.Easel(group, records, Veil()).strip().kinds[-1] == "undefended"


def test_the_plan_s_question_is_one_figure_with_every_group(run) -> None:
    """Each group's own words and numbers, none of the group without a score; labels say what varies and no more."""
    summary, _ = run
    rows = [row for _, found in tables.overview(summary) for row in found]
    lanes = sweep.lanes(rows)
    finite = [row.main if row.main is not None and math.isfinite(row.main.value) else None for row in rows]
    assert [lane.score for lane in lanes] == finite
    drawn = sweep.figures(rows)
    assert drawn
    said = " ".join(drawing.alt for drawing in drawn)
    for lane in lanes:
        assert lane.name in said
        assert "no claim" in said if lane.score is None else tables.number(lane.score.value) in said
    assert not sweep.figures(rows[:2])


def test_lanes_are_labeled_by_what_varies(run) -> None:
    summary, _ = run
    row = next(row for _, found in tables.overview(summary) for row in found if row.main is not None)
    titles = [f"digits{size} · FedSGD() · idlg()" for size in ("", " · batch of 4", " · batch of 8")]
    rows = [dataclasses.replace(row, group=row.group.model_copy(update={"title": title})) for title in titles]
    assert [lane.label for lane in sweep.lanes(rows)] == ["batch of 1", "batch of 4", "batch of 8"]
    titles = [
        "digits · FedSGD() · idlg(evaluations=3)",
        "digits · FedSGD() · LowRank()",
        "faces · FedSGD() · LowRank()",
    ]
    rows = [dataclasses.replace(row, group=row.group.model_copy(update={"title": title})) for title in titles]
    assert [lane.name for lane in sweep.lanes(rows)] == ["digits · idlg", "digits · LowRank", "faces"]


def test_the_figure_keeps_the_order_of_the_plan(run) -> None:
    """Scenes of one target and data stand together in the tables; in the figure the plan's order is the question."""
    summary, records = run
    first, second = summary.groups[0], next(g for g in summary.groups if g.dataset != summary.groups[0].dataset)
    turned = [first, second, first.model_copy(update={"title": "third · FedSGD() · idlg()"})]
    page = render(summary.model_copy(update={"groups": tuple(turned)}), records)
    figure = re.search(r'class="sweep"><img src="[^"]*" alt="([^"]*)"', page)
    assert figure is not None
    assert figure[1].index("third") > figure[1].index(second.title.split(" · ")[0])


def test_a_group_whose_trials_made_no_claim_is_not_left_out_of_the_figure(run) -> None:
    """Else the figure of a sweep would show only where the attack worked."""
    summary, _ = run
    row = next(row for _, found in tables.overview(summary) for row in found if row.main and row.blind)
    titles = [f"digits · batch of {size} · FedSGD() · LowRank()" for size in (2, 4, 8)]
    whole, some, none = (
        dataclasses.replace(row, group=row.group.model_copy(update={"title": title})) for title in titles
    )
    longer = row.blind.model_copy(update={"items": (*row.main.items, 0.0)})
    rows = [
        dataclasses.replace(whole, blind=row.main),
        dataclasses.replace(some, blind=longer),
        dataclasses.replace(none, main=None),
    ]
    assert [lane.partial for lane in sweep.lanes(rows)] == [False, True, False]
    (drawing,) = sweep.figures(rows)
    assert "batch of 8: no claim" in drawing.alt
    assert drawing.alt.count("of the trials with a claim") == 1
    assert "hollow" in drawing.note
    assert "No dot" in drawing.note
