import json

import pytest
from conftest import AS_USERS_DO, run_module


@pytest.mark.slow
def test_the_main_job_reaches_what_the_readme_promises_in_half_of_its_steps(tmp_path):
    arguments = ["--config", "configs/digits.py:steps=300", "--workdir", tmp_path / "run"]
    process = run_module("ddm_embed.main", *arguments, timeout=600, XLA_FLAGS=AS_USERS_DO)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "run" / "probe" / "linear" / "results.json").read_text())
    assert results["test_accuracy"] >= 0.96 and results["test_accuracy"] > results["baselines"]["pixels"]
