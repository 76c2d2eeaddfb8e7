"""Protocols that read an image's codes at several noise levels as one, beside the best single level read alike."""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.features.bank import Bank
from ddm_embed.heads import linear, readers
from ddm_embed.heads.readers import Codes
from ddm_embed.parallel import distributed
from ddm_embed.probe.bench import Bench, Entry, Head, Judged, Pixels, as_classes, best, check_numbers, root_key
from ddm_embed.probe.protocols import direct

logger = logging.getLogger("ddm_embed")

Trajectory = Float[Array, "number time dim"]

READERS = ("single", "mean", "concatenate", "attention", "gru", "learned_t")


class Read(NamedTuple):
    """Predictions of every hyper-parameter, and the noise level that each of them learned, if any did."""

    predicted: Int[Array, "hyper query"]
    t: Float[Array, " hyper"] | None = None


def check(config: ConfigDict) -> None:
    names = config_lib.names(config.readers)
    if not names or any(name not in READERS for name in names):
        raise UserError(f"config.readers={','.join(names)}: use one or more of {', '.join(READERS)}")
    check_numbers(config, "reader_rates", "learned_t_rates")
    check_numbers(config, "reader_levels", whole=True)


def trajectory(bench: Bench) -> dict[str, Judged]:
    """Every reader of `config.readers` on one feature, as `trajectory_NAME`; `single` is the best single level.

    `single`, `mean` and `concatenate` are read by ridge regression, with the ridge protocol's strengths; `attention`
    and `gru` are trained as in Mittal et al. 2022, arXiv 2210.13774, at the learning rates of `config.reader_rates`;
    `learned_t` is a linear head and one level, trained together. How many levels a trajectory has, k, the
    hyper-parameter and the single t are chosen on held-out training images.

    Raises:
      UserError: there is no such feature, or one code for all levels.
    """
    config, names, ridge = bench.config, bench.run.names, direct.ridge(bench.config)
    if bench.run.timeless:
        raise UserError("config.protocols: trajectory needs codes that differ over noise levels, and this run has one")
    feature = config.reader_feature or ("z" if "z" in names else names[len(names) // 2])
    if feature not in names:
        raise UserError(f"config.reader_feature={feature!r}; this run has {', '.join(names)}")
    times = np.unique(np.concatenate([readers.levels(k) for k in config.reader_levels]))

    def codes(images: Pixels, draw: int) -> Trajectory:
        return as_trajectory(bench.read(images, tuple(times.tolist()), draw, [feature]), feature)

    train = codes(bench.images, 0)
    draws = 1 if bench.run.noiseless(feature) else config.noise_draws
    tests = [codes(bench.test_images, draw) for draw in range(1, draws + 1)]
    judged = {}
    for name in config_lib.names(config.readers):
        judged[f"trajectory_{name}"] = j = judge_reader(name, bench, ridge, feature, times, train, tests)
        logger.info("%s of %s: held-out %.4f", name, j.selected.feature, j.selected.validation_accuracy)
    return judged


def judge_reader(
    name: str, bench: Bench, ridge: Head, feature: str, times: np.ndarray, train: Trajectory, tests: list[Trajectory]
) -> Judged:
    """One reader at every k and hyper-parameter, the best of them on the test images."""
    config, fold = bench.config, bench.fold
    read, hyper, hypers = make_reader(name, bench, ridge)
    labels, seed = jnp.asarray(bench.labels), root_key(config.seed)
    fit, held = bench.choosing[fold.fit], bench.choosing[fold.validation]

    def choices():  # (what it is called, its t if it has one, which levels)
        if name == "single":
            return [(feature, float(t), np.array([i])) for i, t in enumerate(times)]
        return [
            (f"{feature}@{k}", None, np.flatnonzero(np.isin(times, readers.levels(k)))) for k in config.reader_levels
        ]

    profile, levels_of = [], {}
    for called, t, at in choices():
        x = train[:, at]
        codes = Codes(x[fit], labels[fit], x[held], bench.classes, times[at])
        found = read(codes, jnp.asarray(hypers), seed)
        right = np.asarray(linear.accuracy(found.predicted, labels[held]))
        i = int(np.argmax(right))
        t = t if found.t is None else float(found.t[i])
        profile.append(Entry(f"trajectory_{name}", called, t, float(hypers[i]), float(right[i])))
        levels_of[profile[-1]] = at
        distributed.progress()
    selected = best(profile)
    at = levels_of[selected]
    chosen = ridge.carried(selected.hyper, len(fit), len(train)) if hyper == ridge.hyper else selected.hyper
    predictions = []
    for test in tests:
        codes = Codes(train[:, at], labels, test[:, at], bench.classes, times[at])
        found = read(codes, jnp.asarray([chosen]), seed)
        predictions.append(as_classes(found.predicted[0]))
        distributed.progress()
    settings = {"head": name, "feature": feature, "levels": list(config.reader_levels), hyper: list(hypers)}
    if name in readers.KINDS or name == "learned_t":
        settings |= {"epochs": config.reader_epochs} | ({} if name == "learned_t" else {"width": config.reader_width})
    return Judged(settings, hyper, profile, selected, bench.every_draw(predictions))


def make_reader(name: str, bench: Bench, ridge: Head) -> tuple[Callable[..., Read], str, tuple[float, ...]]:
    """(codes, hypers, key) -> `Read`; what its hypers are called, and they."""
    config = bench.config
    joined = {"single": readers.concatenate, "mean": readers.mean, "concatenate": readers.concatenate}
    if name in joined:

        def by_ridge(codes: Codes, hypers, key) -> Read:
            fit, queries = joined[name](codes.fit), joined[name](codes.queries)
            return Read(ridge.fit_predict(fit, codes.labels, queries, hypers, key, codes.classes))

        return by_ridge, ridge.hyper, ridge.hypers
    if name in readers.KINDS:
        fit_predict = partial(readers.fit_predict_reader, name, epochs=config.reader_epochs, width=config.reader_width)
        return lambda *given: Read(fit_predict(*given)), "learning_rate", config.reader_rates
    if name == "learned_t":

        def learned(codes: Codes, hypers, key) -> Read:
            found = readers.fit_predict_learned_t(codes, hypers, key, epochs=config.reader_epochs)
            return Read(found.predicted, found.t)

        return learned, "learning_rate", config.learned_t_rates
    raise ValueError(f"no reader {name!r}; there are {', '.join(READERS)}")


def as_trajectory(bank: Bank, feature: str) -> Trajectory:
    """[number, time, dim] of a bank that has all levels of a feature."""
    return jnp.swapaxes(jnp.asarray(bank.columns[feature][:, : bank.number]), 0, 1)
