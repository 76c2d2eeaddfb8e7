"""What a run tells while it trains: log lines with an ETA, metrics and pictures; a non-finite loss ends it."""

import logging
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed.errors import UserError
from ddm_embed.parallel import distributed
from ddm_embed.runs.checkpoint import Checkpoints
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.log import MetricWriter
from ddm_embed.train import snapshot as picture
from ddm_embed.train.metrics import NEVER, StepMetrics, peak_flops

logger = logging.getLogger("ddm_embed")


class Progress:
    """Reports on a run; its clock starts with it, so make it when the first step is ready to go.

    Args:
      config: the run's config. workdir: its directory. start: the step that it begins at.
      schedule: step -> learning rate.
      flops_per_image: operations of a training step, an image.
      denoise: from `picture.make_denoise`; None where there is no denoiser, and so no picture.
      images: [batch, height, width, channel] as they are stored, what the pictures show.

    All processes call it, since reading a value or drawing a picture is work of all; the first one alone writes.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, start: int, schedule, flops_per_image: float, denoise, images
    ):
        self._config, self._workdir, self._schedule = config, workdir, schedule
        self._denoise, self._images = denoise, images
        self._writer = MetricWriter(workdir, start) if distributed.is_lead() else None
        peak, origin = peak_flops(jax.local_devices()[0])
        logger.info(
            "%.3g GFLOP an image; peak of a device %.3g TFLOP/s (%s)", flops_per_image / 1e9, peak / 1e12, origin
        )
        self._mfu_per_image = flops_per_image / (peak * jax.device_count())
        self._logged, self._since = start, time.perf_counter()

    def log(self, step: int, total: StepMetrics) -> None:
        """Writes the averages since the last line; `step` is the number of steps taken."""
        values = total.read()
        now = time.perf_counter()
        seconds = (now - self._since) / (step - self._logged)
        rate = self._config.train.batch_size / seconds
        values |= {
            "learning_rate": float(self._schedule(step - 1)),
            "images_per_second": rate,
            "mfu": rate * self._mfu_per_image,
        }
        if self._writer is not None:
            self._writer.write(step, values)
        levels = [f"{value:.3f}" for name, value in values.items() if name.startswith("loss_t")]
        terms = [f"{name} {values[name]:.3f}" for name in total.terms]
        detail = f" (by t: {' '.join(levels)})" if levels else f" ({', '.join(terms)})"
        logger.info(
            "step %d/%d  loss %.4f%s  grad norm %.3f  %.0f images/s  MFU %.1f %%  ETA %s",
            step,
            self._config.train.steps,
            values["loss"],
            detail,
            values["grad_norm"],
            rate,
            100 * values["mfu"],
            tqdm.format_interval((self._config.train.steps - step) * seconds),
        )
        self._logged, self._since = step, now

    def picture(self, step: int, ema_params) -> None:
        """Draws samples/STEP.png; the time it takes is not counted in images/s."""
        if self._denoise is None:
            return
        begin = time.perf_counter()
        columns = jax.device_get(self._denoise(ema_params, self._images))
        path = RunDirectory(self._workdir).picture(step)
        if self._writer is not None:
            picture.draw(columns, path, f"{self._config.name}: denoised in one step, after {step} steps of training")
        self._since += time.perf_counter() - begin

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def check_finite(total: StepMetrics, checkpoints: Checkpoints) -> None:
    """Raises UserError if the loss or gradient of one of the steps in `total` was not finite."""
    bad = int(jax.device_get(total.nonfinite_step))
    if bad == NEVER:
        return
    saved = checkpoints.latest()
    good = f"the last good checkpoint is {saved}" if saved else "no checkpoint was saved yet"
    raise UserError(
        f"loss or gradient is not finite at step {bad}; {good}. "
        "In another --workdir, try a lower config.optimizer.learning_rate, more warm-up or config.model.dtype=float32"
    )
