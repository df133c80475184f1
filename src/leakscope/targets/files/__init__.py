"""Model files and updates of other people."""
