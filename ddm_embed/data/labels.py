"""The classes of the training images, for a method that is told them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ddm_embed.data.types import Source
from ddm_embed.errors import UserError


class Labels(NamedTuple):
    """index: each training image's class, counted from 0, int32 [number]. values: the dataset's numbers for them."""

    index: Int[np.ndarray, " number"]
    values: tuple[int, ...]


def read(source: Source, method: str) -> Labels:
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
