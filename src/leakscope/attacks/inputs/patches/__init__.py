"""Patches of an image in front of an attention layer."""
