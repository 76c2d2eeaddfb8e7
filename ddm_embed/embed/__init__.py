"""Embeddings of a user's images: made, and kept in a file that others can read."""
