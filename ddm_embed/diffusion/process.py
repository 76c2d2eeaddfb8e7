"""Forward processes: how an image turns into noise.

`x_t = alpha(t) x_0 + sigma(t) eps`, with eps standard normal and t in [0, 1] from clean to noise.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Time = Float[Array, " batch"]


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteChain:
    """The Markov chain of Ho et al. 2020 (arXiv 2006.11239): T steps of Gaussian noise with variances `betas`.

    Step i in 0..T-1 stands at t = (i+1)/T; t = 0 is the clean image. A t between two steps means the nearest.

    Attributes:
      betas: float64 [T], each in (0, 1).
    """

    betas: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.betas)

    @property
    def alpha_bar(self) -> Float[np.ndarray, " time"]:
        """float64 [T+1]: product of 1 - beta up to each step (eq. 4), beginning with 1 for the clean image."""
        return np.concatenate([[1.0], np.cumprod(1.0 - self.betas)])

    def marginal(self, t: Time) -> tuple[Time, Time]:
        """alpha [batch] and sigma [batch] of `x_t | x_0`; alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4)."""
        index = jnp.round(t * self.steps).astype(jnp.int32)
        alpha = jnp.asarray(np.sqrt(self.alpha_bar), jnp.float32)[index]
        sigma = jnp.asarray(np.sqrt(1.0 - self.alpha_bar), jnp.float32)[index]
        return alpha, sigma

    def nearest(self, u: Time) -> Time:
        """The step of the chain that holds u in [0, 1): floor(uT) + 1 over T, so that uniform u gives uniform steps."""
        return (jnp.floor(u * self.steps).clip(0, self.steps - 1) + 1) / self.steps

    def before(self, t: Time, u: Time) -> Time:
        """A step strictly before t, the clean image included, uniform for uniform u in [0, 1)."""
        index = jnp.round(t * self.steps)
        return jnp.minimum(jnp.floor(u * index), index - 1) / self.steps


def linear_chain(steps: int = 1000) -> DiscreteChain:
    """Betas linear from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020, sec. 4), scaled by 1000 / T for other T.

    The scaling keeps the noise at t = 1 about the same (Nichol & Dhariwal 2021, arXiv 2102.09672, their code).
    """
    scale = 1000 / steps
    return DiscreteChain(np.linspace(1e-4 * scale, min(0.02 * scale, 0.999), steps, dtype=np.float64))


def cosine_chain(steps: int = 1000, offset: float = 0.008) -> DiscreteChain:
    """alpha_bar = cos^2 of (t + s) / (1 + s) * pi / 2, betas clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    angle = (np.arange(steps + 1, dtype=np.float64) / steps + offset) / (1 + offset) * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return DiscreteChain(np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0.0, 0.999))


PROCESSES = {"linear": linear_chain, "cosine": cosine_chain}
