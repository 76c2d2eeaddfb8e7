"""The training step: (state, batch) -> (state, metrics), pure, jitted once, its state donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from ddm_embed.data.augment import augment
from ddm_embed.data.pipeline import Batch
from ddm_embed.errors import UserError
from ddm_embed.methods.method import Method, Networks, Objective
from ddm_embed.parallel.mesh import BATCH_AXES
from ddm_embed.train.metrics import StepMetrics
from ddm_embed.train.optimizer import counted, ema_rate, update_ema
from ddm_embed.train.state import TrainState

STREAMS = ("diffusion", "augment", "view")  # a stream's number is part of what a seed means: only append


def stream_key(seed: int, stream: str, step: Int[Array, ""]) -> Key[Array, ""]:
    """The key of one stream of random numbers at one step; a step is a function of (state, batch, seed) alone."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream)), step)


def make_train_step(
    config: ConfigDict,
    method: Method,
    objective: Objective,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The jitted step for this mesh.

    Args:
      config: read here for the seed, the views and the EMA's decay.
      method: the run's. objective: its loss.
      networks: functions of parameters.
      optimizer: as given to `state.make_init`.
      mesh: the device mesh.
      shardings: where each part of the state lies, from `state.shardings_of`.
    """
    seed, kind, padding = config.train.seed, config.data.augment, config.data.crop_padding
    parts, apart = config.train.accumulate, method.apart(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        image = batch["image"]  # uint8, or float32 of sequences, (B, H, W, C)
        x0 = augment(stream_key(seed, "augment", state.step), image, kind, padding)
        view = augment(stream_key(seed, "view", state.step), image, kind, padding)
        key = stream_key(seed, "diffusion", state.step)

        told = dict(method.tell(config, state.params)) | {name: batch[name] for name in batch if name != "image"}
        draws = objective.draw(key, x0, view, config.embedding.dim, **told)
        check_drawn(method.name, draws, len(x0))

        def loss(params, part):
            value, terms = objective.loss(networks, params, state.ema_params, *part)
            check_given(method.name, value, terms, len(part[0]))
            return value, terms

        (value, terms), grads = accumulate(loss, state.params, (x0, draws), parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = update_ema(state.ema_params, params, ema_rate(config, state.step))
        norm = optax.tree.norm({name: grads[name] for name, counts in counted(grads, apart).items() if counts})
        metrics = StepMetrics.of_step(state.step, value, terms, norm)
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH_AXES))
    return jax.jit(
        train_step,
        in_shardings=(shardings, split),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def check_drawn(name: str, draws: Any, batch: int) -> None:
    """Raises UserError, while the step is traced, unless all that the method of this name draws is [batch, ...]."""
    for path, a in jax.tree.leaves_with_path(draws):
        if jnp.shape(a)[:1] != (batch,):
            raise UserError(
                f"method {name!r}: draw gave {jax.tree_util.keystr(path)} of shape {jnp.shape(a)}; expected [batch, "
                f"...], here ({batch}, ...), as each part of a batch takes its own rows"
            )


def check_given(name: str, value: Any, terms: Any, batch: int) -> None:
    """Raises UserError, while the step is traced, unless the method's loss is a number and its terms are [batch]."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise UserError(
            f"method {name!r}: loss gave a {jnp.result_type(value)} of shape {jnp.shape(value)}; expected a float of "
            "shape (), such as a mean over the batch"
        )
    if not hasattr(terms, "_asdict"):
        raise UserError(f"method {name!r}: loss gave terms of type {type(terms).__name__}; expected a NamedTuple")
    for term, a in terms._asdict().items():
        if jnp.shape(a) != (batch,):
            raise UserError(
                f"method {name!r}: loss gave the term {term!r} of shape {jnp.shape(a)}; expected [batch], here "
                f"({batch},): a figure for each example"
            )


def accumulate(loss: Callable, params: Any, batch: Any, parts: int) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """((mean loss, terms of every example), mean gradient) over equal parts of a batch, one after the other.

    Args:
      loss: (params, batch) -> (mean loss, tree of arrays of one entry an example).
      batch: a tree of arrays of one length, which `parts` divides.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return gradient(params, batch)

    # Every parts-th example: each device goes on with examples of its own.
    split = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch)

    def body(total, part):
        (value, terms), grads = gradient(params, part)
        return jax.tree.map(jnp.add, total, (value, grads)), terms

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    (value, grads), terms = jax.lax.scan(body, nothing, split)
    terms = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), terms)
    return (value / parts, terms), jax.tree.map(lambda a: a / parts, grads)
