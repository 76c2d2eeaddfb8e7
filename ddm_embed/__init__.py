"""Diffusion transformers trained together with an encoder, so that an image has an embedding at every noise level."""

__version__ = "0.1.0"
