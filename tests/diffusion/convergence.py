"""How fast each ODE solver's error falls with its steps, on a Gaussian mixture whose denoiser is known exactly.

python tests/diffusion/convergence.py docs/pictures/solver_order.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.integrate import solve_ivp

from ddm_embed.diffusion.process import VP, Process
from ddm_embed.diffusion.sampler import ODE_SAMPLERS, integrate

BEGIN, END = 0.8, 0.1  # t: where neither the noise nor the image is nearly all there is
STEPS = (10, 20, 40, 80, 160)
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2}


class Mixture(NamedTuple):
    """Isotropic Gaussians in the plane, for images of shape [1, 1, 2].

    weight [component] sums to 1; mean [component, 2]; std [component].
    """

    weight: Float[Array, " component"]
    mean: Float[Array, "component 2"]
    std: Float[Array, " component"]

    def draw(self, count: int, seed: int) -> Float[np.ndarray, "batch 1 1 2"]:
        rng = np.random.default_rng(seed)
        which = rng.choice(len(self.weight), count, p=self.weight)
        draws = self.mean[which] + self.std[which][:, None] * rng.standard_normal((count, 2))
        return draws[:, None, None, :]


def mixture() -> Mixture:
    """Three modes inside [-1, 1], unlike in weight and width."""
    return Mixture(
        np.array([0.5, 0.3, 0.2]), np.array([[0.6, 0.5], [-0.6, 0.2], [0.1, -0.7]]), np.array([0.1, 0.15, 0.2])
    )


def posterior_mean(data: Mixture, x, alpha, sigma):
    """E[x_0 | alpha x_0 + sigma eps = x], NumPy or JAX; x [batch, 1, 1, 2], alpha and sigma [batch] or scalars.

    That of each component is `m + alpha s^2 / (alpha^2 s^2 + sigma^2) (x - alpha m)`; its weight is its share of the
    density at x.
    """
    xp = x.__array_namespace__()
    alpha, sigma = (xp.reshape(xp.asarray(level), (-1, 1)) for level in (alpha, sigma))
    away = x[..., 0, :] - alpha[..., None] * data.mean  # [batch, component, 2]
    variance = alpha**2 * data.std**2 + sigma**2  # [batch, component]
    log_share = xp.log(data.weight) - xp.log(variance) - xp.sum(away**2, axis=-1) / (2 * variance)
    share = xp.exp(log_share - xp.max(log_share, axis=-1, keepdims=True))
    share = share / xp.sum(share, axis=-1, keepdims=True)
    each = data.mean + (alpha * data.std**2 / variance)[..., None] * away
    return xp.sum(share[..., None] * each, axis=-2)[:, None, None, :]


def flow(data: Mixture, process: Process, x: Float[np.ndarray, "batch 1 1 2"], begin: float, end: float) -> np.ndarray:
    """The probability-flow ODE from t = begin to t = end, by SciPy's eighth-order Runge-Kutta in float64."""

    def slope(t, flat):
        at, t = flat.reshape(x.shape), np.array([t])
        (alpha, sigma), (rate, g2) = process.marginal(t), process.rates(t)
        score = (alpha * posterior_mean(data, at, alpha, sigma) - at) / sigma**2
        return (rate * at - g2 / 2 * score).ravel()

    solution = solve_ivp(slope, (begin, end), x.ravel(), method="DOP853", rtol=1e-10, atol=1e-10)
    return solution.y[:, -1].reshape(x.shape)


def errors(
    sampler: str,
    process: Process,
    steps: Sequence[int] = STEPS,
    begin: float = BEGIN,
    end: float = END,
    count: int = 64,
) -> Float[np.ndarray, " steps"]:
    """Root-mean-square distance from the exact trajectories at t = end, after each number of steps from t = begin.

    Steps are equal in t, for dpmpp_2m in log-SNR. The starts are draws of the process at t = begin.
    """
    data = mixture()
    alpha, sigma = (level[0] for level in process.marginal(np.array([begin])))
    x = alpha * data.draw(count, seed=0) + sigma * np.random.default_rng(1).standard_normal((count, 1, 1, 2))
    exact = flow(data, process, x, begin, end)

    def denoise(xt, t):
        return posterior_mean(jax.tree.map(jnp.float32, data), xt, *process.marginal(t))

    def distance(number):
        times = _grid(process, sampler, np.linspace(begin, end, number + 1))
        solve = jax.jit(lambda x: integrate(denoise, process, "x0", x, times, jax.random.key(0), sampler)[0])
        return np.sqrt(np.mean((np.asarray(solve(jnp.asarray(x, jnp.float32)), np.float64) - exact) ** 2))

    return np.array([distance(number) for number in steps])


def _grid(process: Process, sampler: str, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    if sampler != "dpmpp_2m":
        return times
    log_snr = np.linspace(*process.log_snr(times[[0, -1]]), len(times))
    return np.concatenate([times[:1], process.time_at_log_snr(log_snr[1:-1]), times[-1:]])


def order(steps: Sequence[int], error: Float[np.ndarray, " steps"]) -> float:
    """Minus the slope of the least-squares line through log error over log steps."""
    return float(-np.polyfit(np.log(steps), np.log(error), 1)[0])


def draw(path: Path) -> None:
    """Error over steps for every ODE solver, with lines of slope 1 and 2."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    styles = {"ddim": ("C0", "o"), "euler": ("C1", "s"), "heun": ("C2", "D"), "dpmpp_2m": ("C3", "^")}
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for sampler in ODE_SAMPLERS:
        color, marker = styles[sampler]
        error = errors(sampler, VP())
        fitted = order(STEPS, error)
        print(f"{sampler:<10} order {fitted:.2f}  errors {' '.join(f'{e:.1e}' for e in error)}")
        axes.loglog(STEPS, error, marker, color=color, linestyle="-", label=f"{sampler}: fitted order {fitted:.2f}")
    ends = np.array([STEPS[0], STEPS[-1]], float)
    for slope, start in ((1, 0.12), (2, 0.004)):
        axes.loglog(ends, start * (ends / ends[0]) ** -slope, "--", color="0.6", zorder=0)
        axes.annotate(
            f"slope {-slope}", (ends[1], start * (ends[1] / ends[0]) ** -slope), xytext=(6, 0), color="0.4",
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.set_xlim(STEPS[0] * 0.9, STEPS[-1] * 1.45)
    axes.set_xticks(STEPS)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("steps")
    axes.set_ylabel(f"root-mean-square error of x at t = {END}")
    axes.set_title(f"ODE solvers from t = {BEGIN} to {END} (VP, exact denoiser of a Gaussian mixture)", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
