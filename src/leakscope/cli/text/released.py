"""What `leakscope head` is asked for: a released head, its public backbone and public pictures."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.cli.rows import Family
from leakscope.cli.text import contents, files, models, spelling
from leakscope.cli.text.asked import Model
from leakscope.cli.text.data import data
from leakscope.core.arguments import count
from leakscope.core.errors import BadInput

TRAININGS = ("HeadTraining", "PrivateHeadTraining")
"""Mechanisms that release a trained head."""


@final
@dataclass(frozen=True)
class Released:
    """A head file and what is public beside it. classes: of the backbone's own task, None where it says them itself.

    training: an expression, None to fit rates and first weights of SGD to the head. each: examples of each class.
    steps: of the decoder's training. local: whether it decodes by public pictures of near features instead.
    """

    head: Path
    backbone: Model
    public: str
    domain: str
    classes: int | None
    training: str | None
    each: int
    steps: int
    out: Path
    report: Path
    seed: int = 0
    as_json: bool = False
    local: bool = False

    def check(self) -> None:
        """Raises `BadInput` for whatever cannot be, as far as that shows before anything is run."""
        files.tensors(str(self.head), allow_pickle=self.backbone.allow_pickle)
        contents.tensors(str(self.head))
        spelling.domain(self.domain)
        self.backbone.check()
        prefix, _ = models.split(self.backbone.model)
        if self.classes is None and (not prefix or prefix in models.EXTRAS):
            raise BadInput(
                f"{self.backbone.model} is built for a number of classes; say how many its own task has, whose layer "
                "is cut off: --backbone-classes 1000"
            )
        data(self.public)
        if self.training is not None:
            tree = spelling.expression(self.training, Family.PROTOCOLS)
            if not isinstance(tree, ast.Call) or ast.unparse(tree.func) not in TRAININGS:
                raise BadInput(
                    f"--training {self.training} trains no head that is released; write for example "
                    "'HeadTraining(32, 0.01, init_std=0.002)', or leave it out to have it fitted"
                )
        count("each", self.each)
        count("steps", self.steps)
        files.written(self.out, "--out")
        files.apart(self.out, "--out", self.head, self.backbone.state)
        files.folder(self.report, "--report")
        read = Path(self.public)
        if read.is_dir() and self.report.resolve().is_relative_to(read.resolve()):
            raise BadInput(
                f"--report {self.report} is in {self.public}, whose folders are classes; choose another place for it"
            )
