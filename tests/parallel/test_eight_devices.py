"""Eight devices are forced on the CPU in a process of their own: the number is fixed when JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def report():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    script = Path(__file__).with_name("eight_devices.py")
    process = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, env=os.environ | {"XLA_FLAGS": flags}
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def curves(report):
    return report["curves"]


def test_features_do_not_depend_on_the_number_of_devices(report):
    assert report["feature_gap"] < 1e-6


def test_samples_do_not_depend_on_the_number_of_devices(report):
    assert len(report["sample_gaps"]) == 6 and max(report["sample_gaps"].values()) < 1e-4


@pytest.mark.parametrize("mesh", ["8x1", "4x2", "1x8"])
def test_a_mesh_gives_the_loss_curve_of_one_device(curves, mesh):
    one, many = np.array(curves["1x1"][0]), np.array(curves[mesh][0])
    assert len(one) == 20 and one[-1] < one[0]
    np.testing.assert_allclose(many, one, atol=1e-4)


@pytest.mark.parametrize(("mesh", "parts"), [("1x1", 1), ("8x1", 1), ("4x2", 2), ("1x8", 8)])
def test_parameters_ema_and_optimizer_state_are_split_over_fsdp(curves, mesh, parts):
    _, held, whole, shard = curves[mesh]
    assert whole[0] == parts * shard[0] and whole[1] == shard[1]
    # The consistency term's predictor, as wide as z and not as the model, stays whole.
    assert 1 / parts <= held < 1 / parts + 0.2
