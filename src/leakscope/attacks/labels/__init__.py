"""Attacks that claim the private labels."""
