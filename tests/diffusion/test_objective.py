import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from ddm_embed.diffusion import prediction as p
from ddm_embed.diffusion.agreement import cosine, nt_xent
from ddm_embed.diffusion.objective import ADVERSARY, Objective, gaussian_kl, mix
from ddm_embed.diffusion.process import PROCESSES, VE, VP
from ddm_embed.diffusion.timesteps import Timesteps
from ddm_embed.methods.method import Networks

OBJECTIVE = Objective(VP().chain(1000), timesteps=Timesteps("stratified"))
X0 = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
VIEW = X0[:, :, ::-1]


def code(z, log_variance=None):
    return SimpleNamespace(z=z, log_variance=log_variance)


def flat(image):
    return image.reshape(len(image), -1)


def loss_of(objective, networks, params, target_params, x0, view, key):
    logits = networks.heads[ADVERSARY](params) if ADVERSARY in networks.heads else None
    return objective.loss(networks, params, target_params, x0, objective.draw(key, x0, view, 2, logits))


def networks(seen):
    """Networks that record what they are shown; the code is the image itself, flattened."""

    def encode(params, image, t):
        seen.append((params, image, t))
        return code(flat(image))

    return Networks(lambda params, xt, t, z: (params * xt, ()), encode, {"predictor": lambda params, z, t: z})


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", p.PREDICTIONS)
def test_a_denoiser_told_the_image_has_no_loss(kind, name):
    objective = dataclasses.replace(OBJECTIVE, prediction=kind, process=PROCESSES[name](first=0.01), weight="sigma2")

    def denoise(params, xt, t, z):
        alpha, sigma = objective.process.marginal(t)
        x0 = z.reshape(xt.shape)
        eps = (xt - p.expand(alpha) * x0) / p.expand(sigma)
        return p.target(kind, x0, eps, alpha, sigma), ()

    oracle = Networks(denoise, lambda params, image, t: code(flat(image)))
    loss, terms = loss_of(objective, oracle, None, None, X0, VIEW, jax.random.key(0))
    assert float(loss) < 1e-6 and terms.t.shape == (8,)  # float32, sigma as small as 1e-4


def test_predicting_nothing_costs_the_variance_of_the_noise():
    x0 = jnp.zeros((512, 8, 8, 1))
    silent = Networks(lambda params, xt, t, z: (jnp.zeros_like(xt), ()))
    objective = dataclasses.replace(OBJECTIVE, encoder_input="none")
    loss, _ = loss_of(objective, silent, None, None, x0, x0, jax.random.key(0))
    assert float(loss) == pytest.approx(1.0, abs=0.02)  # 32,768 draws: a standard error of 0.008


@pytest.mark.parametrize("encoder_input", ["x0", "xt", "view", "clean_view"])
def test_the_encoder_sees_what_the_config_says(encoder_input):
    seen = []
    objective = dataclasses.replace(OBJECTIVE, encoder_input=encoder_input)
    _, terms = loss_of(objective, networks(seen), 1.0, None, X0, VIEW, jax.random.key(0))
    _, image, t = seen[0]
    alpha, _ = objective.process.marginal(t)
    if encoder_input == "x0":
        np.testing.assert_array_equal(image, X0)
    if encoder_input == "clean_view":
        np.testing.assert_array_equal(image, VIEW)
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
        return xt, ()

    def encode(params, image, t):
        shown["encoder"] = image
        return code(flat(image))

    objective = dataclasses.replace(OBJECTIVE, encoder_input="xt")
    loss_of(objective, Networks(denoise, encode), None, None, X0, VIEW, jax.random.key(0))
    np.testing.assert_array_equal(shown["encoder"], shown["denoiser"])


def test_without_an_encoder_the_denoiser_is_told_nothing():
    def denoise(params, xt, t, z):
        assert z is None
        return xt, ()

    objective = dataclasses.replace(OBJECTIVE, encoder_input="none")
    loss_of(objective, Networks(denoise), None, None, X0, VIEW, jax.random.key(0))


def test_consistency_compares_with_an_earlier_code_of_the_target_network():
    seen = []
    objective = dataclasses.replace(OBJECTIVE, encoder_input="xt", consistency_weight=0.5)
    loss, terms = loss_of(objective, networks(seen), 1.0, 2.0, X0, VIEW, jax.random.key(0))
    (online, image, t), (target, past, earlier) = seen
    assert (online, target) == (1.0, 2.0) and np.all(earlier < t)
    agreement = cosine(image.reshape(8, -1), past.reshape(8, -1))
    np.testing.assert_allclose(terms.consistency, 1 - agreement, atol=1e-6)
    assert float(loss) == pytest.approx(float(jnp.mean(terms.denoising) + 0.5 * jnp.mean(terms.consistency)))


@pytest.mark.parametrize("encoder_input", ["x0", "xt", "view", "clean_view"])
@pytest.mark.parametrize("kind", ["views", "contrast"])
def test_consistency_between_views_compares_codes_of_two_views_at_two_levels(kind, encoder_input):
    seen = []
    objective = dataclasses.replace(
        OBJECTIVE, encoder_input=encoder_input, consistency=kind, consistency_weight=0.5, temperature=0.2
    )
    nets = networks(seen)
    nets = nets._replace(heads=dict(nets.heads) | {"projector": lambda params, z: params * z[:, :5]})
    loss, terms = loss_of(objective, nets, 1.0, 2.0, X0, VIEW, jax.random.key(0))
    (own, image, t), (others, other, s) = seen
    assert own == 1.0 and others == (2.0 if kind == "views" else 1.0) and np.all(np.asarray(s) < np.asarray(t))
    if encoder_input in ("x0", "clean_view"):
        pair = (X0, VIEW) if encoder_input == "x0" else (VIEW, X0)
        assert all(map(np.array_equal, (image, other), pair))
    if kind == "views":
        expected = 1 - cosine(flat(image), flat(other))
    else:
        expected = nt_xent(flat(image)[:, :5], flat(other)[:, :5], 0.2)[0]
    np.testing.assert_allclose(terms.consistency, expected, atol=1e-6)
    assert float(loss) == pytest.approx(float(jnp.mean(terms.denoising) + 0.5 * jnp.mean(terms.consistency)))


def test_one_image_in_two_is_denoised_and_the_code_of_all_is_compared():
    changes = dict(encoder_input="x0", consistency="contrast", consistency_weight=0.5, decoupled=True)
    objective = dataclasses.replace(OBJECTIVE, one_in=2, **changes)
    seen, projector = [], {"projector": lambda params, z: params * z[:, :5]}
    nets = networks(seen)
    nets = nets._replace(heads=dict(nets.heads) | projector)
    loss, terms = loss_of(objective, nets, 1.0, 2.0, X0, VIEW, jax.random.key(0))
    _, whole = loss_of(dataclasses.replace(objective, one_in=1), nets, 1.0, 2.0, X0, VIEW, jax.random.key(0))
    assert all(len(image) == 8 for _, image, _ in seen)
    for name in ("t", "denoising", "error"):
        np.testing.assert_array_equal(getattr(terms, name), np.repeat(getattr(whole, name)[::2], 2), err_msg=name)
    np.testing.assert_array_equal(terms.consistency, whole.consistency)
    expected = jnp.mean(whole.denoising[::2]) + 0.5 * jnp.mean(whole.consistency)
    assert float(loss) == pytest.approx(float(expected))


def test_consistency_between_views_leaves_all_other_draws_as_they_are():
    plain = OBJECTIVE.draw(jax.random.key(0), X0, VIEW, 2)
    objective = dataclasses.replace(OBJECTIVE, consistency="contrast", consistency_weight=0.5)
    drawn = objective.draw(jax.random.key(0), X0, VIEW, 2)
    assert plain.other is None and np.array_equal(drawn.other, VIEW)
    for name in plain._fields[:-2]:
        assert np.array_equal(getattr(plain, name), getattr(drawn, name)), name


def test_no_gradient_flows_into_the_consistency_target():
    objective = dataclasses.replace(OBJECTIVE, consistency_weight=1.0)
    learned = Networks(
        lambda params, xt, t, z: (jnp.zeros_like(xt), ()),
        lambda params, image, t: code(params["w"] * flat(image) + t[:, None]),
        {"predictor": lambda params, z, t: z},
    )
    grads = jax.grad(lambda target: loss_of(objective, learned, {"w": 1.0}, target, X0, VIEW, jax.random.key(0))[0])
    assert float(grads({"w": 1.0})["w"]) == 0.0


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
    cost = objective.loss_weight(jnp.linspace(0.05, 0.95, 10)) * jnp.squeeze(error) ** 2
    np.testing.assert_allclose(cost, jnp.minimum((alpha / sigma) ** 2, 5.0), rtol=1e-3)


def losses(objective, wrong, process=None):
    """The loss of a denoiser whose guess of the noise is off by `wrong`, whatever it predicts."""

    def denoise(params, xt, t, z):
        alpha, sigma = objective.process.marginal(t)
        x0 = z.reshape(xt.shape)
        eps = (xt - p.expand(alpha) * x0) / p.expand(sigma) + wrong
        x0 = (xt - p.expand(sigma) * eps) / p.expand(alpha)
        return p.target(objective.prediction, x0, eps, alpha, sigma), ()

    oracle = Networks(denoise, lambda params, image, t: code(flat(image)))
    return loss_of(objective, oracle, None, None, X0, VIEW, jax.random.key(0))[1].denoising


@pytest.mark.parametrize("kind", p.PREDICTIONS)
@pytest.mark.parametrize("process", [VP(first=0.01), VE(first=0.01)])
def test_sigma_squared_on_the_score_is_one_on_the_noise_in_every_space(kind, process):
    objective = dataclasses.replace(OBJECTIVE, prediction=kind, weight="sigma2", process=process)
    np.testing.assert_allclose(losses(objective, 0.5), 0.25, rtol=2e-3)


@pytest.mark.parametrize("kind", p.PREDICTIONS)
def test_a_weight_of_the_users_own_falls_on_the_scores_error(kind):
    def own(t, alpha, sigma):
        return (1 + t) * sigma**3

    objective = dataclasses.replace(OBJECTIVE, prediction=kind, weight=own, process=VP(first=0.01))
    t = objective.timesteps.sample(objective.process, jax.random.split(jax.random.key(0), 4)[0], 8)
    _, sigma = objective.process.marginal(t)
    # An error of 0.5 in the noise is one of 0.5 / sigma in the score.
    np.testing.assert_allclose(losses(objective, 0.5), (1 + t) * sigma**3 * (0.5 / sigma) ** 2, rtol=2e-3)


def test_the_kl_is_the_closed_form_of_two_gaussians_integrated_numerically():
    mean, log_variance = np.array([[0.3, -1.2], [0.0, 0.0]]), np.array([[0.5, -2.0], [0.0, 0.0]])
    z = np.linspace(-15, 15, 200_001)

    def integral(m, v):
        q = np.exp(-((z - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        return np.trapezoid(q * (-((z - m) ** 2) / (2 * v) - np.log(v) / 2 + z**2 / 2), z)

    expected = [
        sum(integral(m, np.exp(lv)) for m, lv in zip(*row, strict=True)) for row in zip(mean, log_variance, strict=True)
    ]
    np.testing.assert_allclose(gaussian_kl(jnp.asarray(mean), jnp.asarray(log_variance)), expected, atol=1e-5)


@pytest.mark.parametrize("unit, factor", [("mean", 1.0), ("sum", 2 / X0[0].size)])
def test_a_penalty_stands_beside_the_mean_over_pixels_or_half_the_sum(unit, factor):
    """Mittal et al.'s code: 0.5 * sum over pixels + weight * penalty."""
    objective = dataclasses.replace(OBJECTIVE, l1_weight=0.3, penalty_unit=unit)
    loss, terms = loss_of(objective, networks([]), 1.0, None, X0, VIEW, jax.random.key(0))
    penalty = 0.3 * float(terms.code.mean())
    assert float(loss) == pytest.approx(float(terms.denoising.mean()) + factor * penalty, rel=1e-5)


def test_a_gaussian_code_is_drawn_and_its_kl_joins_the_loss():
    told = []

    def denoise(params, xt, t, z):
        told.append(z)
        return xt, ()

    x0 = jnp.zeros((4000, 1, 1, 2))
    mean, log_variance = jnp.full((4000, 2), 0.7), jnp.full((4000, 2), jnp.log(0.25))
    drawn = Networks(denoise, lambda params, image, t: code(mean, log_variance))
    objective = dataclasses.replace(OBJECTIVE, kl_weight=0.1)
    loss, terms = loss_of(objective, drawn, None, None, x0, x0, jax.random.key(0))
    # 8,000 draws: standard errors 0.5 / sqrt(8000) = 0.0056 of the mean and 0.004 of the deviation.
    assert float(told[0].mean()) == pytest.approx(0.7, abs=0.025) and float(told[0].std()) == pytest.approx(
        0.5, abs=0.016
    )
    kl = float(jnp.mean(gaussian_kl(mean, log_variance)))
    assert float(loss) == pytest.approx(float(terms.denoising.mean()) + 0.1 * kl, rel=1e-5)
    np.testing.assert_allclose(terms.code, kl, rtol=1e-5)


def test_the_l1_norm_of_a_code_joins_the_loss():
    objective = dataclasses.replace(OBJECTIVE, l1_weight=0.01)
    loss, terms = loss_of(objective, networks([]), 1.0, None, X0, VIEW, jax.random.key(0))
    norms = np.abs(np.asarray(X0)).sum((1, 2, 3))
    np.testing.assert_allclose(terms.code, norms, rtol=1e-5)
    assert float(loss) == pytest.approx(float(terms.denoising.mean()) + 0.01 * norms.mean(), rel=1e-5)


@pytest.mark.parametrize("encoder_input", ["x0", "xt", "view", "clean_view"])
def test_mixup_mixes_what_the_encoder_sees_and_weighs_the_loss(encoder_input):
    seen, plain = [], []
    objective = dataclasses.replace(OBJECTIVE, encoder_input=encoder_input, mixup=True)
    _, terms = loss_of(objective, networks(seen), 0.5, None, X0, VIEW, jax.random.key(0))
    without = dataclasses.replace(objective, mixup=False)
    _, alone = loss_of(without, networks(plain), 0.5, None, X0, VIEW, jax.random.key(0))
    share = np.asarray(terms.denoising / alone.denoising) / 2  # the denoiser here takes no notice of z
    assert np.all((share > 0) & (share < 1)) and np.std(share) > 0.1
    _, image, t = seen[0]
    base = np.asarray(VIEW if "view" in encoder_input else X0)
    mixed = share[:, None, None, None] * base + (1 - share[:, None, None, None]) * np.roll(base, 1, axis=0)
    alpha = 1.0 if encoder_input in ("x0", "clean_view") else np.asarray(p.expand(objective.process.marginal(t)[0]))
    np.testing.assert_allclose(image - plain[0][1], alpha * (mixed - base), atol=1e-4)


def test_shares_of_a_mixture_are_uniform():
    _, share = mix(jax.random.key(0), jnp.zeros((5000, 1, 1, 1)))
    assert kstest(np.asarray(share), "uniform").pvalue > 1e-3


def test_a_withheld_code_is_zero_and_withheld_as_often_as_asked():
    told = []

    def denoise(params, xt, t, z):
        told.append(z)
        return xt, ()

    x0 = jnp.ones((2000, 1, 1, 2))
    objective = dataclasses.replace(OBJECTIVE, drop=0.3)
    loss_of(
        objective, Networks(denoise, lambda params, image, t: code(flat(image))), None, None, x0, x0, jax.random.key(0)
    )
    withheld = np.all(np.asarray(told[0]) == 0, axis=1)
    assert np.all(np.asarray(told[0])[~withheld] == 1) and abs(withheld.mean() - 0.3) < 0.05  # five standard errors


def test_the_adversary_adds_its_gradient_and_nothing_to_the_loss():
    objective = dataclasses.replace(OBJECTIVE, timesteps=Timesteps("adversarial"), encoder_input="none")

    def loss(params):
        learned = Networks(
            lambda params, xt, t, z: (params["w"] * xt, ()), heads={ADVERSARY: lambda params: params["logits"]}
        )
        return loss_of(objective, learned, params, None, X0, VIEW, jax.random.key(0))

    params = {"w": jnp.array(0.5), "logits": jnp.linspace(0.0, 1.0, 5)}
    (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(params)
    assert float(value) == pytest.approx(float(terms.denoising.mean()), rel=1e-6)
    alone = jax.grad(lambda logits: objective.timesteps.adversary(logits, terms.t, terms.denoising))(params["logits"])
    np.testing.assert_allclose(grads["logits"], alone, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"encoder_input": "view"}, {"mixup": True, "l1_weight": 0.1}, {"drop": 0.5}])
def test_the_parts_of_a_batch_have_the_loss_of_the_whole(changes):
    objective = dataclasses.replace(OBJECTIVE, **changes)
    draws = objective.draw(jax.random.key(0), X0, VIEW, 2)
    whole, terms = objective.loss(networks([]), 0.5, None, X0, draws)
    parts = [
        objective.loss(networks([]), 0.5, None, *jax.tree.map(lambda a, i=i: a[i::2], (X0, draws))) for i in range(2)
    ]
    assert float(whole) == pytest.approx(sum(float(value) for value, _ in parts) / 2, rel=1e-5)
    for i, (_, part) in enumerate(parts):
        np.testing.assert_allclose(part.denoising, terms.denoising[i::2], rtol=1e-5)
