"""Where images come from: digits, tfds:NAME, folder:PATH, arrays:PATH.

A source yields two splits, each with images and, kept apart from them, labels. Training is handed images alone.
"""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int, UInt8
from ml_collections import ConfigDict

from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.runs.files import write_whole

HOLD_OUT_SEED = 0  # of the test split drawn from a dataset without one: part of the dataset, not of a run

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
    """A dataset: its name, its splits (test may be missing), the names of its classes, where it has any, and what its
    sequences were standardised by; None for images."""

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...] | None
    scale: Scale | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images.shape[1:])


def open_source(config: ConfigDict) -> Source:
    """Opens the dataset that `config.data` names, reading no more than it must to know the shapes.

    Raises:
      UserError: it is not there, or it cannot be read; the message says how to mend it.
    """
    kind, _, rest = config.data.name.partition(":")
    if config.data.image_size is not None and kind != "folder":
        raise UserError(f"config.data.image_size={config.data.image_size}: only folder:PATH is resized; leave it out")
    if config.data.name == "digits":
        source = _digits()
    elif kind == "tfds" and rest:
        source = _tfds(rest, config.data.data_dir)
    elif kind == "folder" and rest:
        from ddm_embed.data import folder  # imports the decoder, which other sources do without

        source = folder.open_folder(Path(rest), config.data.image_size, config.data.threads)
    elif kind == "arrays" and rest:
        from ddm_embed.data import arrays

        source = arrays.open_arrays(Path(rest))
    else:
        raise UserError(f"config.data.name={config.data.name!r}; use digits, tfds:NAME, folder:PATH or arrays:PATH")
    if source.test is None and source.train.read_labels is not None and config.data.test_fraction > 0:
        source = _hold_out_test(source, config.data.test_fraction)
    return source


def check_same(source: Source, file: Path) -> None:
    """Notes the dataset's sizes in a run directory's `data.json`, or compares it with what the run began with.

    Raises:
      UserError: it has changed: another order of images would follow, and images that were trained on might be tested.
    """
    sizes = {
        "train_images": len(source.train),
        "test_images": None if source.test is None else len(source.test),
        "image_shape": list(source.image_shape),
    }
    if source.scale is not None:
        sizes["scale"] = source.scale.to_json()
    if not file.exists():
        write_whole(file, json.dumps(sizes) + "\n")
        return
    before = json.loads(file.read_text())
    same_scale = Scale.alike(Scale.from_json(before.get("scale")), source.scale)
    if not same_scale or any(before.get(name) != value for name, value in sizes.items() if name != "scale"):
        changed = ", ".join(f"{name} was {before.get(name)}, is {sizes[name]}" for name in sizes)
        raise UserError(f"{source.name} has changed since the run in {file.parent} began ({changed}); bring it back")


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


def _hold_out_test(source: Source, fraction: float) -> Source:
    number = len(source.train)
    held = round(number * fraction)
    if not 0 < held < number:
        return source
    order = np.random.default_rng(HOLD_OUT_SEED).permutation(number)
    return dataclasses.replace(
        source, train=subset(source.train, np.sort(order[held:])), test=subset(source.train, np.sort(order[:held]))
    )


def _digits_table() -> UInt8[np.ndarray, "image 65"]:
    """The pixels, from 0 to 16, and the label of each digit, from scikit-learn's file: importing it takes a second."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.submodule_search_locations[0] if package else "", "datasets", "data", "digits.csv.gz")
    if file.is_file():
        return np.loadtxt(file, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True)).astype(np.uint8)


def _digits() -> Source:
    """scikit-learn's 1,797 digits of 8x8 pixels in 17 grey levels: 1,297 train, 500 test, shuffled once by seed 0."""
    table = _digits_table()
    images = np.round(table[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = table[:, 64].astype(np.int32)
    order = np.random.RandomState(0).permutation(len(images))
    splits = [Split(images[p], lambda p=p: labels[p]) for p in (order[:1297], order[1297:])]
    return Source("digits", *splits, classes=tuple("0123456789"))


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsImages:
    records: Sequence
    shape: tuple[int, int, int, int]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __getitem__(self, positions: np.ndarray) -> UInt8[np.ndarray, "batch height width channel"]:
        return np.stack([record["image"] for record in self.records.__getitems__(positions.tolist())])


def _tfds(name: str, data_dir: str | None) -> Source:
    """A TFDS dataset prepared as array_record, which is read without TensorFlow."""
    import tensorflow_datasets as tfds  # half a second, and only this source needs it

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    place = data_dir or "~/tensorflow_datasets"
    prepare = (
        'prepare it once, where TensorFlow is installed, with: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{place}', file_format='array_record').download_and_prepare()\""
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"config.data.name='tfds:{name}': TFDS knows no dataset {name}") from error
    except (ValueError, AssertionError) as error:  # its words for a version or variant that there is not
        raise UserError(f"config.data.name='tfds:{name}': {str(error).splitlines()[0]}") from error
    if "train" not in builder.info.splits:
        raise UserError(f"config.data.name='tfds:{name}': not prepared in {place}; {prepare}")
    features = builder.info.features
    if "image" not in features or None in (features["image"].shape or (None,)):
        raise UserError(f"config.data.name='tfds:{name}': expected a feature 'image' of one fixed shape")
    labelled = "label" in features

    def split(part: str) -> Split:
        try:
            records = builder.as_data_source(split=part)
        except (NotImplementedError, FileNotFoundError) as error:
            raise UserError(f"config.data.name='tfds:{name}': no array_record files in {place}; {prepare}") from error
        return Split(_TfdsImages(records, (len(records), *features["image"].shape)), labels(part) if labelled else None)

    def labels(part: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            records = builder.as_data_source(split=part, decoders={"image": tfds.decode.SkipDecoding()})
            parts = (range(a, min(a + 1024, len(records))) for a in range(0, len(records), 1024))
            return np.array([record["label"] for part in parts for record in records.__getitems__(part)], np.int32)

        return read

    test = split("test") if "test" in builder.info.splits else None
    names = tuple(features["label"].names) if labelled else None
    return Source(f"tfds:{name}", split("train"), test, names)
