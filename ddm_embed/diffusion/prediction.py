"""What the denoiser predicts, and the exact conversions between the choices.

For `x_t = alpha x_0 + sigma eps` the velocity is `v = alpha eps - sigma x_0` (Salimans & Ho 2022, arXiv 2202.00512).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Image = Float[Array, "batch height width channel"]
Level = Float[Array, " batch"]

PREDICTIONS = ("eps", "x0", "v")


def expand(level: Level) -> Float[Array, "batch 1 1 1"]:
    return level[:, None, None, None]


def noised(x0: Image, eps: Image, alpha: Level, sigma: Level) -> Image:
    """x_t [batch, height, width, channel]."""
    return expand(alpha) * x0 + expand(sigma) * eps


def target(prediction: str, x0: Image, eps: Image, alpha: Level, sigma: Level) -> Image:
    """What a denoiser of this kind should output, [batch, height, width, channel]."""
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return expand(alpha) * eps - expand(sigma) * x0
    raise ValueError(f"prediction={prediction!r}; use one of {PREDICTIONS}")


def to_x0(prediction: str, output: Image, xt: Image, alpha: Level, sigma: Level) -> Image:
    """The clean image that this output implies. An eps output says nothing of x_0 where alpha = 0."""
    alpha, sigma = expand(alpha), expand(sigma)
    if prediction == "x0":
        return output
    if prediction == "eps":
        return (xt - sigma * output) / jnp.maximum(alpha, 1e-8)
    if prediction == "v":
        return (alpha * xt - sigma * output) / (alpha**2 + sigma**2)
    raise ValueError(f"prediction={prediction!r}; use one of {PREDICTIONS}")


def to_eps(prediction: str, output: Image, xt: Image, alpha: Level, sigma: Level) -> Image:
    """The noise that this output implies. An x0 output says nothing of eps where sigma = 0."""
    if prediction == "eps":
        return output
    if prediction == "v":
        alpha, sigma = expand(alpha), expand(sigma)
        return (sigma * xt + alpha * output) / (alpha**2 + sigma**2)
    x0 = to_x0(prediction, output, xt, alpha, sigma)
    return (xt - expand(alpha) * x0) / jnp.maximum(expand(sigma), 1e-8)
