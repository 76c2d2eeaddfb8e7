"""Fine-tuning: the whole network below a feature is trained with its classifier, from labels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from ddm_embed.data.augment import augment, to_float
from ddm_embed.data.types import Images
from ddm_embed.heads.gradient import Plan, begin, direction, rate_factor, scaled, scores
from ddm_embed.heads.online import Training, chunks, kept_noise, make_train, run
from ddm_embed.heads.recipes import Recipe
from ddm_embed.parallel.mesh import by_example


def finetune(
    recipe: Recipe,
    given: Training,
    queries: Images,
    name: str,
    t: float,
    rates: tuple[float, ...] | None = None,
) -> Int[np.ndarray, "hyper query"]:
    """The classes of `queries` by networks fine-tuned at each base learning rate, one after another.

    Of the network, what lies above the feature is not computed. Pass a run's EMA parameters, or fresh ones as the
    reference that pretraining is compared with; all rates start from them, in one order of batches.

    Args:
      recipe: what to do, with its own learning rates unless `rates` are given.
      given: networks to start from, whose parameters are not changed, images and labels. queries: images like them.
      name: of the feature that the classifier reads. t: its noise level.

    Raises:
      ValueError: the recipe normalises features, whose statistics would be another's at each step.
    """
    if recipe.normalise:
        raise ValueError(
            f"{recipe.name}.normalise=True, which fine-tuning does not do; use changed(..., normalise=False)"
        )
    (length, rows), whole = given.plan(recipe), NamedSharding(given.mesh, P())
    begin_key, order_key, step_key, query_key = jax.random.split(given.key, 4)
    rates = scaled(recipe, jnp.asarray(recipe.learning_rates if rates is None else rates, jnp.float32), length.batch)
    dim = given.dims(rows)[name]

    @jax.jit
    def begin_one(params):
        layers = jax.tree.map(lambda leaf: leaf[0], begin(recipe, begin_key, dim, given.classes, 1).layers)
        # Copied: what jit hands through unchanged is the caller's own array, which the donation would delete.
        trained = {"network": jax.tree.map(jnp.copy, params), "layers": layers}
        return trained, direction(recipe).init(trained)

    train = make_train(make_step(recipe, given, name, length, step_key))
    predict = make_predict(recipe, given, name, query_key)
    labels, t = jax.device_put((np.asarray(given.labels, np.int32), np.float32(t)), whole)
    found = []
    for rate in rates:
        parts = chunks(given, length, order_key, rows)
        what = f"{recipe.name}, {name} at t={float(t):.2f}, rate {float(rate):.2g}"
        trained, _ = run(train, jax.device_put(begin_one(given.params), whole), (labels, t, rate), parts, length, what)
        found.append(predict_all(predict, trained, queries, t, rows))
    return np.stack(found)


def make_step(recipe: Recipe, given: Training, name: str, length: Plan, key: Key[Array, ""]):
    """The function (state, (labels, t, rate), chunk, row) -> the state after the step of this row."""
    split, transform = by_example(given.mesh), direction(recipe)

    def step(state, arrays, chunk, row):
        trained, momentum = state
        labels, t, rate = arrays
        number, positions, weights = chunk.first + row, chunk.positions[row], split(chunk.weights[row])
        view_key, noise_key, drop_key = jax.random.split(jax.random.fold_in(key, number), 3)
        x0 = split(augment(view_key, split(chunk.shown[chunk.places[row]]), recipe.views, given.padding))
        eps = jax.random.normal(noise_key, x0.shape) if recipe.fresh_noise else kept_noise(key, positions, x0.shape)
        kept = None
        if recipe.dropout:
            kept = jax.random.bernoulli(drop_key, 1 - recipe.dropout, (len(x0), recipe.hidden))

        def loss(trained):
            x = given.features_at(trained["network"], x0, split(eps), t)[name]
            with jax.default_matmul_precision("highest"):
                logits = scores(recipe, trained["layers"], x, kept)
            errors = optax.softmax_cross_entropy_with_integer_labels(logits, split(labels[positions]))
            return jnp.sum(weights * errors) / jnp.sum(weights)

        move, momentum = transform.update(jax.grad(loss)(trained), momentum, trained)
        now = rate * rate_factor(recipe, length, number)
        return jax.tree.map(lambda leaf, change: leaf + now * change, trained, move), momentum

    return step


def make_predict(recipe: Recipe, given: Training, name: str, key: Key[Array, ""]):
    """The jitted function (trained, image, position, t) -> classes [batch], under noise that each image keeps."""
    split = by_example(given.mesh)

    @jax.jit
    def predict(trained, image, position, t):
        x0 = to_float(split(image))
        x = given.features_at(trained["network"], x0, split(kept_noise(key, position, x0.shape)), t)[name]
        with jax.default_matmul_precision("highest"):
            return jnp.argmax(scores(recipe, trained["layers"], x), axis=-1)

    return predict


def predict_all(predict, trained: Any, queries: Images, t: Float[Array, ""], rows: int) -> Int[np.ndarray, " query"]:
    """Classes of all queries, `rows` at a time; the last ones are filled up."""
    number, found = queries.shape[0], []
    for start in range(0, number, rows):
        position = np.minimum(np.arange(start, start + rows), number - 1).astype(np.int32)
        found.append(predict(trained, queries[position], position, t))
    return np.concatenate(jax.device_get(found))[:number]
