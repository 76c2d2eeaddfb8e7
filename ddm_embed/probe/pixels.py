"""The baselines of embeddings: the pixels themselves, their principal components, and random features of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddm_embed.data.types import Stored
from ddm_embed.heads.linear import standardise
from ddm_embed.results import STANDARDISED

LARGEST_SIDE = 32  # pixels are averaged down to this: a ridge over every pixel of a photograph does not fit
LONGEST = 4096  # numbers of a sequence, over its channels, that it is averaged down to
COMPONENTS = 128
RANDOM = 1500

Pair = tuple[Float[Array, "number dim"], Float[Array, "test dim"]]


def pixel_features(
    train: Stored,
    test: Stored,
    fit: Int[np.ndarray, " fit"],
) -> dict[str, Pair]:
    """Training and test features under `pixels`, `pixels_standardised`, `pca` and `random_relu`.

    Args:
      train: training images.
      test: test images.
      fit: positions in `train` of the images that means, deviations and principal components are found on.

    Returns:
      `pixels`: flattened, in [0, 1], averaged down to at most 32x32; of sequences the standardised signal itself,
      averaged down in time to at most 4,096 numbers. `pixels_standardised`: each of them less its mean and over its
      deviation, which ridge regression does of its own accord and nearest neighbours do not. `pca`: their first 128
      principal components, or as many as there are. `random_relu`: relu(W x / sqrt(dim) + b) of the standardised
      pixels, W and b drawn once and for all from N(0, 1) (Rahimi & Recht 2008, "Weighted Sums of Random Kitchen
      Sinks"); 1,500 of them, or as many as `fit`.
    """
    pixels = tuple(_flatten(images) for images in (train, test))
    mean, components = _principal(pixels[0][fit])
    with jax.default_matmul_precision("highest"):
        projected = tuple((array - mean) @ components for array in pixels)
    scaled = tuple(standardise(pixels[0][fit], array)[1] for array in pixels)
    relu = _random_relu(scaled, min(RANDOM, len(fit)))
    return {"pixels": pixels, STANDARDISED: scaled, "pca": projected, "random_relu": relu}


def _random_relu(standardised: Pair, number: int) -> Pair:
    weights, shifts = jax.random.split(jax.random.key(0))
    entries = standardised[0].shape[1]
    weights = jax.random.normal(weights, (entries, RANDOM))[:, :number] / entries**0.5
    shifts = jax.random.normal(shifts, (RANDOM,))[:number]
    with jax.default_matmul_precision("highest"):
        return tuple(jax.nn.relu(x @ weights + shifts) for x in standardised)


def _flatten(images: Stored) -> Float[Array, "number dim"]:
    number, height, width, channels = images.shape
    size = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
    unit = 255
    if images.dtype == np.float32:
        size, unit = (1, min(width, max(1, LONGEST // channels))), 1
    flat = []
    for start in range(0, number, 1024):
        part = jnp.asarray(images[start : start + 1024], jnp.float32) / unit
        if size != (height, width):
            part = jax.image.resize(part, (len(part), *size, channels), "linear")
        flat.append(part.reshape(len(part), -1))
    return jnp.concatenate(flat)


@jax.jit
def _principal(x: Float[Array, "number dim"]) -> tuple[Float[Array, " dim"], Float[Array, "dim component"]]:
    with jax.default_matmul_precision("highest"):
        mean = jnp.mean(x, axis=0)
        _, vectors = jnp.linalg.eigh((x - mean).T @ (x - mean))
        count = min(COMPONENTS, *x.shape)
        return mean, vectors[:, ::-1][:, :count]
