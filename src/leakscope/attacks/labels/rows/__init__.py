"""The rows p - y of a batch, taken apart from the output layer's weight gradient."""
