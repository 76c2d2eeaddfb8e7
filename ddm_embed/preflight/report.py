"""The answers of the program: whether a step fits, which mesh is best, how it scales; as text, JSON and a figure."""

import contextlib
import dataclasses
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from ml_collections import ConfigDict

from ddm_embed.data.sources import open_source
from ddm_embed.drawing import save
from ddm_embed.errors import UserError
from ddm_embed.parallel import chips
from ddm_embed.parallel.chips import GIB
from ddm_embed.preflight import sweep
from ddm_embed.preflight.compiled import Estimate, Machine, estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # collectives; the rest are added up in one line
logger = logging.getLogger("ddm_embed")


def describe(one: Estimate) -> str:
    """All that is known of one step, for one chip, in lines."""
    data, fsdp, tensor = one.mesh
    lines = [
        f"{one.machine}: {one.chips} chips, mesh data={data} fsdp={fsdp} tensor={tensor}, batch {one.batch} "
        f"({one.batch / one.chips:g} a chip), remat={one.remat}, accumulate={one.accumulate}"
    ]
    if one.compile_seconds:
        lines[0] += f"; compiled in {one.compile_seconds:.0f} s"
    lines += ["", *_memory(one)]
    lines += [
        "",
        "operations of a chip and step, in matrix products",
        _row("the model's own", operations(one.model_flops)),
    ]
    if one.cost is None:
        return "\n".join(lines)
    again = one.cost.flops / one.model_flops
    lines.append(_row("as compiled", f"{operations(one.cost.flops)}, {again:.2f} times the model's own"))
    lines += ["", "bytes of a chip and step", _row("to and from memory", size(one.cost.bytes))]
    lines.append(_row("sent to other chips", size(one.cost.sent)))
    lines += collectives(one)
    return "\n".join([*lines, "", *_times(one)])


def _memory(one: Estimate) -> list[str]:
    state = one.state
    lines = [
        f"memory of a chip ({state.count:,} parameters in all)",
        _row("parameters", size(state.parameters)),
        _row("their average", size(state.average)),
        _row("optimizer", size(state.optimizer)),
    ]
    if one.cost is not None:
        lines += [
            _row("images", size(one.batch_bytes)),
            _row("padding of these", size(one.padding)),
            _row("activations, temporaries", size(one.temporaries)),
            _row("program", size(one.program)),
        ]
    room = f" of {size(one.memory)}" if one.memory else ""
    least = "at least " if one.cost is None else ""
    return [*lines, _row("total", f"{least}{size(one.needed)}{room}: {'fits' if one.fits else 'does not fit'}")]


def _times(one: Estimate) -> list[str]:
    if one.roofline is None:
        return ["no data sheet of this chip: no time is predicted"]
    times, (low, high), (poor, good) = one.roofline, one.images_per_second, one.mfu
    each = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in times._asdict().items())
    return [
        f"roofline of a step: {each}; bound by {times.bound}",
        _row("if all three overlap", f"{1000 * times.at_least:.1f} ms, {high:,.0f} images/s, MFU {100 * good:.0f} %"),
        _row("if nothing overlaps", f"{1000 * times.at_most:.1f} ms, {low:,.0f} images/s, MFU {100 * poor:.0f} %"),
    ]


def collectives(one: Estimate) -> list[str]:
    """A line for each kind, size and number of members: how many a step, the bytes of each, the bytes that are sent."""
    groups = defaultdict(lambda: [0, 0.0])
    for item in one.cost.collectives:
        entry = groups[item.kind, len(item.members), item.bytes]
        entry[0] += item.times
        entry[1] += item.sent
    ordered = sorted(groups.items(), key=lambda pair: -pair[1][1])
    lines = [
        _row(kind, f"{times:5} a step over {members:3} chips, {size(each):>9} each, {size(sent):>10} sent", indent=4)
        for (kind, members, each), (times, sent) in ordered[:SHOWN]
    ]
    if rest := ordered[SHOWN:]:
        times, sent = (sum(entry[place] for _, entry in rest) for place in (0, 1))
        lines.append(_row("smaller ones", f"{times:5} a step {'':>29} {size(sent):>10} sent", indent=4))
    return lines


def table(rows: list[Estimate]) -> str:
    """Estimates side by side, as Markdown."""
    head = (
        "chips",
        "mesh (data, fsdp, tensor)",
        "memory a chip",
        "TFLOP a chip",
        "sent a chip",
        "step",
        "bound by",
        "images/s",
        "MFU",
        "compiled in",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for one in rows:
        mesh = " x ".join(map(str, one.mesh))
        used = size(one.needed) + (f" of {size(one.memory)}" if one.memory else "")
        if one.cost is None or one.roofline is None:
            more = "more than " if not one.fits and one.needed == one.state.total else ""
            cells = [more + used + ("" if one.fits else ", does not fit"), *[""] * 7]
        else:
            (low, high), (poor, good) = one.images_per_second, one.mfu
            cells = [
                used + ("" if one.fits else ", does not fit"),
                f"{one.cost.flops / 1e12:.3g}",
                size(one.cost.sent),
                f"{1000 * one.roofline.at_least:.0f} to {1000 * one.roofline.at_most:.0f} ms",
                one.roofline.bound,
                f"{low:,.0f} to {high:,.0f}",
                f"{100 * poor:.0f} to {100 * good:.0f} %",
                f"{one.compile_seconds:.0f} s",
            ]
        lines.append(f"| {one.machine} | {mesh} | {' | '.join(cells)} |")
    return "\n".join(lines)


def to_json(rows: list[Estimate]) -> str:
    """A list of objects, one an estimate, with every collective; bytes, seconds and operations are of one chip."""

    def plain(one: Estimate) -> dict:
        values = dataclasses.asdict(one) | {"cost": None, "roofline": None}
        if one.cost is not None:
            values["cost"] = {"flops": one.cost.flops, "bytes": one.cost.bytes, "sent": one.cost.sent}
            values["collectives"] = [
                {
                    "kind": c.kind,
                    "bytes": c.bytes,
                    "chips": len(c.members),
                    "times": c.times,
                    "sent": c.sent,
                    "of": c.name,
                }
                for c in one.cost.collectives
            ]
        if one.roofline is not None:
            values["roofline"] = one.roofline._asdict() | {"bound": one.roofline.bound}
            values |= {"images_per_second": one.images_per_second, "mfu": one.mfu}
        return values

    return json.dumps([plain(one) for one in rows], indent=2) + "\n"


def _row(name: str, value: str, indent: int = 2) -> str:
    return f"{'':{indent}}{name:<{28 - indent}}{value}"


def size(count: float) -> str:
    """Bytes, in the unit that suits them."""
    return f"{count / GIB:.2f} GiB" if abs(count) >= GIB / 10 else f"{count / 2**20:.2f} MiB"


def operations(count: float) -> str:
    return f"{count / 1e12:.4g} TFLOP" if count >= 1e11 else f"{count / 1e9:.4g} GFLOP"


def scaling(rows: list[Estimate], title: str) -> "Figure":
    """Operations, and bytes sent, of one chip and step over the number of chips; rows that do not fit are left out."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.cost is not None]
    chips = [row.chips for row in rows]
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(chips, [row.cost.flops / 1e12 for row in rows], "o-", color="C0", label="as compiled")
    left.plot(chips, [row.model_flops / 1e12 for row in rows], "s--", color="C1", label="the model's own")
    left.set_ylabel("TFLOP a chip and step")
    left.legend(loc="lower right", fontsize=9)
    right.plot(chips, [row.cost.sent / 1e9 for row in rows], "o-", color="C0")
    right.set_ylabel("GB sent by a chip in a step")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chips, [str(count) for count in chips])
        axes.minorticks_off()
        axes.set_xlabel("chips")
        axes.set_ylim(0, 1.2 * max(axes.get_ylim()[1], 1e-9))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


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
    print(describe(row))
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
            return f"use {change}, compiled: {size(tried.needed)} of {size(tried.memory)}"
    return f"none of {', '.join(change for change, _ in mends)} is enough; use {larger}"


def sweep_slices(
    config: ConfigDict, shape: tuple[int, int, int], largest: sweep.Slice, sizes: list[str]
) -> list[Estimate]:
    """Prints a table of meshes on the slice and on smaller ones, and the best."""
    sizes = sizes or [str(largest.chips // 4), str(largest.chips)]
    known = {str(one.chips): one for one in sweep.up_to(largest)}
    for size in sizes:
        if size not in known:
            raise UserError(f"--chips={size}: no such {largest.generation} slice; use {', '.join(known)}")
    machines = [machine_of(known[size]) for size in sizes]
    rows = list(sweep.sweep(config, shape, machines))
    print(table(rows))
    found = sweep.best(rows)
    if found is None:
        print("\nnothing fits; use more chips, config.model.remat=full or config.train.accumulate")
        return rows
    for name, row in zip(("fastest", "most images/s a chip"), found, strict=True):
        data, fsdp, tensor = row.mesh
        print(f"\n{name}: --topology {row.machine} --mesh data={data},fsdp={fsdp},tensor={tensor}", flush=True)
    return rows


def scale(config: ConfigDict, shape: tuple[int, int, int], largest: sweep.Slice, path: Path) -> list[Estimate]:
    """Draws and prints weak scaling up to the slice."""
    rows = sweep.weak_scaling(config, shape, largest, machine_of)
    print(table(rows))
    title = f"{config.model.variant} on {largest.generation}, {rows[-1].batch // rows[-1].chips} images a chip"
    save(scaling(rows, title), path)
    print(path, flush=True)
    return rows


def machine_of(slice_: sweep.Slice) -> Machine:
    devices = sweep.describe(slice_)
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
