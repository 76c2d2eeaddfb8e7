import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny_config
from probed import joint_results, write_run
from sklearn.datasets import load_digits
from speed_transform import measure

from ddm_embed.data.augment import to_float
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.features.choice import choose
from ddm_embed.features.exported import open_any
from ddm_embed.features.extract import pooled
from ddm_embed.features.run import Run, open_run
from ddm_embed.train.loop import train

IMAGES = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def frozen(tiny_run):
    return open_run(tiny_run[1])


@pytest.fixture
def compilations():
    """A list that grows by one with every program that XLA compiles."""
    seen = []

    def listen(event, _seconds, **_):
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.clear_event_listeners()


def test_a_thousand_images_compile_one_program_and_any_fewer_after_them_none(tiny_run, compilations):
    frozen = open_run(tiny_run[1])
    many = IMAGES[:1000]
    compilations.clear()  # restoring compiles too
    whole = frozen.embed(many, [0.2])
    assert len(compilations) == 1
    for number in (1, 2, 63, 64, 65, 999, 1000):
        np.testing.assert_array_equal(frozen.embed(many[:number], [0.2]), whole[:number])
    assert frozen.embed(many[:100], [0.1, 0.7, 0.9]).shape == (100, 3, 8)
    assert len(compilations) == 1


def test_a_small_call_compiles_a_small_batch(tiny_run):
    frozen = open_run(tiny_run[1])
    frozen.embed(IMAGES[:3], [0.2])
    assert [size for _, size in frozen._programs] == [4]


def test_embeddings_are_what_the_encoder_says(tiny_run, frozen):
    trained = open_run(tiny_run[1])
    x0 = to_float(IMAGES[:5])
    for t in (0.0, 0.3):
        z = trained.networks.encode(trained.params, x0, np.full(5, t, np.float32)).z
        np.testing.assert_allclose(frozen.embed(IMAGES[:5], [t], "z")[:, 0], z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("feature", ["z", "denoiser_2"])
def test_an_embedding_depends_on_the_image_alone(frozen, feature):
    whole = frozen.embed(IMAGES[:20], [0.5], feature)
    turned = frozen.embed(IMAGES[:20][::-1], [0.5], feature)[::-1]
    alone = np.concatenate([frozen.embed(IMAGES[i : i + 1], [0.5], feature) for i in range(20)])
    np.testing.assert_allclose(whole, turned, atol=1e-6)
    np.testing.assert_allclose(whole, alone, atol=1e-6)


def test_a_layer_is_read_as_a_mean_by_quarters_of_the_image_or_with_its_largest(frozen):
    quarters, mean = (frozen.embed(IMAGES[:3], [0.3], name) for name in ("encoder_1_2x2", "encoder_1"))
    assert quarters.shape[2] == 4 * mean.shape[2]
    np.testing.assert_allclose(quarters.reshape(3, 1, 4, -1).mean(axis=2), mean, atol=1e-6)  # there are 2x2 tokens
    tokens = np.random.default_rng(0).normal(size=(2, 3 * 4, 5))
    found = pooled("encoder", [tokens], (2, 12, 16, 1))["encoder_1_2x2"].reshape(2, 4, 5)
    grid = tokens.reshape(2, 3, 4, 5)
    parts = [grid[:, :2, :2], grid[:, :2, 2:], grid[:, 2:, :2], grid[:, 2:, 2:]]
    np.testing.assert_allclose(found, np.stack([part.mean(axis=(1, 2)) for part in parts], axis=1), atol=1e-6)
    sequence = pooled("encoder", [tokens], (2, 1, 96, 1))
    assert list(sequence) == ["encoder_1", "encoder_1_max"]
    beside = np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1)
    np.testing.assert_allclose(sequence["encoder_1_max"], beside, atol=1e-6)
    assert frozen.width("encoder_1_max") == 2 * mean.shape[2]
    found = [frozen.pooled(ways) for ways in (["mean", "levels"], ["mean", "max"])]
    assert found == [frozen.names, [*frozen.names, "encoder_1_max", "denoiser_1_max", "denoiser_2_max"]]


def test_a_pickled_encoder_embeds_alike(tiny_run):
    opened = open_run(tiny_run[1])  # anew: one that has compiled for a larger batch may differ in the last bit
    again = pickle.loads(pickle.dumps(opened))
    assert again.fingerprint() == opened.fingerprint()
    np.testing.assert_array_equal(again.embed(IMAGES[:4], [0.2]), opened.embed(IMAGES[:4], [0.2]))


def test_a_fingerprint_does_not_depend_on_how_numbers_are_printed(frozen):
    scale = Scale(np.full(2, 1 / 3, np.float32), np.ones(2, np.float32))
    one = Run(frozen.config, (1, 8, 2), frozen.params, 20, "here", scale)
    before = one.fingerprint()
    with np.printoptions(precision=2):
        assert one.fingerprint() == before != frozen.fingerprint()


def test_the_probes_choice_is_taken_and_without_one_z(tiny_run, frozen, tmp_path):
    assert (frozen.choice.feature, frozen.choice.t) == ("z", 0.2) and "not been probed" in frozen.choice.by
    assert frozen.choice.feature in frozen.names

    def probe(name, feature, t, created):
        results = {
            "selected": {"feature": feature, "t": t}, "checkpoint_step": 20, "protocol": {"times": [0.0, 0.5]},
            "manifest": {"created": created},
        }  # fmt: skip
        (tmp_path / "probe" / name).mkdir(parents=True)
        (tmp_path / "probe" / name / "results.json").write_text(json.dumps(results))

    probe("other", "encoder_1", 0.5, "2026-01-02")
    assert choose(tmp_path, frozen.models, False)[0][:2] == ("encoder_1", 0.5)
    probe("newer", "denoiser_1", 0.5, "2026-01-03")
    choice, levels = choose(tmp_path, frozen.models, False)
    assert choice[:2] == ("denoiser_1", 0.5) and levels == (0.0, 0.5) and "probe newer" in choice.by
    probe("linear", "z", 0.0, "2026-01-01")  # the default's name comes first
    assert choose(tmp_path, frozen.models, False)[0][:2] == ("z", 0.0)


def test_of_a_choice_of_several_levels_the_best_single_one_is_taken_and_said(frozen, tmp_path):
    write_run(tmp_path, joint_results(), predictions=False)
    choice, _ = choose(tmp_path, frozen.models, False)
    points = [p for p in joint_results()["profile"] if p["protocol"] == "ridge" and p["t"] is not None]
    best = max(points, key=lambda point: point["validation_accuracy"])
    assert choice[:2] == (best["feature"], best["t"]) != ("z@levels", None)
    assert choice.by == "probe linear of step 2000, of one level; it chose z@levels"


def test_what_it_cannot_embed_is_refused(frozen):
    with pytest.raises(UserError, match=r"expected uint8 \[8, 8, 1\]"):
        frozen.embed(IMAGES[:2, :4], [0.2])
    with pytest.raises(UserError, match="expected uint8"):
        frozen.embed(IMAGES[:2].astype(np.float32), [0.2])
    for times in ([], [1.5], [float("nan")]):
        with pytest.raises(UserError, match="noise levels"):
            frozen.embed(IMAGES[:2], times)
    with pytest.raises(UserError, match="use one of z, encoder_1, denoiser_1, denoiser_2"):
        frozen.embed(IMAGES[:2], [0.2], "encoder_9")


def test_no_image_gives_no_row(frozen):
    assert frozen.embed(IMAGES[:0], [0.1, 0.2]).shape == (0, 2, 8)


def test_what_holds_no_run_is_refused(tmp_path, tiny_run):
    with pytest.raises(UserError, match="holds no run"):
        open_any(tmp_path)
    shutil.copy(tiny_run[1] / "config.json", tmp_path)
    with pytest.raises(UserError, match="has not begun"):
        open_any(tmp_path)
    shutil.copy(tiny_run[1] / "data.json", tmp_path)
    with pytest.raises(UserError, match="no sound checkpoint"):
        open_any(tmp_path)


def test_what_fits_the_memory_is_a_batch(frozen):
    assert frozen.batch_size() == 64 * jax.local_device_count()


@pytest.mark.slow
def test_a_config_of_a_static_code_has_one_level(tiny_run, tmp_path):
    from ddm_embed import arms

    config = tiny_config(**{"train.steps": 6, "train.checkpoint_every": 6})
    arms.apply("ae", config)
    train(config, tmp_path / "run")
    frozen = open_run(tmp_path / "run")
    assert frozen.levels == (0.0,) and frozen.choice[:2] == ("z", 0.0)


@pytest.mark.slow
def test_transform_is_about_as_fast_as_the_encoder_by_itself(tmp_path):
    config = tiny_config(**{"model.width": 192, "model.heads": 3, "model.encoder_depth": 2, "train.steps": 6})
    train(config, tmp_path / "run")
    # Another program on this machine disturbs one measurement, seldom three.
    assert any(measure(tmp_path / "run", 1000, 15)["ratio"] < 1.1 for _ in range(3))
