"""The watchdog and the start, in processes of their own: both end or bind the one they are in."""

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from conftest import ROOT, flags_of, refused, run_program, tiny_config

from ddm_embed.parallel import distributed

HANGS = """
import threading, time
from ddm_embed.parallel import distributed
distributed.watch({seconds}, 75)
{before}
def stuck_here():
    threading.Event().wait()
stuck_here()
"""


def run_python(code, timeout=60):
    """(exit code, stderr, seconds of the last part) of a program that prints when that begins."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def test_a_process_that_hangs_tells_where_and_ends_within_the_bound():
    process = run_python(HANGS.format(seconds=1, before="print(time.time(), flush=True)"))
    assert process.returncode == 75 and time.time() - float(process.stdout) < 8
    assert "no progress for" in process.stderr and "raise --watchdog_seconds" in process.stderr
    assert re.search(r'File ".*threading.py", line \d+ in wait\n.* in stuck_here', process.stderr)


@pytest.mark.slow
def test_beats_and_an_allowance_keep_a_process_alive():
    beats = "for _ in range(8): time.sleep(0.25); distributed.progress()\n"
    slow = "distributed.progress(allow=60); time.sleep(2); distributed.progress()\n"
    process = run_python(HANGS.format(seconds=1, before=f"{beats}{slow}print('alive', flush=True)"))
    assert process.stdout == "alive\n" and process.returncode == 75


def test_a_closed_watchdog_lets_the_process_be():
    ended = []
    watchdog = distributed.Watchdog(0.2, end=lambda: ended.append(True))
    watchdog.close()
    time.sleep(0.6)
    assert not ended


def join(*flags):
    """A run that is to start as one of several processes: (exit code, last line of stderr, seconds it took)."""
    begin = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "ddm_embed.main", *flags_of(tiny_config()), *map(str, flags)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr, process.returncode
    return process, time.monotonic() - begin


@pytest.mark.slow
def test_others_that_do_not_come_are_an_error_within_connect_seconds(tmp_path):
    def join_alone(process_id):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        place = ["--coordinator_address", address, "--num_processes", 2, "--process_id", process_id]
        return join(*place, "--connect_seconds", 3, "--workdir", tmp_path / str(process_id))

    with ThreadPoolExecutor(2) as pool:  # at once, of two clusters: each waits most of the time
        ends = list(pool.map(join_alone, (0, 1)))
    for process, seconds in ends:
        assert process.returncode == 1 and seconds < 45, process.stderr
        errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "could not join the other processes (flags: " in errors[0], process.stderr


def test_another_number_of_processes_than_expected_is_an_error(tmp_path):
    line = refused(run_program("ddm_embed.main", *flags_of(tiny_config()), "--num_processes", 2, "--workdir", tmp_path))
    assert "--num_processes 2 were expected and 1 came" in line


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: a kernel is at fault"), False),
        (OSError("Connection reset by peer"), False),
        (ValueError("UNKNOWN: Gloo AllGather failed"), True),
        (ValueError("UNAVAILABLE: the store does not answer"), False),
    ],
)
def test_which_errors_tell_of_a_lost_process(error, lost, monkeypatch):
    assert not distributed.lost_another(error)  # a process alone loses no other
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert distributed.lost_another(error) == lost
    barrier = TimeoutError("Timed out while waiting for async_write_complete barrier.")
    barrier.__cause__ = error
    assert distributed.lost_another(barrier) == lost
