import pytest

from ddm_embed.parallel import chips
from ddm_embed.parallel.chips import CHIPS, Chip
from ddm_embed.preflight.cost import Collective, rate, roofline

CHIP = Chip(flops=100.0, memory=1.0, bandwidth=10.0, links=8.0, grid=2, ring=4)
GRID = [(x, y, 0) for y in range(4) for x in range(4)]


def test_a_step_takes_as_long_as_the_slowest_or_as_all_together():
    gather = Collective("all-gather", 32.0, tuple(range(16)), 2, "")  # sends 15/16 of 64 bytes at 8 a second
    times = roofline(CHIP, 300.0, 50.0, [gather], GRID)
    assert (times.compute, times.memory, times.links) == (3.0, 5.0, 7.5)
    assert (times.at_least, times.at_most, times.bound) == (7.5, 15.5, "links")
    assert roofline(CHIP, 900.0, 50.0, [gather], GRID).bound == "compute"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (range(16), 8.0),  # both dimensions, both rings
        (range(4), 4.0),  # a row: its own links
        ((0, 4, 8, 12), 4.0),  # a column
        ((0, 1), 2.0),  # part of a row is a line
        (range(8), 4.0 + 2.0),  # rows whole, columns by halves
    ],
)
def test_a_group_has_the_links_of_the_dimensions_that_it_lies_along(members, expected):
    assert rate(CHIP, tuple(members), GRID) == expected


def test_links_that_make_no_torus_serve_any_group_and_a_chip_without_links_waits_for_none():
    assert rate(CHIPS["NVIDIA H100"], (0, 1), ()) == 450e9
    assert rate(CHIPS["NVIDIA L4"], (0, 1), ()) == float("inf")


def test_chips_are_found_by_the_kind_of_their_device():
    assert chips.find("TPU v5 lite")[1].flops == 197e12 and chips.find("TPU v5")[0] == "TPU v5"
    assert chips.find("TPU v6 lite")[1].memory == 31.25 * 2**30
    assert chips.find("NVIDIA A100-SXM4-80GB")[0] == "NVIDIA A100" and chips.find("cpu") is None
