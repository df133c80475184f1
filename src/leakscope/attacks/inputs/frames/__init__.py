"""Frames of speech, from the gradient of a layer that sees them through a window."""
