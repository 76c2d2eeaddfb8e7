"""The encoder as a serialised program of jax.export, which runs without this package."""

from collections.abc import Callable

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Float, Shaped

from ddm_embed import config as config_lib
from ddm_embed.features.exported import Flat, flat, nested
from ddm_embed.features.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")


def serialised(frozen: Run, feature: str) -> bytes:
    """A program (weights by name, images [batch, height, width, channel], t []) -> float32 [batch, dim].

    Images are of the encoder's own type, the batch is of any size, and one t is for all images. It computes in float32
    on every platform, also where matrix products in it would be rounded to fewer bits.
    """
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat(frozen.host_params()).items()
    }
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *frozen.image_shape), frozen.dtype)
    with jax.default_matmul_precision("highest"):
        embed = jax.jit(by_name(exact(frozen), feature))
        exported = export.export(embed, platforms=PLATFORMS)(weights, images, jax.ShapeDtypeStruct((), np.float32))
    return bytes(exported.serialize())


def by_name(
    frozen: Run, feature: str
) -> Callable[[Flat, Shaped[Array, "batch height width channel"], Float[Array, ""]], Float[Array, "batch dim"]]:
    """The frozen encoder's program, of parameters under the names that they have in a file."""
    program = frozen.program(feature)

    def embed(weights, images, t):
        return program(nested(weights), images, t)

    return embed


def exact(frozen: Run) -> Run:
    """The same encoder, computing in float32 by operations that every platform has."""
    config = config_lib.from_json(config_lib.to_json(frozen.config), config_lib.default())
    config.model.dtype, config.model.attention, config.model.remat = "float32", "xla", "none"
    return frozen.replace(config=config)
