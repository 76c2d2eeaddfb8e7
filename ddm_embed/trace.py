"""Sequences as small pictures: a line a channel over time, wherever an image would be shown."""

import numpy as np
from jaxtyping import Float, UInt8

# Black, then Okabe & Ito's colours, which the colour-blind tell apart; further channels are not drawn.
COLOURS = ((20, 20, 20), (230, 159, 0), (0, 114, 178), (0, 158, 115), (213, 94, 0), (204, 121, 167))
THICKNESS = 1.3  # pixels
MOST = 4.0  # standard deviations that a picture reaches from its middle: what is beyond runs along its edge
ZERO = 225  # grey of the line at 0


def reach_of(sequences: Float[np.ndarray, "... length channel"]) -> float:
    """How far from 0 a picture of all of these must reach, between 1 and `MOST` standard deviations."""
    values = np.abs(sequences[..., : len(COLOURS)])
    values = values[np.isfinite(values)]
    return float(np.clip(np.percentile(values, 99.5), 1.0, MOST)) if values.size else 1.0


def draw(
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
    canvas[:, height // 2] = ZERO
    per_column = max(2, -(-length // width))
    # Points of the line; a column ends where the next begins, so that steep lines are not broken.
    place = np.linspace(0, length - 1, width * per_column + 1)
    place = np.rint(place) if length > width else place  # every sample is among the points, so no peak is lost
    before = np.minimum(np.floor(place).astype(int), max(length - 2, 0))
    after, share = np.minimum(before + 1, length - 1), (place - before)[:, None]
    at = (np.arange(width) * per_column)[:, None] + np.arange(per_column + 1)
    middle = np.arange(height)[:, None]
    for start in range(0, number, 64):
        part = np.asarray(sequences[start : start + 64, :, : len(COLOURS)], np.float32)
        values = part[:, before] * (1 - share) + part[:, after] * share  # (N, point, C)
        rows = (1 - np.clip(values / reach, -1, 1)) * (height - 1) / 2
        spans = rows[:, at]  # (N, column, point, C)
        least, most = spans.min(axis=2) - THICKNESS / 2, spans.max(axis=2) + THICKNESS / 2
        for channel in range(part.shape[-1]):
            upper, lower = (edge[:, None, :, channel] for edge in (least, most))
            cover = np.minimum(lower, middle + 0.5) - np.maximum(upper, middle - 0.5)  # (N, height, width)
            cover = np.clip(np.nan_to_num(cover), 0, 1)[..., None]
            canvas[start : start + 64] *= 1 - cover
            canvas[start : start + 64] += cover * np.float32(COLOURS[channel])
    blank = np.isnan(sequences).all(axis=(1, 2))
    canvas[blank] = 255
    return np.rint(canvas).astype(np.uint8)
