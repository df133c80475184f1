"""Where secrets come from. Attacks cannot import this package."""
