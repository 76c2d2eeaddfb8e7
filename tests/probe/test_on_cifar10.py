"""The judge's arithmetic on features of real photographs, against scikit-learn, SciPy, optax and direct formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.features.bank import Key
from ddm_embed.features.extract import Reading, make_extract, make_features
from ddm_embed.heads import linear
from ddm_embed.heads.gradient import direction
from ddm_embed.heads.linear import logistic
from ddm_embed.heads.recipes import RECIPES
from ddm_embed.methods.build import make_models, make_networks
from ddm_embed.methods.diffusion import make_process
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.probe import measures

pytestmark = pytest.mark.slow
STRENGTHS = (1e-3, 1e-2, 1e-1)
NAMES = ["z", "encoder_1", "denoiser_1", "denoiser_2"]


@pytest.fixture(scope="module")
def cifar(tfds_dir):
    """(features by (name, t) of 2,400 images, labels), of networks with random parameters in every block."""
    config = tiny_config(**{"data.name": "tfds:cifar10", "data.data_dir": str(tfds_dir), "model.variant": "Ti/8"})
    config.update_from_flattened_dict({"model.width": 32, "embedding.dim": 24})
    source = open_source(config)
    models = make_models(config, source.image_shape)
    shapes, keys = models.init(jax.random.key(0)), iter(jax.random.split(jax.random.key(1), 1000))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), shapes)
    features_of = make_features(make_networks(models, config), make_process(config), True)
    images = source.train.images[np.arange(2400)]
    bank = make_extract(features_of, make_mesh(1, 1), Reading(400))(params, images, (0.0, 0.4), 0, NAMES)
    assert all(float(jnp.std(bank.one(key))) > 1e-3 for key in bank.keys)
    return {key: np.asarray(bank.one(key)) for key in bank.keys}, source.train.read_labels()[:2400]


@pytest.mark.parametrize("key", [Key("z", 0.0), Key("denoiser_2", 0.4)])
def test_logistic_regression_is_scikit_learns(cifar, key):
    from sklearn.linear_model import LogisticRegression

    features, labels = cifar
    fit, held = (np.asarray(x) for x in linear.standardise(features[key][:1600], features[key][1600:]))
    found = jax.jit(partial(logistic, classes=10))(fit, labels[:1600], jnp.asarray(STRENGTHS))
    predicted = linear.linear_predict(held, found.weights, found.intercepts)
    for i, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(C=1 / (strength * 1600), tol=1e-8, max_iter=10_000)
        reference.fit(fit.astype(np.float64), labels[:1600])
        np.testing.assert_allclose(found.weights[i], reference.coef_.T, atol=1e-3)
        accuracy = float(linear.accuracy(predicted[i], labels[1600:]))
        assert accuracy == pytest.approx(reference.score(held, labels[1600:]), abs=0.00126)  # one image of 800


def test_nearest_neighbours_are_scikit_learns(cifar):
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = cifar
    x = features[Key("encoder_1", 0.0)]
    mean = x[:1600].mean(axis=0)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = reference.fit((x[:1600] - mean).astype(np.float64), labels[:1600]).predict(x[1600:] - mean)
    found = linear.nearest(jnp.asarray(x[:1600]), jnp.asarray(labels[:1600]), jnp.asarray(x[1600:]), 10, 20, 0.07)
    assert np.mean(found == expected) > 0.996  # ties within float32


def test_rankme_and_cka_are_their_formulas(cifar):
    features, _ = cifar
    x, y = (features[key][:1000].astype(np.float64) for key in (Key("z", 0.0), Key("denoiser_1", 0.4)))
    singular = np.linalg.svd(x, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert float(measures.rankme(x.astype(np.float32))) == pytest.approx(
        np.exp(-np.sum(share * np.log(share))), rel=1e-3
    )
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    cka = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    found = measures.linear_cka([jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)])
    assert float(found[0, 1]) == pytest.approx(cka, abs=1e-4)


def test_lars_is_optaxs_on_gradients_of_a_head(cifar):
    features, labels = cifar
    (x,) = linear.standardise(features[Key("z", 0.0)])
    rate = 0.3
    ours, theirs = direction(RECIPES["mae"]), optax.lars(rate, momentum=0.9)
    params = {"kernel": 0.01 * jax.random.normal(jax.random.key(0), (x.shape[1], 10))}

    def loss(params):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ params["kernel"], jnp.asarray(labels)))

    one, other = params, params
    state, reference = ours.init(params), theirs.init(params)
    for _ in range(5):
        updates, state = ours.update(jax.grad(loss)(one), state, one)
        one = optax.apply_updates(one, jax.tree.map(lambda u: rate * u, updates))
        updates, reference = theirs.update(jax.grad(loss)(other), reference, other)
        other = optax.apply_updates(other, updates)
    assert float(jnp.max(jnp.abs(one["kernel"] - params["kernel"]))) > 1e-4
    np.testing.assert_allclose(one["kernel"], other["kernel"], atol=1e-6)


def test_ridge_is_scikit_learns_at_the_probes_strengths(cifar):
    from sklearn.linear_model import Ridge

    features, labels = cifar
    fit, held = (np.asarray(x) for x in linear.standardise(*np.split(features[Key("denoiser_2", 0.4)], [1600])))
    strengths = config_lib.probe_default().strengths
    predicted = linear.linear_predict(
        held, *linear.ridge(fit, jax.nn.one_hot(labels[:1600], 10), jnp.asarray(strengths))
    )
    for i, strength in enumerate(strengths):
        reference = Ridge(alpha=strength * 1600).fit(fit.astype(np.float64), np.eye(10)[labels[:1600]])
        assert np.mean(predicted[i] == reference.predict(held).argmax(axis=1)) > 0.996
