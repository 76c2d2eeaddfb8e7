"""The self-conditional objective: the denoiser is told an embedding of the image that it denoises.

    L = E_{t, x0, eps} w(t) | target - f(x_t, t, z_t) |^2 + regularisers,    z_t = E(., t)

Pure mathematics of `methods/diffusion.py`, which has the sources. Networks are functions of parameters, as in
`methods.method.Networks`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.agreement import cosine, nt_xent
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.diffusion.process import Process
from ddm_embed.diffusion.timesteps import Logits, Timesteps

Networks = Any
Params = Any
Vector = Float[Array, "batch dim"]
Lambda = Callable[[Level, Level, Level], Level]

WEIGHTS = ("simple", "sigma2", "min_snr")
INPUTS = ("none", "x0", "xt", "view", "clean_view")
VIEWS = INPUTS[3:]  # of another view of the image
CONSISTENCY = ("chain", "views", "contrast")
ADVERSARY = "adversary"
UNIFORM = Timesteps("uniform")


class Draws(NamedTuple):
    """What is random in a step, for the whole batch before it is split: a part of the batch takes the same rows.

    t [batch], eps [batch, height, width, channel]: of x_t. base: the images that the encoder looks at. weight [batch]:
    1, or 2 l of a mixture. z_t, z_eps: the encoder's own level and noise. earlier [batch]: a level before z_t. code
    [batch, dim]: a Gaussian code's noise. withheld [batch, 1]: whether the denoiser is told no code. other, other_eps:
    another view of the images and its noise, where consistency is between views.
    """

    t: Level
    eps: Image
    base: Image
    weight: Level
    z_t: Level
    z_eps: Image
    earlier: Level
    code: Vector
    withheld: Bool[Array, "batch 1"]
    other: Image | None = None
    other_eps: Image | None = None


class Terms(NamedTuple):
    """The parts of the loss for each example, [batch].

    t: noise level. denoising, error: the denoising error, weighted and not. An image that is not denoised has these
    three of the nearest before it that is. consistency: that loss, unweighted. code: KL of a Gaussian code to N(0, I),
    else the code's L1 norm where that has a weight.
    """

    t: Level
    denoising: Level
    error: Level
    consistency: Level
    code: Level


@dataclasses.dataclass(frozen=True)
class Objective:
    """Which loss, as plain choices.

    Attributes:
      process: the forward process. prediction: one of `prediction.PREDICTIONS`. timesteps: the law of t.
      weight: one of `WEIGHTS`, or lambda(t, alpha, sigma) -> [batch], the weight on the score's squared error.
      min_snr_gamma: where `min_snr` clips. encoder_input: one of `INPUTS`.
      consistency: one of `CONSISTENCY`, z_t against z_s at a cleaner level s < t. chain: 1 - cos(q(z_t), z_s) with z_s
        of the averaged parameters, of the same image under the same noise. views: the same, z_s of another view under
        noise of its own. contrast: NT-Xent (`agreement.nt_xent`) of p(z_t) and p(z_s) of two views among all of the
        batch, at this temperature and decoupled or not. consistency_weight: its weight.
      one_in: of so many images of a batch, which it divides, one is denoised; the code is learned from all.
      kl_weight, l1_weight: of the code's KL if the code is Gaussian, else of its L1 norm. penalty_unit: what they stand
        beside, the "mean" over pixels of the squared error, or half its "sum".
      mixup: whether the encoder sees a mixture of two images. drop: share of the images whose code is withheld (zero).
    """

    process: Process
    prediction: str = "eps"
    timesteps: Timesteps = UNIFORM
    weight: str | Lambda = "simple"
    min_snr_gamma: float = 5.0
    encoder_input: str = "x0"
    consistency: str = "chain"
    consistency_weight: float = 0.0
    temperature: float = 0.5
    decoupled: bool = False
    one_in: int = 1
    kl_weight: float = 0.0
    l1_weight: float = 0.0
    penalty_unit: str = "mean"
    mixup: bool = False
    drop: float = 0.0

    def loss_weight(self, t: Level) -> Level:
        """w(t) [batch] on the error in the space of the prediction.

        simple: 1. sigma2: lambda = sigma^2 on the score's error, which is 1 on the noise's. min_snr: min(SNR, gamma) on
        the image's error (Hang et al. 2023, arXiv 2303.09556, sec. 3.4). A function is lambda(t, alpha, sigma) on the
        score's error.
        """
        alpha, sigma = self.process.marginal(t)
        if self.weight == "simple":
            return jnp.ones_like(t)
        scale = prediction_lib.eps_error_scale(self.prediction, alpha, sigma)
        if self.weight == "sigma2":
            return scale
        variance = jnp.maximum(sigma, prediction_lib.LEAST) ** 2
        if self.weight == "min_snr":
            return jnp.minimum(1.0, self.min_snr_gamma * variance / jnp.maximum(alpha**2, 1e-20)) * scale
        return self.weight(t, alpha, sigma) / variance * scale

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: Logits | None = None) -> Draws:
        """All of a step's random numbers, and what the encoder looks at; see `methods.method.Objective`.

        `view` is read for `encoder_input` in `VIEWS` and for consistency between views; `logits` are the adversary's.
        """
        time_key, noise_key, encoder_key, earlier_key = jax.random.split(key, 4)
        batch = len(x0)
        t = self.timesteps.sample(self.process, time_key, batch, logits)
        eps = jax.random.normal(noise_key, x0.shape)
        base, share = view if self.encoder_input in VIEWS else x0, jnp.full(batch, 0.5)
        if self.mixup:
            base, share = mix(jax.random.fold_in(encoder_key, 1), base)
        z_t, z_eps = t, eps
        if self.encoder_input == "view":
            view_time, view_noise = jax.random.split(encoder_key)
            z_eps = jax.random.normal(view_noise, base.shape)
            z_t = self.timesteps.sample(self.process, view_time, batch, logits)
            # Stratified draws are sorted by position: shuffled, the view's level is independent of the image's.
            z_t = jax.random.permutation(jax.random.fold_in(view_time, 1), z_t)
        earlier = self.process.before(z_t, jax.random.uniform(earlier_key, (batch,)))
        code_key, drop_key = jax.random.split(jax.random.fold_in(encoder_key, 2))
        code = jax.random.normal(code_key, (batch, dim))
        withheld = jax.random.bernoulli(drop_key, self.drop, (batch, 1))
        drawn = Draws(t, eps, base, 2 * share, z_t, z_eps, earlier, code, withheld)
        if self.consistency == "chain" or not self.consistency_weight:
            return drawn
        other_eps = jax.random.normal(jax.random.fold_in(encoder_key, 3), x0.shape)
        return drawn._replace(other=x0 if self.encoder_input in VIEWS else view, other_eps=other_eps)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Draws
    ) -> tuple[Float[Array, ""], Terms]:
        """The mean loss and its terms; `target_params` are the fixed target of the consistency term."""
        consistency = penalty = jnp.zeros(len(x0))
        regulariser = 0.0

        z = None
        if self.encoder_input != "none":
            embedding = networks.encode(params, self._see(draws.base, draws.z_eps, draws.z_t), draws.z_t)
            z, penalty, regulariser = self._code(embedding, draws)
            if self.consistency_weight > 0:
                consistency = self._disagreement(networks, params, target_params, embedding.z, draws)
                regulariser += self.consistency_weight * jnp.mean(consistency)

        x0, t, eps, z, share = jax.tree.map(lambda a: a[:: self.one_in], (x0, draws.t, draws.eps, z, draws.weight))
        alpha, sigma = self.process.marginal(t)
        output, _ = networks.denoise(params, prediction_lib.noised(x0, eps, alpha, sigma), t, z)
        wanted = prediction_lib.target(self.prediction, x0, eps, alpha, sigma)
        error = jnp.mean((output.astype(jnp.float32) - wanted) ** 2, axis=(1, 2, 3))
        denoising = self.loss_weight(t) * share * error
        total = jnp.mean(denoising) + regulariser
        if ADVERSARY in networks.heads:
            learned = self.timesteps.adversary(networks.heads[ADVERSARY](params), t, denoising)
            total += learned - jax.lax.stop_gradient(learned)  # its gradient alone: the value is no part of the loss
        t, denoising, error = (jnp.repeat(a, self.one_in) for a in (t, denoising, error))
        return total, Terms(t, denoising, error, consistency, penalty)

    def _see(self, image: Image, eps: Image, t: Level) -> Image:
        """What the encoder sees of an image at levels t [batch]."""
        if self.encoder_input in ("x0", "clean_view"):
            return image
        return prediction_lib.noised(image, eps, *self.process.marginal(t))

    def _disagreement(
        self, networks: Networks, params: Params, target_params: Params, z: Vector, draws: Draws
    ) -> Level:
        """The consistency loss of each image, [batch]."""
        s = draws.earlier
        chain = self.consistency == "chain"
        seen = self._see(draws.base, draws.z_eps, s) if chain else self._see(draws.other, draws.other_eps, s)
        if self.consistency == "contrast":
            project = networks.heads["projector"]
            cleaner = networks.encode(params, seen, s).z
            return nt_xent(project(params, z), project(params, cleaner), self.temperature, self.decoupled)[0]
        past = networks.encode(target_params, seen, s).z
        return 1 - cosine(networks.heads["predictor"](params, z, draws.z_t), jax.lax.stop_gradient(past))

    def _unit(self, draws: Draws) -> float:
        """The factor of a penalty beside a mean over pixels: half the sum is `pixels / 2` times as much."""
        return 1.0 if self.penalty_unit == "mean" else 2 / draws.eps[0].size

    def _code(self, embedding: Any, draws: Draws) -> tuple[Vector, Level, Float[Array, ""] | float]:
        """z as the denoiser is told it, the penalty on it for each example, and its share of the loss."""
        z, penalty, regulariser = embedding.z, jnp.zeros(len(embedding.z)), 0.0
        if embedding.log_variance is not None:
            penalty = gaussian_kl(z, embedding.log_variance)
            z = z + jnp.exp(embedding.log_variance / 2) * draws.code
            regulariser = self._unit(draws) * self.kl_weight * jnp.mean(penalty)
        elif self.l1_weight > 0:
            penalty = jnp.sum(jnp.abs(z), axis=-1)
            regulariser = self._unit(draws) * self.l1_weight * jnp.mean(penalty)
        if self.drop > 0:
            z = jnp.where(draws.withheld, 0.0, z)
        return z, penalty, regulariser


def mix(key: Key[Array, ""], image: Image) -> tuple[Image, Level]:
    """(l x_i + (1 - l) x_j, l [batch]) with l ~ Beta(1, 1) and j the neighbour in the batch (Mittal et al.'s code)."""
    share = jax.random.uniform(key, (len(image),))
    return prediction_lib.noised(image, jnp.roll(image, 1, axis=0), share, 1 - share), share


def gaussian_kl(mean: Vector, log_variance: Vector) -> Level:
    """KL(N(mean, exp(log_variance)) || N(0, I)), [batch], summed over the code's entries."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=-1)
