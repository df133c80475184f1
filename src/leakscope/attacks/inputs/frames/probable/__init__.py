"""Frames by likelihood, where noise or rounding leaves nothing to solve."""
