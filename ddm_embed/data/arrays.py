"""Arrays in a folder, memory-mapped: images, or sequences."""

import hashlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ddm_embed.data.inputs import check_channels_last
from ddm_embed.data.sequences import Sequences, check_scaled, scale_of
from ddm_embed.data.types import Images, Source, Split
from ddm_embed.errors import UserError

SOME = 16  # rows that tell two arrays apart
IMAGES, SEQUENCES = "images", "sequences"
SHAPES = {
    IMAGES: "uint8 [number, height, width, channel] or [number, height, width]",
    SEQUENCES: "numbers [number, length, channel] or [number, length]",
}


def open_source(rest: str, data: ConfigDict) -> Source:
    """Opens train_images.npy or train_sequences.npy and, where they exist, train_labels.npy, int [number], and
    test_images.npy or test_sequences.npy and test_labels.npy. Sequences are read once, for their scale.

    Raises:
      UserError: there is neither, there are both, or an array is of another kind or holds what is no finite number.
    """
    path = Path(rest)
    kinds = [kind for kind in (IMAGES, SEQUENCES) if (path / f"train_{kind}.npy").exists()]
    if len(kinds) != 1:
        there = "both train_images.npy and train_sequences.npy are there" if kinds else "no such file"
        raise UserError(
            f"{path}/train_images.npy: {there}; arrays:PATH needs it (uint8, [number, h, w, channel]), or "
            "train_sequences.npy ([number, length, channel])"
        )
    kind = kinds[0]
    arrays = {part: _load(path / f"{part}_{kind}.npy") for part in ("train", "test")}
    scale = None
    if kind == SEQUENCES:
        scale = scale_of(_checked(arrays["train"], kind, path / f"train_{kind}.npy"), path / f"train_{kind}.npy")

    def split(part: str) -> Split | None:
        if arrays[part] is None:
            return None
        file = path / f"{part}_{kind}.npy"
        images: Images = _checked(arrays[part], kind, file)
        if kind == SEQUENCES:
            if part == "test" and images.shape[2] == len(scale.mean):
                check_scaled(images, scale, file)
            images = Sequences(images, scale)
        return Split(images, _labels(path / f"{part}_labels.npy", images.shape[0]))

    train, test = split("train"), split("test")
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{path}: test {kind} of {list(arrays['test'].shape[1:])}, train {kind} of "
            f"{list(arrays['train'].shape[1:])}; expected one shape"
        )
    some = np.linspace(0, len(arrays["train"]) - 1, SOME).astype(int)
    digest = hashlib.sha256(np.ascontiguousarray(arrays["train"][some])).hexdigest()
    return Source(f"arrays:{path}", train, test, classes=None, scale=scale, digest=digest)


def _load(file: Path) -> np.ndarray | None:
    if not file.exists():
        return None
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: not a readable .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{file}: an archive of arrays; expected one array, as numpy.save writes it")
    return array


def _checked(array: np.ndarray, kind: str, file: Path) -> np.ndarray:
    """The array with an axis of channels."""
    most = {IMAGES: 4, SEQUENCES: 3}[kind]
    numbers = array.dtype == np.uint8 if kind == IMAGES else array.dtype.kind in "iuf"
    if not numbers or array.ndim not in (most - 1, most) or 0 in array.shape:
        mend = "; sequences, images of height 1, go to train_sequences.npy" if kind == IMAGES else ""
        raise UserError(f"{file}: {array.dtype} {list(array.shape)}; expected {SHAPES[kind]}{mend}")
    array = array if array.ndim == most else array[..., None]
    if kind == IMAGES:
        try:
            check_channels_last(array.shape)
        except UserError as error:
            raise UserError(f"{file}: {error}; sequences go to train_sequences.npy") from error
    return array


def _labels(file: Path, number: int):
    """A function that reads the labels; None where there are none."""
    labels = _load(file)
    if labels is None:
        return None
    if labels.shape != (number,) or labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < 2**31:
        raise UserError(f"{file}: {labels.dtype} {list(labels.shape)}; expected class numbers from 0, int [{number}]")
    return lambda: np.asarray(labels, np.int32)
