"""Which labelled images fit, which choose and which test; and the classes of the training images, for a method that is
told them."""

import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ddm_embed.data.types import Source, Split, subset
from ddm_embed.errors import UserError

logger = logging.getLogger("ddm_embed")


class Fold(NamedTuple):
    """Training images that a choice is made on: their labels, which of them fit the heads, and which judge."""

    labels: Int[np.ndarray, " number"]
    fit: Int[np.ndarray, " fit"]
    validation: Int[np.ndarray, " validation"]
    classes: int


def obstacle(source: Source) -> str | None:
    """Why a dataset cannot be probed, or None if it can."""
    if source.train.read_labels is None:
        return f"{source.name} has no labels, so there is nothing to probe; its embeddings need none to train"
    if source.test is None or source.test.read_labels is None:
        return f"{source.name} has no labelled test images; add some, or set config.data.test_fraction above 0"
    return None


def sample(split: Split, most: int, seed: int) -> Split:
    """The split, or a seeded sample of `most` of its images."""
    positions = sample_positions(len(split), most, seed)
    return split if len(positions) == len(split) else subset(split, positions)


def sample_positions(number: int, most: int, seed: int) -> Int[np.ndarray, " sample"]:
    """`most` positions below `number` in order, seeded; all of them where there are no more."""
    return np.sort(np.random.default_rng(seed).permutation(number)[:most])


def split_fold(
    labels: Int[np.ndarray, " number"], classes: int, fraction: float, seed: int, last: int | None = None
) -> Fold:
    """Holds out a seeded random share of training images labelled 0..classes-1, or the last so many.

    Raises:
      UserError: fewer than two classes, or too few images to hold any out.
    """
    if len(np.unique(labels)) < 2:
        raise UserError(f"all {len(labels)} training images are of one class; a probe needs two")
    if last is not None:
        return Fold(labels, np.arange(len(labels) - last), np.arange(len(labels) - last, len(labels)), classes)
    held = round(len(labels) * fraction)
    if not 0 < held < len(labels):
        raise UserError(f"config.validation_fraction={fraction} of {len(labels)} images holds out {held}; change it")
    order = np.random.default_rng(seed).permutation(len(labels))
    return Fold(labels, np.sort(order[held:]), np.sort(order[:held]), classes)


class Labels(NamedTuple):
    """index: each training image's class, counted from 0, int32 [number]. values: the dataset's numbers for them."""

    index: Int[np.ndarray, " number"]
    values: tuple[int, ...]


def read_labels(source: Source, method: str) -> Labels:
    """The training images' labels, for the method of this name; a dataset's may start anywhere and leave numbers out.

    Raises:
      UserError: the dataset has no labels, or one class.
    """
    if source.train.read_labels is None:
        raise UserError(
            f"config.objective.name={method}: {source.name} has no labels to learn; use a labelled dataset or "
            "another config.objective.name"
        )
    values, index = np.unique(source.train.read_labels(), return_inverse=True)
    if len(values) < 2:
        raise UserError(
            f"config.objective.name={method}: every training image of {source.name} is of class {values[0]}; use a "
            "dataset of two classes or more, or another config.objective.name"
        )
    return Labels(index.astype(np.int32), tuple(values.tolist()))
