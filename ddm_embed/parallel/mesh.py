"""The device mesh and the names of its axes."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    devices, shape = list(jax.devices() if devices is None else devices), (data, fsdp, tensor)
    if devices[0].platform == "tpu":  # neighbours on an axis are neighbours in the torus of chips
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def by_example(mesh: Mesh) -> Callable[[Float[Array, "batch *rest"]], Float[Array, "batch *rest"]]:
    """A function that keeps an array split by examples within a jitted step: left alone, XLA may split activations as
    the parameters are, over fsdp along the width, and add up whole activations in every layer."""
    sharding = NamedSharding(mesh, P(BATCH_AXES))
    return lambda array: jax.lax.with_sharding_constraint(array, sharding)
