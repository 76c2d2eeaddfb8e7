"""Heads trained by gradient steps on features made beforehand: every rate of every feature in one program.

First how a recipe's steps go: how many there are, on which images, at which rate and in which direction. Then the
heads: all of a call see the same batches in the same order, begin with the same weights and drop the same hidden units,
so that a head is what it would be if it were trained alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from ddm_embed.heads.recipes import Recipe

Layers = tuple[dict[str, Array], ...]

TRUST = 0.001  # LARS's trust coefficient: You et al. 2017, arXiv 1708.03888, and the default of MAE's code
AT_ONCE = 4096  # queries whose scores are held in memory at a time
FORGETTING = 0.1  # of BatchNorm's running statistics a step, PyTorch's default


class Plan(NamedTuple):
    """A recipe on so many images: batch [images a step], per_epoch [steps an epoch], steps [in all]."""

    batch: int
    per_epoch: int
    steps: int


def plan(recipe: Recipe, number: int) -> Plan:
    """How long the recipe takes on `number` images, whose batches are no larger than that."""
    batch = min(recipe.batch_size, number)
    per_epoch = number // batch if recipe.drop_last else -(-number // batch)
    return Plan(batch, per_epoch, max(recipe.iterations, recipe.epochs * per_epoch))


def scaled(recipe: Recipe, rates: Float[Array, " hyper"], batch: int) -> Float[Array, " hyper"]:
    """The grid's rates as a batch of this size has them."""
    return rates * (batch / 256) if recipe.per_256 else rates


def rate_factor(recipe: Recipe, plan: Plan, step: Int[Array, ""]) -> Float[Array, ""]:
    """The share of its full rate that step 0, 1, ... takes: linear warm-up, then as the schedule says."""
    step = jnp.asarray(step)
    if recipe.schedule == "cosine by epoch":
        step = step // plan.per_epoch * plan.per_epoch
    warmup = recipe.warmup_epochs * plan.per_epoch
    share = jnp.clip((step - warmup) / max(plan.steps - warmup, 1), 0, 1)
    factor = 1.0 if recipe.schedule == "constant" else 0.5 * (1 + jnp.cos(jnp.pi * share))
    return jnp.where(step < warmup, step / max(warmup, 1), factor).astype(jnp.float32)


def direction(recipe: Recipe) -> optax.GradientTransformation:
    """The recipe's optimizer at a rate of one, to be scaled by the rate: PyTorch's order, in which the rate comes last.

    Momentum then holds gradients, not steps; under a changing rate the LARS paper's algorithm 1, whose momentum holds
    steps, is another method. MAE's code is followed.
    """
    decay = [optax.add_decayed_weights(recipe.weight_decay)] if recipe.weight_decay else []
    if recipe.optimizer == "lars":
        return optax.lars(
            1.0,
            weight_decay=recipe.weight_decay,
            weight_decay_mask=_matrices,
            trust_coefficient=TRUST,
            trust_ratio_mask=_matrices,
            momentum=recipe.momentum,
        )
    if recipe.optimizer == "sgd":
        return optax.chain(*decay, optax.trace(recipe.momentum), optax.scale(-1.0))
    if recipe.optimizer == "adamw":
        return optax.chain(optax.scale_by_adam(), *decay, optax.scale(-1.0))
    return optax.chain(*decay, optax.scale_by_adam(), optax.scale(-1.0))


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def epoch_positions(
    key: Key[Array, ""], number: int, plan: Plan, epoch: Int[Array, ""], rows: int
) -> tuple[Int[Array, "step rows"], Float[Array, "step rows"]]:
    """Which images each step of an epoch takes: a shuffle of all, cut into batches.

    Args:
      key: of the shuffles. number: images. plan: from `plan`. epoch: 0, 1, ...
      rows: at least a batch; those beyond it are there to be divided among devices.

    Returns:
      positions [step, rows] below `number`, and weights [step, rows]: 1, or 0 for rows that fill up.
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), number)
    wanted = plan.per_epoch * plan.batch
    order = jnp.pad(order[:wanted], (0, max(wanted - number, 0))).reshape(plan.per_epoch, plan.batch)
    weights = (jnp.arange(wanted) < number).astype(jnp.float32).reshape(plan.per_epoch, plan.batch)
    filling = ((0, 0), (0, rows - plan.batch))
    return jnp.pad(order, filling), jnp.pad(weights, filling)


class Heads(NamedTuple):
    """Heads on one feature.

    layers: kernel [hyper, inputs, outputs] and bias [hyper, outputs] of each layer. mean, variance: float32 [dim], the
    running statistics that a normalising recipe predicts with. state: the optimizer's, with the axis of `hyper` too.
    """

    layers: Layers
    mean: Float[Array, " dim"]
    variance: Float[Array, " dim"]
    state: Any


def make_fit_predict(recipe: Recipe) -> Callable[..., Int[Array, "hyper query"]]:
    """A function (fit [number, dim], labels [number], queries [query, dim], rates [hyper], key, classes) -> classes
    [hyper, query], pure; `classes` is static.

    Put features on a leading axis by `vmap` over `fit` and `queries` alone: with one key for all, the positions of a
    batch are gathered for all features at once.
    """

    def fit_predict(fit, labels, queries, hypers, key, classes):
        return predict(recipe, fit_heads(recipe, fit, labels, hypers, key, classes), queries)

    return fit_predict


def fit_heads(
    recipe: Recipe,
    fit: Float[Array, "number dim"],
    labels: Int[Array, " number"],
    rates: Float[Array, " hyper"],
    key: Key[Array, ""],
    classes: int,
) -> Heads:
    """Heads trained on features as the recipe says, whose views and noise must be none.

    Args:
      fit: features. labels: their classes, below `classes`. rates: base learning rates. key: of weights, batches and
        dropout. classes: how many.

    Raises:
      ValueError: the recipe trains on views or noise of each step's own.
    """
    if recipe.online:
        raise ValueError(f"{recipe.name} draws views={recipe.views!r} and noise anew in each step; use fit_online")
    number, dim = fit.shape
    length = plan(recipe, number)
    ragged = number < length.per_epoch * length.batch
    begin_key, order_key, drop_key = jax.random.split(key, 3)
    heads = begin(recipe, begin_key, dim, classes, len(rates))
    rates = scaled(recipe, rates, length.batch)

    def train(heads, inputs):
        step, positions, weights = inputs
        factor = rate_factor(recipe, length, step)
        x, y, weights = fit[positions], labels[positions], weights if ragged else None
        return update(recipe, heads, x, y, weights, rates * factor, jax.random.fold_in(drop_key, step)), None

    def train_epoch(heads, epoch, steps=length.per_epoch):
        positions, weights = epoch_positions(order_key, number, length, epoch, length.batch)
        step = epoch * length.per_epoch + jnp.arange(steps)
        return jax.lax.scan(train, heads, (step, positions[:steps], weights[:steps]))

    epochs, rest = divmod(length.steps, length.per_epoch)
    heads, _ = jax.lax.scan(train_epoch, heads, jnp.arange(epochs))
    return train_epoch(heads, jnp.int32(epochs), rest)[0] if rest else heads


def begin(recipe: Recipe, key: Key[Array, ""], dim: int, classes: int, hypers: int) -> Heads:
    """Untrained heads, the same for every rate."""
    sizes = (dim, recipe.hidden, classes) if recipe.hidden else (dim, classes)
    keys = jax.random.split(key, len(sizes) - 1)
    layers = tuple(_layer(recipe, *arguments) for arguments in zip(keys, sizes[:-1], sizes[1:], strict=True))
    layers, state = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (hypers, *leaf.shape)), (layers, direction(recipe).init(layers))
    )
    return Heads(layers, jnp.zeros(dim), jnp.ones(dim), state)


def _layer(recipe: Recipe, key: Key[Array, ""], inputs: int, outputs: int) -> dict[str, Array]:
    if recipe.init == "normal":
        return {"kernel": 0.01 * jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}
    kernel_key, bias_key = jax.random.split(key)
    bound = inputs**-0.5  # what PyTorch's Linear draws from
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }


def update(
    recipe: Recipe,
    heads: Heads,
    x: Float[Array, "batch dim"],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"] | None,
    rates: Float[Array, " hyper"],
    key: Key[Array, ""],
) -> Heads:
    """The heads after one step on a batch of one feature.

    Args:
      x: features. labels: their classes. weights: 1, or 0 of rows that are not there; None is all 1. rates: this
        step's. key: of dropout.
    """
    with jax.default_matmul_precision("highest"):
        mean, variance = heads.mean, heads.variance
        if recipe.normalise:
            now, spread, count = _moments(x, weights)
            x = (x - now) * jax.lax.rsqrt(spread + recipe.epsilon)
            unbiased = spread * (count / jnp.maximum(count - 1, 1))
            mean, variance = (a + FORGETTING * (b - a) for a, b in ((mean, now), (variance, unbiased)))
        kept = jax.random.bernoulli(key, 1 - recipe.dropout, (len(x), recipe.hidden)) if recipe.dropout else None

        def loss(layers):
            errors = optax.softmax_cross_entropy_with_integer_labels(scores(recipe, layers, x, kept), labels)
            return jnp.mean(errors) if weights is None else jnp.sum(weights * errors) / jnp.sum(weights)

        def move(layers, state, rate):
            step, state = direction(recipe).update(jax.grad(loss)(layers), state, layers)
            return jax.tree.map(lambda leaf, change: leaf + rate * change, layers, step), state

        layers, state = jax.vmap(move)(heads.layers, heads.state, rates)
        return Heads(layers, mean, variance, state)


def _moments(x: Float[Array, "batch dim"], weights: Float[Array, " batch"] | None):
    """Mean and variance over the rows that are there, and how many those are."""
    if weights is None:
        return jnp.mean(x, axis=0), jnp.var(x, axis=0), len(x)
    count = jnp.sum(weights)
    mean = weights @ x / count
    return mean, weights @ (x - mean) ** 2 / count, count


def scores(recipe: Recipe, layers: Layers, x: Float[Array, "batch dim"], kept=None) -> Float[Array, "batch class"]:
    """One head's scores; `kept` [batch, hidden] are the hidden units that dropout spares, all if None."""
    if recipe.hidden:
        x = jax.nn.relu(x @ layers[0]["kernel"] + layers[0]["bias"])
        if kept is not None:
            x = jnp.where(kept, x / (1 - recipe.dropout), 0.0)
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


def predict(recipe: Recipe, heads: Heads, queries: Float[Array, "query dim"]) -> Int[Array, "hyper query"]:
    """The class that each head puts highest, with running statistics and without dropout."""

    def best(x):
        if recipe.normalise:
            x = (x - heads.mean) * jax.lax.rsqrt(heads.variance + recipe.epsilon)
        return jax.vmap(lambda layers: jnp.argmax(scores(recipe, layers, x[None])[0]))(heads.layers)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(best, queries, batch_size=min(AT_ONCE, len(queries))).T
