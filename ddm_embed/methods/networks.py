"""The networks of the baselines, as functions of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddm_embed.diffusion.prediction import Image
from ddm_embed.methods.diffusion import Code, Params


class Networks(NamedTuple):
    """What stands in the place of diffusion's networks; those that an objective has no use for are None.

    encode(params, image, t [batch], visible int [batch, token] or None) -> an embedding, of the visible tokens alone if
      given; t is of no effect.
    decode(params, z [batch, dim]) -> image [batch, height, width, channel].
    fill(params, tokens [batch, token, dim] of the encoder, order int [batch, token]) -> patches [batch, token, entry]
      in their places, where `order` lists all places, the visible ones first.
    project(params, z) -> [batch, dim] and predict(params, projection) -> like it.
    classify(params, z) -> logits [batch, class].
    denoise, time_logits: None; whoever takes either kind of networks can ask.
    """

    encode: Callable[..., Any]
    decode: Callable[[Params, Code], Image] | None = None
    fill: Callable[..., Float[Array, "batch token pixel"]] | None = None
    project: Callable[[Params, Code], Code] | None = None
    predict: Callable[[Params, Code], Code] | None = None
    classify: Callable[[Params, Code], Float[Array, "batch class"]] | None = None
    denoise: None = None
    time_logits: None = None


def static(networks: Networks, params: Params, image: Image, visible: Int[Array, "batch token"] | None = None) -> Any:
    """The embedding of an image that is not noised."""
    return networks.encode(params, image, jnp.zeros(len(image)), visible)
