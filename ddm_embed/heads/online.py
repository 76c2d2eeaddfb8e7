"""Heads trained on features that each step makes anew, from new views under new noise: all heads of all features.

A step draws its views once and passes them through the frozen networks once for each noise level; the features of all
layers then serve every head. One (layer, t) after another, as DDAE's procedure has it, passes them through for each.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from tqdm import tqdm

from ddm_embed.data.augment import Stored, augment
from ddm_embed.data.pipeline import fits
from ddm_embed.data.types import Images, read_all
from ddm_embed.heads.gradient import Heads, Plan, begin, epoch_positions, plan, predict, rate_factor, scaled, update
from ddm_embed.heads.recipes import Recipe
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import by_example

logger = logging.getLogger("ddm_embed")

CHUNK_STEPS = 50  # at most, between two log lines
CHUNK_BYTES = 2**28  # of images sent at a time where they are not kept on the device
LOG_SECONDS = 10.0

FeaturesAt = Callable[..., dict[str, Float[Array, "batch dim"]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """What heads are trained on while each step makes its features anew.

    Attributes:
      features_at: (params, x0, eps, t) -> features by name. params: the networks', whole on every device of the mesh.
      images: [number, height, width, channel], as a source stores them. labels: classes below `classes`.
      key: of everything random. mesh: this process's devices; batches are split over it.
      padding: pixels of a crop; an eighth of the height if None. resident_gib: images of up to so many GiB are kept on
        the devices; more are read with `threads` and sent in parts.
    """

    features_at: FeaturesAt
    params: Any
    images: Images
    labels: Int[np.ndarray, " number"]
    classes: int
    key: Key[Array, ""]
    mesh: Mesh
    padding: int | None = None
    resident_gib: float = 4.0
    threads: int = 8

    def plan(self, recipe: Recipe) -> tuple[Plan, int]:
        """How long the recipe takes, and the rows of a batch once it is filled up to divide among the devices."""
        length = plan(recipe, self.images.shape[0])
        return length, -(-length.batch // self.mesh.size) * self.mesh.size

    def dims(self, rows: int) -> dict[str, int]:
        """The size of each feature."""
        x0 = jax.ShapeDtypeStruct((rows, *self.images.shape[1:]), jnp.float32)
        shapes = jax.eval_shape(self.features_at, self.params, x0, x0, jnp.float32(0))
        return {name: shape.shape[1] for name, shape in shapes.items()}


def fit_online(
    recipe: Recipe,
    given: Training,
    times: tuple[float, ...],
    names: tuple[str, ...],
    rates: tuple[float, ...] | None = None,
    levels: int = 1,
) -> dict[str, Heads]:
    """Heads on every named feature at every noise level, trained as the recipe says on views of each step's own.

    Args:
      recipe: what to do. given: networks, images and labels.
      times: noise levels. names: of features. rates: base learning rates, the recipe's own if None.
      levels: noise levels that pass through the networks together, which fills a device that a batch alone does not,
        and takes as many times the memory.

    Returns:
      under each name, heads whose leaves have a leading axis [time].
    """
    length, rows = given.plan(recipe)
    rates = scaled(recipe, jnp.asarray(recipe.learning_rates if rates is None else rates, jnp.float32), length.batch)
    begin_key, order_key, step_key = jax.random.split(given.key, 3)
    whole, dims = NamedSharding(given.mesh, P()), given.dims(rows)

    @partial(jax.jit, out_shardings=whole)
    def begin_all():
        heads = {name: begin(recipe, begin_key, dims[name], given.classes, len(rates)) for name in names}
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(times), *leaf.shape)), heads)

    labels, times, rates = jax.device_put((np.asarray(given.labels, np.int32), np.float32(times), rates), whole)
    step = make_step(recipe, given, length, step_key, levels)
    what = f"{recipe.name}, {len(names) * len(times) * len(rates)} heads"
    parts = chunks(given, length, order_key, rows)
    return run(make_train(step), begin_all(), (given.params, labels, times, rates), parts, length, what)


class Chunk(NamedTuple):
    """Some steps: the number of the first, how many of the rows below are steps, which images of the set each takes,
    which rows are there, images, and each step's places in those."""

    first: Int[np.ndarray, ""]
    count: Int[np.ndarray, ""]
    positions: Int[Array, "step rows"]
    weights: Float[Array, "step rows"]
    shown: Stored
    places: Int[Array, "step rows"]


def make_step(recipe: Recipe, given: Training, length: Plan, key: Key[Array, ""], levels: int):
    """The function (heads, (params, labels, times, rates), chunk, row) -> heads after the step of this row."""
    split, features_at, padding = by_example(given.mesh), given.features_at, given.padding
    ragged = length.batch % given.mesh.size != 0 or not recipe.drop_last

    def step(heads, arrays, chunk, row):
        params, labels, times, rates = arrays
        number, positions = chunk.first + row, chunk.positions[row]
        view_key, noise_key, drop_key = jax.random.split(jax.random.fold_in(key, number), 3)
        x0 = split(augment(view_key, split(chunk.shown[chunk.places[row]]), recipe.views, padding))
        y, weights = split(labels[positions]), split(chunk.weights[row]) if ragged else None
        now = rates * rate_factor(recipe, length, number)

        def at_level(inputs):
            t, heads = inputs
            # By the level itself: which others are trained beside it changes nothing.
            name = jax.lax.bitcast_convert_type(t, jnp.uint32)
            if recipe.fresh_noise:
                eps = jax.random.normal(jax.random.fold_in(noise_key, name), x0.shape)
            else:
                eps = kept_noise(jax.random.fold_in(key, name), positions, x0.shape)
            features = features_at(params, x0, split(eps), t)
            return {name: update(recipe, heads[name], features[name], y, weights, now, drop_key) for name in heads}

        return jax.lax.map(at_level, (times, heads), batch_size=levels if levels > 1 else None)

    return step


def kept_noise(
    key: Key[Array, ""], positions: Int[Array, " batch"], shape: tuple[int, int, int, int]
) -> Float[Array, "batch height width channel"]:
    """Noise that depends on the key and each image's position in its set."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(positions)
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys)


def make_train(step: Callable) -> Callable:
    """The jitted function (state, arrays, chunk) -> state, number of steps taken so far; the state is donated.

    It calls `step(state, arrays, chunk, row)` for each of the chunk's steps. One program serves all chunks.
    """

    def train(state, arrays, chunk):
        state = jax.lax.fori_loop(0, chunk.count, lambda row, state: step(state, arrays, chunk, row), state)
        return state, chunk.first + chunk.count

    return jax.jit(train, donate_argnums=0)


def run(train: Callable, state: Any, arrays: Any, parts: Iterator[Chunk], length: Plan, what: str) -> Any:
    """The state, which is donated, after `train` (of `make_train`) on all chunks; log lines say `what` and an ETA."""
    begin_at, logged, ahead = time.perf_counter(), 0.0, None
    for chunk in parts:
        state, done = train(state, arrays, chunk)
        jax.block_until_ready(ahead)  # so that no more than two chunks are on the devices
        ahead = done
        distributed.progress()
        if time.perf_counter() - begin_at - logged > LOG_SECONDS or chunk.first + chunk.count == length.steps:
            steps, logged = int(done), time.perf_counter() - begin_at
            left = tqdm.format_interval(logged / steps * (length.steps - steps))
            logger.info("%s: step %d/%d  ETA %s", what, steps, length.steps, left)
    return state


def chunks(given: Training, length: Plan, key: Key[Array, ""], rows: int) -> Iterator[Chunk]:
    """All steps in order, some at a time, all chunks of one shape.

    Images that fit stay on the devices, and all chunks share them; of others, each chunk brings its own.
    """
    images, threads = given.images, given.threads
    image_bytes = int(np.prod(images.shape[1:])) * np.dtype(images.dtype).itemsize
    resident, whole = fits(images, given.resident_gib, given.mesh), NamedSharding(given.mesh, P())
    stored = jax.device_put(read_all(images, threads), whole) if resident else None
    most = CHUNK_STEPS if resident else max(1, CHUNK_BYTES // (rows * image_bytes))
    size = -(-length.per_epoch // -(-length.per_epoch // min(most, CHUNK_STEPS)))
    make = jax.jit(lambda epoch: epoch_positions(key, images.shape[0], length, epoch, rows))
    for step in range(0, length.steps, length.per_epoch):
        everything = jax.device_get(make(step // length.per_epoch))
        for start in range(0, min(length.per_epoch, length.steps - step), size):
            count = min(size, length.per_epoch - start, length.steps - step - start)
            positions, weights = (np.resize(array[start : start + count], (size, rows)) for array in everything)
            first, count = np.int32(step + start), np.int32(count)
            if resident:
                positions, weights = jax.device_put((positions, weights), whole)
                yield Chunk(first, count, positions, weights, stored, positions)
                continue
            wanted, places = np.unique(positions, return_inverse=True)
            shown = read_rows(images, np.resize(wanted, positions.size), threads)
            places = places.reshape(positions.shape).astype(np.int32)
            yield Chunk(first, count, *jax.device_put((positions, weights, shown, places), whole))


def read_rows(images: Images, positions: Int[np.ndarray, " row"], threads: int) -> Stored:
    """Images at any positions, by several threads."""
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(
            list(pool.map(images.__getitem__, np.array_split(positions, min(threads, len(positions)))))
        )


def predict_online(
    recipe: Recipe,
    heads: dict[str, Heads],
    features: dict[str, Float[Array, "time query dim"]],
    names: tuple[str, ...],
) -> Int[Array, "key hyper query"]:
    """The classes that the heads give to features of images that are not augmented.

    Keys are (name, t) in the order of `names`, all noise levels of a name together: `keys_of`. JAX sorts a dictionary
    that passes through it, so its own order says nothing.
    """
    run = jax.jit(jax.vmap(partial(predict, recipe)))
    return jnp.concatenate([run(heads[name], features[name]) for name in names])


def keys_of(names: tuple[str, ...], times: tuple[float, ...]) -> list[tuple[str, float]]:
    """(name, t) of each row of `predict_online`."""
    return [(name, t) for name in names for t in times]
