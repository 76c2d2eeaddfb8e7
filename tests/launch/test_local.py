"""launch/local with small shell programs in the place of the trainer."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ROOT

LOCAL = [sys.executable, str(ROOT / "launch" / "local")]
INDEX = "$5"  # in `sh -c`: $0 to $5 are the flags that the launcher adds


def local(script, *options, processes=2, **environment):
    """launch/local, run to its end with `sh -c script` as its command."""
    command = [*LOCAL, "--processes", str(processes), *map(str, options), "--", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | environment)


@contextmanager
def started(script, *options, processes=2, waiting_for=""):
    """launch/local in the background, once it has printed `waiting_for`, a line a process; and the processes' pids."""
    command = [*LOCAL, "--processes", str(processes), *map(str, options), "--", "sh", "-c", script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as launcher:
        try:
            pids = [int(launcher.stderr.readline().rpartition(" ")[2]) for _ in range(processes)]
            for _ in range(processes):
                assert waiting_for in launcher.stdout.readline()
            yield launcher, pids
        finally:
            launcher.kill()


def gone(pid, within=5.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":  # nobody in this container may be there to reap it
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_each_process_is_told_coordinator_number_and_index():
    out = local('echo "$0 $@"', "--port", 1234, processes=3).stdout
    told = "--coordinator_address 127.0.0.1:1234 --num_processes 3 --process_id"
    assert sorted(out.splitlines()) == sorted([f"{told} 0", f"[1] {told} 1", f"[2] {told} 2"])


def test_a_dry_run_prints_commands_a_shell_can_read_back_and_starts_nothing(tmp_path):
    script = f'touch \'{tmp_path}/a "b\'; echo "$0 $@"'
    dry = local(script, "--dry-run", "--devices-per-process", 2, "--port", 7, XLA_FLAGS="--xla_a=1 --xla_b=2")
    assert dry.returncode == 0 and not list(tmp_path.iterdir())
    lines = dry.stdout.splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        words = shlex.split(line)
        assert words[0] == "JAX_PLATFORMS=cpu"
        assert words[1] == "XLA_FLAGS=--xla_a=1 --xla_b=2 --xla_force_host_platform_device_count=2"
        assert words[2:5] == ["sh", "-c", script]
        assert words[-2:] == ["--process_id", str(index)]


def test_devices_per_process_replaces_an_earlier_number_of_devices():
    before = "--xla_force_host_platform_device_count=8 --xla_b=2"
    out = local('echo "$JAX_PLATFORMS $XLA_FLAGS"', "--devices-per-process", 3, processes=1, XLA_FLAGS=before).stdout
    assert out == "cpu --xla_b=2 --xla_force_host_platform_device_count=3\n"


def test_lines_of_the_others_are_marked_and_process_0_is_left_alone():
    done = local("echo a; printf b; echo c >&2")
    assert sorted(done.stdout.replace("b[", "b\n[").splitlines()) == ["[1] a", "[1] b", "a", "b"]
    assert {"c", "[1] c"} <= set(done.stderr.splitlines())


def test_logs_take_the_output_of_the_others_and_are_appended_to(tmp_path):
    logs = tmp_path / "my logs"
    for _ in range(2):
        done = local(f"echo {INDEX}; echo e >&2", "--logs", logs)
        assert done.stdout == "0\n" and done.returncode == 0
    assert (logs / "process_1.log").read_text() == "1\ne\n1\ne\n"
    assert [file.name for file in logs.iterdir()] == ["process_1.log"]


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["exit 0", "exit 0"], 0),
        (["exit 0", "exit 75"], 75),
        (["exit 75", "sleep 0.2; exit 1"], 1),
        (["sleep 0.2; exit 75", "exit 3"], 3),
        (["sleep 0.2; exit 75", "kill -KILL $$"], 75),
        (["kill -ABRT $$", "exit 0"], 75),
        (["exit 137", "exit 0"], 75),  # what a shell says of a killed command
        (["exit 255", "exit 75"], 255),
    ],
)
def test_the_exit_code_tells_whether_to_start_again(ends, code):
    assert local(f"case {INDEX} in 0) {ends[0]};; 1) {ends[1]};; esac").returncode == code


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_is_passed_on_once_to_all(name):
    script = f"trap 'echo got; sleep 0.4; exit 75' {name}; echo ready; while :; do sleep 0.05; done"
    with started(script, "--restarts", 3, waiting_for="ready") as (launcher, _):
        launcher.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.2)
        launcher.send_signal(signal.Signals[f"SIG{name}"])
        out, _ = launcher.communicate(timeout=10)
    assert sorted(out.split("\n")) == ["", "[1] got", "got"]
    assert launcher.returncode == 75  # and no restart, though three were left


def test_after_a_signal_the_grace_is_bounded():
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    with started(script, "--grace", 0.3, waiting_for="ready") as (launcher, pids):
        launcher.terminate()
        assert launcher.wait(timeout=10) == 75
        assert all(gone(pid) for pid in pids)


def test_when_one_dies_the_others_may_end_by_themselves_within_the_grace():
    done = local(
        f"trap 'echo killed' TERM; case {INDEX} in 1) kill -KILL $$;; 0) sleep 0.5; echo saved; exit 75;; esac"
    )
    assert done.stdout == "saved\n" and done.returncode == 75


def test_one_that_ended_well_does_not_start_the_clock():
    done = local(f"case {INDEX} in 1) exit 0;; 0) sleep 0.6; echo probed;; esac", "--grace", 0.1)
    assert done.stdout == "probed\n" and done.returncode == 0


@pytest.mark.parametrize("other", ["sleep 60", "trap '' TERM; sleep 60", "kill -STOP $$"])
def test_what_is_left_after_the_grace_is_ended_even_when_stopped(other):
    begin = time.monotonic()
    done = local(f"case {INDEX} in 1) sleep 0.1; exit 75;; 0) {other};; esac", "--grace", 0.3)
    assert done.returncode == 75 and time.monotonic() - begin < 10


def test_one_stopped_from_outside_is_ended_when_the_others_gave_up():
    script = f"echo ready; case {INDEX} in 0) sleep 0.5; exit 75;; *) sleep 60;; esac"
    with started(script, "--grace", 0.3, waiting_for="ready") as (launcher, pids):
        os.kill(pids[1], signal.SIGSTOP)
        assert launcher.wait(timeout=10) == 75
        assert gone(pids[1])


def test_restarts_go_on_until_the_run_is_finished(tmp_path):
    starts = tmp_path / "starts"
    script = f"[ {INDEX} = 1 ] && exit 0; echo x >> '{starts}'; [ $(wc -l < '{starts}') = 3 ] || exit 75"
    done = local(script, "--restarts", 5, "--pause", 0)
    assert done.returncode == 0
    assert starts.read_text() == "x\n" * 3
    assert len(set(re.findall(r"process 0: pid (\d+)", done.stderr))) == 3


@pytest.mark.parametrize(("end", "restarts", "starts"), [("exit 75", 2, 3), ("kill -KILL $$", 1, 2), ("exit 1", 2, 1)])
def test_restarts_are_counted_and_an_error_ends_them(end, restarts, starts, tmp_path):
    done = local(f"echo x >> '{tmp_path}/starts'; {end}", "--restarts", restarts, "--pause", 0, processes=1)
    assert done.returncode == (1 if end == "exit 1" else 75)
    assert (tmp_path / "starts").read_text() == "x\n" * starts


def test_a_signal_in_the_pause_ends_it():
    with started("echo ready; exit 75", "--restarts", 3, "--pause", 60, waiting_for="ready") as (launcher, _):
        while "starting again" not in launcher.stderr.readline():
            pass
        launcher.terminate()
        assert launcher.wait(timeout=10) == 75


def test_nothing_outlives_a_killed_launcher(tmp_path):
    script = f"sleep 61 & echo $! > '{tmp_path}'/{INDEX}; echo ready; wait"
    with started(script, waiting_for="ready") as (launcher, pids):
        grandchildren = [int((tmp_path / name).read_text()) for name in "01"]
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        assert all(gone(pid) for pid in [*pids, *grandchildren])


def test_what_a_process_leaves_behind_ends_with_it(tmp_path):
    done = local(f"sleep 62 & echo $! > '{tmp_path}/pid'", processes=1)
    assert done.returncode == 0 and gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--processes", "2"], "the command is missing; it comes after --"),
        (["--processes", "0", "--", "true"], "--processes 0: at least 1"),
        (["--", "true"], "--processes"),
        (["--processes", "2", "true"], "unrecognized arguments: true"),
        (["--processes", "2", "--", "no such program"], "no such program: no such program"),
    ],
)
def test_a_wrong_call_is_refused_with_the_reason(arguments, reason):
    done = subprocess.run([*LOCAL, *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode in (1, 2) and reason in done.stderr
