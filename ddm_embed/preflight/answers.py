"""What the program prints and returns for each of its questions: whether a step fits, the best mesh, how it scales."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddm_embed.data.sources import open_source
from ddm_embed.drawing import save
from ddm_embed.errors import UserError
from ddm_embed.parallel import chips
from ddm_embed.preflight import report, slices, sweep
from ddm_embed.preflight.compiled import Estimate, Machine, estimate

logger = logging.getLogger("ddm_embed")


@contextlib.contextmanager
def for_absent_chips() -> Iterator[None]:
    """JAX's settings to compile for chips that are not there; put back at the end."""
    changes = {
        "jax_platforms": "cpu",  # a real TPU stays free for others
        "jax_enable_compilation_cache": False,  # JAX reads no program of chips that are not there
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def one(config: ConfigDict, shape: tuple[int, int, int], machine: Machine, mend: bool) -> Estimate:
    """Prints a step on one machine, and what to change where it does not fit."""
    row = estimate(config, shape, machine)
    print(report.describe(row))
    if not row.fits:
        print(f"\ndoes not fit: {advice(config, shape, machine, mend)}", flush=True)
    return row


def advice(config: ConfigDict, shape: tuple[int, int, int], machine: Machine, mend: bool) -> str:
    """What to change; compiled one by one if `mend`, else those whose state alone would fit."""
    mends = []
    for change, mended in sweep.mends(config, shape, machine):
        if estimate(mended, shape, machine, compile=False).fits:  # by its state alone
            mends.append((change, mended))
    larger = "more chips, or a smaller config.model.variant"
    if not mends:
        return f"use {larger}"
    if not mend:
        listed = "; ".join(change for change, _ in mends)
        return (
            f"try, cheapest first: {listed}; or {larger}. --mend compiles these in turn and names the first that fits"
        )
    for change, mended in mends:
        logger.info("trying %s", change)
        tried = estimate(mended, shape, machine)
        if tried.fits:
            return f"use {change}, compiled: {report.size(tried.needed)} of {report.size(tried.memory)}"
    return f"none of {', '.join(change for change, _ in mends)} is enough; use {larger}"


def sweep_slices(
    config: ConfigDict, shape: tuple[int, int, int], largest: slices.Slice, sizes: list[str]
) -> list[Estimate]:
    """Prints a table of meshes on the slice and on smaller ones, and the best."""
    sizes = sizes or [str(largest.chips // 4), str(largest.chips)]
    known = {str(one.chips): one for one in slices.up_to(largest)}
    for size in sizes:
        if size not in known:
            raise UserError(f"--chips={size}: no such {largest.generation} slice; use {', '.join(known)}")
    machines = [machine_of(known[size]) for size in sizes]
    rows = list(sweep.sweep(config, shape, machines))
    print(report.table(rows))
    found = sweep.best(rows)
    if found is None:
        print("\nnothing fits; use more chips, config.model.remat=full or config.train.accumulate")
        return rows
    for name, row in zip(("fastest", "most images/s a chip"), found, strict=True):
        data, fsdp, tensor = row.mesh
        print(f"\n{name}: --topology {row.machine} --mesh data={data},fsdp={fsdp},tensor={tensor}", flush=True)
    return rows


def scale(config: ConfigDict, shape: tuple[int, int, int], largest: slices.Slice, path: Path) -> list[Estimate]:
    """Draws and prints weak scaling up to the slice."""
    rows = sweep.weak_scaling(config, shape, largest, machine_of)
    print(report.table(rows))
    title = f"{config.model.variant} on {largest.generation}, {rows[-1].batch // rows[-1].chips} images a chip"
    save(report.scaling(rows, title), path)
    print(path, flush=True)
    return rows


def machine_of(slice_: slices.Slice) -> Machine:
    devices = slices.describe(slice_)
    return Machine(str(slice_), devices, chips.find(devices[0].device_kind)[1])


def parse_mesh(text: str) -> dict[str, int]:
    """ "data=64,fsdp=4" -> config fields; data is what the others leave, and they are 1, unless given.

    Raises:
      UserError: an axis or a size is none.
    """
    sizes = {"data": -1, "fsdp": 1, "tensor": 1}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sizes or not re.fullmatch(r"[1-9]\d*", size):
            raise UserError(f"--mesh={text}: expected sizes of {', '.join(sizes)}, such as data=64,fsdp=4")
        sizes[axis] = int(size)
    return {f"mesh.{axis}": size for axis, size in sizes.items()}


def image_shape(config: ConfigDict, image: str | None) -> tuple[int, int, int]:
    """(height, width, channel) of the images: as told, as the config resizes them, or as the dataset has them.

    Raises:
      UserError: the flag is not of that form, or there is no such dataset.
    """
    if image:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", image):
            raise UserError(f"--image={image}: expected HEIGHTxWIDTHxCHANNELS, such as 256x256x3, or 1xLENGTHxCHANNELS")
        return tuple(map(int, image.split("x")))
    if config.data.image_size:
        return (config.data.image_size, config.data.image_size, 3)
    return open_source(config).image_shape
