"""Transcripts searched for until their gradient matches."""
