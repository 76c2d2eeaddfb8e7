import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, flags_of, run_program, saved_arrays, tiny_config

from ddm_embed.diffusion.objective import Terms
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run
from ddm_embed.probe.measures import rankme
from ddm_embed.train import loop
from ddm_embed.train.loop import train
from ddm_embed.train.metrics import StepMetrics
from ddm_embed.train.progress import collapsed_below, spread


def assert_bit_identical(a, b):
    assert a.keys() == b.keys() and len(a) > 50
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def metric_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_the_readme_says(tiny_run):
    _, workdir = tiny_run
    for name in ("config.json", "versions.json", "parameters.txt", "samples/00000020.png", "checkpoints/20"):
        assert (workdir / name).exists(), name
    assert any((workdir / "tensorboard").iterdir())
    lines = metric_lines(workdir)
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    expected = {"loss", "grad_norm", "images_per_second", "mfu", "learning_rate", "loss_t0.0-0.2", "loss_t0.8-1.0"}
    expected |= {"z_cosine", "z_rankme"}
    assert expected <= lines[0].keys() and lines[-1]["loss"] < lines[0]["loss"]


def test_loss_by_noise_level_adds_up_to_the_loss(tiny_run):
    for line in metric_lines(tiny_run[1]):
        levels = [value for name, value in line.items() if name.startswith("loss_t")]
        # 16 stratified draws over 5 slices: 3 or 4 in each, so the mean over slices is the loss but for their shares.
        assert len(levels) == 5 and np.mean(levels) == pytest.approx(line["loss"], rel=0.15)


def test_asked_to_stop_it_saves_and_goes_on_bit_identically_with_images_streamed_too(tiny_run, tmp_path, monkeypatch):
    config, whole = tiny_run
    config = config.copy_and_resolve_references()
    config.data.resident_gib = 0.0  # the whole run kept them on the device
    original = loop.Progress.log

    def log_then_stop(self, step, total):
        original(self, step, total)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Progress, "log", log_then_stop)
    outcome = train(config, tmp_path / "run")
    assert not outcome.finished and outcome.step == 6
    monkeypatch.undo()
    assert train(config, tmp_path / "run").finished
    assert_bit_identical(saved_arrays(tmp_path / "run", 20), saved_arrays(whole, 20))
    steps = [line["step"] for line in metric_lines(tmp_path / "run")]
    assert steps == sorted(set(steps)) and steps[-1] == 20


@pytest.mark.slow
def test_bfloat16_products_leave_everything_kept_in_float32(tiny_run, tmp_path):
    config = tiny_config(**{"model.dtype": "bfloat16"})
    train(config, tmp_path / "run")
    arrays = saved_arrays(tmp_path / "run", 20)
    assert {a.dtype for name, a in arrays.items() if "step" not in name and "count" not in name} == {
        np.dtype("float32")
    }
    for line, exact in zip(metric_lines(tmp_path / "run"), metric_lines(tiny_run[1]), strict=True):
        assert line["loss"] == pytest.approx(exact["loss"], rel=0.02) and line["loss"] != exact["loss"]


@pytest.mark.slow
def test_killed_in_the_midst_of_it_a_run_ends_bit_identical(tmp_path):
    config = tiny_config(**{"train.steps": 300, "train.checkpoint_every": 20, "train.keep_checkpoints": 2})
    assert run_program("ddm_embed.main", *flags_of(config), "--workdir", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "ddm_embed.main", *flags_of(config), "--workdir", str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed" / "checkpoints").glob("*")):
        time.sleep(0.002)
    time.sleep(0.1)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    last = run_program("ddm_embed.main", *flags_of(config), "--workdir", tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    assert_bit_identical(saved_arrays(tmp_path / "killed", 300), saved_arrays(tmp_path / "whole", 300))


@pytest.mark.slow
def test_permuted_labels_change_no_bit_of_training(tmp_path):
    rng = np.random.default_rng(0)
    results = []
    for labels in (np.arange(40) % 4, rng.permutation(np.arange(40) % 4)):
        folder = tmp_path / f"data{len(results)}"
        folder.mkdir()
        np.save(folder / "train_images.npy", np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
        np.save(folder / "train_labels.npy", labels)
        config = tiny_config(**{"data.name": f"arrays:{folder}", "train.steps": 10})
        train(config, folder / "run")
        results.append(saved_arrays(folder / "run", 10))
    assert_bit_identical(*results)


def test_a_finished_run_is_left_alone(tiny_run, tmp_path):
    config, workdir = tiny_run[0], shutil.copytree(tiny_run[1], tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in (workdir / "checkpoints").rglob("*")}
    lines = (workdir / "metrics.jsonl").read_text()
    assert train(config, workdir).nothing_to_do
    assert before == {file: file.stat().st_mtime_ns for file in (workdir / "checkpoints").rglob("*")}
    assert lines == (workdir / "metrics.jsonl").read_text()


@pytest.mark.parametrize("codes", [np.full((5, 8), np.nan), np.ones((1, 8))])
def test_codes_that_tell_no_spread_are_left_to_the_check_of_the_loss(codes, caplog):
    """A step whose own loss was finite may leave parameters that are not: the next one says so."""
    progress = object.__new__(loop.Progress)
    progress._config, progress._encode = tiny_config(), lambda params: codes
    progress.look(None)
    assert progress._spread == {} and not caplog.text


def test_codes_that_are_one_direction_are_said_to_have_collapsed(caplog):
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(size=(50, 200)), np.ones(200) + 1e-4 * rng.normal(size=(50, 200))
    x = jnp.asarray(wide, jnp.float32)
    assert spread(wide)["z_rankme"] == pytest.approx(float(rankme(x)), rel=1e-4)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(50, dtype=bool)]
    assert spread(wide)["z_cosine"] == pytest.approx(cosines.mean(), abs=1e-9)
    assert spread(narrow)["z_rankme"] < collapsed_below(200) < spread(wide)["z_rankme"]
    assert spread(rng.normal(size=(50, 2)))["z_rankme"] > collapsed_below(2)
    progress = object.__new__(loop.Progress)
    progress._config, progress._encode = tiny_config(), lambda params: narrow[:, :8]
    progress.look(None)
    assert "z has collapsed: the codes of 50 images are nearly one direction" in caplog.text


@pytest.mark.slow
def test_a_loss_that_explodes_stops_the_run(tmp_path):
    config = tiny_config(**{"optimizer.learning_rate": 1e9, "optimizer.warmup_steps": 0, "optimizer.clip_norm": 0.0})
    with pytest.raises(UserError, match=r"not finite at step \d+; no checkpoint was saved yet"):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    config.optimizer.learning_rate = 1e-3  # what the message advises: nothing was saved, so the directory is free
    assert train(config, tmp_path / "run").finished


def test_a_nonfinite_step_is_named_with_the_last_good_checkpoint_and_never_saved(tmp_path, monkeypatch):
    @jax.jit
    def take(state, batch):
        """Counts and trains nothing; the 13th step is not finite."""
        terms = Terms(*(jnp.ones(4) for _ in Terms._fields))
        loss = jnp.where(state.step == 13, jnp.nan, 1.0)
        return dataclasses.replace(state, step=state.step + 1), StepMetrics.of_step(state.step, loss, terms, loss)

    monkeypatch.setattr(loop, "compile_step", lambda *arguments: take)
    config = tiny_config(**{"train.log_every": 100, "train.checkpoint_every": 10})
    with pytest.raises(UserError, match=r"not finite at step 13; the last good checkpoint is .*/checkpoints/10"):
        train(config, tmp_path / "run")
    assert [d.name for d in (tmp_path / "run" / "checkpoints").iterdir()] == ["10"]


def test_a_directory_of_another_run_is_refused_naming_the_fields(tiny_run, tmp_path):
    config, workdir = tiny_run[0], shutil.copytree(tiny_run[1], tmp_path / "run")
    other = config.copy_and_resolve_references()
    other.embedding.dim, other.train.seed, other.train.log_every = 9, 1, 50
    with pytest.raises(UserError, match=r"embedding\.dim was 8, is 9; train\.seed was 0, is 1\.") as error:
        train(other, workdir)
    assert "log_every" not in str(error.value)


def test_nothing_compiles_after_the_first_log_line(tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level("INFO"):
        train(tiny_config(**{"train.steps": 40, "train.checkpoint_every": 20}), tmp_path / "run")
    messages = [record.getMessage() for record in caplog.records]
    compiled = [place for place, message in enumerate(messages) if message.startswith("Compiling")]
    logged = [place for place, message in enumerate(messages) if message.startswith("step ")]
    assert len(logged) == 8 and any("train_step" in messages[place] for place in compiled)
    assert max(compiled) < logged[0], [messages[place] for place in compiled if place > logged[0]]


@pytest.mark.parametrize("emptied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_work_directory_that_is_deleted_meanwhile_holds_a_whole_run_again(
    emptied, tiny_run, tmp_path, monkeypatch, caplog
):
    log, run = loop.Progress.log, tmp_path / "run"

    def delete(progress, done, total):
        log(progress, done, total)
        if done == 15:
            while not (run / "checkpoints" / "10").exists():  # the save under way
                time.sleep(0.01)
            shutil.rmtree(run)
            if emptied:
                run.mkdir()

    monkeypatch.setattr(loop.Progress, "log", delete)
    config = tiny_config()
    assert train(config, run).finished and "was deleted or emptied" in caplog.text
    assert_bit_identical(saved_arrays(run, 20), saved_arrays(tiny_run[1], 20))
    again = train(config, run)
    assert again.finished and again.nothing_to_do and open_run(run).step == 20
