"""The orthogonal parts of a search, and what more than one attack reads off an update."""
