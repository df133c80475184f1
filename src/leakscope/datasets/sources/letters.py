"""Letters rendered from fonts that are there without a download: public pictures to train a backbone on."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from leakscope.core.arguments import count
from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput
from leakscope.datasets.sources.images import checked_size, from_bytes
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmb10", "cmr10", "cmss10", "cmtt10")
"""How the files of the fonts begin that hold both cases of every letter."""
CANVAS, BOX, POINTS = 56, 40, 72
"""Pixels of the canvas, of the box in its middle that a letter fills, and the size at which it is drawn first.

20 of 28 pixels are what digits of MNIST and letters of EMNIST are fitted into.
"""
ANGLE, SHEAR, SHIFT, STRETCH = 0.175, 0.035, 0.03, 1.1
"""How far letters are turned (radians), slanted, shifted (of half a picture) and stretched, at most.

Ten degrees, two degrees and a tenth, as in the published system. Stronger changes teach a backbone to forget slant and
size, and less of a digit can be read from its features.
"""


@final
@dataclass(frozen=True)
class Letters:
    """`examples` pictures of the 26 letters, both cases, from the fonts inside matplotlib, each changed at random.

    inputs: (examples, 1, size, size) in [0, 1], ink is bright; labels 0 ("a") to 25 ("z"). Each is a random letter of a
    random font, turned, slanted, shifted and stretched by uniform draws: the same pictures in every run. All of them
    are public, and no private part can be drawn: this is no source of secrets, it is what a backbone is trained on in
    `Fitted`. Raises `BadInput` on examples < 1 or a size below 1.

    >>> Letters(examples=3, size=16).public()
    Batch(inputs=(3, 1, 16, 16) torch.float32, labels=(3,) torch.int64)
    """

    examples: int = 16000
    size: int = 28

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples", count("examples", self.examples))
        checked_size(self.size)

    @property
    def domain(self) -> Images:
        """Gray images."""
        return Images(1, self.size, self.size)

    @property
    def classes(self) -> int:
        """The letters."""
        return len(ALPHABET)

    def public(self) -> Batch:
        """All of them."""
        return _drawn(self)


@functools.lru_cache(maxsize=2)
def _drawn(letters: Letters) -> Batch:
    glyphs, labels = _glyphs()
    stream = Key(0).child("letters").generator()
    chosen = torch.randint(len(glyphs), (letters.examples,), generator=stream)
    pictures = _changed(glyphs[chosen], letters.size, stream)
    return Batch(pictures, labels[chosen])


@functools.lru_cache(maxsize=1)
def _glyphs() -> tuple[Tensor, Tensor]:
    """(G, 1, 56, 56) in [0, 1] and (G,): every letter in every font, centered."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # "Display" fonts hold a few symbols and no letters
    files = sorted(one for one in folder.glob("*.ttf") if one.stem.startswith(FONTS) and "Display" not in one.stem)
    if not files:
        raise BadInput(f"matplotlib {matplotlib.__version__} does not carry its fonts; reinstall matplotlib>=3.8")
    drawn, labels = [], []
    for file in files:
        font = ImageFont.truetype(str(file), POINTS)
        for place, letter in enumerate(ALPHABET):
            for case in (letter, letter.lower()):
                drawn.append(_fitted(case, font))
                labels.append(place)
    return from_bytes(np.stack(drawn)).unsqueeze(1), torch.tensor(labels)


def _fitted(letter: str, font: ImageFont.FreeTypeFont) -> npt.NDArray[np.uint8]:
    """(56, 56): the ink alone, its longer side as long as the box, in the middle of the canvas."""
    sheet = Image.new("L", (3 * POINTS, 3 * POINTS))
    ImageDraw.Draw(sheet).text((POINTS, POINTS), letter, fill=255, font=font)
    ink = sheet.crop(sheet.getbbox())
    scale = BOX / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(ink, ((CANVAS - ink.width) // 2, (CANVAS - ink.height) // 2))
    return np.asarray(canvas)


def _changed(pictures: Tensor, size: int, stream: torch.Generator) -> Tensor:
    """(N, 1, size, size): each by an affine map of its own, which says where a pixel's ink is taken from."""
    many = len(pictures)

    def uniform(most: float) -> Tensor:
        return (2 * torch.rand(many, generator=stream) - 1) * most

    angle, shear = uniform(ANGLE), uniform(SHEAR)
    across, down = uniform(math.log(STRETCH)).exp(), uniform(math.log(STRETCH)).exp()
    maps = torch.stack(
        [
            torch.stack([angle.cos() * across, (shear - angle.sin()) * across, uniform(SHIFT)], 1),
            torch.stack([angle.sin() * down, angle.cos() * down, uniform(SHIFT)], 1),
        ],
        1,
    )
    grid = F.affine_grid(maps, [many, 1, 2 * size, 2 * size], align_corners=False)
    large = F.grid_sample(pictures, grid, align_corners=False)
    # drawn at twice the size and averaged: strokes have gray edges, as scanned ones do
    return F.avg_pool2d(large, 2).clamp(0, 1)
