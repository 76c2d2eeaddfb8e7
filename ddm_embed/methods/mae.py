"""Masked autoencoder: patches are predicted from the other patches (He et al. 2022, arXiv 2111.06377)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.methods.method import Method, Networks, Params, Parts, check_without_noise, see_x0, static
from ddm_embed.models import patches
from ddm_embed.models.auxiliary import MaskedDecoder
from ddm_embed.models.build import Network, Shape, find_encoder, parse_variant

FIELDS = {
    "objective.mask_share": Field(0.75, "of the patches that mae's encoder does not see", least=0.01, most=0.99),
    "objective.normalise": Field(True, "mae predicts each patch less its mean, over its standard deviation"),
}


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

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int) -> Mask:
        """A step's random numbers; see `method.Objective`."""
        places = len(x0), patches.tokens(x0.shape, self.patch)
        return Mask(jnp.argsort(jax.random.uniform(key, places), axis=1))

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Mask
    ) -> tuple[Float[Array, ""], PatchTerms]:
        """The mean loss and its terms; see `method.Objective`."""
        tokens = draws.order.shape[1]
        visible = visible_tokens(tokens, self.mask_share)
        seen = static(networks, params, x0, draws.order[:, :visible]).tokens[-1]
        guess = networks.heads["decoder"](params, seen, draws.order, jnp.zeros(len(seen))).astype(jnp.float32)
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


def make_objective(config: ConfigDict) -> MaskedAutoencoder:
    objective = config.objective
    return MaskedAutoencoder(parse_variant(config.model.variant)[1], objective.mask_share, objective.normalise)


def check(config: ConfigDict) -> None:
    check_without_noise(config)
    if not find_encoder(config.model.encoder).masks:
        raise UserError(
            f"config.model.encoder={config.model.encoder} sees all pixels, and config.objective.name=mae shows the "
            "encoder some patches alone; set config.model.encoder=transformer"
        )


def check_images(config: ConfigDict, image_shape: Shape) -> None:
    patch = parse_variant(config.model.variant)[1]
    if patches.tokens(image_shape, patch) == 1:
        raise UserError(
            f"config.model.variant={config.model.variant!r}: {patches.describe(image_shape)} are one patch, and "
            "config.objective.name=mae shows the encoder some of several; use a smaller patch"
        )


def build(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """The decoder, and the encoder by what it sees in training."""
    sizes, shape, encoder = parts.sizes, parts.image_shape, parts.encoder
    visible = visible_tokens(patches.tokens(shape, sizes.patch), config.objective.mask_share)
    grid, entries = patches.grid(shape, sizes.patch), patches.entries(shape, sizes.patch)
    decoder = MaskedDecoder(depth=sizes.depth, grid=grid, entries=entries, **sizes.trunk())
    inputs = (visible, encoder.width), (patches.tokens(shape, sizes.patch),), ()
    return {
        "encoder": Network(encoder, (shape, ()), encoder.flops(shape, visible)),
        "decoder": Network(decoder, inputs, decoder.flops(shape, visible, encoder.width)),
    }


def mae(c: ConfigDict) -> None:
    """Masked autoencoder: He et al. 2022, arXiv 2111.06377.

    L = E |x_m - f(E(x_v))|^2 over the masked patches m, 75 % of all, normalised each; the encoder sees the visible
    ones. z is no part of it and is not probed. Expect features that a linear head reads worse than a nonlinear one or
    fine-tuning does, and little from images of few patches.
    """
    c.objective.name = "mae"
    see_x0(c)


METHOD = Method(
    name="mae",
    objective=make_objective,
    card=lambda config: "a masked autoencoder: patches are predicted from the other patches",
    presets={"mae": mae},
    fields=FIELDS,
    check=check,
    check_images=check_images,
    build=build,
    unread=("z",),
)
