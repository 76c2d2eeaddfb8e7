"""Run directories on gs://, as a user has them: whole programs, and a stand-in for Google Cloud Storage.

The tests of one run follow one another, as the commands of a user do.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT, flags_of, run_module, tiny_config
from fake_gcs import FakeGCS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="gcsfs is missing: pip install -e '.[gcs]'"),
]

CONFIG = tiny_config(**{"train.checkpoint_every": 5, "train.keep_checkpoints": 3})
RUN = "runs/digits"  # within the bucket "bucket"
COMMIT = ["POST", "10", "commit_success.txt"]
ARGUMENTS = [*flags_of(CONFIG), "--workdir", f"gs://bucket/{RUN}"]


@pytest.fixture(scope="module")
def store():
    with FakeGCS("bucket") as store:
        yield store


def run(store, module, *arguments):
    return run_module(module, *arguments, **store.environment)


def losses(text):
    return {line["step"]: line["loss"] for line in map(json.loads, text.splitlines())}


def checkpoints(store, folder=f"{RUN}/checkpoints/"):
    """The steps of which anything is there."""
    return {int(name.removeprefix(folder).split("/")[0]) for name in store.names("bucket", folder)}


@pytest.fixture(scope="module")
def resumed(store):
    """The process that finished a run, the first of which was killed before the checkpoint of step 10 was committed."""
    store.refuse = lambda method, bucket, name: 503 if [method, *name.split("/")[-2:]] == COMMIT else None
    command = [sys.executable, "-m", "ddm_embed.main", *ARGUMENTS]
    first = subprocess.Popen(command, cwd=ROOT, env=os.environ | store.environment, stderr=subprocess.DEVNULL)
    while first.poll() is None and f"{RUN}/checkpoints/10/digest.json" not in store.names("bucket"):
        time.sleep(0.05)
    assert first.poll() is None
    first.kill()
    first.wait()
    store.refuse = lambda method, bucket, name: None
    assert checkpoints(store) == {5, 10}
    process = run(store, "ddm_embed.main", *ARGUMENTS)
    assert process.returncode == 0, process.stderr
    return process


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(resumed):
    assert "resuming at step 5 of 20" in resumed.stderr and "damaged" not in resumed.stderr


def test_its_losses_are_those_of_a_run_on_a_disk(store, resumed, tiny_run):
    there = losses(store.objects["bucket"][f"{RUN}/metrics.jsonl"].data.decode())
    assert there == losses((tiny_run[1] / "metrics.jsonl").read_text()) and list(there) == [5, 10, 15, 20]


def test_only_the_newest_checkpoints_are_kept_and_a_digest_covers_each(store, resumed):
    assert checkpoints(store) == {10, 15, 20}
    for step in (10, 15, 20):
        folder = f"{RUN}/checkpoints/{step}/"
        found = {name.removeprefix(folder) for name in store.names("bucket", folder)}
        digest = json.loads(store.objects["bucket"][f"{folder}digest.json"].data)
        assert found - digest.keys() == {"digest.json", "_CHECKPOINT_METADATA", "commit_success.txt"}


def test_it_is_probed_and_drawn_there(store, resumed):
    flags = ["--workdir", f"gs://bucket/{RUN}"]
    probed = run(store, "ddm_embed.probe", *flags, "--config.times=0.1,", "--config.noise_draws=1")
    assert probed.returncode == 0, probed.stderr
    results = json.loads(store.objects["bucket"][f"{RUN}/probe/linear/results.json"].data)
    assert results["checkpoint_step"] == 20
    drawn = run(store, "ddm_embed.sample", *flags, "--picture=wrong_z", "--config.images=3")
    assert drawn.stdout.splitlines()[-1] == f"gs://bucket/{RUN}/samples/wrong_z.png", drawn.stderr
    assert store.objects["bucket"][f"{RUN}/samples/wrong_z.png"].data.startswith(b"\x89PNG")


def test_a_truncated_or_missing_object_moves_its_checkpoint_aside(store, resumed):
    objects = store.objects["bucket"]
    truncated = max(store.names("bucket", f"{RUN}/checkpoints/20/train/"), key=lambda name: len(objects[name].data))
    store.put("bucket", truncated, objects[truncated].data[:100])
    del objects[next(name for name in store.names("bucket", f"{RUN}/checkpoints/15/ema/") if "/d/" in name)]
    process = run(store, "ddm_embed.main", *ARGUMENTS)
    assert process.returncode == 0 and "resuming at step 10 of 20" in process.stderr, process.stderr
    assert "checkpoint 20 is damaged" in process.stderr and "checkpoint 15 is damaged" in process.stderr
    assert checkpoints(store, f"{RUN}/corrupt/") == {15, 20} and checkpoints(store) == {10, 15, 20}
    assert "is finished: step 20 of 20" in run(store, "ddm_embed.main", *ARGUMENTS).stderr


def test_two_processes_share_it(store):
    launcher = [sys.executable, "launch/local", "--processes", "2", "--devices-per-process", "1", "--"]
    flags = [*flags_of(CONFIG), "--config.train.steps=10", "--workdir", "gs://bucket/two"]
    command = [*launcher, sys.executable, "-m", "ddm_embed.main", *flags]
    environment = os.environ | store.environment
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    digest = json.loads(store.objects["bucket"]["two/checkpoints/10/digest.json"].data)
    assert any("process_0" in name for name in digest) and any("process_1" in name for name in digest)
    assert set(losses(store.objects["bucket"]["two/metrics.jsonl"].data.decode())) == {5, 10}


@pytest.mark.parametrize(
    ("workdir", "refused", "message"),
    [
        ("gs://other/run", None, "gs://other/run: there is no bucket other; create it, or name another"),
        ("gs://bucket/new", ("GET", 403), "gs://bucket/new: Google Cloud Storage failed or refused (GET bucket/"),
        ("gs://bucket/new", ("GET", 401), "gs://bucket/new: Google Cloud Storage failed or refused (GET bucket/"),
        ("gs://bucket/new", ("POST", 403), "gs://bucket/new/config.json could not be written: Google Cloud Storage"),
    ],
)
def test_a_bucket_that_is_missing_or_closed_ends_in_one_line(store, workdir, refused, message):
    method, status = refused or ("", 0)
    store.refuse = lambda asked, bucket, name: status if asked == method else None
    process = run(store, "ddm_embed.main", *flags_of(CONFIG), "--workdir", workdir)
    store.refuse = lambda method, bucket, name: None
    assert process.returncode == 1
    assert [line for line in process.stderr.splitlines() if message in line] == process.stderr.splitlines()[-1:]
    assert "Traceback" not in process.stderr and not store.names("bucket", "new")


def test_a_store_that_does_not_answer_is_waited_for_so_long_and_no_longer(store):
    code = "from ddm_embed.runs import files; files.PATIENCE = 2.0; files.place('gs://bucket/run')"
    environment = os.environ | store.environment | {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "gs://bucket/run: Google Cloud Storage failed or refused (no answer in time)" in process.stderr
