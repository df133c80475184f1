"""How far apart two routes to one number may be: from the dtype alone.

A test that needs more passes `loosened`, with the sentence that says why.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# rtol is about 1e4 roundings (sums over thousands of terms in another order), atol the same for numbers of size one
RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
ABSOLUTE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def close(got: Tensor, wanted: Tensor, *, loosened: float = 1.0, because: str = "") -> None:
    """Fail unless `got` is `wanted` to within rounding of its dtype, times `loosened` (which needs a reason)."""
    assert loosened == 1.0 or because, "a loosened tolerance carries a sentence"
    assert got.dtype == wanted.dtype
    rtol, atol = RELATIVE[got.dtype] * loosened, ABSOLUTE[got.dtype] * loosened
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


def close_trees(
    got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, loosened: float = 1.0, because: str = ""
) -> None:
    """`close` for each name; the names must be the same."""
    assert set(got) == set(wanted)
    for name in wanted:
        close(got[name], wanted[name], loosened=loosened, because=because)
