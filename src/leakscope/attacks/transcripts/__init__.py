"""What was said, from the gradient of a layer that is trained by CTC."""
