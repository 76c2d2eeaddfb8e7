"""What training carries from step to step, and how it is created on the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from ddm_embed.models.build import Models
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import partition


@struct.dataclass
class TrainState:
    """Nothing here is callable and no random key is kept: a step's draws come from the seed and the step.

    step: int32, steps taken. params, ema_params: trees of float32. opt_state: Optax's.
    """

    step: Int[Array, ""]
    params: Any
    ema_params: Any
    opt_state: Any


def make_init(
    models: Models,
    optimizer: optax.GradientTransformation,
    seed: int,
    initialise: Callable[[Any], Any] = lambda params: params,
) -> Callable[[], TrainState]:
    """A function of nothing -> the state before the first step; trace it for shapes, jit it to create.

    `initialise` is the method's: fresh parameters -> those that the run begins with.
    """

    def init() -> TrainState:
        params = initialise(models.init(jax.random.key(seed)))
        ema_params = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, ema_params, optimizer.init(params))

    return init


def abstract_state(init: Callable[[], TrainState], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state as shapes, dtypes and NamedShardings: optimizer state and EMA lie as the parameters do."""
    shapes = jax.eval_shape(init)
    specs = partition(shapes.params, mesh.shape)
    opt_specs = optax.tree_map_params(
        optimizer, lambda _, spec: spec, shapes.opt_state, specs, transform_non_params=lambda _: P()
    )
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
        shapes,
        TrainState(step=P(), params=specs, ema_params=specs, opt_state=opt_specs),
    )


def shardings_of(abstract: TrainState) -> TrainState:
    """A tree of NamedSharding like the state."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def create(init: Callable[[], TrainState], abstract: TrainState) -> TrainState:
    """The state before the first step, made where it lies: no device ever holds all of it."""
    with distributed.unhurried():
        compiled = jax.jit(init, out_shardings=shardings_of(abstract)).lower().compile()
    return compiled()
