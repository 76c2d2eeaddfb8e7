"""The device mesh and the names of its axes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int, fsdp: int, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh [data, fsdp, tensor] with axes `AXES`: batches split over data and fsdp, parameters over fsdp and tensor.

    Args:
      data, fsdp, tensor: sizes of the axes.
      devices: data * fsdp * tensor of them; all that there are by default.
    """
    grid = np.asarray(jax.devices() if devices is None else devices).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def by_example(mesh: Mesh) -> Callable[[Float[Array, "batch *rest"]], Float[Array, "batch *rest"]]:
    """A function that keeps an array split by examples within a jitted step: left alone, XLA may split activations as
    the parameters are, over fsdp along the width, and add up whole activations in every layer."""
    sharding = NamedSharding(mesh, P(BATCH_AXES))
    return lambda array: jax.lax.with_sharding_constraint(array, sharding)
