"""Frozen descriptions from which a model can be rebuilt."""
