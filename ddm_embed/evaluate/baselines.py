"""What embeddings are compared with: the pixels themselves, and their principal components."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

LARGEST_SIDE = 32  # pixels are averaged down to this: a ridge over every pixel of a photograph does not fit
COMPONENTS = 128

Pair = tuple[Float[Array, "number dim"], Float[Array, "test dim"]]


def pixel_features(
    train: UInt8[np.ndarray, "number height width channel"],
    test: UInt8[np.ndarray, "test height width channel"],
    fit: Int[np.ndarray, " fit"],
) -> dict[str, Pair]:
    """Training and test features under `pixels` and `pca`.

    Args:
      train: training images.
      test: test images.
      fit: positions in `train` of the images that the principal components are found on.

    Returns:
      `pixels`: flattened, in [0, 1], averaged down to at most 32x32. `pca`: their first 128 principal components, or
      as many as there are.
    """
    pixels = tuple(_flatten(images) for images in (train, test))
    mean, components = _principal(pixels[0][fit])
    with jax.default_matmul_precision("highest"):
        projected = tuple((array - mean) @ components for array in pixels)
    return {"pixels": pixels, "pca": projected}


def _flatten(images: UInt8[np.ndarray, "number height width channel"]) -> Float[Array, "number dim"]:
    number, height, width, channels = images.shape
    size = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
    flat = []
    for start in range(0, number, 1024):
        part = jnp.asarray(images[start : start + 1024], jnp.float32) / 255
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
