"""What a run tells while it trains: log lines with an ETA, metrics, and pictures of a few images, noised and denoised
in one step at several noise levels; a non-finite loss ends it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from tqdm import tqdm

from ddm_embed.data.augment import Stored, to_float
from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.objective import Objective
from ddm_embed.drawing import image_grid, save
from ddm_embed.errors import UserError
from ddm_embed.methods.method import Networks
from ddm_embed.parallel import distributed
from ddm_embed.runs.checkpoint import Checkpoints
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.log import MetricWriter
from ddm_embed.train.metrics import NEVER, StepMetrics, peak_flops

logger = logging.getLogger("ddm_embed")

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
IMAGES = 8
CODES = 128  # images whose codes are looked at


class Progress:
    """Reports on a run; its clock starts with it, so make it when the first step is ready to go.

    Args:
      config: the run's config. workdir: its directory. start: the step that it begins at.
      schedule: step -> learning rate.
      flops_per_image: operations of a training step, an image.
      denoise: from `make_denoise`; None where there is no denoiser, and so no picture.
      encode: parameters -> the codes of some training images, from `make_encode`; None where there is no encoder.
      images: [batch, height, width, channel] as they are stored, what the pictures show.

    All processes call it, since reading a value or drawing a picture is work of all; the first one alone writes.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, start: int, schedule, flops_per_image: float, denoise, encode, images
    ):
        self._config, self._workdir, self._schedule = config, workdir, schedule
        self._denoise, self._encode, self._images = denoise, encode, images
        self._spread: dict[str, float] = {}  # of the codes when they were last looked at
        self._writer = MetricWriter(workdir, start) if distributed.is_lead() else None
        peak, origin = peak_flops(jax.local_devices()[0])
        logger.info(
            "%.3g GFLOP an image; peak of a device %.3g TFLOP/s (%s)", flops_per_image / 1e9, peak / 1e12, origin
        )
        self._mfu_per_image = flops_per_image / (peak * jax.device_count())
        self._logged, self._since = start, time.perf_counter()

    def look(self, ema_params) -> None:
        """Measures how far the codes of some training images are spread, for the next line; says if they are not.

        Nothing is measured of one image, nor of codes that are not finite: of these the next step's loss tells.
        """
        codes = np.empty((0, 0)) if self._encode is None else jax.device_get(self._encode(ema_params))
        if len(codes) < 2 or not np.all(np.isfinite(codes)):
            self._spread = {}
            return
        self._spread = spread(codes)
        if self._spread["z_rankme"] < collapsed_below(self._config.embedding.dim):
            logger.warning(
                "z has collapsed: the codes of %d images are nearly one direction (RankMe %.2f, mean cosine %.4f)",
                len(codes), self._spread["z_rankme"], self._spread["z_cosine"],
            )  # fmt: skip

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
        } | self._spread
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
            draw(columns, path, f"{self._config.name}: denoised in one step, after {step} steps of training")
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


def spread(z: Float[np.ndarray, "number dim"]) -> dict[str, float]:
    """z_cosine, the mean cosine between the codes of two images, and z_rankme, how many directions they take up
    (Garrido et al. 2023, arXiv 2210.02885): 1 and 1 of codes that are all the same."""
    z = z.astype(np.float64)
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    cosine = (np.sum(unit.sum(axis=0) ** 2) - np.sum(unit**2)) / (len(z) * (len(z) - 1))
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / max(np.sum(sigma), 1e-12) + 1e-7
    return {"z_cosine": float(cosine), "z_rankme": float(np.exp(-np.sum(p * np.log(p))))}


def collapsed_below(dim: int) -> float:
    """RankMe of a code of so many entries below which it tells next to nothing: a direction, and a hundredth of the
    others."""
    return 1 + (dim - 1) / 100


def make_encode(networks: Networks, images: Stored, mesh: Mesh) -> Callable[[Any], Float[Array, "batch dim"]]:
    """A jitted function params -> the codes of these images at t = 0, whole on every device."""
    whole = NamedSharding(mesh, P())
    images = jax.device_put(images, whole)

    @jax.jit(out_shardings=whole)
    def encode(params, image):
        return networks.encode(params, to_float(image), jnp.zeros(len(image))).z

    return lambda params: encode(params, images)


def make_denoise(
    objective: Objective, networks: Networks, clean: bool, mesh: Mesh
) -> Callable[[Any, Stored], Float[Array, "column batch height width channel"]]:
    """A jitted function (params, images) -> the images, then for each of `LEVELS` x_t and the x_0 guessed from it;
    whole on every device. clean: whether the encoder sees the image itself in place of x_t."""

    @jax.jit(out_shardings=NamedSharding(mesh, P()))
    def denoise(params, image):
        x0 = to_float(image)
        columns = [x0]
        eps = jax.random.normal(jax.random.key(0), x0.shape)
        for level in LEVELS:
            t = jnp.full(len(x0), level)
            alpha, sigma = objective.process.marginal(t)
            xt = prediction_lib.noised(x0, eps, alpha, sigma)
            z = networks.encode and networks.encode(params, x0 if clean else xt, t).z
            output, _ = networks.denoise(params, xt, t, z)
            columns += [xt, prediction_lib.to_x0(objective.prediction, output, xt, alpha, sigma)]
        return jnp.stack(columns)

    return denoise


def draw(columns: Float[np.ndarray, "column batch height width channel"], path: Path, title: str) -> None:
    """Writes the columns as a labelled PNG, one row an image."""
    labels = ["image"] + [name for level in LEVELS for name in (f"noised\nt={level}", f"denoised\nt={level}")]
    save(image_grid(columns.swapaxes(0, 1), labels, None, title), path)
