"""One self-contained page of what an attack claims, before anybody has compared it with the secret."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from markupsafe import Markup

from leakscope.ledger.exchange import ClaimHeader
from leakscope.ledger.files import write_atomically
from leakscope.ledger.folders import private_folder
from leakscope.report import media
from leakscope.report.figures import Curve, curves
from leakscope.report.media import Array
from leakscope.report.redact import Veil
from leakscope.report.templating import rendered

PAGE = "report.html"

MOST = 64
"""Pictures on the page and beside it."""


@final
@dataclass(frozen=True)
class Shown:
    """What a person looks at: pictures (C, H, W) in [0, 1] or matrices (frames, coefficients), and sounds (n, S)."""

    pictures: tuple[Array, ...] = ()
    sounds: Array | None = None
    rate: int = 0


def write_claim_page(folder: Path, said: ClaimHeader, shown: Shown) -> Path:
    """Write `folder/report.html`, and beside it each picture as PNG and each sound as WAV; the page needs neither.

    Pictures of an earlier page in the same folder are removed: the folder shows one claim.
    """
    private_folder(folder)
    for old in (*folder.glob("claim-*.png"), *folder.glob("claim-*.wav")):
        old.unlink()
    chosen = shown.pictures[:MOST]
    # Coefficients of speech differ in size: each is drawn in its own range, the same for all utterances.
    scale = media.scale_of_columns(*chosen) if chosen and chosen[0].ndim == 2 else media.scale_of(*chosen)
    drawn = [media.drawable(one, scale) for one in chosen]
    sounds = () if shown.sounds is None else tuple(shown.sounds)
    for place, one in enumerate(drawn, 1):
        write_atomically(folder / f"claim-{place}.png", media.picture_file(one))
    for place, sound in enumerate(sounds, 1):
        write_atomically(folder / f"claim-{place}.wav", media.wav(sound, shown.rate))
    players = [media.audio_player(sound, shown.rate, label=f"claim {i}") for i, sound in enumerate(sounds, 1)]
    page = _render(said, [media.image(one) for one in drawn], players, left=len(shown.pictures) - len(chosen))
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def _render(said: ClaimHeader, pictures: list[str], players: list[Markup], *, left: int) -> str:
    chosen = said.tried[said.chosen] if said.chosen >= 0 else None
    proved = chosen is not None and chosen.certificate is not None and chosen.certificate.holds
    view = {
        "said": said,
        "chosen": chosen,
        "proved": proved,
        "pictures": pictures,
        "players": players,
        "left": left,
        "drawing": curves([Curve(said.trace_evaluations, said.trace_losses)]),
    }
    return rendered("claim.html", Veil(False), view)
