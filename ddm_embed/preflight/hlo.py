"""An optimised XLA program, as `compiled.as_text()` prints it -> computations of instructions, each with how often it
runs. XLA's own cost analysis counts the body of a loop once; here a loop counts as often as its condition says."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"%?([\w.\-]+)$")


class Shape(NamedTuple):
    """An array: its type, its sizes, and whether it lies in the main memory (a TPU's S(1) is on the chip's own)."""

    kind: str
    sizes: tuple[int, ...]
    main: bool = True

    @property
    def bytes(self) -> float:
        return math.prod(self.sizes) * bits(self.kind) / 8


class Instruction(NamedTuple):
    """One line: `%name = shapes opcode(operands), rest`; a tuple has several shapes."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, key: str) -> str | None:
        """The text of `key=...` up to the next comma."""
        match = re.search(rf"(?:^|[ ,]){key}=([^,\s]+)", self.rest)
        return match and match.group(1)

    def called(self, key: str) -> str | None:
        """The name of the computation that `key=%name` calls."""
        value = self.attribute(key)
        return value and value.lstrip("%")


class Program(NamedTuple):
    """computations: name -> instruction name -> instruction. entry: the name of the first one."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def steps(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, times that it runs) of all that is not within a fusion."""
        yield from self._steps(self.entry, 1)

    def _steps(self, computation: str, times: int) -> Iterator[tuple[str, Instruction, int]]:
        for step in self.computations[computation].values():
            yield computation, step, times
            if step.opcode == "while":
                yield from self._steps(step.called("body"), times * self.trips(computation, step))
            elif step.opcode in ("call", "async-start") and (name := step.called("to_apply") or step.called("calls")):
                yield from self._steps(name, times)
            elif step.opcode == "conditional":
                for name in re.findall(r"%([\w.\-]+)", _braces(step.rest, "branch_computations") or ""):
                    yield from self._steps(name, times)

    def trips(self, computation: str, loop: Instruction) -> int:
        """How often a loop in a computation runs: as XLA says, or by its counter; 1 where neither is known."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        condition, body = (self.computations[loop.called(key)] for key in ("condition", "body"))
        bounds = [value for step in condition.values() if (value := _constant(step)) is not None]
        if not bounds:  # the comparison is within a fusion
            return max((self._bound(step) for step in condition.values()), default=1)
        places = [int(step.attribute("index")) for step in condition.values() if step.opcode == "get-tuple-element"]
        if len(places) != 1:
            return max(bounds)
        first = self._element(self.computations[computation], loop.operands[0], places[0])
        begin = (first and _constant(first)) or 0
        return -(-(max(bounds) - begin) // self._stride(body, places[0]))

    def _bound(self, step: Instruction) -> int:
        inner = self.computations.get(step.called("calls") or "", {})
        return max((value for part in inner.values() if (value := _constant(part)) is not None), default=1)

    def _stride(self, body: dict[str, Instruction], place: int) -> int:
        """What a loop's body adds to its counter; loops that XLA makes of products count by 2."""
        root = next(step for step in body.values() if step.root)
        after = self._element(body, root.name, place)
        if after is None or after.opcode != "add":
            return 1
        return max((_constant(body[name]) or 1 for name in after.operands if name in body), default=1)

    def _element(self, within: dict[str, Instruction], name: str, place: int) -> Instruction | None:
        """What a tuple has at a place, where that can be seen."""
        made = within.get(name)
        if made is None or made.opcode != "tuple" or place >= len(made.operands):
            return None
        found = within.get(made.operands[place])
        while found is not None and found.opcode == "copy":
            found = within.get(found.operands[0])
        return found


def _constant(step: Instruction) -> int | None:
    """The value of a whole number."""
    if step.opcode == "constant" and step.operands and re.fullmatch(r"-?\d+", step.operands[0]):
        return int(step.operands[0])
    return None


def bits(kind: str) -> int:
    if kind in BITS:
        return BITS[kind]
    match = re.match(r"[a-z]+(\d+)", kind)
    return int(match.group(1)) if match else 0


def parse(text: str) -> Program:
    """Reads a printed module."""
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header.group(2), {})
            entry = header.group(2) if header.group(1) else entry
        elif current is not None and " = " in line:
            step = _instruction(line)
            current[step.name] = step
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().partition(" = ")
    root, name = name.startswith("ROOT "), name.removeprefix("ROOT ").lstrip("%")
    shapes, rest = _shape_text(rest)
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    operands = tuple(_operand(part) for part in _split(rest[:end]))
    return Instruction(name, shapes_of(shapes), opcode.strip(), operands, rest[end + 1 :], root)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays in the text of a shape, those of a tuple in order."""
    return tuple(
        Shape(kind, tuple(int(n.strip("<=")) for n in sizes.split(",") if n), "S(1)" not in (layout or ""))
        for kind, sizes, layout in _ARRAY.findall(text)
    )


def _shape_text(text: str) -> tuple[str, str]:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


def _split(text: str) -> list[str]:
    """Operands apart, without the commas inside layouts and shapes."""
    text = re.sub(r"/\*.*?\*/", "", text)
    return [part for part in re.split(r",(?![^\[{(]*[\]})])", text) if part.strip()]


def _operand(text: str) -> str:
    text = text.strip()
    match = _NAME.search(text)
    return match.group(1) if match else text


def _braces(text: str, key: str) -> str | None:
    match = re.search(rf"{key}=\{{([^}}]*)\}}", text)
    return match and match.group(1)
