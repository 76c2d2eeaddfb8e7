"""Samplers with exact denoisers: of a Gaussian, and of the Gaussian mixture of convergence.py."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convergence import ORDERS, STEPS, Mixture, errors, mixture, order, posterior_mean
from scipy import stats

from ddm_embed.diffusion.prediction import PREDICTIONS
from ddm_embed.diffusion.process import PROCESSES, VP, RectifiedFlow
from ddm_embed.diffusion.sampler import (
    CORRECTOR_SNR,
    ODE_SAMPLERS,
    SAMPLERS,
    encode,
    integrate,
    sample,
    time_grid,
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
    "name", [name if name in ("vp", "vp_chain") else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
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


# The distribution.


@over_processes
@over_samplers
def test_samples_of_a_mixture_are_distributed_as_the_mixture(name, sampler):
    assert p_value(draws(name, sampler, "mixture"), DATA["mixture"]) > 1e-3


@over_samplers
def test_a_score_that_is_wrong_by_a_fifth_is_caught(sampler):
    assert p_value(draws("vp", sampler, "mixture", wrong=0.8), DATA["mixture"]) < 1e-3


@over_ode_samplers
def test_a_prior_that_is_wrong_by_a_third_is_caught(sampler):
    """Stochastic samplers rightly forget theirs."""
    assert p_value(draws("vp", sampler, "mixture", prior=1.33), DATA["mixture"]) < 1e-3


def test_exact_draws_pass_for_draws_of_the_mixture():
    points = DATA["mixture"].draw(COUNT, seed=5)[:, 0, 0, :]
    assert p_value(points, DATA["mixture"]) > 1e-3


def step_ends(process, times):
    """alpha, sigma and the variance of x_t for the Gaussian, at the beginning and at the end of each step."""
    alpha, sigma = process.marginal(times)
    levels = np.stack([alpha, sigma, alpha**2 * STD**2 + sigma**2], axis=1)
    return [(*begin, *end) for begin, end in itertools.pairwise(levels)]


def flow_error(process, sampler):
    """How far solvers may take a Gaussian's x - alpha m, relative to it, by the leading terms of their errors.

    Its flow is y' = rate y. A step h of Euler's is off by h^2 (|rate'| + rate^2) / 2 at most. ddim is Euler's method
    for y / alpha in the variable tau = sigma / alpha: it multiplies by 1 + h rate, the flow by the ratio of the
    standard deviations. A step of Heun's is off by h^3 rate^3 / 6, where the rate is 8.5 at most, in VE; the bound
    serves dpmpp_2m as well.
    """
    times = time_grid(process, sampler, NUMBER_OF_STEPS[sampler])
    if sampler == "euler":
        middle, h = (times[:-1] + times[1:]) / 2, np.diff(times)
        (a, g2), (alpha, sigma) = process.rates(middle), process.marginal(middle)
        rate = a + g2 / (2 * (alpha**2 * STD**2 + sigma**2))
        return np.sum(h**2 * (abs(np.gradient(rate, middle)) + rate**2) / 2)
    if sampler == "ddim":
        alpha, sigma = process.marginal(times)
        tau, variance = sigma / alpha, STD**2 + (sigma / alpha) ** 2
        taken = np.sum(np.log1p(np.diff(tau) * tau[:-1] / variance[:-1]))
        return abs(np.expm1(taken - 0.5 * np.log(variance[-1] / variance[0]))) + 1e-4
    return 8.5**3 / 6 / NUMBER_OF_STEPS[sampler] ** 2


@over_processes
@over_ode_samplers
def test_a_gaussians_noise_flows_where_the_closed_form_takes_it(name, sampler):
    """x - alpha m stays in proportion to its standard deviation."""
    process, x = ALL[name], np.asarray(start(name), np.float64)[:, 0, 0, :]
    (alpha, late_alpha), (sigma, late_sigma) = process.marginal(np.array([process.first, process.last]))
    v, late_v = alpha**2 * STD**2 + sigma**2, late_alpha**2 * STD**2 + late_sigma**2
    flowed = (x - late_alpha * MEAN) * (v / late_v) ** 0.5
    expected = MEAN + alpha * STD**2 / v * flowed  # the posterior mean
    error = np.max(abs(draws(name, sampler, "gaussian") - expected)) / np.max(abs(expected - MEAN))
    assert error < flow_error(process, sampler) < 0.06


def ancestral_step(offset, variance, alpha_t, sigma_t, v_t, alpha_s, sigma_s, _):
    """Bayes' rule for p(x_s | x_t, x_0): x_s ~ N(alpha_s x_0, sigma_s^2), seen as x_t ~ N(r x_s, w)."""
    r = alpha_t / alpha_s
    w = sigma_t**2 - r**2 * sigma_s**2
    precision = 1 / sigma_s**2 + r**2 / w
    gain = (alpha_s / sigma_s**2 * alpha_t * STD**2 / v_t + r / w) / precision
    return gain * offset, gain**2 * variance + 1 / precision


def langevin_step(offset, variance, alpha_t, sigma_t, v_t, alpha_s, sigma_s, v_s):
    """Song et al. 2021, algorithms 2 to 5, with the Gaussian's score -(x - alpha m) / v."""
    root = alpha_t / alpha_s  # sqrt(1 - beta)
    beta = sigma_t**2 - root**2 * sigma_s**2
    gain = 2 - root - beta / v_t
    offset = gain * offset + ((2 - root) * alpha_t - alpha_s) * MEAN
    variance = gain**2 * variance + beta
    norm_of_noise = stats.rice.mean(0)  # the length of a normal vector in the plane
    norm_of_score = stats.rice.mean(np.linalg.norm(offset) / variance**0.5, scale=variance**0.5) / v_s
    size = 2 * root**2 * (CORRECTOR_SNR * norm_of_noise / norm_of_score) ** 2
    return (1 - size / v_s) * offset, (1 - size / v_s) ** 2 * variance + 2 * size


TAKE = {"ancestral": ancestral_step, "langevin": langevin_step}


@over_processes
@pytest.mark.parametrize("sampler", TAKE)
def test_mean_and_variance_of_a_gaussians_samples_are_what_the_papers_steps_make_them(name, sampler):
    """Within 5 standard errors, and near the Gaussian's own; every step is linear in x, and keeps a Gaussian one."""
    process = ALL[name]
    ends = step_ends(process, time_grid(process, sampler, NUMBER_OF_STEPS[sampler]))
    alpha, sigma, *_ = ends[0]
    offset, variance = -alpha * MEAN, sigma**2  # of x - alpha m: the prior's
    for end in ends:
        offset, variance = TAKE[sampler](offset, variance, *end)
    *_, alpha, _, v = ends[-1]
    gain = alpha * STD**2 / v  # of the posterior mean, with which sampling ends
    offset, std = gain * offset, gain * variance**0.5
    # The ancestral steps' variance is off by O(1 / steps), the corrector's for good by half of 2 * 0.16^2.
    assert np.all(abs(offset) < 0.01 * STD) and abs(std / STD - 1) < 0.03
    points = draws(name, sampler, "gaussian")
    assert np.all(abs(points.mean(axis=0) - MEAN - offset) < 5 * std / COUNT**0.5)
    assert np.all(abs(points.std(axis=0) / std - 1) < 5 / (2 * COUNT) ** 0.5)


@pytest.mark.parametrize("sampler", TAKE)
def test_two_coarse_steps_from_the_wrong_place_are_the_papers(sampler):
    """Steps so coarse, and a start so narrow, that no near miss of the papers' formulas has these moments, within 5
    standard errors of 100,000 draws."""
    count, process, times = 100_000, VP(), np.array([0.35, 0.3, 0.25])
    offset, variance = np.array([1.0, -0.5]), 0.2
    ends = step_ends(process, times)
    x = ends[0][0] * MEAN + offset + variance**0.5 * np.random.default_rng(0).standard_normal((count, 1, 1, 2))
    for end in ends:
        offset, variance = TAKE[sampler](offset, variance, *end)
    denoise = exact_denoiser(jax.tree.map(jnp.float32, DATA["gaussian"]), process, "eps")
    solve = jax.jit(lambda x, key: integrate(denoise, process, "eps", x, times, key, sampler)[0])
    reached = np.asarray(solve(jnp.float32(x), jax.random.key(0)), np.float64)[:, 0, 0, :] - ends[-1][3] * MEAN
    assert np.all(abs(reached.mean(axis=0) - offset) < 5 * (variance / count) ** 0.5)
    assert np.all(abs(reached.var(axis=0) / variance - 1) < 5 * (2 / count) ** 0.5)


def test_the_kind_of_prediction_does_not_change_the_samples():
    """Equal but for the rounding of conversions, magnified by sigma / alpha = 150 at most and averaged over steps."""
    process, data = VP(), jax.tree.map(jnp.float32, DATA["mixture"])
    x = process.prior(jax.random.key(1), (64, 1, 1, 2))

    @functools.partial(jax.jit, static_argnums=0)
    def run(kind):
        return sample(exact_denoiser(data, process, kind), process, kind, x, jax.random.key(2), "ddim", 50, clip=False)

    expected = run("x0")
    for kind in PREDICTIONS:
        np.testing.assert_allclose(run(kind), expected, atol=1e-4, err_msg=kind)


# The order.


@over_ode_samplers
def test_the_error_falls_with_the_steps_at_the_solvers_order(sampler):
    """Errors of 10 to 160 steps against SciPy's trajectories; orders 1 and 2 are far apart, and higher terms small."""
    error = errors(sampler, VP(), STEPS[::2])
    assert np.all(np.diff(error) < 0) and error[-1] > 1e-5  # well above the rounding of float32
    assert order(STEPS[::2], error) == pytest.approx(ORDERS[sampler], abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sub_vp", "ve", "cosine", "rectified_flow"])
def test_heun_is_of_second_order_on_every_process(name):
    """From 80 to 160 steps the error falls to a quarter, up to the next term of its expansion."""
    steps = (80, 160)
    assert order(steps, errors("heun", ALL[name], steps)) == pytest.approx(2, abs=0.2)


def test_heun_is_of_second_order_on_a_chain_whose_rates_jump_at_its_steps():
    """On chains of 50 and 100 steps, by the Gaussian's closed form; with the rates of the piece next to the one that
    is crossed it would be of first order."""

    def error(steps):
        chain = VP().chain(steps)
        x, times = np.asarray(chain.prior(jax.random.key(0), (64, 1, 1, 2))), time_grid(chain, "heun", steps)
        denoise = exact_denoiser(jax.tree.map(jnp.float32, DATA["gaussian"]), chain, "x0")
        end, _ = jax.jit(lambda x: integrate(denoise, chain, "x0", x, times, jax.random.key(0), "heun"))(x)
        alpha, sigma = chain.marginal(times[[0, -1]])
        v = alpha**2 * STD**2 + sigma**2
        return np.sqrt(np.mean((end - alpha[1] * MEAN - (v[1] / v[0]) ** 0.5 * (x - alpha[0] * MEAN)) ** 2))

    assert order((50, 100), np.array([error(50), error(100)])) == pytest.approx(2, abs=0.2)


def test_ddim_on_rectified_flow_is_eulers_method():
    process, data = RectifiedFlow(), jax.tree.map(jnp.float32, DATA["mixture"])
    x, times = process.prior(jax.random.key(1), (64, 1, 1, 2)), time_grid(process, "ddim", 20)
    denoise = exact_denoiser(data, process, "flow")
    ends = [integrate(denoise, process, "flow", x, times, jax.random.key(0), name)[0] for name in ("ddim", "euler")]
    np.testing.assert_allclose(*ends, atol=1e-5)


# There and back.


@pytest.mark.parametrize(
    "name", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ve", "cosine", "rectified_flow"))]
)
@over_ode_samplers
def test_an_encoded_image_is_sampled_again(name, sampler):
    """To 1e-3, with the steps that this takes: ten times as many for Euler's on VE, whose sigma grows by exp(8.5)."""
    steps = {1: 80_000 if (name, sampler) == ("ve", "euler") else 8000, 2: 500}[ORDERS[sampler]]
    process, x0 = ALL[name], jnp.float32(DATA["mixture"].draw(16, seed=3))
    denoise = exact_denoiser(jax.tree.map(jnp.float32, DATA["mixture"]), process, "x0")

    @jax.jit
    def there_and_back(x0):
        x = encode(denoise, process, "x0", x0, sampler, steps)
        return x, sample(denoise, process, "x0", x, jax.random.key(0), sampler, steps, clip=False)

    x, again = there_and_back(x0)
    assert float(jnp.max(abs(x - x0))) > 0.5
    np.testing.assert_allclose(again, x0, atol=1e-3)


@over_ode_samplers
def test_a_gaussians_images_are_encoded_as_the_closed_form_has_it(sampler):
    process, x0 = ALL["cosine"], DATA["gaussian"].draw(64, seed=3)
    denoise = exact_denoiser(jax.tree.map(jnp.float32, DATA["gaussian"]), process, "v")
    steps = NUMBER_OF_STEPS[sampler]
    x = jax.jit(lambda x0: encode(denoise, process, "v", x0, sampler, steps))(jnp.float32(x0))
    (first, last), (sigma, late_sigma) = process.marginal(np.array([process.first, process.last]))
    stretch = ((last**2 * STD**2 + late_sigma**2) / (first**2 * STD**2 + sigma**2)) ** 0.5
    flowed = stretch * (x0 - first * MEAN)
    error = np.max(abs(np.asarray(x) - last * MEAN - flowed)) / np.max(abs(flowed))
    assert error < flow_error(process, sampler) + 1e-3  # as x_0 is put where x_t of t = first belongs


@pytest.mark.parametrize("sampler", ["ancestral", "langevin", "magic"])
def test_what_cannot_run_backwards_is_refused(sampler):
    with pytest.raises(ValueError, match="cannot run backwards; use one of"):
        encode(lambda x, t: x, VP(), "x0", jnp.zeros((1, 1, 1, 2)), sampler, 10)


# Each step.


def test_ancestral_steps_on_a_chain_are_algorithm_2_of_ddpm():
    """What each step adds to the posterior mean of Ho et al. 2020, eq. 7, over its standard deviation, is new standard
    normal noise: 49 steps of 1,000 numbers."""
    steps, shape = 50, (500, 1, 1, 2)
    chain, data = VP().chain(steps), DATA["mixture"]
    x = chain.prior(jax.random.key(1), shape)
    denoise = exact_denoiser(jax.tree.map(jnp.float32, data), chain, "eps")
    times = time_grid(chain, "ancestral", steps)
    end, path = integrate(denoise, chain, "eps", x, times, jax.random.key(2), "ancestral", keep_path=True)
    np.testing.assert_allclose(times, np.arange(steps, 0, -1) / steps, rtol=1e-12)
    xt = np.concatenate([path.xt, end[None]]).astype(np.float64)

    betas = np.linspace(0.1 / steps, 20 / steps, steps)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    noise = []
    for i, (before, after) in zip(range(steps, 1, -1), itertools.pairwise(xt), strict=True):
        beta, now, then = betas[i - 1], alpha_bar[i], alpha_bar[i - 1]
        x0 = posterior_mean(data, before, now**0.5, (1 - now) ** 0.5)
        mean = then**0.5 * beta / (1 - now) * x0 + (1 - beta) ** 0.5 * (1 - then) / (1 - now) * before
        noise.append((after - mean).ravel() / ((1 - then) / (1 - now) * beta) ** 0.5)
    noise, size = np.array(noise), xt[0].size
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.all(abs(noise.mean(axis=1)) < 5 / size**0.5) and np.all(
        abs(noise.var(axis=1) - 1) < 5 * (2 / size) ** 0.5
    )
    between = np.corrcoef(noise) - np.eye(len(noise))
    assert np.max(abs(between)) < 5 / size**0.5  # no noise is used twice


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@over_processes
def test_a_data_set_of_one_point_is_reached_exactly_in_three_steps(name, sampler):
    """With the only right noise, (x - alpha p) / sigma, both keep to the straight way from it to the point p."""
    process, point = ALL[name], jnp.full((4, 1, 1, 2), 0.3)

    def denoise(xt, t):
        alpha, sigma = (level[:, None, None, None] for level in process.marginal(t))
        return (xt - alpha * point) / sigma

    x, times, key = process.prior(jax.random.key(0), point.shape), time_grid(process, sampler, 4), jax.random.key(0)

    @jax.jit
    def run(x):
        end, _ = integrate(denoise, process, "eps", x, times, key, sampler)
        return end, sample(denoise, process, "eps", x, key, sampler, 4, clip=False)

    end, landed = run(x)
    (alpha, late_alpha), (sigma, late_sigma) = process.marginal(times[[-1, 0]])
    expected = alpha * point + sigma * (x - late_alpha * point) / late_sigma
    # Rounding of the noise over alpha, 1 / 0.0009 at most: 1e-4.
    np.testing.assert_allclose(end, expected, atol=5e-4)
    np.testing.assert_allclose(landed, point, atol=5e-4)


@pytest.mark.parametrize("sampler", ["ddim", "langevin"])
def test_clipping_holds_images_within_the_range(sampler):
    """A denoiser that sees a tenth of the noise takes 0.9 x / alpha for the image, up to 150 times too much."""
    x = VP().prior(jax.random.key(0), (4, 2, 2, 1))
    images = sample(lambda xt, t: 0.1 * xt, VP(), "eps", x, jax.random.key(1), sampler, 5)
    assert 0.99 < float(jnp.max(abs(images))) <= 1.0


def test_a_clipped_image_goes_with_the_noise_that_makes_up_the_rest():
    process, times = VP(), np.array([0.9, 0.5])
    x = 3 * jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
    end, _ = integrate(lambda xt, t: 0 * xt, process, "eps", x, times, jax.random.key(0), "ddim", clip=True)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = process.marginal(times)
    x0 = np.clip(x / alpha_t, -1, 1)
    np.testing.assert_allclose(end, alpha_s * x0 + sigma_s * (x - alpha_t * x0) / sigma_t, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "langevin"])
def test_the_path_is_every_step_and_the_image_guessed_there(sampler):
    process, data = VP(), jax.tree.map(jnp.float32, DATA["mixture"])
    denoise, key = exact_denoiser(data, process, "x0"), jax.random.key(2)
    x, times = process.prior(jax.random.key(1), (8, 1, 1, 2)), time_grid(process, sampler, 6)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(until, keep_path):
        return integrate(denoise, process, "x0", x, times[:until], key, sampler, keep_path=keep_path)

    (end, path), (without, nothing) = run(6, True), run(6, False)
    assert nothing is None and path.xt.shape == path.x0.shape == (5, *x.shape)
    np.testing.assert_allclose(end, without, atol=1e-5)
    np.testing.assert_array_equal(path.xt[0], x)
    np.testing.assert_array_equal(path.t, times[:-1].astype(np.float32))
    guesses = jax.jit(jax.vmap(lambda xt, t: denoise(xt, jnp.full(8, t))))(path.xt, path.t)
    np.testing.assert_allclose(path.x0, guesses, atol=1e-5)
    if sampler in ODE_SAMPLERS:  # a shorter way leads to the same place; keys are drawn for the whole of it
        np.testing.assert_allclose(run(4, False)[0], path.xt[3], atol=1e-5)


@over_samplers
def test_the_key_changes_stochastic_samplers_and_no_others(sampler):
    first, again, other = (draws("vp", sampler, "mixture", seed=seed) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (sampler in ODE_SAMPLERS)


@over_samplers
def test_the_denoiser_is_called_as_often_and_where_it_is_said(sampler):
    seen = []

    def denoise(xt, t):
        assert t.shape == (2,) and t.dtype == jnp.float32 and t[0] == t[1]
        seen.append(float(t[0]))
        return 0 * xt

    with jax.disable_jit():
        sample(denoise, VP(), "eps", jnp.ones((2, 1, 1, 2)), jax.random.key(0), sampler, 4)
    times = time_grid(VP(), sampler, 4)
    expected = [times[0], *(t for t in times[1:] for _ in range(2))] if sampler in ("heun", "langevin") else times
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


@over_processes
@over_samplers
def test_a_grid_falls_from_last_to_first(name, sampler):
    process = ALL[name]
    for steps in (2, 7):
        times = time_grid(process, sampler, steps)
        assert times.dtype == np.float64 and len(times) == steps
        assert times[0] == process.last and times[-1] == process.first and np.all(np.diff(times) < 0)
    equal = process.log_snr(times) if sampler == "dpmpp_2m" else times
    np.testing.assert_allclose(np.diff(equal), np.diff(equal).mean(), rtol=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "langevin"])
def test_a_half_precision_denoiser_is_sampled_in_single_precision(sampler):
    x = jnp.ones((2, 1, 1, 2))
    run = functools.partial(sample, lambda xt, t: xt.astype(jnp.bfloat16), VP(), "x0", x, jax.random.key(0), sampler, 3)
    assert run().dtype == jnp.float32


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="use one of"):
        sample(lambda x, t: x, VP(), "x0", jnp.zeros((1, 1, 1, 2)), jax.random.key(0), "magic", 10)
