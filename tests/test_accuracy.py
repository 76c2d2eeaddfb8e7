import json

import pytest
from conftest import AS_USERS_DO, run_module


@pytest.mark.slow  # the whole main job: minutes of training
def test_the_main_job_reaches_what_the_readme_promises(tmp_path):
    arguments = ["--config", "configs/digits.py", "--workdir", tmp_path / "run", "--config.train.picture_every=0"]
    process = run_module("ddm_embed.main", *arguments, timeout=1200, XLA_FLAGS=AS_USERS_DO)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "run" / "probe" / "linear" / "results.json").read_text())
    assert results["test_accuracy"] >= 0.96 and results["test_accuracy"] > results["baselines"]["pixels"]
