"""How an update is computed from a batch."""
