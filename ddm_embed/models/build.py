"""Variant names such as "S/4" -> sizes, encoder names -> modules, and a run's networks with their parameters."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

from ddm_embed.models import encoder, wide_resnet
from ddm_embed.models.encoder import Architecture, Code, Shape, Sizes

# name: (width, depth, heads). Ti is ViT's (Touvron et al. 2021, arXiv 2012.12877), the others DiT's (table 1).
VARIANTS = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}

# Each network's number is part of what a seed means: it is folded into the key of its initialisation.
NUMBERS = {"denoiser": 0, "encoder": 1, "predictor": 2, "decoder": 3, "projector": 4, "classifier": 5}

POOLINGS = ("2x2", "max")  # how layers are pooled but by their mean: NAME_2x2 is by quarters of the image

ENCODERS: dict[str, Architecture] = {}  # by the form of their names


def register_encoder(architecture: Architecture) -> None:
    """Makes an encoder architecture known; a later one may take the names of an earlier one."""
    ENCODERS[architecture.form] = architecture


register_encoder(encoder.TRANSFORMER)
register_encoder(wide_resnet.WIDE_RESNET)


def find_encoder(name: str) -> Architecture:
    """The architecture of an encoder of this name.

    Raises:
      ValueError: there is none; says what the names are.
    """
    for architecture in reversed(ENCODERS.values()):
        if architecture.takes(name):
            return architecture
    raise ValueError(f"is not {', or '.join(reversed(ENCODERS))}")


def base_of(feature: str) -> str:
    """The feature's name without how it is pooled."""
    name, _, way = feature.rpartition("_")
    return name if way in POOLINGS else feature


def parse_variant(variant: str) -> tuple[str, int]:
    """ "S/4" -> ("S", 4).

    Raises:
      ValueError: the name or the patch is not of that form.
    """
    name, slash, patch = variant.partition("/")
    if name not in VARIANTS or not slash or not patch.isdigit() or int(patch) < 1:
        raise ValueError(f"is not NAME/PATCH with NAME one of {', '.join(VARIANTS)}, such as S/4")
    return name, int(patch)


def resolve(variant: str, width: int | None, depth: int | None, heads: int | None) -> tuple[int, int, int, int]:
    """(width, depth, heads, patch): the variant's, but for those given."""
    name, patch = parse_variant(variant)
    variant_width, variant_depth, variant_heads = VARIANTS[name]
    return width or variant_width, depth or variant_depth, heads or variant_heads, patch


class Network(NamedTuple):
    """module: a Flax module. inputs: shapes of what it is called with, less the batch. flops: floating-point operations
    of one image's forward pass in training, a multiply-add counted as two.

    Counts the matrix products and nothing else, as the MFU of Chowdhery et al. 2022 (arXiv 2204.02311, app. B).
    """

    module: nn.Module
    inputs: tuple[tuple[int, ...] | None, ...]
    flops: int = 0


@dataclasses.dataclass(frozen=True)
class Models:
    """The networks of one run, by name: "encoder", "denoiser", and what its method trains beside them.

    Attributes:
      image_shape: (height, width, channel). unread: features that exist and are not trained, so not offered.
    """

    networks: Mapping[str, Network]
    image_shape: Shape
    unread: tuple[str, ...] = ()

    def module(self, name: str) -> Any:
        """A network's module, or None."""
        return self.networks[name].module if name in self.networks else None

    @property
    def encoder(self) -> Any:
        return self.module("encoder")

    @property
    def denoiser(self) -> Any:
        return self.module("denoiser")

    @property
    def features(self) -> list[str]:
        """The names of what can be read off an image, from the input on."""
        names = ["z", *(f"encoder_{i}" for i in range(1, self.encoder.layers + 1))] if self.encoder else []
        names += [f"denoiser_{i}" for i in range(1, self.denoiser.depth + 1)] if self.denoiser else []
        return [name for name in names if name not in self.unread]

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Fresh parameters, {"denoiser": ..., "encoder": ...}; float32."""
        params = {}
        for name, network in self.networks.items():
            own = jax.random.fold_in(key, NUMBERS.get(name, zlib.crc32(name.encode())))
            inputs = [None if shape is None else jnp.zeros((1, *shape)) for shape in network.inputs]
            params[name] = network.module.init(own, *inputs)["params"]
        return params

    def forward_flops(self) -> dict[str, int]:
        """Floating-point operations to carry one image forward through each network; see `Network`."""
        return {name: network.flops for name, network in self.networks.items()}


def make_encoder(name: str, depth: int | None, code: Code, sizes: Sizes, image_shape: Shape) -> Network:
    """The encoder of this name; `depth` blocks of a transformer, as many as the denoiser's unless given."""
    module = find_encoder(name).make(name, depth, code, sizes)
    return Network(module, (image_shape, ()), module.flops(image_shape))
