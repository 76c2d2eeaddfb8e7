"""Figures of images: labelled grids, written as PNG."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Float

from ddm_embed import trace
from ddm_embed.models.patches import is_sequence
from ddm_embed.runs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Grid = Float[np.ndarray, "row column height width channel"]

CELL = 0.95  # inches
TRACE = 96, 160  # pixels that a sequence is drawn on, height and width
TRACE_CELL = 1.4  # inches of its width
GAP = 1  # white pixels around an image
TRACE_GAP = 5  # and around a sequence


def image_grid(images: Grid, columns: list[str], rows: list[str] | None, title: str) -> "Figure":
    """Images in [-1, 1] under the names of their columns and beside those of their rows; NaN leaves a place empty.

    Sequences, images of height 1, are drawn as lines over time.
    """
    from matplotlib.figure import Figure

    cell = TRACE_CELL if is_sequence(images.shape) else CELL
    images = pictured(images)
    count, across, height, width, _ = images.shape
    lines = 1 + max((name.count("\n") for name in columns), default=0)
    figure = Figure(
        figsize=(max(cell * across, 4.5) + (1.0 if rows else 0), cell * count * height / width + 0.5 + 0.2 * lines),
        layout="constrained",
    )
    place_grid(figure.subplots(), images, columns, rows)
    figure.suptitle(title, fontsize=11)
    return figure


def place_grid(axes: "Axes", images: Grid, columns: list[str], rows: list[str] | None) -> None:
    """Draws such a grid into one panel."""
    images = pictured(images)
    _, _, height, width, channels = images.shape
    lines = (height, width) == TRACE
    gap = TRACE_GAP if lines else GAP
    pixels = np.nan_to_num(np.clip((images + 1) / 2, 0, 1), nan=1.0)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=1.0)
    canvas = rearrange(pixels, "r k h w c -> (r h) (k w) c")
    if channels != 3:  # one channel, or more than a picture has: the first is shown
        canvas = canvas[..., 0]
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="antialiased" if lines else "nearest")
    axes.set_xticks((np.arange(len(columns)) + 0.5) * (width + 2 * gap) - 0.5, columns, fontsize=9)
    axes.xaxis.tick_top()
    names = rows or []
    axes.set_yticks((np.arange(len(names)) + 0.5) * (height + 2 * gap) - 0.5, names, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def pictured(images: Grid) -> Grid:
    """A grid of sequences as one of pictures of them; of images, as it is."""
    if not is_sequence(images.shape):
        return images
    down, across, _, length, channels = images.shape
    drawn = trace.draw(images.reshape(-1, length, channels), *TRACE)
    return drawn.reshape(down, across, *TRACE, 3).astype(np.float32) / 127.5 - 1


def save(figure: "Figure", path: Path) -> None:
    """Writes the figure as PNG, making its folder."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    write_whole(path, content.getvalue())
