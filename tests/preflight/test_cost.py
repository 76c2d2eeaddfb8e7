"""Small programs in XLA's notation, whose operations and bytes are counted by hand."""

import numpy as np
import pytest

from ddm_embed.preflight import hlo
from ddm_embed.preflight.cost import Collective, cost, group

LOOP = """
HloModule step, num_partitions=4

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %w = f32[4,16]{1,0} constant({...})
  %whole = f32[16,16]{1,0} all-gather(%w), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %y = f32[8,16]{1,0} dot(%x, %whole), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%next, %y)
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %many = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %many), direction=LT
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,16]{1,0}) tuple(%zero, %x)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %y = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""

# A batched product, [3, 5, 7] by [3, 7, 2], as a TPU writes it: the batch is a dimension of the window.
WINDOW = """
ENTRY %main (x: bf16[3,5,7], w: bf16[3,7,2]) -> bf16[3,5,2] {
  %x = bf16[3,5,7]{2,1,0} parameter(0)
  %w = bf16[3,7,2]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %y = bf16[3,5,2]{2,1,0} convolution(%x, %w), window={size=3 stride=2 lhs_dilate=3}, dim_labels=0bf_0io->0bf
}
"""

# One all-gather over three fusions of which only the first two hold the same collective, and a reduce-scatter.
FUSED = """
%start (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

%finish (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[16,8]{1,0:S(1)} all-gather(%a), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

%all-reduce-scatter.1 (a: f32[16,8]) -> f32[4,8] {
  %a = f32[16,8]{1,0} parameter(0)
  %r = f32[16,8]{1,0} all-reduce(%a), channel_id=8, replica_groups={{0,1,2,3}}, to_apply=%add
  %z = s32[] constant(0)
  ROOT %s = f32[4,8]{1,0} dynamic-slice(%r, %z, %z), dynamic_slice_sizes={4,8}
}

ENTRY %main (a: bf16[4,8], b: f32[16,8]) -> f32[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[16,8]{1,0} parameter(1)
  %one = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%start
  %two = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%finish
  ROOT %c = f32[4,8]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
}
"""

SLICES = """
%take (a: f32[100,8], i: s32[]) -> f32[1,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %s = f32[1,8]{1,0} dynamic-slice(%a, %i, %z), dynamic_slice_sizes={1,8}
}

%put (a: f32[100,8], b: f32[1,8], i: s32[]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %b = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %s = f32[100,8]{1,0} dynamic-update-slice(%a, %b, %i, %z)
}

ENTRY %main (a: f32[100,8], i: s32[]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,8]{1,0} fusion(%a, %i), kind=kLoop, calls=%take
  ROOT %b = f32[100,8]{1,0} fusion(%a, %row, %i), kind=kLoop, calls=%put
}
"""


def test_what_a_loop_holds_counts_as_often_as_it_runs():
    found = cost(hlo.parse(LOOP), 4)
    assert found.flops == 5 * 2 * 8 * 16 * 16
    assert [(one.kind, one.bytes, one.members, one.times) for one in found.collectives] == [
        ("all-gather", 16 * 16 * 4, (0, 1, 2, 3), 5)
    ]
    assert found.sent == 5 * 16 * 16 * 4 * 3 / 4
    gather, product = 4 * 16 + 16 * 16, 8 * 16 + 16 * 16 + 8 * 16
    assert found.bytes == 5 * (4 * (gather + product) + 3 * 4)  # and the counter: two read, one written


def test_a_trip_count_that_xla_names_is_believed():
    named = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"9"}}')
    assert cost(hlo.parse(named), 4).flops == 9 * 2 * 8 * 16 * 16


def test_a_counter_may_begin_later_and_go_in_strides():
    """XLA turns a product whose operand must be gathered into a loop over shares, two at a time."""
    strides = LOOP.replace("%one = s32[] constant(1)", "%one = s32[] constant(2)")
    assert cost(hlo.parse(strides), 4).flops == 3 * 2 * 8 * 16 * 16  # 0, 2, 4
    later = LOOP.replace("%zero = s32[] constant(0)", "%zero = s32[] constant(2)")
    assert cost(hlo.parse(later), 4).flops == 3 * 2 * 8 * 16 * 16  # 2, 3, 4


def test_padding_of_a_product_written_as_a_window_is_not_counted():
    found = cost(hlo.parse(WINDOW), 1)
    assert found.flops == 2 * 3 * 5 * 7 * 2
    assert found.bytes == 2 * (3 * 5 * 7 + 3 * 5 * 2)  # the second operand lies on the chip


def test_a_collective_spread_over_fusions_is_one_and_a_scattered_sum_sends_half():
    found = cost(hlo.parse(FUSED), 4)
    assert {(one.kind, one.bytes, one.times) for one in found.collectives} == {
        ("all-gather", 16 * 8 * 2, 1),
        ("reduce-scatter", 16 * 8 * 4, 1),
    }
    assert found.sent == (16 * 8 * 2 + 16 * 8 * 4) * 3 / 4


def test_of_a_slice_that_is_taken_or_put_the_slice_alone_is_moved():
    row, index = 8 * 4, 4
    assert cost(hlo.parse(SLICES), 1).bytes == (row + index + row) + (row + index + row)


def test_a_ring_sends_twice_as_much_to_add_up_as_to_gather():
    sent = {kind: Collective(kind, 80.0, (0, 1, 2, 3), 3, "").sent for kind in ("all-gather", "all-reduce")}
    assert sent == {"all-gather": 3 * 60.0, "all-reduce": 3 * 120.0}
    assert Collective("collective-permute", 80.0, (0, 1), 1, "").sent == 80.0


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
        ("replica_groups=[2,4]<=[8], dimensions={0}", (0, 1, 2, 3)),
        ("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, use_global_device_ids=true", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, use_global_device_ids=true", (0, 4)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}, x=1", (0, 1)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, x=1", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x=1", tuple(range(8))),
        ("replica_groups={}, to_apply=%add", tuple(range(8))),
        ("channel_id=1, source_target_pairs={{3,1},{1,3}}", (3, 1)),
    ],
)
def test_groups_are_read_in_every_notation(text, members):
    assert group(text, 8) == members


def test_sizes_of_types():
    shapes = hlo.shapes_of("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, f32[], s4[8], pred[5], f8e4m3fn[4], u32[2]{0:S(2)})")
    assert [shape.bytes for shape in shapes] == [12, 4, 4, 5, 4, 8]
    assert [shape.main for shape in shapes] == [False, True, True, True, True, True]
    assert np.prod(shapes[0].sizes) == 6
