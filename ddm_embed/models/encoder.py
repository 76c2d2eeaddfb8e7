"""The timestep-dependent encoder: an image and a noise level -> an embedding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ddm_embed.models.layers import TimeEmbedding, Tokens, Trunk


class Embedding(NamedTuple):
    """z: float32 [batch, dim]. tokens: what each encoder block puts out, [batch, token, width] each."""

    z: Float[Array, "batch dim"]
    tokens: tuple[Tokens, ...]


class Encoder(Trunk):
    """The denoiser's own blocks, tokens, positions and kind of time embedding, ending in one vector an image.

    Paper: Jiang & Cai, arXiv 2505.05732 (a timestep-dependent encoder that gives directional vectors).

    Attributes:
      dim: entries of z.
      sphere: whether z is scaled to length one.
      (and those of `Trunk`)
    """

    dim: int = 256
    sphere: bool = True

    @nn.compact
    def __call__(self, image: Float[Array, "batch height width channel"], t: Float[Array, " batch"]) -> Embedding:
        """Embeds images [batch, height, width, channel] at noise levels t [batch] in [0, 1]."""
        condition = self.time(t)
        x = self.tokens(image)
        tokens = []
        for layer in range(self.depth):
            x = self.block(layer)(x, condition)
            tokens.append(x)
        pooled = jnp.mean(nn.LayerNorm(dtype=jnp.float32, name="norm")(x), axis=1)
        z = nn.Dense(self.dim, name="code")(pooled)
        return Embedding(unit(z) if self.sphere else z, tuple(tokens))


class Predictor(nn.Module):
    """z_t -> a guess of the target's z_s, s < t: a two-layer MLP, as BYOL's (Grill et al. 2020, arXiv 2006.07733)."""

    dim: int
    hidden: int

    @nn.compact
    def __call__(self, z: Float[Array, "batch dim"], t: Float[Array, " batch"]) -> Float[Array, "batch dim"]:
        h = nn.Dense(self.hidden, name="in")(z) + TimeEmbedding(self.hidden, jnp.float32, name="time")(t)
        return nn.Dense(self.dim, name="out")(nn.gelu(nn.LayerNorm(name="norm")(h)))


def unit(z: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Rows scaled to length one, in float32: a bfloat16 norm fails late in training."""
    z = z.astype(jnp.float32)
    return z * jax.lax.rsqrt(jnp.sum(z**2, axis=-1, keepdims=True) + 1e-12)
