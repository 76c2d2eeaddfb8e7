import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddm_embed.heads import online
from ddm_embed.heads.finetune import finetune, make_step
from ddm_embed.heads.gradient import direction, plan
from ddm_embed.heads.linear import linear_predict, ridge, standardise
from ddm_embed.heads.recipes import FINETUNE, changed
from ddm_embed.parallel.mesh import make_mesh

QUICK = changed(FINETUNE, iterations=0, epochs=30, warmup_epochs=2, batch_size=32, learning_rates=(1e-4, 0.02))
MESH = make_mesh(1, 1, devices=jax.devices()[:1])


def features_at(params, x0, eps, t):
    x = (x0 + t * eps).reshape(len(x0), -1)
    first = jnp.tanh(x @ params["first"])
    return {"first": first, "second": jnp.tanh(first @ params["second"])}


@pytest.fixture(scope="module")
def circles():
    """Classes that are no linear function of the features: a bright pixel's parity, and eight features for sixteen."""
    rng = np.random.default_rng(0)
    at = rng.integers(0, 16, 320)
    images = np.full((320, 16), 20, np.uint8)
    images[np.arange(320), at] = 235
    images = images.reshape(320, 4, 4, 1)
    params = {"first": rng.normal(size=(16, 8)) / 20, "second": rng.normal(size=(8, 8)) / 3}
    return jax.tree.map(jnp.float32, params), images, (at % 2).astype(np.int32)


def fit(circles, labels=None, recipe=QUICK, name="second", **more):
    params, images, true = circles
    labels = (true if labels is None else labels)[:200]
    recipe = changed(recipe, views="none")
    key = jax.random.key(0)
    rates = more.pop("rates", None)
    given = online.Training(features_at, params, images[:200], labels, 2, key, MESH, **more)
    return finetune(recipe, given, images[200:], name, 0.02, rates)


@pytest.mark.slow
def test_it_learns_what_the_frozen_feature_does_not_show(circles):
    params, images, labels = circles
    x = features_at(params, jnp.float32(images) / 127.5 - 1, 0.0, 0.0)["second"]
    fit_x, held = standardise(x[:200], x[200:])
    frozen = linear_predict(held, *ridge(fit_x, jax.nn.one_hot(labels[:200], 2), jnp.array([1e-6, 1e-3])))
    assert np.mean(frozen == labels[200:], axis=1).max() < 0.9
    found = fit(circles)
    assert found.shape == (2, 120)
    right = np.mean(found == circles[2][200:], axis=1)
    assert right[0] < 0.9 and right[1] == 1.0


def test_shuffled_labels_are_read_by_chance(circles):
    found = fit(circles, np.random.default_rng(1).permutation(circles[2]))
    assert np.all(np.abs(np.mean(found == circles[2][200:], axis=1) - 0.5) < 0.14)  # three standard errors


def test_each_rate_is_what_it_is_alone_and_parameters_are_left_as_they_were(circles):
    before = jax.tree.map(np.array, circles[0])
    together = fit(circles)
    np.testing.assert_array_equal(fit(circles, rates=(0.02,))[0], together[1])
    jax.tree.map(np.testing.assert_array_equal, before, circles[0])


@pytest.mark.slow
def test_images_that_are_sent_in_parts_train_the_same_network(circles):
    np.testing.assert_array_equal(fit(circles, resident_gib=0.0), fit(circles))


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_step_is_optaxs_and_layers_above_the_feature_get_no_gradient(circles, name):
    params, images, labels = circles
    recipe = changed(QUICK, optimizer="adam", weight_decay=0.0, views="none", fresh_noise=False, warmup_epochs=0)
    length = plan(recipe, 32)
    layers = ({"kernel": jnp.ones((8, 2)) * jnp.array([0.1, -0.1]), "bias": jnp.zeros(2)},)
    trained = {"network": params, "layers": layers}
    state = trained, direction(recipe).init(trained)
    given = online.Training(features_at, params, images[:32], labels[:32], 2, jax.random.key(0), MESH)
    parts = online.chunks(given, length, jax.random.key(1), 32)
    step = make_step(recipe, given, name, length, jax.random.key(2))
    (found, _) = jax.jit(step)(state, (jnp.array(labels), jnp.float32(0.0), jnp.float32(0.01)), next(parts), 0)

    def loss(trained):
        x = features_at(trained["network"], jnp.float32(images[:32]) / 127.5 - 1, 0.0, 0.0)[name]
        logits = x @ trained["layers"][0]["kernel"] + trained["layers"][0]["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(32), labels[:32]])

    transform = optax.adam(0.01)
    move, _ = transform.update(jax.grad(loss)(trained), transform.init(trained))
    expected = optax.apply_updates(trained, move)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)
    moved = float(jnp.abs(found["network"]["second"] - params["second"]).max())
    assert (moved > 0) == (name == "second")


def test_a_recipe_that_normalises_is_refused(circles):
    with pytest.raises(ValueError, match="normalise"):
        fit(circles, recipe=changed(QUICK, normalise=True))
