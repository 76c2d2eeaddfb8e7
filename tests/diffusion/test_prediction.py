import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.diffusion import prediction as p
from ddm_embed.diffusion.process import linear_chain


@pytest.fixture(scope="module")
def example():
    keys = jax.random.split(jax.random.key(0), 2)
    x0, eps = (jax.random.normal(key, (5, 4, 4, 3)) for key in keys)
    alpha, sigma = linear_chain().marginal(jnp.array([0.01, 0.1, 0.3, 0.5, 0.7]))
    return x0, eps, alpha, sigma, p.noised(x0, eps, alpha, sigma)


@pytest.mark.parametrize("kind", p.PREDICTIONS)
def test_the_right_output_gives_back_image_and_noise(kind, example):
    x0, eps, alpha, sigma, xt = example
    output = p.target(kind, x0, eps, alpha, sigma)
    np.testing.assert_allclose(p.to_x0(kind, output, xt, alpha, sigma), x0, atol=2e-5)
    np.testing.assert_allclose(p.to_eps(kind, output, xt, alpha, sigma), eps, atol=2e-4)


def test_velocity_is_the_derivative_along_the_circle(example):
    x0, eps, alpha, sigma, _ = example
    angle = jnp.arctan2(sigma, alpha)

    def at(phi):
        return p.noised(x0, eps, jnp.cos(phi), jnp.sin(phi))

    _, derivative = jax.jvp(at, (angle,), (jnp.ones_like(angle),))
    np.testing.assert_allclose(p.target("v", x0, eps, alpha, sigma), derivative, atol=1e-5)


def test_an_unknown_prediction_is_refused(example):
    with pytest.raises(ValueError, match="use one of"):
        p.target("score?", *example[:4])
