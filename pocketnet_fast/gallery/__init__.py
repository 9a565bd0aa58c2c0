"""Many embeddings on disk, and the best matches among them."""
