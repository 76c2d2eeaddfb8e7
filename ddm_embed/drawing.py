"""Figures: labelled grids of images, written as PNG, and sequences as small pictures, a line a channel over time."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8

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
# Black, then Okabe & Ito's colours, which the colour-blind tell apart; further channels are not drawn.
LINE_COLOURS = ((20, 20, 20), (230, 159, 0), (0, 114, 178), (0, 158, 115), (213, 94, 0), (204, 121, 167))
THICKNESS = 1.3  # pixels
REACH = 4.0  # standard deviations that a picture reaches from its middle: what is beyond runs along its edge
AXIS = 225  # grey of the line at 0


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
    drawn = draw_lines(images.reshape(-1, length, channels), *TRACE)
    return drawn.reshape(down, across, *TRACE, 3).astype(np.float32) / 127.5 - 1


def save(figure: "Figure", path: Path) -> None:
    """Writes the figure as PNG, making its folder."""
    write_whole(path, png(figure, "tight"))


def png(figure: "Figure", box: str | None = None) -> bytes:
    """The figure as PNG, in which a name is never mathematics, whatever signs it has; `box`: of `bbox_inches`."""
    import matplotlib
    from matplotlib.text import Text

    content = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):  # of what is made while it is drawn
        figure.savefig(content, format="png", dpi=110, bbox_inches=box)
    return content.getvalue()


def reach_of(sequences: Float[np.ndarray, "... length channel"]) -> float:
    """How far from 0 a picture of all of these must reach, between 1 and `REACH` standard deviations."""
    values = np.abs(sequences[..., : len(LINE_COLOURS)])
    values = values[np.isfinite(values)]
    return float(np.clip(np.percentile(values, 99.5), 1.0, REACH)) if values.size else 1.0


def draw_lines(
    sequences: Float[np.ndarray, "number length channel"], height: int, width: int, reach: float | None = None
) -> UInt8[np.ndarray, "number height width 3"]:
    """The sequences as lines on white; of several samples in a pixel's column all that they span. NaN leaves white.

    Args:
      sequences: standardised. height, width: of a picture, in pixels. reach: the value at its upper edge, minus that at
        its lower; that of all sequences together if None.
    """
    reach = reach_of(sequences) if reach is None else reach
    number, length, _ = sequences.shape
    canvas = np.full((number, height, width, 3), 255.0, np.float32)
    canvas[:, height // 2] = AXIS
    per_column = max(2, -(-length // width))
    # Points of the line; a column ends where the next begins, so that steep lines are not broken.
    place = np.linspace(0, length - 1, width * per_column + 1)
    place = np.rint(place) if length > width else place  # every sample is among the points, so no peak is lost
    before = np.minimum(np.floor(place).astype(int), max(length - 2, 0))
    after, share = np.minimum(before + 1, length - 1), (place - before)[:, None]
    at = (np.arange(width) * per_column)[:, None] + np.arange(per_column + 1)
    middle = np.arange(height)[:, None]
    for start in range(0, number, 64):
        part = np.asarray(sequences[start : start + 64, :, : len(LINE_COLOURS)], np.float32)
        values = part[:, before] * (1 - share) + part[:, after] * share  # (N, point, C)
        rows = (1 - np.clip(values / reach, -1, 1)) * (height - 1) / 2
        spans = rows[:, at]  # (N, column, point, C)
        least, most = spans.min(axis=2) - THICKNESS / 2, spans.max(axis=2) + THICKNESS / 2
        for channel in range(part.shape[-1]):
            upper, lower = (edge[:, None, :, channel] for edge in (least, most))
            cover = np.minimum(lower, middle + 0.5) - np.maximum(upper, middle - 0.5)  # (N, height, width)
            cover = np.clip(np.nan_to_num(cover), 0, 1)[..., None]
            canvas[start : start + 64] *= 1 - cover
            canvas[start : start + 64] += cover * np.float32(LINE_COLOURS[channel])
    blank = np.isnan(sequences).all(axis=(1, 2))
    canvas[blank] = 255
    return np.rint(canvas).astype(np.uint8)
