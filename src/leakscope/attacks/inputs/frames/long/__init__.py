"""Utterances longer than the first layer is wide, solved for through the second layer."""
