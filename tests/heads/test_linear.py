from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from ddm_embed import config as config_lib
from ddm_embed.heads import linear
from ddm_embed.heads.linear import logistic


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    features = np.concatenate([images, images**2, np.random.default_rng(0).normal(size=(len(images), 8))], axis=1)
    return features[:1200].astype(np.float32), labels[:1200], features[1200:].astype(np.float32), labels[1200:]


def test_ridge_agrees_with_scikit_learn_at_every_strength(digits):
    fit, labels, held, _ = digits
    fit, held = (np.asarray(x) for x in linear.standardise(fit, held))
    strengths = config_lib.probe_default().strengths
    weights, bias = linear.ridge(fit, jax.nn.one_hot(labels, 10), jnp.array(strengths))
    predicted = linear.linear_predict(held, weights, bias)
    for i, strength in enumerate(strengths):
        reference = Ridge(alpha=strength * len(fit)).fit(fit.astype(np.float64), np.eye(10)[labels])
        np.testing.assert_allclose(weights[i], reference.coef_.T, atol=1e-4)
        np.testing.assert_allclose(bias[i], reference.intercept_, atol=1e-4)
        agree = np.argmax(reference.predict(held), axis=1) == predicted[i]
        assert agree.mean() > 0.998  # ties within float32


def test_ridge_survives_more_dimensions_than_images_and_constant_columns():
    x = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    x[:, 3] = 7.0
    (x,) = linear.standardise(x)
    assert not np.any(x[:, 3])
    weights, bias = linear.ridge(x, np.eye(2)[np.arange(20) % 2], jnp.array([1e-6, 1.0]))
    assert np.all(np.isfinite(weights)) and np.all(np.isfinite(bias))


def test_nearest_neighbours_agree_with_scikit_learn(digits):
    fit, labels, held, _ = digits
    mean = fit.mean(axis=0)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = reference.fit(fit - mean, labels).predict(held - mean)
    found = linear.nearest(jnp.asarray(fit), jnp.asarray(labels), jnp.asarray(held), 10, 20, 0.07, chunk=100)
    assert np.mean(found == expected) > 0.998  # ties within float32


def test_fewer_images_than_neighbours():
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    assert linear.nearest(x, jnp.array([0, 1, 1]), x, 2, neighbours=20).tolist() == [0, 1, 1]


def test_planted_linear_features_are_read_perfectly_and_shuffled_labels_by_chance():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 3000)
    planted = np.eye(5)[labels] @ rng.normal(size=(5, 32)) + 0.01 * rng.normal(size=(3000, 32))
    planted = planted.astype(np.float32)

    def score(labels):
        weights, bias = linear.ridge(planted[:2000], jax.nn.one_hot(labels[:2000], 5), jnp.array([1e-3]))
        return float(linear.accuracy(linear.linear_predict(planted[2000:], weights, bias), labels[2000:])[0])

    assert score(labels) == 1.0
    assert abs(score(rng.permutation(labels)) - 0.2) < 0.04  # three standard errors of 1,000 guesses


STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


@pytest.fixture(scope="module")
def standardised():
    images, labels = load_digits(return_X_y=True)
    fit, held = (np.asarray(x) for x in linear.standardise(images[:1200].astype(np.float32), images[1200:]))
    return fit, labels[:1200], held, labels[1200:]


def test_logistic_regression_agrees_with_scikit_learn_in_coefficients_and_accuracy_at_every_strength(standardised):
    fit, labels, held, truth = standardised
    found = jax.jit(partial(logistic, classes=10))(fit, labels, jnp.asarray(STRENGTHS))
    predicted = linear.linear_predict(held, found.weights, found.intercepts)
    assert np.all(found.gradient <= 1e-6)
    for i, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(C=1 / (strength * len(fit)), tol=1e-8, max_iter=5000)
        reference.fit(fit.astype(np.float64), labels)
        np.testing.assert_allclose(found.weights[i], reference.coef_.T, atol=1e-3)
        np.testing.assert_allclose(found.intercepts[i], reference.intercept_, atol=2e-3)
        assert np.mean(predicted[i] == truth) == pytest.approx(reference.score(held, truth), abs=0.001)


def test_each_strength_is_its_own_problem_in_any_order(standardised):
    fit, labels, _, _ = standardised
    run = jax.jit(partial(logistic, classes=10))
    up, down = run(fit, labels, jnp.asarray([1e-2, 1.0])), run(fit, labels, jnp.asarray([1.0, 1e-2]))
    np.testing.assert_allclose(up.weights, down.weights[::-1], atol=1e-6)


@pytest.mark.slow
def test_separable_classes_and_constant_columns_end_finite():
    x = np.repeat(np.eye(3, 5, dtype=np.float32), 20, axis=0)
    found = logistic(jnp.asarray(x), jnp.repeat(jnp.arange(3), 20), jnp.asarray([1e-5, 1.0]), 3)
    assert np.all(np.isfinite(found.weights)) and np.all(np.isfinite(found.intercepts))
    assert np.all(linear.linear_predict(x, found.weights, found.intercepts) == np.repeat(np.arange(3), 20))
