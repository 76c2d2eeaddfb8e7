import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from ddm_embed.data import augment as augment_module
from ddm_embed.data.augment import augment, to_float

IMAGE = jax.random.randint(jax.random.key(0), (64, 8, 6, 3), 0, 256).astype(jnp.uint8)


def test_pixels_span_minus_one_to_one():
    assert to_float(jnp.array([0, 255], jnp.uint8)).tolist() == [-1.0, 1.0]
    np.testing.assert_array_equal(augment(jax.random.key(0), IMAGE, "none", None), to_float(IMAGE))


def test_a_flip_mirrors_half_of_the_images():
    view, plain = augment(jax.random.key(1), IMAGE, "flip", None), to_float(IMAGE)
    same = np.all(view == plain, axis=(1, 2, 3))
    mirrored = np.all(view == plain[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same | mirrored) and 16 < same.sum() < 48


def test_a_crop_is_a_window_of_the_image_with_reflected_borders():
    view = np.asarray(augment(jax.random.key(1), IMAGE, "crop", 2))
    padded = np.pad(to_float(IMAGE), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifts = set()
    for i in range(64):
        places = [
            (y, x) for y in range(5) for x in range(5) if np.array_equal(padded[i, y : y + 8, x : x + 6], view[i])
        ]
        assert places
        shifts |= set(places)
    assert len(shifts) > 15


def test_a_view_depends_on_the_key_and_the_place_in_the_batch_alone():
    def half(image):
        return augment(jax.random.key(1), image, "crop+flip", 2)

    changed = IMAGE.at[32:].set(0)
    np.testing.assert_array_equal(half(IMAGE)[:32], half(changed)[:32])
    assert not np.array_equal(half(IMAGE), augment(jax.random.key(2), IMAGE, "crop+flip", 2))


GRID = np.stack(np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 16), indexing="ij"), axis=-1)  # row, column
RAMPS = jnp.asarray(np.broadcast_to(np.round(255 * GRID), (512, 24, 16, 2)), jnp.uint8)


def rectangles(monkeypatch, kind):
    """Views of images that say of each pixel where it is, and the shares of height and width shown; flipped: -width."""
    monkeypatch.setattr(augment_module, "distort", lambda key, image: image)
    show = jax.jit(lambda key: augment(key, RAMPS, kind, None))
    view = (np.asarray(show(jax.random.key(3))) + 1) / 2
    # From 14 rows and 9 columns within, which the border does not touch.
    height = (view[:, 18, 8, 0] - view[:, 4, 8, 0]) * 23 / 14
    width = (view[:, 12, 12, 1] - view[:, 12, 3, 1]) * 15 / 9
    return view, height, width


@pytest.mark.parametrize("kind, least", [("resized+flip", 0.2), ("simclr", 0.08)])
def test_a_resized_crop_is_a_rectangle_of_a_share_of_the_image_or_more(kind, least, monkeypatch):
    view, height, width = rectangles(monkeypatch, kind)
    area, aspect = height * np.abs(width), np.abs(width) / height
    assert least - 0.01 < area.min() < least + 0.03 and 0.85 < area.max() < 1.02
    assert abs(area.mean() - (1 + least) / 2) < 0.05
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.36
    assert 200 < np.sum(width < 0) < 312  # flipped
    assert view.min() > -1e-3 and view.max() < 1.001
    assert np.abs(view - view[:, :, :1]).max(axis=(1, 2))[:, 0].max() < 1e-3  # rows stay rows


def test_a_rectangle_is_scaled_up_as_pillow_does():
    image = np.random.default_rng(0).uniform(-1, 1, (5, 24, 16, 1)).astype(np.float32)
    share = np.array([[0.5, 0.5], [0.7, 0.6], [0.45, 1.0], [1.0, 1.0], [0.9, 0.5]], np.float32)
    corner = np.array([[0, 0], [3.3, 5.1], [13.2, 0], [0, 0], [1.7, 8.0]], np.float32)
    shown = augment_module.show_rectangle(jnp.asarray(image), jnp.asarray(share), jnp.asarray(corner))
    for i, ((height, width), (y, x)) in enumerate(zip(share * [24, 16], corner, strict=True)):
        box = (x, y, min(x + width, 16), min(y + height, 24))
        expected = PIL.Image.fromarray(image[i, :, :, 0]).resize((16, 24), PIL.Image.BILINEAR, box=box)
        # Pillow sees nothing beyond the rectangle, which tells within half a pixel of its border.
        np.testing.assert_allclose(shown[i, 2:-2, 2:-2, 0], np.asarray(expected)[2:-2, 2:-2], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("kind", ["resized+flip", "simclr"])
def test_views_keep_shape_and_range_and_depend_on_key_and_place_alone(kind, channels):
    image = jax.random.randint(jax.random.key(0), (32, 8, 6, channels), 0, 256).astype(jnp.uint8)
    show = jax.jit(lambda key, image: augment(key, image, kind, None))
    view, other = show(jax.random.key(1), image), show(jax.random.key(1), image.at[16:].set(0))
    assert view.shape == image.shape and view.dtype == jnp.float32
    assert float(view.min()) >= -1.0001 and float(view.max()) <= 1.0001
    np.testing.assert_allclose(view[:16], other[:16], atol=1e-6)
    assert not np.allclose(view, show(jax.random.key(2), image))
    assert len({row.tobytes() for row in np.asarray(view)}) == 32


def test_the_hue_is_turned_as_in_hsv():
    image = np.random.default_rng(0).random((1, 9, 9, 3)).astype(np.float32)
    image[0, 0, 0], image[0, 0, 1] = 0.5, (0.2, 0.2, 0.7)  # grey; two channels alike
    turn_hue = jax.jit(augment_module.turn_hue)
    for turn in (-0.1, 0.07, 0.5):
        found = np.asarray(turn_hue(image, np.full((1, 1, 1), turn, np.float32)))
        for pixel, turned in zip(image.reshape(-1, 3), found.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(turned, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5)


def one_at_a_time(image, order, factor, turn):
    """Brightness, contrast, saturation and hue in this order, written out in NumPy."""
    for what in order:
        luma = image @ [0.299, 0.587, 0.114]
        if what == 3:
            hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]
            image = np.reshape([colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv], image.shape)
        else:
            toward = (0.0, luma.mean(), luma[..., None])[what]
            image = np.clip(toward + factor[what] * (image - toward), 0, 1)
    return image


def test_colours_are_jittered_in_any_order():
    rng, orders = np.random.default_rng(0), list(itertools.permutations(range(4)))
    image = rng.random((24, 4, 3, 3))
    factor, turn = rng.uniform(0.6, 1.4, (24, 3)), rng.uniform(-0.1, 0.1, 24)
    found = jax.jit(augment_module.jitter)(image, np.argsort(orders, axis=1), factor, turn)
    for view, *given in zip(found, image, orders, factor, turn, strict=True):
        np.testing.assert_allclose(view, one_at_a_time(*given), atol=1e-5)


def test_each_image_has_an_order_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(augment_module, "jitter", lambda image, *how: seen.append(how) or image)
    augment_module.distort(jax.random.key(0), jnp.zeros((2400, 1, 1, 3)))
    (place, _, _), *_ = seen
    counts = np.unique(place, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 60 and counts.max() < 140


def test_colours_are_distorted_as_often_and_as_far_as_said():
    image = jnp.broadcast_to(jnp.array([0.5, 0.3, 0.2]), (4000, 2, 2, 3))
    # Not jitted: fused, the channels of a grey image differ by a rounding, and its hue is anything.
    view = np.asarray(augment_module.distort(jax.random.key(0), image))[:, 0, 0]
    grey = np.ptp(view, axis=1) < 1e-6
    assert abs(grey.mean() - 0.2) < 0.02
    untouched = np.all(np.abs(view - [0.5, 0.3, 0.2]) < 1e-6, axis=1)
    assert abs(untouched.mean() - 0.2 * 0.8) < 0.02
    jittered = view[~grey & ~untouched]
    hue = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in jittered]) - colorsys.rgb_to_hsv(0.5, 0.3, 0.2)[0]
    hue = (hue + 0.5) % 1 - 0.5
    assert 0.09 < np.abs(hue).max() < 0.1001


def test_brightness_and_contrast_alone_change_images_of_one_channel():
    image = jnp.broadcast_to(jnp.array([0.2, 0.4]).reshape(2, 1, 1), (2000, 2, 1, 1))
    view = np.asarray(jax.jit(augment_module.distort)(jax.random.key(0), image))[:, :, 0, 0]
    level, spread = view.mean(axis=1) / 0.3, (view[:, 1] - view[:, 0]) / 0.2
    assert abs(np.mean(np.abs(level - 1) < 1e-6) - 0.2) < 0.03
    assert level.min() + 1e-5 >= 0.6 and level.max() <= 1.4 + 1e-5
    contrast = spread / level
    assert contrast.min() + 1e-4 >= 0.6 and contrast.max() <= 1.4 + 1e-4 and contrast.std() > 0.15
