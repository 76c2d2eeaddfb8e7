"""launch/gke and the JobSets that it renders."""

import shlex
import sys

import fakes
import pytest
import yaml
from conftest import ROOT

CLUSTER = ["--project", "p", "--zone", "z", "--cluster", "c", "--name", "run-1"]
TPU = ["--image", "host/image:1", "--accelerator", "tpu-v5-lite-podslice", "--topology", "4x8"]
GPU = ["--image", "host/image:1", "--accelerator", "nvidia-h100-80gb", "--nodes", "2"]
PROGRAM = ["python", "-m", "ddm_embed.main", "--config", "a: \"b\" # 'c'\n- d", "--workdir", "gs://b/$(HOME) NAME"]


@pytest.fixture
def cloud(tmp_path):
    return fakes.make(tmp_path)


def gke(cloud, *arguments, program=None):
    return cloud.run("gke", *arguments, program=program, PYTHON=sys.executable)


def rendered(cloud, *arguments, program=PROGRAM):
    done = gke(cloud, "render", "--name", "run-1", *arguments, program=program)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def pod_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_the_templates_are_yaml_and_all_that_is_in_capitals_is_filled_in(cloud, kind):
    template = (ROOT / "launch" / f"jobset-{kind}.yaml").read_text()
    assert yaml.safe_load(template)["kind"] == "JobSet"
    text = yaml.safe_dump(rendered(cloud, *(TPU if kind == "tpu" else GPU), program=["p"]))
    for word in ("NAMESPACE", "IMAGE", "ACCELERATOR", "TOPOLOGY", "CHIPS", "PROCESSES", "RESTARTS", "GRACE", "PROGRAM"):
        assert f" {word}\n" not in text and f"'{word}'" not in text


@pytest.mark.parametrize("kind", [TPU, GPU], ids=["tpu", "gpu"])
def test_a_jobset_has_what_distributed_start_and_restarts_need(cloud, kind):
    jobset = rendered(cloud, *kind, "--grace", "77", "--restarts", "5", "--namespace", "team")
    processes = 8 if kind is TPU else 2
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
    assert jobset["metadata"]["name"] == "run-1" and jobset["metadata"]["namespace"] == "team"
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    [job] = jobset["spec"]["replicatedJobs"]
    assert job["name"] == "workers" and job["replicas"] == 1
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    assert spec["completions"] == spec["parallelism"] == processes
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 77
    [container] = pod["containers"]
    assert container["image"] == "host/image:1"
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["JOBSET_PROCESSES"]["value"] == str(processes)
    for name, label in (("JOBSET_NAME", "jobset-name"), ("REPLICATED_JOB_NAME", "replicatedjob-name")):
        path = variables[name]["valueFrom"]["fieldRef"]["fieldPath"]
        assert path == f"metadata.labels['jobset.sigs.k8s.io/{label}']"
    assert container["command"][-2:] == ["--num_processes", str(processes)]


@pytest.mark.parametrize("kind", [TPU, GPU], ids=["tpu", "gpu"])
def test_an_error_fails_the_jobset_and_all_else_restarts_it(cloud, kind):
    jobset = rendered(cloud, *kind)
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    preempted, error = spec["podFailurePolicy"]["rules"]
    assert preempted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert error["action"] == "FailJob" and error["onExitCodes"]["operator"] == "In"
    assert error["onExitCodes"]["containerName"] == pod_of(jobset)["containers"][0]["name"]
    assert 1 in error["onExitCodes"]["values"]
    assert not {0, 75, 134, 137, 143} & set(error["onExitCodes"]["values"])


def test_a_slice_is_chosen_by_accelerator_and_topology(cloud):
    jobset = rendered(cloud, *TPU, "--spot", "--service-account", "writer")
    pod = pod_of(jobset)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["tolerations"][-1]["key"] == "cloud.google.com/gke-spot"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["serviceAccountName"] == "writer"


def test_gpus_are_chosen_by_accelerator_and_number(cloud):
    pod = pod_of(rendered(cloud, *GPU, "--chips", "4"))
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert pod["containers"][0]["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]


def test_arguments_reach_the_container_as_they_are(cloud):
    command = pod_of(rendered(cloud, *GPU))["containers"][0]["command"]
    assert command[: len(PROGRAM) - 1] == PROGRAM[:-1]
    assert command[len(PROGRAM) - 1] == "gs://b/$$(HOME) NAME"  # which Kubernetes turns back into $(HOME)


def test_one_machine_is_told_of_no_other(cloud):
    command = pod_of(rendered(cloud, *TPU[:-1], "2x2", program=["p"]))["containers"][0]["command"]
    assert command == ["p"]


@pytest.mark.parametrize("command", ["apply", "status", "logs", "stop", "delete"])
def test_a_dry_run_prints_just_what_a_run_calls_and_calls_nothing(cloud, command):
    arguments = [command, *CLUSTER, *TPU]
    dry = gke(cloud, *arguments, "--dry-run", program=PROGRAM)
    assert dry.returncode == 0, dry.stderr
    assert not cloud.calls()
    assert gke(cloud, *arguments, program=PROGRAM).returncode == 0
    shown = dry.stdout.partition("# with this")[0].splitlines()
    assert [shlex.split(line) for line in shown] == cloud.calls()
    for call in cloud.calls("kubectl"):
        assert call[1:5] == ["--context", "gke_p_z_c", "--namespace", "default"]


def test_apply_hands_the_rendered_jobset_to_the_cluster(cloud):
    assert gke(cloud, "apply", *CLUSTER, *TPU, program=PROGRAM).returncode == 0
    assert yaml.safe_load((cloud.folder / "applied").read_text()) == rendered(cloud, *TPU)


def test_stop_saves_and_apply_goes_on(cloud):
    assert gke(cloud, "stop", *CLUSTER).returncode == 0
    assert cloud.calls("kubectl")[0][-1] == '{"spec":{"suspend":true}}'
    assert rendered(cloud, *TPU)["spec"]["suspend"] is False


def test_delete_of_what_is_absent_is_no_error(cloud):
    gke(cloud, "delete", *CLUSTER)
    assert "--ignore-not-found" in cloud.calls("kubectl")[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--name", "Run_1", *TPU], "--name Run_1: lower-case letters, digits and -"),
        (["--name", "n" * 41, *TPU], "40 at most"),
        (["--name", "n", *TPU[:-1], "4by4"], "--topology 4by4: a form such as 4x4"),
        (["--name", "n", *TPU, "--chips", "3"], "--chips 3 does not divide the 32 chips of --topology 4x8"),
        (["--name", "n", *TPU, "--nodes", "2"], "--topology and --nodes"),
        (["--name", "n", *TPU[:-2]], "--topology (of a TPU slice) or --nodes (of GPUs) is missing"),
        (["--name", "n", *GPU[:-1], "0"], "--nodes 0: at least 1"),
        (["--name", "n", "--nodes", "1"], "--image is missing"),
    ],
)
def test_a_wrong_call_is_refused_with_the_reason(cloud, arguments, reason):
    done = gke(cloud, "render", *arguments, program=["p"])
    assert done.returncode == 1 and reason in done.stderr and not done.stdout
