"""The one way from an image, in a file or opened, to pixels: training, `embed` and `Embedder` all take it."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageColor, ImageOps

from ddm_embed.errors import UserError

Image.init()
# What Pillow decodes itself: it hands EPS and WMF to other programs, and knows no more than the names of the rest.
FORMATS = tuple(sorted(Image.OPEN.keys() - {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}))
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
SOME_SUFFIXES = ".png, .jpg, .webp, .tiff and others that Pillow reads"
DEEP_MODES = ("I;16", "I;16L", "I;16B")  # 16 bits a pixel
GREY_MODES = ("1", "L", "LA", "I", "F", *DEEP_MODES)
STRIP = 64  # from so many times as long, relative to the shape asked for, an image is cut before it is resized
LOOKED_AT = 64  # files of a folder, for what is said of all
ORIENTATION, WIDTH, HEIGHT = 0x0112, 256, 257  # tags of EXIF and TIFF
# What Pillow and its decoders raise on bad files; most of it was met in files with bytes changed at random.
UNREADABLE = (
    OSError, SyntaxError, ValueError, Image.DecompressionBombError, RuntimeError, EOFError, LookupError, TypeError,
    ArithmeticError, struct.error, zlib.error,
)  # fmt: skip


class Rules(NamedTuple):
    """How a run turns files into pixels.

    background: the colour under what is transparent; "none": the alpha channel is dropped.
    bit_depth: how many bits of a 16-bit file hold its values.
    """

    background: str = "white"
    bit_depth: int = 16


def rules_of(data: ConfigDict) -> Rules:
    """The rules of `config.data`.

    Raises:
      UserError: the background is no colour.
    """
    try:
        if data.background != "none":
            ImageColor.getrgb(data.background)
    except ValueError as error:
        raise UserError(
            f"config.data.background={data.background!r}; expected a colour, such as white or #808080, or none"
        ) from error
    return Rules(data.background, 16 if data.bit_depth is None else data.bit_depth)


def open_image(file: Path) -> Image.Image:
    """An image file, opened and not yet decoded.

    Raises:
      OSError, or another of `UNREADABLE`: it is no regular file (a pipe would be waited for), or no image.
    """
    if not file.is_file():
        raise OSError("no regular file")
    return Image.open(file, formats=FORMATS)


def decode(
    file: Path, shape: tuple[int, int, int], resize: bool, rules: Rules
) -> UInt8[np.ndarray, "height width channel"]:
    """One image as uint8 of this shape.

    Raises:
      UserError: the file cannot be decoded, or has another size and `resize` is False; names it.
    """
    try:
        with open_image(file) as image:
            return to_pixels(image, shape, resize, rules)
    except UNREADABLE as error:
        raise UserError(f"{file}: not a readable image ({error}); mend or remove it") from error


def to_pixels(
    image: Image.Image, shape: tuple[int, int, int], resize: bool, rules: Rules
) -> UInt8[np.ndarray, "height width channel"]:
    """An opened image as uint8 of this shape, as `decode` gives a file's: upright, its transparent parts on the
    background, 16 bits brought to 8; then its shorter side is resized and the longer one cut about the centre.

    Raises:
      ValueError, OSError: it cannot be decoded, or has another size and `resize` is False.
    """
    height, width, channels = shape
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP_MODES:
        image = _shallow(image, rules.bit_depth)
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}, whose range is not known; convert it to 8 or 16 bits")
    if rules.background != "none" and image.has_transparency_data:
        ground = Image.new("RGBA", image.size, rules.background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if resize:
        image = _resize(image, width, height)
    if image.size != (width, height):
        raise ValueError(f"{image.height}x{image.width} pixels, expected {height}x{width}")
    return np.asarray(image).reshape(shape)


def _shallow(image: Image.Image, bit_depth: int) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    if values.size and values.max() >= 2**bit_depth:
        raise ValueError(f"a value of {values.max()}, too large for config.data.bit_depth={bit_depth}")
    return Image.fromarray((values >> (bit_depth - 8)).astype(np.uint8))


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


def header(file: Path) -> tuple[tuple[int, int], bool]:
    """((height, width) as `decode` sees it, whether it is grey) of an image file; decodes no more than it must.

    Raises:
      UserError: the file is no image; names it.
    """
    try:
        with open_image(file) as image:
            return describe(image)
    except UNREADABLE as error:
        raise UserError(f"{file}: not a readable image ({error}); mend or remove it") from error


def describe(image: Image.Image) -> tuple[tuple[int, int], bool]:
    """As `header`, of an opened image."""
    width, height = image.size
    if image.format == "TIFF" and ORIENTATION in image.getexif():  # not yet loaded, and so not yet turned upright
        width, height = (
            image.tag_v2[WIDTH],
            image.tag_v2[HEIGHT],
        )  # some versions of Pillow have turned the size already
    # A PNG may keep EXIF behind its pixels, which are decoded to get there: not where it makes no difference.
    lying = width != height and image.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if lying else (height, width), image.mode in GREY_MODES


def is_image(file: Path) -> bool:
    """Whether a file is taken for an image: by its suffix, or by what it holds where it has none."""
    suffix = file.suffix.lower()
    if suffix or not file.is_file():
        return suffix in SUFFIXES
    try:
        with open_image(file):
            return True
    except UNREADABLE:
        return False


def notes_on(files: Sequence[Path], rules: Rules) -> list[str]:
    """What a user should hear of images that are read otherwise than it may seem, a line each.

    Looks at some files, and at every TIFF: at 16-bit ones whose values stay in a sixteenth of the range, and at further
    pages or frames, which are not read.
    """
    step = max(1, len(files) // LOOKED_AT)
    chosen = {*files[::step], *(file for file in files if file.suffix.lower() in (".tif", ".tiff"))}
    deepest, several = [], []
    for file in sorted(chosen):
        try:
            with open_image(file) as image:
                if getattr(image, "is_animated", False) and image.format != "MPO":  # a photograph with its preview
                    several.append(file)
                if image.mode in DEEP_MODES and len(deepest) < LOOKED_AT:
                    deepest.append(int(np.max(np.asarray(image))))
        except UNREADABLE:  # reading it will say so
            continue
    notes = []
    if deepest and max(deepest) < 2 ** (rules.bit_depth - 4):
        fits = max(8, max(deepest).bit_length())
        notes.append(
            f"{len(deepest)} images of 16 bits hold values of {max(deepest)} at most and become nearly black with "
            f"config.data.bit_depth={rules.bit_depth}; set it to {fits} if white is {2**fits - 1}"
        )
    if several:
        more = f", as {len(several) - 1} more do" if len(several) > 1 else ""
        notes.append(
            f"{several[0].name} holds several pages or frames{more}: the first of each is read; save the others as "
            "files of their own if you want them"
        )
    return notes
