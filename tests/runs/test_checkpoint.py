import json
import shutil
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.methods.build import make_models
from ddm_embed.runs import checkpoint
from ddm_embed.runs.checkpoint import Checkpoints, checkpoint_steps, damage, restore_ema
from ddm_embed.train.loop import train
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import make_init


def abstract_state(config):
    models = make_models(config, (8, 8, 1))
    return jax.eval_shape(make_init(models, make_optimizer(config), 0))


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the finished run, with checkpoints 10 and 20, to be damaged."""
    config, workdir = tiny_run
    shutil.copytree(workdir, tmp_path / "run")
    return config, tmp_path / "run"


def restored_step(config, workdir):
    checkpoints = Checkpoints(workdir, keep=3)
    state = checkpoints.restore(abstract_state(config))
    checkpoints.close()
    return None if state is None else int(state.step)


def test_the_newest_checkpoint_is_restored(run):
    assert checkpoint_steps(run[1]) == [10, 20] and restored_step(*run) == 20


def test_any_damaged_file_is_noticed_and_the_checkpoint_before_is_taken(run, tmp_path, caplog):
    config, workdir = run
    newest = workdir / "checkpoints" / "20"
    covered = json.loads((newest / "digest.json").read_text())
    files = [newest / name for name in covered] + [newest / "digest.json"]
    others = {file.name for file in newest.rglob("*") if file.is_file()} - {file.name for file in files}
    assert len(files) > 10 and others <= {"_CHECKPOINT_METADATA", "commit_success.txt"}  # written by the commit itself
    for file in files:  # each file in turn: flipped, cut short, gone
        whole = file.read_bytes()
        damaged = [whole[: len(whole) // 2], None] if whole else [None]
        damaged += [whole[:-1] + bytes([whole[-1] ^ 1])] if whole and file.name != "digest.json" else []
        for content in damaged:
            file.unlink() if content is None else file.write_bytes(content)
            assert damage(newest) is not None, file
            file.write_bytes(whole)
    assert damage(newest) is None

    big = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(big.read_bytes())
    content[len(content) // 2] ^= 1
    big.write_bytes(content)
    assert restored_step(config, workdir) == 10
    assert "checkpoint 20 is damaged" in caplog.text and (workdir / "corrupt" / "20").is_dir()


@pytest.mark.slow
def test_after_a_fall_back_training_reaches_the_end_again(run):
    config, workdir = run
    (workdir / "checkpoints" / "20" / "_CHECKPOINT_METADATA").unlink()
    assert train(config, workdir).finished
    assert checkpoint_steps(workdir) == [10, 20] and damage(workdir / "checkpoints" / "20") is None


def test_when_all_are_damaged_it_says_so_and_deletes_nothing(run):
    config, workdir = run
    for step in (10, 20):
        (workdir / "checkpoints" / str(step) / "digest.json").unlink()
    with pytest.raises(UserError, match="every checkpoint was damaged"):
        restored_step(config, workdir)
    assert (workdir / "corrupt" / "10").is_dir() and (workdir / "corrupt" / "20").is_dir()


def test_the_probe_reads_ema_alone_and_skips_a_damaged_one_in_place(run):
    config, workdir = run
    shapes = abstract_state(config).ema_params
    step, params = restore_ema(workdir, shapes)
    assert step == 20 and jax.tree.structure(params) == jax.tree.structure(shapes)
    shutil.rmtree(workdir / "checkpoints" / "20" / "train")
    assert restore_ema(workdir, shapes)[0] == 10 and (workdir / "checkpoints" / "20").is_dir()


@pytest.mark.parametrize("field", ["dtype", "shape", "missing"])
def test_orbax_may_not_cast_or_guess(run, field):
    config, workdir = run
    shapes = abstract_state(config).ema_params
    kernel = shapes["encoder"]["code"]["kernel"]
    changed = {
        "dtype": jax.ShapeDtypeStruct(kernel.shape, "bfloat16"),
        "shape": jax.ShapeDtypeStruct((16, 9), kernel.dtype),
        "missing": {"more": kernel},
    }
    shapes["encoder"]["code"]["kernel"] = changed[field]
    with pytest.raises(UserError, match="encoder/code/kernel"):
        restore_ema(workdir, shapes)


def test_a_save_that_fails_stops_training(tmp_path):
    config = tiny_config()
    workdir = tmp_path / "run"
    workdir.mkdir()
    state = jax.jit(make_init(make_models(config, (8, 8, 1)), make_optimizer(config), 0))()
    (workdir / "checkpoints").write_text("a file where the directory should be")
    checkpoints = Checkpoints(workdir, keep=3)
    with pytest.raises(UserError, match="could not be written"):
        checkpoints.save(1, state, config_lib.to_json(config))


def test_moving_average_is_the_recursion():
    from ddm_embed.train.optimizer import ema_rate, update_ema

    config = tiny_config()  # whose ema_decay is 0.9
    ema, values = {"w": jax.numpy.zeros(2)}, np.random.default_rng(0).normal(size=(30, 2))
    expected = np.zeros(2)
    for step, value in enumerate(values):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        ema = update_ema(ema, {"w": jax.numpy.asarray(value)}, ema_rate(config, jax.numpy.int32(step)))
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)
    config.optimizer.ema_schedule = "cosine"  # from 0.9 to 1: BYOL, sec. 3.3
    taus = [1 - float(ema_rate(config, jax.numpy.int32(step))) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(taus, [1 - 0.1 * (np.cos(np.pi * k / 20) + 1) / 2 for k in (0, 5, 10, 20)], rtol=1e-6)


class Small(flax.struct.PyTreeNode):
    step: Any
    params: Any
    ema_params: Any
    opt_state: Any


SMALL = Small(jnp.zeros((), int), {"kernel": jnp.ones(3)}, {"kernel": jnp.full(3, 2.0)}, {"mean": jnp.ones(3)})


@pytest.mark.parametrize("name", ["sweep[lr=1e-3]", "back\\slash"])
def test_the_first_checkpoint_is_read_before_saves_are_trusted(tmp_path, name):
    refused = pytest.raises(UserError, match="checkpoints cannot be read from a path with")
    with refused, Checkpoints(tmp_path / name, keep=1) as checkpoints:
        checkpoints.save(1, SMALL, "{}")
    with pytest.raises(UserError, match="checkpoints cannot be read from a path with"):  # of a run that was renamed
        restore_ema(tmp_path / name, SMALL.ema_params)


def test_a_first_checkpoint_that_is_not_as_it_was_saved_stops_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "damage", lambda folder: "ema/d has changed")
    refused = pytest.raises(UserError, match=r"checkpoints/1 cannot be read again \(ema/d has changed\)")
    with refused, Checkpoints(tmp_path / "many", keep=1) as checkpoints:
        checkpoints.save(1, SMALL, "{}")
        checkpoints.save(2, SMALL, "{}")
    assert checkpoint_steps(tmp_path / "many") == [1]
    with refused, Checkpoints(tmp_path / "one", keep=1) as checkpoints:
        checkpoints.save(1, SMALL, "{}")
    with pytest.raises(KeyError), Checkpoints(tmp_path / "failed", keep=1) as checkpoints:
        checkpoints.save(1, SMALL, "{}")
        raise KeyError


@pytest.mark.parametrize("moment", ["damage", "_check_shapes", "_is_whole"])
@pytest.mark.parametrize("wholly", [True, False])
def test_a_reader_takes_the_newest_where_training_deletes_what_it_reads(tmp_path, monkeypatch, caplog, moment, wholly):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, SMALL, "{}")
    checkpoints.close()
    first, before = tmp_path / "checkpoints" / "1", getattr(checkpoint, moment)

    def training_goes_on(*given):
        if first.exists() and not (tmp_path / "checkpoints" / "2").exists():
            shutil.copytree(first, tmp_path / "checkpoints" / "2")
            if wholly:
                shutil.rmtree(first)
            else:
                shutil.rmtree(first / "ema")
        return before(*given)

    monkeypatch.setattr(checkpoint, moment, training_goes_on)
    step, params = restore_ema(tmp_path, SMALL.ema_params)
    assert step == 2 and "damaged" not in caplog.text
    np.testing.assert_array_equal(params["kernel"], SMALL.ema_params["kernel"])
