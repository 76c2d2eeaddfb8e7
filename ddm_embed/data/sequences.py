"""Sequences, such as waveforms and sensor series: images of height 1 whose values are real numbers."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Num

from ddm_embed.errors import UserError

FARTHEST = 1e6  # standard deviations that a value may be away; none of N values that they were taken of is beyond √N
CHUNK_BYTES = 2**26  # of a file, read at a time

Raw = Num[np.ndarray, "number length channel"]


class Scale(NamedTuple):
    """What a sequence's channels are standardised by: float32 [channel] each; std is 1 for a constant channel."""

    mean: Float[np.ndarray, " channel"]
    std: Float[np.ndarray, " channel"]

    def apply(self, raw: Num[np.ndarray, "*any length channel"]) -> Float[np.ndarray, "*any length channel"]:
        """Raw values, of any number type, as float32 of mean 0 and standard deviation 1 over the training set.

        Raises:
          ValueError: a value is NaN, infinite, or so far from the training set's that a network would overflow.
        """
        # In float64, so that a large offset of a channel does not swallow its signal.
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = ((np.asarray(raw, np.float64) - self.mean) / self.std).astype(np.float32)
        if not np.all(np.isfinite(raw)):
            raise ValueError("NaN or infinity")
        if not np.all(np.abs(scaled) <= FARTHEST):
            raise ValueError(f"a value more than {FARTHEST:g} standard deviations away from the training set's")
        return scaled

    def to_json(self) -> dict[str, list[float]]:
        """As in a run's `data.json`; float32 values survive the way there and back."""
        return {name: [float(value) for value in values] for name, values in self._asdict().items()}

    @staticmethod
    def from_json(saved: dict[str, list[float]] | None) -> "Scale | None":
        """What `to_json` gave; None for images."""
        return None if saved is None else Scale(*(np.array(saved[name], np.float32) for name in Scale._fields))

    @staticmethod
    def alike(a: "Scale | None", b: "Scale | None") -> bool:
        """Whether two scales are one: sums on another machine may differ in their last digits."""
        if a is None or b is None:
            return a is b
        return len(a.mean) == len(b.mean) and all(
            np.allclose(x, y, rtol=1e-4, atol=1e-4 * float(np.min(a.std))) for x, y in zip(a, b, strict=True)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Raw sequences [number, length, channel], read by position as standardised images of height 1."""

    raw: Raw
    scale: Scale

    @property
    def shape(self) -> tuple[int, int, int, int]:
        number, length, channels = self.raw.shape
        return (number, 1, length, channels)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __getitem__(self, positions: np.ndarray) -> Float32[np.ndarray, "batch 1 length channel"]:
        return self.scale.apply(self.raw[positions])[:, None]


def scale_of(raw: Raw, file: Path) -> Scale:
    """Each channel's mean and standard deviation, over all sequences and their length.

    Args:
      raw: any numbers, [number, length, channel]. file: named in errors.

    Raises:
      UserError: a value is not finite, or too large for float32.
    """
    origin = np.asarray(raw[0], np.float64).mean(axis=0)  # near the mean, so that the sums lose no digits
    total, squares, least, most = 0.0, 0.0, np.inf, -np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for part in _finite_parts(raw, file):
            away = part - origin
            total, squares = total + away.sum(axis=(0, 1)), squares + (away**2).sum(axis=(0, 1))
            least, most = np.minimum(least, part.min(axis=(0, 1))), np.maximum(most, part.max(axis=(0, 1)))
        count = raw.shape[0] * raw.shape[1]
        variance = squares / count - (total / count) ** 2
        std = np.where(least == most, 1.0, np.sqrt(variance))
        scale = Scale((origin + total / count).astype(np.float32), std.astype(np.float32))
    if not (np.all(np.isfinite(scale.mean)) and np.all(np.isfinite(scale.std)) and np.all(scale.std > 0)):
        raise UserError(
            f"{file}: values from {least.min():.3g} to {most.max():.3g}, whose standard deviation is no number of "
            "float32; store them in another unit"
        )
    return scale


def check_scaled(raw: Raw, scale: Scale, file: Path) -> None:
    """Raises UserError, naming the first sequence, where a value is NaN or infinite, or is so once it is scaled."""
    start = 0
    for part in _finite_parts(raw, file):
        for place, sequence in enumerate(part):
            try:
                scale.apply(sequence)
            except ValueError as error:
                raise UserError(f"{file}: sequence {start + place} holds {error}; leave it out") from error
        start += len(part)


def _finite_parts(raw: Raw, file: Path) -> Iterator[Float[np.ndarray, "part length channel"]]:
    """The sequences in float64, some at a time."""
    size = max(1, CHUNK_BYTES // (8 * int(np.prod(raw.shape[1:]))))
    for start in range(0, len(raw), size):
        part = np.asarray(raw[start : start + size], np.float64)
        bad = np.flatnonzero(~np.isfinite(part).all(axis=(1, 2)))
        if len(bad):
            raise UserError(
                f"{file}: sequence {start + bad[0]} holds NaN or infinity; fill in or leave out such sequences"
            )
        yield part
