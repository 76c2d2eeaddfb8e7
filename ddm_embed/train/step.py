"""The training step: (state, batch) -> (state, metrics), pure, jitted once, its state donated."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from ddm_embed.data.augment import augment
from ddm_embed.data.pipeline import Batch
from ddm_embed.diffusion.objective import Networks, Objective
from ddm_embed.parallel.mesh import BATCH_AXES
from ddm_embed.train.metrics import StepMetrics
from ddm_embed.train.optimizer import networks_alone, update_ema
from ddm_embed.train.state import TrainState

STREAMS = ("diffusion", "augment", "view")  # a stream's number is part of what a seed means: only append


def stream_key(seed: int, stream: str, step: Int[Array, ""]) -> Key[Array, ""]:
    """The key of one stream of random numbers at one step; a step is a function of (state, batch, seed) alone."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream)), step)


def make_train_step(
    config: ConfigDict,
    objective: Objective,
    networks: Networks,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The jitted step for this mesh.

    Args:
      config: read here for the seed, the views and the EMA's decay.
      objective: the loss.
      networks: functions of parameters.
      optimizer: as given to `state.make_init`.
      mesh: the device mesh.
      shardings: where each part of the state lies, from `state.shardings_of`.
    """
    seed, kind, padding = config.train.seed, config.data.augment, config.data.crop_padding

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        image = batch["image"]  # uint8 (B, H, W, C)
        x0 = augment(stream_key(seed, "augment", state.step), image, kind, padding)
        view = augment(stream_key(seed, "view", state.step), image, kind, padding)
        key = stream_key(seed, "diffusion", state.step)

        def loss(params):
            return objective.loss(networks, params, state.ema_params, x0, view, key)

        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = update_ema(state.ema_params, params, state.step, config.optimizer.ema_decay)
        norm = optax.tree.norm({name: grads[name] for name, network in networks_alone(grads).items() if network})
        metrics = StepMetrics.of_step(state.step, value, terms, norm)
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(BATCH_AXES))
    return jax.jit(
        train_step,
        in_shardings=(shardings, {"image": split}),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )
