"""Run features of a set of images at every (name, t), kept on the devices where they fit and on disk where not."""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ddm_embed.errors import UserError
from ddm_embed.parallel.mesh import BATCH_AXES, device_memory

GIB = 2**30
SHARE = 4  # of a device's memory, or of a CPU's, the most that features may take


class Key(NamedTuple):
    """A feature's name and its noise level; None of features that know no noise, such as pixels; several levels of
    one that is read at all of them, side by side."""

    name: str
    t: float | tuple[float, ...] | None


Column = Float[Array, "time number dim"] | Float[np.ndarray, "time number dim"]


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Features by name, [time, number or more, dim]; what is behind `number` is padding.

    Arrays of JAX lie on the devices, memory maps in a temporary folder that goes with the bank.
    """

    columns: Mapping[str, Column]
    times: tuple[float | None, ...]
    number: int
    folder: tempfile.TemporaryDirectory | None = None

    def only(self, names: list[str]) -> "Bank":
        """The features of these names."""
        return dataclasses.replace(self, columns={name: self.columns[name] for name in names})

    @property
    def keys(self) -> list[Key]:
        """In the order of the noise levels."""
        return [Key(name, t) for t in self.times for name in self.columns]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    def one(self, key: Key) -> Float[Array, "number dim"]:
        """One feature of all images."""
        if isinstance(key.t, tuple):
            return jnp.concatenate([self.one(Key(key.name, t)) for t in key.t], axis=1)
        return jnp.asarray(self.columns[key.name][self.times.index(key.t)][: self.number])

    def dim(self, key: Key) -> int:
        return self.columns[key.name].shape[-1] * (len(key.t) if isinstance(key.t, tuple) else 1)

    def stacks(
        self, keys: list[Key], mesh: Mesh, most_bytes: float
    ) -> Iterator[tuple[list[Key], Float[Array, "key number dim"]]]:
        """The features of the keys in stacks of one width, each key on one device of the mesh.

        All stacks of one width have one shape, up to about `most_bytes`: where keys run out, the last one fills up.
        """
        dims = dict.fromkeys(self.dim(key) for key in keys)
        place = NamedSharding(mesh, P(BATCH_AXES))
        for dim in dims:
            alike = [key for key in keys if self.dim(key) == dim]
            size = int(min(len(alike), max(1, most_bytes // (self.number * dim * 4))))
            size = -(-size // mesh.size) * mesh.size
            for start in range(0, len(alike), size):
                group = alike[start : start + size]
                full = group + group[-1:] * (size - len(group))
                yield group, jax.device_put(jnp.stack([self.one(key) for key in full]), place)


def bank_of(features: Mapping[str, Float[Array, "number dim"]]) -> Bank:
    """A bank of features that know no noise."""
    columns = {name: x[None] for name, x in features.items()}
    return Bank(columns, (None,), len(next(iter(features.values()))))


class Filling:
    """A bank that batches are added to, in order; `done` gives it.

    Args:
      dims: the width of each feature. times: noise levels. number: of images. gib: the most to keep on the devices; a
      quarter of their memory, together, if None.

    Raises:
      UserError: the features fit neither on the devices nor on the disk of the temporary files.
    """

    def __init__(self, dims: Mapping[str, int], times: tuple[float, ...], number: int, gib: float | None, mesh: Mesh):
        self.times, self.number, self.filled = times, number, 0
        self.folder = None
        size = 4 * number * len(times) * sum(dims.values())
        if size <= (device_memory(mesh.devices.flat[0]) * mesh.size / SHARE if gib is None else gib * GIB):
            self.parts = {name: [] for name in dims}
            return
        self.folder = tempfile.TemporaryDirectory(prefix="ddm_embed_features_")
        free = shutil.disk_usage(self.folder.name).free
        if size > free:
            raise UserError(
                f"the features take {size / GIB:.1f} GiB, which is more than config.features_gib allows in memory and "
                f"than the {free / GIB:.1f} GiB free in {Path(self.folder.name).parent}; set TMPDIR to a larger disk, "
                "or choose fewer config.times or config.selection_images"
            )
        self.columns = {
            name: np.lib.format.open_memmap(
                Path(self.folder.name) / f"{name}.npy", mode="w+", dtype=np.float32, shape=(len(times), number, dim)
            )
            for name, dim in dims.items()
        }

    def add(self, batch: Mapping[str, Float[Array, "time batch dim"]]) -> None:
        """The next images' features; those beyond `number` are padding."""
        if self.folder is None:
            for name, x in batch.items():
                self.parts[name].append(x)
            return
        count = min(next(iter(batch.values())).shape[1], self.number - self.filled)
        for name, x in batch.items():
            self.columns[name][:, self.filled : self.filled + count] = np.asarray(x)[:, :count]
        self.filled += count

    def done(self) -> Bank:
        if self.folder is not None:
            return Bank(self.columns, self.times, self.number, self.folder)
        columns = {}
        for name in list(self.parts):  # one after the other: the parts of one go before the next is put together
            columns[name] = jnp.concatenate(self.parts.pop(name), axis=1)
        jax.block_until_ready(columns)  # so that what is timed next is not this
        return Bank(columns, self.times, self.number)
