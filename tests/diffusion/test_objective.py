import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.diffusion import prediction as p
from ddm_embed.diffusion.objective import Networks, Objective, cosine
from ddm_embed.diffusion.process import linear_chain

OBJECTIVE = Objective(linear_chain(), "eps", "simple", 5.0, "stratified", "x0", 0.0)
X0 = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
VIEW = X0[:, :, ::-1]


def networks(seen):
    """Networks that record what they are shown; the code is the image itself, flattened."""

    def encode(params, image, t):
        seen.append((params, image, t))
        return image.reshape(len(image), -1)

    return Networks(lambda params, xt, t, z: params * xt, encode, lambda params, z, t: z)


@pytest.mark.parametrize("kind", p.PREDICTIONS)
def test_a_denoiser_told_the_image_has_no_loss(kind):
    objective = dataclasses.replace(OBJECTIVE, prediction=kind)

    def denoise(params, xt, t, z):
        alpha, sigma = objective.process.marginal(t)
        x0 = z.reshape(xt.shape)
        eps = (xt - p.expand(alpha) * x0) / p.expand(sigma)
        return p.target(kind, x0, eps, alpha, sigma)

    oracle = Networks(denoise, lambda params, image, t: image.reshape(len(image), -1))
    loss, terms = objective.loss(oracle, None, None, X0, VIEW, jax.random.key(0))
    assert float(loss) < 1e-8 and terms.t.shape == (8,)


def test_predicting_nothing_costs_the_variance_of_the_noise():
    x0 = jnp.zeros((512, 8, 8, 1))
    silent = Networks(lambda params, xt, t, z: jnp.zeros_like(xt))
    objective = dataclasses.replace(OBJECTIVE, encoder_input="none")
    loss, _ = objective.loss(silent, None, None, x0, x0, jax.random.key(0))
    assert float(loss) == pytest.approx(1.0, abs=0.02)  # 32,768 draws: a standard error of 0.008


@pytest.mark.parametrize("encoder_input", ["x0", "xt", "view"])
def test_the_encoder_sees_what_the_config_says(encoder_input):
    seen = []
    objective = dataclasses.replace(OBJECTIVE, encoder_input=encoder_input)
    _, terms = objective.loss(networks(seen), 1.0, None, X0, VIEW, jax.random.key(0))
    _, image, t = seen[0]
    alpha, _ = objective.process.marginal(t)
    if encoder_input == "x0":
        np.testing.assert_array_equal(image, X0)
    if encoder_input == "view":
        assert not np.array_equal(t, terms.t)
        noise = (image - p.expand(alpha) * VIEW) / p.expand(jnp.sqrt(1 - alpha**2))
        assert abs(float(jnp.std(noise)) - 1) < 0.2
    else:
        np.testing.assert_array_equal(t, terms.t)


def test_an_encoder_of_the_noised_image_sees_the_denoisers_own_input():
    shown = {}

    def denoise(params, xt, t, z):
        shown["denoiser"] = xt
        return xt

    def encode(params, image, t):
        shown["encoder"] = image
        return image.reshape(len(image), -1)

    objective = dataclasses.replace(OBJECTIVE, encoder_input="xt")
    objective.loss(Networks(denoise, encode), None, None, X0, VIEW, jax.random.key(0))
    np.testing.assert_array_equal(shown["encoder"], shown["denoiser"])


def test_without_an_encoder_the_denoiser_is_told_nothing():
    def denoise(params, xt, t, z):
        assert z is None
        return xt

    dataclasses.replace(OBJECTIVE, encoder_input="none").loss(
        Networks(denoise), None, None, X0, VIEW, jax.random.key(0)
    )


def test_consistency_compares_with_an_earlier_code_of_the_target_network():
    seen = []
    objective = dataclasses.replace(OBJECTIVE, encoder_input="xt", consistency_weight=0.5)
    loss, terms = objective.loss(networks(seen), 1.0, 2.0, X0, VIEW, jax.random.key(0))
    (online, image, t), (target, past, earlier) = seen
    assert (online, target) == (1.0, 2.0) and np.all(earlier < t)
    agreement = cosine(image.reshape(8, -1), past.reshape(8, -1))
    np.testing.assert_allclose(terms.consistency, 1 - agreement, atol=1e-6)
    assert float(loss) == pytest.approx(float(jnp.mean(terms.denoising) + 0.5 * jnp.mean(terms.consistency)))


def test_no_gradient_flows_into_the_consistency_target():
    objective = dataclasses.replace(OBJECTIVE, consistency_weight=1.0)
    learned = Networks(
        lambda params, xt, t, z: jnp.zeros_like(xt),
        lambda params, image, t: params["w"] * image.reshape(len(image), -1) + t[:, None],
        lambda params, z, t: z,
    )
    grads = jax.grad(lambda target: objective.loss(learned, {"w": 1.0}, target, X0, VIEW, jax.random.key(0))[0])
    assert float(grads({"w": 1.0})["w"]) == 0.0


def test_stratified_times_fall_one_in_each_slice():
    t = OBJECTIVE.sample_times(jax.random.key(3), 50)
    slices = np.ceil(np.asarray(t) * 50 - 1e-4)
    assert sorted(slices) == list(range(1, 51))


def test_uniform_times_do_not():
    t = dataclasses.replace(OBJECTIVE, timesteps="uniform").sample_times(jax.random.key(3), 50)
    assert len(set(np.ceil(np.asarray(t) * 50 - 1e-4))) < 50


@pytest.mark.parametrize("kind", p.PREDICTIONS)
def test_min_snr_is_the_same_weight_on_the_image_in_every_space(kind):
    """An x0 error of 1 costs min(SNR, gamma) whatever is predicted: Hang et al. 2023, eq. 3 to 5."""
    objective = dataclasses.replace(OBJECTIVE, prediction=kind, weight="min_snr")
    alpha, sigma = objective.process.marginal(jnp.linspace(0.05, 0.95, 10))
    x0 = jnp.zeros((10, 1, 1, 1))
    eps = jax.random.normal(jax.random.key(0), x0.shape)
    xt = p.noised(x0, eps, alpha, sigma)
    wrong = x0 + 1.0  # the same x_t explained by an image that is off by 1
    wrong_eps = (xt - p.expand(alpha) * wrong) / p.expand(sigma)
    error = p.target(kind, wrong, wrong_eps, alpha, sigma) - p.target(kind, x0, eps, alpha, sigma)
    cost = objective.loss_weight(alpha, sigma) * jnp.squeeze(error) ** 2
    np.testing.assert_allclose(cost, jnp.minimum((alpha / sigma) ** 2, 5.0), rtol=1e-3)
