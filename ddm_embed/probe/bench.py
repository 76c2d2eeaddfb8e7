"""What every protocol works on, and what it comes to: everything but the test labels."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ddm_embed.data.splits import Fold
from ddm_embed.data.types import Stored
from ddm_embed.features.bank import Bank, Key
from ddm_embed.features.extract import FeaturesOf, make_extract, make_features
from ddm_embed.features.trained import Trained
from ddm_embed.methods.system import make_process

Pixels = Stored  # of images; of sequences, their standardised values
Predicted = Int[np.ndarray, " test"]


class Entry(NamedTuple):
    """One point of a profile: a feature at a noise level under a protocol, and how well it does on held-out images.

    t is None for a baseline, which knows no noise; hyper is the best of the protocol's, None if it has none.
    """

    protocol: str
    feature: str
    t: float | None
    hyper: float | None
    validation_accuracy: float


class Judged(NamedTuple):
    """What a protocol comes to before the test labels are read.

    settings: all that defines it, as JSON. hyper: what its hyper-parameter is called. profile: every point. selected:
    the one chosen. predictions: classes of the test images, one array a draw.
    """

    settings: dict[str, Any]
    hyper: str | None
    profile: list[Entry]
    selected: Entry
    predictions: list[Predicted]


class Reader(NamedTuple):
    """A checkpoint that is read for features.

    names: those that it offers. features_of: (params, x0, eps, t) -> features. read: (images, times, draw, names) ->
    `Bank`. noiseless: whether a feature of this name sees no noise. timeless: whether all features are the same at all
    noise levels, as those of an encoder that is told neither.
    """

    trained: Trained
    names: list[str]
    features_of: FeaturesOf
    read: Callable[[Pixels, tuple[float, ...], int, list[str]], Bank]
    noiseless: Callable[[str], bool]
    timeless: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A run's features and labels of training images, and images to be judged by.

    labels: classes 0..classes-1 of the training images. fold: which of the chosen sample fit and which judge; its
    positions count within `choosing`, positions in `images`. bank: features of images[choosing].
    """

    config: ConfigDict
    reader: Reader
    images: Pixels
    labels: Int[np.ndarray, " number"]
    classes: int
    test_images: Pixels
    choosing: Int[np.ndarray, " sample"]
    fold: Fold
    bank: Bank

    @property
    def mesh(self) -> Mesh:
        return self.reader.trained.mesh

    def train_features(self, key: Key) -> Float[Array, "number dim"]:
        """One feature of all training images, under draw 0 of their noise."""
        if len(self.choosing) == len(self.images) and key in self.bank.keys:
            return self.bank.one(key)
        return self.reader.read(self.images, (key.t,), 0, [key.name]).one(key)

    def test_features(self, key: Key) -> list[Float[Array, "test dim"]]:
        """One feature of the test images under each draw of their noise; one draw where the feature sees none."""
        draws = 1 if self.reader.noiseless(key.name) else self.config.noise_draws
        # Draw 0 is the training images' own.
        return [self.reader.read(self.test_images, (key.t,), draw, [key.name]).one(key) for draw in range(1, draws + 1)]

    def every_draw(self, predictions: list[Predicted]) -> list[Predicted]:
        """As many predictions as there are draws, the same where noise is not seen."""
        return predictions * self.config.noise_draws if len(predictions) == 1 else predictions


def open_reader(trained: Trained, config: ConfigDict) -> Reader:
    """A run, read in batches that its mesh divides."""
    batch_size = -(-config.batch_size // trained.mesh.size) * trained.mesh.size
    seen = trained.config.embedding.input
    features_of = make_features(trained.networks, make_process(trained.config), seen)
    extract = make_extract(
        features_of, trained.mesh, batch_size, config.seed, config.features_gib, config.averaged_draws
    )

    def read(images, times, draw, names):
        return extract(trained.params, images, times, draw, names)

    def noiseless(name: str) -> bool:
        return seen == "x0" and not name.startswith("denoiser")

    names = trained.models.features
    timeless = all(noiseless(name) for name in names) and not trained.config.embedding.timed
    return Reader(trained, names, features_of, read, noiseless, timeless)


def best(profile: list[Entry]) -> Entry:
    """The entry most accurate on held-out images; the first of equals."""
    return max(profile, key=lambda entry: entry.validation_accuracy)


def root_key(seed: int) -> Array:
    """The key of what is random in heads: initialisation, order, dropout."""
    return jax.random.key(seed)


def as_classes(predicted: Int[Array, " number"]) -> Predicted:
    return np.asarray(jnp.asarray(predicted), np.int32)
