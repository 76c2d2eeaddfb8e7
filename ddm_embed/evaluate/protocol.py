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
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed.data.source import Source, Split, check_same, open_source, read_all
from ddm_embed.errors import UserError
from ddm_embed.evaluate import heads
from ddm_embed.evaluate.baselines import pixel_features
from ddm_embed.evaluate.features import Features, feature_names, make_extract
from ddm_embed.evaluate.splits import Fold, check_labelled, sample, sample_positions, split_fold
from ddm_embed.parallel import distributed
from ddm_embed.trained import restore
from ddm_embed.validate import validate

logger = logging.getLogger("ddm_embed")

HEADS = ("ridge", "knn")

Pixels = UInt8[np.ndarray, "number height width channel"]


class Entry(NamedTuple):
    """One point of the profile: a feature at a noise level, read by a head, and how well on held-out images.

    strength is ridge's, and None for the nearest neighbours; t is None for a baseline, which knows no noise.
    """

    feature: str
    t: float | None
    head: str
    strength: float | None
    validation_accuracy: float


class Reader(NamedTuple):
    """A checkpoint that is read for features: its step, what it offers, and (images, t, draw, names) -> features."""

    step: int
    names: list[str]
    read: Callable[[Pixels, float, int, list[str]], Features]


def evaluate(run: ConfigDict, config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Probes the newest sound checkpoint of a run; returns what `results.json` holds.

    Args:
      run: the run's config. config: the probe's. workdir: the run directory.

    Raises:
      UserError: no labels, no test images, no checkpoint, or features that are not finite.
    """
    validate(run)
    source = open_source(run)
    check_same(source, workdir / "data.json")
    test = check_labelled(source)
    train = sample(source.train, config.training_images, config.seed)
    with distributed.unhurried():
        images, test_images = (read_all(split.images, run.data.threads) for split in (train, test))
    class_ids, labels = np.unique(train.read_labels(), return_inverse=True)
    choosing = sample_positions(len(images), config.selection_images, config.seed)
    fold = split_fold(labels[choosing], len(class_ids), config.validation_fraction, config.seed)
    reader = open_reader(run, config, workdir, source)
    logger.info(
        "probing step %d: %d images to fit, %d to choose by, then %d to fit and %d to test",
        reader.step, len(fold.fit), len(fold.validation), len(images), len(test_images),
    )  # fmt: skip

    profile = make_profile(lambda t: reader.read(images[choosing], t, 0, reader.names), fold, config)
    chosen = {head: best(profile, head) for head in HEADS}
    logger.info("fitting what was chosen on %d images", len(images))
    fit_labels = jnp.asarray(labels)
    predictions = {
        head: predict_draws(entry, reader, images, fit_labels, test_images, fold.classes, run, config)
        for head, entry in chosen.items()
    }
    logger.info("fitting the baselines")
    baselines = {}
    for name, (pixels, test_pixels) in pixel_features(images, test_images, choosing[fold.fit]).items():
        for entry in score_features({name: pixels[choosing]}, None, fold, config):
            key = name if entry.head == "ridge" else f"{name}_{entry.head}"
            baselines[key] = entry
            predictions[key] = [predict(entry, pixels, fit_labels, test_pixels, fold.classes, config)]

    scores = score_on_test(test, class_ids, predictions)
    return {
        "dataset": source.name,
        "protocol": protocol(config, fold, len(images), len(test_images)),
        "checkpoint_step": reader.step,
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "profile": [entry._asdict() for entry in profile],
        "selected": chosen["ridge"]._asdict(),
        **summary(scores["ridge"]),
        "knn": chosen["knn"]._asdict() | summary(scores["knn"]),
        "baselines": {name: scores[name][0] for name in baselines},
        "baseline_choices": {name: entry._asdict() for name, entry in baselines.items()},
    }


def summary(scores: list[float]) -> dict[str, Any]:
    return {
        "test_accuracy": float(np.mean(scores)),
        "test_accuracy_std": float(np.std(scores)),
        "test_accuracy_draws": scores,
    }


def open_reader(run: ConfigDict, config: ConfigDict, workdir: Path, source: Source) -> Reader:
    """The newest sound checkpoint, read in batches that its mesh divides."""
    trained = restore(run, workdir, source.image_shape)
    batch_size = -(-config.batch_size // trained.mesh.size) * trained.mesh.size
    process, seen = trained.objective.process, run.embedding.input
    extract = make_extract(trained.networks, process, seen, trained.mesh, batch_size, config.seed)
    return Reader(trained.step, feature_names(trained.models), lambda *arguments: extract(trained.params, *arguments))


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
            heads.ridge_predict(held, *heads.ridge(fit, jax.nn.one_hot(fit_labels, fold.classes), strengths)),
            held_labels,
        )
        at = int(jnp.argmax(right))
        entries.append(Entry(name, t, "ridge", float(config.strengths[at]), float(right[at])))
        voted = heads.nearest(
            x[fold.fit], fit_labels, x[fold.validation], fold.classes, config.neighbours, config.temperature
        )
        entries.append(Entry(name, t, "knn", None, float(heads.accuracy(voted, held_labels))))
        distributed.progress()
    return entries


def best(profile: list[Entry], head: str) -> Entry:
    """The entry of this head that is most accurate on held-out images; the first of equals."""
    return max((entry for entry in profile if entry.head == head), key=lambda entry: entry.validation_accuracy)


def predict_draws(
    entry: Entry,
    reader: Reader,
    images: Pixels,
    labels: Int[Array, " number"],
    test_images: Pixels,
    classes: int,
    run: ConfigDict,
    config: ConfigDict,
) -> list[Int[np.ndarray, " test"]]:
    """The test images' classes under each draw of their noise, by the chosen head fitted on all training images.

    An encoder that sees the clean image knows no noise, so one draw stands for all.
    """
    noiseless = run.embedding.input == "x0" and not entry.feature.startswith("denoiser")
    train = reader.read(images, entry.t, 0, [entry.feature])[entry.feature]
    draws = []
    for draw in range(1, 2 if noiseless else config.noise_draws + 1):  # draw 0 is the training images' own
        test = reader.read(test_images, entry.t, draw, [entry.feature])[entry.feature]
        draws.append(predict(entry, train, labels, test, classes, config))
        distributed.progress()
    return draws * config.noise_draws if noiseless else draws


def predict(
    entry: Entry,
    train: Float[Array, "number dim"],
    labels: Int[Array, " number"],
    test: Float[Array, "test dim"],
    classes: int,
    config: ConfigDict,
) -> Int[np.ndarray, " test"]:
    """The classes that the entry's head, fitted on `train`, gives to `test`."""
    if entry.head == "knn":
        return np.asarray(heads.nearest(train, labels, test, classes, config.neighbours, config.temperature))
    train, test = heads.standardise(train, test)
    strength = jnp.asarray([entry.strength], jnp.float32)
    return np.asarray(heads.ridge_predict(test, *heads.ridge(train, jax.nn.one_hot(labels, classes), strength))[0])


def score_on_test(
    test: Split, class_ids: Int[np.ndarray, " class"], predictions: dict[str, list[Int[np.ndarray, " test"]]]
) -> dict[str, list[float]]:
    """Accuracy of finished predictions, which count classes as `class_ids` does; the only reader of test labels.

    Raises:
      UserError: the test labels are withheld.
    """
    labels = test.read_labels()
    if labels.min() < 0:
        raise UserError("the test labels are negative: this dataset withholds them, so it cannot be probed")
    return {name: [float(np.mean(class_ids[p] == labels)) for p in draws] for name, draws in predictions.items()}


def protocol(config: ConfigDict, fold: Fold, trained: int, tested: int) -> dict[str, Any]:
    """How the figures came about, in words and numbers."""
    return {
        "name": config.name,
        "head": "ridge regression onto one-hot labels on standardised features, closed form",
        "selection": "feature, t and strength of highest accuracy on held-out training images",
        "final": "the chosen head fitted again on all training images; test labels read once",
        "parameters": "EMA",
        "selection_fit_images": len(fold.fit),
        "selection_validation_images": len(fold.validation),
        "training_images": trained,
        "test_images": tested,
        "classes": fold.classes,
        "noise_draws": config.noise_draws,
        "knn": {"neighbours": config.neighbours, "temperature": config.temperature, "metric": "cosine"},
    }
