"""launch/tpu and launch/worker, with a gcloud that runs the workers' commands on this machine."""

import os
import shlex
import signal
import subprocess
import time

import fakes
import pytest
from conftest import ROOT

PLACE = ["--project", "my project", "--zone", 'zone "b"', "--name", "it's"]
TYPE = ["--accelerator-type", "v5litepod-16"]
ODD = ["bash", "-c", 'printf "%s\\n" "$@" >"$HOME/told"', "odd", "a b", "c'd", 'e"f', "$HOME", "*", ""]


@pytest.fixture
def cloud(tmp_path):
    cloud = fakes.make(tmp_path)
    yield cloud
    for home in tmp_path.glob("worker*"):  # nothing outlives a test
        for pid in home.glob(".ddm_embed/*/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue


def worker(cloud, *arguments, program=None, **environment):
    home = str(cloud.folder / "worker0")
    return cloud.run("worker", *arguments, program=program, HOME=home, **environment)


def ended(cloud, name="n", home="worker0", within=10.0):
    """The exit code that the worker has written down."""
    file = cloud.folder / home / ".ddm_embed" / name / "exit_code"
    end = time.monotonic() + within
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    return int(file.read_text())


@pytest.mark.parametrize("command", ["create", "status", "setup", "run", "logs", "stop", "watch", "delete"])
@pytest.mark.parametrize("kind", [[], ["--vm", "--spot"]])
def test_a_dry_run_prints_commands_a_shell_reads_back_and_runs_none(cloud, command, kind):
    done = cloud.run("tpu", command, *PLACE, *TYPE, *kind, "--dry-run", program=ODD)
    assert done.returncode == 0, done.stderr
    assert not cloud.calls()
    lines = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines and all(line[0] in ("gcloud", "git") for line in lines)
    for line in lines:
        if line[0] == "gcloud":
            assert line[line.index("--project") + 1] == "my project" and line[line.index("--zone") + 1] == 'zone "b"'
            assert "it's" in (line[5], line[6].partition(":")[0])


def test_a_dry_run_prints_just_what_a_run_calls(cloud):
    dry = cloud.run("tpu", "create", *PLACE, *TYPE, "--spot", "--create-flag=--network=a b", "--dry-run").stdout
    assert cloud.run("tpu", "create", *PLACE, *TYPE, "--spot", "--create-flag=--network=a b").returncode == 0
    printed = [shlex.split(line) for line in dry.splitlines() if not line.startswith("#")]
    assert printed == cloud.calls()
    create = printed[-1]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "it's"]
    assert create[create.index("--node-id") + 1] == "it's"
    assert create[-2:] == ["--spot", "--network=a b"]


@pytest.mark.parametrize(
    ("accelerator", "version", "workers"),
    [
        ("v5litepod-256", "v2-alpha-tpuv5-lite", 64),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", None),
        ("v5p-64", "v2-alpha-tpuv5", 8),
        ("v6e-32", "v2-alpha-tpuv6e", 8),
        ("v4-16", "tpu-ubuntu2204-base", 2),
        ("v4-8", "tpu-ubuntu2204-base", None),
    ],
)
def test_runtime_and_number_of_workers_follow_from_the_accelerator(cloud, accelerator, version, workers):
    done = cloud.run("tpu", "watch", *PLACE, "--accelerator-type", accelerator, "--dry-run", program=["p"])
    assert f" --runtime-version {version}" in done.stdout
    told = f"-- p --num_processes {workers}'" if workers else "-- p'"
    assert told in done.stdout


def test_create_and_delete_may_be_repeated(cloud):
    for _ in range(2):
        assert cloud.run("tpu", "create", *PLACE, *TYPE).returncode == 0
    assert [call[4] for call in cloud.calls()] == ["describe", "create", "describe"]
    for _ in range(2):
        assert cloud.run("tpu", "delete", *PLACE).returncode == 0
    assert [call[4] for call in cloud.calls()[3:]] == ["describe", "delete", "describe"]
    assert "--force" in cloud.calls()[4]


def test_create_stops_where_the_state_cannot_be_known(cloud):
    cloud.write("denied")
    done = cloud.run("tpu", "create", *PLACE, *TYPE)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr
    assert [call[4] for call in cloud.calls()] == ["describe"]


def test_setup_copies_the_checkout_to_every_worker_and_installs_it(cloud):
    done = cloud.run("tpu", "setup", *PLACE)
    assert done.returncode == 0, done.stderr
    for home in ("worker0", "worker1"):
        assert os.access(cloud.folder / home / "ddm_embed" / "launch" / "worker", os.X_OK)
    install = ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python", "--editable", ".[tpu,gcs]"]
    assert cloud.calls("uv").count(install) == 2


def test_setup_from_a_git_url_quotes_it(cloud):
    done = cloud.run("tpu", "setup", *PLACE, "--git", "https://host/a b.git", "--ref", "x'y")
    assert ["git", "clone", "--quiet", "--", "https://host/a b.git", "ddm_embed"] in cloud.calls("git")
    assert ["git", "-C", "ddm_embed", "fetch", "--quiet", "https://host/a b.git", "x'y"] in cloud.calls("git")
    assert done.returncode != 0  # the stand-in of git brought nothing


def test_the_archive_that_setup_copies_has_all_that_is_installed(cloud, tmp_path):
    dry = cloud.run("tpu", "setup", *PLACE, "--dry-run").stdout.splitlines()
    command = shlex.split(dry[0])
    archive = tmp_path / "a.tar.gz"
    command[command.index("--output") + 1] = str(archive)
    subprocess.run(command, check=True)
    names = subprocess.run(["tar", "-tzf", archive], check=True, capture_output=True, text=True).stdout.split()
    assert {"setup.py", "README.md", "ddm_embed/main.py", "configs/digits.py", "launch/local"} <= set(names)


def test_run_starts_the_program_on_all_workers_once_and_with_its_arguments(cloud):
    cloud.run("tpu", "setup", *PLACE)
    program = ["bash", "-c", ODD[2] + '; echo x >>"$HOME/starts"; sleep 30', *ODD[3:]]
    for _ in range(2):
        done = cloud.run("tpu", "run", *PLACE, "--workers", "2", program=program)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("already running") == 2
    for home in ("worker0", "worker1"):
        file = cloud.folder / home / "told"
        while not file.exists():
            time.sleep(0.02)
        told = file.read_text().splitlines()
        assert told == ["a b", "c'd", 'e"f', "$HOME", "*", "", "--num_processes", "2"]
        assert (cloud.folder / home / "starts").read_text() == "x\n"
    assert cloud.run("tpu", "status", *PLACE).stdout == "it's: ABSENT\n"
    cloud.write("states", "ACTIVE")
    assert cloud.run("tpu", "status", *PLACE).stdout.count(": running") == 2


@pytest.mark.parametrize(
    ("program", "code", "starts"),
    [
        ("exit 0", 0, 1),
        ("exit 1", 1, 1),
        ("[ $(wc -l <$HOME/starts) = 3 ] || exit 75", 0, 3),
        ("[ $(wc -l <$HOME/starts) = 2 ] || kill -KILL $$", 0, 2),
        ("exit 75", 75, 4),
    ],
)
def test_a_worker_starts_the_program_again_when_it_asks_for_it(cloud, program, code, starts):
    script = f"echo x >>$HOME/starts; {program}"
    done = worker(cloud, "run", "n", "--restarts", "3", "--pause", "0", program=["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    assert ended(cloud) == code
    assert (cloud.folder / "worker0" / "starts").read_text() == "x\n" * starts
    said = {0: "finished", 1: "failed, exit code 1", 75: "stopped, exit code 75"}[code]
    assert worker(cloud, "status", "n").stdout.endswith(f": {said}\n")


def test_stop_lets_the_program_save_and_starts_it_no_more(cloud):
    script = "trap 'sleep 0.3; echo saved; exit 75' TERM; echo ready; while :; do sleep 0.05; done"
    worker(cloud, "run", "n", "--pause", "0", program=["sh", "-c", script])
    log = cloud.folder / "worker0" / ".ddm_embed" / "n" / "log"
    while "ready" not in log.read_text().splitlines():
        time.sleep(0.02)
    done = worker(cloud, "stop", "n")
    assert done.stdout.endswith(": stopped, exit code 75\n")
    assert log.read_text().splitlines().count("saved") == 1 and log.read_text().splitlines().count("ready") == 1
    assert worker(cloud, "stop", "n").stdout == done.stdout


def test_stop_in_the_pause_between_two_starts_is_at_once(cloud):
    worker(cloud, "run", "n", "--pause", "50", program=["sh", "-c", "exit 75"])
    log = cloud.folder / "worker0" / ".ddm_embed" / "n" / "log"
    while "exit code 75" not in log.read_text():
        time.sleep(0.02)
    begin = time.monotonic()
    assert worker(cloud, "stop", "n").stdout.endswith(": stopped, exit code 75\n")
    assert time.monotonic() - begin < 5


def test_stop_ends_what_does_not_end_and_what_has_lost_its_loop(cloud):
    script = "trap '' TERM; while :; do sleep 0.05; done"
    worker(cloud, "run", "n", program=["sh", "-c", script])
    state = cloud.folder / "worker0" / ".ddm_embed" / "n"
    os.kill(int((state / "pid").read_text()), signal.SIGKILL)
    assert worker(cloud, "status", "n").stdout.endswith(": running\n")
    assert worker(cloud, "run", "n", program=["true"]).stdout.endswith(": already running\n")
    assert worker(cloud, "stop", "n", "--grace", "1").stdout.endswith(": not started\n")


WATCH = [*PLACE, *TYPE, "--poll", "0", "--pause", "0"]


def test_watch_creates_sets_up_runs_and_deletes_when_done(cloud):
    cloud.write("after_create", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = cloud.run("tpu", "watch", *WATCH, "--delete-when-done", program=["sh", "-c", "exit 0"])
    assert done.returncode == 0, done.stderr
    verbs = [call[4] for call in cloud.calls("gcloud")]
    assert verbs.count("create") == 1 and verbs.count("scp") == 1 and verbs[-1] == "delete"
    assert not (cloud.folder / "states").exists()


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_watch_creates_again_after_a_preemption(cloud, state):
    cloud.write("states", "ACTIVE", "SUSPENDING", state)
    script = (
        'echo x >>"$FAKE/starts"; [ $(wc -l <"$FAKE/starts") -gt 2 ] || sleep 30'  # the first TPU has no time for it
    )
    done = cloud.run("tpu", "watch", *WATCH, program=["sh", "-c", script])
    verbs = [call[4] for call in cloud.calls("gcloud")]
    assert verbs.count("delete") == 1 and verbs.count("create") == 1 and verbs.count("scp") == 2
    assert verbs.index("delete") < verbs.index("create")
    assert done.returncode == 0


def test_watch_gives_up_after_so_many_recreations(cloud):
    cloud.write("after_create", "FAILED")
    done = cloud.run("tpu", "watch", *WATCH, "--recreations", "2", program=["true"])
    assert done.returncode == 1 and "FAILED, and re-created 2 times already" in done.stderr
    assert [call[4] for call in cloud.calls()].count("create") == 3


def test_watch_tries_again_where_a_machine_does_not_answer_yet(cloud):
    cloud.write("states", "ACTIVE")
    cloud.write("scp_fails")
    done = cloud.run("tpu", "watch", *WATCH, program=["true"])
    assert done.returncode == 0, done.stderr
    verbs = [call[4] for call in cloud.calls("gcloud")]
    assert verbs.count("scp") == 2 and len(cloud.calls("uv")) == 4  # two calls a worker, once


def test_watch_ends_when_one_worker_fails_and_stops_the_others(cloud):
    script = "case $HOME in *worker1) exit 1;; esac; trap 'exit 75' TERM; while :; do sleep 0.05; done"
    done = cloud.run("tpu", "watch", *WATCH, program=["sh", "-c", script])
    assert done.returncode == 1 and "a worker failed" in done.stderr
    assert ended(cloud, "it's", "worker0") == 75


def test_watch_goes_on_with_what_runs_already(cloud):
    cloud.write("states", "ACTIVE")
    script = 'echo x >>"$HOME/starts"; while [ ! -e "$FAKE/go" ]; do sleep 0.05; done'
    cloud.run("tpu", "setup", *PLACE)
    cloud.run("tpu", "run", *PLACE, program=["sh", "-c", script])
    with subprocess.Popen(
        [ROOT / "launch" / "tpu", "watch", *WATCH, "--", "sh", "-c", script],
        env=cloud.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as watch:
        assert ": running" in watch.stdout.readline()
        cloud.write("go")
        watch.stdout.read()
    assert watch.returncode == 0
    assert (cloud.folder / "worker0" / "starts").read_text() == "x\n"


def test_logs_follow_one_worker(cloud):
    command = shlex.split(cloud.run("tpu", "logs", *PLACE, "--worker", "3", "--dry-run").stdout)
    assert command[command.index("--worker") + 1] == "3"
    assert shlex.split(command[command.index("--command") + 1]) == ["ddm_embed/launch/worker", "logs", "it's"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create", "--project", "p", "--name", "n"], "--zone is missing"),
        (["create", *PLACE], "--accelerator-type is missing"),
        (["create", *PLACE, "--accelerator-type", "x9-8"], "give --runtime-version"),
        (["create", *PLACE, *TYPE, "--sopt"], "--sopt"),
        (["run", *PLACE], "the program is missing"),
        (["run", *PLACE, "--", "python", "-m", "ddm_embed.main"], "the program has no --workdir"),
        (["run", *PLACE, "--restarts", "many", "--", "p"], "--restarts many: a whole number is expected"),
        (["erase", *PLACE], "erase: no such command"),
    ],
)
def test_a_wrong_call_is_refused_with_the_reason_and_calls_nothing(cloud, arguments, reason):
    done = cloud.run("tpu", *arguments)
    assert done.returncode == 1 and reason in done.stderr
    assert [call for call in cloud.calls() if call[4] != "describe"] == []
