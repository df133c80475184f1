"""Where the labels and the transcripts of a search come from."""
