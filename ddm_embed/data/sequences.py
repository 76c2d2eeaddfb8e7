"""Sequences, such as waveforms and sensor series: images of height 1 whose values are real numbers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num


class Scale(NamedTuple):
    """What a sequence's channels are standardised by: float32 [channel] each; std is 1 for a constant channel."""

    mean: Float[np.ndarray, " channel"]
    std: Float[np.ndarray, " channel"]

    def apply(self, raw: Num[np.ndarray, "*any length channel"]) -> Float[np.ndarray, "*any length channel"]:
        """Raw values, of any number type, as float32 of mean 0 and standard deviation 1 over the training set."""
        # In float64, so that a large offset of a channel does not swallow its signal.
        return ((np.asarray(raw, np.float64) - self.mean) / self.std).astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """As in a run's `data.json`; float32 values survive the way there and back."""
        return {name: [float(value) for value in values] for name, values in self._asdict().items()}

    @staticmethod
    def from_json(saved: dict[str, list[float]] | None) -> "Scale | None":
        """What `to_json` gave; None for images."""
        return None if saved is None else Scale(*(np.array(saved[name], np.float32) for name in Scale._fields))
