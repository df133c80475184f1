"""What a cell may use of a machine. It changes how long an answer takes, never which answer it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch

from leakscope.core.arguments import is_number
from leakscope.core.errors import BadInput

CPU = "cpu"


@final
@dataclass(frozen=True)
class Resources:
    """What one cell may use. No part of its identity: a record that is there is not run again for other resources.

    threads: of torch, >= 1. One thread is the reference: more may add in another order, which changes last bits.
    device: as torch names it, `cpu` or `cuda:0`. The engines of today compute on the CPU and refuse another one.
    memory (GiB) and minutes (of the wall), > 0 or None: what to ask of a scheduler for each cell. Nothing here
    enforces them: a cell that were cut off by the clock of a busy machine would be another answer. What an attempt
    may spend is its `Budget`, which is part of the identity.
    Raises `BadInput` on anything else.

    >>> Resources(threads=2)
    Resources(threads=2, device='cpu', memory=None, minutes=None)
    """

    threads: int = 1
    device: str = CPU
    memory: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise BadInput(f"expected a whole number of threads >= 1, got {self.threads!r}")
        if not isinstance(self.device, str) or not re.fullmatch(r"[a-z]+(:\d{1,3})?", self.device):
            raise BadInput(f"expected a device such as cpu or cuda:0, got {self.device!r}")
        for name, value in (("memory", self.memory), ("minutes", self.minutes)):
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise BadInput(f"expected {name} > 0 and finite, got {value!r}")

    def check(self) -> None:
        """Raises `BadInput` where this machine lacks the device, or has one that no engine computes on."""
        if self.device.partition(":")[0] == CPU:
            return
        here = devices()
        if self.device not in here and f"{self.device}:0" not in here:
            raise BadInput(f"this machine has no device {self.device}; it has {', '.join(here)}")
        raise BadInput(f"the engines compute on the cpu, and would leave {self.device} idle; give device = {CPU!r}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run the block with so many threads, whatever the process had before; raises as `check` does."""
        self.check()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def devices() -> tuple[str, ...]:
    """The devices of this machine, by torch's names; the CPU first."""
    return (CPU, *(f"cuda:{place}" for place in range(torch.cuda.device_count())))
