"""Run features of images at noise levels: z, and the pooled tokens of every encoder layer and denoiser block."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed import methods
from ddm_embed.data.augment import to_float
from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.prediction import Image
from ddm_embed.diffusion.process import Process
from ddm_embed.features.bank import Bank, Filling
from ddm_embed.methods.method import Networks
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import BATCH_AXES

logger = logging.getLogger("ddm_embed")

Features = dict[str, Float[Array, "batch dim"]]
FeaturesOf = Callable[[Any, Image, Image, Float[Array, ""]], Features]

SECONDS = 30  # between two lines of progress
IN_FLIGHT = 2  # batches handed to the devices ahead of the one whose result is awaited


def sees_clean(config: ConfigDict) -> bool:
    """Whether the encoder of a run sees the image itself at every t, and not x_t."""
    return not methods.of(config).sees_noise(config)


def is_noiseless(config: ConfigDict, feature: str) -> bool:
    """Whether a feature of this name sees no noise. The denoiser's do."""
    return sees_clean(config) and not feature.startswith("denoiser")


def is_static(config: ConfigDict, feature: str) -> bool:
    """Whether a feature is the same at all noise levels: its network is neither told t nor shown noise."""
    return is_noiseless(config, feature) and not config.embedding.timed


def make_features(networks: Networks, process: Process | None, clean: bool) -> FeaturesOf:
    """A function (params, x0, eps, t) -> {name: float32 [batch, dim]}, differentiable in params and t.

    Names are `z`, `encoder_1` ... `encoder_L`, `denoiser_1` ... `denoiser_L`, counted from the input: a layer's tokens,
    averaged. With the ending `_2x2`, of layers whose tokens have places in two dimensions: averaged over each quarter
    of the image, the four side by side, so that a feature tells where something is. With the ending `_max`: their
    average and the largest of each entry, side by side.

    Args:
      networks: the run's networks. process: its forward process, None of a method without noise levels. clean: what the
      encoder sees, of `sees_clean`.

    The function's: x0 [batch, height, width, channel] in [-1, 1], eps like x0, one t for all.
    """

    def features_of(params, x0, eps, t):
        level = jnp.full(x0.shape[:1], t)
        xt = x0 if process is None else prediction_lib.noised(x0, eps, *process.marginal(level))
        features, z = {}, None
        if networks.encode is not None:
            embedding = networks.encode(params, x0 if clean else xt, level)
            features["z"] = z = embedding.z
            features |= pooled("encoder", embedding.tokens, x0.shape)
        if networks.denoise is not None:
            _, tokens = networks.denoise(params, xt, level, z)
            features |= pooled("denoiser", tokens, x0.shape)
        return features

    return features_of


def in_batches(
    arrays: Any,
    mesh: Mesh,
    plan: Callable[[int], tuple[int, Callable[[Any, int], Any]]],
    turns: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, int, Any]]:
    """Passes rows through a program in batches; yields in order (start, number of rows, what the program gave).

    A batch is split over the mesh, and the last one filled up with the first rows. Few batches are under way at a time.

    Args:
      arrays: a tree of arrays of one length. plan: (rows left) -> (size, program), where the mesh divides the size and
        the program takes a batch of so many rows and its start. turns: (which, of how many) processes this one is: of
        so many batches it takes one, and goes through as many as every other, though its last be of no new row.
    """
    split = NamedSharding(mesh, P(BATCH_AXES))
    number, done = len(jax.tree.leaves(arrays)[0]), 0
    waiting: deque[tuple[int, int, Any]] = deque()

    def oldest() -> tuple[int, int, Any]:
        start, count, found = waiting.popleft()
        return start, count, jax.block_until_ready(found)

    while done < number:
        size, program = plan(number - done)
        start = done + turns[0] * size
        rows = np.arange(start, start + size) % number
        batch = jax.tree.map(lambda a, rows=rows: jax.device_put(np.asarray(a[rows]), split), arrays)
        waiting.append((start, max(0, min(size, number - start)), program(batch, start)))
        done += turns[1] * size
        if len(waiting) > IN_FLIGHT:
            yield oldest()
    while waiting:
        yield oldest()


class Reading(NamedTuple):
    """How a probe reads features.

    batch_size: images a pass, over all devices. seed: of the noise. gib: the most to keep on the devices, as in
    `bank.Filling`. averaged: how many draws of the noise a feature is averaged over.
    """

    batch_size: int
    seed: int = 0
    gib: float | None = None
    averaged: int = 1


def make_extract(features_of: FeaturesOf, mesh: Mesh, reading: Reading) -> Callable[..., Bank]:
    """A function (params, images, times, draw, names) -> features of all images at all levels, in one pass over them.

    What is not named is not computed. The noise of an image depends on the seed, `draw` and its position, not on the
    batch size or the number of devices; it is the same at every t. Several processes take the batches in turns, each on
    its own devices, and all return all features.

    Args:
      features_of: from `make_features`. mesh: batches are split over it.
    """
    batch_size, averaged = -(-reading.batch_size // mesh.size) * mesh.size, reading.averaged

    def extract(params, image, position, times, draw, names):
        x0 = to_float(image)  # (B, H, W, C)
        key = jax.random.fold_in(jax.random.key(reading.seed), draw)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(position)

        def one_draw(t, i):
            again = jax.vmap(lambda k: jax.random.fold_in(k, i))(keys) if averaged > 1 else keys
            eps = jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:]))(again)
            features = features_of(params, x0, eps, t)
            return {name: features[name] for name in names}

        def at(t):
            if averaged == 1:
                return one_draw(t, 0)
            draws = jax.lax.map(partial(one_draw, t), jnp.arange(averaged))
            return jax.tree.map(lambda x: jnp.mean(x, axis=0), draws)

        return jax.lax.map(at, times)  # (T, B, D) each

    split, whole = NamedSharding(mesh, P(BATCH_AXES)), NamedSharding(mesh, P())
    compiled = jax.jit(
        extract,
        in_shardings=(whole, split, split, whole, whole),
        out_shardings=NamedSharding(mesh, P(None, BATCH_AXES)),
        static_argnums=5,
    )

    def extract_all(params, images, times, draw, names) -> Bank:
        levels, processes = np.asarray(times, np.float32), jax.process_count()
        rounds = -(-len(images) // (batch_size * processes))
        begin = said = time.perf_counter()
        filling = None

        def program(image, start):
            position = np.arange(start, start + batch_size, dtype=np.int32)
            return compiled(params, image, position, levels, np.int32(draw), tuple(names))

        batches = in_batches(images, mesh, lambda left: (batch_size, program), (jax.process_index(), processes))
        for done, (_, _, batch) in enumerate(batches, 1):
            if filling is None:
                dims = {name: batch[name].shape[-1] for name in names}
                filling = Filling(dims, tuple(times), len(images), reading.gib, mesh)
            for part in all_processes(batch):
                filling.add(part)
            distributed.progress()
            if time.perf_counter() - said > SECONDS:
                said = time.perf_counter()
                left = tqdm.format_interval((said - begin) / done * (rounds - done))
                logger.info("features of %d of %d images  ETA %s", done * batch_size * processes, len(images), left)
        return filling.done()

    return extract_all


def all_processes(batch: dict[str, Float[Array, "time batch dim"]]) -> list[dict[str, Float[Array, "time batch dim"]]]:
    """The batches of all processes, in order."""
    if jax.process_count() == 1:
        return [batch]
    rows = {name: distributed.in_turns(x[None]) for name, x in batch.items()}
    return [{name: x[i] for name, x in rows.items()} for i in range(jax.process_count())]


def pooled(network: str, layers: Sequence[Float[Array, "batch token dim"]], shape: tuple[int, ...]) -> Features:
    """The features of a network's layers, of images of this shape."""
    features = {}
    for i, layer in enumerate(layers, 1):
        tokens = layer.astype(jnp.float32)
        features[f"{network}_{i}"] = mean = jnp.mean(tokens, axis=1)
        features[f"{network}_{i}_max"] = jnp.concatenate([mean, jnp.max(tokens, axis=1)], axis=1)
        rows = round(math.sqrt(tokens.shape[1] * shape[1] / shape[2]))
        if rows > 1 and tokens.shape[1] % rows == 0 and tokens.shape[1] > rows:
            grid = tokens.reshape(tokens.shape[0], rows, -1, tokens.shape[2])
            halves = (half for band in jnp.array_split(grid, 2, axis=1) for half in jnp.array_split(band, 2, axis=2))
            quarters = [jnp.mean(quarter, axis=(1, 2)) for quarter in halves]
            features[f"{network}_{i}_2x2"] = jnp.concatenate(quarters, axis=1)
    return features
