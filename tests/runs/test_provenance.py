import pytest
from conftest import tiny_config

from ddm_embed import config as config_lib
from ddm_embed.runs.provenance import fingerprint, manifest


@pytest.mark.parametrize("field", ["train.seed", "name", "train.log_every", "mesh.data", "data.data_dir"])
def test_runs_that_differ_in_seed_name_or_place_have_one_hash(field):
    value = {"name": "other", "data.data_dir": "elsewhere"}.get(field, 2)
    assert fingerprint(tiny_config(**{field: value})) == fingerprint(tiny_config())


@pytest.mark.parametrize("field", ["train.steps", "embedding.dim", "optimizer.learning_rate", "model.width"])
def test_runs_that_differ_in_what_shapes_results_have_two(field):
    assert fingerprint(tiny_config(**{field: 24})) != fingerprint(tiny_config())


def test_a_manifest_names_seeds_versions_commit_and_device():
    found = manifest(tiny_config(**{"train.seed": 3}), config_lib.probe_default(), "digits")
    assert found["seeds"] == {"train": 3, "probe": 0} and found["run"] == "tiny" and found["dataset"] == "digits"
    assert found["versions"]["jax"] and found["python"] and found["device"].startswith("cpu x")
    assert found["commit"] is None or len(found["commit"]) == 40
