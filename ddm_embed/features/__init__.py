"""A trained run, opened: images in, features out."""
