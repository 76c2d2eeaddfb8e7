"""Twenty float32 steps on meshes of eight devices; prints what happened as JSON. Not a test itself.

python eight_devices.py [RUN ...] [created] [features] [samples]
"""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import tiny_config

from ddm_embed.config import probe_default
from ddm_embed.data.sources import open_source
from ddm_embed.data.splits import split_fold
from ddm_embed.diffusion.sampler import SAMPLERS
from ddm_embed.features.extract import Reading, make_extract, make_features
from ddm_embed.features.run import Run
from ddm_embed.methods.build import make_models, make_networks
from ddm_embed.methods.diffusion import make_process
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.probe.bench import sweep
from ddm_embed.probe.protocols import HEADS
from ddm_embed.sample import generate
from ddm_embed.train.loop import compile_step, open_batches
from ddm_embed.train.optimizer import make_optimizer
from ddm_embed.train.state import abstract_state, create, make_init, shardings_of

COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def collectives(text):
    """[operation, number of elements it gives] of each in the compiled program."""
    found = []
    for shapes, name in COLLECTIVE.findall(text):
        sizes = [
            np.prod([int(n) for n in shape.split(",") if n], dtype=int) for shape in re.findall(r"\[([\d,]*)\]", shapes)
        ]
        found.append([name, int(max(sizes, default=1))])
    return found


def curve(shape, changes):
    """The losses, the share of the trunk's matrices that one device holds, and the step's collectives."""
    config = tiny_config(**CHANGES | changes)
    mesh = make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    models, optimizer = make_models(config, source.image_shape), make_optimizer(config)
    init = make_init(models, optimizer, config.train.seed)
    abstract = abstract_state(init, optimizer, mesh)
    state = create(init, abstract)
    step = compile_step(config, models, optimizer, mesh, abstract)
    batches, losses = open_batches(config, source.train.images, mesh, 0), []
    for _ in range(20):
        state, metrics = step(state, next(batches))
        losses.append(float(metrics.loss.total / metrics.loss.count))
    held = whole = 0
    for tree in (state.params, state.ema_params, state.opt_state):
        for leaf in jax.tree.leaves(tree):
            if leaf.ndim > 1:
                held, whole = held + leaf.addressable_shards[0].data.size, whole + leaf.size
    return {"losses": losses, "held": held / whole, "collectives": collectives(step.as_text())}


def largest_when_created():
    """The largest array of the program that creates the state on eight devices, over the state's own largest one."""
    config, mesh = tiny_config(), make_mesh(1, 8, 1)  # without consistency's predictor, which lies whole everywhere
    models, optimizer = make_models(config, source.image_shape), make_optimizer(config)
    init = make_init(models, optimizer, config.train.seed)
    abstract = abstract_state(init, optimizer, mesh)
    text = jax.jit(init, out_shardings=shardings_of(abstract)).lower().compile().as_text()
    arrays = [np.prod([int(n) for n in shape.split(",")]) for shape in re.findall(r"[fsu]\d+\[([\d,]+)\]", text)]
    return float(max(arrays) / max(leaf.size for leaf in jax.tree.leaves(abstract)))


def features(devices, config, source):
    """z of the first training images, read on so many devices."""
    models = make_models(config, source.image_shape)
    mesh = make_mesh(devices, 1, devices=jax.devices()[:devices])
    networks = make_networks(models, config)
    features_of = make_features(networks, make_process(config), config.embedding.input == "x0")
    extract = make_extract(features_of, mesh, Reading(16))
    params = jax.device_put(models.init(jax.random.key(0)), NamedSharding(mesh, PartitionSpec()))
    return extract(params, source.train.images[:50], (0.2, 0.5), 0, ["z", "denoiser_1"]), mesh


def judged(bank, mesh, source):
    """What two heads make of the features, each feature on one of the devices."""
    fold = split_fold(source.train.read_labels()[:50] % 2, 2, 0.4, 0)
    heads = [HEADS[name](probe_default()) for name in ("ridge", "knn")]
    return [entry.validation_accuracy for head in heads for entry in sweep(head, bank, bank.keys, fold, mesh, 0)]


def samples(devices, config, source):
    """Eight images by every sampler, on so many devices."""
    mesh = make_mesh(devices, 1, devices=jax.devices()[:devices])
    models = make_models(config, source.image_shape)
    params = jax.device_put(models.init(jax.random.key(0)), NamedSharding(mesh, PartitionSpec()))
    trained = Run(config, source.image_shape, params, 0, "here", mesh=mesh)
    told = generate.tell_of(source.train.images[np.arange(8)].astype(np.float32) / 127.5 - 1, seed=0)
    noise = generate.draw_noise(trained, 8, seed=0)
    return {name: generate.sample(trained, noise, told, name, 4, seed=0) for name in SAMPLERS}


CHANGES = {"data.augment": "crop", "consistency.weight": 0.1, "embedding.input": "xt"} | {
    "model.heads": 8,
    "model.depth": 1,
}
OPTIONS = {
    "": {},
    "in 2": {"train.accumulate": 2},
    "in 4": {"train.accumulate": 4},
    "remat": {"model.remat": "full"},
    "scan": {"model.scan": True, "model.remat": "dots"},
    "scan in 2": {"model.scan": True, "train.accumulate": 2},
}
config = tiny_config(**CHANGES)
source = open_source(config)
assert jax.device_count() == 8 and np.prod(source.image_shape) == 64
report = {}
for run in sys.argv[1:]:
    if run == "features":
        (many, eight), (one, single) = features(8, config, source), features(1, config, source)
        difference = max(
            float(np.max(np.abs(np.asarray(many.one(key)) - np.asarray(one.one(key))))) for key in one.keys
        )
        report[run] = [difference, judged(many, eight, source), judged(one, single, source)]
    elif run == "created":
        report[run] = largest_when_created()
    elif run == "samples":
        many, one = samples(8, config, source), samples(1, config, source)
        report[run] = {name: float(np.max(np.abs(many[name] - one[name]))) for name in SAMPLERS}
    else:
        shape, _, option = run.partition(" ")
        report[run] = curve(tuple(int(size) for size in shape.split("x")), OPTIONS[option])
print(json.dumps(report))
