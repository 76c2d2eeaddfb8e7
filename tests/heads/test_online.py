import json
import logging
import operator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_on_eight

from ddm_embed.heads.gradient import fit_heads, predict
from ddm_embed.heads.online import Training, fit_online, keys_of, predict_online
from ddm_embed.heads.recipes import DDAE, MAE, changed
from ddm_embed.parallel.mesh import make_mesh

NAMES, TIMES, RATES = ("second", "first"), (0.0, 0.3), (0.01, 0.03)

pytestmark = pytest.mark.slow


def features_at(params, x0, eps, t):
    """Two layers of different widths, of an image under noise of deviation t."""
    x = (x0 + t * eps).reshape(len(x0), -1)
    first = jnp.tanh(x @ params)
    return {"first": first, "second": jnp.concatenate([first, x], axis=1)}


@pytest.fixture(scope="module")
def planted():
    """Parameters, images whose class is a pattern that flips and shifts leave, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 210).astype(np.int32)
    brightness = np.array([30, 90, 150, 210])[labels][:, None, None, None]
    images = np.clip(brightness + rng.normal(size=(210, 8, 8, 1)) * 8, 0, 255).astype(np.uint8)
    return jnp.float32(rng.normal(size=(64, 12)) / 8), images, labels


def fit(planted, recipe=DDAE, names=NAMES, times=TIMES, rates=RATES, labels=None, levels=1, **more):
    params, images, true = planted
    labels = true if labels is None else labels
    key, mesh = jax.random.key(0), make_mesh(1, 1, devices=jax.devices()[:1])
    given = Training(features_at, params, images, labels, 4, key, mesh, **more)
    return fit_online(recipe, given, times, names, rates, levels)


SMALL = changed(DDAE, batch_size=32, epochs=10)


def test_planted_classes_are_read_perfectly_and_shuffled_ones_by_chance(planted):
    params, images, labels = planted
    clean = features_at(params, jnp.float32(images) / 127.5 - 1, 0.0, 0.0)
    clean = {name: jnp.stack([x, x]) for name, x in clean.items()}

    def score(labels):
        found = predict_online(SMALL, fit(planted, SMALL, labels=labels), clean, NAMES)
        assert found.shape == (4, 2, 210)
        return np.mean(found == planted[2], axis=2)

    assert np.all(score(labels)[:2, 1] == 1.0)
    assert score(np.random.default_rng(1).permutation(labels)).max() < 0.45
    assert keys_of(NAMES, TIMES) == [("second", 0.0), ("second", 0.3), ("first", 0.0), ("first", 0.3)]


def test_all_together_is_each_alone(planted):
    together = fit(planted, SMALL)
    for name in NAMES:
        for place, t in enumerate(TIMES):
            alone = fit(planted, SMALL, (name,), (t,), RATES[1:])[name]
            for a, b in zip(jax.tree.leaves(together[name].layers), jax.tree.leaves(alone.layers), strict=True):
                np.testing.assert_allclose(a[place, 1], b[0, 0], atol=1e-5)


def test_levels_that_pass_together_train_the_same_heads(planted):
    one, many = (fit(planted, SMALL, times=(0.0, 0.3, 0.5), levels=levels) for levels in (1, 2))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), one, many)


def test_predictions_stand_in_the_order_of_names(planted):
    params, images, _ = planted
    heads = fit(planted, SMALL)
    clean = features_at(params, jnp.float32(images) / 127.5 - 1, 0.0, 0.0)
    clean = {name: jnp.stack([x, x]) for name, x in clean.items()}
    found = predict_online(SMALL, heads, clean, NAMES)
    for place, (name, t) in enumerate(keys_of(NAMES, TIMES)):
        one = jax.tree.map(operator.itemgetter(TIMES.index(t)), heads[name])
        alone = predict(SMALL, one, clean[name][0])
        np.testing.assert_array_equal(found[place], alone)


def test_images_that_are_sent_in_parts_train_the_same_heads(planted, monkeypatch):
    kept = fit(planted, SMALL)
    monkeypatch.setattr("ddm_embed.heads.online.CHUNK_BYTES", 3 * 32 * 64)  # three steps of seven at a time
    sent = fit(planted, SMALL, resident_gib=0.0, threads=2)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), kept, sent)


@pytest.mark.parametrize("recipe", [SMALL, changed(MAE, learning_rates=RATES)], ids=["adam", "lars"])
def test_without_views_and_noise_it_trains_what_is_trained_on_features_made_beforehand(planted, recipe):
    params, images, labels = planted
    recipe = changed(recipe, views="none", fresh_noise=False)
    found = fit(planted, recipe, times=(0.0,))
    features = features_at(params, jnp.float32(images) / 127.5 - 1, 0.0, 0.0)
    for name in NAMES:
        expected = fit_heads(recipe, features[name], jnp.array(labels), jnp.array(RATES), jax.random.key(0), 4)
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[0], b, atol=1e-5)


def test_noise_is_drawn_anew_in_each_step_or_kept_as_the_recipe_says(planted):
    """Noise that an image keeps can be learnt by heart, and drives weights up; new noise says nothing."""
    params, images, _ = planted
    labels = np.random.default_rng(0).integers(0, 4, 210)
    blank = (params, np.full_like(images, 128), labels)
    recipe = changed(DDAE, views="none", batch_size=64, epochs=60)
    size = {}
    for fresh in (True, False):
        heads = fit(blank, changed(recipe, fresh_noise=fresh), ("second",), (1.0,), (0.03,))["second"]
        size[fresh] = float(jnp.linalg.norm(heads.layers[0]["kernel"]))
    assert size[False] > 2 * size[True]


def test_progress_is_told_with_what_is_left(planted, caplog):
    with caplog.at_level(logging.INFO, "ddm_embed"):
        fit(planted, changed(SMALL, epochs=1))
    assert "ddae*, 8 heads: step 7/7  ETA 00:00" in caplog.text


def test_eight_devices_train_what_one_does():
    """Batches of 12, which eight do not divide."""
    found = run_on_eight(Path(__file__).parent / "online_on_eight.py")
    assert found["difference"] < 1e-5 and found["moved"] > 0.1, json.dumps(found)
