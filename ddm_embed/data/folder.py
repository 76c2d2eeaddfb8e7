"""Images in a folder: one class per sub-folder, or none; `train` and `test` sub-folders where there are both."""

import dataclasses
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
DEEP_MODES = ("I;16", "I;16L", "I;16B")  # 16 bits a pixel
GREY_MODES = ("1", "L", "LA", "I", "F", *DEEP_MODES)
STRIP = 64  # from so many times as long, relative to the shape asked for, an image is cut before it is resized
ORIENTATION = 0x0112  # EXIF tag; from 5 on the image is stored on its side
# What Pillow and its decoders raise on bad files; most of it was met in files with bytes changed at random.
UNREADABLE = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError, RuntimeError, EOFError, LookupError, TypeError,
    ArithmeticError, struct.error, zlib.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
    """Decodes files on demand to uint8 [batch, height, width, channel].

    Attributes:
      files: in order. shape: (number, height, width, channel).
      resize: whether to bring images to (height, width): shorter side, then centre crop.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int, int]
    resize: bool

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __getitem__(self, positions: np.ndarray) -> UInt8[np.ndarray, "batch height width channel"]:
        return np.stack([decode(self.files[i], self.shape[1:], self.resize) for i in positions])


def open_source(rest: str, data: ConfigDict) -> Source:
    """Finds the images below a folder and reads their headers.

    Args:
      rest: the folder's path; it holds images; or one sub-folder a class; or `train` and (where there is one) `test`,
        each of those.
      data: `config.data`; image_size is the side to resize to, None where all images already have one size.

    Raises:
      UserError: no folder, no images, images of several sizes without `image_size`, or a file that is no image.
    """
    path, image_size = Path(rest), data.image_size
    if not path.is_dir():
        raise UserError(f"config.data.name='folder:{path}': no such folder")
    train, test_half = halves(path)
    train_files, train_labels, classes = _list(train)
    test_files, test_labels, test_classes = _list(test_half) if test_half else ((), None, None)
    if test_files and (classes or ()) != (test_classes or ()):
        raise UserError(f"{path}: train has the classes {classes}, test {test_classes}; expected the same sub-folders")
    size, channels = _common_shape(train_files + test_files, image_size, data.threads)

    def split(files: tuple[Path, ...], labels: np.ndarray | None) -> Split:
        shape = (len(files), *size, channels)
        return Split(FolderImages(files, shape, image_size is not None), None if labels is None else lambda: labels)

    test = split(test_files, test_labels) if test_files else None
    return Source(f"folder:{path}", split(train_files, train_labels), test, classes)


def decode(file: Path, shape: tuple[int, int, int], resize: bool) -> UInt8[np.ndarray, "height width channel"]:
    """One image as uint8; 16-bit grey is brought to 8 bits, an alpha channel dropped.

    Raises:
      UserError: the file cannot be decoded; names it.
    """
    try:
        with Image.open(file) as image:
            return to_pixels(image, shape, resize)
    except UNREADABLE as error:
        raise UserError(f"{file}: not a readable image ({error}); mend or remove it") from error


def to_pixels(
    image: Image.Image, shape: tuple[int, int, int], resize: bool
) -> UInt8[np.ndarray, "height width channel"]:
    """An opened image as uint8 of this shape, as `decode` gives a file's.

    Raises:
      ValueError, OSError: it cannot be decoded, or has another size and `resize` is False.
    """
    height, width, channels = shape
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP_MODES:
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, whose range is not known; convert it to 8 or 16 bits")
    image = image.convert("L" if channels == 1 else "RGB")
    if resize:
        image = _resize(image, width, height)
    return np.asarray(image).reshape(height, width, channels)


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    wide, high = image.width * height / (image.height * width), image.height * width / (image.width * height)
    if max(wide, high) > STRIP:  # most of it will be cut away, and would not fit into memory when enlarged
        keep = round(image.width * min(1, STRIP / wide)), round(image.height * min(1, STRIP / high))
        left, top = (image.width - keep[0]) // 2, (image.height - keep[1]) // 2
        image = image.crop((left, top, left + keep[0], top + keep[1]))
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


class Found(NamedTuple):
    """What is below a folder: image files by their suffix, in order; links to folders, which are not followed; and what
    folders that cannot be read gave as their reason. A file may be a broken link, or no regular file."""

    files: list[Path]
    links: list[Path]
    closed: list[OSError]


def walk(folder: Path) -> Found:
    """Looks through a folder and all below it; it ends also where a link leads back up."""
    found = Found([], [], [])
    for place, folders, names in os.walk(folder, onerror=found.closed.append, followlinks=False):
        found.links.extend(Path(place, d) for d in folders if Path(place, d).is_symlink())
        found.files.extend(Path(place, name) for name in names if Path(name).suffix.lower() in SUFFIXES)
    found.files.sort()
    found.links.sort()
    return found


def sub_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder, each of which may be a class, in order; and, apart, links that lead back up.

    A link to another folder counts as that folder: a class may lie elsewhere.
    """
    real = folder.resolve()
    inside = sorted(d for d in folder.iterdir() if d.is_dir())
    back = [d for d in inside if d.is_symlink() and real.is_relative_to(d.resolve())]
    return [d for d in inside if d not in back], back


def halves(folder: Path) -> tuple[Path, Path | None]:
    """(train, test) where a folder holds these and no other with images; else itself alone: "train" is a class then."""
    inside = {d.name: d for d in sub_folders(folder)[0]}
    if "train" not in inside or any(walk(d).files for name, d in inside.items() if name not in ("train", "test")):
        return folder, None
    return folder / "train", folder / "test" if "test" in inside else None


def images_in(folder: Path) -> list[Path]:
    """The image files, by their suffix, that lie in a folder itself, in order."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.is_dir())


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and below it, in order."""
    found = images_in(folder) + [file for inside in sub_folders(folder)[0] for file in walk(inside).files]
    return sorted(file for file in found if file.is_file())


def _list(folder: Path) -> tuple[tuple[Path, ...], np.ndarray | None, tuple[str, ...] | None]:
    """(files, labels, classes): sorted, so that positions do not depend on the file system."""

    here = [f for f in images_in(folder) if f.is_file()]
    by_class = {d.name: [f for f in walk(d).files if f.is_file()] for d in sub_folders(folder)[0]}
    by_class = {name: files for name, files in by_class.items() if files}
    if here and by_class:
        raise UserError(
            f"{folder}: holds images ({here[0].name}) and folders of images ({next(iter(by_class))}); "
            "expected one or the other"
        )
    if here:
        return tuple(here), None, None
    if not by_class:
        raise UserError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    files = [f for group in by_class.values() for f in group]
    if len(by_class) == 1:  # one sub-folder tells nothing apart
        return tuple(files), None, None
    labels = np.repeat(np.arange(len(by_class), dtype=np.int32), [len(group) for group in by_class.values()])
    return tuple(files), labels, tuple(by_class)


def _common_shape(files: tuple[Path, ...], image_size: int | None, threads: int) -> tuple[tuple[int, int], int]:
    """((height, width), channels) that serve all files: three channels if any image has colour."""

    with ThreadPoolExecutor(threads) as pool:
        headers = list(pool.map(header, files))
    channels = 1 if all(grey for _, grey in headers) else 3
    if image_size is not None:
        return (image_size, image_size), channels
    first = headers[0][0]
    for file, (size, _) in zip(files, headers, strict=True):
        if size != first:
            raise UserError(
                f"{file}: {size[0]}x{size[1]} pixels, but {files[0]} has {first[0]}x{first[1]}; "
                "set config.data.image_size to resize all"
            )
    return first, channels


def header(file: Path) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it is grey) of an image file, without decoding it.

    Raises:
      UserError: the file is no image; names it.
    """
    try:
        with Image.open(file) as image:
            size = (image.height, image.width)
            # A PNG keeps EXIF behind its pixels: looking there would decode every file.
            lying = image.format != "PNG" and image.getexif().get(ORIENTATION, 1) >= 5
            return size[::-1] if lying else size, image.mode in GREY_MODES
    except UNREADABLE as error:
        raise UserError(f"{file}: not a readable image ({error}); mend or remove it") from error
