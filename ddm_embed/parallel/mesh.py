"""The device mesh and the names of its axes."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

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
