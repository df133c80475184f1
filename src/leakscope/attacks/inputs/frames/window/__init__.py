"""What a gradient says of windows: their span, what they exclude, how long the utterances are."""
