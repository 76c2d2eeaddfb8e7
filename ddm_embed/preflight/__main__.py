"""Compiles a run's training step for chips that need not be there, and says whether it fits and how fast it can be.

    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 [--mesh data=64,fsdp=4] [--config.FIELD=VALUE ...]
    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 --sweep [--chips 64,256]
    python -m ddm_embed.preflight --config FILE --topology v5e:16x16 --scaling FILE.png

The topology is a TPU slice, or `here` for this machine's devices. Slices are compiled for by libtpu, on any machine.
Exit codes: 0 the step fits, 1 it does not, or an error.
"""

import logging
import re
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.errors import UserError
from ddm_embed.parallel import chips
from ddm_embed.preflight import report, slices, sweep
from ddm_embed.preflight.compiled import Estimate, Machine, estimate, here
from ddm_embed.validate import validate

logger = logging.getLogger("ddm_embed")

TOPOLOGY = flags.DEFINE_string("topology", None, "A TPU slice, such as v5e:16x16; or here, this machine's devices.")
MESH = flags.DEFINE_string("mesh", None, "Sizes of the mesh's axes, such as data=64,fsdp=4; the config's by default.")
IMAGE = flags.DEFINE_string(
    "image", None, "HEIGHTxWIDTHxCHANNELS of the images, 1xLENGTHxCHANNELS of sequences; else the dataset's."
)
SWEEP = flags.DEFINE_bool("sweep", False, "Tabulate smaller slices and other meshes too, and name the best.")
CHIPS = flags.DEFINE_list("chips", [], "Sizes of the slices that --sweep tries; by default a quarter of it, and all.")
MEND = flags.DEFINE_bool("mend", False, "Where the step does not fit, compile changes in turn until one does.")
SCALING = flags.DEFINE_string("scaling", None, "Draw operations and traffic of a chip over 1 to all chips; a PNG.")
JSON = flags.DEFINE_string("json", None, "Write the estimates to this file too.")


def main(config: ConfigDict) -> int:
    if not TOPOLOGY.value:
        raise UserError("--topology is missing; give a TPU slice, such as v5e:16x16, or here")
    if sum((SWEEP.value, bool(SCALING.value), MEND.value)) > 1:
        raise UserError("--sweep, --scaling and --mend are three questions; ask one")
    if MESH.value:
        config.update_from_flattened_dict(parse_mesh(MESH.value))
    largest = None if TOPOLOGY.value == slices.HERE else slices.parse(TOPOLOGY.value)
    if largest:
        slices.find_compiler()
        jax.config.update("jax_platforms", "cpu")  # a real TPU stays free for others
        jax.config.update("jax_enable_compilation_cache", False)  # JAX reads no program of chips that are not there
    elif SWEEP.value or SCALING.value:
        raise UserError(f"--topology={slices.HERE} has one size; --sweep and --scaling take a TPU slice")
    validate(config)
    shape = image_shape(config)
    for path in filter(None, (SCALING.value, JSON.value)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be, not after the work

    if SCALING.value:
        rows = scale(config, shape, largest, Path(SCALING.value))
    elif SWEEP.value:
        rows = sweep_slices(config, shape, largest)
    else:
        rows = [one(config, shape, machine_of(largest) if largest else here())]
    if JSON.value:
        Path(JSON.value).write_text(report.to_json(rows))
    return 0 if any(row.fits for row in rows) else 1


def one(config: ConfigDict, shape: tuple[int, int, int], machine: Machine) -> Estimate:
    """Prints a step on one machine, and what to change where it does not fit."""
    row = estimate(config, shape, machine)
    print(report.describe(row))
    if not row.fits:
        print(f"\ndoes not fit: {advice(config, shape, machine, MEND.value)}", flush=True)
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


def sweep_slices(config: ConfigDict, shape: tuple[int, int, int], largest: slices.Slice) -> list[Estimate]:
    """Prints a table of meshes on the slice and on smaller ones, and the best."""
    sizes = [str(largest.chips // 4), str(largest.chips)] if not CHIPS.value else CHIPS.value
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
    from ddm_embed.drawing import save
    from ddm_embed.preflight import plot

    rows = sweep.weak_scaling(config, shape, largest, machine_of)
    print(report.table(rows))
    title = f"{config.model.variant} on {largest.generation}, {rows[-1].batch // rows[-1].chips} images a chip"
    save(plot.scaling(rows, title), path)
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


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(height, width, channel) of the images: as told, as the config resizes them, or as the dataset has them.

    Raises:
      UserError: the flag is not of that form, or there is no such dataset.
    """
    if IMAGE.value:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", IMAGE.value):
            raise UserError(
                f"--image={IMAGE.value}: expected HEIGHTxWIDTHxCHANNELS, such as 256x256x3, or 1xLENGTHxCHANNELS"
            )
        return tuple(map(int, IMAGE.value.split("x")))
    if config.data.image_size:
        return (config.data.image_size, config.data.image_size, 3)
    return open_source(config).image_shape


if __name__ == "__main__":
    cli.launch(main, config_lib.default(), config_required=True)
