import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.metrics import average_precision_score

from ddm_embed.errors import UserError
from ddm_embed.probe import measures


def codes(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (50, 50)])
def test_rankme_is_the_papers_formula(shape):
    x = codes(*shape) @ np.diag(np.geomspace(1, 1e-4, shape[1])).astype(np.float32)
    sigma = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    np.testing.assert_allclose(measures.rankme(x), np.exp(-np.sum(p * np.log(p))), rtol=1e-4)


def test_rankme_of_orthonormal_columns_is_their_number():
    x = np.linalg.qr(codes(200, 12))[0]
    np.testing.assert_allclose(measures.rankme(x), 12, rtol=1e-4)
    assert measures.rankme(x[:, :3] @ codes(3, 40)) < 3.01


def test_rankme_runs_over_stacked_features():
    x = codes(4, 60, 7)
    np.testing.assert_allclose(jax.vmap(measures.rankme)(x), [measures.rankme(each) for each in x], rtol=1e-5)
    np.testing.assert_allclose(jax.lax.map(measures.uniformity, x), [measures.uniformity(e) for e in x], rtol=1e-5)


@pytest.mark.parametrize("alpha", [1, 2])
def test_alignment_is_the_mean_distance_of_unit_codes(alpha):
    a, b = codes(50, 6), codes(50, 6, seed=1)
    expected = np.mean(np.linalg.norm(unit(a) - unit(b), axis=1) ** alpha)
    np.testing.assert_allclose(measures.alignment(a, b, alpha), expected, rtol=1e-5)
    assert measures.alignment(a, 3 * a) < 1e-10


@pytest.mark.parametrize("t", [2, 500])  # at 500 every term of the sum is below float32's smallest
def test_uniformity_is_the_log_mean_potential_of_pairs(t):
    x = np.concatenate([codes(70, 3) * 5, -codes(1, 3)])
    x = np.eye(6, dtype=np.float32)[:4] if t == 500 else x
    expected = np.log(np.mean(np.exp(-t * pdist(unit(x).astype(np.longdouble), "sqeuclidean").astype(np.longdouble))))
    for chunk in (1, 16, 500):
        np.testing.assert_allclose(measures.uniformity(x, t, chunk=chunk), expected, rtol=1e-5)


def gram_cka(x, y):
    center = np.eye(len(x)) - 1 / len(x)
    k, m = (center @ (a.astype(np.float64) @ a.T) @ center for a in (x, y))
    return np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))


def test_linear_cka_is_hsic_of_the_gram_matrices_whatever_the_dims():
    features = [codes(45, 8) + 3, codes(45, 30, seed=1) * 1e-4, codes(45, 60, seed=2) * 1e4]
    features.append(features[0] @ codes(8, 8, seed=3))
    expected = [[gram_cka(x, y) for y in features] for x in features]
    np.testing.assert_allclose(measures.linear_cka(features), expected, atol=1e-5)


def test_linear_cka_is_the_same_however_many_rows_are_taken_at_a_time():
    features = [codes(45, 8, seed=seed) for seed in range(3)]
    for chunk in (1, 7, 45):
        np.testing.assert_allclose(measures._linear_cka(features, chunk), measures.linear_cka(features), atol=1e-6)


def test_linear_cka_knows_no_rotation_scale_or_shift():
    x = codes(60, 9)
    rotation = np.linalg.qr(codes(9, 9, seed=1))[0]
    np.testing.assert_allclose(measures.linear_cka([x, 5 * x @ rotation + 2]), np.ones((2, 2)), atol=1e-5)


def reference_map(features, labels, queries, query_labels, alone):
    mean = features.mean(axis=0)
    score = unit(queries - mean) @ unit(features - mean).T
    each = []
    for i, label in enumerate(query_labels):
        others = np.arange(len(features)) != i if alone else np.full(len(features), True)
        right = labels[others] == label
        if right.any():
            each.append(average_precision_score(right, score[i][others]))
    return np.mean(each), len(query_labels) - len(each)


def test_retrieval_is_scikit_learns_average_precision_over_queries():
    features, labels = codes(120, 5), np.random.default_rng(0).integers(0, 4, 120)
    features[np.arange(120), labels] += 1
    labels[7] = 9  # its class has no other
    found = measures.retrieval_map(features, labels, chunk=32)
    expected = reference_map(features, labels, features, labels, True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.left_out == 1

    queries, query_labels = codes(30, 5, seed=1), np.arange(30) % 5  # no image is of class 4
    found = measures.retrieval_map(features, labels, queries, query_labels)
    np.testing.assert_allclose(found, reference_map(features, labels, queries, query_labels, False), rtol=1e-4)
    assert found.left_out == 6


def test_retrieval_counts_equal_codes_together_not_by_their_order():
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = np.tile([0, 0, 1, 1], 3)
    for order in (np.arange(12), np.arange(12)[::-1]):
        found = measures.retrieval_map(features[order], labels[order], np.eye(3)[:1], np.array([0]))
        np.testing.assert_allclose(found.mean_average_precision, 0.5, rtol=1e-5)


FALLING = np.linspace(0.9, 0.2, 17)
PEAKED = 0.9 - 1.2 * (np.linspace(0, 1, 17) - 0.2) ** 2


def drawn(shares, number, seed):
    """Accuracies of independent draws of the number of images."""
    return list(zip(np.linspace(0, 1, 17), np.random.default_rng(seed).binomial(number, shares) / number, strict=True))


def test_a_steady_fall_is_told_from_a_peak():
    levels = np.linspace(0, 1, 17)
    falling = measures.memorisation(list(zip(levels, FALLING, strict=True))[::-1], 1000)
    assert falling["falls_steadily"] and falling["peak_t"] == falling["lowest_t"] == 0
    assert falling["fall"] == pytest.approx(0.7) and falling["rise"] == 0
    assert falling["standard_error"] == pytest.approx(np.sqrt(0.9 * 0.1 / 1000), rel=0.02)
    peaked = measures.memorisation(list(zip(levels, PEAKED, strict=True)), 1000)
    assert not peaked["falls_steadily"] and 0.15 < peaked["peak_t"] < 0.25
    assert peaked["rise"] == pytest.approx(0.9 - PEAKED[0], abs=0.01)


@pytest.mark.parametrize("number", [250, 2000])
def test_noise_neither_triggers_nor_hides_the_warning(number):
    def share(shares):
        return np.mean([measures.memorisation(drawn(shares, number, s), number)["falls_steadily"] for s in range(200)])

    assert share(FALLING) > 0.85
    assert share(np.full(17, 0.6)) < 0.03
    assert share(PEAKED) < 0.03
    assert share(np.where(np.arange(17) < 5, 0.9, FALLING)) < 0.1  # a plateau, then a fall


def test_few_images_are_not_certain_even_where_all_are_right():
    assert not measures.memorisation([(0, 1.0), (0.5, 0.5), (1, 0.5)], 2)["falls_steadily"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: measures.rankme(np.full((5, 3), np.nan)), "not finite"),
        (lambda: measures.rankme(np.ones((5, 3))), "collapsed"),
        (lambda: measures.rankme(np.ones((1, 3))), "at least 2"),
        (lambda: measures.check_features(np.stack([codes(5, 3), np.ones((5, 3))])), "1 of 2"),
        (lambda: measures.alignment(codes(4, 3), codes(5, 3)), "shapes"),
        (lambda: measures.uniformity(np.array([[0.0, 0.0], [1, 2]])), "no direction"),
        (lambda: measures.linear_cka([codes(2, 3), codes(2, 3)]), "at least 3"),
        (lambda: measures.linear_cka([codes(5, 3), codes(6, 3)]), "same images"),
        (lambda: measures.linear_cka([]), "same images"),
        (lambda: measures.linear_cka([codes(5, 3), np.ones((5, 3))]), r"features\[1\]"),
        (lambda: measures.retrieval_map(codes(5, 3), np.zeros(5, int)), "class 0"),
        (lambda: measures.retrieval_map(codes(5, 3), np.arange(5)), "no query"),
        (lambda: measures.retrieval_map(codes(5, 3), np.arange(5) % 2, codes(2, 3)), "query_labels"),
        (lambda: measures.memorisation([(0.1, 0.5), (0.2, 0.4)], 100), "three"),
        (lambda: measures.memorisation([(0.1, 0.5), (0.2, 0.4), (0.3, np.nan)], 100), "shares"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_two_images_are_measured_where_that_means_anything():
    x = codes(2, 4)
    values = [measures.rankme(x), measures.uniformity(x), measures.alignment(x, x)]
    values.append(measures.retrieval_map(codes(3, 4), np.array([0, 0, 1])).mean_average_precision)
    assert np.all(np.isfinite(jnp.stack(values)))
