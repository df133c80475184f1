"""Updates of other programs, where scripts written before `targets.files` was a folder look for them."""

from __future__ import annotations

from leakscope.targets.files.foreign import for_model as fitted
from leakscope.targets.files.foreign import read_foreign

__all__ = ["fitted", "read_foreign"]
