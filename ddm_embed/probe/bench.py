"""What every protocol works on, and what it comes to: everything but the test labels."""

import dataclasses
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
from ddm_embed.features.extract import Reading
from ddm_embed.features.run import Run

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
    def mesh(self) -> Mesh:
        return self.run.mesh

    def read(self, images: Pixels, times: tuple[float, ...], draw: int, names: list[str]) -> Bank:
        """Features of images as the probe reads them; see `Run.read`."""
        return self.run.read(images, times, draw, names, reading_of(self.config))

    def train_features(self, key: Key) -> Float[Array, "number dim"]:
        """One feature of all training images, under draw 0 of their noise."""
        if len(self.choosing) == len(self.images) and key in self.bank.keys:
            return self.bank.one(key)
        return self.read(self.images, (key.t,), 0, [key.name]).one(key)

    def test_features(self, key: Key) -> list[Float[Array, "test dim"]]:
        """One feature of the test images under each draw of their noise; one draw where the feature sees none."""
        draws = 1 if self.run.noiseless(key.name) else self.config.noise_draws
        # Draw 0 is the training images' own.
        return [self.read(self.test_images, (key.t,), draw, [key.name]).one(key) for draw in range(1, draws + 1)]

    def every_draw(self, predictions: list[Predicted]) -> list[Predicted]:
        """As many predictions as there are draws, the same where noise is not seen."""
        return predictions * self.config.noise_draws if len(predictions) == 1 else predictions


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
