"""Joint embedding: two views of an image are to have like codes."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.methods.diffusion import Code, Params, cosine
from ddm_embed.methods.networks import Networks, static


class OtherView(NamedTuple):
    """view [batch, height, width, channel]: each image once more, as another draw of the augmentation shows it."""

    view: Image


class ContrastTerms(NamedTuple):
    """accuracy [batch]: share of an image's two views whose nearest among all others is its partner."""

    accuracy: Level


@dataclasses.dataclass(frozen=True)
class SimClr:
    """NT-Xent over the whole batch: Chen et al. 2020, arXiv 2002.05709, eq. 1.

    Attributes:
      temperature: what cosines are divided by.
    """

    temperature: float = 0.5

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: None = None) -> OtherView:
        """A step's random numbers; see `diffusion.objective.Objective.draw`."""
        return OtherView(view)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: OtherView
    ) -> tuple[Float[Array, ""], ContrastTerms]:
        """The mean loss and its terms; see `diffusion.objective.Objective.loss`. It is no sum over examples."""
        a, b = (networks.project(params, static(networks, params, image).z) for image in (x0, draws.view))
        loss, accuracy = nt_xent(a, b, self.temperature)
        return jnp.mean(loss), ContrastTerms(accuracy)


def nt_xent(a: Code, b: Code, temperature: float) -> tuple[Level, Level]:
    """(loss, accuracy), [batch] each, of pairs of rows among all rows of both: means over a pair's two directions.

    l(i, j) = -log exp(cos(i, j) / temperature) / sum_{k != i} exp(cos(i, k) / temperature).
    """
    batch = len(a)
    rows = jnp.concatenate([a, b]).astype(jnp.float32)
    rows = rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=-1, keepdims=True) + 1e-12)
    similarity = jnp.matmul(rows, rows.T, precision="highest") / temperature
    similarity = jnp.where(jnp.eye(2 * batch, dtype=bool), -jnp.inf, similarity)
    partner = (jnp.arange(2 * batch) + batch) % (2 * batch)
    positive = jnp.take_along_axis(similarity, partner[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(similarity, axis=1) - positive
    right = jnp.argmax(similarity, axis=1) == partner
    return jnp.mean(loss.reshape(2, batch), axis=0), jnp.mean(right.reshape(2, batch), axis=0)


class AgreementTerms(NamedTuple):
    """agreement [batch]: cosine of what is predicted and the target, a mean over the two directions."""

    agreement: Level


@dataclasses.dataclass(frozen=True)
class Byol:
    """E [2 - 2 cos(q(p(E(x))), p'(E'(x')))] + the same with x and x' exchanged: Grill et al. 2020, arXiv 2006.07733,
    eq. 2, where E' and p' have the parameters' moving average and take no gradient."""

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: None = None) -> OtherView:
        """A step's random numbers; see `diffusion.objective.Objective.draw`."""
        return OtherView(view)

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: OtherView
    ) -> tuple[Float[Array, ""], AgreementTerms]:
        """The mean loss and its terms; see `diffusion.objective.Objective.loss`."""

        def agreement(image: Image, other: Image) -> Float[Array, " batch"]:
            guess = networks.predict(params, networks.project(params, static(networks, params, image).z))
            target = networks.project(target_params, static(networks, target_params, other).z)
            return cosine(guess, jax.lax.stop_gradient(target))

        there, back = agreement(x0, draws.view), agreement(draws.view, x0)
        return jnp.mean(4 - 2 * there - 2 * back), AgreementTerms((there + back) / 2)
