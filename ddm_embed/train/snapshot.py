"""The picture that training draws of itself: a few images, noised and denoised in one step, at several noise levels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ddm_embed.data.augment import Stored, to_float
from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.objective import Objective
from ddm_embed.drawing import image_grid, save
from ddm_embed.methods.method import Networks

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
IMAGES = 8


def make_denoise(
    objective: Objective, networks: Networks, clean: bool, mesh: Mesh
) -> Callable[[Any, Stored], Float[Array, "column batch height width channel"]]:
    """A jitted function (params, images) -> the images, then for each of `LEVELS` x_t and the x_0 guessed from it;
    whole on every device. clean: whether the encoder sees the image itself in place of x_t."""

    @jax.jit(out_shardings=NamedSharding(mesh, P()))
    def denoise(params, image):
        x0 = to_float(image)
        columns = [x0]
        eps = jax.random.normal(jax.random.key(0), x0.shape)
        for level in LEVELS:
            t = jnp.full(len(x0), level)
            alpha, sigma = objective.process.marginal(t)
            xt = prediction_lib.noised(x0, eps, alpha, sigma)
            z = networks.encode and networks.encode(params, x0 if clean else xt, t).z
            output, _ = networks.denoise(params, xt, t, z)
            columns += [xt, prediction_lib.to_x0(objective.prediction, output, xt, alpha, sigma)]
        return jnp.stack(columns)

    return denoise


def draw(columns: Float[np.ndarray, "column batch height width channel"], path: Path, title: str) -> None:
    """Writes the columns as a labelled PNG, one row an image."""
    labels = ["image"] + [name for level in LEVELS for name in (f"noised\nt={level}", f"denoised\nt={level}")]
    save(image_grid(columns.swapaxes(0, 1), labels, None, title), path)
