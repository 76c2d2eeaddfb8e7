"""step -> batch: which images a step sees, and how they reach the devices.

The position in the data is a function of the step alone, so a resumed run, another number of devices and another way of
reading see the same batches in the same order.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from ddm_embed.data.types import Images, read_all
from ddm_embed.parallel.mesh import BATCH_AXES

# image: uint8 [batch, height, width, channel], or float32 of sequences; where they are asked for, label: int32 [batch]
Batch = dict[str, Array]

AHEAD = 3  # batches that a streamed run reads before they are asked for


class Order:
    """The images of each step: seeded shuffles of the whole set, one after another, cut into batches.

    A batch may straddle two shuffles, so each image is seen exactly once an epoch whatever the batch size.
    """

    def __init__(self, number: int, batch_size: int, seed: int):
        self.number, self.batch_size, self.seed = number, batch_size, seed
        self._shuffles: dict[int, np.ndarray] = {}

    def positions(self, step: int) -> Int[np.ndarray, " batch"]:
        """Positions in the training set of the images of this step, int32 [batch]."""
        place = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        epochs = place // self.number
        shuffles = {int(epoch): self._shuffle(int(epoch)) for epoch in np.unique(epochs)}
        self._shuffles = shuffles
        return np.concatenate([shuffles[e][place[epochs == e] % self.number] for e in shuffles])

    def _shuffle(self, epoch: int) -> Int[np.ndarray, " number"]:
        if epoch in self._shuffles:
            return self._shuffles[epoch]
        return np.random.default_rng((self.seed, epoch)).permutation(self.number).astype(np.int32)


def fits(images: Images, gib: float, mesh: Mesh) -> bool:
    """Whether the images may be kept on every device: within `gib` GiB, and a quarter of the device's memory."""
    size = int(np.prod(images.shape, dtype=np.int64)) * np.dtype(images.dtype).itemsize
    memory = (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit")
    return size <= min(gib * 2**30, memory / 4 if memory else np.inf)


def batches(
    images: Images,
    order: Order,
    mesh: Mesh,
    start: int,
    resident: bool,
    threads: int,
    labels: Int[np.ndarray, " number"] | None = None,
) -> Iterator[Batch]:
    """Batches from step `start` on, without end; as the source stores them, split over the mesh's batch axes.

    Args:
      images: the training images.
      order: which images each step takes.
      mesh: the device mesh.
      start: first step.
      resident: keep the images on the devices and gather there, instead of reading ahead from the source.
      threads: to read with.
      labels: the training images' classes, for the one method that is told them; nothing here can see them otherwise.
    """
    return (_resident if resident else _streamed)(images, order, mesh, start, threads, labels)


def _resident(
    images: Images, order: Order, mesh: Mesh, start: int, threads: int, labels: np.ndarray | None
) -> Iterator[Batch]:
    """The whole set on every device; positions are sent some steps at a time, so that a step moves nothing."""
    stored = {"image": read_all(images, threads)} | ({} if labels is None else {"label": labels})
    stored = jax.device_put(stored, NamedSharding(mesh, P()))
    split = NamedSharding(mesh, P(BATCH_AXES))
    block_size = max(1, min(1024, order.number // order.batch_size))

    whole = NamedSharding(mesh, P())

    @jax.jit(out_shardings=(split, whole))
    def gather(stored, block, row):
        return {name: jnp.take(all_, block[row], axis=0) for name, all_ in stored.items()}, (row + 1) % block_size

    row = jax.device_put(np.int32(0), whole)
    for first in itertools.count(start, block_size):
        block = np.stack([order.positions(step) for step in range(first, first + block_size)])
        block = jax.device_put(block, NamedSharding(mesh, P(None, BATCH_AXES)))
        for _ in range(block_size):
            batch, row = gather(stored, block, row)
            yield batch


def _streamed(
    images: Images, order: Order, mesh: Mesh, start: int, threads: int, labels: np.ndarray | None
) -> Iterator[Batch]:
    """Reads and sends `AHEAD` batches while the devices work; each process reads its own share."""
    split = NamedSharding(mesh, P(BATCH_AXES))
    shape = (order.batch_size, *images.shape[1:])

    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as sender:

        def read(positions: np.ndarray) -> np.ndarray:
            parts = np.array_split(positions, min(threads, len(positions)))
            return np.concatenate(list(readers.map(images.__getitem__, parts)))

        def send(step: int) -> Batch:
            positions = order.positions(step)
            kept = {}  # devices that differ in the tensor axis alone hold the same rows

            def share(index: tuple[slice, ...]) -> np.ndarray:
                rows = index[0].indices(len(positions))
                if rows not in kept:
                    kept[rows] = read(positions[slice(*rows)])
                return kept[rows]

            batch = {"image": jax.make_array_from_callback(shape, split, share)}
            if labels is not None:
                told = labels[positions]
                batch["label"] = jax.make_array_from_callback(told.shape, split, lambda index: told[index])
            return batch

        waiting = deque(sender.submit(send, step) for step in range(start, start + AHEAD))
        try:
            for step in itertools.count(start + AHEAD):
                batch = waiting.popleft().result()
                waiting.append(sender.submit(send, step))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
