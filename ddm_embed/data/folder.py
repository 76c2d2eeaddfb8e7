"""Images in a folder: one class per sub-folder, or none; its owner may have split it into `train`, `val` and `test`."""

import dataclasses
import errno
import hashlib
import logging
import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ddm_embed.data.image_file import SOME_SUFFIXES, Rules, decode, header, is_image, notes_on, rules_of
from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError

logger = logging.getLogger("ddm_embed")

SPLITS = {  # of a folder's sub-folders, by their names in lower case
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
NO_IMAGES = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")  # what systems leave beside images, as does a dot
CLASSES_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
    """Decodes files on demand to uint8 [batch, height, width, channel].

    Attributes:
      files: in order. shape: (number, height, width, channel).
      resize: whether to bring images to (height, width): shorter side, then centre crop. rules: see `image_file`.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int, int]
    resize: bool
    rules: Rules

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    def __getitem__(self, positions: np.ndarray) -> UInt8[np.ndarray, "batch height width channel"]:
        return np.stack([decode(self.files[i], self.shape[1:], self.resize, self.rules) for i in positions])


class Part(NamedTuple):
    """Image files in order: `here` those that lie in a folder itself, `classes` those of each sub-folder that has any.
    A file may be a broken link, or no regular file."""

    here: list[Path]
    classes: dict[str, list[Path]]

    @property
    def files(self) -> list[Path]:
        return [*self.here, *(file for files in self.classes.values() for file in files)]


class Found(NamedTuple):
    """What is in a folder and below it.

    splits: by name, "train" alone where its owner has not split it. beside: images that lie beside the splits. left:
    how many files were left out, by what they are. links: to folders, which are not followed; back: those that lead
    back up. closed: what folders that cannot be read gave as their reason.
    """

    splits: dict[str, Part]
    beside: list[Path]
    left: Counter[str]
    links: list[Path]
    back: list[Path]
    closed: list[OSError]

    @property
    def files(self) -> list[Path]:
        return [*self.beside, *(file for part in self.splits.values() for file in part.files)]

    def notes(self, root: Path) -> list[str]:
        """What was left out, in lines; links by their names below `root`."""
        notes = [f"{link.relative_to(root)}: a link to a folder that holds it; left out" for link in self.back]
        notes += [f"{link.relative_to(root)}: a link to a folder; not followed" for link in self.links]
        counted = ", ".join(f"{n} {what}" for what, n in sorted((+self.left).items()))
        return notes + [f"left out: {counted}"] * bool(counted)

    def check_readable(self) -> None:
        """Raises UserError if there was a folder that cannot be read."""
        for error in self.closed:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}); its images would be left out")


def look(folder: Path) -> Found:
    """Looks through a folder and all below it; it ends also where a link leads back up.

    Raises:
      UserError: some of its sub-folders are splits, and it cannot be told what the others are.
    """
    left, links, back, closed = Counter(), [], [], []

    def chosen(place: Path, names: list[str]) -> list[Path]:
        files = []
        for file in (place / name for name in names):
            if _is_systems(file.name):
                left["hidden"] += 1
            elif is_image(file):
                files.append(file)
            else:
                left[file.suffix.lower() or "without a suffix"] += 1
        return files

    def below(folder: Path) -> list[Path]:
        files = []
        for place, folders, names in os.walk(folder, onerror=closed.append, followlinks=False):
            left["hidden"] += sum(map(_is_systems, folders))
            folders[:] = [name for name in folders if not _is_systems(name)]
            links.extend(Path(place, name) for name in folders if Path(place, name).is_symlink())
            files += chosen(Path(place), names)
        return sorted(files)

    def folders_of(folder: Path) -> list[Path]:
        """A link to another folder counts as that folder: a class may lie elsewhere."""
        real, folders = folder.resolve(), sorted(d for d in folder.iterdir() if d.is_dir())
        up = [d for d in folders if d.is_symlink() and real.is_relative_to(d.resolve())]
        back.extend(up)
        left["hidden"] += sum(_is_systems(d.name) for d in folders)
        return [d for d in folders if d not in up and not _is_systems(d.name)]

    def files_of(folder: Path) -> list[Path]:
        return chosen(folder, sorted(file.name for file in folder.iterdir() if not file.is_dir()))

    def inside(folder: Path) -> Part:
        groups = {d.name: below(d) for d in folders_of(folder)}
        return Part(files_of(folder), {name: files for name, files in groups.items() if files})

    whole = inside(folder)
    names = _splits_of(folder, whole.classes)
    splits, beside = {"train": whole}, []
    if names:
        for told in (left, links, back, closed):  # which is told again, by split
            told.clear()
        beside = files_of(folder)
        for other in folders_of(folder):  # without an image, or it would not be split
            if other.name not in names.values():
                below(other)
        splits = {split: inside(folder / name) for split, name in names.items()}
    return Found(splits, beside, left, sorted(links), sorted(back), closed)


def _is_systems(name: str) -> bool:
    return name.startswith(".") or name.lower() in NO_IMAGES


def _splits_of(folder: Path, classes: dict[str, list[Path]]) -> dict[str, str]:
    """The sub-folder of each split, in the order train, validation, test; none where they are classes: one may well be
    called "train".

    Raises:
      UserError: several are splits, and there are others, or two of one split, or none to train on.
    """
    splits: dict[str, list[str]] = {split: [] for split in ("train", "validation", "test")}
    others = []
    for name in classes:
        (splits[SPLITS[name.lower()]] if name.lower() in SPLITS else others).append(name)
    there = {split: names for split, names in splits.items() if names}
    if not there or (len(there) == 1 and (others or "train" not in there)):
        return {}
    twice = next((names for names in there.values() if len(names) > 1), None)
    if others or twice or "train" not in there:
        why = f"{' and '.join(twice)} are one split" if twice else f"{others[0]} is none" if others else "no train"
        raise UserError(
            f"{folder}: holds {', '.join(classes)}, of which some are splits, but {why}; expected train, val and test, "
            "or one sub-folder a class"
        )
    return {split: names[0] for split, names in there.items()}


def open_source(rest: str, data: ConfigDict) -> Source:
    """Finds the images below a folder and reads their headers.

    Args:
      rest: the folder's path; it holds images; or one sub-folder a class; or `train` and (where there are such) `val`
        and `test`, each of those.
      data: `config.data`; image_size is the side to resize to, None where all images already have one size.

    Raises:
      UserError: no folder, no images, images of several sizes without `image_size`, or a file that is no image.
    """
    path, rules = Path(rest), rules_of(data)
    if not path.is_dir():
        raise UserError(f"config.data.name='folder:{path}': no such folder")
    found = look(path)
    found.check_readable()
    listed = {name: _listed(path, part, found.left) for name, part in found.splits.items()}
    classes = listed["train"][2]
    for name, (_, _, own) in listed.items():
        if own != classes:
            raise UserError(
                f"{path}: train has {_words(classes)}, {name} has {_words(own)}; sort the images of {name} into the "
                f"same sub-folders, or move {name} elsewhere: config.data.test_fraction of the training images are "
                "then kept as test images"
            )
    files = [file for part, _, _ in listed.values() for file in part]
    size, channels = _common_shape(files, data.image_size, data.threads)
    if found.beside:
        found.left["images beside the splits"] += len(found.beside)
    counted = ", ".join(f"{name} {len(part)}" for name, (part, _, _) in listed.items())
    logger.info("folder:%s: %s; %s", path, counted, _words(classes, listed["train"][1]))
    for note in [*found.notes(path), *notes_on(files, rules)]:
        logger.warning("folder:%s: %s", path, note)

    names = "\n".join(file.relative_to(path).as_posix() for file in files)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    def split(name: str) -> Split | None:
        if name not in listed:
            return None
        part, labels, _ = listed[name]
        images = FolderImages(part, (len(part), *size, channels), data.image_size is not None, rules)
        return Split(images, None if labels is None else lambda: labels)

    train, validation, test = map(split, ("train", "validation", "test"))
    return Source(f"folder:{path}", train, test, classes, validation=validation, digest=digest)


def _words(classes: tuple[str, ...] | None, labels: np.ndarray | None = None) -> str:
    """Classes as a message tells them, with their counts if labels are given."""
    if classes is None:
        return "no classes"
    counts = [""] * len(classes) if labels is None else [f" {n}" for n in np.bincount(labels, minlength=len(classes))]
    told = [f"{name}{count}" for name, count in zip(classes, counts, strict=True)][:CLASSES_SHOWN]
    return f"{len(classes)} classes ({', '.join(told)}{', ...' if len(classes) > CLASSES_SHOWN else ''})"


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and below it, in order.

    Raises:
      UserError: a folder or file cannot be read.
    """
    found = look(folder)
    found.check_readable()
    return sorted(_regular(found.files, found.left))


def _regular(files: list[Path], left: Counter[str]) -> list[Path]:
    """Those that are files: pipes and links to nothing are counted as left out.

    Raises:
      UserError: it cannot be told of one.
    """
    regular = []
    for file in files:
        try:
            regular += [file] if stat.S_ISREG(file.stat().st_mode) else []
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise UserError(f"{file}: cannot be read ({error.strerror}); it would be left out") from error
    left["links to nothing, or no files"] += len(files) - len(regular)
    return regular


def _listed(
    folder: Path, part: Part, left: Counter[str]
) -> tuple[tuple[Path, ...], np.ndarray | None, tuple[str, ...] | None]:
    """(files, labels, classes) of a split: sorted, so that positions do not depend on the file system."""
    here = _regular(part.here, left)
    by_class = {name: _regular(files, left) for name, files in part.classes.items()}
    by_class = {name: files for name, files in by_class.items() if files}
    if here and by_class:
        raise UserError(
            f"{here[0].parent}: holds images ({here[0].name}) and folders of images ({next(iter(by_class))}); "
            "expected one or the other"
        )
    if here:
        return tuple(here), None, None
    if not by_class:
        raise UserError(f"{folder}: holds no images ({SOME_SUFFIXES})")
    files = tuple(f for group in by_class.values() for f in group)
    if len(by_class) == 1:  # one sub-folder tells nothing apart
        return files, None, None
    labels = np.repeat(np.arange(len(by_class), dtype=np.int32), [len(group) for group in by_class.values()])
    return files, labels, tuple(by_class)


def _common_shape(files: list[Path], image_size: int | None, threads: int) -> tuple[tuple[int, int], int]:
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
