"""The self-conditional objective: the denoiser is told an embedding of the image that it denoises.

    L = E_{t, x0, eps} w(t) | target - f(x_t, t, z_t) |^2,    z_t = E(., t)

after Jiang & Cai, arXiv 2505.05732; the encoder's input is x0, x_t or another view of the image, as the caller chooses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.diffusion.process import DiscreteChain

Params = Any
Code = Float[Array, "batch dim"]

WEIGHTS = ("simple", "min_snr")
TIMESTEPS = ("uniform", "stratified")
INPUTS = ("none", "x0", "xt", "view")


class Networks(NamedTuple):
    """The three networks as functions; `encode` and `predict` are None where the objective has no use for them.

    encode(params, image [batch, height, width, channel], t [batch]) -> z [batch, dim]
    denoise(params, x_t, t, z) -> prediction [batch, height, width, channel]
    predict(params, z, t) -> z [batch, dim], the consistency term's small predictor
    """

    denoise: Callable[[Params, Image, Level, Code | None], Image]
    encode: Callable[[Params, Image, Level], Code] | None = None
    predict: Callable[[Params, Code, Level], Code] | None = None


class Terms(NamedTuple):
    """The parts of the loss for each example: noise level, denoising error (weighted, and not), chain agreement."""

    t: Level
    denoising: Level
    error: Level
    consistency: Level


@dataclasses.dataclass(frozen=True)
class Objective:
    """Which loss, as plain choices; see `INPUTS`, `WEIGHTS`, `TIMESTEPS` and `prediction.PREDICTIONS`."""

    process: DiscreteChain
    prediction: str
    weight: str
    min_snr_gamma: float
    timesteps: str
    encoder_input: str
    consistency_weight: float

    def sample_times(self, key: Key[Array, ""], batch: int) -> Level:
        """t [batch], each uniform over the chain; stratified draws one from each of `batch` equal slices of it."""
        u = jax.random.uniform(key, (batch,))
        if self.timesteps == "stratified":
            u = (jnp.arange(batch) + u) / batch
        return self.process.nearest(u)

    def loss_weight(self, alpha: Level, sigma: Level) -> Level:
        """w(t) [batch] on the error in the space of the prediction.

        `min_snr` is min(SNR, gamma) on the x0 error (Hang et al. 2023, arXiv 2303.09556, sec. 3.4), carried to the
        space of the prediction: divided by SNR for eps, by SNR + 1 for v.
        """
        if self.weight == "simple":
            return jnp.ones_like(alpha)
        snr = (alpha / jnp.maximum(sigma, 1e-8)) ** 2
        clipped = jnp.minimum(snr, self.min_snr_gamma)
        as_eps = jnp.minimum(1.0, self.min_snr_gamma / jnp.maximum(snr, 1e-20))  # 1 where there is no signal left
        return {"eps": as_eps, "x0": clipped, "v": clipped / (snr + 1)}[self.prediction]

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, view: Image, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Terms]:
        """The mean loss and its terms.

        Args:
          networks: the networks as functions of parameters.
          params: what the gradient is taken for.
          target_params: EMA parameters, the fixed target of the consistency term.
          x0: float32 [batch, height, width, channel] in [-1, 1].
          view: another view of the same images; read for `encoder_input="view"` only.
          key: this step's random key.
        """
        time_key, noise_key, encoder_key, earlier_key = jax.random.split(key, 4)
        t = self.sample_times(time_key, len(x0))
        alpha, sigma = self.process.marginal(t)
        eps = jax.random.normal(noise_key, x0.shape)
        xt = prediction_lib.noised(x0, eps, alpha, sigma)

        z, z_time, see = None, t, None
        if self.encoder_input != "none":
            z_time, see = self._encoder_view(encoder_key, t, x0, view, eps)
            z = networks.encode(params, see(z_time), z_time)

        output = networks.denoise(params, xt, t, z)
        wanted = prediction_lib.target(self.prediction, x0, eps, alpha, sigma)
        error = jnp.mean((output.astype(jnp.float32) - wanted) ** 2, axis=(1, 2, 3))
        denoising = self.loss_weight(alpha, sigma) * error

        consistency = jnp.zeros_like(error)
        if self.consistency_weight > 0:
            earlier = self.process.before(z_time, jax.random.uniform(earlier_key, z_time.shape))
            past = networks.encode(target_params, see(earlier), earlier)
            guess = networks.predict(params, z, z_time)
            consistency = 1 - cosine(guess, jax.lax.stop_gradient(past))
        total = jnp.mean(denoising) + self.consistency_weight * jnp.mean(consistency)
        return total, Terms(t, denoising, error, consistency)

    def _encoder_view(
        self, key: Key[Array, ""], t: Level, x0: Image, view: Image, eps: Image
    ) -> tuple[Level, Callable[[Level], Image]]:
        """The encoder's noise level, and what it sees at any level of the same chain."""
        if self.encoder_input == "x0":
            return t, lambda _: x0
        if self.encoder_input == "xt":
            return t, lambda level: prediction_lib.noised(x0, eps, *self.process.marginal(level))
        time_key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, view.shape)
        own = self.sample_times(time_key, len(view))
        # Stratified draws are sorted by position: shuffled, the view's level is independent of the image's.
        own = jax.random.permutation(jax.random.fold_in(time_key, 1), own)
        return own, lambda level: prediction_lib.noised(view, noise, *self.process.marginal(level))


def cosine(a: Code, b: Code) -> Level:
    """Cosine of the angle between rows, [batch], in float32."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(norms + 1e-12)
