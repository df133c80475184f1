"""What is asked of a command, as a frozen description that judges itself before torch is loaded."""

from __future__ import annotations

import ast
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from leakscope.cli.rows import Family
from leakscope.cli.text import contents, files, fitting, models, spelling
from leakscope.cli.text.data import data, drawn, pictures
from leakscope.core.errors import BadInput

OF_THE_PUBLIC = ("PublicStatistics", "Gallery")
"""Facts whose values come from the public half of a source."""

LOOKED_AT = "Photographs()"
"""What the doctor feeds a model unless it is told."""


@final
class Kind(enum.StrEnum):
    """What the numbers of an update are."""

    GRADIENT = "gradient"
    DELTA = "delta"


@final
@dataclass(frozen=True)
class Model:
    """A model as it was asked for. state: a file of weights, as in `read_foreign`; seed: else they are drawn."""

    model: str
    state: str | None = None
    seed: int = 0
    allow_pickle: bool = False

    def check(self) -> None:
        """Raises `BadInput` or `MissingExtra` where no model can come of it."""
        models.model(self.model)
        models.findable(self.model)
        files.tensors(self.state, allow_pickle=self.allow_pickle)
        contents.tensors(self.state)


@final
@dataclass(frozen=True)
class Private:
    """Whose data. data: where `count` examples are drawn from by `seed`; batch: or a file that holds them all."""

    data: str | None = None
    batch: str | None = None
    count: int | None = None
    seed: int = 0

    def check(self, *, imported: bool, sized: bool) -> None:
        """Raises `BadInput` where there are no examples. imported: the update is from elsewhere and needs none.

        sized: what an input is was said, and need not follow from the data.
        """
        data(self.data, sized=sized)
        files.tensors(self.batch)
        contents.batch(self.batch)
        if self.batch is not None:
            return
        if imported and self.count is not None:
            raise BadInput("--count draws examples; what the adversary knows is told: --tell 'BatchSize(4)'")
        if not imported and self.data is None:
            raise BadInput(
                "whose data? give --data to draw examples, --batch with a file of them, or an update: --update"
            )


@final
@dataclass(frozen=True)
class Elsewhere:
    """An update that was made elsewhere: a file and the kind of its numbers, or two files of weights."""

    update: str | None = None
    kind: Kind | None = None
    before: str | None = None
    after: str | None = None

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.update is not None or self.before is not None

    def check(self, *, allow_pickle: bool) -> None:
        """Raises `BadInput` on half of one, and where a file is missing."""
        if (self.before is None) is not (self.after is None):
            raise BadInput("--before and --after belong together: the weights before and after local training")
        if self.update is not None and self.before is not None:
            raise BadInput("give either --update, or --before and --after; not both")
        if self.update is not None and self.kind is None:
            raise BadInput(
                "say what the numbers of --update are: --kind gradient, or --kind delta (weights after minus before); "
                "they differ in sign and scale, and nothing in the file tells which"
            )
        if self.update is None and self.kind is not None:
            raise BadInput("--kind says what the numbers of --update are; give --update, or leave --kind out")
        for path in (self.update, self.before, self.after):
            files.tensors(path, allow_pickle=allow_pickle)
            contents.tensors(path)


@final
@dataclass(frozen=True)
class Examined:
    """What the doctor looks at. dataset: what the model is fed; domain, classes: instead of what the dataset says.

    state: the weights of the model. update: it brings its own domain and classes.
    """

    model: str | None = None
    dataset: str = LOOKED_AT
    update: Path | None = None
    state: str | None = None
    allow_pickle: bool = False
    domain: str | None = None
    classes: int | None = None

    def check(self) -> None:
        """Raises `BadInput` for whatever cannot be, as far as that shows before anything is run."""
        spelling.expression(self.dataset, Family.DATASETS)
        if self.domain is not None:
            spelling.domain(self.domain)
        if self.update is None:
            inputs = fitting.source(self.dataset) if self.domain is None else fitting.domain(self.domain)
            if inputs is not None and self.model is not None:
                models.model(self.model)
                fitting.affordable(inputs)
                fitting.target(self.model, inputs, drawn=False)
        if self.model is None and self.update is None and (self.domain is not None or self.classes is not None):
            raise BadInput("--domain and --classes say what a model takes and tells apart; give --model too")
        if self.update is not None and (self.domain is not None or self.classes is not None):
            raise BadInput("--update says itself what its model takes; leave --domain and --classes out")
        if self.model is not None:
            Model(self.model, self.state, 0, self.allow_pickle).check()
        elif self.update is not None:
            raise BadInput("an update is looked at beside its model; give --model as `leakscope capture` was given it")
        if self.update is not None:
            files.exchanged(self.update, files.Exchanged.UPDATE)
            beside_update(self.model, self.update)
        elif self.state is not None:
            raise BadInput("--state is the weights that --update is relative to; give both or neither")


@final
@dataclass(frozen=True)
class Capture:
    """What is to be captured and where to. domain, classes: instead of what the data say, or without data."""

    model: Model
    private: Private
    elsewhere: Elsewhere
    mechanism: str
    tell: tuple[str, ...]
    out: Path
    secret: Path | None
    domain: str | None = None
    classes: int | None = None
    as_json: bool = False

    def check(self) -> None:
        """Raises `BadInput` for whatever cannot be, as far as that shows before anything is run."""
        self.elsewhere.check(allow_pickle=self.model.allow_pickle)
        if self.domain is not None:
            spelling.domain(self.domain)
        if self.private.data is None and (self.domain is None or self.classes is None):
            raise BadInput(
                "say what the model takes and tells apart: --data, or --domain (such as 3x32x32) and --classes (such "
                "as 10)"
            )
        self.private.check(imported=self.elsewhere.given, sized=self.domain is not None)
        unknown = self.elsewhere.given and self.private.batch is None
        if self.secret is not None and unknown:
            raise BadInput(
                "--secret needs the private examples behind the update: give them as a file with --batch; --data only "
                "draws others"
            )
        self.model.check()
        if self.private.data is not None and not unknown and self.private.batch is None:
            classes = self.classes if models.is_own(self.model.model) else None
            drawn(self.private.data, self.private.count or 1, domain=self.domain, classes=classes)
        spelling.expression(self.mechanism, Family.PROTOCOLS)
        _check_facts(self.tell, unknown=unknown, public=self.private.data is not None)
        self._check_fit(drawn=not self.elsewhere.given and self.private.batch is None)
        if self.private.data is not None:
            pictures(self.private.data)
        files.written(self.out, "--out")
        files.written(self.secret, "--secret")
        given = (self.elsewhere.update, self.elsewhere.before, self.elsewhere.after, self.private.batch)
        files.apart(self.out, "--out", self.model.state, *given)
        files.apart(self.secret, "--secret", self.model.state, *given)
        if self.secret is not None and self.secret.resolve() == self.out.resolve():
            raise BadInput(f"--out and --secret are both {self.out}; the secret is to be kept apart from the update")

    def _check_fit(self, *, drawn: bool) -> None:
        """Raises `BadInput` where model and facts are surely not of these data. drawn: the examples are from --data."""
        given = None if self.private.data is None else fitting.source(self.private.data)
        inputs = given if self.domain is None else fitting.domain(self.domain)
        if inputs is not None:
            fitting.affordable(inputs)
            fitting.target(self.model.model, inputs, drawn=drawn)
        if given is not None and drawn:
            fitting.told(self.tell, given, self.private.count or 1)
        if self.private.batch is not None:
            fitting.told_of_file(self.tell, self.private.batch)


def beside_update(model: str | None, update: Path) -> None:
    """Raises `BadInput` where a model surely takes other inputs than the file of an update says."""
    given = fitting.of_update(update)
    if given is not None and model is not None:
        fitting.target(model, given, drawn=False)


def _check_facts(told: Sequence[str], *, unknown: bool, public: bool) -> None:
    """unknown: the private examples are not there to take values from. public: a source is, with its public half."""
    kinds = []
    for text in told:
        tree = spelling.fact(text)
        if isinstance(tree, ast.Name) and unknown:
            raise BadInput(f"--tell {text}: the examples are not known; write its value, such as BatchSize(4)")
        if isinstance(tree, ast.Name) and not public and text.strip() in OF_THE_PUBLIC:
            raise BadInput(f"--tell {text} is of the public half of a data set, and this batch is of none; give --data")
        kinds.append(ast.unparse(tree.func if isinstance(tree, ast.Call) else tree))
    spelling.once(kinds)


@final
@dataclass(frozen=True)
class Effort:
    """How long and by which attacks. attacks: expressions; none for the portfolio. checkpoint: of a search's state.

    seconds, evaluations: what each search may spend; None leaves that side open. seed: of what an attack draws.
    tensorboard: a folder for the scalars of each search.
    """

    attacks: tuple[str, ...] = ()
    seconds: float | None = None
    evaluations: int | None = None
    seed: int = 0
    checkpoint: Path | None = None
    resume: bool = False
    tensorboard: Path | None = None

    def check(self) -> None:
        """Raises `BadInput` where a state would be overwritten, or where there is nothing to go on with."""
        for text in self.attacks:
            spelling.expression(text, Family.ATTACKS)
        if self.resume and self.checkpoint is None:
            raise BadInput("--resume goes on with the state in --checkpoint FILE; give that file")
        if self.checkpoint is not None and self.checkpoint.exists() and not self.resume:
            raise BadInput(f"{self.checkpoint} is there already; go on with --resume, or delete it")
        if self.checkpoint is not None:
            files.folder(self.checkpoint.parent, "--checkpoint")
        if self.tensorboard is not None:
            files.folder(self.tensorboard, "--tensorboard")
        if self.seconds is not None and not self.seconds > 0:
            raise BadInput(f"expected a budget of more than 0 seconds, got {self.seconds}")
        if self.seconds is not None and not math.isfinite(self.seconds):
            raise BadInput(f"expected a budget that ends, got {self.seconds} seconds; leave --seconds out for none")
        if self.evaluations is not None and self.evaluations < 1:
            raise BadInput(f"expected a budget of at least 1 evaluation, got {self.evaluations}")


@final
@dataclass(frozen=True)
class Recovery:
    """What is attacked, with which model, how, and where the claim goes to."""

    update: Path
    model: Model
    effort: Effort
    out: Path
    gallery: str | None = None
    report: Path | None = None
    as_json: bool = False

    def check(self) -> None:
        """Raises `BadInput` for whatever cannot be, as far as that shows before anything is run."""
        self.effort.check()
        files.exchanged(self.update, files.Exchanged.UPDATE)
        self.model.check()
        beside_update(self.model.model, self.update)
        data(self.gallery)
        files.written(self.out, "--out")
        files.apart(self.out, "--out", self.update, self.model.state)
        if self.report is not None:
            files.folder(self.report, "--report")


@final
@dataclass(frozen=True)
class Comparison:
    """What is compared. public: what blind guesses may know. metrics: none for those that fit the claim.

    seed: of blind guesses and intervals. report: a folder for a page with the private examples and what was claimed.
    """

    claim: Path
    secret: Path
    public: str | None = None
    metrics: tuple[str, ...] = ()
    seed: int = 0
    report: Path | None = None
    as_json: bool = False

    def check(self) -> None:
        """Raises `BadInput` for whatever cannot be, as far as that shows before anything is run."""
        files.exchanged(self.claim, files.Exchanged.CLAIM)
        files.exchanged(self.secret, files.Exchanged.SECRET)
        data(self.public)
        for text in self.metrics:
            spelling.expression(text, Family.METRICS)
        if self.report is not None:
            files.folder(self.report, "--report")


@final
@dataclass(frozen=True)
class Training:
    """What is trained on, where the result goes, and how it is told."""

    data: str
    out: Path
    resume: bool = False
    as_json: bool = False

    @property
    def checkpoint(self) -> Path:
        """Beside the result, until that is there."""
        return self.out.with_name(f"{self.out.name}.checkpoint")

    def check(self) -> None:
        """Raises `BadInput` when something is in the way of --out, or the data cannot be."""
        if self.out.suffix != ".safetensors":
            raise BadInput(f"expected a file *.safetensors for --out, got {self.out}")
        if not self.out.parent.is_dir():
            raise BadInput(f"no folder {self.out.parent} for --out; make it first")
        if self.out.exists():
            raise BadInput(f"{self.out} is there already; remove it or choose another --out")
        if self.checkpoint.exists() and not self.resume:
            raise BadInput(f"{self.checkpoint} is there already; go on with --resume or remove it")
        data(self.data)
        given = fitting.source(self.data)
        if given is not None and given.kind != fitting.FRAMES:
            raise BadInput(
                f"{self.data} does not tell its speakers; use Spoken, LibriSpeech or a CSV with a column speaker"
            )
