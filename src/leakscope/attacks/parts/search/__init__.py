"""How a search moves, remembers, and goes on after it was killed."""
