"""Runs, exports and embeddings of the version before the package was cut into rooms.

tests/old/old_files.tar.xz holds a run of 20 steps on the digits (width 8, one layer each), probed and exported by that
version, its z of 12 images at t = 0 and 0.3 in the three formats, and the images; expected.json what it read of them.
"""

import json
import tarfile

import jax
import numpy as np
import pytest
from conftest import ROOT

from ddm_embed.embed import layout
from ddm_embed.features.exported import open_any
from ddm_embed.features.run import open_run
from ddm_embed.methods.build import make_models
from ddm_embed.runs.checkpoint import Checkpoints
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import make_init

EXPECTED = json.loads((ROOT / "tests" / "old" / "expected.json").read_text())


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "old" / "old_files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("kind", ["run", "export"])
def test_an_old_run_and_export_open_and_give_the_embeddings_that_they_gave(old, kind):
    run, expected = open_any(old / kind), EXPECTED[kind]
    assert (run.fingerprint(), run.step, run.names) == (expected["fingerprint"], expected["step"], expected["features"])
    assert [*run.choice] == expected["choice"] and [*run.levels] == expected["levels"]
    images = np.load(old / "images.npy")[:2]
    for feature, embeddings in EXPECTED["embeddings"].items():
        np.testing.assert_allclose(run.embed(images, EXPECTED["t"], feature), embeddings, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", ["npz", "parquet", "zarr"])
def test_old_embeddings_are_read_and_are_of_the_old_run(old, suffix):
    found, run = layout.read(old / f"embeddings.{suffix}"), open_run(old / "run")
    assert found.metadata["fingerprint"] == run.fingerprint()
    expected = run.embed(np.load(old / "images.npy"), found.metadata["t"], found.metadata["feature"])
    np.testing.assert_allclose(found.embedding, expected, rtol=0, atol=1e-5)


def test_training_goes_on_from_an_old_checkpoint(old):
    config = RunDirectory(old / "run").read_config()
    optimizer = make_optimizer(config)
    checkpoints = Checkpoints(old / "run", keep=1)
    state = checkpoints.restore(jax.eval_shape(make_init(make_models(config, (8, 8, 1)), optimizer, config.train.seed)))
    checkpoints.close()
    assert int(state.step) == 20
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, open_run(old / "run").host_params())
