from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from ddm_embed.errors import UserError
from ddm_embed.heads.fewshot import choose, draw_shots, leave_one_out, predict, select

STRENGTHS = jnp.array([1e-3, 1e-1, 10.0])


@pytest.fixture(scope="module")
def planted():
    """Stacks of noise, of a weak and of a strong feature of the class, with queries."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    rng.shuffle(labels)

    def stack(noises, dim):
        centres = rng.normal(size=(len(noises), 3, dim))
        noise = np.array(noises)[:, None, None] * rng.normal(size=(len(noises), 180, dim))
        return jnp.float32(5 * (centres[:, labels] + noise) + 2)

    stacks = [stack((100.0, 3.0), 30), stack((100.0, 0.05, 100.0), 8)]
    return [x[:, :120] for x in stacks], labels[:120], [x[:, 120:] for x in stacks], labels[120:]


class Found(NamedTuple):
    predictions: np.ndarray
    key: np.ndarray
    strength: np.ndarray
    chosen_by: np.ndarray


def fewshot(features, labels, queries, shots, strengths, classes, fallback=None):
    """What each draw chooses, and its predictions of the queries [draw, query]."""
    chosen = select(features, labels, shots, strengths, classes, fallback)
    pairs = [pair for stacks in zip(features, queries, strict=True) for pair in zip(*stacks, strict=True)]
    found = [
        predict(*pairs[key], jnp.asarray(labels), drawn, jnp.float32(strengths[strength]), classes)
        for key, strength, drawn in zip(chosen.key, chosen.strength, shots, strict=True)
    ]
    return Found(np.stack(found), *chosen)


def test_shots_are_of_every_class_and_differ_from_draw_to_draw(planted):
    labels = planted[1]
    shots = draw_shots(labels, 3, 5, 20, seed=1)
    assert shots.shape == (20, 15) and np.array_equal(labels[shots], np.tile(np.repeat(np.arange(3), 5), (20, 1)))
    assert all(len(set(row)) == 15 for row in shots) and len({tuple(row) for row in shots}) == 20
    np.testing.assert_array_equal(draw_shots(labels, 3, 5, 20, seed=1), shots)


def test_a_class_with_too_few_is_named():
    with pytest.raises(UserError, match=r"class 1 has 2 training images; use at most 2"):
        draw_shots(np.array([0, 0, 0, 1, 1]), 2, 3, 1, seed=0)
    with pytest.raises(UserError, match=r"class 2 has 0"):
        draw_shots(np.array([0, 0, 0, 1, 1]), 3, 1, 1, seed=0)


@pytest.mark.parametrize("group", [0, 1])  # more dimensions than shots, and fewer
def test_errors_of_shots_left_out_are_scikit_learns(planted, group):
    stack, labels = np.asarray(planted[0][group]), planted[1]
    shots = draw_shots(labels, 3, 4, 10, seed=0)
    accuracy, error = leave_one_out(planted[0][group], labels, shots, STRENGTHS, 3)
    assert accuracy.shape == error.shape == (10, len(stack), 3)
    for draw in (0, 9):
        for key in range(len(stack)):
            x = np.float64((stack[key] - stack[key].mean(0)) / stack[key].std(0))[shots[draw]]
            y = np.eye(3)[labels[shots[draw]]]
            for place, strength in enumerate(STRENGTHS):
                reference = RidgeCV([float(strength) * 12], store_cv_results=True).fit(x, y)
                squared = reference.cv_results_[..., 0]
                np.testing.assert_allclose(error[draw, key, place], squared.mean(), rtol=2e-3)


def test_each_shot_is_told_as_when_it_was_never_there(planted):
    """Brute force: a regression for each shot left out, whose penalty is that of all shots."""
    stack, labels = np.asarray(planted[0][0]), planted[1]
    shots = draw_shots(labels, 3, 2, 4, seed=0)
    accuracy, _ = leave_one_out(planted[0][0], labels, shots, STRENGTHS, 3)
    for draw in range(4):
        x = ((stack[1] - stack[1].mean(0)) / stack[1].std(0))[shots[draw]]
        y = labels[shots[draw]]
        for place, strength in enumerate(STRENGTHS):
            right = []
            for out in range(6):
                rest = np.arange(6) != out
                reference = Ridge(float(strength) * 6).fit(x[rest], np.eye(3)[y[rest]])
                right.append(np.argmax(reference.predict(x[out : out + 1])) == y[out])
            assert accuracy[draw, 1, place] == pytest.approx(np.mean(right))


def test_predictions_are_scikit_learns(planted):
    features, labels, queries, _ = planted
    shots = draw_shots(labels, 3, 1, 5, seed=0)
    found = fewshot(features, labels, queries, shots, STRENGTHS, 3, fallback=(1, 1))
    stack, asked = np.asarray(features[0][1]), np.asarray(queries[0][1])
    mean, deviation = stack.mean(0), stack.std(0)
    for draw in range(5):
        x, y = (stack[shots[draw]] - mean) / deviation, np.eye(3)[labels[shots[draw]]]
        expected = Ridge(0.1 * 3).fit(x, y).predict((asked - mean) / deviation).argmax(axis=1)
        assert np.mean(found.predictions[draw] == expected) > 0.98
    assert np.all(found.key == 1) and np.all(found.strength == 1) and np.all(np.isnan(found.chosen_by))


@pytest.mark.slow
@pytest.mark.parametrize("per_class", [2, 10])
def test_the_planted_feature_is_chosen_and_read_perfectly(planted, per_class):
    features, labels, queries, true = planted
    shots = draw_shots(labels, 3, per_class, 12, seed=0)
    found = fewshot(features, labels, queries, shots, STRENGTHS, 3)
    assert np.mean(found.key == 3) > 0.8 and np.all(found.chosen_by == 1.0)
    strong = found.predictions[found.key == 3]
    assert np.mean(strong == true) == 1.0


def test_shuffled_labels_are_read_by_chance(planted):
    features, labels, queries, true = planted
    labels = np.random.default_rng(0).permutation(labels)
    found = fewshot(features, labels, queries, draw_shots(labels, 3, 5, 40, seed=0), STRENGTHS, 3)
    assert abs(np.mean(found.predictions == true) - 1 / 3) < 0.08


def test_labels_of_images_that_were_not_drawn_change_nothing(planted):
    features, labels, queries, _ = planted
    shots = draw_shots(labels, 3, 2, 1, seed=0)
    other = np.random.default_rng(0).integers(0, 3, 120)
    other[shots[0]] = labels[shots[0]]
    a, b = (fewshot(features, y, queries, shots, STRENGTHS, 3) for y in (labels, other))
    for one, two in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_shot_a_class_needs_a_choice_made_without_labels(planted):
    features, labels, queries, _ = planted
    with pytest.raises(UserError, match="fallback"):
        fewshot(features, labels, queries, draw_shots(labels, 3, 1, 2, seed=0), STRENGTHS, 3)


def test_of_equally_accurate_ones_the_least_wrong_is_chosen():
    accuracy = np.array([[[0.5, 0.9], [0.9, 0.9]]])
    error = np.array([[[0.0, 0.3], [0.2, 0.2]]])
    assert [int(a[0]) for a in choose(accuracy, error)] == [1, 0]


def test_identical_shots_and_constant_features_give_no_nan():
    features = [jnp.zeros((1, 6, 4)), jnp.ones((1, 6, 4)).at[0, :, 0].set(jnp.array([0.0, 0, 0, 1, 1, 1]))]
    labels, shots = np.array([0, 0, 0, 1, 1, 1]), np.array([[0, 1, 3, 4]])
    found = fewshot(features, labels, features, shots, jnp.array([1e-6]), 2)
    assert found.key[0] == 1 and found.predictions[0].tolist() == labels.tolist()
