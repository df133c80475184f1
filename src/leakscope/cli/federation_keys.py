"""Every key of a plan of federations, in one table: what is refused, `federation --help` and its page come from it.

`python -m leakscope.cli.federation_keys > docs/federation-plan.md` writes the page; a test compares them.
"""

from __future__ import annotations

import sys

from leakscope.cli.plan_keys import Field, Pages

FIELDS: tuple[Field, ...] = (
    Field("", "title", "text", "required", "what the report is called"),
    Field("", "seed", "whole number", "0", "all randomness follows from it"),
    Field("", "attributes", "list of texts", '["sex"]', "what is asked: sex, emotion, speaker, or another one"),
    Field("", "updates", "list of whole numbers", "[]", "claims by so many updates of a client, besides by all"),
    Field("", "draws", "whole number", "10", "how often so many updates are drawn of each client"),
    Field("", "smallest_leak", "number", "0.2", "the gain of UAR over chance that *no leak found* must exclude"),
    Field("", "delta", "number", "0.001", "at which epsilon is given; below one over the number of clients"),
    Field("", "hold_out", "number", "0.2", "share of each client's recordings that the model is judged on; 0 for none"),
    Field("", "shuffled", "true or false", "false", "also ask for attributes that are shuffled over the persons"),
    Field("", "keep_rounds", "true or false", "true", "leave all updates in the folder of the run"),
    Field("", "targets", "list of models", "required", "what is trained, see `leakscope list targets`"),
    Field("", "federations", "list of expressions", "required", "how: `Federation(FedSGD(), rounds=60)`"),
    Field("", "attack", "list of tables", "required", "one [[attack]] for each way to attack"),
    Field("", "scene", "list of tables", "required", "one [[scene]] for each corpus"),
    Field("attack", "name", "text", "its signals", "what the report calls it"),
    Field("attack", "signals", "list of expressions", '["ClassInputs()"]', "what is read of each update, and joined"),
    Field("attack", "decision", "expression", '"Logistic()"', "or `Discriminant()`, `UpdateNetwork()`"),
    Field("attack", "shadows", "whole number", "5", "federations of public speakers that the adversary plays"),
    Field("attack", "folds", "whole number", "4", "parts of the public that are left out in turn; 0 for none"),
    Field("attack", "leaked", "whole number", "0", "global models that what was learned is tuned to"),
    Field("attack", "recovers", "expression", "none", "instead of shadows, an exact attack: `\"LowRank()\"`"),
    Field("attack", "rounds", "whole number", "2", "with `recovers`: of so many rounds of each client"),
    Field("scene", "name", "text", "dataset", "what the report calls it"),
    Field("scene", "dataset", "expression", "required", "`EmotionFeatures(...)`: the speakers who are attacked"),
    Field("scene", "public", "expression", "halves", "other speakers; without, half by half"),
    Field("scene", "each", "whole number", "1", "clients that each speaker is divided in"),
    Field("scene", "targets", "list of models", "the plan's", "this scene's own"),
    Field("scene", "federations", "list of expressions", "the plan's", "this scene's own"),
)  # fmt: skip
"""Every key, in the order of the documentation."""

EXAMPLE = """\
title = "What updates of an emotion recognizer say of the speaker"
attributes = ["sex", "emotion"]
updates = [1, 5]
shuffled = true
targets = ["EmotionNet()"]
federations = ["Federation(FedSGD(), rounds=40, fraction=0.25, batch=20, server_lr=0.1)"]

[[attack]]
signals = ["ClassInputs(1)"]

[[scene]]
dataset = 'EmotionFeatures(SpokenEmotions(speakers=32, each=3), OpenSmile(cache="features"))'
"""

PAGES = Pages(
    fields=FIELDS,
    headings={"": "At the top", "attack": "[[attack]]", "scene": "[[scene]]"},
    head=(
        "# The plan of a federation",
        "",
        "<!-- Written by `python -m leakscope.cli.federation_keys`; edit the table there. -->",
        "",
        "A TOML file for `leakscope federation`. It crosses scenes (speakers), targets, federations, attacks and",
        "attributes. Of each defended federation the undefended one is played beside it, as the control, and of one",
        "with noise the one that clips and sums as it does without the noise: an attack has to work there too. Unknown",
        "keys are refused. [docs/emotion.md](emotion.md) tells what the parts are; `plans/emotion/` holds examples.",
    ),
    example=EXAMPLE,
    tail=(
        "## What is asked",
        "",
        "An attribute such as `sex` is learned of public speakers, who are others than the private ones. `emotion`: a",
        "client is one speaker's recordings in one emotion. Of `speaker`, all are known by three quarters of",
        "their recordings, and each is to be recognized by the updates that are made of the others.",
    ),
)


if __name__ == "__main__":
    sys.stdout.write(PAGES.markdown())
