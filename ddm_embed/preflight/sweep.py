"""Many estimates: chips by mesh shapes, weak scaling, and what to change where a step does not fit; and names of TPU
slices, such as v5e:16x16, -> their chips, described by libtpu on a machine that has none."""

import importlib.util
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed.errors import UserError
from ddm_embed.parallel.chips import GIB
from ddm_embed.preflight.compiled import Estimate, Machine, estimate
from ddm_embed.validate import mesh_shape, validate_against

logger = logging.getLogger("ddm_embed")

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


Shape = tuple[int, int, int]
Describe = Callable[[Slice], Machine]


def changed(config: ConfigDict, **fields: object) -> ConfigDict:
    """A copy of the config with other values: `changed(config, **{"mesh.fsdp": 4})`."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(fields)
    return copy


def meshes(config: ConfigDict, image_shape: Shape, chips: int, platform: str) -> list[Shape]:
    """The (data, fsdp, 1) that this many chips can make and the config allows, fsdp a power of 4 or all of them; and
    the config's own."""
    sizes = {4**k for k in range(10) if 4**k <= chips} | {chips}
    tried = [(chips // fsdp, fsdp, 1) for fsdp in sorted(sizes) if chips % fsdp == 0]
    try:
        own = mesh_shape(config, chips)
        tried += [own] if own not in tried else []
    except UserError:
        pass  # the config's mesh is of another number of chips

    def allowed(shape: Shape) -> bool:
        try:
            validate_against(on(config, shape), image_shape, chips, platform)
        except UserError:
            return False
        return True

    return [shape for shape in tried if allowed(shape)]


def on(config: ConfigDict, shape: Shape) -> ConfigDict:
    return changed(config, **dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), shape, strict=True)))


def sweep(config: ConfigDict, image_shape: Shape, machines: list[Machine]) -> Iterator[Estimate]:
    """An estimate of each mesh on each machine; those whose state alone does not fit are not compiled."""
    todo = [
        (machine, shape)
        for machine in machines
        for shape in meshes(config, image_shape, len(machine.devices), machine.platform)
    ]
    known = [estimate(on(config, shape), image_shape, machine, compile=False) for machine, shape in todo]
    left, begin, done = sum(one.fits for one in known), time.perf_counter(), 0
    logger.info("%d combinations, %d to compile: the state of the others does not fit", len(todo), left)
    for (machine, shape), one in zip(todo, known, strict=True):
        if one.fits:
            one, done = estimate(on(config, shape), image_shape, machine), done + 1
            rest = (time.perf_counter() - begin) / done * (left - done)
            logger.info("%s: %d of %d, ETA %s", summary(one), done, left, tqdm.format_interval(rest))
        yield one


def summary(one: Estimate) -> str:
    """A line for the log."""
    fits = "fits" if one.fits else "does not fit"
    rate = f", {one.images_per_second[0]:,.0f} images/s or more" if one.roofline else ""
    return f"{one.machine} {'x'.join(map(str, one.mesh))}: {one.needed / GIB:.2f} GiB a chip, {fits}{rate}"


def best(rows: list[Estimate]) -> tuple[Estimate, Estimate] | None:
    """(the fastest, the one of most images/s a chip) of those that fit, by the time in which nothing overlaps."""
    good = [one for one in rows if one.fits and one.roofline is not None]
    if not good:
        return None
    fastest = max(good, key=lambda one: one.images_per_second[0])
    thrifty = max(good, key=lambda one: one.images_per_second[0] / one.chips)
    return fastest, thrifty


def weak_scaling(config: ConfigDict, image_shape: Shape, largest: Slice, describe: Describe) -> list[Estimate]:
    """The same work a chip on 1, 4, 16, ... chips up to the largest slice: the batch grows with the chips, and fsdp is
    the config's as far as there are chips."""
    each = config.train.batch_size // largest.chips
    if each < 1:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is less than an image for each of {largest.chips} "
            "chips; make it larger, or --topology smaller"
        )
    rows = []
    for one in up_to(largest):
        if one.chips not in (4**k for k in range(10)) and one != largest:
            continue
        size = each * one.chips
        mine = changed(config, **{"train.batch_size": size})
        fsdp = min(config.mesh.fsdp, one.chips)
        row = estimate(on(mine, (one.chips // fsdp, fsdp, 1)), image_shape, describe(one))
        logger.info("%s", summary(row))
        rows.append(row)
    return rows


def mends(config: ConfigDict, image_shape: Shape, machine: Machine) -> Iterator[tuple[str, ConfigDict]]:
    """What may make a step fit, (flags, config), the cheapest in time first."""
    chips = len(machine.devices)
    data, fsdp, _ = mesh_shape(config, chips)
    wider = [{"mesh.data": data // more, "mesh.fsdp": fsdp * more} for more in (4, 16, 64) if data % more == 0]
    full = {"model.remat": "full"} if config.model.remat != "full" else {}
    each = config.train.batch_size // (data * fsdp * config.train.accumulate)
    parts = [{"train.accumulate": config.train.accumulate * k} for k in (2, 4, 8, 16, 32, 64) if each % k == 0]
    changes = [{"model.remat": "dots"}] if config.model.remat == "none" else []
    changes += wider + ([full, *(full | change for change in wider)] if full else [])
    changes += [full | change for change in parts]
    for change in changes:
        mended = changed(config, **change)
        try:
            validate_against(mended, image_shape, chips, machine.platform)
        except UserError:
            continue
        yield " ".join(f"--config.{name}={value}" for name, value in change.items()), mended
