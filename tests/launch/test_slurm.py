"""launch/slurm and the batch script that it submits."""

import shlex

import fakes
import pytest
from conftest import ROOT

NAME = ["--name", "my 'run'"]
PROGRAM = ["p", "a b", "c'd", "$HOME", ""]


@pytest.fixture
def cluster(tmp_path):
    return fakes.make(tmp_path)


def batch(cluster, script, restarts=2, **environment):
    """The batch script with `bash -c script` as each task; the stand-in of srun runs one."""
    program = ["bash", "-c", script, "odd", *PROGRAM[1:]]
    variables = {"SLURM_JOB_ID": "42", **environment}
    return cluster.run("slurm.sbatch", restarts, *program, **variables)


@pytest.mark.parametrize("command", ["submit", "status", "logs", "stop"])
def test_a_dry_run_prints_commands_a_shell_reads_back_and_runs_none(cluster, command):
    done = cluster.run("slurm", command, *NAME, "--dry-run", program=PROGRAM)
    assert done.returncode == 0, done.stderr
    assert not cluster.calls() and not (cluster.folder / "slurm").exists()
    assert any("my 'run'" in word for line in done.stdout.splitlines() for word in shlex.split(line))


def test_a_dry_run_prints_just_what_a_run_calls(cluster):
    arguments = ["submit", *NAME, "--nodes", "2", "--gpus-per-node=8", "--cpus-per-task", "6", "--partition", "a b"]
    arguments += ["--account", "x", "--sbatch-flag=--qos=high"]
    dry = cluster.run("slurm", *arguments, "--dry-run", program=PROGRAM).stdout
    done = cluster.run("slurm", *arguments, program=PROGRAM)
    assert done.returncode == 0, done.stderr
    shown = [shlex.split(line) for line in dry.splitlines() if not line.startswith(("#", "mkdir"))]
    assert shown == cluster.calls()
    sbatch = shown[-1]
    script = sbatch.index(str(ROOT / "launch" / "slurm.sbatch"))
    assert sbatch[script + 1 :] == ["100", *PROGRAM, "--num_processes", "16"]
    options = sbatch[1:script]
    for option, value in (
        ("--ntasks-per-node", "8"),
        ("--gpus-per-node", "8"),
        ("--signal", "TERM@180"),
        ("--partition", "a b"),
        ("--open-mode", "append"),
    ):
        assert options[options.index(option) + 1] == value
    assert "--requeue" in options and options[-1] == "--qos=high"


def test_submit_leaves_a_queued_job_alone(cluster):
    cluster.write("jobs", "7 PENDING")
    done = cluster.run("slurm", "submit", *NAME, program=PROGRAM)
    assert done.returncode == 0 and "is queued or runs: 7 PENDING" in done.stderr
    assert not cluster.calls("sbatch")


def test_stop_saves_what_runs_and_cancels_what_waits(cluster):
    cluster.write("jobs", "7 RUNNING", "8 PENDING")
    assert cluster.run("slurm", "stop", *NAME).returncode == 0
    assert cluster.calls()[1:] == [
        ["scontrol", "update", "JobId=7", "Requeue=0"],
        ["scancel", "--signal", "TERM", "7"],
        ["scancel", "8"],
    ]


def test_stop_of_what_is_absent_is_no_error(cluster):
    assert cluster.run("slurm", "stop", *NAME).returncode == 0
    assert [call[0] for call in cluster.calls()] == ["squeue"]


@pytest.mark.parametrize(
    ("script", "code", "again"),
    [
        ("exit 0", 0, False),
        ("exit 75", 75, True),
        ("kill -KILL $$", 75, True),
        ("kill -ABRT $$", 75, True),
        ("exit 1", 1, False),
        ("exit 3", 1, False),
    ],
)
def test_the_job_is_queued_again_when_the_program_asks_for_it(cluster, script, code, again):
    done = batch(cluster, script)
    assert done.returncode == code, done.stderr
    assert cluster.calls("scontrol") == ([["scontrol", "requeue", "42"]] if again else [])


def test_the_program_gets_its_arguments_as_they_are(cluster):
    done = batch(cluster, 'printf "%s\\n" "$@"')
    assert done.stdout.splitlines()[:4] == PROGRAM[1:]


def test_restarts_are_counted(cluster):
    assert batch(cluster, "exit 75", SLURM_RESTART_COUNT="2").returncode == 75
    assert not cluster.calls("scontrol")


def test_a_stopped_job_is_not_queued_again(cluster):
    cluster.write("requeue_disabled")
    done = batch(cluster, "exit 75")
    assert done.returncode == 75 and "not queued again" in done.stdout


def test_a_cancelled_job_is_not_queued_again(cluster):
    # scancel reaches the batch script too: here the parent of srun, which is the parent of the task's shell.
    script = "parent() { awk '{print $4}' /proc/$1/stat; }; kill -TERM $(parent $(parent $PPID)); sleep 0.2; exit 75"
    assert batch(cluster, script).returncode == 75
    assert not cluster.calls("scontrol")


def test_a_task_outlives_the_signal_until_it_has_saved(cluster):
    # The step's signal reaches the task and the shell around it alike.
    script = "trap 'sleep 0.3; echo saved; exit 75' TERM; kill -TERM $PPID $$; while :; do sleep 0.05; done"
    done = batch(cluster, script)
    assert "saved" in done.stdout and done.returncode == 75
    assert cluster.calls("scontrol")


def test_a_task_is_given_its_processors(cluster):
    batch(cluster, "exit 0", SLURM_CPUS_PER_TASK="6")
    [srun] = cluster.calls("srun")
    assert srun[srun.index("--cpus-per-task") + 1] == "6"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["submit", "--", "p"], "--name is missing"),
        (["submit", *NAME], "the program is missing"),
        (["submit", *NAME, "--nodes", "0", "--", "p"], "--nodes 0: at least 1"),
        (["submit", *NAME, "--nodes", "two", "--", "p"], "--nodes two: a whole number is expected"),
        (["submit", *NAME, "--", "python", "-m", "ddm_embed.main", "--workdirs"], "the program has no --workdir"),
        (["logs", *NAME], "no such file; it is written when the job starts"),
        (["resume", *NAME], "resume: no such command"),
    ],
)
def test_a_wrong_call_is_refused_with_the_reason(cluster, arguments, reason):
    done = cluster.run("slurm", *arguments)
    assert done.returncode == 1 and reason in done.stderr
    assert not cluster.calls("sbatch")
