"""At which noise levels a model is trained: what is left of an image at those levels is what its code keeps.

Manual control of the level of detail: Mittal et al., arXiv 2105.14257, sec. 3 and released code (uniform, one fixed t,
uniform in sigma). Logit-normal: Esser et al. 2024, arXiv 2403.03206, sec. 3.1. The adversary is of the ICLR 2022
version of Mittal et al.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ddm_embed.diffusion.process import Process, Time

LAWS = ("stratified", "uniform", "fixed", "sigma", "logit_normal", "adversarial")

Logits = Float[Array, " bins"]


@dataclasses.dataclass(frozen=True)
class Timesteps:
    """A law of t. Every law but `uniform` and `fixed` draws one from each of `batch` slices of equal probability.

    Attributes:
      law: stratified and uniform: all levels alike. fixed: t = `fixed` alone. sigma: uniform in sigma(t). logit_normal:
        logit(t) normal with mean `logit_mean` and standard deviation `logit_std`. adversarial: learned, see
        `adversary`.
      adversary_temperature: weight of the entropy that keeps the adversary from one level.
    """

    law: str = "stratified"
    fixed: float = 0.8
    logit_mean: float = 0.0
    logit_std: float = 1.0
    adversary_temperature: float = 1.0

    def sample(self, process: Process, key: Key[Array, ""], batch: int, logits: Logits | None = None) -> Time:
        """t [batch] of a process; `logits` are the adversary's."""
        u = jax.random.uniform(key, (batch,))
        if self.law == "fixed":
            return jnp.full(batch, self.fixed)
        if self.law != "uniform":
            u = (jnp.arange(batch) + u) / batch
        if self.law == "sigma":
            # A chain's first step has all the sigma from the clean image on.
            ends = np.array([0.0 if process.steps else process.first, process.last])
            low, high = process.marginal(ends)[1]
            u = process.time_at_sigma(low + (high - low) * u)
        if self.law == "logit_normal":
            inside = jnp.clip(u, 1e-6, 1 - 1e-6)
            u = jax.nn.sigmoid(self.logit_mean + self.logit_std * jax.scipy.stats.norm.ppf(inside))
        if self.law == "adversarial":
            u = jax.lax.stop_gradient(_inverse(logits, u))
        return process.at(jnp.clip(u, 0.0, 1 - 1e-7))

    def adversary(self, logits: Logits, t: Time, loss: Time) -> Float[Array, ""]:
        """What the adversary minimises: minus the loss that its law draws, and minus the law's entropy.

        Its gradient is the score-function estimate for the loss over its mean, so that the law moves towards
        q(t) proportional to exp(loss(t) / (mean loss * temperature)).

        Args:
          logits: [bins], of equal slices of t. t: the levels drawn, [batch]. loss: theirs, [batch].
        """
        log_q = jax.nn.log_softmax(logits)
        index = jnp.clip(jnp.ceil(t * len(logits) - 1e-4) - 1, 0, len(logits) - 1).astype(jnp.int32)
        advantage = jax.lax.stop_gradient(loss / jnp.mean(loss) - 1)
        entropy = -jnp.sum(jnp.exp(log_q) * log_q)
        return -jnp.mean(advantage * log_q[index]) - self.adversary_temperature * entropy


def _inverse(logits: Logits, u: Time) -> Time:
    """The inverse of the law's distribution function, which is linear within each bin."""
    reached = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jax.nn.softmax(logits))])
    return jnp.interp(u, reached, jnp.linspace(0.0, 1.0, len(logits) + 1))
