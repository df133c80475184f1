"""Speech from plan to page: records, verdicts, players, pictures and transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch

import leakscope as ls
from leakscope.attacks.attack import AbstractAttack, Attack
from leakscope.audit import evidence
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.audit.work import run_cell
from leakscope.cli.commands.demo import plan as demo_plan
from leakscope.cli.options.demo import Subject
from leakscope.core.effort import Clock, Watch
from leakscope.domains.speech import ENGLISH
from leakscope.ledger.record import Record, Role, Word
from leakscope.ledger.run_folder import RunStore
from leakscope.report.page_run import write_page
from leakscope.report.redact import Veil
from leakscope.report.wording import transcripts

SOURCE = ls.Spoken(speakers=2, each=4, shortest=1.0, longest=1.4)
WORDS = tuple(utterance.transcript for utterance in SOURCE.utterances())
PHRASE = "it was a quiet evening"


@final
@dataclass(frozen=True)
class Saying(AbstractAttack[None, ls.Transcripts]):
    """Claims one sentence whatever it sees."""

    @property
    def citation(self) -> str:
        """None."""
        return ""

    def _read(self, seen: ls.Observation) -> None:
        return None

    def _attempt(
        self, seen: ls.Observation, read: None, *, key: ls.Key, clock: Clock, watch: Watch
    ) -> ls.Attempt[ls.Transcripts]:
        return ls.Attempt(repr(self), ls.Outcome.CLAIMED, "said", ls.Transcripts((ENGLISH.encode(PHRASE),)))


def planned(*attacks: Attack[ls.Inputs] | Attack[ls.Transcripts], size: int = 1) -> Plan:
    scene = Scene("two voices", SOURCE, ls.DeepSpeech(hidden=128))
    return Plan("speech", (scene,), (ls.FedSGD(),), attacks, batch_sizes=(size,), trials=3)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs") / "speech"
    run(planned(ls.WindowedFrames(), Saying()), folder, Inline())
    return folder


def records(folder: Path, attack: str) -> list[Record]:
    store = RunStore(folder)
    return [one for one in map(store.record, store.names()) if one.spec.attack.startswith(attack)]


def test_frames_leak_by_their_own_equations_and_one_sentence_for_all_does_not(audited: Path) -> None:
    frames, words = RunStore(audited).summary().groups
    assert frames.word is Word.LEAKS
    assert frames.scores[0].metric == "frame-error"
    assert frames.scores[0].value < 1e-4
    assert "proved by its own equations in 3 of 3 trials" in frames.sentence
    assert words.scores[0].metric == "character-error-rate"
    assert "character-error-rate" in {score.metric for score in words.blind_scores}
    assert "dB against the blind guess" in words.sentence


def test_a_record_holds_frames_sound_and_words(audited: Path) -> None:
    store = RunStore(audited)
    for record in records(audited, "WindowedFrames"):
        _, arrays = store.read(record.identity)
        assert arrays["original"].shape == arrays["claim"].shape
        assert np.nanmax(np.abs(arrays["original"] - arrays["claim"])) < 1e-2
        assert arrays["audio_original"].shape == arrays["audio_claim"].shape
        assert 0.001 < np.abs(arrays["audio_claim"]).max() < 4
        assert record.transcripts_true[0] in WORDS
        assert record.transcripts_claimed == ()
        assert record.labels_true == ()
    for record in records(audited, "Saying"):
        assert record.transcripts_claimed == (PHRASE,)
    for record in records(audited, "BlindGuess"):
        assert {score.metric for score in record.scores} == {"frame-error", "character-error-rate"}
        assert next(s for s in record.scores if s.metric == "frame-error").value == pytest.approx(
            record.scores[0].chance
        )


def test_the_page_plays_draws_and_compares_and_forgets_when_asked(audited: Path) -> None:
    page = write_page(audited).read_text(encoding="utf-8")
    assert page.count("<audio") >= 6
    assert "<del>" in page
    assert "<ins>" in page
    assert "another secret" not in page
    closed = write_page(audited, redact=True).read_text(encoding="utf-8")
    assert "<audio" not in closed
    assert not any(said in closed for said in WORDS)


def test_utterances_of_a_batch_keep_their_own_lengths() -> None:
    (cell,) = [one for one in planned(ls.WindowedFrames(), size=2).cells() if one.role is Role.AUDITED][:1]
    found = run_cell(cell)
    heard = ~np.isnan(found.arrays["original"]).any(axis=2)
    lengths = sorted(heard.sum(1).tolist())
    assert heard.shape[0] == 2
    assert len(found.record.transcripts_true) == 2
    assert lengths[-1] == found.arrays["original"].shape[1]


def test_a_diff_marks_what_differs_and_loses_nothing() -> None:
    (cell,) = [one for one in planned(Saying()).cells() if one.role is Role.AUDITED][:1]
    record = run_cell(cell).record.model_copy(
        update={"transcripts_true": ("he's here", "a"), "transcripts_claimed": ("she's her", "a")}
    )
    first, second = transcripts([record], Veil(), most=8).shown
    assert "".join(text for text, _ in first.true) == "he's here"
    assert "".join(text for text, _ in first.claimed) == "she's her"
    assert [text for text, same in first.claimed if not same] == ["s"]
    assert [text for text, same in first.true if not same] == ["e"]
    assert (first.exact, second.exact) == (False, True)
    (hidden, _) = transcripts([record], Veil(on=True), most=8).shown
    assert "he" not in "".join(text.replace("withheld", "") for text, _ in (*hidden.true, *hidden.claimed))


def test_random_public_speech_is_never_a_recovered_utterance() -> None:
    """The rule's false positives: claims that saw nothing but are as lifelike as can be."""
    public, counted = SOURCE.public(), 0
    for trial in range(20):
        secret = SOURCE.draw(3, key=ls.Key(trial))
        chosen = public.rows(torch.randint(len(public), (3,), generator=ls.Key(trial).child("guess").generator()))
        claim = ls.Inputs(chosen.inputs, lengths=chosen.lengths)
        found = ls.score(claim, secret, domain=SOURCE.domain, public=public)["frame-error"]
        blind = ls.score(
            ls.Inputs(torch.zeros(0, 1, 26), lengths=torch.zeros(0, dtype=torch.int64)), secret, public=public
        )["frame-error"]
        ours, theirs = (evidence.decibels("frame-error", score.items) for score in (found, blind))
        counted += evidence.recovered(ours, theirs)
    assert counted == 0


def test_errors_are_read_in_decibels_with_one_margin() -> None:
    assert evidence.decibels("frame-error", [1.0, 0.1]) == pytest.approx((0.0, 20.0))
    assert evidence.decibels("character-error-rate", [0.0, 0.001]) == pytest.approx((40.0, 40.0))
    half = 2**-0.5
    assert evidence.decibels("frame-error", [half])[0] == pytest.approx(evidence.MARGIN, abs=0.02)


def test_the_packaged_demo_of_speech_is_small_and_whole() -> None:
    plan = demo_plan(Subject.SPEECH)
    assert len(plan.cells()) <= 36
    mechanisms = " ".join(repr(group.mechanism) for group in plan.groups())
    assert all(word in mechanisms for word in ("FedSGD()", "Dropout", "GaussianNoise", "Quantize"))
    assert {metric.name for metric in plan.cells()[0].metrics} == {"frame-error", "character-error-rate", "piece-error"}


def test_image_plans_score_what_they_scored() -> None:
    assert [metric.name for metric in demo_plan().cells()[0].metrics] == ["ssim", "psnr", "label-accuracy"]
