"""The orthogonal nouns of an optimized attack: distance, prior, space, start, search."""
