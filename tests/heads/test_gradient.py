from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddm_embed.heads import gradient
from ddm_embed.heads.gradient import Heads, fit_heads, make_fit_predict, predict, scores, update
from ddm_embed.heads.recipes import DDAE, DINOV2, MAE, MLP, changed

FROZEN_DDAE = changed(DDAE, views="none", fresh_noise=False)
SHORT = {
    "ddae": changed(FROZEN_DDAE, learning_rates=(0.03, 0.1)),
    "mae": changed(MAE, learning_rates=(1.0, 2.0), epochs=400),  # few images: LARS needs long to leave its start
    "dinov2": changed(DINOV2, learning_rates=(0.1, 0.3), iterations=60),
    "mlp": changed(MLP, epochs=10, learning_rates=(0.01, 0.003), hidden=32),
}


@pytest.fixture(scope="module")
def planted():
    """Features [feature, number, dim] of which classes are linear functions, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    centres = rng.normal(size=(2, 4, 12))
    x = centres[:, labels] + 0.05 * rng.normal(size=(2, 400, 12))
    return jnp.float32(x), jnp.int32(labels)


@pytest.mark.parametrize("name", SHORT)
def test_planted_classes_are_read_perfectly_and_shuffled_ones_by_chance(name, planted):
    x, labels = planted
    recipe = SHORT[name]
    fit_predict = jax.jit(make_fit_predict(recipe), static_argnums=5)
    rates = jnp.array(recipe.learning_rates)

    def score(labels):
        found = fit_predict(x[0, :250], labels[:250], x[0, 250:], rates, jax.random.key(0), 4)
        assert found.shape == (2, 150)
        return np.mean(found == labels[250:], axis=1)

    assert score(labels).max() == 1.0
    chance = score(jax.random.permutation(jax.random.key(1), labels))
    assert np.all(np.abs(chance - 0.25) < 0.12)  # three standard errors of 150 guesses


@pytest.mark.parametrize(
    "name", [name if name in ("ddae", "mlp") else pytest.param(name, marks=pytest.mark.slow) for name in SHORT]
)
def test_all_together_is_each_alone(name, planted):
    x, labels = planted
    recipe, key = changed(SHORT[name], epochs=min(SHORT[name].epochs, 90)), jax.random.key(3)
    rates = jnp.array(recipe.learning_rates)
    train = jax.jit(partial(fit_heads, recipe, key=key, classes=4))
    together = jax.vmap(lambda one: train(one, labels, rates))(x)
    for feature in range(2):
        for hyper in range(2):
            alone = train(x[feature], labels, rates[hyper : hyper + 1])
            for a, b in zip(jax.tree.leaves(together.layers), jax.tree.leaves(alone.layers), strict=True):
                np.testing.assert_allclose(a[feature, hyper], b[0], atol=1e-5)


@pytest.mark.slow
def test_training_is_a_plain_loop_of_optaxs_adam(planted):
    """Against a loop that knows nothing of scans, weights and stacked heads, with an incomplete last batch."""
    x, labels = planted[0][0, :300], planted[1][:300]
    recipe = changed(FROZEN_DDAE, epochs=3)
    key = jax.random.key(5)
    order_key = jax.random.split(key, 3)[1]
    found, start = (
        jax.jit(partial(fit_heads, recipe, key=key, classes=4))(x, labels, jnp.array([rate])) for rate in (0.01, 0.0)
    )
    start = start.layers
    params = jax.tree.map(lambda leaf: leaf[0], start)
    length = gradient.plan(recipe, 300)
    assert length == (128, 3, 9)
    schedule = [0.01 * (1 + np.cos(np.pi * epoch / 3)) / 2 for epoch in range(3)]
    transform = optax.inject_hyperparams(optax.adam)(0.01)
    state = transform.init(params)

    def loss(params, x, y):
        logits = x @ params[0]["kernel"] + params[0]["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    @jax.jit
    def step(params, state, x, y):
        move, state = transform.update(jax.grad(loss)(params, x, y), state)
        return optax.apply_updates(params, move), state

    for epoch in range(3):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), 300)
        state.hyperparams["learning_rate"] = jnp.float32(schedule[epoch])
        for begin in range(0, 300, 128):
            at = order[begin : begin + 128]
            params, state = step(params, state, x[at], labels[at])
    for a, b in zip(jax.tree.leaves(found.layers), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a[0], b, atol=1e-5)


@pytest.mark.parametrize("rows", [6, 8])
def test_batch_norm_uses_the_batch_to_train_and_running_statistics_to_predict(rows):
    """With the moments that PyTorch's documentation of BatchNorm1d states; rows of weight 0 are not there."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(2.0, 3.0, size=(rows, 5)))
    labels = jnp.int32(rng.integers(0, 3, rows))
    weights = jnp.float32(np.arange(rows) < 6)
    layers = ({"kernel": jnp.float32(rng.normal(size=(1, 5, 3))), "bias": jnp.zeros((1, 3))},)
    sgd = changed(MAE, optimizer="sgd", momentum=0.0)
    state = jax.tree.map(
        lambda leaf: leaf[None], gradient.direction(sgd).init(jax.tree.map(lambda leaf: leaf[0], layers))
    )
    heads = Heads(layers, jnp.zeros(5), jnp.ones(5), state)
    new = jax.jit(partial(update, sgd))(heads, jnp.array(x), labels, weights, jnp.array([0.1]), jax.random.key(0))
    real = x[:6]
    np.testing.assert_allclose(new.mean, 0.1 * real.mean(0), rtol=1e-4)
    np.testing.assert_allclose(new.variance, 0.9 + 0.1 * real.var(0, ddof=1), rtol=1e-4)

    def loss(kernel):
        logits = (real - real.mean(0)) / np.sqrt(real.var(0) + 1e-6) @ kernel
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels[:6]])

    expected = layers[0]["kernel"][0] - 0.1 * jax.grad(loss)(layers[0]["kernel"][0])
    np.testing.assert_allclose(new.layers[0]["kernel"][0], expected, atol=1e-5)
    logits = (x - new.mean) / np.sqrt(new.variance + 1e-6) @ new.layers[0]["kernel"][0] + new.layers[0]["bias"][0]
    assert predict(sgd, new, jnp.array(x))[0].tolist() == np.argmax(logits, axis=1).tolist()


def test_dropout_spares_three_quarters_and_keeps_the_mean():
    layers = ({"kernel": jnp.eye(4), "bias": jnp.zeros(4)}, {"kernel": jnp.eye(4), "bias": jnp.zeros(4)})
    recipe, x = changed(MLP, hidden=4), jnp.ones((20_000, 4))
    kept = jax.random.bernoulli(jax.random.key(0), 0.75, x.shape)
    dropped = scores(recipe, layers, x, kept)
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3], rtol=1e-6)
    assert abs(float(jnp.mean(dropped)) - 1) < 0.01
    np.testing.assert_array_equal(scores(recipe, layers, x), x)


def test_positions_of_a_batch_are_gathered_once_for_all_features(planted):
    """Were they batched, a feature would cost a gather of its own: the program indexes [feature, number, dim] along
    numbers alone."""
    x, labels = planted
    train = partial(fit_heads, FROZEN_DDAE, key=jax.random.key(0), classes=4)
    program = str(jax.make_jaxpr(jax.vmap(lambda one: train(one, labels, jnp.array([0.01]))))(x))
    gathers = [line for line in program.splitlines() if "f32[2,128,12] = gather" in line]
    assert len(gathers) == 1 and "operand_batching_dims=()" in program


def test_a_recipe_of_views_is_refused_on_features_made_beforehand(planted):
    with pytest.raises(ValueError, match="fit_online"):
        fit_heads(DDAE, planted[0][0], planted[1], jnp.array([0.01]), jax.random.key(0), 4)
