"""No training: an encoder as it is initialised, the floor that every method must beat."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddm_embed.methods.method import Method, Params, see_x0


def random(c: ConfigDict) -> None:
    """No training: there is no L = ..., the encoder is probed as it is initialised, saved as step 0.

    The gates of a transformer's blocks are open here, at 1: as they begin in training, at 0, all layers would be one
    linear map of the patches. Expect less than of the pixels.
    """
    c.objective.name = "none"
    see_x0(c)


def open_gates(params: Params) -> Params:
    """The parameters with the gates of all blocks at 1. A block's modulation is its shift, scale and gate, twice."""

    def opened(path: tuple, leaf: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        if names[-2:] != ["modulation", "bias"] or leaf.shape[-1] % 6 or not names[-3].startswith("block"):
            return leaf
        return leaf + jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0]), leaf.shape[-1] // 6)

    return jax.tree_util.tree_map_with_path(opened, params)


METHOD = Method(
    name="none",
    objective=None,
    card=lambda config: "none: **parameters as they were initialised, not trained**",
    presets={"random": random},
    initialise=open_gates,
    passes=lambda config: {"encoder": 0},
    tags=(),
)
