"""Classifiers fitted to their optimum: ridge regression in closed form, logistic regression, and nearest neighbours."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ddm_embed.models.encoder import unit

Matrix = Float[Array, "number dim"]
Labels = Int[Array, " number"]

MEMORY = 10  # pairs of steps and gradients that L-BFGS keeps, as scikit-learn's does
ROUNDS = (25, 50, 100, 200)  # steps at most between two measurements of the curvature


def standardisation(fit: Float[Array, "number *dims"]) -> tuple[Float[Array, "*dims"], Float[Array, "*dims"]]:
    """The mean over the first axis, and what to multiply by for a deviation of 1; 0 where a column is constant."""
    mean, deviation = jnp.mean(fit, axis=0), jnp.std(fit, axis=0)
    return mean, jnp.where(deviation > 1e-6 * jnp.max(deviation), 1 / jnp.maximum(deviation, 1e-30), 0.0)


@jax.jit
def standardise(fit: Matrix, *others: Matrix) -> tuple[Matrix, ...]:
    """Each array less the mean and over the standard deviation of the first; constant columns become 0."""
    mean, scale = standardisation(fit)
    return tuple((array - mean) * scale for array in (fit, *others))


@jax.jit
def ridge(
    features: Matrix, targets: Float[Array, "number output"], strengths: Float[Array, " strength"]
) -> tuple[Float[Array, "strength dim output"], Float[Array, "strength output"]]:
    """Ridge regression onto targets, such as one-hot labels, with an unpenalised intercept, for every strength at once.

    Minimises |y - x w - b|^2 + strength * number * |w|^2: scikit-learn's `Ridge(alpha=strength * number)`. One
    eigendecomposition of the covariance serves all strengths (Hastie et al. 2009, "The Elements of Statistical
    Learning", eq. 3.47).

    Args:
      features: [number, dim].
      targets: [number, output].
      strengths: penalties relative to `number`.

    Returns:
      weights [strength, dim, output] and intercepts [strength, output].
    """
    with jax.default_matmul_precision("highest"):
        number = len(features)
        mean = jnp.mean(features, axis=0)
        x = features - mean
        y_mean = jnp.mean(targets, axis=0)
        covariance, target = x.T @ x / number, x.T @ (targets - y_mean) / number  # (D, D), (D, O)
        values, vectors = jnp.linalg.eigh(covariance)
        shrink = 1 / (jnp.maximum(values, 0) + strengths[:, None])  # (S, D)

        def solve(right):  # (S, D, O)
            return jnp.einsum("de,se,fe,sfc->sdc", vectors, shrink, vectors, right, optimize="optimal")

        weights = solve(jnp.broadcast_to(target, (len(strengths), *target.shape)))
        # One step of iterative refinement: float32 eigenvectors leave an error of 1e-7 / strength without it.
        weights += solve(target - covariance @ weights - strengths[:, None, None] * weights)
        return weights, y_mean - jnp.einsum("d,sdc->sc", mean, weights)


@jax.jit
def linear_predict(
    features: Matrix, weights: Float[Array, "strength dim class"], bias: Float[Array, "strength class"]
) -> Int[Array, "strength number"]:
    """The class that each linear map puts highest, [strength, number]."""
    with jax.default_matmul_precision("highest"):
        scores = jnp.einsum("nd,sdc->snc", features, weights) + bias[:, None]
        return jnp.argmax(scores, axis=-1)


@partial(jax.jit, static_argnames=("classes", "neighbours", "chunk"))
def nearest(
    features: Matrix,
    labels: Labels,
    queries: Matrix,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
    chunk: int = 500,
) -> Int[Array, " query"]:
    """Votes of the nearest by cosine of centred features, each weighing exp(cosine / temperature).

    Source: Wu et al. 2018, arXiv 1805.01978, eq. 8.

    Args:
      features: [number, dim]. labels: [number]. queries: [query, dim]. classes: how many.
      neighbours: voters, at most `number`. temperature: of their weights. chunk: queries compared at a time.

    Returns:
      classes [query].
    """
    mean = jnp.mean(features, axis=0)
    stored = unit(features - mean)

    def vote(query):
        with jax.default_matmul_precision("highest"):
            similarity, index = jax.lax.top_k(stored @ query, min(neighbours, len(stored)))
        weight = jnp.exp((similarity - similarity[0]) / temperature)
        return jnp.argmax(jnp.sum(weight[:, None] * jax.nn.one_hot(labels[index], classes), axis=0))

    return jax.lax.map(vote, unit(queries - mean), batch_size=chunk)


def accuracy(predicted: Int[Array, "*many number"], labels: Labels) -> Float[Array, "*many"]:
    """The share of labels predicted, over the last axis."""
    return jnp.mean(predicted == labels, axis=-1)


class Fit(NamedTuple):
    """weights [strength, dim, class], intercepts [strength, class], the largest entry of the gradient and the number
    of steps of each strength."""

    weights: Float[Array, "strength dim class"]
    intercepts: Float[Array, "strength class"]
    gradient: Float[Array, " strength"]
    steps: Int[Array, " strength"]


def logistic(
    features: Matrix,
    labels: Labels,
    strengths: Float[Array, " strength"],
    classes: int,
    tolerance: float = 1e-6,
) -> Fit:
    """Minimises mean cross-entropy + strength / 2 * |w|^2, the intercepts unpenalised, by L-BFGS.

    scikit-learn's `LogisticRegression(C=1 / (strength * number))`. The weights are sought along the eigenvectors of the
    features' covariance, each scaled by the loss's own curvature along it, which is measured anew some times: there the
    problem is rounder, and takes a fraction of the steps. Each strength begins where the next stronger one ended.

    Args:
      features: [number, dim], standardised. labels: 0..classes-1. strengths: penalties relative to `number`.
      tolerance: of the largest entry of the gradient in the scaled weights; given up after the sum of `ROUNDS`.
    """
    with jax.default_matmul_precision("highest"):
        mean = jnp.mean(features, axis=0)
        x = features - mean
        _, vectors = jnp.linalg.eigh(x.T @ x / len(x))
        rotated, targets = x @ vectors, jax.nn.one_hot(labels, classes)  # (N, D), (N, C)

        def next_strength(begin, strength):  # the strongest penalty first: its solution is near the next one's
            fit = _fit(rotated, targets, strength, tolerance, *begin)
            return (fit.weights, fit.intercepts), fit

        order = jnp.argsort(-strengths)
        zero = jnp.zeros((rotated.shape[1], classes)), jnp.zeros(classes)
        _, fits = jax.lax.scan(next_strength, zero, strengths[order])
        fit = jax.tree.map(lambda a: a[jnp.argsort(order)], fits)
        weights = jnp.einsum("de,sec->sdc", vectors, fit.weights)
        intercepts = fit.intercepts - jnp.einsum("d,sdc->sc", mean, weights)
        # Only their differences count: their mean is 0, as scikit-learn's is.
        return fit._replace(weights=weights, intercepts=intercepts - jnp.mean(intercepts, axis=1, keepdims=True))


def _fit(
    x: Matrix,
    targets: Float[Array, "number class"],
    strength: Float[Array, ""],
    tolerance: float,
    weights: Float[Array, "dim class"],
    intercepts: Float[Array, " class"],
) -> Fit:
    """The solution at one strength, from some beginning."""
    solver = optax.lbfgs(memory_size=MEMORY, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=15))

    def curvature(weights, intercepts):
        share = jax.nn.softmax(x @ weights + intercepts)
        bend = share * (1 - share)  # (N, C)
        return (x**2).T @ bend / len(x) + strength, jnp.mean(bend, axis=0) + 1e-6

    def a_round(carry, most):
        begin, intercepts, gradient, steps = carry
        scale, scale_of_intercepts = (jax.lax.rsqrt(c) for c in curvature(begin, intercepts))

        def unscaled(at):
            return begin + scale * at[0], intercepts + scale_of_intercepts * at[1]

        def loss(at):
            weights, bias = unscaled(at)
            fit = jnp.mean(optax.softmax_cross_entropy(x @ weights + bias, targets))
            return fit + strength / 2 * jnp.sum(weights**2)

        def step(carry):
            at, state, _, count = carry
            value, grad = optax.value_and_grad_from_state(loss)(at, state=state)
            updates, state = solver.update(grad, state, at, value=value, grad=grad, value_fn=loss)
            grad = optax.tree.get(state, "grad")
            largest = jnp.maximum(*(jnp.max(jnp.abs(leaf)) for leaf in grad))
            return optax.apply_updates(at, updates), state, largest, count + 1

        def go_on(carry):
            return (carry[3] < most) & (carry[2] > tolerance)

        at = jnp.zeros_like(begin), jnp.zeros_like(intercepts)
        at, _, gradient, count = jax.lax.while_loop(go_on, step, (at, solver.init(at), gradient, jnp.asarray(0)))
        return (*unscaled(at), gradient, steps + count), None

    start = weights, intercepts, jnp.asarray(jnp.inf), jnp.asarray(0)
    return Fit(*jax.lax.scan(a_round, start, jnp.asarray(ROUNDS))[0])
