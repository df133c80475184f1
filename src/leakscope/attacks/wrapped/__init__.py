"""Attacks around attacks."""
