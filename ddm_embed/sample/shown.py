"""What pictures are of, and the words on them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from ddm_embed.features.run import Run
from ddm_embed.sample.generate import embed, over_batch, tell_of

Images = Float[np.ndarray, "number height width channel"]


class Shown(NamedTuple):
    """images, train: images in [-1, 1], of which no one is in both. labels: those of `train`, None where there are
    none. names: of the classes, by label. beside: other runs on the same data, to set beside the first."""

    images: Images
    train: Images
    labels: Int[np.ndarray, " number"] | None
    names: tuple[str, ...] | None = None
    beside: tuple[Run, ...] = ()


def levels(trained: Run, config: ConfigDict) -> list[float]:
    """The noise levels at which codes are looked at: one stands for all of a static code of the image."""
    return [config.times[0]] if trained.static("z") else list(config.times)


def embed_at(trained: Run, images: Images, times: list[float], seed: int) -> Float[np.ndarray, "time number dim"]:
    """z of images at each t, [time, number, dim]; of a Gaussian code the mean."""

    def body(params, told):
        def at(t):
            return embed(trained, params, told.image, told.eps, jnp.full(len(told.image), t)).z

        return jax.lax.map(at, jnp.asarray(times, jnp.float32)).swapaxes(0, 1)

    return over_batch(trained, body)(tell_of(images, seed)).swapaxes(0, 1)


def whose(trained: Run) -> str:
    return f"{trained.config.name}, step {trained.step}"


def way(config: ConfigDict) -> str:
    return f"{config.sampler}, {config.steps} steps"


def rmse(a: Images, b: Images) -> str:
    return f"RMSE {np.sqrt(np.mean((a - b) ** 2)):.2f}"
