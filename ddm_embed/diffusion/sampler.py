"""Reverse-time solvers: from noise to images, and, for the deterministic ones, from images to their noise.

Each solver is one `lax.scan` over a grid of noise levels that is fixed before it is compiled; alpha, sigma and the
rates at the grid are computed on the host in float64. A solver sees a denoiser as a function of (x_t, t) alone, so a
code may be fixed, absent or follow t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ddm_embed.diffusion import prediction as prediction_lib
from ddm_embed.diffusion.prediction import Image, Level
from ddm_embed.diffusion.process import Process

Denoise = Callable[[Image, Level], Image]
Times = Float[np.ndarray, " time"]

SAMPLERS = ("ancestral", "ddim", "euler", "heun", "dpmpp_2m", "langevin")
ODE_SAMPLERS = ("ddim", "euler", "heun", "dpmpp_2m")  # deterministic: they run both ways
CORRECTOR_SNR = 0.16  # of the Langevin corrector (Song et al. 2021, arXiv 2011.13456, app. G; Mittal et al.'s code)


class Path(NamedTuple):
    """Each step of a solver: t [time] and x_t [time, batch, height, width, channel] before it, the x_0 guessed
    there."""

    t: Float[Array, " time"]
    xt: Float[Array, "time batch height width channel"]
    x0: Float[Array, "time batch height width channel"]


class _Step(NamedTuple):
    """One step from t to s: what it needs of the process at both ends, scalars within the scan."""

    t: Array
    s: Array
    alpha_t: Array
    sigma_t: Array
    alpha_s: Array
    sigma_s: Array
    rate_t: Array  # a(t) and g(t)^2 of the SDE
    g2_t: Array
    rate_s: Array
    g2_s: Array
    extrapolate: Array  # DPM-Solver++'s 1 / (2r): half this step over the one before, in log(alpha / sigma)
    key: Key[Array, ""]


def time_grid(process: Process, sampler: str, steps: int) -> Times:
    """`steps` noise levels from the process's last to its first, float64: equally spaced in t, for dpmpp_2m in
    log-SNR."""
    if sampler != "dpmpp_2m":
        return np.linspace(process.last, process.first, steps)
    ends = process.log_snr(np.array([process.last, process.first]))
    inner = process.time_at_log_snr(np.linspace(*ends, steps)[1:-1])
    return np.concatenate([[process.last], inner, [process.first]])


def sample(
    denoise: Denoise, process: Process, prediction: str, x: Image, key: Key[Array, ""], sampler: str, steps: int,
    clip: bool = True,
) -> Image:  # fmt: skip
    """Images from x at the process's last t: `steps` - 1 steps of the solver, then the x_0 guessed at the first t.

    The last is the noise-free step with which DDPM ends (Ho et al. 2020, arXiv 2006.11239, algorithm 2).

    Args:
      denoise: (x_t, t [batch]) -> output, [batch, height, width, channel].
      process: the forward process.
      prediction: what `denoise` puts out, one of `prediction.PREDICTIONS`.
      x: noise, as from `process.prior`.
      key: of the noise that the stochastic samplers add.
      sampler: one of `SAMPLERS`.
      steps: at least 2; the network is called that often, by heun and langevin twice in each step but the last.
      clip: holds every guess of x_0 within [-1, 1], as images are.
    """
    x, _ = integrate(denoise, process, prediction, x, time_grid(process, sampler, steps), key, sampler, clip)
    alpha, sigma = process.marginal(np.array([process.first]))
    return _Guess(denoise, prediction, clip).at(x, process.first, alpha[0], sigma[0])[0]


def encode(denoise: Denoise, process: Process, prediction: str, x0: Image, sampler: str, steps: int) -> Image:
    """x at the process's last t that the probability-flow ODE gives back as x0; arguments as of `sample`.

    x0 is taken for x at the process's first t, which in a chain has a noise of sigma(1/T): it comes back to about that.

    Raises:
      ValueError: the sampler is not one of `ODE_SAMPLERS`.
    """
    if sampler not in ODE_SAMPLERS:
        raise ValueError(f"sampler={sampler!r} cannot run backwards; use one of {ODE_SAMPLERS}")
    times = time_grid(process, sampler, steps)[::-1]
    x, _ = integrate(denoise, process, prediction, x0, times, jax.random.key(0), sampler, clip=False)
    return x


def integrate(
    denoise: Denoise, process: Process, prediction: str, x: Image, times: Times, key: Key[Array, ""], sampler: str,
    clip: bool = False, keep_path: bool = False,
) -> tuple[Image, Path | None]:  # fmt: skip
    """x carried from times[0] to times[-1], and the way it went if `keep_path`; arguments as of `sample`.

    Args:
      times: strictly monotone noise levels in [process.first, process.last], on the host; rising for `ODE_SAMPLERS`
      only.

    Raises:
      ValueError: there is no such sampler.
    """
    advance = {
        "ancestral": lambda *a: _ddim(*a, eta=1.0),
        "ddim": lambda *a: _ddim(*a, eta=0.0),
        "euler": _euler,
        "heun": _heun,
        "dpmpp_2m": _dpmpp_2m,
        "langevin": _langevin,
    }
    if sampler not in advance:
        raise ValueError(f"sampler={sampler!r}; use one of {SAMPLERS}")
    guess = _Guess(denoise, prediction, clip)

    def body(carry, step: _Step):
        x, x0_before = carry
        x0, eps = guess.at(x, step.t, step.alpha_t, step.sigma_t)
        after = advance[sampler](guess, step, x, x0, eps, x0_before)
        return (after, x0), (Path(step.t, x, x0) if keep_path else None)

    (x, _), path = jax.lax.scan(body, (x, jnp.zeros_like(x)), _steps(process, times, key))
    return x, path


class _Guess:
    """The denoiser as a guess of x_0 and eps."""

    def __init__(self, denoise: Denoise, prediction: str, clip: bool):
        self._denoise, self._prediction, self._clip = denoise, prediction, clip

    def at(self, x: Image, t: Array | float, alpha: Array | float, sigma: Array | float) -> tuple[Image, Image]:
        """alpha and sigma are the step's own: computed anew in float32, they differ by a rounding that every step would
        multiply into x."""
        t, alpha, sigma = (jnp.full(len(x), level, jnp.float32) for level in (t, alpha, sigma))
        output = self._denoise(x, t).astype(x.dtype)
        x0 = prediction_lib.to_x0(self._prediction, output, x, alpha, sigma)
        if not self._clip:
            return x0, prediction_lib.to_eps(self._prediction, output, x, alpha, sigma)
        x0 = jnp.clip(x0, -1, 1)
        return x0, prediction_lib.to_eps("x0", x0, x, alpha, sigma)


def _steps(process: Process, times: Times, key: Key[Array, ""]) -> _Step:
    times = np.asarray(times, np.float64)
    alpha, sigma = process.marginal(times)
    h = np.diff(np.log(alpha) - np.log(sigma))
    extrapolate = np.concatenate([[0.0], h[1:] / (2 * h[:-1])])
    ends = (times, alpha, sigma)
    t, alpha_t, sigma_t = (jnp.asarray(end[:-1], jnp.float32) for end in ends)
    s, alpha_s, sigma_s = (jnp.asarray(end[1:], jnp.float32) for end in ends)
    # A chain's rates jump at its steps: either end takes them from within the step.
    inside = 1e-6 * np.diff(times)
    rate_t, g2_t = (jnp.asarray(rate, jnp.float32) for rate in process.rates(times[:-1] + inside))
    rate_s, g2_s = (jnp.asarray(rate, jnp.float32) for rate in process.rates(times[1:] - inside))
    keys = jax.random.split(key, len(times) - 1)
    return _Step(t, s, alpha_t, sigma_t, alpha_s, sigma_s, rate_t, g2_t, rate_s, g2_s, jnp.asarray(extrapolate), keys)


def _ddim(guess: _Guess, step: _Step, x: Image, x0: Image, eps: Image, x0_before: Image, eta: float) -> Image:
    """Song et al. 2021, DDIM (arXiv 2010.02502), eq. 12, for any alpha and sigma.

    eta = 1 is ancestral sampling from q(x_s | x_t, x_0) (Ho et al. 2020, eq. 6 and 7), eta = 0 has no noise.
    """
    added = 0.0
    if eta:
        forward = jnp.maximum(step.sigma_t**2 - (step.alpha_t / step.alpha_s * step.sigma_s) ** 2, 0)
        added = eta * jnp.sqrt(forward) * step.sigma_s / step.sigma_t
    kept = jnp.sqrt(jnp.maximum(step.sigma_s**2 - added**2, 0))
    after = step.alpha_s * x0 + kept * eps
    return after + added * jax.random.normal(step.key, x.shape) if eta else after


def _slope(rate: Array, g2: Array, sigma: Array, x: Image, eps: Image) -> Image:
    """dx/dt of the probability-flow ODE, a x - g^2 score / 2 (Song et al. 2021, arXiv 2011.13456, eq. 13)."""
    return rate * x + g2 / (2 * sigma) * eps


def _euler(guess: _Guess, step: _Step, x: Image, x0: Image, eps: Image, x0_before: Image) -> Image:
    return x + (step.s - step.t) * _slope(step.rate_t, step.g2_t, step.sigma_t, x, eps)


def _heun(guess: _Guess, step: _Step, x: Image, x0: Image, eps: Image, x0_before: Image) -> Image:
    """The trapezium rule, its end guessed by Euler (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""
    begin = _slope(step.rate_t, step.g2_t, step.sigma_t, x, eps)
    reached = x + (step.s - step.t) * begin
    _, eps_reached = guess.at(reached, step.s, step.alpha_s, step.sigma_s)
    end = _slope(step.rate_s, step.g2_s, step.sigma_s, reached, eps_reached)
    return x + (step.s - step.t) * (begin + end) / 2


def _dpmpp_2m(guess: _Guess, step: _Step, x: Image, x0: Image, eps: Image, x0_before: Image) -> Image:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): x_0 extrapolated linearly in log(alpha /
    sigma)."""
    ahead = x0 + step.extrapolate * (x0 - x0_before)
    shrink = step.sigma_s / step.sigma_t
    return shrink * x + (step.alpha_s - shrink * step.alpha_t) * ahead


def _langevin(guess: _Guess, step: _Step, x: Image, x0: Image, eps: Image, x0_before: Image) -> Image:
    """The reverse-diffusion predictor, then one step of the Langevin corrector (Song et al. 2021, arXiv 2011.13456,
    eq. 46 and algorithms 2 to 5). As in their code, the corrector's step size is the same for the whole batch."""
    predict_key, correct_key = jax.random.split(step.key)
    ratio = step.alpha_t / step.alpha_s
    variance = jnp.maximum(step.sigma_t**2 - (ratio * step.sigma_s) ** 2, 0)
    mean = (2 - ratio) * x - variance / step.sigma_t * eps
    x = mean + jnp.sqrt(variance) * jax.random.normal(predict_key, x.shape)

    _, eps = guess.at(x, step.s, step.alpha_s, step.sigma_s)
    score = -eps / step.sigma_s
    noise = jax.random.normal(correct_key, x.shape)
    norm = _mean_norm(score)
    # A score of exactly 0, as of a network that has not been trained, leads nowhere.
    size = 2 * ratio**2 * (CORRECTOR_SNR * _mean_norm(noise) / jnp.where(norm > 0, norm, jnp.inf)) ** 2
    return x + size * score + jnp.sqrt(2 * size) * noise


def _mean_norm(x: Image) -> Array:
    return jnp.mean(jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3))))
