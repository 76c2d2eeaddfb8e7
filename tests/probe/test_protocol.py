import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_program, tiny_config

from ddm_embed import config as config_lib
from ddm_embed.data import splits
from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank, Key
from ddm_embed.features.extract import Reading, make_extract, make_features
from ddm_embed.methods.build import make_models, make_networks
from ddm_embed.methods.diffusion import make_process
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.probe import evaluate as protocol
from ddm_embed.probe.bench import sweep
from ddm_embed.probe.pixels import pixel_features
from ddm_embed.probe.protocols import HEADS
from ddm_embed.report.page import publish
from ddm_embed.results import read
from ddm_embed.runs import directory
from ddm_embed.runs.checkpoint import restore_ema
from ddm_embed.train.loop import train


@pytest.fixture(scope="module")
def probe():
    c = config_lib.probe_default()
    c.times, c.noise_draws = (0.0, 0.3), 2
    return c


@pytest.fixture(scope="module")
def results(evaluation):
    return evaluation.results


@pytest.fixture(scope="module")
def evaluation(tiny_run, probe):
    return protocol.evaluate(tiny_run[0], probe, tiny_run[1])


def with_test_labels(monkeypatch, labels):
    """Replaces the test labels that the protocol finds; a list of how often they were read."""
    reads, original = [], directory.open_source

    def open_source(config):
        source = original(config)

        def read():
            reads.append(1)
            return labels(source.test.read_labels())

        return dataclasses.replace(source, test=Split(source.test.images, read))

    monkeypatch.setattr(directory, "open_source", open_source)
    return reads


@pytest.mark.slow
def test_validation_images_choose_and_join_the_final_fit(tiny_run, probe, monkeypatch):
    """They judge every choice alone; the encoder has not seen them."""
    original, folds = directory.open_source, []

    def open_source(config):
        source = original(config)
        return dataclasses.replace(source, validation=splits.subset(source.test, np.arange(100)))

    def split_fold(*arguments):
        folds.append(splits.split_fold(*arguments))
        return folds[-1]

    monkeypatch.setattr(directory, "open_source", open_source)
    monkeypatch.setattr(protocol, "split_fold", split_fold)
    monkeypatch.setattr(directory.RunDirectory, "check_data", lambda directory, source: None)
    quick = probe.copy_and_resolve_references()
    quick.update(times=(0.0,), noise_draws=1, selection_images=300, measures=False, protocols=("knn",))
    found = protocol.evaluate(tiny_run[0], quick, tiny_run[1]).results
    assert len(folds[0].fit) == 300 and folds[0].validation.tolist() == list(range(300, 400))
    labels = original(tiny_run[0]).test.read_labels()[:100]
    assert folds[0].labels[300:].tolist() == labels.tolist()
    told = found["protocol"]
    assert told["selection_validation_images"] == 100 and told["training_images"] == 1397
    assert told["selection"].endswith("held-out validation images")


def test_every_feature_is_probed_at_every_noise_level_by_every_head(results):
    points = {(e["feature"], e["t"], e["protocol"]) for e in results["profile"]}
    layers = ("encoder_1", "denoiser_1", "denoiser_2")
    features = ("z", *layers, *(f"{layer}_2x2" for layer in layers))
    assert points == {(f, t, h) for f in features for t in (0.0, 0.3) for h in ("ridge", "knn")}
    assert len(points) == len(results["profile"])


def test_what_is_chosen_is_the_best_on_held_out_images(results):
    ridge = [e for e in results["profile"] if e["protocol"] == "ridge"]
    assert results["selected"]["validation_accuracy"] == max(e["validation_accuracy"] for e in ridge)
    assert results["test_accuracy"] == pytest.approx(np.mean(results["test_accuracy_draws"]))
    assert results["test_accuracy"] > 0.3  # chance is 0.1: twenty steps, but pooled patches already tell digits apart


def test_test_labels_are_read_once_and_choose_nothing(tiny_run, probe, results, monkeypatch):
    rng = np.random.default_rng(0)
    reads = with_test_labels(monkeypatch, lambda labels: rng.integers(0, 10, len(labels)))
    monkeypatch.setattr(protocol, "LARGEST_CONFUSION", 9)
    found = protocol.evaluate(tiny_run[0], probe, tiny_run[1])
    noise, sparse = found.results, found.atlas["confusion"]
    assert len(reads) == 1
    assert noise["confusion"] is None and sparse[:, 2].sum() == 500 and sparse[:, 2].min() > 0
    right = sparse[sparse[:, 0] == sparse[:, 1], 2].sum() / 500
    assert right == noise["test_accuracy_draws"][0]
    for name in ("profile", "selected", "baseline_choices"):
        assert noise[name] == results[name]
    assert abs(noise["test_accuracy"] - 0.1) < 0.05 < results["test_accuracy"] - noise["test_accuracy"]


def test_random_features_are_rectified_random_projections_of_standardised_pixels():
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 2, 1), np.uint8)
    images[:, 0, 0] = 7  # a pixel that never changes
    train, test = pixel_features(images[:20], images[20:], np.arange(15))["random_relu"]
    flat = images.reshape(30, 6) / 255
    deviation = flat[:15].std(axis=0)
    standardised = (flat - flat[:15].mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1)
    keys = jax.random.split(jax.random.key(0))
    weights, shifts = jax.random.normal(keys[0], (6, 1500)) / 6**0.5, jax.random.normal(keys[1], (1500,))
    expected = np.maximum(standardised @ np.asarray(weights) + np.asarray(shifts), 0)[:, :15]
    np.testing.assert_allclose(np.concatenate([train, test]), expected, atol=1e-4)


def test_the_pixel_baseline_is_scikit_learns(results):
    from sklearn.linear_model import Ridge

    source = directory.open_source(tiny_config())
    x, y = source.train.images.reshape(1297, -1) / 255.0, source.train.read_labels()
    scale = np.where(x.std(0) > 0, x.std(0), 1)
    strength = results["baseline_choices"]["pixels"]["hyper"]
    chosen_on = results["protocol"]["selection_fit_images"]  # the penalty stays as it was chosen
    reference = Ridge(alpha=strength * chosen_on).fit((x - x.mean(0)) / scale, np.eye(10)[y])
    predicted = reference.predict((source.test.images.reshape(500, -1) / 255.0 - x.mean(0)) / scale).argmax(1)
    expected = np.mean(predicted == source.test.read_labels())
    assert results["baselines"]["pixels"] == pytest.approx(expected, abs=0.0021)  # one image of 500


def test_features_do_not_depend_on_the_batch_size(tiny_run):
    config, workdir = tiny_run
    source = directory.open_source(config)
    models, images = make_models(config, source.image_shape), np.asarray(source.train.images[:30])
    _, params = restore_ema(workdir, jax.eval_shape(models.init, jax.random.key(0)))
    names = models.features

    def read(batch_size, draw):
        features_of = make_features(make_networks(models, config), make_process(config), False)
        bank = make_extract(features_of, make_mesh(1, 1), Reading(batch_size))(params, images, (0.5,), draw, names)
        return {name: bank.one(Key(name, 0.5)) for name in names}

    few, many, other = read(7, 1), read(30, 1), read(30, 2)
    assert list(few) == names == ["z", "encoder_1", "denoiser_1", "denoiser_2"]
    for name in names:
        np.testing.assert_allclose(few[name], many[name], atol=1e-5)
        assert not np.allclose(other[name], many[name], atol=1e-3)


def test_features_averaged_over_draws_vary_less_from_draw_to_draw(tiny_run):
    config, workdir = tiny_run
    source = directory.open_source(config)
    models, images = make_models(config, source.image_shape), np.asarray(source.train.images[:30])
    _, params = restore_ema(workdir, jax.eval_shape(models.init, jax.random.key(0)))
    features_of, key = make_features(make_networks(models, config), make_process(config), True), Key("denoiser_2", 0.5)

    def variance(averaged):
        extract = make_extract(features_of, make_mesh(1, 1), Reading(30, averaged=averaged))
        draws = [extract(params, images, (key.t,), draw, [key.name]).one(key) for draw in range(12)]
        return float(jnp.mean(jnp.var(jnp.stack(draws), axis=0)))

    assert variance(9) == pytest.approx(variance(1) / 9, rel=0.15)  # 30 images x 16 dims x 11 degrees of freedom


def test_results_are_written_printed_and_drawn(evaluation, results, tmp_path, capsys):
    publish(evaluation, tmp_path)
    written = read((tmp_path / "results.json").read_text(), tmp_path, "")
    assert written.pop("predictions") and written == json.loads(json.dumps(results))
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"
    lines = capsys.readouterr().out.splitlines()
    pattern = r"test accuracy 0\.\d{4} \+- 0\.\d{4} \(feature=\w+, t=[\d.]+; pixels 0\.\d{4}\)"
    assert re.fullmatch(pattern, lines[-1]) and any("denoiser_2" in line for line in lines)


@pytest.fixture(scope="module")
def short(tiny_run, tmp_path_factory):
    """(what the program printed, its results) of a short probe of a sample."""
    workdir = shutil.copytree(tiny_run[1], tmp_path_factory.mktemp("short") / "run")
    values = ("times=0.3,", "noise_draws=1", "measures=False", "selection_images=200", "training_images=1000")
    arguments = ["--workdir", workdir, "--config", "configs/probe.py:name=short", *(f"--config.{v}" for v in values)]
    process = run_program("ddm_embed.probe", *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads((workdir / "probe" / "short" / "results.json").read_text())


def test_the_program_probes_a_run_by_the_config_and_its_overrides(short):
    last = short[0].splitlines()[-1]
    assert last.startswith("test accuracy 0.") and "t=0.3" in last


def test_a_large_set_is_chosen_on_a_sample_and_fitted_whole(short, results):
    sampled = short[1]["protocol"]
    assert [sampled[name] for name in ("selection_fit_images", "selection_validation_images")] == [160, 40]
    assert sampled["training_images"] == 1000 and results["protocol"]["training_images"] == 1297


@pytest.mark.slow
def test_a_denoiser_without_an_encoder_is_probed_too(tmp_path, probe):
    config = tiny_config(**{"embedding.input": "none", "train.steps": 6})
    probe = probe.copy_and_resolve_references()
    probe.measures = False
    train(config, tmp_path / "run")
    features = {e["feature"] for e in protocol.evaluate(config, probe, tmp_path / "run").results["profile"]}
    assert features == {"denoiser_1", "denoiser_2", "denoiser_1_2x2", "denoiser_2_2x2"}


def labelled(labels):
    images = np.zeros((10, 8, 8, 1), np.uint8)
    return Split(images, None if labels is None else lambda: np.asarray(labels))


@pytest.mark.parametrize(
    ("train_split", "test_split", "message"),
    [(labelled(None), None, "no labels"), (labelled([0] * 10), None, "no labelled test images")],
)
def test_why_a_dataset_cannot_be_probed_is_said(train_split, test_split, message):
    assert message in splits.obstacle(Source("mine", train_split, test_split, None))


def test_one_class_is_refused():
    with pytest.raises(UserError, match="one class"):
        splits.split_fold(np.zeros(10, np.int32), 1, 0.2, 0)
    with pytest.raises(UserError, match="holds out 0"):
        splits.split_fold(np.arange(4), 4, 0.1, 0)


def test_features_that_are_not_finite_are_refused(probe):
    fold = splits.split_fold(np.arange(20) % 2, 2, 0.2, 0)
    with pytest.raises(UserError, match=r"feature z at t=0\.3 is not finite"):
        bank = Bank({"z": jnp.full((1, 20, 3), jnp.nan)}, (0.3,), 20)
        sweep(HEADS["ridge"](probe), bank, bank.keys, fold, make_mesh(1, 1), 0)
