"""What trains beside an encoder or a denoiser and is thrown away after: projections, a decoder, an adversary."""

import itertools
import math

import jax.numpy as jnp
from einops import repeat
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ddm_embed.models.encoder import unit
from ddm_embed.models.layers import Tokens, Trunk, batch_norm, positions


class Mlp(nn.Module):
    """Layers of one width and a last one, as the projections and predictors of joint-embedding methods, in float32.

    The parameters of batch norm (Ioffe & Szegedy 2015, arXiv 1502.03167) are a scale and a shift; its statistics are
    those of the batch that is given, over all devices, and no running mean of them is kept: after training these heads
    are thrown away.

    Attributes:
      hidden: units of all layers but the last. dim: entries that the last one gives. layers: how many there are.
      norm: "batch" or "layer", before each rectifier. last_norm: whether what is given is batch-normed too, without a
        shift.
    """

    hidden: int
    dim: int
    layers: int = 2
    norm: str = "batch"
    last_norm: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
        for i in range(self.layers - 1):
            norm = batch_norm if self.norm == "batch" else nn.LayerNorm
            z = nn.Dense(self.hidden, name=f"hidden_{i}" if i else "in")(z)
            z = nn.relu(norm(name=f"norm_{i}" if i else "norm")(z))
        z = nn.Dense(self.dim, use_bias=not self.last_norm, name="out")(z)
        return batch_norm(use_bias=False, name="last_norm")(z) if self.last_norm else z

    def flops(self, entries: int) -> int:
        """Operations of a forward pass on so many numbers, a multiply-add counted as two."""
        sizes = [entries, *[self.hidden] * (self.layers - 1), self.dim]
        return 2 * sum(a * b for a, b in itertools.pairwise(sizes))


class Prototypes(nn.Module):
    """Cosines with so many directions, as the last layer of DINO (Caron et al. 2021, arXiv 2104.14294, app. C)."""

    number: int

    @nn.compact
    def __call__(self, z: Float[Array, "batch dim"]) -> Float[Array, "batch class"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (z.shape[-1], self.number))
        return unit(z) @ unit(kernel.T).T


class MaskedDecoder(Trunk):
    """MAE's decoder (He et al. 2022, arXiv 2111.06377): visible tokens and mask tokens in their places -> all patches.

    Attributes:
      grid: rows and columns of tokens. entries: numbers in a patch.
      (and those of `Trunk`)
    """

    grid: tuple[int, int] = (1, 1)
    entries: int = 1

    @nn.compact
    def __call__(
        self, tokens: Tokens, order: Int[Array, "batch token"], t: Float[Array, " batch"]
    ) -> Float[Array, "batch token entry"]:
        """Patches [batch, token, entry] in their places, float32.

        Args:
          tokens: the encoder's last, of the visible places.
          order: all places, the visible ones first, in the order of `tokens`.
          t: zeros [batch]; the blocks are conditioned on a level, and here there is one.
        """
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens)
        x = nn.Dense(self.width, dtype=self.dtype, name="visible")(x)
        mask = self.param("mask", nn.initializers.normal(0.02), (self.width,)).astype(x.dtype)
        hidden = repeat(mask, "d -> b n d", b=len(x), n=order.shape[1] - x.shape[1])
        place = jnp.argsort(order, axis=1)  # where each place's token lies in `order`
        x = jnp.take_along_axis(jnp.concatenate([x, hidden], axis=1), place[..., None], axis=1)
        x = x + jnp.asarray(positions(*self.grid, self.width), x.dtype)
        x = self.blocks(x, self.time(t))[-1]
        x = nn.LayerNorm(dtype=self.dtype, name="last_norm")(x)
        return nn.Dense(self.entries, dtype=self.dtype, name="pixels")(x).astype(jnp.float32)

    def flops(self, image_shape: tuple[int, int, int], visible: int, width: int) -> int:
        """Operations of a forward pass on so many visible tokens of this width, a multiply-add counted as two."""
        blocks = self.block_flops(math.prod(self.grid)) + self.patch_flops(image_shape)
        return blocks + 2 * visible * width * self.width


class Adversary(nn.Module):
    """Logits [bins] over equal slices of t, a law of t; all alike at initialisation.

    After the ICLR 2022 version of Mittal et al., arXiv 2105.14257, where an adversary raises the loss through the law
    of t.
    """

    bins: int = 20

    @nn.compact
    def __call__(self) -> Float[Array, " bins"]:
        return self.param("logits", nn.initializers.zeros, (self.bins,))
