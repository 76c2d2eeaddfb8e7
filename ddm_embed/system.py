"""config -> the diffusion process, objective and networks that training and evaluation share."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddm_embed.diffusion.objective import Networks, Objective
from ddm_embed.diffusion.process import PROCESSES, DiscreteChain
from ddm_embed.models.build import Models, build, resolve


def make_process(config: ConfigDict) -> DiscreteChain:
    return PROCESSES[config.diffusion.process](config.diffusion.steps)


def make_objective(config: ConfigDict) -> Objective:
    return Objective(
        process=make_process(config),
        prediction=config.diffusion.prediction,
        weight=config.diffusion.weight,
        min_snr_gamma=config.diffusion.min_snr_gamma,
        timesteps=config.diffusion.timesteps,
        encoder_input=config.embedding.input,
        consistency_weight=config.consistency.weight,
    )


def make_models(config: ConfigDict, image_shape: tuple[int, int, int], platform: str | None = None) -> Models:
    """The modules of a config for images of (height, width, channel), computing as suits the platform.

    Args:
      platform: "cpu", "gpu" or "tpu"; the default backend's if None.
    """
    platform = platform or jax.default_backend()
    model = config.model
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    attention = model.attention
    if attention == "auto":
        width, _, heads, _ = resolve(model.variant, model.width, model.depth, model.heads)
        attention = "cudnn" if platform == "gpu" and dtype == "bfloat16" and cudnn_takes(width // heads) else "xla"
    return build(
        variant=model.variant,
        image_shape=image_shape,
        embedding_dim=None if config.embedding.input == "none" else config.embedding.dim,
        sphere=config.embedding.sphere,
        consistency=config.consistency.weight > 0,
        width=model.width,
        depth=model.depth,
        encoder_depth=model.encoder_depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        qk_norm=model.qk_norm,
        attention=attention,
        dtype=jnp.dtype(dtype),
    )


def cudnn_takes(head_dim: int) -> bool:
    """Whether cuDNN's fused attention handles heads of this many dimensions on this GPU (Ampere or later)."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))  # "9.0"; ROCm's are names such as gfx90a
    return capability[:1].isdigit() and float(capability) >= 8.0 and head_dim % 8 == 0 and head_dim <= 128


def make_networks(models: Models) -> Networks:
    """The modules as the functions of parameters that the objective takes."""
    encoder, predictor = models.encoder, models.predictor
    return Networks(
        denoise=lambda params, xt, t, z: models.denoiser.apply({"params": params["denoiser"]}, xt, t, z)[0],
        encode=encoder and (lambda params, image, t: encoder.apply({"params": params["encoder"]}, image, t).z),
        predict=predictor and (lambda params, z, t: predictor.apply({"params": params["predictor"]}, z, t)),
    )
