"""Named tensors: mappings from a parameter's name to a tensor, never by position."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Named = Mapping[str, Tensor]


def over(function: Callable[..., Tensor], *trees: Named) -> dict[str, Tensor]:
    """Apply `function` name by name; every tree must have the names of the first.

    >>> over(torch.add, {"w": torch.ones(2)}, {"w": torch.ones(2)})
    {'w': tensor([2., 2.])}
    """
    first, *rest = trees
    for other in rest:
        if other.keys() != first.keys():
            odd = sorted(first.keys() ^ other.keys())
            raise ValueError(f"trees differ in the names {odd}; select the common names first")
    return {name: function(*(tree[name] for tree in trees)) for name in first}


def subtract(left: Named, right: Named) -> dict[str, Tensor]:
    """`left - right`, name by name."""
    return over(torch.sub, left, right)


def scale(tree: Named, factor: float | Tensor) -> dict[str, Tensor]:
    """`factor * tree`."""
    return {name: value * factor for name, value in tree.items()}


def dot(left: Named, right: Named) -> Tensor:
    """The inner product over all names, a scalar."""
    # Name by name: flattening would copy both trees whole.
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()


def norm(tree: Named, order: float = 2.0) -> Tensor:
    """The `order`-norm of the concatenation of all tensors, a scalar.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(5.)
    """
    result: Tensor = torch.linalg.vector_norm(flatten(tree), ord=order)
    return result


def flatten(tree: Named) -> Tensor:
    """All tensors as one vector, in the tree's own order."""
    return torch.cat([value.reshape(-1) for value in tree.values()])


def select(tree: Named, names: Mapping[str, object] | set[str] | frozenset[str] | list[str]) -> dict[str, Tensor]:
    """The entries whose name is in `names`, in the tree's own order."""
    return {name: value for name, value in tree.items() if name in names}


def detached(tree: Named) -> dict[str, Tensor]:
    """Copies that share neither storage nor graph with the originals."""
    return {name: value.detach().clone() for name, value in tree.items()}


def finite(tree: Named) -> bool:
    """Whether every entry is a finite number."""
    return all(bool(torch.isfinite(value).all()) for value in tree.values())


def fingerprint(tree: Named) -> str:
    """A hash of names, shapes, dtypes and bytes; equal trees have equal fingerprints on every machine.

    >>> fingerprint({"w": torch.zeros(1)}) == fingerprint({"w": torch.zeros(2)})
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    # Sorted: a tree that was saved and read again has its names in another order.
    for name in sorted(tree):
        value = tree[name].detach().cpu().contiguous()
        # Bytes alone would not tell (2, 3) from (3, 2), nor int32 zeros from float32 ones.
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        if value.numel():  # torch does not view nothing as bytes
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
