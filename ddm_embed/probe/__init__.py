"""Evaluation of a run's frozen embeddings; the only reader of test labels."""
