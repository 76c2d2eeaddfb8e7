"""What a run's embeddings are worth: layer, noise level and hyper-parameter are chosen on held-out training images, and
only what was chosen meets the test labels, which `score_on_test` alone reads, once."""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.data.splits import obstacle, sample, sample_positions, split_fold
from ddm_embed.data.types import Source, Split, read_all
from ddm_embed.errors import UserError
from ddm_embed.features.bank import GIB, Key, bank_of
from ddm_embed.features.run import open_run
from ddm_embed.models.patches import is_sequence
from ddm_embed.parallel import distributed
from ddm_embed.probe.atlas import Atlas, make_atlas
from ddm_embed.probe.bench import Bench, Entry, Judged, Predicted, describe_size, predict, reading_of, sweep
from ddm_embed.probe.measures import measure, memorisation
from ddm_embed.probe.pixels import pixel_features
from ddm_embed.probe.protocols import HEADS, PROTOCOLS, check
from ddm_embed.reproducible import reproducible
from ddm_embed.results import BASELINE_HEADS, LARGEST_CONFUSION, Results, baseline_key, figures, labelled, main_protocol
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.provenance import manifest
from ddm_embed.train.progress import collapsed_below
from ddm_embed.validate import validate

logger = logging.getLogger("ddm_embed")


class Scores(NamedTuple):
    """Of finished predictions on the test set.

    accuracy: of every draw, by name. right: which images, [draw, test]. confusion: of the first name's first draw, how
    many images of a class were given to which: (class, given, images) of each pair with any. unseen: test images of
    classes without training images.
    """

    accuracy: dict[str, list[float]]
    right: dict[str, np.ndarray]
    confusion: Int[np.ndarray, "pair 3"]
    unseen: int


class Evaluation(NamedTuple):
    """results: what `results.json` holds. predictions: classes of the test images by protocol, [draw, test], and under
    `NAME/right` which of them are right. atlas: what `probe.atlas` describes; empty if not asked for."""

    results: Results
    predictions: dict[str, np.ndarray]
    atlas: Atlas


@reproducible()
def evaluate(run: ConfigDict, config: ConfigDict, workdir: Path) -> Evaluation:
    """Probes the newest sound checkpoint of a run.

    Args:
      run: the run's config. config: the probe's. workdir: the run directory.

    Raises:
      UserError: no checkpoint, features that are not finite, or a protocol that these images cannot be judged by.
    """
    validate(run)
    check(config)
    source = RunDirectory(workdir).open_data(run, config.data)
    reason = obstacle(source)
    train = sample(source.train, config.training_images, config.seed)
    validation = source.validation and sample(source.validation, config.selection_images, config.seed)
    splits = [split for split in (train, validation) if split]
    with distributed.unhurried():
        images = np.concatenate([read_all(split.images, run.data.threads) for split in splits])
        test_images = None if reason else read_all(source.test.images, run.data.threads)
    trained = open_run(workdir, run)
    choosing = sample_positions(len(train), config.selection_images, config.seed)
    choosing = np.concatenate([choosing, np.arange(len(train), len(images))])
    class_ids, labels = None, None
    if train.read_labels is not None:
        class_ids, labels = np.unique(np.concatenate([split.read_labels() for split in splits]), return_inverse=True)
        if len(class_ids) < 2:
            reason = f"all {len(images)} training images of {source.name} are of one class; a probe needs two"

    begin = time.perf_counter()
    times = (0.0,) if trained.timeless else tuple(config.times)
    logger.info("step %d: features of %d images at %d levels", trained.step, len(choosing), len(times))
    names = trained.names if tuple(config_lib.names(config.pooling)) == ("mean",) else trained.pooled
    bank = trained.read(images[choosing], times, 0, names, reading_of(config))
    timing = {"features_s": time.perf_counter() - begin, "features_gib": bank.nbytes / GIB}
    timing["kept"] = "memory" if bank.folder is None else "disk"
    logger.info("%s, in %.0f s", describe_size(bank), timing["features_s"])
    results: Results = {
        "dataset": source.name,
        "kind": "sequences" if is_sequence(source.image_shape) else "images",
        "name": config.name,
        "checkpoint_step": trained.step,
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "classes": names_of(source, class_ids),
        "warnings": [] if reason is None else [f"no protocol was run: {reason}"],
    }
    predictions, atlas = {}, {}
    if reason is None:
        held = len(validation) if validation else None
        fold = split_fold(labels[choosing], len(class_ids), config.validation_fraction, config.seed, held)
        bench = Bench(config, trained, images, labels, len(class_ids), test_images, choosing, fold, bank)
        begin = time.perf_counter()
        judged = judge_all(bench)
        baselines = judge_baselines(bench)
        timing["heads_s"] = time.perf_counter() - begin
        every = {name: j.predictions for name, j in (judged | baselines).items()}
        scores = score_on_test(source.test, class_ids, every)
        results |= summary(bench, judged, baselines, scores, "training" if validation is None else "validation")
        results["warnings"] += warnings(fold, scores)
        if results["confusion"] is None:
            atlas = {"confusion": scores.confusion}
        for name, draws in every.items():
            predictions |= {name: np.stack(draws), f"{name}/right": scores.right[name]}
    if config.measures:
        rows = sample_positions(len(choosing), config.measure_images, config.seed)
        at = choosing[rows]
        means, own = bank.only(trained.names), None if labels is None else labels[at]
        results["measures"] = measure(trained, reading_of(config), means, rows, images[at], own)
        ranks = [one["rankme"] or 1.0 for one in results["measures"]["profile"] if one["feature"] == "z"]
        if ranks and max(ranks) < collapsed_below(run.embedding.dim):
            results["warnings"].append(f"z has collapsed: its RankMe is {max(ranks):.2f} at most, at every noise level")
        if "profile" in results:
            results["measures"]["memorisation"] = memorised(results)
        chosen = results.get("selected")
        key = Key(chosen["feature"], chosen["t"]) if chosen and chosen["t"] in bank.times else bank.keys[0]
        atlas |= make_atlas(
            bank, images[choosing], None if labels is None else labels[choosing], key, rows, config.seed
        )
    results |= {"timing": timing, "manifest": manifest(run, config, source.name)}
    return Evaluation(results, predictions, atlas)


def judge_all(bench: Bench) -> dict[str, Judged]:
    """Every protocol that is asked for, by name."""
    judged = {}
    for name in config_lib.names(bench.config.protocols):
        begin = time.perf_counter()
        judged |= PROTOCOLS[name].judge(bench)
        logger.info("%s took %.1f s", name, time.perf_counter() - begin)
    return judged


def judge_baselines(bench: Bench) -> dict[str, Judged]:
    """Pixels and their principal components under `BASELINE_HEADS`, by `baseline_key`."""
    logger.info("fitting the baselines")
    judged, config, fold = {}, bench.config, bench.fold
    labels = jnp.asarray(bench.labels)
    pixels = pixel_features(bench.images, bench.test_images, bench.choosing[fold.fit])
    for head in (HEADS[name](config) for name in BASELINE_HEADS):
        for name, (train, test) in pixels.items():
            bank = bank_of({name: train[bench.choosing]})
            (entry,) = sweep(head, bank, [Key(name, None)], fold, bench.mesh, config.seed)
            hyper = head.carried(entry.hyper, len(fold.fit), len(train))
            predicted = predict(head, hyper, train, labels, test, bench.classes, config.seed)
            judged[baseline_key(name, head.name)] = Judged(head.settings, head.hyper, [entry], entry, [predicted])
    return judged


def score_on_test(test: Split, class_ids: Int[np.ndarray, " class"], predictions: dict[str, list[Predicted]]) -> Scores:
    """How many of finished predictions are right, which count classes as `class_ids` does; the only reader of test
    labels.

    Raises:
      UserError: the test labels are withheld.
    """
    labels = test.read_labels()
    if labels.min() < 0:
        raise UserError("the test labels are negative: this dataset withholds them, so it cannot be probed")
    right = {name: np.stack([class_ids[p] == labels for p in draws]) for name, draws in predictions.items()}
    known = np.isin(labels, class_ids)
    first = next(iter(predictions.values()))[0]
    pairs = np.stack([np.searchsorted(class_ids, labels[known]), first[known]], axis=1)
    pairs, images = np.unique(pairs.astype(np.int64), axis=0, return_counts=True)
    accuracy = {name: [float(np.mean(draw)) for draw in draws] for name, draws in right.items()}
    return Scores(accuracy, right, np.column_stack([pairs, images]), int(np.sum(~known)))


def summary(
    bench: Bench, judged: dict[str, Judged], baselines: dict[str, Judged], scores: Scores, held: str
) -> Results:
    """The part of the results that labels made; `held` is the split of the images that were held out to choose by."""
    config, fold = bench.config, bench.fold
    protocols = {
        name: {
            "settings": j.settings,
            "hyper": j.hyper,
            "selected": point(j.selected),
            **figures(scores.accuracy[name]),
        }
        for name, j in judged.items()
    }
    definition = {
        "selection": f"feature, t and hyper-parameter of highest accuracy on held-out {held} images",
        "final": "the chosen head fitted again on all training images; test labels read once",
        "parameters": "EMA",
        "times": list(config.times),  # codes that are the same at all of them are read once
        "selection_fit_images": len(fold.fit),
        "selection_validation_images": len(fold.validation),
        "training_images": len(bench.images),
        "test_images": len(bench.test_images),
        "classes": bench.classes,
        "noise_draws": config.noise_draws,
        "averaged_draws": config.averaged_draws,
    }
    profile = [entry._asdict() for j in judged.values() for entry in j.profile]
    compared = {name: (scores.accuracy[name][0], point(j.selected)) for name, j in baselines.items()}
    confusion = None
    if bench.classes <= LARGEST_CONFUSION:
        counts = np.zeros((bench.classes, bench.classes), int)
        counts[tuple(scores.confusion[:, :2].T)] = scores.confusion[:, 2]
        confusion = counts.tolist()
    return labelled(definition, protocols, profile, compared, confusion)


def memorised(results: Results) -> dict[str, Any]:
    """Whether the chosen feature's profile falls steadily from t = 0, as when a model memorises.

    If it does, a warning is added to the results.
    """
    main, feature = main_protocol(results), results["selected"]["feature"]
    points = [
        (e["t"], e["validation_accuracy"])
        for e in results["profile"]
        if (e["protocol"], e["feature"]) == (main, feature) and e["t"] is not None
    ]
    if len(points) < 3:
        return {"falls_steadily": None, "feature": feature}
    found = memorisation(points, results["protocol"]["selection_validation_images"])
    if found["falls_steadily"]:
        text = f"the accuracy of {feature} falls steadily from t=0, as it does where a model memorises its images"
        results["warnings"].append(text)
    return {"feature": feature} | found


def point(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in entry._asdict().items() if name != "protocol"}


def names_of(source: Source, class_ids: Int[np.ndarray, " class"] | None) -> list[str] | None:
    """The classes' names, or their numbers as text; None without labels."""
    if class_ids is None:
        return None
    return [source.classes[i] if source.classes else str(i) for i in class_ids]


def warnings(fold, scores: Scores) -> list[str]:
    """What to be warned of: classes without images to fit, to choose or to test by."""
    said = []
    fitted, held = np.unique(fold.labels[fold.fit]), np.unique(fold.labels[fold.validation])
    if len(fitted) < fold.classes:
        said.append(
            f"{fold.classes - len(fitted)} of {fold.classes} classes have no image among those that fit the choice"
        )
    if len(held) < fold.classes:
        said.append(f"{fold.classes - len(held)} of {fold.classes} classes have no image among those that judge it")
    if scores.unseen:
        said.append(f"{scores.unseen} test images are of classes without training images, and count as wrong")
    absent = fold.classes - len(np.unique(scores.confusion[:, 0]))
    if absent:
        said.append(f"{absent} of {fold.classes} classes have no test image")
    return said
