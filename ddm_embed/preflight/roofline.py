"""How long a step takes at the least: the slowest of arithmetic, memory and links, each at its data sheet's rate
(Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785)."""

from collections.abc import Sequence
from typing import NamedTuple

from ddm_embed.parallel.chips import Chip
from ddm_embed.preflight.cost import Collective

Places = Sequence[tuple[int, ...]]


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
