"""The timestep-dependent encoder, an image and a noise level -> an embedding; the contract of every encoder
architecture, and the sizes that all networks of a run share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ddm_embed.models import patches
from ddm_embed.models.layers import FREQUENCIES, TimeEmbedding, Tokens, Trunk, batch_norm

Shape = tuple[int, int, int]  # (height, width, channel); (1, length, channel) of sequences


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a run's transformers, and how they compute; as in `layers.Trunk`."""

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    attention: str = "xla"
    remat: str = "none"
    scan: bool = False
    dtype: jnp.dtype = jnp.float32

    def trunk(self) -> dict[str, Any]:
        """What a `layers.Trunk` takes, but for its depth."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "depth"}


class Code(NamedTuple):
    """dim: entries of z. sphere: z on the unit sphere. gaussian: a code with a mean and a log-variance."""

    dim: int
    sphere: bool = True
    gaussian: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of encoder, named by `config.model.encoder`.

    Attributes:
      form: what its names look like, for messages.
      takes: whether a name is one of its.
      make: (name, depth or None, code, sizes) -> a Flax module with the fields of `Code`, the number `layers` of its
        layers, `flops(image_shape)` for a forward pass, and `__call__(image, t) -> Embedding`.
      masks: whether its `__call__` also takes the places of the only tokens to see, as `Encoder`'s does.
      channels: a number that mesh.fsdp must divide; None where the model's width is all.
    """

    form: str
    takes: Callable[[str], bool]
    make: Callable[[str, int | None, Code, Sizes], Any]
    masks: bool = False
    channels: int | None = None


class Embedding(NamedTuple):
    """z: float32 [batch, dim], the mean of a Gaussian code. tokens: what each layer puts out, [batch, token, width]
    each.
    log_variance: float32 [batch, dim] of a Gaussian code, else None."""

    z: Float[Array, "batch dim"]
    tokens: tuple[Tokens, ...]
    log_variance: Float[Array, "batch dim"] | None = None


class Encoder(Trunk):
    """The denoiser's own blocks, tokens, positions and kind of time embedding, ending in one vector an image.

    Paper: Jiang & Cai, arXiv 2505.05732 (a timestep-dependent encoder that gives directional vectors).

    Attributes:
      dim: entries of z.
      sphere: whether z is scaled to length one.
      gaussian: whether the code is a Gaussian, with a log-variance beside its mean (Mittal et al., arXiv 2105.14257).
      (and those of `Trunk`)
    """

    dim: int = 256
    sphere: bool = True
    gaussian: bool = False

    @property
    def layers(self) -> int:
        """How many layers' tokens there are."""
        return self.depth

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channel"],
        t: Float[Array, " batch"],
        visible: Int[Array, "batch token"] | None = None,
    ) -> Embedding:
        """Embeds images [batch, height, width, channel] at noise levels t [batch] in [0, 1].

        `visible`, if given, are the places of the tokens that it sees, as in MAE (He et al. 2022, arXiv 2111.06377).
        """
        condition, x = self.time(t), self.tokens(image)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], axis=1)
        tokens = self.blocks(x, condition)
        pooled = jnp.mean(nn.LayerNorm(dtype=jnp.float32, name="norm")(tokens[-1]), axis=1)
        z, log_variance = read_code(pooled, self.dim, self.sphere, self.gaussian)
        return Embedding(z, tokens, log_variance)

    def flops(self, image_shape: tuple[int, int, int], visible: int | None = None) -> int:
        """Operations of a forward pass on one image, a multiply-add counted as two; to the last block alone where so
        many tokens are visible."""
        blocks = self.patch_flops(image_shape)
        if visible is not None:
            return blocks + self.block_flops(visible)
        code = 2 * self.width * self.dim * (2 if self.gaussian else 1)
        return blocks + self.block_flops(patches.tokens(image_shape, self.patch)) + code


def _make(name: str, depth: int | None, code: Code, sizes: Sizes) -> Encoder:
    return Encoder(depth=depth or sizes.depth, **code._asdict(), **sizes.trunk())


TRANSFORMER = Architecture(form="transformer", takes=lambda name: name == "transformer", make=_make, masks=True)


class Predictor(nn.Module):
    """z_t -> a guess of the target's z_s, s < t: a two-layer MLP, as BYOL's (Grill et al. 2020, arXiv 2006.07733).

    Attributes:
      dim: entries of z. hidden: units. norm: "layer", or "batch" by the statistics of the batch.
    """

    dim: int
    hidden: int
    norm: str = "layer"

    @nn.compact
    def __call__(self, z: Float[Array, "batch dim"], t: Float[Array, " batch"]) -> Float[Array, "batch dim"]:
        h = nn.Dense(self.hidden, name="in")(z) + TimeEmbedding(self.hidden, jnp.float32, name="time")(t)
        norm = batch_norm if self.norm == "batch" else nn.LayerNorm
        return nn.Dense(self.dim, name="out")(nn.gelu(norm(name="norm")(h)))

    def flops(self) -> int:
        return 2 * self.hidden * (2 * self.dim + FREQUENCIES + self.hidden)


def read_code(
    pooled: Float[Array, "batch width"], dim: int, sphere: bool, gaussian: bool
) -> tuple[Float[Array, "batch dim"], Float[Array, "batch dim"] | None]:
    """z and, of a Gaussian code, its log-variance, both float32 [batch, dim]; for use inside a compact `__call__`.

    The log-variance begins at 0 and is held within [-20, 10], where its exponential is finite.
    """
    z = nn.Dense(dim, name="code")(pooled)
    log_variance = None
    if gaussian:
        log_variance = nn.Dense(dim, kernel_init=nn.initializers.zeros, name="log_variance")(pooled)
        log_variance = jnp.clip(log_variance, -20.0, 10.0)
    return unit(z) if sphere else z, log_variance


def unit(z: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Rows scaled to length one, in float32: a bfloat16 norm fails late in training."""
    z = z.astype(jnp.float32)
    return z * jax.lax.rsqrt(jnp.sum(z**2, axis=-1, keepdims=True) + 1e-12)
