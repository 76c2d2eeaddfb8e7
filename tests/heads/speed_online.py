"""How much faster all heads of `fit_online` are together than one (layer, t) after another, at equal accuracy.

python tests/probe/speed_online.py configs/digits.py --times 0 0.1 0.3 --epochs 2

One after another is measured twice: stopping at the layer that the head reads, and, as a program that is run line by
line does, passing through all layers. Networks are fresh, with noise on their parameters so that layers differ; seconds
are those of training steps, without compiling. Without `--images`, images are the config's own.
"""

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np

from ddm_embed.data.augment import to_float
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import read_all
from ddm_embed.features.extract import feature_names, make_features
from ddm_embed.heads import online
from ddm_embed.heads.recipes import DDAE, changed
from ddm_embed.methods.build import make_models, make_networks
from ddm_embed.methods.diffusion import make_process
from ddm_embed.parallel.mesh import make_mesh


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--times", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--images", type=int, default=0, help="made ones, of 10 classes")
    parser.add_argument("--side", type=int, default=32, help="pixels of made images, of three channels")
    parser.add_argument("--levels", type=int, default=1, help="noise levels that pass together")
    parser.add_argument("--alone", type=int, default=0, help="heads to measure alone; all if 0, else evenly spread")
    return parser.parse_args()


def read_config(path):
    spec = importlib.util.spec_from_file_location("chosen", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def read_images(config, arguments):
    """Images and labels: to fit on, and to predict."""
    if not arguments.images:
        source = open_source(config)
        train, test = (read_all(split.images, 8) for split in (source.train, source.test))
        return train, source.train.read_labels(), test, source.test.read_labels()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, arguments.images + 1000)
    patterns = rng.normal(size=(10, arguments.side, arguments.side, 3))
    images = 128 + 8 * patterns[labels] + 40 * rng.normal(size=(len(labels), *patterns.shape[1:])).astype(np.float32)
    images = np.clip(images, 0, 255).astype(np.uint8)
    return images[:-1000], labels[:-1000], images[-1000:], labels[-1000:]


def open_networks(config, image_shape):
    models = make_models(config, image_shape)
    params = models.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    networks, process = make_networks(models, config), make_process(config)
    features_at = make_features(networks, process, config.embedding.input == "x0")
    return features_at, jax.tree.unflatten(tree, noisy), tuple(feature_names(models))


def whole_pass(features_at, name):
    """The same features, of which none can be left uncomputed: XLA does not fold 0 * x, which may be NaN."""

    def at(params, x0, eps, t):
        features = features_at(params, x0, eps, t)
        return features | {name: features[name] + 0.0 * sum(x[:, :1] for x in features.values())}

    return at


class Stopwatch:
    """Seconds a step of `online.run`, from the second chunk on: the first one compiles."""

    def __init__(self):
        self.make, self.per_step = online.make_train, None
        online.make_train = self.make_timed

    def make_timed(self, step):
        train, begin_at, done_before = self.make(step), None, 0

        def timed(state, given, chunk):
            nonlocal begin_at, done_before
            state, done = jax.block_until_ready(train(state, given, chunk))
            if begin_at is None:
                begin_at, done_before = time.perf_counter(), int(done)
            elif int(done) > done_before:
                self.per_step = (time.perf_counter() - begin_at) / (int(done) - done_before)
            return state, done

        return timed


def main():
    arguments = read_arguments()
    config = read_config(arguments.config)
    images, labels, queries, true = read_images(config, arguments)
    features_at, params, names = open_networks(config, images.shape[1:])
    recipe = changed(DDAE, epochs=arguments.epochs, batch_size=arguments.batch_size)
    times, classes, key = tuple(arguments.times), int(labels.max()) + 1, jax.random.key(2)
    mesh, watch = make_mesh(jax.device_count(), 1), Stopwatch()

    def fit(features_at, names, times):
        given = online.Training(features_at, params, images, labels, classes, key, mesh)
        heads = online.fit_online(recipe, given, times, names, levels=min(arguments.levels, len(times)))
        return heads, watch.per_step

    noise = jax.random.normal(jax.random.key(3), queries.shape)
    read = jax.jit(lambda t: features_at(params, to_float(jnp.asarray(queries)), noise, t))
    columns = [read(jnp.float32(t)) for t in times]
    features = {name: jnp.stack([column[name] for column in columns]) for name in names}

    heads, together = fit(features_at, names, times)
    found = online.predict_online(recipe, heads, features, names)[:, 0]
    accuracy = np.mean(found == true, axis=1)
    keys = online.keys_of(names, times)
    count = arguments.alone or len(keys)
    measured = np.unique(np.linspace(0, len(keys) - 1, count).round().astype(int))
    shortest, whole, apart = [], [], []
    for place in measured:
        name, t = keys[place]
        heads, seconds = fit(features_at, (name,), (t,))
        shortest.append(seconds)
        one = {name: features[name][times.index(t)][None]}
        apart.append(np.mean(online.predict_online(recipe, heads, one, (name,))[0, 0] == true) - accuracy[place])
        whole.append(fit(whole_pass(features_at, name), (name,), (t,))[1])
        print(
            f"{name} at t={t:.2f}: {1e3 * seconds:.2f} ms a step, {1e3 * whole[-1]:.2f} with a whole pass", flush=True
        )
    print(f"{len(keys)} heads on {len(images)} images, batches of {recipe.batch_size}, {jax.devices()[0].device_kind}")
    print(f"together: {1e3 * together:.2f} ms a step for all; accuracies {accuracy.min():.4f} to {accuracy.max():.4f}")
    for what, seconds in (("no further than each needs", shortest), ("whole passes", whole)):
        alone = np.mean(seconds) * len(keys)
        print(f"one after another, {what}: {1e3 * alone:.1f} ms, {alone / together:.1f} times as long")
    print(f"largest difference in accuracy: {np.abs(apart).max():.4f}")


if __name__ == "__main__":
    main()
