"""Views of images, drawn on the device inside the training step; every method may have any of them."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key, UInt8

from ddm_embed.data import colour
from ddm_embed.models.patches import is_sequence

AUGMENTATIONS = ("none", "flip", "crop", "crop+flip", "resized+flip", "simclr")

Image = Float[Array, "batch height width channel"]
Stored = UInt8[Array, "batch height width channel"] | Float32[Array, "batch height width channel"]

AREA = (0.2, 1.0)  # of a resized crop, as a share of the image's
ASPECT = (3 / 4, 4 / 3)  # its width over its height, relative to the image's


def to_float(image: Stored) -> Image:
    """uint8 to float32 in [-1, 1]; what is float32 already, standardised sequences, is left as it is."""
    return image if image.dtype == jnp.float32 else image.astype(jnp.float32) / 127.5 - 1.0


def augment(key: Key[Array, ""], image: Stored, kind: str, padding: int | None) -> Image:
    """A random view of each image, float32 [batch, height, width, channel], in [-1, 1] or standardised.

    Each image's draw depends on the key and its place in the global batch, so not on how the batch is split.

    Args:
      key: random key.
      image: uint8, or float32 of sequences [batch, 1, length, channel].
      kind: one of `AUGMENTATIONS`; "crop" shifts by up to `padding` pixels over reflected borders, "flip" mirrors left
        and right with probability one half, "resized" shows a random rectangle of the image at full size, "simclr" is
        "resized+flip" and then `colour.distort`. For sequences there are "none" and "crop", which shifts in time.
      padding: pixels; an eighth of the height (at least 1) if None, of a sequence's length.
    """
    batch, height, width = image.shape[:3]
    crop_key, flip_key = jax.random.split(key)
    view = to_float(image)
    if "crop" in kind:
        side = width if is_sequence(image.shape) else height
        view = _crop(crop_key, view, padding or max(1, side // 8))
    if kind in ("resized+flip", "simclr"):
        view = _resized_crop(crop_key, view)
    if "flip" in kind or kind == "simclr":
        flip = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        view = jnp.where(flip, view[:, :, ::-1], view)
    if kind == "simclr":
        view = colour.distort(jax.random.fold_in(key, 2), (view + 1) / 2) * 2 - 1
    return view


def _crop(key: Key[Array, ""], image: Image, padding: int) -> Image:
    shift = jax.random.randint(key, (len(image), 2), 0, 2 * padding + 1)
    down = padding
    if is_sequence(image.shape):
        down, shift = 0, shift.at[:, 0].set(0)
    padded = jnp.pad(image, ((0, 0), (down, down), (padding, padding), (0, 0)), mode="reflect")

    def cut(padded_image, offset):
        return jax.lax.dynamic_slice(padded_image, (offset[0], offset[1], 0), image.shape[1:])

    return jax.vmap(cut)(padded, shift)


def _resized_crop(key: Key[Array, ""], image: Image) -> Image:
    """A rectangle of each image, of a uniform area and a log-uniform aspect, scaled up to the image's size, bilinearly
    (Szegedy et al. 2015, arXiv 1409.4842, sec. 6, with the least area of arXiv 2003.04297's code).

    A side that would be longer than the image's is cut to it, where others draw again.
    """
    height, width = image.shape[1:3]
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (len(image),), minval=AREA[0], maxval=AREA[1])
    low, high = (math.log(aspect) for aspect in ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (len(image),), minval=low, maxval=high))
    share = jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=1)  # of height and width, (B, 2)
    share = jnp.minimum(share, 1.0)
    corner = jax.random.uniform(place_key, (len(image), 2)) * (1 - share) * jnp.array([height, width])
    return show_rectangle(image, share, corner)


def show_rectangle(image: Image, share: Float[Array, "batch 2"], corner: Float[Array, "batch 2"]) -> Image:
    """A rectangle of each image at the image's size, bilinearly.

    Args:
      share: its height and width over the image's. corner: its upper left, in pixels from the image's.
    """

    def show(image, share, corner):
        # What lies at y comes to lie at (y - corner) / share.
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / share, -corner / share, method="linear", antialias=False
        )

    return jax.vmap(show)(image, share, corner)
