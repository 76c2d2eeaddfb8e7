"""Exact denoisers of a Gaussian and of a mixture, and samples by them: what the tests of samplers share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convergence import Mixture, mixture, posterior_mean
from scipy import stats

from ddm_embed.diffusion.prediction import PREDICTIONS
from ddm_embed.diffusion.process import PROCESSES, VP
from ddm_embed.diffusion.sampler import (
    ODE_SAMPLERS,
    SAMPLERS,
    sample,
)

COUNT = 2000
NUMBER_OF_STEPS = {"ancestral": 300, "ddim": 300, "euler": 500, "heun": 60, "dpmpp_2m": 60, "langevin": 150}
ALL = {name: kind() for name, kind in PROCESSES.items()} | {"vp_chain": VP().chain(200)}
MEAN, STD = np.array([0.6, -0.4]), 0.5
# Both of the same shapes, so that each solver is compiled once.
DATA = {"gaussian": Mixture(np.full(3, 1 / 3), np.tile(MEAN, (3, 1)), np.full(3, STD)), "mixture": mixture()}

over_samplers = pytest.mark.parametrize("sampler", SAMPLERS)
over_ode_samplers = pytest.mark.parametrize("sampler", ODE_SAMPLERS)
# Six samplers times six processes are a minute of compiling; all are guarded, most of them in CI's slow stage.
over_processes = pytest.mark.parametrize(
    "name", [name if name == "vp" else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)


def exact_denoiser(data, process, kind, wrong=1.0):
    """The best prediction of this kind; `wrong` times the best guess of the noise, for tests that should fail."""

    def denoise(xt, t):
        levels = process.marginal(t)
        alpha, sigma = (level[:, None, None, None] for level in levels)
        x0 = posterior_mean(data, xt, *levels)
        eps = (xt - alpha * x0) / sigma
        x0, eps = x0 + (1 - wrong) * eps * sigma / alpha, wrong * eps
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0, "score": -eps / sigma}[kind]

    return denoise


@functools.cache
def compiled(name, sampler):
    """(data, x, key, wrong) -> images; the kinds of prediction take turns, so that each meets many samplers."""
    process = ALL[name]
    kind = PREDICTIONS[(list(ALL).index(name) + SAMPLERS.index(sampler)) % len(PREDICTIONS)]

    @jax.jit
    def run(data, x, key, wrong):
        denoise = exact_denoiser(data, process, kind, wrong)
        return sample(denoise, process, kind, x, key, sampler, NUMBER_OF_STEPS[sampler], clip=False)

    return run


def start(name, prior=1.0):
    return prior * ALL[name].prior(jax.random.key(1), (COUNT, 1, 1, 2))


def draws(name, sampler, data, wrong=1.0, prior=1.0, seed=2):
    """Sampled points, float64 [COUNT, 2]."""
    arrays = jax.tree.map(jnp.float32, DATA[data])
    images = compiled(name, sampler)(arrays, start(name, prior), jax.random.key(seed), jnp.float32(wrong))
    return np.asarray(images, np.float64)[:, 0, 0, :]


def p_value(points, data):
    """That points are draws of the mixture: Kolmogorov-Smirnov in eight directions, Bonferroni-corrected."""

    def in_direction(angle):
        axis = np.array([np.cos(angle), np.sin(angle)])
        parts = list(zip(data.weight, data.mean @ axis, data.std, strict=True))
        return stats.kstest(points @ axis, lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in parts)).pvalue

    return 8 * min(in_direction(angle) for angle in np.arange(8) * np.pi / 8)
