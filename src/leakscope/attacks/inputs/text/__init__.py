"""Token ids from embeddings and from the span of a layer's gradient."""
