import itertools

import jax
import numpy as np
import pytest

from ddm_embed.data.pipeline import Order, batches, fits
from ddm_embed.errors import UserError
from ddm_embed.parallel.mesh import make_mesh

IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1).repeat(2, 1).repeat(3, 2)


class Slow:
    """Images that must be read, as from files."""

    shape, dtype = IMAGES.shape, IMAGES.dtype

    def __getitem__(self, positions):
        return IMAGES[positions]


def read(images, order, start, count, resident):
    stream = batches(images, order, make_mesh(1, 1, devices=jax.devices()[:1]), start, resident, threads=3)
    found = [np.asarray(batch["image"]) for batch in itertools.islice(stream, count)]
    stream.close()
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 120])
def test_each_image_is_seen_once_an_epoch(batch_size):
    order = Order(50, batch_size, seed=3)
    seen = np.concatenate([order.positions(step) for step in range(-(-200 // batch_size))])[:200]
    for epoch in seen.reshape(4, 50):
        assert sorted(epoch) == list(range(50))
    assert not np.array_equal(seen[:50], seen[50:100])


def test_the_order_is_a_function_of_seed_and_step_alone():
    forwards = [Order(50, 16, 3).positions(step) for step in range(9)]
    order = Order(50, 16, 3)
    backwards = [order.positions(step) for step in reversed(range(9))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    assert not np.array_equal(forwards, [Order(50, 16, 4).positions(step) for step in range(9)])


@pytest.mark.parametrize("batch_size", [7, 16])
def test_resident_and_streamed_batches_are_the_same(batch_size):
    order = Order(50, batch_size, 0)
    resident = read(IMAGES, order, 0, 12, resident=True)
    streamed = read(Slow(), order, 0, 12, resident=False)
    expected = [IMAGES[order.positions(step)] for step in range(12)]
    np.testing.assert_array_equal(resident, expected)
    np.testing.assert_array_equal(streamed, expected)


@pytest.mark.parametrize("resident", [True, False])
def test_starting_later_changes_no_batch(resident):
    whole = read(IMAGES, Order(50, 16, 0), 0, 9, resident)
    for start in (1, 4, 7):
        np.testing.assert_array_equal(read(IMAGES, Order(50, 16, 0), start, 9 - start, resident), whole[start:])


def test_a_set_too_large_for_the_devices_does_not_fit():
    mesh = make_mesh(1, 1, devices=jax.devices()[:1])
    assert fits(IMAGES, 1e-6, mesh) and not fits(IMAGES, 1e-7, mesh)


def test_an_image_that_cannot_be_read_stops_the_stream_with_its_name():
    class Broken(Slow):
        def __getitem__(self, positions):
            raise UserError("broken.png: not a readable image")

    for resident in (True, False):
        with pytest.raises(UserError, match=r"broken\.png"):
            read(Broken(), Order(50, 16, 0), 0, 1, resident)
