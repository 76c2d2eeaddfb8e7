"""config -> the modules of its encoder and its method, and what training, evaluation and decoding call of them."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddm_embed import methods
from ddm_embed.methods.method import Networks, Objective, Parts, Place
from ddm_embed.models.build import Code, Models, Shape, Sizes, make_encoder, resolve


def make_sizes(config: ConfigDict, platform: str) -> Sizes:
    """The sizes of a config's transformers, computing as suits the platform: "cpu", "gpu" or "tpu"."""
    model = config.model
    width, depth, heads, patch = resolve(model.variant, model.width, model.depth, model.heads)
    dtype, attention = model.dtype, model.attention
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    if attention == "auto":
        attention = "cudnn" if platform == "gpu" and dtype == "bfloat16" and cudnn_takes(width // heads) else "xla"
    how = dict(mlp_ratio=model.mlp_ratio, qk_norm=model.qk_norm, remat=model.remat, scan=model.scan)
    return Sizes(width, depth, heads, patch, attention=attention, dtype=jnp.dtype(dtype), **how)


def cudnn_takes(head_dim: int) -> bool:
    """Whether cuDNN's fused attention handles heads of this many dimensions on this GPU (Ampere or later)."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))  # "9.0"; ROCm's are names such as gfx90a
    return capability[:1].isdigit() and float(capability) >= 8.0 and head_dim % 8 == 0 and head_dim <= 128


def make_models(
    config: ConfigDict, image_shape: Shape, platform: str | None = None, classes: int | None = None
) -> Models:
    """The networks of a config for images of (height, width, channel).

    Args:
      platform: "cpu", "gpu" or "tpu"; the default backend's if None.
      classes: how many the training images have, of a method that reads labels.
    """
    method, sizes, embedding = (
        methods.of(config),
        make_sizes(config, platform or jax.default_backend()),
        config.embedding,
    )
    code, networks = None, {}
    if embedding.input != "none":
        code = Code(embedding.dim, embedding.sphere, embedding.gaussian)
        networks["encoder"] = make_encoder(config.model.encoder, config.model.encoder_depth, code, sizes, image_shape)
    encoder = networks["encoder"].module if code else None
    networks |= method.build(config, Parts(encoder, sizes, code, tuple(image_shape), classes))
    return Models(networks, tuple(image_shape), method.unread)


def make_networks(models: Models, config: ConfigDict, place: Place | None = None) -> Networks:
    """The modules as functions of parameters; `place` as in `method.plain_networks`."""
    return methods.of(config).networks(models, config, place)


def make_objective(config: ConfigDict) -> Objective | None:
    """The config's loss; None where nothing is trained."""
    method = methods.of(config)
    return method.objective(config) if method.trains else None
