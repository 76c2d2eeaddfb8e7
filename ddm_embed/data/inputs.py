"""Images as users have them (arrays, PIL images, paths, lists of them) -> arrays as a model takes them."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8
from PIL import Image

from ddm_embed.data.image_file import (
    SOME_SUFFIXES,
    UNREADABLE,
    Rules,
    decode,
    describe,
    header,
    notes_on,
    to_pixels,
)  # fmt: skip
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError

Shape = tuple[int, int, int]
Range = tuple[float, float]


def as_model_input(
    images: Any, image_shape: Shape, value_range: Range, scale: Scale | None, rules: Rules
) -> Shaped[np.ndarray, "number height width channel"]:
    """Images as uint8 of the model's shape, resized where they are not; sequences standardised, float32.

    Args:
      images: [number, height, width, channel] or [number, height, width] or [number, height * width * channel] of
        NumPy or JAX; a PIL image; a folder, a file; or a list, an iterator or a column of files, PIL images or arrays.
        Of sequences [number, length, channel], or [number, length] where there is one channel.
      image_shape: (height, width, channel) of the model. value_range: what stands for black and white in arrays of
        floats. scale: of a model of sequences. rules: of files and PIL images.

    Raises:
      UserError: they are nothing of the kind, cannot be read, or have values beyond the range.
    """
    if scale is not None:
        try:
            return scale.apply(as_sequences(images, image_shape[1:]))[:, None]
        except ValueError as error:
            raise UserError(f"sequences that hold {error}; leave these out") from error
    images = _listed(images)
    if not _is_many(images) and np.ndim(images) == 2 and np.shape(images)[1] == np.prod(image_shape):
        images = np.reshape(np.asarray(images), (-1, *image_shape))
    return as_uint8(images, image_shape, value_range, rules)


def as_sequences(sequences: Any, expected: tuple[int, int] | None = None) -> Float[np.ndarray, "number length channel"]:
    """Sequences [number, length, channel] or [number, length] as float64 with a channel axis.

    Raises:
      UserError: they have other axes than that, another length or number of channels than expected, or values that
        are not finite.
    """
    try:
        x = np.asarray(sequences, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"not an array of sequences of one length ({error}); cut or pad them") from error
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3:
        raise UserError(f"sequences of shape {list(np.shape(sequences))}; expected [number, length, channel]")
    if expected is not None and x.shape[1:] != tuple(expected):
        raise UserError(
            f"sequences of length {x.shape[1]} with {x.shape[2]} channels; this model takes length {expected[0]} with "
            f"{expected[1]}: resample, cut or pad them"
        )
    if not np.all(np.isfinite(x)):
        raise UserError("sequences with values that are NaN or infinite; fill the gaps first")
    return x


def as_uint8(
    images: Any, image_shape: Shape | int | None, value_range: Range, rules: Rules
) -> UInt8[np.ndarray, "number height width channel"]:
    """Images, of any of the kinds that `as_model_input` takes, as uint8 of one shape.

    Args:
      image_shape: what they are brought to, shorter side first and then cut about the centre, with one warning; one
        number: a square; None: the size that all of them have.

    Raises:
      UserError: they have several shapes and no `image_shape` is given; and as `as_model_input`.
    """
    if isinstance(images, (str, Path)):
        images = files_below(Path(os.path.expanduser(images)))
    images = _listed(images)
    if _is_many(images):
        if not len(images):
            raise UserError("no images were given")
        images = [_one(image, value_range) for image in images]
    else:
        array = _to_uint8(_with_channels(_array(images), image_shape), value_range)
        if image_shape in (None, array.shape[1:]):
            return array
        if not len(array):
            return np.zeros((0, *image_shape), np.uint8) if isinstance(image_shape, tuple) else array
        images = list(array)
    for note in notes_on([image for image in images if isinstance(image, Path)], rules):
        warnings.warn(note, stacklevel=2)
    shapes = {_shape_of(image) for image in images}
    if not isinstance(image_shape, tuple):
        if image_shape is None and len({shape[:2] for shape in shapes}) > 1:
            some = ", ".join(f"{height}x{width}" for height, width in sorted({shape[:2] for shape in shapes})[:4])
            raise UserError(f"images of several sizes ({some}); set image_size to resize all")
        size = next(iter(shapes))[:2] if image_shape is None else (image_shape, image_shape)
        image_shape = (*size, max(min(shape[2], 3) for shape in shapes))
    other = sum(_shape_of(image)[:2] != image_shape[:2] for image in images)
    if other:
        side = "x".join(map(str, image_shape[:2]))
        warnings.warn(
            f"{other} of {len(images)} images are not {side}: resized by the shorter side, cut about the centre",
            stacklevel=2,
        )
    return np.stack([_fit(image, image_shape, rules) for image in images])


def files_below(path: Path) -> list[Path]:
    """The image files of a folder and its sub-folders, in order; a file itself.

    Raises:
      UserError: there are none.
    """
    from ddm_embed.data.folder import images_below

    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or file")
    found = images_below(path)
    if not found:
        raise UserError(f"{path}: holds no images ({SOME_SUFFIXES})")
    return found


def _listed(images: Any) -> Any:
    """What is neither an array of numbers nor a place as a list: an image, an iterator, a column of paths."""
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, Iterator):
        return list(images)
    if hasattr(images, "__array__") and np.asarray(images).dtype.kind in "OU":
        return np.asarray(images).tolist()
    return images


def _is_many(images: Any) -> bool:
    """Whether it is a list of images, rather than one array of numbers."""
    if not isinstance(images, Sequence):
        return False
    return not (len(images) and isinstance(images[0], (int, float, list, tuple)))


def _one(image: Any, value_range: Range) -> Any:
    """A path or a PIL image as it is; an array as uint8 [height, width, channel]."""
    if isinstance(image, (str, Path)):
        return Path(os.path.expanduser(image))
    if isinstance(image, Image.Image):
        return image
    array = _array(image)
    if array.ndim not in (2, 3):
        raise UserError(f"an image of shape {list(array.shape)}; expected [height, width, channel] or [height, width]")
    return _to_uint8(array if array.ndim == 3 else array[..., None], value_range)


def _shape_of(image: Any) -> Shape:
    if isinstance(image, np.ndarray):
        return image.shape
    size, grey = header(image) if isinstance(image, Path) else describe(image)
    return *size, 1 if grey else 3


def _fit(image: Any, shape: Shape, rules: Rules) -> UInt8[np.ndarray, "height width channel"]:
    if isinstance(image, Path):
        return decode(image, shape, True, rules)
    if isinstance(image, np.ndarray):
        if image.shape == shape:
            return image
        channels = image.shape[2]
        if channels not in (1, 3, 4) or shape[2] not in (1, 3):
            raise UserError(f"images of {channels} channels; this model takes {shape[2]}")
        image = Image.fromarray(image[..., 0] if channels == 1 else image)
    try:
        return to_pixels(image, shape, True, rules)
    except UNREADABLE as error:
        raise UserError(f"{getattr(image, 'filename', 'an image')}: not a readable image ({error})") from error


def _array(images: Any) -> Num[np.ndarray, "..."]:
    array = np.asarray(images)
    if array.dtype.kind in "OUS":
        raise UserError(f"images as {type(images).__name__}; expected an array, PIL images, files, or a folder")
    return array


def _with_channels(
    array: Num[np.ndarray, "..."], image_shape: Shape | int | None
) -> Num[np.ndarray, "number height width channel"]:
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        raise UserError(
            f"an array {list(array.shape)} looks like one colour image; give several, [number, height, width, channel]"
        )
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise UserError(f"an array {list(array.shape)}; expected [number, height, width, channel]")
    array = array if array.ndim == 4 else array[..., None]
    if array.shape[1:] != image_shape:
        check_channels_last(array.shape)
    return array


def check_channels_last(shape: tuple[int, ...]) -> None:
    """Raises UserError where images [number, height, width, channel] are rather [number, channel, height, width]."""
    if shape[1] in (1, 3) and shape[3] > 4:
        raise UserError(
            f"an array {list(shape)} looks like channels first; give [number, height, width, channel], as "
            "images.transpose(0, 2, 3, 1) is"
        )


def _to_uint8(array: Num[np.ndarray, "..."], value_range: Range) -> UInt8[np.ndarray, "..."]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        if array.any() and array.max() < 256:
            warnings.warn(
                "images of uint16 below 256 are nearly black, of 65535; give uint8 if white is 255", stacklevel=2
            )
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise UserError(f"images of type {array.dtype}; expected uint8, or floats within {value_range}")
    low, high = (0, 255) if array.dtype.kind in "iu" else _checked(value_range)
    least, most = (float(array.min()), float(array.max())) if array.size else (low, high)
    if not (low <= least and most <= high):  # also where they are NaN
        raise UserError(
            f"images of {array.dtype} with values from {least:g} to {most:g}; expected {low:g} to {high:g}: "
            "set value_range to what stands for black and white, or give uint8"
        )
    return np.round((array.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _checked(value_range: Range) -> Range:
    try:
        low, high = value_range
        if not low < high:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise UserError(f"value_range={value_range!r}; expected (black, white), such as (0, 1) or (0, 255)") from error
    return low, high
