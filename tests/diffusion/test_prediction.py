import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convergence import mixture, posterior_mean
from scipy.stats import multivariate_normal

from ddm_embed.diffusion import prediction as p
from ddm_embed.diffusion.process import VE, VP, RectifiedFlow

PROCESSES = {"vp": VP(), "ve": VE(), "rectified_flow": RectifiedFlow()}
T = np.array([0.05, 0.2, 0.4, 0.6, 0.8])
ROUNDING = 1e-11  # of float64, magnified by the largest sigma / alpha and alpha / sigma here, about 40, squared

over_pairs = pytest.mark.parametrize(("kind", "wanted"), [(a, b) for a in p.PREDICTIONS for b in p.PREDICTIONS])
over_kinds = pytest.mark.parametrize("kind", p.PREDICTIONS)


@pytest.fixture(autouse=True)
def double_precision():
    """An exact conversion is told from a nearly exact one by its digits."""
    with jax.enable_x64(True):
        yield


def definition(kind, x0, eps, alpha, sigma):
    """Each prediction as its paper defines it."""
    return {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "flow": eps - x0,
        "score": -(alpha * x0 + sigma * eps - alpha * x0) / sigma**2,
    }[kind]


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES)
def example(request):
    """x0, eps, alpha, sigma, x_t and the five right outputs."""
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, len(T), 4, 4, 3))
    alpha, sigma = request.param.marginal(T)
    wide = alpha[:, None, None, None], sigma[:, None, None, None]
    outputs = {kind: definition(kind, x0, eps, *wide) for kind in p.PREDICTIONS}
    return x0, eps, alpha, sigma, wide[0] * x0 + wide[1] * eps, outputs


def assert_equal(got, expected):
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=ROUNDING, atol=ROUNDING)


def test_noised_is_the_sum_of_image_and_noise(example):
    x0, eps, alpha, sigma, xt, _ = example
    assert_equal(p.noised(x0, eps, alpha, sigma), xt)


@over_kinds
def test_a_target_is_the_papers_definition(kind, example):
    x0, eps, alpha, sigma, _, outputs = example
    assert_equal(p.target(kind, x0, eps, alpha, sigma), outputs[kind])


@over_kinds
def test_the_right_output_gives_back_image_and_noise(kind, example):
    x0, eps, alpha, sigma, xt, outputs = example
    np.testing.assert_allclose(p.to_x0(kind, outputs[kind], xt, alpha, sigma), x0, atol=ROUNDING)
    np.testing.assert_allclose(p.to_eps(kind, outputs[kind], xt, alpha, sigma), eps, atol=ROUNDING)


@over_pairs
def test_every_kind_becomes_every_other(kind, wanted, example):
    _, _, alpha, sigma, xt, outputs = example
    np.testing.assert_allclose(p.convert(kind, wanted, outputs[kind], xt, alpha, sigma), outputs[wanted], atol=ROUNDING)


@over_pairs
def test_any_output_right_or_wrong_survives_the_way_there_and_back(kind, wanted, example):
    _, _, alpha, sigma, xt, _ = example
    output = np.random.default_rng(3).standard_normal(xt.shape)
    there = p.convert(kind, wanted, output, xt, alpha, sigma)
    np.testing.assert_allclose(p.convert(wanted, kind, there, xt, alpha, sigma), output, atol=ROUNDING)


@over_kinds
def test_image_and_noise_of_any_output_make_up_the_noised_image(kind, example):
    _, _, alpha, sigma, xt, _ = example
    output = np.random.default_rng(3).standard_normal(xt.shape)
    x0, eps = (to(kind, output, xt, alpha, sigma) for to in (p.to_x0, p.to_eps))
    np.testing.assert_allclose(p.noised(x0, eps, alpha, sigma), xt, atol=ROUNDING)


def test_velocity_is_the_derivative_along_the_circle(example):
    x0, eps, *_ = example
    angle = jnp.linspace(0.1, 1.4, len(T))
    _, derivative = jax.jvp(
        lambda phi: p.noised(x0, eps, jnp.cos(phi), jnp.sin(phi)), (angle,), (jnp.ones_like(angle),)
    )
    assert_equal(p.target("v", x0, eps, jnp.cos(angle), jnp.sin(angle)), derivative)


def test_flow_is_the_derivative_along_rectified_flow(example):
    x0, eps, *_ = example
    t = jnp.asarray(T)
    _, derivative = jax.jvp(lambda t: p.noised(x0, eps, *RectifiedFlow().marginal(t)), (t,), (jnp.ones_like(t),))
    assert_equal(p.target("flow", x0, eps, 1 - t, t), derivative)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_score_of_a_gaussians_marginal_is_its_posterior_mean(process):
    """Tweedie's formula; for x0 ~ N(m, s^2), Bayes' rule gives the mean weighted by precisions."""
    mean, std = 0.4, 0.5
    alpha, sigma = (level[:, None, None, None] for level in process.marginal(T))
    x = np.random.default_rng(1).standard_normal((len(T), 1, 1, 2)) * np.sqrt(alpha**2 * std**2 + sigma**2)
    score = -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    posterior = (mean / std**2 + alpha * x / sigma**2) / (1 / std**2 + alpha**2 / sigma**2)
    assert_equal(p.to_x0("score", score, x, *process.marginal(T)), posterior)


def test_the_score_of_a_mixtures_marginal_is_the_posterior_mean_that_other_tests_rely_on():
    """The score by central differences of SciPy's density of x_t, exact to h^2 = 1e-10 times a third derivative."""
    data, h = mixture(), 1e-5
    alpha, sigma = VP().marginal(T)
    x = np.random.default_rng(2).standard_normal((len(T), 2))

    def log_density(i, at):
        each = [
            weight * multivariate_normal.pdf(at, alpha[i] * mean, alpha[i] ** 2 * std**2 + sigma[i] ** 2)
            for weight, mean, std in zip(*data, strict=True)
        ]
        return np.log(sum(each))

    score = [
        [(log_density(i, x[i] + h * axis) - log_density(i, x[i] - h * axis)) / (2 * h) for axis in np.eye(2)]
        for i in range(len(T))
    ]
    score, x = (np.reshape(array, (len(T), 1, 1, 2)) for array in (score, x))
    got = p.to_x0("score", score, x, alpha, sigma)
    np.testing.assert_allclose(got, posterior_mean(data, x, alpha, sigma), atol=1e-6)


@over_kinds
def test_the_scale_of_an_error_is_the_noises_squared_change_as_the_output_changes_by_one(kind, example):
    _, _, alpha, sigma, xt, outputs = example
    before, after = (p.to_eps(kind, outputs[kind] + change, xt, alpha, sigma) for change in (0.0, 1.0))
    scale = p.eps_error_scale(kind, alpha, sigma)[:, None, None, None]
    np.testing.assert_allclose((after - before) ** 2, np.broadcast_to(scale, xt.shape), rtol=1e-9)


@over_kinds
def test_no_conversion_is_infinite_where_there_is_no_noise_or_no_signal(kind):
    x = jnp.ones((2, 1, 1, 1), jnp.float32)
    alpha, sigma = jnp.array([1.0, 0.0], jnp.float32), jnp.array([0.0, 1.0], jnp.float32)
    for wanted in p.PREDICTIONS:
        assert np.all(np.isfinite(p.convert(kind, wanted, x, x, alpha, sigma)))
    assert np.all(np.isfinite(p.eps_error_scale(kind, alpha, sigma)))


def test_an_unknown_prediction_is_refused():
    x, level = jnp.ones((1, 1, 1, 1)), jnp.ones(1)
    for use in (
        lambda: p.target("score?", x, x, level, level),
        lambda: p.to_x0("score?", x, x, level, level),
        lambda: p.to_eps("score?", x, x, level, level),
        lambda: p.convert("eps", "score?", x, x, level, level),
        lambda: p.eps_error_scale("score?", level, level),
    ):
        with pytest.raises(ValueError, match="use one of"):
            use()


def test_where_nothing_is_left_of_the_image_an_error_of_the_noise_still_counts_in_full():
    alpha, sigma = jnp.array([0.0, 1e-9]), jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(p.eps_error_scale("eps", alpha, sigma), [1.0, 1.0])
    np.testing.assert_allclose(p.eps_error_scale("score", alpha, sigma), [1.0, 4.0])
