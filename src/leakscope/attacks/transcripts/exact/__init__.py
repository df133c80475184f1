"""Transcripts decoded from the output layer's occupancies, with proof."""
