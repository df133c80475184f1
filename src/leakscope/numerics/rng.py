"""Randomness by key: every random draw names its purpose, and no draw touches global state."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch


@final
@dataclass(frozen=True)
class Key:
    """A seed and a path of purposes; children with different purposes are independent.

    The stream is a function of `seed` and `path` alone: the same key gives the same bytes in every process.

    >>> Key(0).child("noise") == Key(0).child("noise")
    True
    >>> Key(0).child("noise").number() == Key(0).child("order").number()
    False
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"a key needs a non-negative integer seed, got {self.seed!r}")

    def child(self, *purpose: str | int) -> Key:
        """The key for a purpose: `key.child("trial", 3)`."""
        return Key(self.seed, self.path + purpose)

    def number(self) -> int:
        """A 63-bit integer, the hash of seed and path (BLAKE2b)."""
        # The repr tells 1 from "1" and ("a", "b") from ("ab",), so that different purposes never hash the same text.
        text = repr((self.seed, self.path)).encode()
        # 63 bits fit into a signed integer of 64, and every generator takes them.
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator seeded by this key; each call starts the stream anew."""
        return torch.Generator(device=device).manual_seed(self.number())

    def numpy(self) -> np.random.Generator:
        """A numpy generator seeded by this key; each call starts the stream anew."""
        return np.random.default_rng(self.number())

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """Seed torch's global stream by this key inside the block and restore it after.

        For code that cannot take a generator (dropout layers, weight initializers).
        """
        # torch.manual_seed queues its work for devices that never start, each time with the formatted stack, and
        # keeps the queue: a dozen times the cost. So devices are seeded where there are any, else the CPU's generator.
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is None:
            before = torch.default_generator.get_state()
            torch.default_generator.manual_seed(self.number())
            try:
                yield
            finally:
                torch.default_generator.set_state(before)
            return
        # All devices: what runs inside may draw on any of them.
        with torch.random.fork_rng(device_type=device.type):
            torch.manual_seed(self.number())
            yield


def normal(like: torch.Tensor, key: Key) -> torch.Tensor:
    """Standard normal draws with the shape, dtype and device of `like`."""
    return torch.randn(like.shape, generator=key.generator(like.device), dtype=like.dtype, device=like.device)


def uniform(like: torch.Tensor, key: Key) -> torch.Tensor:
    """Draws from U[0, 1) with the shape, dtype and device of `like`."""
    return torch.rand(like.shape, generator=key.generator(like.device), dtype=like.dtype, device=like.device)
