"""One kind of data per file."""
