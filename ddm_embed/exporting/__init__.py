"""Writes a trained encoder as a folder that is used without its run."""
