"""The classes of the training images, for the one method that is told them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ddm_embed.data.types import Source
from ddm_embed.errors import UserError
from ddm_embed.runs.files import write_whole


class Labels(NamedTuple):
    """index: each training image's class, counted from 0, int32 [number]. values: the dataset's numbers for them."""

    index: Int[np.ndarray, " number"]
    values: tuple[int, ...]


def read(source: Source) -> Labels:
    """The training images' labels; a dataset's may start anywhere and leave numbers out.

    Raises:
      UserError: the dataset has no labels, or one class.
    """
    if source.train.read_labels is None:
        raise UserError(
            f"config.objective.name=supervised: {source.name} has no labels to learn; use a labelled dataset or "
            "another config.objective.name"
        )
    values, index = np.unique(source.train.read_labels(), return_inverse=True)
    if len(values) < 2:
        raise UserError(
            f"config.objective.name=supervised: every training image of {source.name} is of class {values[0]}; use a "
            "dataset of two classes or more, or another config.objective.name"
        )
    return Labels(index.astype(np.int32), tuple(values.tolist()))


def note(labels: Labels, file: Path) -> None:
    """Notes the classes in a run directory's `classes.json`, or compares them with what the run began with.

    Raises:
      UserError: they have changed.
    """
    if not file.exists():
        write_whole(file, json.dumps(labels.values) + "\n")
    elif noted(file) != labels.values:
        raise UserError(f"{file}: the run began with the classes {noted(file)}, now they are {labels.values}")


def noted(file: Path) -> tuple[int, ...]:
    """The classes of a run, in the order of its classifier's outputs.

    Raises:
      UserError: the file is missing.
    """
    try:
        return tuple(json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: the run's classifier cannot be read without it; restore it") from error
