"""The device mesh, the names of its axes, and how parameters lie on it: parameter path -> PartitionSpec.

fsdp splits every matrix along one axis that holds the model's width. tensor splits a block's heads and hidden units, in
the manner of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053, sec. 3): the first matrix of attention and of the MLP
by columns, the second by rows, so that a block adds up twice and gathers nothing. Vectors as wide as the model are
small and lie whole on every device.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ddm_embed.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
# First match wins; a path is "encoder/block_0/attention/qkv/kernel".
RULES = (
    (r"qkv/kernel$", P("fsdp", None, "tensor")),  # [width, 3, width of all heads]
    (r"qkv/bias$", P(None, "tensor")),
    (r"mlp_in/kernel$", P("fsdp", "tensor")),  # [width, hidden]
    (r"mlp_in/bias$", P("tensor")),
    (r"(attention/out|mlp_out)/kernel$", P("tensor", "fsdp")),  # [width of all heads or hidden, width]
    (r"(bias|scale|logits|mask)$", P()),
    (r"^(?!(encoder|denoiser|decoder)/)", P()),  # heads of methods: as wide as z, not as the model
    (r"(first|conv_in|conv_out|shortcut)/kernel$", P(None, None, None, "fsdp")),  # [height, width, in, out]
    (r"(patches|time/in|code_in)/kernel$", P(None, "fsdp")),  # [pixels, frequencies or z; width]
    (r"kernel$", P("fsdp", None)),  # [width, any]
)
STACKED = "/blocks/"  # blocks that are one scan: their parameters have the layer as their first axis


def device_memory(device: jax.Device) -> float:
    """Bytes of a device; CPU devices share the machine's."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(jax.local_devices())


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


def partition(params: Any, mesh: Mapping[str, int]) -> Any:
    """A tree of PartitionSpec like `params`, whose leaves may be arrays or shapes.

    Args:
      params: a tree of dicts.
      mesh: the size of each of the mesh's axes.

    Raises:
      ValueError: no rule matches a parameter; names it.
      UserError: a parameter does not divide by the mesh; names it.
    """

    def rule(path: tuple, leaf: Any) -> P:
        name = "/".join(str(part.key) for part in path)
        for pattern, spec in RULES:
            if re.search(pattern, name):
                spec = P(None, *spec) if STACKED in name else spec
                check_divides(name, leaf.shape, spec, mesh)
                return spec
        raise ValueError(f"no partition rule matches the parameter {name} {leaf.shape}")

    return jax.tree_util.tree_map_with_path(rule, params)


def check_divides(name: str, shape: tuple[int, ...], spec: P, mesh: Mapping[str, int]) -> None:
    """Raises UserError if an axis of the parameter does not divide by the mesh's axis that splits it."""
    for size, axis in zip(shape, spec, strict=False):
        if axis is not None and size % mesh[axis]:
            raise UserError(
                f"config.mesh.{axis}={mesh[axis]} does not divide {size}, an axis of the parameter {name} {shape}"
            )
