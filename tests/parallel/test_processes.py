"""Real processes on loopback, started by launch/local, against the same run in one process."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, flags_of, tiny_config

from ddm_embed.data.pipeline import Order
from ddm_embed.data.sources import open_source

pytestmark = pytest.mark.slow

# float32 sums in another order differ in the last bits; Adam's first steps divide them by small numbers.
STEADY = {"optimizer.learning_rate": 1e-3}


def start(processes, *command, devices=1):
    """Runs the command as so many processes; (exit code, output of process 0, output of the others)."""
    launcher = [
        ROOT / "launch" / "local",
        "--processes",
        processes,
        "--devices-per-process",
        devices,
        "--grace",
        30,
        "--",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}  # which nobody answers
    done = subprocess.run(
        [str(part) for part in [sys.executable, *launcher, sys.executable, *command]],
        capture_output=True, text=True, timeout=400, cwd=ROOT, env=environment,
    )  # fmt: skip
    lines = done.stdout.splitlines(keepends=True) + done.stderr.splitlines(keepends=True)
    others = [line for line in lines if re.match(r"\[\d+\]", line)]
    return done.returncode, "".join(line for line in lines if line not in others), "".join(others)


def train(processes, workdir, devices=1, **changes):
    config = tiny_config(**STEADY | changes)
    return start(processes, "-m", "ddm_embed.main", *flags_of(config), "--workdir", workdir, devices=devices)


def losses(workdir):
    """Loss by step of the log lines."""
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def accuracy(workdir):
    return json.loads((workdir / "probe" / "linear" / "results.json").read_text())["test_accuracy"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process, probed."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    code, output, _ = train(1, workdir, **{"probe.after_training": True})
    assert code == 0, output
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(the same run in two processes, output of process 0, output of the other)."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    code, output, others = train(2, workdir, **{"probe.after_training": True})
    assert code == 0, output + others
    return workdir, output, others


def test_two_processes_have_the_losses_of_one(alone, two):
    np.testing.assert_allclose(list(losses(two[0]).values()), list(losses(alone).values()), atol=1e-5)
    assert losses(two[0]).keys() == losses(alone).keys() and len(losses(alone)) == 4


def test_two_processes_probe_what_one_would(alone, two):
    assert accuracy(two[0]) == pytest.approx(accuracy(alone), abs=0.004)  # a test image or two of 500 may tip over


def test_one_process_tells_what_happens(two):
    _, output, others = two
    assert output.count("step 20/20") == 1 and output.count("test accuracy") == 1
    assert "step" not in others.replace("steps", "") and "accuracy" not in others


def test_what_four_processes_saved_goes_on_in_two_and_in_one(alone, tmp_path):
    workdir = tmp_path / "run"
    keep = {"train.checkpoint_every": 5, "train.keep_checkpoints": 9}
    expected = losses(alone)
    for processes, devices, start_at in ((4, 1, 0), (2, 2, 5), (1, 1, 10)):
        for folder in (workdir / "checkpoints").glob("*"):
            if int(folder.name) > start_at:
                shutil.rmtree(folder)
        code, output, others = train(processes, workdir, devices, **keep)
        assert code == 0, output + others
        assert start_at == 0 or f"resuming at step {start_at} " in output
        found = losses(workdir)
        np.testing.assert_allclose([found[step] for step in expected], list(expected.values()), atol=1e-5)


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (2, 1), (4, 1), (2, 2)])
def test_batches_are_bit_identical_whatever_the_number_of_processes(processes, devices):
    code, output, others = start(processes, ROOT / "tests" / "parallel" / "batches.py", devices=devices)
    assert code == 0, output + others
    config = tiny_config()
    images = open_source(config).train.images
    order = Order(images.shape[0], config.train.batch_size, config.train.seed)
    expected = [hashlib.sha256(images[order.positions(step)]).hexdigest() for step in range(77, 87)]
    assert re.findall(r"batch (\w+)", output) == expected
