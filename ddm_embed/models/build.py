"""Variant names such as "S/4" -> modules, their parameters, and how many operations they cost."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

from ddm_embed.models import patches, wide_resnet
from ddm_embed.models.adversary import Adversary
from ddm_embed.models.auxiliary import MaskedDecoder, Mlp
from ddm_embed.models.dit import Denoiser, code_scale
from ddm_embed.models.encoder import Encoder, Predictor
from ddm_embed.models.layers import Trunk
from ddm_embed.models.wide_resnet import WideResNet

# name: (width, depth, heads). Ti is ViT's (Touvron et al. 2021, arXiv 2012.12877), the others DiT's (table 1).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}

TRANSFORMER = "transformer"  # the encoder of the denoiser's own blocks


@dataclasses.dataclass(frozen=True)
class Models:
    """The networks of one run, None where it has none.

    Attributes:
      denoiser: of diffusion. encoder: of all but a denoiser alone. predictor: of the consistency term, or BYOL's.
      adversary: draws the noise levels. image_shape: (height, width, channel).
      decoder: makes an image of a code, or MAE's. projector, classifier: on the code, while it trains.
      visible: how many tokens the encoder sees in training; None for all.
    """

    denoiser: Denoiser | None
    encoder: Encoder | WideResNet | None
    predictor: Predictor | Mlp | None
    adversary: Adversary | None
    image_shape: tuple[int, int, int]
    decoder: Denoiser | MaskedDecoder | None = None
    projector: Mlp | None = None
    classifier: nn.Dense | None = None
    visible: int | None = None

    @property
    def features(self) -> list[str]:
        """The names of what can be read off an image, from the input on; of what has been trained, so no z of MAE."""
        names = [] if self.encoder is None or self.visible is not None else ["z"]
        names += [f"encoder_{i}" for i in range(1, self.encoder.layers + 1)] if self.encoder else []
        return names + ([f"denoiser_{i}" for i in range(1, self.denoiser.depth + 1)] if self.denoiser else [])

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Fresh parameters, {"denoiser": ..., "encoder": ...} and so on for those that exist; float32."""
        image, t, z = jnp.zeros((1, *self.image_shape)), jnp.zeros((1,)), None
        params = {}
        if self.encoder is not None:
            z = jnp.zeros((1, self.encoder.dim))
            params["encoder"] = self.encoder.init(jax.random.fold_in(key, 1), image, t)["params"]
        if isinstance(self.predictor, Predictor):
            params["predictor"] = self.predictor.init(jax.random.fold_in(key, 2), z, t)["params"]
        elif self.predictor is not None:
            projection = jnp.zeros((1, self.predictor.dim))
            params["predictor"] = self.predictor.init(jax.random.fold_in(key, 2), projection)["params"]
        if self.adversary is not None:
            params["adversary"] = self.adversary.init(key)["params"]
        if isinstance(self.decoder, MaskedDecoder):
            tokens = jnp.zeros((1, self.visible, self.encoder.width))
            order = jnp.arange(math.prod(self.decoder.grid))[None]
            params["decoder"] = self.decoder.init(jax.random.fold_in(key, 3), tokens, order, t)["params"]
        elif self.decoder is not None:
            params["decoder"] = self.decoder.init(jax.random.fold_in(key, 3), image, t, z)["params"]
        for number, name in ((4, "projector"), (5, "classifier")):
            if getattr(self, name) is not None:
                params[name] = getattr(self, name).init(jax.random.fold_in(key, number), z)["params"]
        if self.denoiser is not None:
            params["denoiser"] = self.denoiser.init(jax.random.fold_in(key, 0), image, t, z)["params"]
        return params

    def forward_flops(self) -> dict[str, int]:
        """Floating-point operations to carry one image forward through each network, a multiply-add counted as two.

        Counts the matrix products and nothing else, as the MFU of Chowdhery et al. 2022 (arXiv 2204.02311, app. B).
        """
        flops, encoder = {}, self.encoder
        for name in ("denoiser", "decoder"):
            if (trunk := getattr(self, name)) is not None:
                flops[name] = self._image_flops(trunk)
        if encoder is not None:
            if isinstance(encoder, WideResNet):
                sizes = encoder.depth, encoder.widening, encoder.dim, encoder.gaussian
                flops["encoder"] = wide_resnet.flops(self.image_shape, *sizes)
            else:
                codes = 2 if encoder.gaussian else 1
                tokens = self._tokens(encoder)
                embedded = 2 * tokens * patches.entries(self.image_shape, encoder.patch) * encoder.width
                flops["encoder"] = embedded + _trunk_flops(encoder, self.visible or tokens)
                if self.visible is None:  # MAE's z is no part of its loss
                    flops["encoder"] += 2 * encoder.width * encoder.dim * codes
        if isinstance(self.predictor, Predictor):
            hidden = self.predictor.hidden
            flops["predictor"] = 2 * hidden * (2 * self.predictor.dim + 256 + hidden)
        elif self.predictor is not None:
            flops["predictor"] = 2 * self.predictor.hidden * 2 * self.predictor.dim
        if self.projector is not None:
            flops["projector"] = 2 * self.projector.hidden * (encoder.dim + self.projector.dim)
        if self.classifier is not None:
            flops["classifier"] = 2 * encoder.dim * self.classifier.features
        return flops

    def _tokens(self, trunk: Trunk) -> int:
        return patches.tokens(self.image_shape, trunk.patch)

    def _image_flops(self, trunk: Denoiser | MaskedDecoder) -> int:
        """Of a trunk that puts out an image: with its way in, what it is told, and its way out."""
        tokens, dim = self._tokens(trunk), trunk.width
        pixels = 2 * tokens * dim * patches.entries(self.image_shape, trunk.patch)
        flops = _trunk_flops(trunk, tokens) + pixels
        if isinstance(trunk, MaskedDecoder):
            return flops + 2 * self.visible * self.encoder.width * dim
        told = 0 if self.encoder is None else 2 * (self.encoder.dim * dim + dim * dim)
        return flops + pixels + 2 * dim * 2 * dim + told


def _trunk_flops(trunk: Trunk, tokens: int) -> int:
    """Of a trunk's blocks on so many tokens, and of its embedding of the noise level."""
    dim = trunk.width
    time = 2 * (256 * dim + dim * dim)
    projections = 2 * tokens * dim * dim * (4 + 2 * trunk.mlp_ratio)
    attention = 2 * 2 * tokens * tokens * dim
    modulation = 2 * dim * 6 * dim
    return round(time + trunk.depth * (projections + attention + modulation))


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
    objective: str = "diffusion",
    projection: int = 128,
    hidden: int = 512,
    visible: int | None = None,
    classes: int | None = None,
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
      image_shape: (height, width, channel); (1, length, channel) of sequences.
      embedding_dim: entries of z; None for a denoiser without an encoder.
      sphere: z on the unit sphere.
      gaussian: a code with a mean and a log-variance.
      encoder: one that `check_encoder` takes.
      consistency: whether to build the predictor of the consistency term.
      adversary: whether to build the law of t that is learned.
      objective: "diffusion", or the baseline whose networks stand in the place of the denoiser.
      projection, hidden: sizes of the baselines' projections. visible: how many tokens MAE's encoder sees in
      training. classes: of a classifier.
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
    if objective == "diffusion":
        scale = code_scale(embedding_dim, sphere) if embedding_dim else 1.0
        denoiser = Denoiser(depth=depth, code_scale=scale, **trunk)
        return Models(denoiser, embedder, predictor, Adversary() if adversary else None, image_shape)
    models = Models(None, embedder, None, None, image_shape)
    if objective in ("autoencoder", "vae"):
        scale = code_scale(embedding_dim, sphere)
        return dataclasses.replace(models, decoder=Denoiser(depth=depth, code_scale=scale, **trunk))
    if objective in ("simclr", "byol"):
        predictor = Mlp(hidden, projection) if objective == "byol" else None
        return dataclasses.replace(models, projector=Mlp(hidden, projection), predictor=predictor)
    if objective == "mae":
        grid, entries = patches.grid(image_shape, patch), patches.entries(image_shape, patch)
        decoder = MaskedDecoder(depth=depth, grid=grid, entries=entries, **trunk)
        return dataclasses.replace(models, decoder=decoder, visible=visible)
    if objective == "supervised":
        return dataclasses.replace(models, classifier=nn.Dense(classes))
    return models
