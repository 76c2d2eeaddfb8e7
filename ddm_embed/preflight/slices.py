"""Names of TPU slices, such as v5e:16x16, -> their chips, described by libtpu on a machine that has none."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax

from ddm_embed.errors import UserError

HERE = "here"

# The slices that can be had, from cloud.google.com/tpu/docs/{v5e,v5p,v6e}, up to 256 chips; one chip of a v5p
# is none of them, and stands here for scale.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SLICES = {
    "v5e": FLAT,
    "v5p": ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v6e": FLAT,
}
HOST = (2, 2, 1)  # chips of one host, along each dimension


class Slice(NamedTuple):
    """generation: a key of `SLICES`. shape: chips along each dimension."""

    generation: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"


def parse(name: str) -> Slice:
    """ "v5e:16x16" -> its generation and shape.

    Raises:
      UserError: it is no slice's name.
    """
    generation, _, shape = name.partition(":")
    if generation not in SLICES or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape):
        known = ", ".join(f"{key}:{shapes[-1]}" for key, shapes in SLICES.items())
        raise UserError(f"--topology={name}: expected {HERE}, or a generation and its shape, such as {known}")
    if shape not in SLICES[generation]:
        raise UserError(
            f"--topology={name}: no such slice; use {generation}: and one of {', '.join(SLICES[generation])}"
        )
    return Slice(generation, tuple(map(int, shape.split("x"))))


def up_to(largest: Slice) -> list[Slice]:
    """The slices of its generation with no more chips, smallest first."""
    named = (parse(f"{largest.generation}:{shape}") for shape in SLICES[largest.generation])
    return [one for one in named if one.chips <= largest.chips]


def describe(one: Slice) -> list[jax.Device]:
    """The slice's chips, as devices to compile for.

    Raises:
      UserError: libtpu is not installed.
    """
    find_compiler()
    _describe_no_machine()
    from jax.experimental import topologies

    host = tuple(min(a, b) for a, b in zip((*one.shape, 1)[:3], HOST, strict=True))
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=str(one),
        **({} if host == HOST else {"chips_per_host_bounds": host}),
    )
    return list(found.devices)


def find_compiler() -> None:
    """Raises UserError unless libtpu is installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the TPU's compiler, is not installed; it needs no TPU: pip install -e '.[tpu]'")


def _describe_no_machine() -> None:
    """Keeps libtpu from asking a cloud's server which TPU this machine is part of, and from taking the lock of the one
    process that has the TPU: what only compiles opens none."""
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
