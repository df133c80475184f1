"""How many edits lead from one sequence to another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rapidfuzz.distance import Levenshtein


def edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions of items (Levenshtein 1966), each counted as 1.

    >>> edits("kitten", "sitting"), edits((), (1, 2))
    (3, 2)
    """
    # rapidfuzz tells items apart by a 64-bit hash, in which 0 and 2**61 - 1 are the same, and so are "a" and 97. An
    # item that is another's double is an error that is not counted, so each gets a number of its own first.
    numbers: dict[Hashable, int] = {}
    left, right = ([numbers.setdefault(item, len(numbers)) for item in items] for items in (one, other))
    return int(Levenshtein.distance(left, right))
