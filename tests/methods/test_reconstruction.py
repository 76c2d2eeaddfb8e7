import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from scipy import stats

from ddm_embed import arms
from ddm_embed.methods.autoencoder import Autoencoder
from ddm_embed.methods.build import make_models, make_networks, make_objective
from ddm_embed.methods.mae import MaskedAutoencoder, visible_tokens
from ddm_embed.methods.method import Networks
from ddm_embed.models.encoder import Embedding
from ddm_embed.models.patches import cut

X0 = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (4, 8, 12, 3)))


def arm_networks(arm, shape=X0.shape[1:], **changes):
    """(objective, models, networks, parameters away from their zeros) of an arm at a tiny size."""
    config = tiny_config(**changes)
    arms.apply(arm, config)
    models = make_models(config, shape)
    rng, shapes = np.random.default_rng(1), jax.eval_shape(models.init, jax.random.key(0))
    params = jax.tree.map(lambda p: np.float32(rng.normal(size=p.shape) / np.sqrt(1 + p.size // p.shape[-1])), shapes)
    return make_objective(config), models, make_networks(models, config), params


def test_the_variational_loss_is_the_evidence_lower_bound_of_a_decoder_of_unit_variance():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 4, 5)).astype(np.float32)
    weights = rng.normal(size=(5, X0[0].size)).astype(np.float32)
    networks = Networks(
        encode=lambda params, image, t: Embedding(jnp.asarray(mean), (), jnp.asarray(log_variance)),
        heads={"decoder": lambda params, z: (z @ weights).reshape(X0.shape)},
    )
    objective = Autoencoder(beta=0.7)
    draws = objective.draw(jax.random.key(1), X0, X0, 5)
    loss, terms = objective.loss(networks, {}, {}, X0, draws)

    z = mean + np.exp(log_variance / 2) * draws.code
    likelihood = stats.norm(z @ weights).logpdf(np.asarray(X0).reshape(4, -1)).sum(axis=1)
    posterior = stats.norm(mean, np.exp(log_variance / 2))
    samples = posterior.rvs((200_000, 4, 5), random_state=0)
    divergence = (posterior.logpdf(samples) - stats.norm.logpdf(samples)).sum(axis=-1).mean(axis=0)
    pixels = X0[0].size
    bound = np.mean(-likelihood - pixels / 2 * np.log(2 * np.pi) + 0.7 * divergence)
    assert float(loss) * pixels / 2 == pytest.approx(bound, rel=1e-3)
    np.testing.assert_allclose(terms.code, divergence, rtol=0.02)


@pytest.mark.slow
def test_a_decoder_sees_nothing_of_the_image_but_its_code():
    _, _, networks, params = arm_networks("ae")
    z = jax.jit(networks.encode)(params, X0, jnp.zeros(4)).z
    images = jax.jit(networks.heads["decoder"])(params, jnp.stack([z[0], z[1], z[0], z[1]]))
    assert images.shape == X0.shape
    np.testing.assert_array_equal(images[:2], images[2:])
    assert float(jnp.max(jnp.abs(images[0] - images[1]))) > 1e-3


@pytest.mark.parametrize("normalise", [False, True])
def test_the_masked_loss_is_the_mean_over_masked_patches_alone(normalise):
    rng = np.random.default_rng(0)
    guess = rng.normal(size=(4, 6, 48)).astype(np.float32)  # 2 x 3 patches of 4 x 4 pixels in 3 channels
    seen = []

    def encode(params, image, t, visible):
        seen.append(visible)
        return Embedding(jnp.zeros((4, 8)), (jnp.zeros((4, visible.shape[1], 8)),))

    networks = Networks(encode=encode, heads={"decoder": lambda params, tokens, order, t: params})
    objective = MaskedAutoencoder(patch=4, mask_share=0.7, normalise=normalise)
    draws = objective.draw(jax.random.key(1), X0, X0, 8)
    loss, terms = objective.loss(networks, jnp.asarray(guess), None, X0, draws)

    expected = np.zeros((4, 6))
    for image in range(4):
        for row in range(2):
            for column in range(3):
                patch = np.asarray(X0)[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1)
                if normalise:
                    patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
                expected[image, 3 * row + column] = np.mean((guess[image, 3 * row + column] - patch) ** 2)
    masked = np.ones((4, 6), bool)
    np.put_along_axis(masked, np.asarray(seen[0]), False, axis=1)
    assert masked.sum(axis=1).tolist() == [4] * 4
    np.testing.assert_allclose(terms.error, [e[m].mean() for e, m in zip(expected, masked, strict=True)], rtol=1e-4)
    assert float(loss) == pytest.approx(expected[masked].mean(), rel=1e-5)
    pull = jax.grad(lambda guess: objective.loss(networks, guess, None, X0, draws)[0])(jnp.asarray(guess))
    np.testing.assert_array_equal(np.any(np.asarray(pull) != 0, axis=-1), masked)


def test_masked_patches_reach_neither_encoder_nor_decoder():
    objective, models, networks, params = arm_networks("mae")
    assert models.features == ["encoder_1"]
    order = objective.draw(jax.random.key(1), X0, X0, 8).order

    @jax.jit
    def fill(image):
        tokens = networks.encode(params, image, jnp.zeros(4), order[:, :2]).tokens[-1]
        assert tokens.shape == (4, 2, 16)
        return networks.heads["decoder"](params, tokens, order, jnp.zeros(4))

    def change(places):
        """Other pixels in the patches at these places, [batch, place]."""
        chosen = jax.nn.one_hot(places, 6).sum(axis=1)  # (B, N)
        grid = jnp.repeat(jnp.repeat(chosen.reshape(4, 2, 3), 4, axis=1), 4, axis=2)[..., None]
        return jnp.where(grid > 0, -X0, X0)

    np.testing.assert_array_equal(fill(X0), fill(change(order[:, 2:])))
    assert float(jnp.max(jnp.abs(fill(X0) - fill(change(order[:, :1]))))) > 1e-3


def test_tokens_go_back_to_their_places_whatever_their_order():
    _, _, networks, params = arm_networks("mae")
    order = jnp.array([[4, 1, 0, 2, 3, 5]])
    tokens = jax.random.normal(jax.random.key(2), (1, 2, 16))
    fill, t = jax.jit(networks.heads["decoder"]), jnp.zeros(1)
    other = fill(params, tokens[:, ::-1], jnp.array([[1, 4, 5, 3, 2, 0]]), t)
    np.testing.assert_allclose(fill(params, tokens, order, t), other, atol=1e-5)


def test_an_encoder_that_sees_all_patches_in_order_is_the_encoder():
    _, _, networks, params = arm_networks("mae")
    all_places = jnp.tile(jnp.arange(6), (4, 1))
    # Not jitted: two programs would round differently.
    whole, told = (networks.encode(params, X0, jnp.zeros(4), seen).tokens[-1] for seen in (None, all_places))
    np.testing.assert_allclose(whole, told, atol=1e-6)


def test_every_patch_is_masked_as_often():
    order = MaskedAutoencoder(patch=4).draw(jax.random.key(0), jnp.zeros((4000, 16, 16, 1)), None, 8).order
    counts = np.bincount(np.asarray(order[:, :4]).ravel(), minlength=16)
    assert np.all(np.sort(order, axis=1) == np.arange(16)) and np.all(np.abs(counts / 4000 - 0.25) < 0.03)


def test_some_patches_are_seen_and_some_are_not():
    assert [visible_tokens(n, 0.75) for n in (2, 4, 16, 196)] == [1, 1, 4, 49]
    assert visible_tokens(2, 0.01) == 1 and visible_tokens(16, 0.99) == 1


def test_patches_are_rows_of_pixels():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert cut(image, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
