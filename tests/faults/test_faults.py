"""The campaign in short: real faults to real runs, each of which must come to what an undisturbed one does."""

import signal
import subprocess
import sys

import corruption
import kills
import processes
import pytest
import runs
import storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return runs.make_reference(tmp_path_factory.mktemp("faults") / "reference", steps=60)


def assert_kept(trials, most):
    """All faults were done, or the run ended before, and none broke a promise."""
    assert 1 <= len(trials) <= most and not [trial for trial in trials if trial.problem]


def test_killed_or_terminated_at_any_moment_a_run_ends_bit_identical(reference, tmp_path):
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
    assert_kept(kills.run_with(numbers, tmp_path, reference, seed=0), len(numbers))


def test_a_damaged_checkpoint_costs_one_interval(reference, tmp_path):
    assert_kept(corruption.run_with([None] * 4, tmp_path, reference, seed=0), 4)


def test_when_one_of_two_processes_is_lost_the_other_ends_in_time_and_says_where_it_was(reference, tmp_path):
    numbers = [signal.SIGKILL, signal.SIGSTOP]
    assert_kept(processes.run_with(numbers, tmp_path, reference, seed=0, processes=2), len(numbers))


def test_on_a_full_disk_a_run_says_so_keeps_what_it_has_and_goes_on_when_there_is_room(reference, tmp_path):
    assert_kept([with_a_disk_of_its_own(storage.full, tmp_path / "full", 200_000, reference)], 1)


def test_on_a_read_only_disk_a_run_says_so_and_goes_on_when_it_may(reference, tmp_path):
    assert_kept([with_a_disk_of_its_own(storage.read_only, tmp_path / "read_only", reference)], 1)


def test_on_slow_storage_training_goes_on_and_sigterm_waits_for_the_save(reference, tmp_path):
    assert_kept([storage.slow(tmp_path / "slow", reference)], 1)


def test_a_disk_that_answers_nothing_for_a_while_loses_nothing(reference, tmp_path):
    assert_kept([with_a_disk_of_its_own(storage.stalled, tmp_path / "stalled", reference)], 1)


def test_an_error_in_one_of_two_processes_ends_both_at_once_with_its_code(reference, tmp_path):
    """JAX at its exit waits for the others, and these for the next step."""
    fails_in_one = """
import jax, runpy
from ddm_embed.train import loop
compile_step = loop.compile_step
def fail_in_one(*arguments):
    if jax.process_index() == 1:
        raise RuntimeError("a fault of the program")
    return compile_step(*arguments)
loop.compile_step = fail_in_one
runpy.run_module("ddm_embed.main", run_name="__main__", alter_sys=True)
"""
    launcher = [sys.executable, runs.ROOT / "launch" / "local", "--processes", 2, "--devices-per-process", 1, "--"]
    program = [sys.executable, "-c", fails_in_one, *runs.command(tmp_path / "run", reference.steps)[3:]]
    command = [str(part) for part in [*launcher, *program]]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=runs.ROOT)
    assert process.returncode == 1, process.stderr
    assert "[1] RuntimeError: a fault of the program" in process.stderr and "no progress" not in process.stderr


def with_a_disk_of_its_own(do, *arguments):
    try:
        return do(*arguments)
    except storage.Refused as error:
        pytest.skip(f"this user may make no file systems here ({error})")
