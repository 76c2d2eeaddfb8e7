"""The pieces that the denoiser and the encoder share: patches, positions, time, attention, the adaLN-Zero block.

After Peebles & Xie 2023, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748), and its released code,
https://github.com/facebookresearch/DiT/blob/main/models.py. Parameters and softmax are float32; `dtype` is the type of
the matrix products.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from ddm_embed.models import patches

Tokens = Float[Array, "batch token dim"]
Condition = Float[Array, "batch dim"]

# What the backward pass keeps of a block: everything; the products of matrices with parameters; its input alone.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

FREQUENCIES = 256  # sines and cosines of a noise level

_xavier = nn.initializers.xavier_uniform()
_small = nn.initializers.normal(0.02)


def _anywhere(x: Array) -> Array:
    return x


class Trunk(nn.Module):
    """What both networks take: one token sequence, one width, one way to compute.

    Attributes:
      width: dim of a token. depth: number of blocks. heads: attention heads, dividing width. patch: pixels along a
      side of a patch, of a sequence its samples. mlp_ratio: hidden width of the MLP over width. qk_norm: RMS-normalise
      queries and keys. attention: "xla" or "cudnn" (fused, on a GPU). dtype: of the matrix products. remat: one of
      `REMAT`. scan: whether the blocks are one scan, whose parameters are stacked: faster to compile, slower to run.
      place: applied to the tokens [batch, token, dim] between blocks and to the condition [batch, dim]: where they lie,
      not what they are.
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    scan: bool = False
    place: Callable[[Array], Array] = _anywhere

    def tokens(self, image: Float[Array, "batch height width channel"]) -> Tokens:
        """Patches of the image, embedded, with positions added; for use inside a compact `__call__`."""
        x = patches.cut(image, self.patch)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=_xavier, name="patches")(x)
        return x + jnp.asarray(positions(*patches.grid(image.shape, self.patch), self.width), x.dtype)

    def blocks(self, x: Tokens, condition: Condition, layers: range | None = None) -> tuple[Tokens, ...]:
        """What each block puts out, of all or, without `scan`, of these layers; for use inside a compact `__call__`."""
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not self.scan)
        sizes = self.width, self.heads, self.mlp_ratio, self.qk_norm, self.attention, self.dtype
        x, condition = self.place(x), self.place(condition)
        if self.scan:
            stack = nn.scan(
                _Layer,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=self.depth,
            )
            _, tokens = stack(block, sizes, self.place, name="blocks")(x, condition)
            return tuple(tokens)
        tokens = []
        for layer in layers or range(self.depth):
            x = self.place(block(*sizes, name=f"block_{layer}")(x, condition))
            tokens.append(x)
        return tuple(tokens)

    def time(self, t: Float[Array, " batch"]) -> Condition:
        return TimeEmbedding(self.width, self.dtype, name="time")(t)

    def patch_flops(self, image_shape: tuple[int, int, int]) -> int:
        """Operations between an image's pixels and its tokens, one way; a multiply-add counts as two."""
        return 2 * patches.tokens(image_shape, self.patch) * self.width * patches.entries(image_shape, self.patch)

    def block_flops(self, tokens: int) -> int:
        """Operations of all blocks on so many tokens, and of the embedding of the noise level."""
        dim = self.width
        time = 2 * (FREQUENCIES * dim + dim * dim)
        projections = 2 * tokens * dim * dim * (4 + 2 * self.mlp_ratio)
        attention = 2 * 2 * tokens * tokens * dim
        modulation = 2 * dim * 6 * dim
        return round(time + self.depth * (projections + attention + modulation))


class _Layer(nn.Module):
    """A block as the body of a scan: its output is both what the next one takes and what is kept."""

    block: type[nn.Module]
    sizes: tuple
    place: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Tokens, condition: Condition) -> tuple[Tokens, Tokens]:
        x = self.place(self.block(*self.sizes, name="block")(x, condition))
        return x, x


class TimeEmbedding(nn.Module):
    """t in [0, 1] -> [batch, width]: 256 sines and cosines of 1000 t, then a two-layer MLP."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, t: Float[Array, " batch"]) -> Condition:
        half = FREQUENCIES // 2
        frequency = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / half)
        angle = 1000 * t.astype(jnp.float32)[:, None] * frequency
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)  # (B, 256)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=_small, name="in")(x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=_small, name="out")(nn.silu(x))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    width: int
    heads: int
    qk_norm: bool
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        # The three have an axis of their own, so that tensor parallelism splits each of them between heads.
        qkv = nn.DenseGeneral((3, self.width), dtype=self.dtype, kernel_init=_xavier, name="qkv")(x)
        q, k, v = rearrange(qkv, "b n s (h d) -> s b n h d", h=self.heads)
        if self.qk_norm:
            q = nn.RMSNorm(dtype=self.dtype, name="query_norm")(q)
            k = nn.RMSNorm(dtype=self.dtype, name="key_norm")(k)
        x = jax.nn.dot_product_attention(q, k, v, implementation=self.attention)
        x = rearrange(x, "b n h d -> b n (h d)")
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=_xavier, name="out")(x)


class Block(nn.Module):
    """A transformer block whose normalisations are shifted and scaled by the condition, and whose two branches begin
    closed (adaLN-Zero: their gates are zero at initialisation, so that the block is the identity)."""

    width: int
    heads: int
    mlp_ratio: float
    qk_norm: bool
    attention: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Tokens, condition: Condition) -> Tokens:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(6, self.width, self.dtype)(condition)
        attend = Attention(self.width, self.heads, self.qk_norm, self.attention, self.dtype, name="attention")
        x = x + gate_a * attend(modulate(x, shift_a, scale_a, self.dtype))

        h = modulate(x, shift_m, scale_m, self.dtype)
        h = nn.Dense(round(self.width * self.mlp_ratio), dtype=self.dtype, kernel_init=_xavier, name="mlp_in")(h)
        h = nn.Dense(self.width, dtype=self.dtype, kernel_init=_xavier, name="mlp_out")(nn.gelu(h))
        return x + gate_m * h


def batch_norm(**kwargs: Any) -> nn.LayerNorm:
    """Batch norm by the statistics of what it is given; Flax's own keeps running ones, a state of its own."""
    return nn.LayerNorm(
        reduction_axes=0, feature_axes=-1, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, **kwargs
    )


def modulation(parts: int, width: int, dtype: jnp.dtype):
    """condition [batch, dim] -> `parts` arrays [batch, 1, width], all zero at initialisation."""
    dense = nn.Dense(parts * width, dtype=dtype, kernel_init=nn.initializers.zeros, name="modulation")
    return lambda condition: jnp.split(dense(nn.silu(condition))[:, None, :], parts, axis=-1)


def modulate(x: Tokens, shift: Float[Array, "batch 1 dim"], scale: Float[Array, "batch 1 dim"], dtype) -> Tokens:
    """Layer norm without parameters, its statistics in float32, then scaled and shifted."""
    return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype)(x) * (1 + scale) + shift


def positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "token dim"]:
    """Fixed two-dimensional sine-cosine positions, [rows * columns, width]; width must divide by 4.

    Half of the width tells the row and half the column, as in MAE (He et al. 2022, arXiv 2111.06377, their code). A
    sequence has one row, so that half of them is the same everywhere.
    """
    frequency = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4))

    def encode(place: np.ndarray) -> np.ndarray:
        angle = place.reshape(-1, 1) * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return np.concatenate([encode(column), encode(row)], axis=1)
