"""A trained encoder, frozen: images in, embeddings out."""
