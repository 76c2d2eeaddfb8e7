"""What a run measures of itself, on the device and in the log.

The step returns sums and counts; they are added up on the device and read by the host once a log line.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from flax import struct
from jaxtyping import Array, Float, Int

from ddm_embed.parallel import chips

LEVELS = 5  # equal slices of t for which the loss is logged apart
BY_LEVEL = ("t", "denoising")  # the terms that go into it
NEVER = np.iinfo(np.int32).max


@struct.dataclass
class LevelMean(clu_metrics.Metric):
    """The mean of a value within each slice of t: totals and counts, [LEVELS]."""

    total: Float[Array, " level"]
    count: Float[Array, " level"]

    @classmethod
    def of(cls, value: Float[Array, " batch"], t: Float[Array, " batch"]) -> "LevelMean":
        # t = (i+1)/T: the last step of a slice stands on its upper edge.
        level = jnp.clip(jnp.ceil(t * LEVELS - 1e-4) - 1, 0, LEVELS - 1)
        member = (level[:, None] == jnp.arange(LEVELS)).astype(jnp.float32)
        return cls(member.T @ value, jnp.sum(member, axis=0))

    def merge(self, other: "LevelMean") -> "LevelMean":
        return LevelMean(self.total + other.total, self.count + other.count)

    def compute(self) -> Float[np.ndarray, " level"]:
        """[LEVELS], on the host; NaN for a slice that no example fell into."""
        total, count = np.asarray(self.total), np.asarray(self.count)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@struct.dataclass
class StepMetrics:
    """Sums over the steps since the last log line; `terms` by the names that the objective gives them."""

    loss: clu_metrics.Average
    terms: dict[str, clu_metrics.Average]
    grad_norm: clu_metrics.Average
    levels: LevelMean | None  # of an objective that has noise levels
    nonfinite_step: Int[Array, ""]  # the first step whose loss or gradient was not finite, or NEVER

    @classmethod
    def of_step(
        cls, step: Int[Array, ""], loss: Float[Array, ""], terms: NamedTuple, grad_norm: Float[Array, ""]
    ) -> "StepMetrics":
        """Of one step; `terms` are arrays [batch], those of `BY_LEVEL` where there are noise levels."""
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        mean = clu_metrics.Average.from_model_output
        return cls(
            loss=mean(loss),
            terms={name: mean(value) for name, value in terms._asdict().items() if name not in BY_LEVEL},
            grad_norm=mean(grad_norm),
            levels=LevelMean.of(terms.denoising, terms.t) if set(BY_LEVEL) <= set(terms._fields) else None,
            nonfinite_step=jnp.where(finite, NEVER, step),
        )

    def merge(self, other: "StepMetrics") -> "StepMetrics":
        return StepMetrics(
            self.loss.merge(other.loss),
            {name: value.merge(other.terms[name]) for name, value in self.terms.items()},
            self.grad_norm.merge(other.grad_norm),
            self.levels and self.levels.merge(other.levels),
            jnp.minimum(self.nonfinite_step, other.nonfinite_step),
        )

    def read(self) -> dict[str, float]:
        """Host floats under the names of `metrics.jsonl`; a slice of t without examples is left out."""
        host = jax.device_get(self)
        means = {"loss": host.loss} | host.terms | {"grad_norm": host.grad_norm}
        values = {name: float(mean.compute()) for name, mean in means.items()}
        for level, value in enumerate(host.levels.compute() if host.levels else ()):
            if not np.isnan(value):
                values[f"loss_t{level / LEVELS:.1f}-{(level + 1) / LEVELS:.1f}"] = float(value)
        return values


def peak_flops(device: jax.Device, clock: Callable[[], float] = time.perf_counter) -> tuple[float, str]:
    """(operations per second of one device, where the figure is from): the data sheet, or a matrix product timed now.

    A figure for a device without a data sheet depends on what else the machine does; its MFU is a rough guide.
    """
    if sheet := chips.find(device.device_kind):
        name, chip = sheet
        return chip.flops, f"data sheet of {name}"
    size = 1024
    matrix = jax.device_put(np.ones((size, size), np.float32), device)
    square = jax.jit(jnp.matmul)
    square(matrix, matrix).block_until_ready()
    times = []
    for _ in range(5):
        begin = clock()
        square(matrix, matrix).block_until_ready()
        times.append(clock() - begin)
    return 2 * size**3 / min(times), "a float32 matrix product timed at start-up"


def train_flops(forward: dict[str, int], passes: dict[str, float]) -> int:
    """Operations of training on one image: of each network's forward pass, times what `Method.passes` counts, else 3,
    a pass forward and twice that backward (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1)."""
    return round(sum(flops * passes.get(name, 3) for name, flops in forward.items()))
