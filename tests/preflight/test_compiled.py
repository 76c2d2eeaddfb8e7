"""What is read off compiled steps, against what must be so; eight devices need a process of their own."""

from pathlib import Path

import pytest
from conftest import on_eight_once, run_on_eight

SCRIPT = Path(__file__).with_name("compile_on_eight.py")


pytestmark = pytest.mark.slow  # eight devices' programs are compiled


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return on_eight_once(tmp_path_factory, SCRIPT, "data", "fsdp")


def summed(row, kind):
    return sum(one["bytes"] * one["times"] for one in row["collectives"] if one["kind"] == kind)


def test_data_parallelism_adds_up_the_gradient_once(rows):
    row = rows["data"]
    assert {one["kind"] for one in row["collectives"]} == {"all-reduce"}
    assert summed(row, "all-reduce") == pytest.approx(4 * row["state"]["count"], rel=0.01)
    assert row["cost"]["sent"] == pytest.approx(4 * row["state"]["count"] * 2 * 7 / 8, rel=0.01)


def test_fsdp_gathers_each_matrix_at_least_forward_and_holds_an_eighth(rows):
    row = rows["fsdp"]
    assert summed(row, "all-gather") > 0.8 * 4 * row["state"]["count"]
    assert row["state"]["parameters"] < 1.2 * rows["data"]["state"]["parameters"] / 8


def test_activations_stay_split_by_examples_whatever_the_parameters_lie_along(rows):
    """No collective is of more than the largest matrix, as it would be if whole activations were added up."""
    largest = 4 * 64 * 6 * 64
    assert max(one["bytes"] for one in rows["fsdp"]["collectives"]) < 2 * largest + 4 * 64 * 64


def test_operations_are_the_models_own_on_any_mesh(rows):
    for row in rows.values():
        assert row["cost"]["flops"] == pytest.approx(row["model_flops"], rel=0.03)


def test_operations_are_the_models_own_also_in_loops_within_loops():
    row = run_on_eight(SCRIPT, "loops")["loops"]
    assert row["cost"]["flops"] == pytest.approx(row["model_flops"], rel=0.03)


def test_the_state_is_counted_once_although_a_step_takes_and_gives_it(rows):
    for row in rows.values():
        held = sum(row["state"][part] for part in ("parameters", "average", "optimizer"))
        assert 0 <= row["padding"] < 0.01 * held + 1024
        assert row["needed"] == pytest.approx(
            held + row["batch_bytes"] + row["padding"] + row["temporaries"] + row["program"]
        )
