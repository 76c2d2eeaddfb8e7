"""The denoiser: a Diffusion Transformer told the noise level and an embedding of the image."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ddm_embed.models import patches
from ddm_embed.models.layers import Tokens, Trunk, modulate, modulation

Image = Float[Array, "batch height width channel"]


class Denoiser(Trunk):
    """Diffusion Transformer (Peebles & Xie 2023, arXiv 2212.09748) with z in the place of the class label.

    Attributes:
      code_scale: what z is multiplied by on entry, so that its entries have variance about one.
      self_condition: whether the middle block's mean token conditions all that follows (DDAE++, arXiv 2505.10999).
      (and those of `Trunk`)
    """

    code_scale: float = 1.0
    self_condition: bool = False

    @nn.compact
    def __call__(
        self, xt: Image, t: Float[Array, " batch"], z: Float[Array, "batch dim"] | None
    ) -> tuple[Image, tuple[Tokens, ...]]:
        """The prediction, float32 [batch, height, width, channel], and the tokens that each block puts out.

        Args:
          xt: noised images [batch, height, width, channel]; patch divides height and width, of a sequence
            its length.
          t: noise levels in [0, 1], [batch].
          z: embeddings [batch, dim], or None for a denoiser that is told nothing of the image.
        """
        condition = self.time(t)
        if z is not None:
            told = nn.Dense(self.width, dtype=self.dtype, name="code_in")(z * self.code_scale)
            condition = condition + nn.Dense(self.width, dtype=self.dtype, name="code_out")(nn.silu(told))
        x = self.tokens(xt)
        if self.self_condition:
            middle = -(-self.depth // 2)
            features = self.blocks(x, condition, range(middle))
            pooled = nn.LayerNorm(dtype=jnp.float32, name="own_norm")(jnp.mean(features[-1], axis=1))
            condition = condition + nn.Dense(self.width, dtype=self.dtype, name="own")(pooled)
            if middle < self.depth:
                features += self.blocks(features[-1], condition, range(middle, self.depth))
        else:
            features = self.blocks(x, condition)
        shift, scale = modulation(2, self.width, self.dtype)(condition)
        x = modulate(features[-1], shift, scale, self.dtype)
        size = patches.entries(xt.shape, self.patch)
        x = nn.Dense(size, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="pixels")(x)
        image = patches.join(x, xt.shape, self.patch)
        return image.astype(jnp.float32), features

    def flops(self, image_shape: tuple[int, int, int], code_dim: int | None) -> int:
        """Operations of a forward pass on one image, a multiply-add counted as two.

        Args:
          image_shape: (height, width, channel). code_dim: entries of z, or None where it is told none.
        """
        dim = self.width
        blocks = self.block_flops(patches.tokens(image_shape, self.patch))
        told = 0 if code_dim is None else 2 * (code_dim * dim + dim * dim)
        told += 2 * dim * dim * self.self_condition
        return blocks + 2 * self.patch_flops(image_shape) + 2 * dim * 2 * dim + told


def code_scale(dim: int, sphere: bool) -> float:
    """A unit vector of `dim` entries has entries of variance 1 / dim; a code off the sphere is left as it is."""
    return math.sqrt(dim) if sphere else 1.0
