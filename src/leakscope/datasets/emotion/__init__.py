"""Emotional speech as feature vectors: corpora, what is computed of their recordings, and how that is normalized."""
