"""Autoencoders: the image is made again from its code, by the denoiser's network with nothing of it in its input."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.objective import gaussian_kl
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.methods.method import (
    Method,
    Networks,
    Params,
    Parts,
    Place,
    Vector,
    check_without_noise,
    plain_networks,
    see_x0,
    static,
)  # fmt: skip
from ddm_embed.models.build import Models, Network
from ddm_embed.models.dit import Denoiser, code_scale


class CodeNoise(NamedTuple):
    """code [batch, dim]: a Gaussian code's noise."""

    code: Vector


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

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int) -> CodeNoise:
        """A step's random numbers; see `method.Objective`."""
        return CodeNoise(jax.random.normal(key, (len(x0), dim)))

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: CodeNoise
    ) -> tuple[Float[Array, ""], CodeTerms]:
        """The mean loss and its terms; see `method.Objective`."""
        embedding = static(networks, params, x0)
        z, kl = embedding.z, jnp.zeros(len(x0))
        if embedding.log_variance is not None:
            kl = gaussian_kl(z, embedding.log_variance)
            z = z + jnp.exp(embedding.log_variance / 2) * draws.code
        error = jnp.mean((networks.heads["decoder"](params, z).astype(jnp.float32) - x0) ** 2, axis=(1, 2, 3))
        pixels = x0[0].size
        return jnp.mean(error) + 2 * self.beta / pixels * jnp.mean(kl), CodeTerms(error, kl)


def make_objective(config: ConfigDict) -> Autoencoder:
    return Autoencoder(config.embedding.kl_weight)


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    sizes, code, shape = parts.sizes, parts.code, parts.image_shape
    decoder = Denoiser(depth=sizes.depth, code_scale=code_scale(code.dim, code.sphere), **sizes.trunk())
    return {"decoder": Network(decoder, (shape, (), (code.dim,)), decoder.flops(shape, code.dim))}


def make_networks(models: Models, config: ConfigDict, place: Place | None = None) -> Networks:
    """As `method.plain_networks`; the decoder is told z at t = 1, where nothing of the image is in its input, 0."""
    plain = plain_networks(models, config, place)

    def decode(params, z):
        nothing = jnp.zeros((len(z), *models.image_shape))
        return plain.heads["decoder"](params, nothing, jnp.ones(len(z)), z)[0]

    return plain._replace(heads={"decoder": decode})


def ae(c: ConfigDict) -> None:
    """Autoencoder: L = E |x0 - f(E(x0))|^2, where f is the denoiser's network with nothing of the image in its input.

    Expect a z that keeps most of the image, little better than the pixels to read classes from.
    """
    c.objective.name = "autoencoder"
    see_x0(c)


def vae(c: ConfigDict) -> None:
    """Variational autoencoder: Kingma & Welling 2014, arXiv 1312.6114.

    L = E |x0 - f(z)|^2 + (2 beta / pixels) KL(E(Z | x0) || N(0, I)), z drawn from E(Z | x0), |.|^2 a mean over pixels:
    with beta = embedding.kl_weight = 1 the evidence lower bound of a decoder of unit variance on images in [-1, 1].
    Expect a z of which few entries are in use, and less in it than in `ae`'s.
    """
    c.objective.name = "vae"
    see_x0(c)
    c.embedding.gaussian, c.embedding.kl_weight = True, 1.0


AUTOENCODER = Method(
    name="autoencoder",
    objective=make_objective,
    card=lambda config: "an autoencoder: the image is made again from its embedding alone",
    presets={"ae": ae},
    build=build,
    networks=make_networks,
)

VAE = dataclasses.replace(
    AUTOENCODER,
    name="vae",
    card=lambda config: "a variational autoencoder",
    presets={"vae": vae},
    check=partial(check_without_noise, gaussian=True),
)
