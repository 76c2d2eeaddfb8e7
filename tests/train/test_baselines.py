import io
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import run_once, saved_arrays, tiny_config

from ddm_embed import arms
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run
from ddm_embed.methods.build import make_models
from ddm_embed.methods.untrained import open_gates
from ddm_embed.train import loop
from ddm_embed.train.loop import train


def arm_config(arm, **changes):
    config = tiny_config(**changes)
    arms.apply(arm, config)
    return config


def logged(workdir, name):
    return [json.loads(line)[name] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_random_arm_saves_the_initialisation_bit_for_bit(tmp_path):
    config = arm_config("random")
    assert train(config, tmp_path / "run").finished
    models = make_models(config, (8, 8, 1))
    expected = jax.jit(lambda key: open_gates(models.init(key)))(jax.random.key(config.train.seed))
    assert set(expected) == {"encoder"} and models.features == ["z", "encoder_1"]
    trained = open_run(tmp_path / "run")
    assert trained.step == 0
    jax.tree.map(np.testing.assert_array_equal, trained.params, expected)
    bias = np.asarray(expected["encoder"]["block_0"]["modulation"]["bias"]).reshape(6, -1)
    assert bias.mean(axis=1).tolist() == [0, 0, 1, 0, 0, 1]  # shift, scale and gate of either branch
    assert train(config, tmp_path / "run").nothing_to_do
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_all_arms_begin_with_the_same_encoder():
    first = {}
    for arm in ("ddm", "ae", "vae", "simclr", "byol", "mae", "supervised", "random"):
        models = make_models(arm_config(arm), (8, 8, 1), classes=10)
        encoder = jax.jit(lambda key, models=models: models.init(key)["encoder"])(jax.random.key(0))
        encoder.pop("log_variance", None)  # of vae alone
        first = first or encoder
        jax.tree.map(np.testing.assert_array_equal, encoder, first)


# An arm of each objective that trains.
ARM_OF = {arm_config(arm).objective.name: arm for arm in arms.ARMS if arm != "random"}


@pytest.mark.parametrize("arm", ARM_OF.values())
def test_only_the_supervised_arm_meets_a_label(arm, tmp_path, monkeypatch):
    """Its batches, as the loop hands them to the step; nothing is compiled."""
    seen = []

    class Seen(Exception):
        pass

    def step(state, batch):
        seen.append(batch)
        raise Seen

    monkeypatch.setattr(loop, "create", lambda *arguments: SimpleNamespace(step=0))
    monkeypatch.setattr(loop, "compile_step", lambda *arguments: step)
    monkeypatch.setattr(loop, "open_progress", lambda *arguments: io.StringIO())  # something to close
    with pytest.raises(Seen):
        train(arm_config(arm), tmp_path / "run")
    assert set(seen[0]) == ({"image", "label"} if arm == "supervised" else {"image"})


@pytest.fixture(scope="module")
def supervised_run(tmp_path_factory):
    config = arm_config("supervised", **{"train.steps": 200, "optimizer.learning_rate": 1e-2, "train.log_every": 50})
    return run_once(tmp_path_factory, "supervised", config)


@pytest.mark.slow
def test_the_supervised_arm_learns_the_digits(supervised_run):
    accuracy = logged(supervised_run[1], "accuracy")
    assert accuracy[0] < 0.6 and accuracy[-1] > 0.8
    assert json.loads((supervised_run[1] / "classes.json").read_text()) == list(range(10))


@pytest.mark.slow  # test_loop has the same of a run without labels
def test_a_supervised_run_resumes_bit_identically_streamed_or_not(supervised_run, tmp_path):
    config, whole = supervised_run
    config = config.copy_and_resolve_references()
    config.data.resident_gib = 0.0
    stop_at = 63

    original = loop.compile_step

    class Killed(Exception):
        pass

    def killed(*arguments):
        step, taken = original(*arguments), []

        def take(state, batch):
            taken.append(None)
            if len(taken) > stop_at:
                raise Killed
            return step(state, batch)

        return take

    config.train.checkpoint_every = 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "compile_step", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run").finished
    again, expected = saved_arrays(tmp_path / "run", 200), saved_arrays(whole, 200)
    assert again.keys() == expected.keys() and any("classifier" in name for name in again)
    for name, value in expected.items():
        assert again[name].tobytes() == value.tobytes(), name


@pytest.mark.slow
def test_labels_that_do_not_begin_at_nought_are_learned_and_missing_ones_refused(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train_images.npy", rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
    config = arm_config("supervised", **{"data.name": f"arrays:{tmp_path}", "train.steps": 10})
    with pytest.raises(UserError, match="has no labels to learn"):
        train(config, tmp_path / "run")
    np.save(tmp_path / "train_labels.npy", np.array([5, 900])[np.arange(40) % 2])
    assert train(config, tmp_path / "run").finished
    assert open_run(tmp_path / "run").models.module("classifier").features == 2


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["vae", "mae"])  # others compare the images of a batch, or are like them
def test_parts_of_a_batch_give_the_gradient_of_the_whole(arm, tmp_path):
    curves = []
    for parts in (1, 4):
        config = arm_config(arm, **{"train.accumulate": parts, "train.log_every": 1, "train.steps": 10})
        train(config, tmp_path / str(parts))
        curves.append(logged(tmp_path / str(parts), "loss"))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)
