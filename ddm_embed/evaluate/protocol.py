"""What a run's embeddings are worth: layer, noise level and strength are chosen on held-out training images, and only
what was chosen meets the test labels, which `score_on_test` alone reads, once."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed import system
from ddm_embed.data.source import Source, Split, open_source, read_all, subset
from ddm_embed.errors import UserError
from ddm_embed.evaluate import heads
from ddm_embed.evaluate.baselines import pixel_features
from ddm_embed.evaluate.features import Features, make_extract
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.train.checkpoint import restore_ema

logger = logging.getLogger("ddm_embed")

HEADS = ("ridge", "knn")


class Entry(NamedTuple):
    """One point of the profile: a feature at a noise level, read by a head, and how well on held-out images.

    strength is ridge's, and None for the nearest neighbours; t is None for a baseline, which knows no noise.
    """

    feature: str
    t: float | None
    head: str
    strength: float | None
    validation_accuracy: float


class Fold(NamedTuple):
    """Labels of the training images, and which of them fit the heads and which choose among them."""

    labels: Int[np.ndarray, " number"]
    fit: Int[np.ndarray, " fit"]
    validation: Int[np.ndarray, " validation"]
    classes: int


def evaluate(run: ConfigDict, config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Probes the newest sound checkpoint of a run; returns what `results.json` holds.

    Args:
      run: the run's config. config: the probe's. workdir: the run directory.

    Raises:
      UserError: no labels, no test images, no checkpoint, or features that are not finite.
    """
    source = open_source(run)
    test = check_labelled(source)
    train = sample(source.train, config.resident_images, config.seed)
    fold = split_fold(train.read_labels(), config.validation_fraction, config.seed)
    images = read_all(train.images, run.data.threads), read_all(test.images, run.data.threads)
    step, extract = restore_extract(run, config, workdir, source)
    logger.info("probing step %d on %d training and %d test images", step, len(images[0]), len(images[1]))

    profile = make_profile(lambda t: extract(images[0], t, 0), fold, config)
    chosen = {head: best(profile, head) for head in HEADS}

    predictions = {}
    for head, entry in chosen.items():
        draws = []
        for draw in range(config.noise_draws):
            features = [extract(part, entry.t, draw)[entry.feature] for part in images]
            draws.append(predict(entry, *features, fold, config))
        predictions[head] = draws
    baselines = {}
    for name, (fit_pixels, test_pixels) in pixel_features(*images, fold.fit).items():
        for head in HEADS:
            entries = [e for e in score_features({name: fit_pixels}, None, fold, config) if e.head == head]
            key = name if head == "ridge" else f"{name}_{head}"
            baselines[key] = entries[0]
            predictions[key] = [predict(entries[0], fit_pixels, test_pixels, fold, config)]

    scores = score_on_test(test, predictions)
    ridge = chosen["ridge"]
    return {
        "dataset": source.name,
        "protocol": protocol(config, fold, len(images[1])),
        "checkpoint_step": step,
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "profile": [entry._asdict() for entry in profile],
        "selected": ridge._asdict(),
        "test_accuracy": float(np.mean(scores["ridge"])),
        "test_accuracy_std": float(np.std(scores["ridge"])),
        "test_accuracy_draws": scores["ridge"],
        "knn": chosen["knn"]._asdict()
        | {"test_accuracy": float(np.mean(scores["knn"])), "test_accuracy_std": float(np.std(scores["knn"]))},
        "baselines": {name: scores[name][0] for name in baselines},
        "baseline_choices": {name: entry._asdict() for name, entry in baselines.items()},
    }


def check_labelled(source: Source) -> Split:
    """The test split of a dataset that can be probed.

    Raises:
      UserError: it has no labels or no test images.
    """
    if source.train.read_labels is None:
        raise UserError(f"{source.name} has no labels, so there is nothing to probe; its embeddings need none to train")
    if source.test is None or source.test.read_labels is None:
        raise UserError(
            f"{source.name} has no labelled test images; add some, or set config.data.test_fraction above 0"
        )
    return source.test


def sample(split: Split, most: int, seed: int) -> Split:
    """The split, or a seeded sample of `most` of its images."""
    if len(split) <= most:
        return split
    logger.info("probing with a sample of %d of %d training images (config.resident_images)", most, len(split))
    return subset(split, np.sort(np.random.default_rng(seed).permutation(len(split))[:most]))


def split_fold(labels: Int[np.ndarray, " number"], fraction: float, seed: int) -> Fold:
    """Holds out a seeded random share of the training images.

    Raises:
      UserError: fewer than two classes, or too few images to hold any out.
    """
    if len(np.unique(labels)) < 2:
        raise UserError(f"all {len(labels)} training images are of one class; a probe needs two")
    held = round(len(labels) * fraction)
    if not 0 < held < len(labels):
        raise UserError(f"config.validation_fraction={fraction} of {len(labels)} images holds out {held}; change it")
    order = np.random.default_rng(seed).permutation(len(labels))
    return Fold(labels, np.sort(order[held:]), np.sort(order[:held]), int(labels.max()) + 1)


def restore_extract(
    run: ConfigDict, config: ConfigDict, workdir: Path, source: Source
) -> tuple[int, Callable[[UInt8[np.ndarray, "number height width channel"], float, int], Features]]:
    """(checkpoint's step, function (images, t, draw) -> features) with the EMA parameters in place."""
    mesh = make_mesh(jax.device_count(), 1)
    models = system.make_models(run, source.image_shape)
    shapes = jax.eval_shape(models.init, jax.random.key(0))
    whole = NamedSharding(mesh, P())
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)
    step, params = restore_ema(workdir, abstract)
    batch_size = -(-config.batch_size // mesh.size) * mesh.size
    extract = make_extract(models, system.make_process(run), run.embedding.input, mesh, batch_size)
    return step, lambda images, t, draw: extract(params, images, t, draw)


def make_profile(features_at: Callable[[float], Features], fold: Fold, config: ConfigDict) -> list[Entry]:
    """Every feature at every noise level under every head; a log line a noise level."""
    profile, begin = [], time.perf_counter()
    for done, t in enumerate(config.times, 1):
        entries = score_features(features_at(t), t, fold, config)
        profile += entries
        left = (time.perf_counter() - begin) / done * (len(config.times) - done)
        leader = best(entries, "ridge")
        logger.info(
            "t=%.2f  best of held-out %.4f (%s)  ETA %s",
            t,
            leader.validation_accuracy,
            leader.feature,
            tqdm.format_interval(left),
        )
    return profile


def score_features(features: Features, t: float | None, fold: Fold, config: ConfigDict) -> list[Entry]:
    """Each feature's accuracy on the held-out images under each head, ridge with its best strength.

    Raises:
      UserError: a feature is not finite.
    """
    fit_labels, held_labels = jnp.asarray(fold.labels[fold.fit]), jnp.asarray(fold.labels[fold.validation])
    strengths = jnp.asarray(config.strengths, jnp.float32)
    entries = []
    for name, x in features.items():
        if not bool(jnp.all(jnp.isfinite(x))):
            raise UserError(f"feature {name} at t={t} is not finite; the checkpoint cannot be probed")
        fit, held = heads.standardise(x[fold.fit], x[fold.validation])
        right = heads.accuracy(
            heads.ridge_predict(held, *heads.ridge(fit, fit_labels, strengths, fold.classes)), held_labels
        )
        at = int(jnp.argmax(right))
        entries.append(Entry(name, t, "ridge", float(config.strengths[at]), float(right[at])))
        voted = heads.nearest(
            x[fold.fit], fit_labels, x[fold.validation], fold.classes, config.neighbours, config.temperature
        )
        entries.append(Entry(name, t, "knn", None, float(heads.accuracy(voted, held_labels))))
    return entries


def best(profile: list[Entry], head: str) -> Entry:
    """The entry of this head that is most accurate on held-out images; the first of equals."""
    return max((entry for entry in profile if entry.head == head), key=lambda entry: entry.validation_accuracy)


def predict(
    entry: Entry, train: Float[Array, "number dim"], test: Float[Array, "test dim"], fold: Fold, config: ConfigDict
) -> Int[np.ndarray, " test"]:
    """The test images' classes, by the chosen head fitted again on all training images."""
    labels = jnp.asarray(fold.labels)
    if entry.head == "ridge":
        train, test = heads.standardise(train, test)
        strength = jnp.asarray([entry.strength], jnp.float32)
        return np.asarray(heads.ridge_predict(test, *heads.ridge(train, labels, strength, fold.classes))[0])
    return np.asarray(heads.nearest(train, labels, test, fold.classes, config.neighbours, config.temperature))


def score_on_test(test: Split, predictions: dict[str, list[Int[np.ndarray, " test"]]]) -> dict[str, list[float]]:
    """Accuracy of finished predictions; the only reader of test labels."""
    labels = test.read_labels()
    return {name: [float(np.mean(p == labels)) for p in draws] for name, draws in predictions.items()}


def protocol(config: ConfigDict, fold: Fold, tests: int) -> dict[str, Any]:
    """How the figures came about, in words and numbers."""
    return {
        "name": config.name,
        "head": "ridge regression onto one-hot labels on standardised features, closed form",
        "selection": "feature, t and strength of highest accuracy on held-out training images; refitted on all of them",
        "parameters": "EMA",
        "fit_images": len(fold.fit),
        "validation_images": len(fold.validation),
        "test_images": tests,
        "classes": fold.classes,
        "noise_draws": config.noise_draws,
        "knn": {"neighbours": config.neighbours, "temperature": config.temperature, "metric": "cosine"},
    }
