"""How many edits lead from one sequence to another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions of items (Levenshtein 1966), each counted as 1.

    >>> edits("kitten", "sitting"), edits((), (1, 2))
    (3, 2)
    """
    row = list(range(len(other) + 1))
    for place, item in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for column, partner in enumerate(other, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (item != partner))
    return row[-1]
