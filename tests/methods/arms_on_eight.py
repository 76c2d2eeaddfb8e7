"""Five steps of each arm on one device and on a mesh of eight; prints the losses as JSON. Not a test itself."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import tiny_config

from ddm_embed import arms
from ddm_embed.data.sources import open_source
from ddm_embed.data.splits import read_labels
from ddm_embed.methods.build import make_models
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.train.loop import compile_step, open_batches
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import abstract_state, create, make_init


def curve(arm, shape):
    config = tiny_config()
    arms.apply(arm, config)
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    told = read_labels(source, arm) if arm == "supervised" else None
    models = make_models(config, source.image_shape, classes=told and len(told.values))
    optimizer = make_optimizer(config)
    init = make_init(models, optimizer, config.train.seed)
    abstract = abstract_state(init, optimizer, mesh)
    state, step = create(init, abstract), compile_step(config, models, optimizer, mesh, abstract)
    losses = []
    batches = open_batches(config, source.train.images, mesh, 0, told and told.index)
    for _ in range(5):
        state, metrics = step(state, next(batches))
        losses.append(float(metrics.loss.total / metrics.loss.count))
    return losses


source = open_source(tiny_config())
print(json.dumps({arm: [curve(arm, (1, 1, 1)), curve(arm, (2, 2, 2))] for arm in sys.argv[1:]}))
