import importlib.util

import pytest

from ddm_embed.errors import UserError
from ddm_embed.preflight import sweep


def test_a_slice_has_a_generation_a_shape_and_chips():
    one = sweep.parse("v5p:4x4x8")
    assert one.generation == "v5p" and one.shape == (4, 4, 8) and one.chips == 128 and str(one) == "v5p:4x4x8"


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v5e:16", "v5e:0x4", "v9z:4x4", "16x16", "v5e:2x2x", "v5e=2x2"])
def test_what_is_no_slice_is_refused_with_examples(name):
    with pytest.raises(UserError, match=r"--topology=.*expected here, or .*v5e:16x16, v5p:4x8x8, v6e:16x16"):
        sweep.parse(name)


@pytest.mark.parametrize("name", ["v5e:3x3", "v5e:4x2", "v5p:16x16", "v6e:32x32"])
def test_slices_that_cannot_be_had_are_refused_with_those_that_can(name):
    with pytest.raises(UserError, match=r"no such slice; use v\w+: and one of "):
        sweep.parse(name)


def test_smaller_slices_come_smallest_first():
    assert [one.chips for one in sweep.up_to(sweep.parse("v5e:8x8"))] == [1, 4, 8, 16, 32, 64]


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.* pip install -e '\.\[tpu\]'"):
        sweep.describe(sweep.parse("v5e:2x2"))
