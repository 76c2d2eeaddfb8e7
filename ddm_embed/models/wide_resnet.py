"""A convolutional encoder: a Wide ResNet that is told the noise level in every block.

Zagoruyko & Komodakis 2016, "Wide Residual Networks" (arXiv 1605.07146); the time bias is that of the encoder of Mittal
et al. 2023 (arXiv 2105.14257), released code: WRN-28-2 gives 128 features, WRN-28-4 256.
"""

import math
import re

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ddm_embed.models.encoder import Architecture, Code, Embedding, Sizes, read_code
from ddm_embed.models.layers import FREQUENCIES, Condition, TimeEmbedding

Features = Float[Array, "batch height width channel"]

GROUPS = 3
FIRST = 16  # channels of the first convolution

_he = nn.initializers.he_normal()


class WideResNet(nn.Module):
    """Three groups of pre-activation residual blocks, 16k, 32k and 64k channels wide, ending in one vector an image.

    Not the paper's to the letter: group norm (Wu & He 2018, arXiv 1803.08494) stands in the place of batch norm, whose
    running statistics are a state beside the parameters, and whose batch ties images and noise levels together.

    Attributes:
      depth: layers of convolution, 6n + 4: n blocks a group.
      widening: k, what the widths 16, 32, 64 are multiplied by.
      dim: entries of z.
      sphere: whether z is scaled to length one.
      gaussian: whether to tell the variance of z too.
      dtype: of the convolutions; parameters and the statistics of the norms are float32.
    """

    depth: int
    widening: int
    dim: int = 256
    sphere: bool = True
    gaussian: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def layers(self) -> int:
        """How many arrays of tokens `__call__` gives: one for each group."""
        return GROUPS

    @nn.compact
    def __call__(self, image: Features, t: Float[Array, " batch"]) -> Embedding:
        """Embeds images [batch, height, width, channel], of any size, at noise levels t [batch] in [0, 1].

        The tokens are the positions of each group's output: [batch, height * width, 16k], then 32k and 64k with each
        side halved, rounded up.

        Raises:
          ValueError: depth is not 6n + 4.
        """
        last = 64 * self.widening
        condition = nn.silu(TimeEmbedding(last, self.dtype, name="time")(t))
        x = _conv(FIRST, 3, 1, self.dtype, "first")(image)
        tokens = []
        for group, (channels, stride) in enumerate(_groups(self.widening)):
            for block in range(_blocks(self.depth)):
                name = f"group_{group}_block_{block}"
                x = Block(channels, stride if block == 0 else 1, self.dtype, name=name)(x, condition)
            tokens.append(x.reshape(x.shape[0], -1, channels))

        pooled = jnp.mean(nn.relu(_norm(last, jnp.float32, "norm")(x)), axis=(1, 2))  # (B, 64k)
        z, log_variance = read_code(pooled, self.dim, self.sphere, self.gaussian)
        return Embedding(z, tuple(tokens), log_variance)

    def flops(self, image_shape: tuple[int, int, int]) -> int:
        """Operations of a forward pass on one image (height, width, channel), a multiply-add counted as two.

        Counts the convolutions and matrix products and nothing else. Products with the zeros of the padding are
        counted, as is usual; XLA's own analysis leaves them out, which tells for small images.

        Raises:
          ValueError: depth is not 6n + 4.
        """
        height, width, channels = image_shape
        last = 64 * self.widening
        total = 9 * channels * FIRST * height * width
        before = FIRST
        for after, first_stride in _groups(self.widening):
            for block in range(_blocks(self.depth)):
                stride = first_stride if block == 0 else 1
                height, width = -(-height // stride), -(-width // stride)
                shortcut = before * after if before != after or stride != 1 else 0
                total += height * width * (9 * before * after + 9 * after * after + shortcut) + last * after
                before = after
        time = FREQUENCIES * last + last * last
        head = last * self.dim * (2 if self.gaussian else 1)
        return 2 * (total + time + head)


class Block(nn.Module):
    """x + two 3x3 convolutions, each after a norm and a relu, with a bias made of the time between them."""

    channels: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Features, condition: Condition) -> Features:
        h = nn.relu(_norm(x.shape[-1], self.dtype, "norm_in")(x))
        if x.shape[-1] != self.channels or self.stride != 1:
            x = _conv(self.channels, 1, self.stride, self.dtype, "shortcut")(h)
        h = _conv(self.channels, 3, self.stride, self.dtype, "conv_in")(h)
        h = h + nn.Dense(self.channels, dtype=self.dtype, name="time")(condition)[:, None, None, :]
        h = nn.relu(_norm(self.channels, self.dtype, "norm_out")(h))
        return x + _conv(self.channels, 3, 1, self.dtype, "conv_out")(h)


def _conv(channels: int, size: int, stride: int, dtype, name: str) -> nn.Conv:
    return nn.Conv(
        channels, (size, size), stride, padding="SAME", use_bias=False, dtype=dtype, kernel_init=_he, name=name
    )


def _norm(channels: int, dtype, name: str) -> nn.GroupNorm:
    # At least four channels a group: the norm of a channel by itself would take the time's bias out again.
    return nn.GroupNorm(math.gcd(channels // 4, 32), dtype=dtype, name=name)


def _groups(widening: int) -> tuple[tuple[int, int], ...]:
    """(channels, stride of the first block) of each group."""
    return (16 * widening, 1), (32 * widening, 2), (64 * widening, 2)


def _blocks(depth: int) -> int:
    """Blocks in each group."""
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth={depth} of a Wide ResNet is not 6n + 4; use 10, 16, 22, 28, 34 or 40")
    return depth // 6


def parse(name: str) -> tuple[int, int] | None:
    """ "wrn-28-2" -> (28, 2), the depth and the widening; None of a name that is not of that form."""
    match = re.fullmatch(r"wrn-([1-9][0-9]*)-([1-9][0-9]*)", name)
    if match is None or int(match[1]) < 10 or int(match[1]) % 6 != 4:
        return None
    return int(match[1]), int(match[2])


def _make(name: str, depth: int | None, code: Code, sizes: Sizes) -> WideResNet:
    layers, widening = parse(name)
    return WideResNet(depth=layers, widening=widening, dtype=sizes.dtype, **code._asdict())


WIDE_RESNET = Architecture(
    form="wrn-DEPTH-WIDENING with DEPTH 6n + 4, such as wrn-28-2",
    takes=lambda name: parse(name) is not None,
    make=_make,
    channels=FIRST,
)
