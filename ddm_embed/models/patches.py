"""How an image is cut into patches: squares of it; of a sequence, an image of height 1, runs of its samples."""

from einops import rearrange
from jaxtyping import Array, Float

Shape = tuple[int, ...]  # (..., height, width, channel)


def is_sequence(shape: Shape) -> bool:
    """Whether images of this shape, [..., height, width, channel], are sequences: [..., 1, length, channel]."""
    return shape[-3] == 1


def sides(shape: Shape, patch: int) -> tuple[int, int]:
    """(height, width) of a patch: `patch` each; of a sequence 1 and `patch`."""
    return (1 if is_sequence(shape) else patch), patch


def grid(shape: Shape, patch: int) -> tuple[int, int]:
    """How many patches an image has: (rows, columns)."""
    height, width = sides(shape, patch)
    return shape[-3] // height, shape[-2] // width


def tokens(shape: Shape, patch: int) -> int:
    """How many patches an image has in all."""
    rows, columns = grid(shape, patch)
    return rows * columns


def entries(shape: Shape, patch: int) -> int:
    """How many numbers a patch has, over its channels."""
    height, width = sides(shape, patch)
    return height * width * shape[-1]


def cut(image: Float[Array, "batch height width channel"], patch: int) -> Float[Array, "batch token entry"]:
    """An image's patches, row by row, each as its numbers."""
    height, width = sides(image.shape, patch)
    return rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=height, q=width)


def join(x: Float[Array, "batch token entry"], shape: Shape, patch: int) -> Float[Array, "batch height width channel"]:
    """The image that was cut into these patches; `shape` is its."""
    height, width = sides(shape, patch)
    rows = grid(shape, patch)[0]
    return rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", h=rows, p=height, q=width)


def describe(shape: Shape) -> str:
    """Images of this shape in words, for messages."""
    height, width = shape[-3:-1]
    return f"sequences of {width} samples" if is_sequence(shape) else f"images of {height}x{width}"
