"""Every arm on the digits, through the programs: a few steps, resumed, drawn and probed."""

import json

import pytest
from conftest import ROOT, run_program

from ddm_embed import arms
from ddm_embed import config as config_lib
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.sample.pictures import PICTURES, obstacle

TINY = (
    "--config.model.width=16", "--config.model.heads=2", "--config.train.batch_size=16", "--config.train.log_every=5",
    "--config.train.checkpoint_every=5", "--config.train.picture_every=10", "--config.optimizer.warmup_steps=2",
    "--config.probe.after_training=False",
)  # fmt: skip
QUICK = ("--config.steps=4", "--config.images=4", "--config.samples=2", "--config.training_images=200")
ALL_PICTURES = "ddae"  # every picture is drawn of other runs in tests/sample


def objective_of(arm):
    config = config_lib.default()
    arms.apply(arm, config)
    return config.objective.name


RESUMED = {objective_of(arm): arm for arm in arms.ARMS}.values()  # an arm of each objective
# Others differ from one of these by their loss alone, which has a test of its own.
TRAINED = ("ddm-contrast", "ddae", "vae", "byol", "dino", "mae", "supervised", "random")


@pytest.mark.slow
@pytest.mark.parametrize("arm", TRAINED)
def test_an_arm_trains_is_drawn_and_probed_and_every_objective_resumed(arm, tmp_path):
    command = ("--config", f"{ROOT}/configs/digits.py:arm={arm},steps=10", *TINY, "--workdir", tmp_path)
    first = run_program("ddm_embed.main", *command)
    assert first.returncode == 0, first.stderr
    if arm == "random":
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
    elif arm in RESUMED:
        # As after a kill between the two checkpoints: the last one is not there.
        (tmp_path / "checkpoints" / "10").rename(tmp_path / "elsewhere")
        again = run_program("ddm_embed.main", *command)
        assert again.returncode == 0 and "resuming at step 5 of 10" in again.stderr, again.stderr
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [5, 10]
        assert ("reads the labels of 1038 training images" in first.stderr) == (arm == "supervised")

    run, config = RunDirectory(tmp_path).read_config(), config_lib.sample_default()
    expected = {name for name, picture in PICTURES.items() if not obstacle(picture, run, config)}
    assert bool(expected) == (run.objective.name == "diffusion")
    if expected:
        picture = "all" if arm == ALL_PICTURES else sorted(expected)[0]
        drawn = run_program("ddm_embed.sample", "--workdir", tmp_path, f"--picture={picture}", *QUICK)
        assert drawn.returncode == 0, drawn.stderr
        drawn = {path.stem for path in (tmp_path / "samples").glob("*.png")} - {"00000010"}
        assert drawn == (expected if picture == "all" else {picture})

    quick = ("--config.times=(0.0,0.5)", "--config.noise_draws=1", "--config.measures=False")
    probed = run_program("ddm_embed.probe", "--workdir", tmp_path, *quick)
    assert probed.returncode == 0 and probed.stdout.splitlines()[-1].startswith("test accuracy"), probed.stderr
