"""Switches of JAX that users have in their environment change no bit of what is trained, embedded and judged."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, run_module, run_program, saved_arrays
from safetensors import numpy as safetensors

from ddm_embed.features.run import open_run

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
SWITCHES = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
}
# As a notebook would: no program between JAX's import and the library.
LIBRARY = """
import sys, json, jax, numpy as np
from pathlib import Path
sys.path.insert(0, "tests")
from conftest import tiny_config
from ddm_embed import Embedder
from ddm_embed.config import probe_default
from ddm_embed.features.run import open_run
from ddm_embed.probe.evaluate import evaluate
from ddm_embed.train.loop import train
run, again, images = Path(sys.argv[1]), Path(sys.argv[2]), np.load(sys.argv[3])
embedded = [open_run(run).embed(images, (0.2, 0.9), name).tobytes().hex() for name in ("denoiser_1", "z")]
embedded.append(Embedder.from_run(run, feature="denoiser_2").transform(images, t=0.5).tobytes().hex())
probe = probe_default()
probe.update(times=(0.5,), noise_draws=1, selection_images=100, training_images=100, measures=False)
results = evaluate(tiny_config(**{"train.picture_every": 20}), probe, run)[0]
judged = [results["profile"], results["protocols"]["ridge"]["test_accuracy"]]
train(tiny_config(**{"train.picture_every": 20}), again)
print(json.dumps([embedded, judged]))
"""


def use(library, run, folder, **environment):
    """What the library gives in a process with these variables, and the parameters that it trains."""
    folder.mkdir()
    np.save(folder / "images.npy", IMAGES)
    command = [sys.executable, "-c", library, run, folder / "again", folder / "images.npy"]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1]), saved_arrays(folder / "again", 20)


@pytest.mark.slow
def test_switches_change_no_bit_of_what_the_library_does(tiny_run, tmp_path):
    expected, found = (
        use(LIBRARY, tiny_run[1], tmp_path / name, **switches) for name, switches in (("no", {}), ("all", SWITCHES))
    )
    assert found[0] == expected[0]
    saved = saved_arrays(tiny_run[1], 20)
    assert saved.keys() == found[1].keys() == expected[1].keys()
    for name, value in saved.items():
        assert found[1][name].dtype == value.dtype and found[1][name].tobytes() == value.tobytes(), name


@pytest.mark.slow
def test_programs_write_the_same_embeddings_and_exports_under_all_switches(tiny_run, tmp_path):
    """In processes that JAX has not been imported into, where variables are read."""
    workdir = f"--workdir={tiny_run[1]}"
    np.save(tmp_path / "images.npy", IMAGES)
    out = tmp_path / "images.npz"
    arguments = [workdir, f"--images={tmp_path}/images.npy", f"--out={out}", "--feature=denoiser_1", "--t=0.2,0.9"]
    assert run_module("ddm_embed.embed", *arguments, **SWITCHES).returncode == 0
    run = open_run(tiny_run[1])
    assert np.load(out)["embedding"].tobytes() == run.embed(IMAGES, (0.2, 0.9), "denoiser_1").tobytes()
    told = run_program("ddm_embed.export", workdir, f"--out={tmp_path}/plain")
    assert told.returncode == 0, told.stderr
    told = run_module("ddm_embed.export", workdir, f"--out={tmp_path}/switched", **SWITCHES)
    assert told.returncode == 0, told.stderr
    assert use_export(tmp_path / "plain") == use_export(tmp_path / "switched")


def use_export(folder):
    """An export's weights, and what its program makes of the images, as bytes."""
    weights = (folder / "weights.safetensors").read_bytes()
    program = jax.export.deserialize((folder / "embed.jax_export").read_bytes())
    return weights, np.asarray(program.call(safetensors.load(weights), IMAGES, np.float32(0.5))).tobytes()
