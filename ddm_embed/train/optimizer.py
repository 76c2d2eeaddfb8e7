"""AdamW with warm-up, cosine decay and clipping, and the parameters' moving average."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ddm_embed import methods


def make_schedule(config: ConfigDict) -> optax.Schedule:
    """Linear from 0 to the peak over the warm-up, then a cosine to 0 at the last step."""
    peak, warmup = config.optimizer.learning_rate, config.optimizer.warmup_steps
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, config.train.steps)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); weight decay acts on kernels only.

    The denoiser's rate, as that of a parameter group in PyTorch, scales its decay too.
    """
    c = config.optimizer
    adamw = optax.adamw(
        make_schedule(config),
        b1=c.b1,
        b2=c.b2,
        weight_decay=c.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params),
    )
    if (rate := config.diffusion.denoiser_rate) != 1:
        slower = optax.masked(optax.scale(rate), lambda params: {name: name == "denoiser" for name in params})
        adamw = optax.chain(adamw, slower)
    if not c.clip_norm:
        return adamw
    clip = optax.clip_by_global_norm(c.clip_norm)
    if apart := methods.of(config).apart(config):
        clip = optax.masked(clip, partial(counted, apart=apart))
    return optax.chain(clip, adamw)


def counted(params: dict[str, Any], apart: tuple[str, ...]) -> dict[str, bool]:
    """Which networks' gradients make up the norm that is clipped and logged: all but those that a method sets apart."""
    return {name: name not in apart for name in params}


def ema_rate(config: ConfigDict, step: Int[Array, ""]) -> Float[Array, ""]:
    """1 - decay, the share of the new parameters in their moving average after so many steps.

    ramp: the decay is at most (1 + step) / (10 + step), so that the random initialisation is soon forgotten (the rule
    of TensorFlow's ExponentialMovingAverage). cosine: it goes from `ema_decay` to 1, as BYOL's target does (Grill et
    al. 2020, arXiv 2006.07733, sec. 3.3).
    """
    decay, step = config.optimizer.ema_decay, step.astype(jnp.float32)
    if config.optimizer.ema_schedule == "cosine":
        return (1 - decay) * (jnp.cos(jnp.pi * step / config.train.steps) + 1) / 2
    return 1 - jnp.minimum(decay, (1 + step) / (10 + step))


def update_ema(ema_params: Any, params: Any, rate: Float[Array, ""]) -> Any:
    """ema + rate * (params - ema)."""
    return jax.tree.map(lambda ema, new: ema + rate * (new - ema), ema_params, params)
