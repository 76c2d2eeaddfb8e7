"""Views of images, drawn on the device inside the training step; every method may have any of them.

Colours are distorted as in SimCLR: Chen et al. 2020, arXiv 2002.05709, app. A, at the strength of their CIFAR-10 runs.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Key, UInt8

from ddm_embed.models.patches import is_sequence

AUGMENTATIONS = ("none", "flip", "crop", "crop+flip", "resized+flip", "simclr")

Image = Float[Array, "batch height width channel"]
Stored = UInt8[Array, "batch height width channel"] | Float32[Array, "batch height width channel"]

AREA = {"resized+flip": (0.2, 1.0), "simclr": (0.08, 1.0)}  # of a resized crop, as a share of the image's
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
        "resized+flip" of smaller rectangles too, and then `distort`. For sequences there are "none" and "crop", which
        shifts in time.
      padding: pixels; an eighth of the height (at least 1) if None, of a sequence's length.
    """
    batch, height, width = image.shape[:3]
    crop_key, flip_key = jax.random.split(key)
    view = to_float(image)
    if "crop" in kind:
        side = width if is_sequence(image.shape) else height
        view = _crop(crop_key, view, padding or max(1, side // 8))
    if kind in AREA:
        view = _resized_crop(crop_key, view, *AREA[kind])
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


def _resized_crop(key: Key[Array, ""], image: Image, least: float, most: float) -> Image:
    """A rectangle of each image, of a uniform area and a log-uniform aspect, scaled up to the image's size, bilinearly
    (Szegedy et al. 2015, arXiv 1409.4842, sec. 6; SimCLR's least area is theirs, the other that of MoCo v2's code).

    A side that would be longer than the image's is cut to it, where others draw again.
    """
    height, width = image.shape[1:3]
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (len(image),), minval=least, maxval=most)
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
    """The colours of four images in five jittered, in an order of its own for each, and one image in five made grey.

    Of images without three channels brightness and contrast alone. Each factor is uniform in 1 +- its width.

    Args:
      image: [batch, height, width, channel] in [0, 1], as what is returned.
    """
    jitter_key, grey_key, order_key, factor_key, turn_key = jax.random.split(key, 5)
    batch, coloured = len(image), image.shape[-1] == 3
    widths = jnp.array([BRIGHTNESS, CONTRAST, SATURATION if coloured else 0.0])
    place = jax.random.permutation(order_key, jnp.tile(jnp.arange(4), (batch, 1)), axis=1, independent=True)
    factor = 1 + widths * jax.random.uniform(factor_key, (batch, 3), minval=-1, maxval=1)
    turn = jax.random.uniform(turn_key, (batch,), minval=-HUE, maxval=HUE)
    view = jitter(image, place, factor, turn)
    view = jnp.where(jax.random.bernoulli(jitter_key, JITTERED, (batch, 1, 1, 1)), view, image)
    if coloured:
        view = jnp.where(jax.random.bernoulli(grey_key, GREY, (batch, 1, 1, 1)), _grey(view), view)
    return view


def jitter(
    image: Image, place: Int[Array, "batch 4"], factor: Float[Array, "batch 3"], turn: Float[Array, " batch"]
) -> Image:
    """Brightness, contrast, saturation and hue of each image in [0, 1], clipped after each.

    Args:
      place: when each of the four is done, 0 to 3. factor: of the first three. turn: of the hue, if there is one.
    """
    for now in range(4):
        doing = (place == now)[..., None, None, None]  # (B, 4, 1, 1, 1)
        grey = _grey(image)
        level = jnp.mean(grey, axis=(1, 2, 3), keepdims=True)
        toward = jnp.where(doing[:, 1], level, jnp.where(doing[:, 2], grey, 0.0))
        by = jnp.sum(jnp.where(place[:, :3] == now, factor, 0.0), axis=1)[:, None, None, None]
        view = jnp.clip(toward + by * (image - toward), 0, 1)
        turned = turn_hue(image, turn[:, None, None]) if image.shape[-1] == 3 else image
        image = jnp.where(doing[:, 3], turned, view)
    return image


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
        k = offset + sixth
        k = k - 6 * jnp.floor(k / 6)  # as k % 6, which is slow on a CPU
        channels.append(most - span * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.stack(channels, axis=-1)


def _grey(image: Image) -> Image:
    """The luma of each pixel in every channel; of other than three channels, their mean."""
    weights = jnp.array(LUMA) if image.shape[-1] == 3 else jnp.full(image.shape[-1], 1 / image.shape[-1])
    return jnp.broadcast_to(jnp.sum(image * weights, axis=-1, keepdims=True), image.shape)
