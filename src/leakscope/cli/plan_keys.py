"""Every key of a plan file, in one table: what is refused, `audit --help` and `docs/plan-file.md` come from it.

`python -m leakscope.cli.plan_keys > docs/plan-file.md` writes the page; a test compares them. No torch here, so that
help is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

FACTS = (
    "BatchSize", "TrueLabels", "BatchNormStatistics", "PublicStatistics", "Lengths", "TrueTranscripts", "Gallery",
    "Suspects",
)  # fmt: skip
"""The facts that can be told; a test compares them with `audit.telling.MAKERS`."""


@final
@dataclass(frozen=True)
class Field:
    """One key. section: "" for the top, else the table that holds it. default: as written in TOML, or in words."""

    section: str
    key: str
    type: str
    default: str
    meaning: str


@final
@dataclass(frozen=True)
class Pages:
    """What is printed of the keys of one kind of plan. headings: by section. head, tail: lines around its page."""

    fields: tuple[Field, ...]
    headings: Mapping[str, str]
    head: tuple[str, ...]
    example: str
    tail: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line per key, for a terminal."""
        said = []
        for section, heading in self.headings.items():
            said.append(f"{heading}:")
            own = [one for one in self.fields if one.section == section]
            said += [f"  {one.key:<12} {one.meaning} ({one.type}; {one.default})" for one in own]
        return said

    def markdown(self) -> str:
        """The page of the keys, in `docs`."""
        page = [*self.head, "", "```toml", *self.example.splitlines(), "```", ""]
        for section, heading in self.headings.items():
            page += [f"## {heading}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
            own = [one for one in self.fields if one.section == section]
            page += [f"| `{one.key}` | {one.type} | {one.default} | {one.meaning} |" for one in own]
            page.append("")
        return "\n".join([*page, *self.tail]) + "\n"


FIELDS: tuple[Field, ...] = (
    Field("", "title", "text", "required", "what the report is called"),
    Field("", "seed", "whole number", "0", "all randomness follows from it"),
    Field("", "trials", "whole number", "8", "draws of private batch and weights; fewer than 3 give no interval"),
    Field("", "batch_size", "whole number or list", "1", "private examples behind one release; a list is a sweep"),
    Field("", "told", "list of facts", "[]", f"what the adversary is told besides: {', '.join(FACTS)}"),
    Field("", "mechanisms", "list of expressions", "required", "what clients do; see `leakscope list protocols`"),
    Field("", "attacks", "list of expressions", "`Auto()` and the label attacks", "see `leakscope list attacks`"),
    Field("", "metrics", "list of expressions", "[]", "scored besides PSNR and label accuracy"),
    Field("", "delta", "number", "1e-5", "at which the epsilon of a mechanism is given"),
    Field("", "input_range", "list of two numbers", "[0, 1]", "what the models take for black and for white"),
    Field("", "replaced", "true or false", "false", "also run each trial with its first example exchanged for another"),
    Field("", "smallest_leak", "table", "see below", "the gain that *no leak found* must exclude, for each metric"),
    Field("", "budget", "table", "no bound", "what one attempt may spend; the first bound that is reached ends it"),
    Field("", "resources", "table", "one thread", "what one cell may use of a machine; changes no answer"),
    Field("", "scene", "list of tables", "required", "one [[scene]] for each dataset and target"),
    Field("smallest_leak", "psnr", "number", "3", "dB of inputs above the blind guess: half its squared error"),
    Field("smallest_leak", "frame-error", "number", "3", "dB of frames; 3 dB are 71 % of the blind guess's error"),
    Field("smallest_leak", "token-error", "number", "3", "dB of texts, likewise"),
    Field("smallest_leak", "feature-error", "number", "3", "dB of what a layer was fed, likewise"),
    Field("smallest_leak", "character-error-rate", "number", "3", "dB of transcripts, likewise"),
    Field("smallest_leak", "piece-error", "number", "3", "dB of bags of pieces, likewise"),
    Field("smallest_leak", "label-accuracy", "number", "0.2", "share of labels above chance"),
    Field("smallest_leak", "top-1", "number", "0.1", "share of persons named right above chance"),
    Field("budget", "seconds", "number", "no bound", "of computing"),
    Field("budget", "evaluations", "whole number", "no bound", "of the gradient"),
    Field("resources", "threads", "whole number", "1", "of torch; more than 1 may change last bits"),
    Field("resources", "device", "text", '"cpu"', "as torch names it; the engines of today compute on the cpu"),
    Field("resources", "memory", "number", "unknown", "GiB of one cell, for schedulers"),
    Field("resources", "minutes", "number", "unknown", "of the wall for one cell, for schedulers; ends nothing"),
    Field("scene", "name", "text", "dataset, target", "what the report calls it"),
    Field("scene", "dataset", "expression", "required", "see `leakscope list datasets`"),
    Field("scene", "target", "model", "required", "see `leakscope list targets`, or as for --model, which replaces it"),
    Field("scene", "batch_size", "whole number or list", "the plan's", "this scene's own"),
    Field("scene", "told", "list of facts", "the plan's", "this scene's own"),
    Field("scene", "mechanisms", "list of expressions", "the plan's", "this scene's own"),
    Field("scene", "attacks", "list of expressions", "the plan's", "this scene's own"),
)
"""Every key, in the order of the documentation."""

HEADINGS = {
    "": "At the top",
    "smallest_leak": "[smallest_leak]",
    "budget": "[budget]",
    "resources": "[resources]",
    "scene": "[[scene]]",
}

EXAMPLE = """\
title = "Faces behind one gradient"
trials = 8
told = ["BatchSize"]
attacks = ["idlg(evaluations=300)"]
mechanisms = ["FedSGD()", "FedSGD() >> Clip(1.0) >> GaussianNoise(0.01)"]

[budget]
seconds = 60

[[scene]]
name = "faces"
dataset = "Faces()"
target = "LeNet()"
"""


PAGES = Pages(
    fields=FIELDS,
    headings=HEADINGS,
    head=(
        "# The plan file",
        "",
        "<!-- Written by `python -m leakscope.cli.plan_keys`; edit the table there. -->",
        "",
        "A plan is a TOML file for `leakscope audit`. It crosses scenes (a dataset and a target) with mechanisms,",
        "attacks, batch sizes and trials. The undefended and the blind control of each combination are added by",
        "themselves. Unknown keys are refused.",
    ),
    example=EXAMPLE,
    tail=(
        "## Expressions",
        "",
        "An expression is a name of `leakscope list` with its arguments, as in Python: `FedAvg(steps=4, lr=0.1)`.",
        "`>>` puts a defense after a protocol, in the order in which they act; `+` and `*` combine an attack's priors.",
        "Nothing else is understood, and nothing is executed. Only a target may also be what `--model` takes:",
        "`torchvision:NAME` or `timm:NAME` of an installed library, or `package.module:factory`, which is imported.",
    ),
)


if __name__ == "__main__":
    sys.stdout.write(PAGES.markdown())
