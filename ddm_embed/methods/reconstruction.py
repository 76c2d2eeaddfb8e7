"""Autoencoders: the image is made again from a code, or from some of its own patches."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.methods.diffusion import Code, Params, gaussian_kl
from ddm_embed.methods.networks import Networks, static
from ddm_embed.models import patches


class CodeNoise(NamedTuple):
    """code [batch, dim]: a Gaussian code's noise."""

    code: Code


class CodeTerms(NamedTuple):
    """error [batch]: of the reconstruction, squared, a pixel's mean. code [batch]: KL of a Gaussian code to N(0, I)."""

    error: Level
    code: Level


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """E |x0 - f(z)|^2 + (2 beta / pixels) KL(E(Z | x0) || N(0, I)), where |.|^2 is a mean over pixels.

    Of a code that is not Gaussian, the first term alone. With beta = 1 the loss is, up to the factor 2 / pixels, the
    evidence lower bound of a decoder of unit variance (Kingma & Welling 2014, arXiv 1312.6114, eq. 7) on images in
    [-1, 1]; beta is that of Higgins et al. 2017 (beta-VAE, eq. 4). The factor keeps the size of the gradient, and so
    what clipping does, independent of the images' size.
    """

    beta: float = 1.0

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: None = None) -> CodeNoise:
        """A step's random numbers; see `diffusion.objective.Objective.draw`."""
        return CodeNoise(jax.random.normal(key, (len(x0), dim)))

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: CodeNoise
    ) -> tuple[Float[Array, ""], CodeTerms]:
        """The mean loss and its terms; see `diffusion.objective.Objective.loss`."""
        embedding = static(networks, params, x0)
        z, kl = embedding.z, jnp.zeros(len(x0))
        if embedding.log_variance is not None:
            kl = gaussian_kl(z, embedding.log_variance)
            z = z + jnp.exp(embedding.log_variance / 2) * draws.code
        error = jnp.mean((networks.decode(params, z).astype(jnp.float32) - x0) ** 2, axis=(1, 2, 3))
        pixels = x0[0].size
        return jnp.mean(error) + 2 * self.beta / pixels * jnp.mean(kl), CodeTerms(error, kl)


class Mask(NamedTuple):
    """order [batch, token]: all places of tokens, shuffled; the encoder sees the first of them."""

    order: Int[Array, "batch token"]


class PatchTerms(NamedTuple):
    """error [batch]: of the masked patches, squared, a pixel's mean."""

    error: Level


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder:
    """E |x_m - f(E(x_v))|^2 over masked patches m, of an encoder that sees the visible patches v alone.

    He et al. 2022, arXiv 2111.06377.

    Attributes:
      patch: pixels along a side, of a sequence its samples. mask_share: of the patches, which the encoder does not see.
      normalise: whether a patch is predicted less its mean and over its standard deviation (their sec. 3).
    """

    patch: int
    mask_share: float = 0.75
    normalise: bool = True

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, logits: None = None) -> Mask:
        """A step's random numbers; see `diffusion.objective.Objective.draw`."""
        places = len(x0), patches.tokens(x0.shape, self.patch)
        return Mask(jnp.argsort(jax.random.uniform(key, places), axis=1))

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Mask
    ) -> tuple[Float[Array, ""], PatchTerms]:
        """The mean loss and its terms; see `diffusion.objective.Objective.loss`."""
        tokens = draws.order.shape[1]
        visible = visible_tokens(tokens, self.mask_share)
        seen = static(networks, params, x0, draws.order[:, :visible]).tokens[-1]
        guess = networks.fill(params, seen, draws.order).astype(jnp.float32)
        target = patches.cut(x0, self.patch)
        if self.normalise:
            target = target - jnp.mean(target, axis=-1, keepdims=True)
            # The 1e-6 is of their released code.
            target = target * jax.lax.rsqrt(jnp.mean(target**2, axis=-1, keepdims=True) + 1e-6)
        error = jnp.mean((guess - target) ** 2, axis=-1)  # (B, N)
        masked = jnp.argsort(draws.order, axis=1) >= visible
        error = jnp.sum(error * masked, axis=1) / (tokens - visible)
        return jnp.mean(error), PatchTerms(error)


def visible_tokens(tokens: int, mask_share: float) -> int:
    """How many of an image's tokens the encoder sees: at least one, and not all."""
    return min(max(1, round(tokens * (1 - mask_share))), tokens - 1)
