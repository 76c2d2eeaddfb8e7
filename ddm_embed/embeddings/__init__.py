"""Embeddings of a user's images: made, kept in a file that others can read, and searched."""
