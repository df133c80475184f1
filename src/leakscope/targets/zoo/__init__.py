"""Small known models, one file each."""
