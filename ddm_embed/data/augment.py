"""Views of images, drawn on the device inside the training step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

AUGMENTATIONS = ("none", "flip", "crop", "crop+flip")


def to_float(image: UInt8[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
    """uint8 to float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def augment(
    key: Key[Array, ""], image: UInt8[Array, "batch height width channel"], kind: str, padding: int | None
) -> Float[Array, "batch height width channel"]:
    """A random view of each image, float32 [batch, height, width, channel] in [-1, 1].

    Each image's draw depends on the key and its place in the global batch, so not on how the batch is split.

    Args:
      key: random key.
      image: uint8.
      kind: one of `AUGMENTATIONS`; "crop" shifts by up to `padding` pixels over reflected borders, "flip" mirrors left
        and right with probability one half.
      padding: pixels; an eighth of the height (at least 1) if None.
    """
    batch, height = image.shape[:2]
    crop_key, flip_key = jax.random.split(key)
    view = to_float(image)
    if "crop" in kind:
        view = _crop(crop_key, view, padding or max(1, height // 8))
    if "flip" in kind:
        flip = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        view = jnp.where(flip, view[:, :, ::-1], view)
    return view


def _crop(key: Key[Array, ""], image: Float[Array, "batch height width channel"], padding: int):
    shift = jax.random.randint(key, (len(image), 2), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")

    def cut(padded_image, offset):
        return jax.lax.dynamic_slice(padded_image, (offset[0], offset[1], 0), image.shape[1:])

    return jax.vmap(cut)(padded, shift)
