"""Eight devices are forced on the CPU in a process of their own: the number is fixed when JAX starts."""

from pathlib import Path

import numpy as np
import pytest
from conftest import on_eight_once

SCRIPT = Path(__file__).with_name("eight_devices.py")

# Axes used alone, each by 8, and together, with parts of a batch and without: every two of these four meet.
TOGETHER = "2x2x2 in 2"
OTHERS = ["8x1x1", "1x8x1", "1x1x8", "2x1x4 in 2", "1x4x2 in 2"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return on_eight_once(tmp_path_factory, SCRIPT, "1x1x1", TOGETHER, "created")


@pytest.fixture(scope="module")
def made_of_it(tmp_path_factory):
    return on_eight_once(tmp_path_factory, SCRIPT, "features", "samples")


@pytest.fixture(scope="module")
def full_report(report, tmp_path_factory):
    return report | on_eight_once(tmp_path_factory, SCRIPT, *OTHERS, "1x1x1 scan", "1x4x2 scan in 2")


def assert_same_curve(report, run, one="1x1x1"):
    expected = np.array(report[one]["losses"])
    assert len(expected) == 20 and expected[-1] < expected[0]
    np.testing.assert_allclose(report[run]["losses"], expected, atol=1e-4)


def names(report, run):
    return {name for name, _ in report[run]["collectives"]}


@pytest.mark.slow
def test_features_and_what_heads_make_of_them_do_not_depend_on_the_number_of_devices(made_of_it):
    difference, eight, one = made_of_it["features"]
    assert difference < 1e-6 and eight == one and len(one) == 8  # two heads on two features at two levels


@pytest.mark.slow
def test_samples_do_not_depend_on_the_number_of_devices(made_of_it):
    assert len(made_of_it["samples"]) == 6 and max(made_of_it["samples"].values()) < 1e-4


def test_no_device_holds_a_whole_matrix_when_the_state_is_created(report):
    assert report["created"] == 1 / 8


def test_a_mesh_of_all_axes_and_parts_give_the_loss_curve_of_one_device(report):
    assert_same_curve(report, TOGETHER)


@pytest.mark.parametrize(("run", "parts"), [("1x1x1", 1), (TOGETHER, 2)])
def test_parameters_ema_and_optimizer_state_are_split_over_fsdp(report, run, parts):
    # The consistency term's predictor, as wide as z and not as the model, stays whole.
    assert 0.6 / parts <= report[run]["held"] < 1 / parts + 0.2


def test_a_step_gathers_parameters_over_fsdp(report):
    assert report["1x1x1"]["collectives"] == [] and "all-gather" in names(report, TOGETHER)


@pytest.mark.slow
@pytest.mark.parametrize("run", OTHERS)
def test_every_kind_of_mesh_and_number_of_parts_gives_the_loss_curve_of_one_device(full_report, run):
    assert_same_curve(full_report, run)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "plain"), [("1x4x2 scan in 2", "1x4x2 in 2")])
def test_blocks_as_a_scan_give_one_loss_curve_on_any_mesh(full_report, run, plain):
    assert_same_curve(full_report, run, one="1x1x1 scan")
    # As much as without the scan, but for vectors, which it stacks into what counts as matrices here.
    assert full_report[run]["held"] == pytest.approx(full_report[plain]["held"], abs=0.02)


@pytest.mark.slow
def test_without_fsdp_no_mesh_gathers_parameters(full_report):
    """Data parallelism adds up gradients; tensor parallelism adds up activations; neither gathers."""
    assert names(full_report, "8x1x1") == names(full_report, "1x1x8") == {"all-reduce"}
    assert names(full_report, "2x1x4 in 2") <= {"all-reduce"}
    assert full_report["8x1x1"]["held"] == pytest.approx(full_report["1x1x1"]["held"])
    # The consistency term's predictor, as wide as z and not as the model, stays whole.
    assert 0.6 / 8 <= full_report["1x8x1"]["held"] < 1 / 8 + 0.2 and "all-gather" in names(full_report, "1x8x1")
