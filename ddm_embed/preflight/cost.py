"""A parsed program -> operations of its matrix products, bytes to and from main memory, and its collectives; a chip.

And how long a step takes at the least: the slowest of arithmetic, memory and links, each at its data sheet's rate
(Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785).
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ddm_embed.parallel.chips import Chip
from ddm_embed.preflight.hlo import Instruction, Program, Shape

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
ALIASES = ("bitcast", "reshape", "copy", "convert")  # what stands between a parameter and the slice of it that is read
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "async-start", "async-update", "opt-barrier", "domain",
}  # fmt: skip
MARKS = ("AllocateBuffer", "AsyncCollectiveStart", "AsyncCollectiveDone", "AssumeGatherIndices", "ConcatBitcast")
Places = Sequence[tuple[int, ...]]


class Collective(NamedTuple):
    """kind: of `COLLECTIVES`. bytes: of the whole array that it makes or adds up, each time. members: chips that take
    part, one group of them as places in the mesh. times: a step. name: the operation that it is from."""

    kind: str
    bytes: float
    members: tuple[int, ...]
    times: int
    name: str

    @property
    def sent(self) -> float:
        """Bytes that each chip sends in a step, by a ring (Thakur, Rabenseifner & Gropp 2005,
        doi:10.1177/1094342005051521): an all-gather passes on all but its own share, an all-reduce does so twice."""
        count = len(self.members)
        share = {"all-reduce": 2 * (count - 1) / count, "collective-permute": 1.0}.get(self.kind, (count - 1) / count)
        return self.bytes * share * self.times


class Cost(NamedTuple):
    """Of one step, on one chip. flops: of matrix products. bytes: to and from main memory. collectives: each one."""

    flops: float
    bytes: float
    collectives: list[Collective]

    @property
    def sent(self) -> float:
        return sum(one.sent for one in self.collectives)


def cost(program: Program, chips: int) -> Cost:
    """Adds up what every instruction takes, as often as it runs.

    Args:
      program: of one chip.
      chips: how many run it; the members of a collective that names no groups.
    """
    flops = traffic = 0.0
    collectives: dict[tuple, Collective] = {}
    for computation, step, times in program.steps():
        within = program.computations[computation]
        flops += times * _flops(program, step, within)
        traffic += times * _bytes(program, step, within)
        for fused, found, kind in _collectives(program, step):
            # A TPU spreads one collective over several fusions, some of them in loops that it goes on beside; what
            # stands by itself is one each.
            key = (found.attribute("channel_id"), _plain(found)) if fused else (computation, step.name)
            often = min(times, collectives[key].times) if key in collectives else times
            collectives[key] = _collective(found, kind, often, chips)
    found = [one for one in collectives.values() if len(one.members) > 1 and one.bytes]
    return Cost(flops, traffic, sorted(found, key=lambda one: -one.sent))


def _flops(program: Program, step: Instruction, within: dict[str, Instruction]) -> float:
    if step.opcode == "dot":
        left = within[step.operands[0]].shapes[0].sizes
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", step.rest)
        size = math.prod(left[int(axis)] for axis in summed.group(1).split(",") if axis) if summed else 1
        return 2.0 * size * math.prod(step.shapes[0].sizes)
    if step.opcode == "convolution":
        return _convolution(step, *(within[name].shapes[0].sizes for name in step.operands[:2]))
    if step.opcode == "fusion" and (inner := program.computations.get(step.called("calls") or "")):
        return sum(_flops(program, part, inner) for part in inner.values())
    if step.opcode == "custom-call":
        return _library_product(step, within)
    return 0.0


def _convolution(step: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Multiply-adds at places that are not padding, two operations each; a TPU's matrix products are convolutions."""
    labels, _, out_labels = step.attribute("dim_labels").partition("->")
    left_labels, _, right_labels = labels.partition("_")
    window = dict(part.split("=") for part in (_window(step.rest) or "").split())
    count = sum(label.isdigit() for label in left_labels)

    def numbers(key: str, default: int) -> list[int]:
        return [int(n) for n in window[key].split("x")] if key in window else [default] * count

    sizes, stride = numbers("size", 1), numbers("stride", 1)
    left_spread, right_spread = numbers("lhs_dilate", 1), numbers("rhs_dilate", 1)
    low = [int(n.split("_")[0]) for n in window["pad"].split("x")] if "pad" in window else [0] * count
    places = 1
    for axis in range(count):
        length = left[left_labels.index(str(axis))]
        outputs = np.arange(step.shapes[0].sizes[out_labels.index(str(axis))])
        taps = np.arange(sizes[axis])
        place = outputs[:, None] * stride[axis] + taps * right_spread[axis] - low[axis]
        inside = (place >= 0) & (place % left_spread[axis] == 0) & (place // left_spread[axis] < length)
        places *= int(inside.sum())
    groups = int(step.attribute("batch_group_count") or 1)
    batch = left[left_labels.index("b")] // groups
    return 2.0 * places * batch * right[right_labels.index("i")] * right[right_labels.index("o")]


def _window(text: str) -> str | None:
    match = re.search(r"window=\{([^}]*)\}", text)
    return match and match.group(1)


def _library_product(step: Instruction, within: dict[str, Instruction]) -> float:
    """A GPU's matrix products and fused attention are calls to a library."""
    target = step.attribute("custom_call_target") or ""
    shapes = [within[name].shapes[0].sizes for name in step.operands if name in within and within[name].shapes]
    if ("cublas" in target and "matmul" in target) or "gemm" in target:
        summed = re.search(r'"lhs_contracting_dimensions":\["?([\d",]*)"?\]', step.rest)
        axes = [int(n) for n in re.findall(r"\d+", summed.group(1))] if summed else [len(shapes[0]) - 1]
        return 2.0 * math.prod(shapes[0][axis] for axis in axes) * math.prod(step.shapes[0].sizes)
    if "fmha" in target:  # q, k and v are [batch, token, head, dim]; backward, five products in place of two
        batch, queries, heads, dim = shapes[0]
        products = 5 if "Backward" in target else 2
        return 2.0 * products * batch * heads * queries * shapes[1][1] * dim
    return 0.0


def _bytes(program: Program, step: Instruction, within: dict[str, Instruction]) -> float:
    """Bytes that an instruction reads from main memory and writes to it: of a slice of an array, the slice."""
    if step.opcode in FREE or step.opcode.endswith("-done") or any(name in step.rest for name in MARKS):
        return 0.0
    if step.opcode == "copy-start":
        return sum(_main(shape) for shape in step.shapes[:2])
    operands = [within[name].shapes for name in step.operands if name in within]
    if step.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _main(step.shapes[0])
    if step.opcode == "dynamic-update-slice":
        return 2 * _main(operands[1][0])
    if step.opcode != "fusion":
        return sum(_main(shape) for shapes in operands for shape in shapes) + sum(map(_main, step.shapes))
    inner = program.computations[step.called("calls")]
    reads = sum(
        min(_main(shapes[0]), _read(program, inner, _parameter(inner, number)))
        for number, shapes in enumerate(operands)
        if shapes
    )
    writes = (_written(program, inner, place, shape) for place, shape in enumerate(step.shapes))
    return reads + sum(writes)


def _main(shape: Shape) -> float:
    return shape.bytes if shape.main else 0.0


def _parameter(inner: dict[str, Instruction], number: int) -> str:
    """The name of a fusion's parameter."""
    return next(part.name for part in inner.values() if part.opcode == "parameter" and part.operands == (str(number),))


def _read(program: Program, inner: dict[str, Instruction], name: str) -> float:
    """Bytes that a fusion reads of one of its values: infinite if some of it reads the whole."""
    total = 0.0
    for user in inner.values():
        if name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += user.shapes[0].bytes
        elif user.opcode == "fusion":
            within = program.computations[user.called("calls")]
            places = (place for place, operand in enumerate(user.operands) if operand == name)
            total += sum(_read(program, within, _parameter(within, place)) for place in places)
        elif user.opcode in ALIASES and not user.root:
            total += _read(program, inner, user.name)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue  # written in place
        elif user.opcode in COLLECTIVES or (user.opcode == "tuple" and user.root):
            continue  # sent, or handed through
        else:
            return math.inf
    return total


def _written(program: Program, inner: dict[str, Instruction], place: int, shape: Shape) -> float:
    """Bytes that a fusion writes of its output of this place."""
    part = next((part for part in inner.values() if part.root), None)
    while part is not None and shape.main:
        if part.opcode == "tuple":
            part, place = inner.get(part.operands[place]), 0
        elif part.opcode == "get-tuple-element":
            place = int(part.attribute("index"))
            part = inner.get(part.operands[0])
        elif part.opcode in ("bitcast", "reshape"):
            part = inner.get(part.operands[0])
        elif part.opcode == "fusion":
            inner = program.computations[part.called("calls")]
            part = next((one for one in inner.values() if one.root), None)
        elif part.opcode == "dynamic-update-slice" and part.operands[1] in inner:
            return inner[part.operands[1]].shapes[0].bytes
        else:
            return 0.0 if part.opcode in ("parameter", *COLLECTIVES) else shape.bytes
    return _main(shape)


def _collectives(program: Program, step: Instruction, fused: bool = False) -> Iterator[tuple[bool, Instruction, str]]:
    """(whether it is in a fusion, instruction, its kind) of each collective in an instruction."""
    opcode = step.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        yield fused, step, opcode
    if step.opcode == "fusion" and (name := step.called("calls")) in program.computations:
        for part in program.computations[name].values():
            for _, found, kind in _collectives(program, part, fused=True):
                # So a TPU writes a reduce-scatter: an all-reduce of which each chip keeps a slice.
                yield True, found, "reduce-scatter" if name.startswith("all-reduce-scatter") else kind


def _plain(step: Instruction) -> tuple:
    return tuple((shape.kind, shape.sizes) for shape in step.shapes)


def _collective(step: Instruction, kind: str, times: int, chips: int) -> Collective:
    members = group(step.rest, chips)
    shapes = step.shapes
    if step.opcode in ("all-gather-start", "collective-permute-start"):  # (what goes in, what comes out, ...)
        shapes = shapes[1:2] if len(shapes) < 4 or "permute" in kind else shapes[len(shapes) // 2 :]
    size = sum(shape.bytes for shape in shapes)
    if kind == "reduce-scatter" and step.opcode.startswith("reduce-scatter"):
        size *= len(members)  # what comes out is a share
    name = re.search(r'op_name="([^"]*)"', step.rest)
    return Collective(kind, size, members, times, name.group(1) if name else "")


def group(text: str, chips: int) -> tuple[int, ...]:
    """The first of an instruction's replica groups, in any of XLA's three ways to write them."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", text)
    if listed:
        return tuple(int(n) for n in listed.group(1).split(","))
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", text
    )
    if mesh:
        return _of_mesh(*mesh.groups())
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        count, size = int(iota.group(1)), int(iota.group(2))
        return tuple(_iota(iota.group(3), iota.group(4)).reshape(count, size)[0].tolist())
    return tuple(range(chips))


def _iota(sizes: str, order: str | None) -> np.ndarray:
    shape = [int(n) for n in sizes.split(",")]
    places = np.arange(math.prod(shape)).reshape(shape)
    return (places.transpose([int(n) for n in order.split(",")]) if order else places).reshape(-1)


def _of_mesh(axes: str, sizes: str | None, order: str | None, chosen: str) -> tuple[int, ...]:
    """mesh['a'=2,'b'=4] {'b'}: the devices that differ in b alone; 'b':(2)2 is a part of an axis, after 2 others."""
    lengths = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    total = math.prod(lengths.values())
    places = _iota(sizes, order) if sizes else np.arange(total)
    places = places.reshape([*lengths.values()])
    index: list = [[0]] * len(lengths)
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        axis = [*lengths].index(name)
        length, step = lengths[name], 1
        if size:
            step = length // (int(before) * int(size))
            length = step * int(size)
        index[axis] = list(range(0, length, step))
    return tuple(places[np.ix_(*index)].reshape(-1).tolist())


class Roofline(NamedTuple):
    """Seconds of one step: compute, memory and links. at_least: if they overlap wholly. at_most: if not at all, though
    each still runs at the full rate."""

    compute: float
    memory: float
    links: float

    @property
    def at_least(self) -> float:
        return max(self)

    @property
    def at_most(self) -> float:
        return sum(self)

    @property
    def bound(self) -> str:
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: float, traffic: float, collectives: Sequence[Collective], places: Places) -> Roofline:
    """The times of a step on one chip.

    Args:
      flops, traffic, collectives: from `cost.cost`.
      places: coordinates of each chip of the mesh, in its order; () where the links make no torus.
    """
    links = sum(one.sent / rate(chip, one.members, places) for one in collectives)
    return Roofline(flops / chip.flops, traffic / chip.bandwidth, links)


def rate(chip: Chip, members: Sequence[int], places: Places) -> float:
    """Bytes a second that a chip can send in a collective of these members: a group that lies along some of the torus's
    dimensions has the links of those, half where they are no ring."""
    if chip.links is None:
        return float("inf")
    if not chip.grid or not places:
        return chip.links
    spans = [{places[member][axis] for member in members} for axis in range(chip.grid)]
    whole = [{place[axis] for place in places} for axis in range(chip.grid)]
    share = 0.0
    for span, all_of_it in zip(spans, whole, strict=True):
        if len(span) > 1:
            closed = len(span) == len(all_of_it) and len(span) % chip.ring == 0
            share += 1.0 if closed else 0.5
    return chip.links * max(share, 0.5) / chip.grid
