import pytest

from ddm_embed.errors import UserError
from ddm_embed.parallel.cluster import PORT, find

JOBSET = {
    "JOBSET_NAME": "run",
    "REPLICATED_JOB_NAME": "workers",
    "JOB_COMPLETION_INDEX": "3",
    "JOBSET_PROCESSES": "8",
}
SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]"}


def found(cluster="auto", address=None, number=None, process=None, environ=(), tpu=False):
    return find(cluster, address, number, process, dict(environ), tpu)


def test_a_process_without_flags_and_variables_is_alone():
    assert found() is None and found("none", environ=SLURM | JOBSET, tpu=True) is None
    assert found(environ={"SLURM_NTASKS": "1"}) is None


def test_flags_say_it_all_whatever_the_environment_says():
    start = found(address="10.0.0.1:1234", number=2, process=1, environ=SLURM | JOBSET, tpu=True)
    assert start.how == "flags" and not start.may_be_alone
    assert start.arguments == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }


def test_slurm_is_told_by_the_tasks_of_a_step():
    for start in (found(environ=SLURM), found("slurm", environ={"SLURM_STEP_NODELIST": "node1"})):
        assert start.how == "SLURM" and start.arguments == {"cluster_detection_method": "slurm"}


def test_a_jobset_is_told_by_its_four_variables():
    start = found(environ=JOBSET)
    assert start.arguments["coordinator_address"] == f"run-workers-0-0.run:{PORT}"
    assert (start.arguments["num_processes"], start.arguments["process_id"]) == (8, 3)
    assert found("jobset", environ=JOBSET) == start


def test_a_tpu_asks_its_own_metadata_and_may_be_alone_unless_told_otherwise():
    assert found(tpu=True).arguments == {} and found(tpu=True).may_be_alone
    assert not found("tpu").may_be_alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "a:1"}, "--coordinator_address, --num_processes and --process_id go together; give all three"),
        ({"process": 0}, "go together"),
        ({"address": "a:1", "number": 2}, "go together"),
        (
            {"cluster": "slurm", "address": "a:1", "number": 2, "process": 0},
            "--cluster slurm and --coordinator_address",
        ),
        ({"address": "a:1", "number": 2, "process": 2}, r"--process_id 2: expected 0 to 1 \(--num_processes - 1\)"),
        ({"address": "a:1", "number": 2, "process": -1}, "--process_id -1: expected 0 to 1"),
        ({"address": "host", "number": 2, "process": 0}, "--coordinator_address host: expected HOST:PORT"),
        ({"address": "host:http", "number": 2, "process": 0}, "host:http: expected HOST:PORT"),
        (
            {"environ": {"SLURM_NTASKS": "4"}},
            "SLURM_NTASKS=4, and this process is none of a step's tasks; start it with",
        ),
        (
            {"environ": {"JOBSET_NAME": "run"}},
            "needs REPLICATED_JOB_NAME, JOB_COMPLETION_INDEX, JOBSET_PROCESSES in its",
        ),
        ({"cluster": "jobset"}, "a JobSet's process needs JOBSET_NAME, "),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_mend(arguments, message):
    with pytest.raises(UserError, match=message):
        found(**arguments)
