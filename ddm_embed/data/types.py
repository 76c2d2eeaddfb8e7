"""What a data source yields: two splits, each with images and, kept apart from them, labels.

Training is handed images alone.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ddm_embed.data.sequences import Scale

Stored = UInt8[np.ndarray, "batch height width channel"] | Float32[np.ndarray, "batch height width channel"]


class Images(Protocol):
    """Images of one shape, read by position: uint8, or float32 of standardised sequences, images of height 1. A NumPy
    array or memory map of the right shape is one."""

    shape: tuple[int, int, int, int]  # (number, height, width, channel)
    dtype: np.dtype

    def __getitem__(self, positions: np.ndarray) -> Stored: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and a function that reads their labels, int32 [number]; None where there are none."""

    images: Images
    read_labels: Callable[[], Int[np.ndarray, " number"]] | None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A dataset: its name, its splits (but for train they may be missing), the names of its classes, where it has any,
    what its sequences were standardised by, None for images; and a digest of what tells it from another of its sizes,
    where that is cheap to read. The probe chooses by validation images, which are not trained on. kept_apart: whether
    these are training images that the run itself keeps so."""

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...] | None
    scale: Scale | None = None
    validation: Split | None = None
    digest: str | None = None
    kept_apart: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images.shape[1:])


def read_all(images: Images, threads: int, chunk: int = 1024) -> Stored:
    """All images, in order, in memory; a source that decodes is read by several threads."""
    if isinstance(images, np.ndarray):
        return np.ascontiguousarray(images)
    everything = np.empty(images.shape, images.dtype)

    def read(start: int) -> None:
        positions = np.arange(start, min(start + chunk, len(everything)))
        everything[positions] = images[positions]

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, range(0, len(everything), chunk)):
            pass
    return everything


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some images of another `Images`, in the order of `positions`."""

    images: Images
    positions: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.positions), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype

    def __getitem__(self, positions: np.ndarray) -> Stored:
        return self.images[self.positions[positions]]


def subset(split: Split, positions: np.ndarray) -> Split:
    """The images at these positions, with their labels."""
    labels = split.read_labels
    return Split(Subset(split.images, positions), None if labels is None else lambda: labels()[positions])
