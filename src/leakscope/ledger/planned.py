"""What `plan.json` of a run holds, judged without numpy: the command line asks before anything is loaded."""

from __future__ import annotations

PLAN = "plan.json"


def is_plan(said: object) -> bool:
    """Whether it has what resuming, merging and pages read: version, title, start, and a description of each cell.

    >>> is_plan({"leakscope": "0", "title": "", "started": "", "cells": {"a": {}}}), is_plan([])
    (True, False)
    """
    if not isinstance(said, dict) or not isinstance(said.get("cells"), dict):
        return False
    texts = all(isinstance(said.get(key), str) for key in ("leakscope", "title", "started"))
    return texts and all(isinstance(spec, dict) for spec in said["cells"].values())
