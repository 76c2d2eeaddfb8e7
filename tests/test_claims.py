"""What the papers claim, on problems small enough to know the answer exactly.

Images of one row: [batch, 1, pixels, 1], one token a pixel.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import FAST_TO_RUN, tiny_config

from ddm_embed.diffusion import prediction as p
from ddm_embed.methods.build import make_models, make_networks, make_objective

pytestmark = pytest.mark.slow  # each trains a model for some seconds

CENTRES, WIDTH = np.array([-0.7, 0.7]), 0.15  # a pixel is one of two Gaussians
LEVELS = jnp.array([0.15, 0.3, 0.45, 0.6])


def one_pixel(key, number):
    which, noise = jax.random.split(key)
    centre = jnp.asarray(CENTRES)[jax.random.randint(which, (number,), 0, 2)]
    return (centre + WIDTH * jax.random.normal(noise, (number,))).reshape(number, 1, 1, 1)


def two_pixels(key, number):
    """The first pixel tells the class, -1 or 1; the second, a sixteenth of its variance, is detail."""
    which, noise = jax.random.split(key)
    pixels = [jax.random.rademacher(which, (number,), jnp.float32), 0.25 * jax.random.normal(noise, (number,))]
    return jnp.stack(pixels, axis=1).reshape(number, 1, 2, 1)


@functools.cache
def train(draw, steps=800, **changes):
    """A tiny model trained on fresh images in every step, as (networks, objective, EMA-free parameters)."""
    config = tiny_config(**{"model.variant": "Ti/1", "model.width": 32, "embedding.dim": 2, "embedding.sphere": False})
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    shape = draw(jax.random.key(0), 1).shape[1:]
    models = make_models(config, shape)
    networks, objective = make_networks(models, config), make_objective(config)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @functools.partial(jax.jit, compiler_options=FAST_TO_RUN)
    def run(params):
        def step(carry, key):
            params, state = carry
            image_key, key = jax.random.split(key)
            x0 = draw(image_key, 256)
            draws = objective.draw(key, x0, x0, config.embedding.dim)
            grads = jax.grad(lambda q: objective.loss(networks, q, q, x0, draws)[0])(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(
            step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), steps)
        )
        return params

    return SimpleNamespace(networks=networks, objective=objective, params=run(models.init(jax.random.key(0))))


def noise_error(trained, x0, seen, t):
    """Squared error of the noise, [number], when the denoiser is told the code of `seen`."""
    level = jnp.full(len(x0), t)
    alpha, sigma = trained.objective.process.marginal(level)
    eps = jax.random.normal(jax.random.key(5), x0.shape)
    xt = p.noised(x0, eps, alpha, sigma)
    z = None if trained.networks.encode is None else trained.networks.encode(trained.params, seen, level).z
    output, _ = trained.networks.denoise(trained.params, xt, level, z)
    return jnp.mean((p.to_eps(trained.objective.prediction, output, xt, alpha, sigma) - eps) ** 2, axis=(1, 2, 3))


def bayes_loss(alpha, sigma):
    """E |eps - E[eps | x_t]|^2 of the best denoiser that is told nothing, by quadrature over x_t."""
    x = np.linspace(-8, 8, 40_001)
    spread = np.sqrt((alpha * WIDTH) ** 2 + sigma**2)
    density = np.exp(-(((x[:, None] - alpha * CENTRES) / spread) ** 2) / 2) / spread / np.sqrt(2 * np.pi) / 2
    guess = sigma / spread**2 * (x[:, None] - alpha * CENTRES)  # E[eps | x_t, component]
    mean = np.sum(density * guess, axis=1) / np.maximum(density.sum(1), 1e-300)
    return 1 - np.trapezoid(density.sum(1) * mean**2, x)


def compare(trained, wrong=False):
    """For each of `LEVELS`: the model's error, its standard error, and the Bayes loss."""
    x0 = one_pixel(jax.random.key(7), 20_000)
    seen = jnp.roll(x0, 1, axis=0) if wrong else x0
    alpha, sigma = (np.asarray(a, np.float64) for a in trained.objective.process.marginal(LEVELS))
    for t, a, s in zip(LEVELS, alpha, sigma, strict=True):
        errors = noise_error(trained, x0, seen, t)
        yield float(jnp.mean(errors)), float(jnp.std(errors)) / len(x0) ** 0.5, bayes_loss(a, s)


def test_a_code_brings_the_loss_below_the_best_that_can_be_done_without_and_a_wrong_one_above():
    """Mittal et al., arXiv 2105.14257, sec. 2: the code removes what is constant in denoising score matching."""
    trained = train(one_pixel, diffusion__steps=0, diffusion__prediction="v")
    for error, deviation, bayes in compare(trained):
        assert error + 5 * deviation < 0.8 * bayes
    for error, deviation, bayes in compare(trained, wrong=True):
        assert error - 5 * deviation > bayes


def test_without_a_code_the_best_that_can_be_done_is_reached_and_not_passed():
    """The reference above is the right one: a denoiser told nothing comes within a twentieth of it from above."""
    trained = train(one_pixel, embedding__input="none", diffusion__steps=0, diffusion__prediction="v")
    for error, deviation, bayes in compare(trained):
        assert bayes - 5 * deviation < error < 1.05 * bayes + 5 * deviation


def kept(trained, t):
    """The share of each pixel's variance that regression finds in z, drawn as the denoiser is told it.

    The detail is sought among the images of one class at a time: a code may tell it in another way for each.
    """
    x0 = two_pixels(jax.random.key(9), 4000)
    code = trained.networks.encode(trained.params, x0, jnp.full(4000, t))
    z = np.asarray(code.z + jnp.exp(code.log_variance / 2) * jax.random.normal(jax.random.key(2), code.z.shape))
    pixels = np.asarray(x0).reshape(4000, 2)
    one_class = pixels[:, 0] > 0
    return r_squared(z, pixels[:, 0]), r_squared(z[one_class], pixels[one_class, 1])


def r_squared(z, y):
    columns = np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1)
    return 1 - np.mean((columns @ np.linalg.lstsq(columns, y, rcond=None)[0] - y) ** 2) / np.var(y)


def variational(steps=800, **changes):
    fixed = dict(embedding__gaussian=True, diffusion__steps=0, diffusion__prediction="eps")
    return train(two_pixels, steps, **fixed, **changes)


def test_trained_at_high_noise_alone_a_code_keeps_the_class_and_loses_the_detail():
    """With lambda = sigma^2 an image's error weighs SNR(t), so a nat must save kl_weight / SNR(t) of it: reverse
    water-filling (Cover & Thomas 2006, sec. 10.3.3). At t = 0.6 that is 0.12, less than the class's variance of 1 and
    more than the detail's of 0.06; at t = 0.15 it is 0.0009, less than either.
    """
    law = dict(diffusion__timesteps="fixed", embedding__kl_weight=0.0032)
    coarse, fine = (kept(variational(diffusion__fixed_t=t, **law), t) for t in (0.6, 0.15))
    assert coarse[0] > 0.8 and coarse[1] < 0.1
    assert fine[1] > 0.6


def test_the_aggregate_code_moves_towards_the_prior_as_its_weight_rises():
    distances = []
    for weight in (1e-6, 1e-3, 3e-2):
        trained = variational(300, embedding__kl_weight=weight)
        code = trained.networks.encode(trained.params, two_pixels(jax.random.key(9), 4000), jnp.full(4000, 0.5))
        z = code.z + jnp.exp(code.log_variance / 2) * jax.random.normal(jax.random.key(2), code.z.shape)
        mean, covariance = np.mean(z, axis=0), np.cov(z.T)
        # KL of the Gaussian of the same moments to N(0, I).
        distances.append((mean @ mean + np.trace(covariance) - 2 - np.linalg.slogdet(covariance)[1]) / 2)
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
