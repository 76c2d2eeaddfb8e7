import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.diffusion.process import PROCESSES, cosine_chain, linear_chain


def test_linear_chain_is_the_ddpm_product_formula():
    betas = np.linspace(1e-4, 0.02, 1000)
    chain = linear_chain(1000)
    for i in (0, 1, 99, 500, 999):
        product = 1.0
        for beta in betas[: i + 1]:
            product *= 1 - beta
        alpha, sigma = chain.marginal(jnp.array([(i + 1) / 1000]))
        assert float(alpha[0]) == pytest.approx(product**0.5, rel=1e-6)
        assert float(sigma[0]) == pytest.approx((1 - product) ** 0.5, rel=1e-6)


def test_cosine_chain_follows_its_formula_until_betas_are_clipped():
    chain = cosine_chain(1000)
    t = np.arange(1001) / 1000
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected /= expected[0]
    np.testing.assert_allclose(chain.alpha_bar[:990], expected[:990], rtol=1e-9)
    assert chain.betas.max() == 0.999


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [50, 1000])
def test_noise_grows_from_none_to_nearly_all(name, steps):
    chain = PROCESSES[name](steps)
    alpha, sigma = chain.marginal(jnp.linspace(0, 1, steps + 1))
    assert float(alpha[0]) == 1.0 and float(sigma[0]) == 0.0
    assert np.all(np.diff(sigma) >= 0) and float(alpha[-1]) < 0.02
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)


def test_uniform_numbers_fall_on_every_step_equally():
    chain = linear_chain(10)
    t = chain.nearest(jnp.arange(1000) / 1000)
    values, counts = np.unique(np.round(np.asarray(t) * 10), return_counts=True)
    assert values.tolist() == list(range(1, 11)) and set(counts.tolist()) == {100}


def test_an_earlier_step_is_strictly_earlier_and_reaches_the_clean_image():
    chain = linear_chain(10)
    t = jnp.repeat(jnp.arange(1, 11) / 10, 200)
    u = jnp.tile(jnp.linspace(0, 1 - 1e-7, 200), 10)
    earlier = np.asarray(chain.before(t, u))
    assert np.all(earlier < np.asarray(t)) and earlier.min() == 0.0
    assert set(np.round(earlier[-200:] * 10)) == set(range(10))
