"""The page of `leakscope score`: private examples beside what was claimed of them, and nothing else's."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

import leakscope as ls
from leakscope.audit.files import Provenance, read_claim, read_secret, write_claim, write_secret, write_update
from leakscope.cli.ending import Exit
from leakscope.cli.main import app
from leakscope.core.attempt import Certificate, Outcome
from leakscope.core.claim import Claim
from leakscope.core.secret import Secret
from leakscope.domains.text import sequences_of


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def handed(secret: Secret, target: ls.Target, claim: Claim | None, words: tuple[str, ...] = ()) -> None:
    """The files of a client and of an adversary who claims this."""
    seen = ls.observe(target, secret.reveal(), ls.FedSGD(), key=ls.Key(0))
    write_update(Path("u.safetensors"), seen, Provenance("by hand"))
    write_secret(Path("s.safetensors"), secret, seen, data="by hand", words=words)
    proof = None if claim is None else Certificate.alike(1e-9, 1e-4, "by hand", items=len(claim))
    outcome = Outcome.REFUSED if claim is None else Outcome.CLAIMED
    attempt: ls.Attempt[Claim] = ls.Attempt("Somebody()", outcome, "because <it> is so", claim, proof)
    write_claim(Path("c.safetensors"), seen, [attempt], None if claim is None else attempt)


def scored(*more: object) -> tuple[Result, str]:
    result = call("score", "c.safetensors", "s.safetensors", "--report", "page", *more)
    page = Path("page/score.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "it loads nothing"
    return result, page


def pictures(page: str, kind: str) -> list[Tensor]:
    """The pictures of this kind in the strip, in order, (H, W) in [0, 1]."""
    found = re.findall(rf'<img src="data:image/png;base64,([^"]+)" alt="{kind}, trial 1, example (\d)', page)
    ordered = sorted(found, key=lambda pair: int(pair[1]))
    opened = (np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code, _ in ordered)
    return [torch.from_numpy(np.array(one)) / 255 for one in opened]


def test_originals_stand_beside_what_was_claimed_of_them_in_whatever_order(here: Path) -> None:
    source = ls.Digits(size=8)
    secret = source.draw(3, key=ls.Key(3))
    target = ls.MLP((8,)).build(source.domain, source.classes, key=ls.Key(0))
    batch = secret.reveal()
    handed(secret, target, ls.Inputs(batch.inputs.flip(0) * 0.5, batch.labels.flip(0)))
    result, page = scored("--json")
    said = json.loads(result.stdout)
    assert (said["report"], said["word"]) == ("page/score.html", "inconclusive")
    assert "a defect of the attack" in said["sentence"], "half as bright is not what was proved"
    originals, claims = pictures(page, "original"), pictures(page, "reconstruction")
    for shown, claimed, true in zip(originals, claims, batch.inputs, strict=True):
        assert float((shown - true[0]).abs().max()) < 1 / 255, "a byte per pixel"
        assert float((claimed - true[0] * 0.5).abs().max()) < 1 / 255
    psnr = next(one for one in said["scores"] if one["metric"] == "psnr")
    assert re.search(rf"PSNR .*?{psnr['value']:.4g}.*?{psnr['chance']:.4g}", page, re.DOTALL)
    assert "holds in 1 of 1: by hand" in page
    assert "because &lt;it&gt; is so" in page
    labels = [str(int(one)) for one in batch.labels]
    assert f'<td class="figure">{" ".join(labels)}</td><td class="figure">{" ".join(labels)}</td>' in page


def test_an_input_that_is_proved_twice_is_no_defect(here: Path) -> None:
    source = ls.Digits(size=8)
    secret = source.draw(3, key=ls.Key(3))
    target = ls.MLP((8,)).build(source.domain, source.classes, key=ls.Key(0))
    handed(secret, target, ls.Inputs(secret.reveal().inputs[[0, 0, 1]]))
    result = call("score", "c.safetensors", "s.safetensors", "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["word"]) == (Exit.LEAK, "leaks")
    assert "the attack's own equations hold" in said["sentence"]


def test_frames_are_drawn_and_played_on_both_sides(here: Path) -> None:
    domain = ls.Frames(26)
    frames = torch.randn(2, 30, 26, generator=ls.Key(1).generator())
    lengths = torch.tensor([30, 20])
    frames[1, 20:] = 0
    batch = ls.Batch(frames, torch.tensor([[3, 4], [5, 0]]), lengths, torch.tensor([2, 1]))
    target = ls.DeepSpeech(hidden=16).build(domain, 29, key=ls.Key(0))
    handed(Secret(batch), target, ls.Inputs(frames.flip(0), lengths=lengths.flip(0)))
    result, page = scored()
    assert result.exit_code == Exit.LEAK
    assert f"report: {Path('page/score.html').resolve()}" in result.stdout
    players = re.findall(
        r'<audio [^>]*aria-label="(\w+), trial 1, example (\d)" src="data:audio/wav;base64,([^"]+)"', page
    )
    assert [(kind, place) for kind, place, _ in players] == [
        ("original", "1"), ("claim", "1"), ("original", "2"), ("claim", "2"),
    ]  # fmt: skip
    sounds = {(kind, place): code for kind, place, code in players}
    assert sounds["original", "1"] == sounds["claim", "1"] != sounds["original", "2"] == sounds["claim", "2"]
    assert "none claimed" in page, "no transcript was"


def test_texts_are_words_and_what_is_wrong_is_marked(here: Path) -> None:
    assert call(
        "capture", "--model", "TextEncoder()", "--data", "Sentences()", "--count", 2, "--tell", "BatchSize",
        "--out", "u.safetensors", "--secret", "s.safetensors",
    ).exit_code == 0  # fmt: skip
    secret = read_secret(here / "s.safetensors")
    assert secret.header.words[1:] != ()
    source = ls.Sentences()
    target = ls.TextEncoder().build(source.domain, source.classes, key=ls.Key(0))
    ids = [list(one) for one in sequences_of(secret.secret.reveal().inputs)]
    wrong, ids[0][1] = ids[0][1], 999
    handed(secret.secret, target, ls.Tokens(tuple(map(tuple, ids[::-1]))), secret.header.words)
    _, page = scored()
    text = html.unescape(page)
    assert f"<del>{secret.header.words[wrong]}</del>" in text
    assert "<ins>#999</ins>" in text, "an id that is no word"
    assert text.count('<span class="tag">exact</span>') == 1


def test_where_nothing_was_claimed_the_page_says_why(here: Path) -> None:
    source = ls.Digits(size=8)
    target = ls.MLP((8,)).build(source.domain, source.classes, key=ls.Key(0))
    handed(source.draw(1, key=ls.Key(3)), target, None)
    result, page = scored()
    assert result.exit_code == Exit.INCOMPLETE
    assert read_claim(here / "c.safetensors").attempt is None
    assert "nothing was claimed, so there is nothing to score" in page
    assert "because &lt;it&gt; is so" in page
    assert "inconclusive" in page
    assert "<img" not in page
