"""What the denoiser predicts, and the exact conversions between the choices.

Every choice is a sum `a x_0 + b eps`. Together with `x_t = alpha x_0 + sigma eps` it is two equations for two
unknowns, so one formula converts each into any other.

eps: the noise (Ho et al. 2020, arXiv 2006.11239). x0: the image. v: `alpha eps - sigma x_0` (Salimans & Ho 2022, arXiv
2202.00512). flow: `eps - x_0`, the velocity of rectified flow (Liu et al. 2023, arXiv 2209.03003). score: the gradient
of log p(x_t | x_0), `-eps / sigma` (Song et al. 2021, arXiv 2011.13456).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Image = Float[Array, "batch height width channel"]
Level = Float[Array, " batch"]

PREDICTIONS = ("eps", "x0", "v", "flow", "score")
LEAST = 1e-8  # where a conversion divides by alpha or sigma, neither is taken for less


def expand(level: Level) -> Float[Array, "batch 1 1 1"]:
    return level[:, None, None, None]


def noised(x0: Image, eps: Image, alpha: Level, sigma: Level) -> Image:
    """x_t [batch, height, width, channel]."""
    return expand(alpha) * x0 + expand(sigma) * eps


def coefficients(prediction: str, alpha: Level, sigma: Level) -> tuple[Level, Level]:
    """a [batch] and b [batch] of `a x_0 + b eps`.

    Raises:
      ValueError: there is no such prediction.
    """
    zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
    known = {
        "eps": lambda: (zero, one),
        "x0": lambda: (one, zero),
        "v": lambda: (-sigma, alpha),
        "flow": lambda: (-one, one),
        "score": lambda: (zero, -1 / jnp.maximum(sigma, LEAST)),
    }
    if prediction not in known:
        raise ValueError(f"prediction={prediction!r}; use one of {PREDICTIONS}")
    return known[prediction]()


def target(prediction: str, x0: Image, eps: Image, alpha: Level, sigma: Level) -> Image:
    """What a denoiser of this kind should output, [batch, height, width, channel]."""
    a, b = coefficients(prediction, alpha, sigma)
    return expand(a) * x0 + expand(b) * eps


def to_x0(prediction: str, output: Image, xt: Image, alpha: Level, sigma: Level) -> Image:
    """The clean image that this output implies. Noise or score say nothing of x_0 where alpha = 0."""
    if prediction == "x0":
        return output
    a, b = coefficients(prediction, alpha, sigma)
    return (expand(b) * xt - expand(sigma) * output) / expand(_away_from_zero(b * alpha - a * sigma))


def to_eps(prediction: str, output: Image, xt: Image, alpha: Level, sigma: Level) -> Image:
    """The noise that this output implies. An x0 output says nothing of eps where sigma = 0."""
    if prediction == "eps":
        return output
    if prediction == "score":
        return -expand(sigma) * output
    a, b = coefficients(prediction, alpha, sigma)
    return (expand(alpha) * output - expand(a) * xt) / expand(_away_from_zero(b * alpha - a * sigma))


def convert(prediction: str, wanted: str, output: Image, xt: Image, alpha: Level, sigma: Level) -> Image:
    """An output of one kind as another kind, [batch, height, width, channel]; one of `PREDICTIONS` each."""
    if prediction == wanted:
        return output
    x0 = to_x0(prediction, output, xt, alpha, sigma)
    return target(wanted, x0, to_eps(prediction, output, xt, alpha, sigma), alpha, sigma)


def eps_error_scale(prediction: str, alpha: Level, sigma: Level) -> Level:
    """k [batch]: a squared error of 1 in this kind's space is a squared error of k in the noise, x_t being given."""
    if prediction == "eps":
        return jnp.ones_like(alpha)
    if prediction == "score":
        return jnp.maximum(sigma, LEAST) ** 2
    a, b = coefficients(prediction, alpha, sigma)
    return (alpha / _away_from_zero(b * alpha - a * sigma)) ** 2


def _away_from_zero(number: Level) -> Level:
    return jnp.where(jnp.abs(number) < LEAST, jnp.where(number < 0, -LEAST, LEAST), number)
