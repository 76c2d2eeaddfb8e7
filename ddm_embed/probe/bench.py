"""What every protocol works on and what it comes to, all but the test labels; and how a head is judged: fitted on all
features at once, each feature on one device of the mesh."""

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed import config as config_lib
from ddm_embed.data.splits import Fold
from ddm_embed.data.types import Stored
from ddm_embed.errors import UserError
from ddm_embed.features.bank import GIB, Bank, Key
from ddm_embed.features.extract import Reading
from ddm_embed.features.run import Run
from ddm_embed.parallel import distributed
from ddm_embed.parallel.mesh import BATCH_AXES, device_memory

logger = logging.getLogger("ddm_embed")

Pixels = Stored  # of images; of sequences, their standardised values
Predicted = Int[np.ndarray, " test"]

STACK = 16  # the share of memory that one stack of features may take
WIDEST = 2048  # entries of a feature at several levels: the time of ridge regression grows with their cube


class Entry(NamedTuple):
    """One point of a profile: a feature at a noise level under a protocol, and how well it does on held-out images.

    t is None for a baseline, which knows no noise, and several levels of a feature that is read at all of them, side by
    side; hyper is the best of the protocol's, None if it has none.
    """

    protocol: str
    feature: str
    t: float | tuple[float, ...] | None
    hyper: float | None
    validation_accuracy: float

    @property
    def joint(self) -> bool:
        """Whether it is of several levels side by side."""
        return isinstance(self.t, tuple)


class Judged(NamedTuple):
    """What a protocol comes to before the test labels are read.

    settings: all that defines it, as JSON. hyper: what its hyper-parameter is called. profile: every point. selected:
    the one chosen. predictions: classes of the test images, one array a draw. encoder: the same two of the one chosen
    among the encoder's features, where there are any.
    """

    settings: dict[str, Any]
    hyper: str | None
    profile: list[Entry]
    selected: Entry
    predictions: list[Predicted]
    encoder: tuple[Entry, list[Predicted]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A run's features and labels of training images, and images to be judged by.

    labels: classes 0..classes-1 of the training images. fold: which of the chosen sample fit and which judge; its
    positions count within `choosing`, positions in `images`. bank: features of images[choosing].
    """

    config: ConfigDict
    run: Run
    images: Pixels
    labels: Int[np.ndarray, " number"]
    classes: int
    test_images: Pixels
    choosing: Int[np.ndarray, " sample"]
    fold: Fold
    bank: Bank

    @property
    def means(self) -> Bank:
        """The bank's features that are means over tokens, as published recipes read them."""
        return self.bank.only(self.run.names)

    @property
    def joint_keys(self) -> list[Key]:
        """z and each layer's mean at several levels side by side, of what differs between levels, if that is asked for.

        The levels are all that were read, or every second, third, ... where `WIDEST` entries do not hold them.
        """
        keys, times = [], self.bank.times
        for name in self.run.names if "levels" in config_lib.names(self.config.pooling) else ():
            most = WIDEST // self.bank.dim(Key(name, times[0]))
            if min(most, len(times)) > 1 and not self.run.static(name):
                keys.append(Key(name, times[:: -(-len(times) // most)]))
        return keys

    @property
    def mesh(self) -> Mesh:
        return self.run.mesh

    def read(self, images: Pixels, times: tuple[float, ...], draw: int, names: list[str]) -> Bank:
        """Features of images as the probe reads them; see `Run.read`."""
        return self.run.read(images, times, draw, names, reading_of(self.config))

    def train_features(self, key: Key) -> Float[Array, "number dim"]:
        """One feature of all training images, under draw 0 of their noise."""
        if len(self.choosing) == len(self.images) and key.name in self.bank.columns:
            return self.bank.one(key)
        return self.read(self.images, _levels(key), 0, [key.name]).one(key)

    def test_features(self, key: Key) -> list[Float[Array, "test dim"]]:
        """One feature of the test images under each draw of their noise; one draw where the feature sees none."""
        draws = 1 if self.run.noiseless(key.name) else self.config.noise_draws
        # Draw 0 is the training images' own.
        return [self.read(self.test_images, _levels(key), draw, [key.name]).one(key) for draw in range(1, draws + 1)]

    def every_draw(self, predictions: list[Predicted]) -> list[Predicted]:
        """As many predictions as there are draws, the same where noise is not seen."""
        return predictions * self.config.noise_draws if len(predictions) == 1 else predictions


def _levels(key: Key) -> tuple[float, ...]:
    return key.t if isinstance(key.t, tuple) else (key.t,)


def reading_of(config: ConfigDict) -> Reading:
    """How a probe's config says that features are read."""
    return Reading(config.batch_size, config.seed, config.features_gib, config.averaged_draws)


def best(profile: list[Entry]) -> Entry:
    """The entry most accurate on held-out images; the first of equals."""
    return max(profile, key=lambda entry: entry.validation_accuracy)


def root_key(seed: int) -> Array:
    """The key of what is random in heads: initialisation, order, dropout."""
    return jax.random.key(seed)


def as_classes(predicted: Int[Array, " number"]) -> Predicted:
    return np.asarray(jnp.asarray(predicted), np.int32)


def check_numbers(config: ConfigDict, *fields: str, whole: bool = False) -> None:
    """Raises UserError unless each of these fields of the probe's config has one or more numbers above 0."""
    kind = int if whole else (int, float)
    for field in fields:
        if not config[field] or not all(isinstance(value, kind) and value > 0 for value in config[field]):
            what = "whole numbers" if whole else "numbers"
            raise UserError(f"config.{field}={tuple(config[field])}: expected one or more {what} above 0")


@dataclasses.dataclass(frozen=True)
class Head:
    """A classifier on frozen features, fitted for all its hyper-parameters at once.

    Attributes:
      name: the protocol's. hyper: what its hyper-parameter is called, None if it has none. hypers: their values.
      settings: all that defines it, as JSON.
      fit_predict: (fit [number, dim], labels [number], queries [query, dim], hypers [hyper], key, classes) -> classes
        [hyper, query], pure.
      together: whether features are trained side by side (many small steps), or one after the other (few large ones).
      pooled: whether it also reads features pooled by quarters of the image.
      per_image: whether its hyper-parameter is a penalty relative to the number of images. Fitted on more images than
        it was chosen on, the penalty itself stays, as in scikit-learn's `GridSearchCV`.
    """

    name: str
    hyper: str | None
    hypers: tuple[float, ...]
    settings: dict[str, Any] = dataclasses.field(hash=False)
    fit_predict: Callable[..., Int[Array, "hyper query"]]
    together: bool = False
    pooled: bool = False
    per_image: bool = False

    def carried(self, hyper: float | None, chosen_on: int, number: int) -> float | None:
        """A hyper-parameter that was chosen on so many images, as it is on `number` of them."""
        return hyper * chosen_on / number if self.per_image else hyper


def judge(head: Head, bench: Bench) -> Judged:
    """Every feature under the head; the best, fitted on all training images, on the test images."""
    begin = time.perf_counter()
    bank, joint = (bench.bank, bench.joint_keys) if head.pooled else (bench.means, [])
    profile = sweep(head, bank, bank.keys + joint, bench.fold, bench.mesh, bench.config.seed)
    selected = best(profile)
    logger.info(
        "%s: %d heads in %.1f s; best of held-out %.4f (%s, t=%s)", head.name, len(profile) * len(head.hypers),
        time.perf_counter() - begin, selected.validation_accuracy, selected.feature, selected.t,
    )  # fmt: skip
    predictions, encoder = finish(head, selected, bench), None
    of_encoder = [entry for entry in profile if not entry.feature.startswith("denoiser")]
    if of_encoder:
        chosen = best(of_encoder)
        encoder = chosen, predictions if chosen == selected else finish(head, chosen, bench)
    return Judged(head.settings, head.hyper, profile, selected, predictions, encoder)


def finish(head: Head, chosen: Entry, bench: Bench) -> list[Predicted]:
    """The classes of the test images by the head fitted on all training images, one array a draw."""
    key = Key(chosen.feature, chosen.t)
    train, labels = bench.train_features(key), jnp.asarray(bench.labels)
    tests, hyper = bench.test_features(key), head.carried(chosen.hyper, len(bench.fold.fit), len(train))
    found = predict(head, hyper, train, labels, jnp.concatenate(tests), bench.classes, bench.config.seed)
    distributed.progress()
    return bench.every_draw(np.split(found, len(tests)))


def sweep(head: Head, bank: Bank, keys: list[Key], fold: Fold, mesh: Mesh, seed: int) -> list[Entry]:
    """Each feature's accuracy on the held-out images, with its best hyper-parameter, in the order of the keys.

    Raises:
      UserError: a feature is not finite.
    """
    fit, held, labels = (jnp.asarray(a) for a in (fold.fit, fold.validation, fold.labels))
    hypers = jnp.asarray(head.hypers, jnp.float32)
    run = _on_mesh(head, mesh, fold.classes)
    entries, begin = {}, time.perf_counter()
    for group, x in bank.stacks(keys, mesh, device_memory(mesh.devices.flat[0]) * mesh.size / STACK):
        accuracy, finite = (np.asarray(a) for a in run(x, fit, held, labels, hypers, root_key(seed)))
        for key, right, sound in zip(group, accuracy, finite, strict=False):  # what fills a stack up is left out
            if not sound:
                raise UserError(f"feature {key.name} at t={key.t} is not finite; the checkpoint cannot be probed")
            at = int(np.argmax(right))
            hyper = head.hypers[at] if head.hyper else None
            entries[key] = Entry(head.name, key.name, key.t, hyper, float(right[at]))
        distributed.progress()
        left = (time.perf_counter() - begin) / len(entries) * (len(keys) - len(entries))
        if left > 10:
            logger.info("%s: %d of %d features  ETA %s", head.name, len(entries), len(keys), tqdm.format_interval(left))
    return [entries[key] for key in keys]


@lru_cache(maxsize=16)
def _on_mesh(head: Head, mesh: Mesh, classes: int) -> Callable[..., tuple[Array, Array]]:
    """(features [key, number, dim], fit, held, labels, hypers, key) -> accuracy [key, hyper], whether finite [key]."""

    def share(features, fit, held, labels, hypers, key):
        def one(x):
            predicted = head.fit_predict(x[fit], labels[fit], x[held], hypers, key, classes)
            return jnp.mean(predicted == labels[held], axis=-1), jnp.all(jnp.isfinite(x))

        return jax.vmap(one)(features) if head.together else jax.lax.map(one, features)

    mapped = jax.shard_map(
        share, mesh=mesh, in_specs=(P(BATCH_AXES), *[P()] * 5), out_specs=P(BATCH_AXES), check_vma=False
    )
    return jax.jit(mapped)


def predict(
    head: Head,
    hyper: float | None,
    train: Float[Array, "number dim"],
    labels: Int[Array, " number"],
    test: Float[Array, "test dim"],
    classes: int,
    seed: int,
) -> Predicted:
    """The classes that the head, fitted on `train` with one hyper-parameter, gives to `test`."""
    hypers = jnp.asarray([np.nan if hyper is None else hyper], jnp.float32)
    return as_classes(_fit_predict(head, classes)(train, labels, test, hypers, root_key(seed))[0])


@lru_cache(maxsize=16)
def _fit_predict(head: Head, classes: int) -> Callable[..., Int[Array, "hyper query"]]:
    return jax.jit(lambda *arrays: head.fit_predict(*arrays, classes))


def describe_size(bank: Bank) -> str:
    """For the log: how much there is and where it lies."""
    where = "in memory" if bank.folder is None else f"on disk ({bank.folder.name})"
    return f"{len(bank.keys)} features of {bank.number} images, {bank.nbytes / GIB:.2f} GiB {where}"
