import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from ddm_embed.diffusion.process import PROCESSES, VE, VP, Cosine

CHAIN_STEPS = 10
CONTINUOUS = {name: kind() for name, kind in PROCESSES.items()}
CHAINS = {f"{name}_chain": kind().chain(CHAIN_STEPS) for name, kind in PROCESSES.items()}
ALL = CONTINUOUS | CHAINS
SINGLE = np.finfo(np.float32).eps

over_continuous = pytest.mark.parametrize("process", CONTINUOUS.values(), ids=CONTINUOUS)
over_chains = pytest.mark.parametrize("process", CHAINS.values(), ids=CHAINS)
over_all = pytest.mark.parametrize("process", ALL.values(), ids=ALL)


def inner_times(process):
    """Times inside [first, last], for a chain well inside its pieces."""
    if process.steps:
        middles = (np.arange(1, process.steps) + 0.5) / process.steps
        return np.sort(np.concatenate([middles - 0.2 / process.steps, middles]))
    return np.linspace(0.02, process.last - 0.02, 25)


def closed_form(name, t):
    """alpha and sigma^2 at one t, from the papers' definitions."""
    if name in ("vp", "sub_vp"):
        integral, _ = quad(lambda s: 0.1 + s * (20 - 0.1), 0, t)
        signal = np.exp(-integral)
        return signal**0.5, 1 - signal if name == "vp" else (1 - signal) ** 2
    if name == "ve":
        return 1.0, (0.01 * (50 / 0.01) ** t) ** 2 - 0.01**2
    if name == "cosine":
        alpha_bar = [np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2 for s in (t, 0.0)]
        return (alpha_bar[0] / alpha_bar[1]) ** 0.5, 1 - alpha_bar[0] / alpha_bar[1]
    return 1 - t, t**2


@pytest.mark.parametrize("name", CONTINUOUS)
def test_marginals_are_their_closed_forms(name):
    times = np.linspace(0.01, CONTINUOUS[name].last, 12)
    alpha, sigma = CONTINUOUS[name].marginal(times)
    expected = np.array([closed_form(name, t) for t in times])
    np.testing.assert_allclose(alpha, expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(sigma**2, expected[:, 1], rtol=1e-10)  # 1 - alpha^2 has lost 3 digits at t = 0.01


@over_all
def test_rates_are_the_derivatives_of_the_marginals(process):
    """Central differences: their error is h^2 times a third derivative, and rounding over h, both below 1e-6 here."""
    t, h = inner_times(process), 1e-5
    (early_alpha, early_sigma), (late_alpha, late_sigma) = process.marginal(t - h), process.marginal(t + h)
    a, g2 = process.rates(t)
    slope = (np.log(late_alpha) - np.log(early_alpha)) / (2 * h)
    growth = (late_sigma**2 - early_sigma**2) / (2 * h)
    np.testing.assert_allclose(a, slope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(g2, growth - 2 * slope * process.marginal(t)[1] ** 2, rtol=1e-6, atol=1e-9)


@over_all
def test_rates_are_the_derivatives_that_jax_takes(process):
    t = jnp.asarray(inner_times(process), jnp.float32)

    @jax.jit
    def levels(t):
        alpha, sigma = process.marginal(t)
        return jnp.log(alpha), sigma**2

    (_, variance), (slope, growth) = jax.jvp(levels, (t,), (jnp.ones_like(t),))
    a, g2 = process.rates(t)
    # A few roundings, magnified where alpha is the small cosine of a large angle: by 1 / alpha, at most 50 here.
    np.testing.assert_allclose(a, slope, rtol=500 * SINGLE, atol=1e-6)
    np.testing.assert_allclose(g2, growth - 2 * slope * variance, rtol=500 * SINGLE, atol=1e-6)


@over_all
def test_the_sdes_moment_equations_lead_from_the_image_to_the_marginals(process):
    """m' = a m and (s^2)' = 2 a s^2 + g^2 from m = 1, s^2 = 0 (Song et al. 2021, app. B), solved by SciPy."""
    end = 0.95
    breaks = np.append(np.arange(0, end, 1 / CHAIN_STEPS), end)  # a chain's rates jump there; the solver starts anew

    def slope(t, state):
        a, g2 = (rate[0] for rate in process.rates(np.array([t])))
        return [a * state[0], 2 * a * state[1] + g2]

    state = [1.0, 0.0]
    for begin, stop in itertools.pairwise(breaks):
        inside = 1e-9 * (stop - begin)
        state = solve_ivp(slope, (begin + inside, stop - inside), state, "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    alpha, sigma = process.marginal(np.array([end]))
    np.testing.assert_allclose(state, [alpha[0], sigma[0] ** 2], rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["vp", "vp_chain", *(pytest.param(name, marks=pytest.mark.slow) for name in CONTINUOUS if name != "vp")]
)
def test_simulating_the_sde_gives_mean_and_variance_of_the_marginals(name):
    """20,000 paths by Euler-Maruyama: 5 standard errors, and the scheme's own error, which its moments tell exactly."""
    process, steps, count, x0 = ALL[name], 500, 20_000, 1.5
    end = 0.6 if name == "ve" else 0.9  # before cosine and rectified flow become singular
    dt = end / steps
    grid = np.arange(steps) * dt

    @jax.jit
    def simulate(key):
        def step(x, now):
            t, key = now
            a, g2 = process.rates(jnp.full((count, 1, 1, 1), t))
            return x + a * x * dt + (g2 * dt) ** 0.5 * jax.random.normal(key, x.shape), None

        start = jnp.full((count, 1, 1, 1), x0)
        return jax.lax.scan(step, start, (jnp.asarray(grid, jnp.float32), jax.random.split(key, steps)))[0]

    mean, variance = x0, 0.0
    for a, g2 in zip(*process.rates(grid), strict=True):
        mean, variance = (1 + a * dt) * mean, (1 + a * dt) ** 2 * variance + g2 * dt
    alpha, sigma = (level[0] for level in process.marginal(np.array([end])))
    bias_of_mean, bias_of_variance = abs(mean - alpha * x0), abs(variance - sigma**2)
    assert bias_of_mean < 0.02 * sigma and bias_of_variance < 0.02 * sigma**2  # about 1 / steps times the rates

    x = np.asarray(simulate(jax.random.key(0)), np.float64)
    assert abs(x.mean() - alpha * x0) < 5 * sigma / count**0.5 + bias_of_mean
    assert abs(x.var() - sigma**2) < 5 * sigma**2 * (2 / count) ** 0.5 + bias_of_variance


@over_all
def test_noise_strictly_grows_and_log_snr_strictly_falls(process):
    t = np.linspace(process.first, process.last, 10_001)
    assert np.all(np.diff(process.marginal(t)[1]) > 0)
    assert np.all(np.diff(process.log_snr(t)) < 0)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_no_two_steps_of_a_chain_are_the_same_and_the_last_has_signal(name, steps):
    chain = PROCESSES[name]().chain(steps)
    assert len(chain.alpha) == len(chain.sigma) == steps + 1
    assert np.all(np.diff(chain.sigma) > 0) and np.all(np.diff(chain.alpha / np.maximum(chain.sigma, 1e-9)) < 0)
    assert chain.alpha[-1] > 0


@over_all
def test_log_snr_is_the_logarithm_of_signal_power_over_noise_power(process):
    alpha, sigma = process.marginal(inner_times(process))
    np.testing.assert_allclose(
        process.log_snr(inner_times(process)), np.log(alpha**2 / sigma**2), rtol=1e-9, atol=1e-12
    )


@over_all
def test_time_zero_is_the_clean_image(process):
    for zero in (np.zeros(1), jnp.zeros(1)):
        alpha, sigma = process.marginal(zero)
        assert float(alpha[0]) == 1.0 and float(sigma[0]) == 0.0


@over_all
def test_the_host_in_float64_and_jax_in_float32_agree_under_jit(process):
    t = jnp.asarray(np.concatenate([[process.first], inner_times(process), [process.last]]), jnp.float32)
    host = np.asarray(t, np.float64)
    # Rounding, times 1 / alpha <= 210 where alpha is a difference of numbers near 1 (rectified flow, cosine at `last`).
    for ours, theirs in ((process.marginal, jax.jit(process.marginal)), (process.rates, jax.jit(process.rates))):
        for expected, got in zip(ours(host), theirs(t), strict=True):
            assert expected.dtype == np.float64 and got.dtype == jnp.float32
            np.testing.assert_allclose(got, expected, rtol=500 * SINGLE)


def test_vp_chain_of_1000_is_the_ddpm_product_formula_exactly():
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    chain, t = VP().chain(1000), np.arange(1, 1001) / 1000
    alpha, sigma = chain.marginal(t)
    np.testing.assert_array_equal(alpha, np.sqrt(alpha_bar))
    np.testing.assert_array_max_ulp(sigma, np.sqrt(1 - alpha_bar), maxulp=1)
    alpha, sigma = chain.marginal(jnp.arange(1, 1001) / 1000)
    np.testing.assert_array_max_ulp(np.asarray(alpha), np.sqrt(alpha_bar).astype(np.float32), maxulp=2)
    np.testing.assert_array_max_ulp(np.asarray(sigma), np.sqrt(1 - alpha_bar).astype(np.float32), maxulp=2)


def test_vp_chain_of_few_steps_adds_as_much_noise_as_one_of_1000():
    """The sum of the betas is kept, so that log alpha_bar at the end agrees up to the betas' squares."""
    long, short = VP().chain(1000), VP().chain(200)
    assert short.alpha[1] ** 2 == pytest.approx(1 - 0.1 / 200, rel=1e-12)
    squares = np.sum(np.linspace(0.1 / 200, 20 / 200, 200) ** 2)
    assert abs(2 * np.log(short.alpha[-1] / long.alpha[-1])) < squares


def test_cosine_chain_follows_its_formula_until_betas_are_clipped():
    chain = Cosine().chain(1000)
    t = np.arange(1001) / 1000
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected /= expected[0]
    np.testing.assert_allclose(chain.alpha[:999] ** 2, expected[:999], rtol=1e-9)
    betas = 1 - (chain.alpha[1:] / chain.alpha[:-1]) ** 2
    assert betas.max() == pytest.approx(0.999, rel=1e-9) == betas[-1]


@pytest.mark.parametrize("name", ["sub_vp", "ve", "rectified_flow"])
def test_other_chains_have_the_marginals_of_their_process_at_every_step(name):
    chain, t = CHAINS[f"{name}_chain"], np.arange(1, CHAIN_STEPS) / CHAIN_STEPS
    for got, expected in zip(chain.marginal(t), CONTINUOUS[name].marginal(t), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@over_chains
def test_a_chain_is_continuous_at_its_steps(process):
    """A change of 1e-9 in t moves nothing by more than 1e-9 times the steepest slope at its steps, from either side."""
    t, h = np.arange(1, CHAIN_STEPS + 1) / CHAIN_STEPS, 1e-9
    alpha, sigma = process.marginal(t)
    for side, steepest in ((t - h, process.rates(t - h)), (np.minimum(t + h, 1), process.rates(np.minimum(t + h, 1)))):
        a, g2 = steepest
        near_alpha, near_sigma = process.marginal(side)
        assert np.all(abs(near_alpha - alpha) <= 2 * h * abs(a) * alpha + 1e-15)
        assert np.all(abs(near_sigma**2 - sigma**2) <= 2 * h * (g2 + abs(2 * a) * sigma**2) + 1e-12 * sigma**2)


@over_chains
def test_a_chain_between_two_steps_lies_between_them(process):
    for share in (0.01, 0.5, 0.99):
        alpha, sigma = process.marginal((np.arange(CHAIN_STEPS) + share) / CHAIN_STEPS)
        assert np.all(alpha <= process.alpha[:-1]) and np.all(alpha >= process.alpha[1:])
        assert np.all(sigma > process.sigma[:-1]) and np.all(sigma < process.sigma[1:])


@over_all
def test_the_time_of_a_sigma_and_of_a_log_snr_is_found_again(process):
    t = np.concatenate([[process.first], inner_times(process), [process.last]])
    # sigma hardly moves where alpha is 0.001: a rounding of sigma is one of 1e-10 in t.
    np.testing.assert_allclose(process.time_at_sigma(process.marginal(t)[1]), t, atol=1e-9)
    np.testing.assert_allclose(process.time_at_log_snr(process.log_snr(t)), t, atol=1e-12)


@pytest.mark.parametrize("name", ["vp", "ve", "cosine", "vp_chain"])
def test_the_time_of_a_sigma_has_that_sigma_in_float32_under_jit(name):
    process = ALL[name]
    _, sigma = process.marginal(jnp.asarray(inner_times(process), jnp.float32))
    found = jax.jit(process.time_at_sigma)(sigma)
    # t is rounded to half an ulp, which sigma feels by (log sigma)' t: at most 8.5 in VE, about 1 elsewhere.
    np.testing.assert_allclose(process.marginal(found)[1], sigma, rtol=16 * SINGLE)


def test_the_prior_has_the_standard_deviation_of_the_last_sigma():
    count = 100_000
    for process in ALL.values():
        x = np.asarray(process.prior(jax.random.key(0), (count, 1, 1, 1)), np.float64)
        sigma = process.marginal(np.array([process.last]))[1][0]
        assert abs(x.mean()) < 5 * sigma / count**0.5 and abs(x.std() / sigma - 1) < 5 / (2 * count) ** 0.5


def test_ve_ends_at_its_largest_sigma():
    assert VE().marginal(np.ones(1))[1][0] == pytest.approx((50**2 - 0.01**2) ** 0.5, rel=1e-12)


def test_uniform_numbers_fall_on_every_step_of_a_chain_equally():
    t = VP().chain(10).at(jnp.arange(1000) / 1000)
    values, counts = np.unique(np.round(np.asarray(t) * 10), return_counts=True)
    assert values.tolist() == list(range(1, 11)) and set(counts.tolist()) == {100}


@over_continuous
def test_uniform_numbers_fall_uniformly_on_continuous_time(process):
    u = np.array([0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(process.at(u), 1e-5 + (1 - 1e-5) * u, rtol=1e-12)
    alpha, sigma = process.marginal(process.at(jnp.array([0.0, 1 - 2.0**-23], jnp.float32)))
    assert np.all(np.isfinite(alpha)) and np.all(sigma > 0)


def test_an_earlier_step_of_a_chain_is_strictly_earlier_and_reaches_the_clean_image():
    chain = VP().chain(10)
    t = jnp.repeat(jnp.arange(1, 11) / 10, 200)
    u = jnp.tile(jnp.linspace(0, 1 - 1e-7, 200), 10)
    earlier = np.asarray(chain.before(t, u))
    assert np.all(earlier < np.asarray(t)) and earlier.min() == 0.0
    values, counts = np.unique(np.round(earlier[-200:] * 10), return_counts=True)
    assert values.tolist() == list(range(10)) and set(counts.tolist()) == {20}


def test_an_earlier_continuous_time_is_strictly_earlier_and_uniform():
    t = jnp.full(1000, 0.7)
    earlier = np.asarray(VP().before(t, jnp.arange(1000) / 1000))
    np.testing.assert_allclose(earlier, 0.7 * np.arange(1000) / 1000, rtol=1e-6)
    assert np.all(earlier < 0.7) and earlier[0] == 0.0
