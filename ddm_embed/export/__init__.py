"""A trained encoder as a folder to copy, to publish, and to use without its run."""
