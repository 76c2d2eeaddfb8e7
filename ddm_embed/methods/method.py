"""The contract of a method, the networks that a loss is given, and what several methods share."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from ddm_embed.diffusion.prediction import Image
from ddm_embed.diffusion.process import Process
from ddm_embed.errors import UserError
from ddm_embed.fields import Field
from ddm_embed.models.build import Code, Models, Network, Shape, Sizes
from ddm_embed.models.layers import Trunk

Params = Any
Vector = Float[Array, "batch dim"]
Place = Callable[[Array], Array]
Preset = Callable[[ConfigDict], None]

BY_ARM = "; an arm sets all that its method needs: --config FILE:arm=NAME"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Networks(NamedTuple):
    """A run's networks as functions of parameters: what losses, probes and samplers call.

    denoise(params, x_t, t, z [batch, dim] or None) -> (prediction like x_t, tokens of each block); None without.
    encode(params, image, t [batch]) -> an embedding: z [batch, dim], tokens of each layer, log_variance [batch, dim] or
      None; None of a run without an encoder.
    heads: what else a method trains, by name: (params, ...) -> an array.
    """

    denoise: Callable[..., tuple[Image, Any]] | None = None
    encode: Callable[..., Any] | None = None
    heads: Mapping[str, Callable[..., Any]] = NOTHING


class Objective(Protocol):
    """A loss, as plain choices; `draw` and `loss` are pure."""

    def draw(self, key: Key[Array, ""], x0: Image, view: Image, dim: int, **told: Array) -> Any:
        """All of a step's random numbers, for the whole batch before it is split.

        Args:
          key: this step's random key. x0: float32 [batch, height, width, channel] in [-1, 1]. view: another view of
          the same images. dim: entries of z. told: `label` int32 [batch] of a method that reads labels, and what
          `Method.tell` makes of the parameters.

        Returns:
          A NamedTuple of arrays [batch, ...]; a part of the batch takes the same rows of each.
        """

    def loss(
        self, networks: Networks, params: Params, target_params: Params, x0: Image, draws: Any
    ) -> tuple[Float[Array, ""], NamedTuple]:
        """The mean loss, and its terms for each example: a NamedTuple of arrays [batch], which the log names.

        Args:
          params: what the gradient is taken for. target_params: their moving average. draws: from `draw`, or the same
          rows of each of its arrays.
        """


class Parts(NamedTuple):
    """What a method builds its networks from.

    encoder: the config's, or None. sizes: of transformers. code: what z is, or None without an encoder. image_shape:
    (height, width, channel). classes: how many the training images have, of a method that reads labels.
    """

    encoder: Any
    sizes: Sizes
    code: Code | None
    image_shape: Shape
    classes: int | None


def check_without_noise(config: ConfigDict, gaussian: bool = False) -> None:
    """Checks for methods without noise levels.

    Args:
      gaussian: whether the method's code is a Gaussian.

    Raises:
      UserError: the encoder is to see noise or to be told t, or the code is of the other kind.
    """
    name, embedding = config.objective.name, config.embedding
    if embedding.input != "x0" or embedding.timed:
        raise UserError(
            f"config.objective.name={name} knows no noise: its encoder sees the image and is told no t; set "
            f"config.embedding.input=x0, now {embedding.input}, and config.embedding.timed=False, now {embedding.timed}"
            + BY_ARM
        )
    if embedding.gaussian != gaussian:
        has = "a Gaussian code" if gaussian else "no Gaussian code"
        raise UserError(
            f"config.embedding.gaussian={embedding.gaussian} with config.objective.name={name}, which has {has}; set "
            f"config.embedding.gaussian={gaussian}"
        )


def check_sphere(config: ConfigDict) -> None:
    """Raises UserError of a Gaussian code on the sphere."""
    if config.embedding.gaussian and config.embedding.sphere:
        raise UserError(
            "config.embedding.gaussian=True needs room that the unit sphere has not; set config.embedding.sphere=False"
        )


def no_check(config: ConfigDict, image_shape: Shape) -> None:
    """Any images will do."""


def no_networks(config: ConfigDict, parts: Parts) -> dict[str, Network]:
    """The encoder alone."""
    return {}


def plain_networks(models: Models, config: ConfigDict, place: Place | None = None) -> Networks:
    """The modules as functions, of methods without noise levels: an encoder is told t = 0.

    `place`, if given, says within transformers where the tokens lie between blocks, as in `layers.Trunk`.
    """
    modules = {name: placed(network.module, place) for name, network in models.networks.items()}
    heads = {name: apply_of(name, module) for name, module in modules.items() if name != "encoder"}
    encoder = apply_of("encoder", modules["encoder"])

    def encode(params, image, t, *visible):
        return encoder(params, image, jnp.zeros_like(t), *visible)

    return Networks(encode=encode, heads=heads)


def placed(module: nn.Module, place: Place | None) -> nn.Module:
    """The module, a transformer with its tokens kept where `place` says."""
    return module.clone(place=place) if place and isinstance(module, Trunk) else module


def apply_of(name: str, module: nn.Module) -> Callable[..., Any]:
    """A network as a function (params, ...) of all of a run's parameters."""
    return lambda params, *inputs: module.apply({"params": params[name]}, *inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train an encoder: all that is peculiar to it. A new one needs a name, a loss and words.

    Attributes:
      name: `config.objective.name`.
      objective: config -> the loss; None of a method that trains nothing.
      card: what a model card says of it, from the config.
      presets: arms by name, each a function that changes a config; its docstring has the equation and the source.
      fields: config fields that are its own, by dotted name; two methods may declare the same one.
      check: refuses a config that the method cannot run, by UserError. check_images: the same once (height, width,
        channel) is known. check_named_code: imports and tries code that fields name, for training, whose config is
        the user's; nothing else may import what a config names.
      build: what it trains beside the encoder. networks: the modules as functions.
      passes: how many forward passes the training on one image is worth to a network, where that is not 3 (one
        forward, twice that backward: Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1).
      process: the forward process of a method that knows noise levels, else None.
      sees_noise: whether the encoder sees the noised image in place of the clean one.
      tell: parameters -> what `Objective.draw` is told of them.
      initialise: fresh parameters -> those that the run begins with.
      apart: networks whose gradient is no part of the norm that is clipped and logged.
      unread: features that exist and are not trained, so not offered.
      reads_labels: whether training reads the images' labels. tags: for a model card.
    """

    name: str
    objective: Callable[[ConfigDict], Objective] | None
    card: Callable[[ConfigDict], str]
    presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    check: Callable[[ConfigDict], None] = check_without_noise
    check_images: Callable[[ConfigDict, Shape], None] = no_check
    check_named_code: Callable[[ConfigDict], None] = lambda config: None
    build: Callable[[ConfigDict, Parts], Mapping[str, Network]] = no_networks
    networks: Callable[[Models, ConfigDict, Place | None], Networks] = plain_networks
    passes: Callable[[ConfigDict], Mapping[str, float]] = lambda config: NOTHING
    process: Callable[[ConfigDict], Process] | None = None
    sees_noise: Callable[[ConfigDict], bool] = lambda config: False
    tell: Callable[[ConfigDict, Params], Mapping[str, Array]] = lambda config, params: NOTHING
    initialise: Callable[[Params], Params] = lambda params: params
    apart: Callable[[ConfigDict], tuple[str, ...]] = lambda config: ()
    unread: tuple[str, ...] = ()
    reads_labels: bool = False
    tags: tuple[str, ...] = ("self-supervised-learning",)

    @property
    def trains(self) -> bool:
        return self.objective is not None


def static(networks: Networks, params: Params, image: Image, visible: Int[Array, "batch token"] | None = None) -> Any:
    """The embedding of an image that is not noised, of the visible tokens alone if given."""
    return networks.encode(params, image, jnp.zeros(len(image)), *(() if visible is None else (visible,)))


def see_x0(c: ConfigDict) -> None:
    """In a preset: the encoder sees the image and no noise level, and its code is free."""
    c.embedding.input, c.embedding.sphere, c.embedding.timed = "x0", False, False
