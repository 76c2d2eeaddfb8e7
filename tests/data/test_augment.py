import jax
import jax.numpy as jnp
import numpy as np

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
