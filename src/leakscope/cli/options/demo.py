"""What there are demos of. No torch here: help is fast."""

from __future__ import annotations

import enum
from typing import final


@final
class Subject(enum.StrEnum):
    """What a demo is about; the value is what one types."""

    IMAGES = "images"
    SPEECH = "speech"
    EMOTION = "emotion"

    @property
    def plan(self) -> str:
        """Its file in `cli/plans`."""
        return {Subject.IMAGES: "demo.toml", Subject.SPEECH: "speech.toml", Subject.EMOTION: "emotion.toml"}[self]

    @property
    def folder(self) -> str:
        """Where it is run by default, below `runs`."""
        return {Subject.IMAGES: "demo", Subject.SPEECH: "demo-speech", Subject.EMOTION: "demo-emotion"}[self]
