"""What is to be embedded: the images of a folder, one file, or the rows of an array, with names, labels and stamps."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from ddm_embed.data import image_file
from ddm_embed.data.folder import look
from ddm_embed.data.image_file import SOME_SUFFIXES, Rules, is_image, notes_on, rules_of
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run

Input = Shaped[np.ndarray, "height width channel"]  # uint8, or float32 of a sequence


class Unreadable(Exception):
    """One image cannot be used; says why, without its name."""


class Listing(NamedTuple):
    """Images in order.

    Attributes:
      root: where they are: a folder, or a file. names: each one's, with / between folders. labels: "" where unknown.
      stamps: (size, time of last change in ns) of each file; of an array's file alone.
      read: position -> an image as the model takes it; raises Unreadable.
      closed: (name, reason) of folders that cannot be read. notes: what was left out by rule, and what
        is read otherwise than it may seem, a line each.
    """

    root: Path
    names: list[str]
    labels: list[str]
    stamps: list[tuple[int, int]]
    read: Callable[[int], Input]
    closed: list[tuple[str, str]]
    notes: list[str]


def list_images(place: Path, run: Run) -> Listing:
    """Looks up what `--images` names; decodes nothing yet.

    Args:
      place: a folder, an image file, or a .npy array. run: the encoder, for the shape that it takes.

    Raises:
      UserError: there is nothing, or nothing that the encoder can take.
    """
    if not place.exists():
        raise UserError(f"--images {place}: no such file or folder")
    if place.suffix == ".npy" and place.is_file():
        return _list_rows(place, run)
    if run.scale is not None:
        raise UserError(f"--images {place}: this run embeds sequences; give a .npy [number, length, channel]")
    if run.image_shape[2] not in (1, 3):
        raise UserError(f"--images {place}: this run's images have {run.image_shape[2]} channels; give a .npy")
    if place.is_dir():
        return list_folder(place, run.image_shape, rules_of(run.config.data))
    if not is_image(place):
        raise UserError(f"--images {place}: expected a folder, a .npy, or an image ({SOME_SUFFIXES})")
    return _of_files(place, [place], [place.name], [""], run.image_shape, rules_of(run.config.data), [], [])


def reader_of(root: Path, run: Run) -> Callable[[str], Input]:
    """A function that reads an image by its name in a file of embeddings; it raises Unreadable.

    Args:
      root: the metadata's `images`.
    """
    if root.suffix == ".npy" and root.is_file():
        rows = _list_rows(root, run)

        def read_row(name: str) -> Input:
            if not name.isdecimal() or int(name) >= len(rows.names):
                raise Unreadable("no row of this number")
            return rows.read(int(name))

        return read_row

    def read(name: str) -> Input:
        file = path_of(root, name)
        return _of_files(root, [file], [name], [""], run.image_shape, rules_of(run.config.data), [], []).read(0)

    return read


def path_of(root: Path, name: str) -> Path:
    """Where an image of a file of embeddings lies.

    Raises:
      Unreadable: the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise Unreadable("a name that leads out of the folder")
    return root / name if root.is_dir() else root


def list_folder(root: Path, image_shape: tuple[int, int, int], rules: Rules) -> Listing:
    """All images below a folder, labelled by its sub-folders as where one trains on it.

    A label is the name of the first folder below `root`, or below `train`, `val` and `test` in it where it is split; it
    is "" where there is one such folder, which tells nothing apart, and for images that lie in none.

    Raises:
      UserError: it holds no images.
    """
    found = look(root)
    files, labels = [*found.beside], [""] * len(found.beside)
    for part in found.splits.values():
        files += part.files
        labels += [""] * len(part.here)
        for name, group in part.classes.items():
            labels += [printable(name) if len(part.classes) > 1 else ""] * len(group)
    notes = found.notes(root) + notes_on(files, rules)
    closed = [(_name(Path(e.filename), root), e.strerror or str(e)) for e in found.closed]
    if not files and not closed:
        raise UserError(f"--images {root}: holds no images ({SOME_SUFFIXES})")
    return _of_files(root, files, [_name(file, root) for file in files], labels, image_shape, rules, closed, notes)


def printable(text: str) -> str:
    """A file's name as text that any format can hold: bytes that are no UTF-8 are written as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _name(file: Path, root: Path) -> str:
    return printable(file.relative_to(root).as_posix())


def _of_files(root, files, names, labels, image_shape, rules, closed, notes) -> Listing:
    def read(position: int) -> Input:
        file = files[position]
        if not file.is_file():
            link = file.is_symlink() and not file.exists()
            raise Unreadable("a link to nothing" if link else "no such file" if not file.exists() else "no file")
        try:
            return image_file.decode(file, image_shape, True, rules)
        except UserError as error:
            reason = str(error).removeprefix(f"{file}: ").removesuffix("; mend or remove it")
            raise Unreadable(printable(" ".join(reason.split()))) from error

    return Listing(root, names, labels, [_stamp(file) for file in files], read, closed, notes)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:  # a broken link, which reading will name
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _list_rows(file: Path, run: Run) -> Listing:
    """The rows of an array; labels from `NAME_labels.npy` beside `NAME_images.npy` or `NAME_sequences.npy`."""
    array = _load(file)
    if not len(array):
        raise UserError(f"--images {file}: {array.dtype} {list(array.shape)} holds nothing")
    read = _sequence_reader(array, file, run) if run.scale is not None else _image_reader(array, file, run)
    names, notes = [str(i) for i in range(len(array))], []
    if run.scale is None and array.shape[1:3] != run.image_shape[:2]:
        notes = [f"images of {array.shape[1]}x{array.shape[2]} are brought to the run's size"]
    return Listing(file, names, _row_labels(file, len(array)), [_stamp(file)], read, [], notes)


def _load(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: not a readable .npy array ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise UserError(f"{file}: not an array with rows; expected one as numpy.save writes it")
    return array


def _image_reader(array: np.ndarray, file: Path, run: Run) -> Callable[[int], Input]:
    shape = run.image_shape
    images = array if array.ndim == 4 else array[..., None]
    resize = images.shape[1:3] != shape[:2] and shape[2] in (1, 3)
    if array.dtype != np.uint8 or images.ndim != 4 or images.shape[3:] != shape[2:] or 0 in images.shape[1:]:
        raise UserError(
            f"--images {file}: {array.dtype} {list(array.shape)}; expected uint8 [number, height, width, {shape[2]}]"
        )
    if images.shape[1:3] != shape[:2] and not resize:
        raise UserError(f"--images {file}: images of {list(images.shape[1:])}; this run takes {list(shape)}")

    def read(position: int) -> Input:
        image = np.asarray(images[position])
        if not resize:
            return image
        shown = Image.fromarray(image[..., 0] if shape[2] == 1 else image)
        return image_file.to_pixels(shown, shape, True, Rules())

    return read


def _sequence_reader(array: np.ndarray, file: Path, run: Run) -> Callable[[int], Input]:
    _, length, channels = run.image_shape
    rows = array[..., None] if array.ndim == 2 else array
    if array.dtype.kind not in "iuf" or rows.shape[1:] != (length, channels):
        raise UserError(
            f"--images {file}: {array.dtype} {list(array.shape)}; expected numbers [number, {length}, {channels}], as "
            "the run's sequences are"
        )

    def read(position: int) -> Input:
        try:
            return run.scale.apply(np.asarray(rows[position])).reshape(1, length, channels)
        except ValueError as error:
            raise Unreadable(f"holds {error}") from error

    return read


def _row_labels(file: Path, number: int) -> list[str]:
    for ending in ("_images", "_sequences"):
        beside = file.with_name(file.stem.removesuffix(ending) + "_labels.npy")
        if file.stem.endswith(ending) and beside.exists():
            labels = _load(beside)
            if labels.shape != (number,):
                raise UserError(f"{beside}: {list(labels.shape)}; expected a label for each of {number} rows of {file}")
            return [str(label) for label in labels]
    return [""] * number
