"""Diffusion transformers trained together with an encoder, so that an image has an embedding at every noise level."""

__version__ = "0.1.0"
__all__ = ["Embedder"]


def __getattr__(name: str):
    if name == "Embedder":  # not before it is asked for: programs that only print a usage line stay instant
        from ddm_embed.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'ddm_embed' has no attribute {name!r}")
