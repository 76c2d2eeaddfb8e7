"""Few labels a class, drawn many times: ridge regression on frozen features, chosen by the labels drawn and no others.

Feature, noise level and strength are chosen by leaving out one shot at a time, in closed form. The regression is solved
in its dual form, whose size is the number of shots, so that thousands of (feature, draw) pairs cost little.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddm_embed.errors import UserError
from ddm_embed.heads.linear import standardisation

Stack = Float[Array, "key number dim"]
Shots = Int[np.ndarray, "draw shot"]

AT_ONCE = 8  # draws whose shots are held in memory together


def draw_shots(labels: Int[np.ndarray, " number"], classes: int, per_class: int, draws: int, seed: int) -> Shots:
    """Positions of `per_class` images of each class, drawn without replacement, int32 [draw, classes * per_class].

    Shots of a class lie together, the classes in order.

    Raises:
      UserError: a class has too few.
    """
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < per_class:
        lacking = int(np.argmin(counts))
        raise UserError(
            f"fewshot with {per_class} labels a class: class {lacking} has {counts[lacking]} training images; use at "
            f"most {counts.min()} labels a class"
        )
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == c) for c in range(classes)]
    drawn = [np.concatenate([rng.choice(m, per_class, replace=False) for m in members]) for _ in range(draws)]
    return np.stack(drawn).astype(np.int32)


class Selection(NamedTuple):
    """What each draw chose.

    key: which feature, counted through all stacks. strength: which penalty. chosen_by: accuracy on left-out shots of
    what was chosen by it, so the highest of all and no estimate of the test's; NaN where nothing could be left out.
    """

    key: Int[np.ndarray, " draw"]
    strength: Int[np.ndarray, " draw"]
    chosen_by: Float[np.ndarray, " draw"]


def select(
    features: Sequence[Stack],
    labels: Int[Array, " number"],
    shots: Shots,
    strengths: Float[Array, " strength"],
    classes: int,
    fallback: tuple[int, int] | None = None,
) -> Selection:
    """Each draw's own (key, strength): the one whose shots, each left out in turn, are told best.

    Of equals it is the one with the least squared error, then the first. Features are standardised by all training
    images, which takes no labels.

    Args:
      features: of training images, stacks [key, number, dim] of one `dim` each. labels: classes below `classes`; those
        of the shots alone are used. shots: from `draw_shots`. strengths: penalties relative to the number of shots.
      classes: how many. fallback: (key, strength) to use where a class has one shot and nothing can be left out; choose
        it without labels.

    Raises:
      UserError: a class has one shot and there is no fallback.
    """
    of_shots = np.asarray(labels)[shots]
    if min(np.bincount(row, minlength=classes).min() for row in of_shots) < 2:
        if fallback is None:
            raise UserError(
                "fewshot with one label a class leaves nothing to choose by; give fallback=(key, strength), chosen "
                "without labels, such as z at a low noise level"
            )
        return Selection(*(np.full(len(shots), place) for place in fallback), np.full(len(shots), np.nan))
    labels, strengths = jnp.asarray(labels), jnp.asarray(strengths, jnp.float32)
    scores = [leave_one_out(stack, labels, shots, strengths, classes) for stack in features]
    accuracy, error = (np.concatenate(jax.device_get(parts), axis=1) for parts in zip(*scores, strict=True))
    key, strength = choose(accuracy, error)
    return Selection(key, strength, accuracy[np.arange(len(shots)), key, strength])


def choose(
    accuracy: Float[np.ndarray, "draw key strength"], error: Float[np.ndarray, "draw key strength"]
) -> tuple[Int[np.ndarray, " draw"], Int[np.ndarray, " draw"]]:
    """The most accurate (key, strength) of each draw; of equals the one with the least error, then the first."""
    best = accuracy.max(axis=(1, 2), keepdims=True)
    place = np.where(accuracy == best, error, np.inf).reshape(len(error), -1).argmin(axis=1)
    return np.unravel_index(place, accuracy.shape[1:])


@partial(jax.jit, static_argnames="classes")
def leave_one_out(
    features: Stack,
    labels: Int[Array, " number"],
    shots: Int[Array, "draw shot"],
    strengths: Float[Array, " strength"],
    classes: int,
) -> tuple[Float[Array, "draw key strength"], Float[Array, "draw key strength"]]:
    """Accuracy and mean squared error on each shot, by the ridge regression of all others.

    In closed form, y - f_without = (y - f) / (1 - S_ii) (Hastie et al. 2009, "The Elements of Statistical Learning",
    eq. 7.64): scikit-learn's `RidgeCV(strength * shots, store_cv_results=True)`, whose penalty also stays as it is when
    one shot is left out.

    Args:
      features: [key, number, dim], standardised here. labels: classes. shots: positions.
      strengths: penalties relative to the number of shots. classes: how many.
    """

    def one(x, y):
        values, vectors, _ = _dual(x)
        inverse = 1 / (values + strengths[:, None])  # (S, M)
        # Of (K + s)^-1 without the constant direction: y - f = s inverse y and 1 - S_ii = s inverse_ii, and s cancels.
        residual = jnp.einsum("ie,se,je,jc->sic", vectors, inverse, vectors, y, optimize="optimal")
        left = residual / jnp.einsum("ie,se->si", vectors**2, inverse)[..., None]  # (S, M, C)
        right = jnp.argmax(y - left, axis=-1) == jnp.argmax(y, axis=-1)
        return jnp.mean(right, axis=-1), jnp.mean(left**2, axis=(1, 2))

    def draw(positions):
        x = (features[:, positions] - mean[:, None]) * scale[:, None]  # (K, M, D)
        return jax.vmap(one, in_axes=(0, None))(x, jax.nn.one_hot(labels[positions], classes))

    mean, scale = jax.vmap(standardisation)(features)
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(draw, shots, batch_size=min(AT_ONCE, len(shots)))


def _dual(x: Float[Array, "shot dim"]):
    """Eigenvalues and vectors of the centred shots' kernel over their number, and the centred shots.

    The constant direction, which the intercept takes, is left out: its vector is zero.
    """
    number = len(x)
    x = x - jnp.mean(x, axis=0)
    kernel = x @ x.T / number
    # Its eigenvalue is 0 and may be lost among others; raised above all of them, it is the last.
    values, vectors = jnp.linalg.eigh(kernel + (2 * jnp.trace(kernel) + 1) / number)
    return jnp.maximum(values, 0), vectors.at[:, -1].set(0.0), x


@partial(jax.jit, static_argnames="classes")
def predict(
    features: Float[Array, "number dim"],
    queries: Float[Array, "query dim"],
    labels: Int[Array, " number"],
    shots: Int[Array, " shot"],
    strength: Float[Array, ""],
    classes: int,
) -> Int[Array, " query"]:
    """The classes of queries by the ridge regression on one draw's shots; see `leave_one_out`."""
    mean, scale = standardisation(features)
    with jax.default_matmul_precision("highest"):
        x = (features[shots] - mean) * scale
        y = jax.nn.one_hot(labels[shots], classes)
        values, vectors, centred = _dual(x)
        dual = vectors @ ((vectors.T @ y) / (values + strength)[:, None]) / len(x)  # (M, C)
        weights = centred.T @ dual
        bias = jnp.mean(y, axis=0) - jnp.mean(x, axis=0) @ weights
        return jnp.argmax((queries - mean) * scale @ weights + bias, axis=-1)
