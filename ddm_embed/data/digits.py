"""scikit-learn's digits: the dataset that is always there."""

import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ddm_embed.data.types import Source, Split


def _digits_table() -> UInt8[np.ndarray, "image 65"]:
    """The pixels, from 0 to 16, and the label of each digit, from scikit-learn's file: importing it takes a second."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.submodule_search_locations[0] if package else "", "datasets", "data", "digits.csv.gz")
    if file.is_file():
        return np.loadtxt(file, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True)).astype(np.uint8)


def open_source(_: str, data: ConfigDict) -> Source:
    """scikit-learn's 1,797 digits of 8x8 pixels in 17 grey levels: 1,297 train, 500 test, shuffled once by seed 0."""
    table = _digits_table()
    images = np.round(table[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = table[:, 64].astype(np.int32)
    order = np.random.RandomState(0).permutation(len(images))
    splits = [Split(images[p], lambda p=p: labels[p]) for p in (order[:1297], order[1297:])]
    return Source("digits", *splits, classes=tuple("0123456789"))
