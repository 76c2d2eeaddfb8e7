"""Views of images, drawn on the device inside the training step; every method may have any of them.

Colours are distorted as in SimCLR: Chen et al. 2020, arXiv 2002.05709, app. A, at the strength of their CIFAR-10 runs.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key, UInt8

from ddm_embed.models.patches import is_sequence

AUGMENTATIONS = ("none", "flip", "crop", "crop+flip", "resized+flip", "simclr")

Image = Float[Array, "batch height width channel"]
Stored = UInt8[Array, "batch height width channel"] | Float32[Array, "batch height width channel"]

AREA = (0.2, 1.0)  # of a resized crop, as a share of the image's
ASPECT = (3 / 4, 4 / 3)  # its width over its height, relative to the image's
STRENGTH = 0.5
BRIGHTNESS = CONTRAST = SATURATION = 0.8 * STRENGTH
HUE = 0.2 * STRENGTH  # of a turn
JITTERED, GREY = 0.8, 0.2  # shares of the images
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
        "resized+flip" and then `distort`. For sequences there are "none" and "crop", which shifts in time.
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
        view = distort(jax.random.fold_in(key, 2), (view + 1) / 2) * 2 - 1
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


def distort(key: Key[Array, ""], image: Image) -> Image:
    """Brightness, contrast, saturation and hue of four images in five, in that order, and one in five made grey.

    Of images without three channels brightness and contrast alone. Each factor is uniform in 1 +- its width.

    Args:
      image: [batch, height, width, channel] in [0, 1], as what is returned.
    """
    jitter_key, grey_key, *keys = jax.random.split(key, 6)
    shape = (len(image), 1, 1, 1)

    def factor(key: Key[Array, ""], width: float) -> Array:
        return jax.random.uniform(key, shape, minval=1 - width, maxval=1 + width)

    view = jnp.clip(image * factor(keys[0], BRIGHTNESS), 0, 1)
    level = jnp.mean(_grey(view), axis=(1, 2, 3), keepdims=True)
    view = _blend(view, level, factor(keys[1], CONTRAST))
    coloured = image.shape[-1] == 3
    if coloured:
        view = _blend(view, _grey(view), factor(keys[2], SATURATION))
        view = turn_hue(view, jax.random.uniform(keys[3], shape, minval=-HUE, maxval=HUE)[..., 0])
    view = jnp.where(jax.random.bernoulli(jitter_key, JITTERED, shape), view, image)
    if coloured:
        view = jnp.where(jax.random.bernoulli(grey_key, GREY, shape), _grey(view), view)
    return view


def turn_hue(image: Image, turn: Float[Array, "batch 1 1"]) -> Image:
    """Adds a share of a turn to the hue of RGB in [0, 1], its HSV value and saturation kept (Smith 1978)."""
    most, least = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    span = most - least
    safe = jnp.where(span > 0, span, 1.0)
    red, green, blue = (image[..., i] for i in range(3))
    sixth = jnp.where(
        most == red,
        (green - blue) / safe,
        jnp.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turn
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sixth) % 6
        channels.append(most - span * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.stack(channels, axis=-1)


def _grey(image: Image) -> Image:
    """The luma of each pixel in every channel; of other than three channels, their mean."""
    weights = jnp.array(LUMA) if image.shape[-1] == 3 else jnp.full(image.shape[-1], 1 / image.shape[-1])
    return jnp.broadcast_to(jnp.sum(image * weights, axis=-1, keepdims=True), image.shape)


def _blend(image: Image, other: Image, factor: Array) -> Image:
    return jnp.clip(other + factor * (image - other), 0, 1)
