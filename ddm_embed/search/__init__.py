"""Nearest neighbours in a file of embeddings."""
