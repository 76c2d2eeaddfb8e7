import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddm_embed.data.augment import AUGMENTATIONS
from ddm_embed.errors import UserError
from ddm_embed.heads import gradient as steps
from ddm_embed.heads import recipes
from ddm_embed.heads.recipes import DDAE, DINOV2, MAE, MLP, RECIPES, changed


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_presets_are_named_sound_and_survive_json(recipe):
    recipes.check(recipe)
    assert RECIPES[recipe.name] is recipe and recipe.views in AUGMENTATIONS
    settings = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert changed(recipe, **{k: v for k, v in settings.items() if k not in ("name", "source", "differs")}) is recipe


def test_a_changed_preset_has_another_name_and_says_what_changed():
    other = changed(DDAE, epochs=3)
    assert other.name == "ddae*" and other.epochs == 3 and "epochs=3" in other.differs
    assert changed(other, epochs=4).name == "ddae*" and changed(DDAE, epochs=15) is DDAE


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"epoch": 3}, "epoch is no setting"), ({"name": "x"}, "no setting"), ({"optimizer": "adamx"}, "use one of adam")],
)
def test_wrong_settings_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        changed(DDAE, **overrides)


def test_an_empty_recipe_is_refused():
    with pytest.raises(UserError, match="a step at least"):
        changed(DDAE, epochs=0)


def test_lengths_on_the_sets_of_the_papers():
    assert steps.plan(DDAE, 50_000) == (128, 391, 15 * 391)
    assert steps.plan(MAE, 1_281_167) == (16384, 78, 90 * 78)
    assert steps.plan(DINOV2, 1_281_167).steps == 12_500
    assert steps.plan(MLP, 45_000) == (256, 175, 17_500)
    assert steps.plan(MAE, 1000) == (1000, 1, 90)


def test_rates_follow_the_batch_where_the_recipe_says_so():
    np.testing.assert_allclose(steps.scaled(MAE, jnp.array([0.1]), 16384), [6.4])
    np.testing.assert_allclose(steps.scaled(DDAE, jnp.array([1e-3]), 64), [1e-3])


@pytest.mark.parametrize("recipe", [MAE, DINOV2, changed(DINOV2, warmup_epochs=1, epochs=4, iterations=0)])
def test_the_cosine_in_every_step_is_optaxs(recipe):
    length = steps.plan(recipe, 5000)
    warmup = round(recipe.warmup_epochs * length.per_epoch)
    reference = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, length.steps)
    if not warmup:
        reference = optax.cosine_decay_schedule(1.0, length.steps)
    at = np.unique(np.linspace(0, length.steps - 1, 50).astype(int))
    found = [steps.rate_factor(recipe, length, step) for step in at]
    np.testing.assert_allclose(found, [reference(step) for step in at], atol=1e-5)


def test_ddaes_rate_is_kept_over_each_epoch():
    length = steps.plan(DDAE, 1000)
    found = [float(steps.rate_factor(DDAE, length, step)) for step in range(length.steps)]
    expected = [(1 + math.cos(math.pi * epoch / 15)) / 2 for epoch in range(15) for _ in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_epoch_sees_every_image_once_and_marks_rows_that_fill_up():
    length = steps.plan(changed(DDAE, batch_size=8), 21)
    positions, weights = (np.asarray(a) for a in steps.epoch_positions(jax.random.key(0), 21, length, 0, 10))
    assert positions.shape == weights.shape == (3, 10)
    assert sorted(positions[weights > 0]) == list(range(21)) and weights.sum(axis=1).tolist() == [8, 8, 5]
    other, _ = steps.epoch_positions(jax.random.key(0), 21, length, 1, 10)
    assert not np.array_equal(other, positions)


def test_an_incomplete_batch_is_left_out_where_the_recipe_says_so():
    length = steps.plan(changed(MAE, batch_size=8), 21)
    positions, weights = steps.epoch_positions(jax.random.key(0), 21, length, 0, 8)
    assert positions.shape == (2, 8) and bool(jnp.all(weights == 1)) and len(np.unique(positions)) == 16


def walk(recipe, rates, gradients, start):
    """Parameters after each gradient, by the recipe's direction."""
    transform, params, path = steps.direction(recipe), start, []
    state = transform.init(params)
    for rate, gradient in zip(rates, gradients, strict=True):
        move, state = transform.update(gradient, state, params)
        params = jax.tree.map(lambda leaf, change, rate=rate: leaf + rate * change, params, move)
        path.append(params)
    return path


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)

    def tree():
        return {"kernel": rng.normal(size=(6, 3)), "bias": rng.normal(size=3)}

    return jax.tree.map(jnp.float32, tree()), [jax.tree.map(jnp.float32, tree()) for _ in range(5)]


@pytest.mark.parametrize(
    ("recipe", "reference"),
    [
        (DDAE, optax.adam),
        (changed(DDAE, optimizer="adamw", weight_decay=0.1), lambda rate: optax.adamw(rate, weight_decay=0.1)),
        (DINOV2, lambda rate: optax.sgd(rate, momentum=0.9)),
        (
            MAE,
            lambda rate: optax.lars(
                rate, momentum=0.9, trust_ratio_mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
            ),
        ),
    ],
    ids=["adam", "adamw", "sgd", "lars"],
)
def test_at_a_constant_rate_the_steps_are_optaxs(recipe, reference, problem):
    params, gradients = problem
    found = walk(recipe, [0.05] * 5, gradients, params)
    transform = reference(0.05)
    state = transform.init(params)
    for gradient, expected in zip(gradients, found, strict=True):
        move, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, move)
        for name in params:
            np.testing.assert_allclose(expected[name], params[name], rtol=2e-5, atol=1e-6)


def test_lars_is_the_papers_with_the_rate_after_momentum_and_vectors_left_alone(problem):
    """You et al. 2017, arXiv 1708.03888, eq. 6: local rate = trust |w| / (|g| + beta |w|); the decayed gradient's norm
    is taken whole, |g + beta w|, as in MAE's code and optax."""
    params, gradients = problem
    decay, rates = 0.01, [0.0, 1.0, 2.0, 1.5, 0.5]
    found = walk(changed(MAE, weight_decay=decay), rates, gradients, params)
    w = {name: np.float64(leaf) for name, leaf in params.items()}
    momentum = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    for rate, gradient, step in zip(rates, gradients, found, strict=True):
        for name in w:
            g = np.float64(gradient[name])
            if name == "kernel":
                g = g + decay * w[name]
                g = g * 0.001 * np.linalg.norm(w[name]) / np.linalg.norm(g)
            momentum[name] = 0.9 * momentum[name] + g
            w[name] = w[name] - rate * momentum[name]
            np.testing.assert_allclose(step[name], w[name], rtol=1e-5, atol=1e-6)
