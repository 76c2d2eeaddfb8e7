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
from ddm_embed import methods
from ddm_embed.data.splits import obstacle, sample, sample_positions, split_fold
from ddm_embed.data.types import Source, Split, read_all
from ddm_embed.errors import UserError
from ddm_embed.features.bank import GIB, Bank, Key, bank_of
from ddm_embed.features.run import open_run
from ddm_embed.models.patches import is_sequence
from ddm_embed.parallel import distributed
from ddm_embed.probe.atlas import Atlas, make_atlas
from ddm_embed.probe.bench import Bench, Entry, Judged, Predicted, best, describe_size, predict, reading_of, sweep
from ddm_embed.probe.measures import measure, memorisation
from ddm_embed.probe.pixels import pixel_features
from ddm_embed.probe.protocols import HEADS, PROTOCOLS, check
from ddm_embed.reproducible import reproducible
from ddm_embed.results import (
    BASELINE_HEADS,
    BASELINES,
    COLLAPSED,
    JOINT,
    LARGEST_CONFUSION,
    STANDARDISED,
    Results,
    baseline_key,
    encoder_key,
    figures,
    labelled,
    main_protocol,
    of_one_level,
)
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.provenance import manifest
from ddm_embed.train.metrics import train_flops
from ddm_embed.train.progress import collapsed_below, rank
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
    train, validation, chosen_on, held = to_choose_by(source, config)
    splits = [split for split in (train, validation) if split]
    with distributed.unhurried():
        images = np.concatenate([read_all(split.images, run.data.threads) for split in splits])
        test_images = None if reason else read_all(source.test.images, run.data.threads)
    trained = open_run(workdir, run)
    choosing = sample_positions(len(train), chosen_on, config.seed)
    if validation:
        choosing = np.append(choosing, len(train) + sample_positions(len(validation), held, config.seed))
    class_ids, labels = None, None
    if train.read_labels is not None:
        class_ids, labels = np.unique(np.concatenate([split.read_labels() for split in splits]), return_inverse=True)
        if len(class_ids) < 2:
            reason = f"all {len(images)} training images of {source.name} are of one class; a probe needs two"

    begin = time.perf_counter()
    times = (0.0,) if trained.timeless else tuple(config.times)
    logger.info("step %d: features of %d images at %d levels", trained.step, len(choosing), len(times))
    names = trained.pooled(config_lib.names(config.pooling))
    bank = trained.read(images[choosing], times, 0, names, reading_of(config))
    timing = {"features_s": time.perf_counter() - begin, "features_gib": bank.nbytes / GIB}
    timing["kept"] = "memory" if bank.folder is None else "disk"
    logger.info("%s, in %.0f s", describe_size(bank), timing["features_s"])
    of_image = train_flops(trained.models.forward_flops(), methods.of(run).passes(run))
    results: Results = {
        "dataset": source.name,
        "kind": "sequences" if is_sequence(source.image_shape) else "images",
        "name": config.name,
        "checkpoint_step": trained.step,
        "train_flops": float(of_image * run.train.batch_size * trained.step),
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "classes": names_of(source, class_ids),
        "warnings": [] if reason is None else [f"no protocol was run: {reason}"],
    }
    predictions, atlas = {}, {}
    if reason is None:
        fold = split_fold(labels[choosing], len(class_ids), config.validation_fraction, config.seed, held)
        bench = Bench(config, trained, images, labels, len(class_ids), test_images, choosing, fold, bank)
        begin = time.perf_counter()
        judged = judge_all(bench)
        baselines = judge_baselines(bench)
        timing["heads_s"] = time.perf_counter() - begin
        every = {name: j.predictions for name, j in (judged | baselines).items()}
        of_encoders = {encoder_key(name): j.encoder[1] for name, j in judged.items() if j.encoder}
        scores = score_on_test(source.test, class_ids, every | of_encoders)
        results |= summary(
            bench, judged, baselines, scores, "training" if validation is None or source.kept_apart else "validation"
        )
        results["warnings"] += warnings(fold, scores)
        if results["confusion"] is None:
            atlas = {"confusion": scores.confusion}
        for name, draws in every.items():
            predictions |= {name: np.stack(draws), f"{name}/right": scores.right[name]}
    rows = sample_positions(len(choosing), config.measure_images, config.seed)
    results["warnings"] += collapse(bank, rows)
    if config.measures:
        at = choosing[rows]
        means, own = bank.only(trained.names), None if labels is None else labels[at]
        results["measures"] = measure(trained, reading_of(config), means, rows, images[at], own)
        if "profile" in results:
            results["measures"]["memorisation"] = memorised(results)
        chosen = of_one_level(results)
        key = Key(chosen["feature"], chosen["t"]) if chosen and chosen["t"] in bank.times else bank.keys[0]
        atlas |= make_atlas(
            bank, images[choosing], None if labels is None else labels[choosing], key, rows, config.seed
        )
    results |= {"timing": timing, "manifest": manifest(run, config, source.name)}
    return Evaluation(results, predictions, atlas)


def to_choose_by(source: Source, config: ConfigDict) -> tuple[Split, Split | None, int, int | None]:
    """The training images that are read, those that no choice is fitted on, and how many of each the choice is made on.

    Of a run that keeps training images apart they are as many as of any other run: their figures share a column.
    """
    seed, most, apart = config.seed, config.training_images, source.validation
    if not source.kept_apart:
        validation = apart and sample(apart, config.selection_images, seed)
        return sample(source.train, most, seed), validation, config.selection_images, validation and len(validation)
    validation = sample(apart, most // 2, seed)
    train = sample(source.train, most - len(validation), seed)
    chosen_on = min(len(train) + len(validation), config.selection_images)
    held = min(round(chosen_on * config.validation_fraction), len(validation))
    return train, validation, chosen_on - held, held


def judge_all(bench: Bench) -> dict[str, Judged]:
    """Every protocol that is asked for, by name."""
    judged = {}
    for name in config_lib.names(bench.config.protocols):
        begin = time.perf_counter()
        judged |= PROTOCOLS[name].judge(bench)
        logger.info("%s took %.1f s", name, time.perf_counter() - begin)
    return judged


def judge_baselines(bench: Bench) -> dict[str, Judged]:
    """`BASELINES` under `BASELINE_HEADS`, by `baseline_key`.

    A head that does not standardise by itself reads pixels both as they are and standardised; the better counts.
    """
    logger.info("fitting the baselines")
    judged, config, fold = {}, bench.config, bench.fold
    labels = jnp.asarray(bench.labels)
    pixels = pixel_features(bench.images, bench.test_images, bench.choosing[fold.fit])
    for head in (HEADS[name](config) for name in BASELINE_HEADS):
        for name in BASELINES:
            also = [STANDARDISED] if name == "pixels" and head.settings["features"] != "standardised" else []
            bank = bank_of({one: pixels[one][0][bench.choosing] for one in (name, *also)})
            entry = best(sweep(head, bank, bank.keys, fold, bench.mesh, config.seed))
            train, test = pixels[entry.feature]
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
        | (
            {"encoder": {"selected": point(j.encoder[0]), **figures(scores.accuracy[encoder_key(name)])}}
            if j.encoder
            else {}
        )
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
    if tuple(config_lib.names(config.pooling)) != config_lib.probe_default().pooling:
        definition["pooling"] = config_lib.names(config.pooling)  # a choice among others is another measurement
    profile = [{"protocol": entry.protocol} | point(entry) for j in judged.values() for entry in j.profile]
    compared = {name: (scores.accuracy[name][0], point(j.selected)) for name, j in baselines.items()}
    confusion = None
    if bench.classes <= LARGEST_CONFUSION:
        counts = np.zeros((bench.classes, bench.classes), int)
        counts[tuple(scores.confusion[:, :2].T)] = scores.confusion[:, 2]
        confusion = counts.tolist()
    return labelled(definition, protocols, profile, compared, confusion)


def memorised(results: Results) -> dict[str, Any]:
    """Whether the chosen feature's profile falls steadily from the lowest t, as when a model memorises, or as on an
    easy task: a hint. If it does, a note is added to the results' warnings.
    """
    main, feature = main_protocol(results), (of_one_level(results) or results["selected"])["feature"]
    points = [
        (e["t"], e["validation_accuracy"])
        for e in results["profile"]
        if (e["protocol"], e["feature"]) == (main, feature) and e["t"] is not None
    ]
    if len(points) < 3:
        return {"falls_steadily": None, "feature": feature}
    found = memorisation(points, results["protocol"]["selection_validation_images"])
    if found["falls_steadily"]:
        text = f"the accuracy of {feature} falls steadily from t={found['lowest_t']:g}, as it does where a model "
        text += "memorises its images, and also where the task is easy: it is no test of memorisation"
        results["warnings"].append(text)
    return {"feature": feature} | found


def collapse(bank: Bank, rows: Int[np.ndarray, " some"]) -> list[str]:
    """A warning where z of these images is nearly one direction at every noise level."""
    z = [bank.one(key)[rows] for key in bank.keys if key.name == "z"]
    highest = max(map(rank, z), default=np.inf)
    if highest >= collapsed_below(z[0].shape[1] if z else 1):
        return []
    return [f"{COLLAPSED}: its RankMe is {highest:.2f} at most, at every noise level"]


def point(entry: Entry) -> dict[str, Any]:
    """An entry as results.json has it, but for its protocol."""
    found = {name: value for name, value in entry._asdict().items() if name != "protocol"}
    return found | {"feature": entry.feature + JOINT, "t": None, "levels": list(entry.t)} if entry.joint else found


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
