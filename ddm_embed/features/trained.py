"""A run's checkpoint, restored to be used: what the probe and the pictures begin with."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from ddm_embed.data import labels
from ddm_embed.methods import networks as baseline_networks
from ddm_embed.methods import system
from ddm_embed.methods.diffusion import Networks, Objective
from ddm_embed.models.build import Models
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.runs.checkpoint import restore_ema


class Trained(NamedTuple):
    """config: the run's. params: EMA parameters, whole on every device of the mesh, which is this process's devices.
    step: the checkpoint's."""

    config: ConfigDict
    models: Models
    networks: Networks | baseline_networks.Networks
    objective: Objective | system.Baseline | None
    params: Any
    step: int
    mesh: Mesh


def restore(config: ConfigDict, workdir: Path, image_shape: tuple[int, int, int]) -> Trained:
    """The newest sound checkpoint of a run, on each process's devices.

    Args:
      config: the run's. workdir: its directory. image_shape: (height, width, channel).

    Raises:
      UserError: there is no sound checkpoint, or it does not fit the config.
    """
    mesh = make_mesh(jax.local_device_count(), 1, devices=jax.local_devices())
    classes = None
    if config.objective.name == system.SUPERVISED:
        classes = len(labels.noted(workdir / "classes.json"))
    models = system.make_models(config, image_shape, classes=classes)
    shapes = jax.eval_shape(models.init, jax.random.key(0))
    whole = NamedSharding(mesh, P())
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
    step, params = restore_ema(workdir, abstract)
    networks, objective = system.make_networks(models, config), system.make_objective(config)
    return Trained(config, models, networks, objective, params, step, mesh)
