"""The device mesh and the names of its axes."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int, fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh [data, fsdp, 1] with axes `AXES`: batches split over data and fsdp, parameters over fsdp.

    Args:
      data: size of the data axis.
      fsdp: size of the fsdp axis.
      devices: data * fsdp of them; all that there are by default.
    """
    grid = np.asarray(jax.devices() if devices is None else devices).reshape(data, fsdp, 1)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
