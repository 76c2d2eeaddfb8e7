"""Variant names such as "S/4" -> modules, their parameters, and how many operations they cost."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ddm_embed.models import wide_resnet
from ddm_embed.models.adversary import Adversary
from ddm_embed.models.dit import Denoiser, code_scale
from ddm_embed.models.encoder import Encoder, Predictor
from ddm_embed.models.wide_resnet import WideResNet

# name: (width, depth, heads). Ti is ViT's (Touvron et al. 2021, arXiv 2012.12877), the others DiT's (table 1).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}

TRANSFORMER = "transformer"  # the encoder of the denoiser's own blocks


@dataclasses.dataclass(frozen=True)
class Models:
    """The networks of one run; the encoder is None for a denoiser alone, the predictor unless consistency is on, the
    adversary unless it draws the noise levels."""

    denoiser: Denoiser
    encoder: Encoder | WideResNet | None
    predictor: Predictor | None
    adversary: Adversary | None
    image_shape: tuple[int, int, int]

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Fresh parameters, {"denoiser": ..., "encoder": ...} and so on for those that exist; float32."""
        image, t, z = jnp.zeros((1, *self.image_shape)), jnp.zeros((1,)), None
        params = {}
        if self.encoder is not None:
            z = jnp.zeros((1, self.encoder.dim))
            params["encoder"] = self.encoder.init(jax.random.fold_in(key, 1), image, t)["params"]
        if self.predictor is not None:
            params["predictor"] = self.predictor.init(jax.random.fold_in(key, 2), z, t)["params"]
        if self.adversary is not None:
            params["adversary"] = self.adversary.init(key)["params"]
        params["denoiser"] = self.denoiser.init(jax.random.fold_in(key, 0), image, t, z)["params"]
        return params

    def forward_flops(self) -> dict[str, int]:
        """Floating-point operations to carry one image forward through each network, a multiply-add counted as two.

        Counts the matrix products and nothing else, as the MFU of Chowdhery et al. 2022 (arXiv 2204.02311, app. B).
        """
        height, width, channels = self.image_shape
        flops = {"denoiser": _trunk_flops(self.denoiser, height, width, channels)}
        tokens, dim = height * width // self.denoiser.patch**2, self.denoiser.width
        flops["denoiser"] += 2 * (dim * 2 * dim + tokens * dim * self.denoiser.patch**2 * channels)
        if self.encoder is not None:
            flops["denoiser"] += 2 * (self.encoder.dim * dim + dim * dim)
            if isinstance(self.encoder, WideResNet):
                flops["encoder"] = wide_resnet.flops(
                    self.image_shape, self.encoder.depth, self.encoder.widening, self.encoder.dim, self.encoder.gaussian
                )
            else:
                codes = 2 if self.encoder.gaussian else 1
                flops["encoder"] = _trunk_flops(self.encoder, height, width, channels)
                flops["encoder"] += 2 * self.encoder.width * self.encoder.dim * codes
        if self.predictor is not None:
            hidden = self.predictor.hidden
            flops["predictor"] = 2 * hidden * (2 * self.predictor.dim + 256 + hidden)
        return flops


def _trunk_flops(trunk, height: int, width: int, channels: int) -> int:
    tokens, dim = height * width // trunk.patch**2, trunk.width
    patches = 2 * tokens * trunk.patch**2 * channels * dim
    time = 2 * (256 * dim + dim * dim)
    projections = 2 * tokens * dim * dim * (4 + 2 * trunk.mlp_ratio)
    attention = 2 * 2 * tokens * tokens * dim
    modulation = 2 * dim * 6 * dim
    return round(patches + time + trunk.depth * (projections + attention + modulation))


def parse_variant(variant: str) -> tuple[str, int]:
    """ "S/4" -> ("S", 4).

    Raises:
      ValueError: the name or the patch is not of that form.
    """
    name, slash, patch = variant.partition("/")
    if name not in VARIANTS or not slash or not patch.isdigit() or int(patch) < 1:
        raise ValueError(f"is not NAME/PATCH with NAME one of {', '.join(VARIANTS)}, such as S/4")
    return name, int(patch)


def check_encoder(name: str) -> None:
    """Raises ValueError unless the name is "transformer" or one that `wide_resnet.parse` knows."""
    if name != TRANSFORMER:
        wide_resnet.parse(name)


def resolve(variant: str, width: int | None, depth: int | None, heads: int | None) -> tuple[int, int, int, int]:
    """(width, depth, heads, patch): the variant's, but for those given."""
    name, patch = parse_variant(variant)
    variant_width, variant_depth, variant_heads = VARIANTS[name]
    return width or variant_width, depth or variant_depth, heads or variant_heads, patch


def build(
    *,
    variant: str,
    image_shape: tuple[int, int, int],
    embedding_dim: int | None,
    sphere: bool = True,
    gaussian: bool = False,
    encoder: str = "transformer",
    consistency: bool = False,
    adversary: bool = False,
    width: int | None = None,
    depth: int | None = None,
    encoder_depth: int | None = None,
    heads: int | None = None,
    mlp_ratio: float = 4.0,
    qk_norm: bool = False,
    attention: str = "xla",
    remat: str = "none",
    scan: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Models:
    """The modules of a variant; width, depth and heads take the place of the variant's where given.

    Args:
      variant: such as "S/4", the width and depth of a DiT and its patch.
      image_shape: (height, width, channel).
      embedding_dim: entries of z; None for a denoiser without an encoder.
      sphere: z on the unit sphere.
      gaussian: a code with a mean and a log-variance.
      encoder: one that `check_encoder` takes.
      consistency: whether to build the predictor of the consistency term.
      adversary: whether to build the law of t that is learned.
      encoder_depth: blocks of a transformer encoder; the denoiser's depth unless given.
      attention: "xla", or "cudnn" where there is one.
      remat, scan: as in `layers.Trunk`.
    """
    width, depth, heads, patch = resolve(variant, width, depth, heads)
    trunk = dict(
        width=width,
        heads=heads,
        patch=patch,
        mlp_ratio=mlp_ratio,
        qk_norm=qk_norm,
        attention=attention,
        remat=remat,
        scan=scan,
        dtype=dtype,
    )
    embedder = predictor = None
    if embedding_dim is not None:
        code = dict(dim=embedding_dim, sphere=sphere, gaussian=gaussian)
        if encoder == TRANSFORMER:
            embedder = Encoder(depth=encoder_depth or depth, **code, **trunk)
        else:
            layers, widening = wide_resnet.parse(encoder)
            embedder = WideResNet(depth=layers, widening=widening, dtype=dtype, **code)
        if consistency:
            predictor = Predictor(dim=embedding_dim, hidden=2 * embedding_dim)
    scale = code_scale(embedding_dim, sphere) if embedding_dim else 1.0
    denoiser = Denoiser(depth=depth, code_scale=scale, **trunk)
    return Models(denoiser, embedder, predictor, Adversary() if adversary else None, image_shape)
