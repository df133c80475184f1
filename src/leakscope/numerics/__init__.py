"""Mathematics without privacy: keys, named tensors, assignment, intervals."""
