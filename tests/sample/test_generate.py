import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm_embed.data.sources import open_source
from ddm_embed.features.run import open_run
from ddm_embed.methods.method import Networks
from ddm_embed.sample import generate
from ddm_embed.sample.generate import Told


@pytest.fixture(scope="module")
def trained(tiny_run):
    return open_run(tiny_run[1])


@pytest.fixture(scope="module")
def images(tiny_run):
    return open_source(tiny_run[0]).train.images[np.arange(5)].astype(np.float32) / 127.5 - 1


def unit(key, number):
    z = jax.random.normal(jax.random.key(key), (number, 8))
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def test_a_way_along_the_sphere_stays_on_it_and_turns_evenly():
    a, b = unit(0, 1), unit(1, 1)
    shares = jnp.linspace(0, 1, 9)
    way = generate.interpolate(jnp.repeat(a, 9, 0), jnp.repeat(b, 9, 0), shares, sphere=True)
    np.testing.assert_allclose(jnp.linalg.norm(way, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(way[0], a[0], atol=1e-5)
    np.testing.assert_allclose(way[-1], b[0], atol=1e-5)
    turned = np.arccos(np.clip(np.asarray(way @ a[0]), -1, 1))
    np.testing.assert_allclose(turned, np.linspace(0, np.arccos(float(a[0] @ b[0])), 9), atol=1e-3)


def test_between_a_code_and_itself_there_is_nothing_else():
    a = unit(0, 4)
    way = generate.interpolate(a, a, jnp.linspace(0, 1, 4), sphere=True)
    np.testing.assert_allclose(way, a, atol=1e-6)


def test_between_opposite_codes_the_way_still_leads_from_one_to_the_other():
    a = unit(0, 4)
    way = generate.interpolate(a, -a, jnp.array([0.0, 0.2, 0.8, 1.0]), sphere=True)
    np.testing.assert_allclose(way, a * np.array([[1], [1], [-1], [-1]]), atol=1e-6)


def test_a_way_off_the_sphere_is_a_line():
    a, b = 3 * unit(0, 3), unit(1, 3)
    np.testing.assert_allclose(
        generate.interpolate(a, b, jnp.array([0.0, 0.25, 1.0]), sphere=False),
        np.stack([a[0], 0.75 * a[1] + 0.25 * b[1], b[2]]),
        atol=1e-6,
    )


def test_the_denoiser_is_told_what_was_asked(trained, images):
    t = jnp.full(5, 0.4)

    def tell(told):
        return np.asarray(generate.tell(trained, trained.params, told, t))

    own = np.asarray(trained.networks.encode(trained.params, images, t).z)
    np.testing.assert_allclose(tell(generate.tell_of(images, 0)), own, atol=1e-6)
    np.testing.assert_array_equal(tell(Told(z=own + 1)), own + 1)
    np.testing.assert_array_equal(tell(Told()), np.zeros_like(own))
    other = tell(Told(image=images, eps=images, other=images[::-1], share=jnp.ones(5)))
    np.testing.assert_allclose(other, own[::-1], atol=1e-5)


@pytest.mark.parametrize("encoder_input", ["xt", "view"])
def test_an_encoder_of_noise_sees_the_denoisers_own_if_of_x_t_and_its_own_if_of_a_view(trained, images, encoder_input):
    seen = {}
    config = trained.config.copy_and_resolve_references()
    config.embedding.input = encoder_input

    def encode(params, image, t):
        seen["encoder"] = image
        return trained.networks.encode(params, image, t)

    def denoise(params, xt, t, z):
        seen["denoiser"] = xt
        return trained.networks.denoise(params, xt, t, z)

    other = trained.replace(config=config)
    other.networks = Networks(denoise, encode)
    for seed in (0, 1):
        eps = jax.random.normal(generate.stream(seed, "denoiser"), images.shape)
        generate.guess_in_one_step(other, trained.params, images, eps, generate.tell_of(images, seed), 0.6)
        same = np.allclose(seen["encoder"], seen["denoiser"], atol=1e-6)
        assert same == (encoder_input == "xt")


def test_passes_of_a_large_batch_are_put_together_in_order(trained, monkeypatch):
    monkeypatch.setattr(generate, "BATCH", 4)
    rows = {"a": np.arange(11.0), "b": np.arange(22.0).reshape(11, 2)}
    doubled = generate.over_batch(trained, lambda params, tree: jax.tree.map(lambda a: 2 * a, tree))(rows)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), doubled, rows)


@pytest.mark.slow
def test_a_sample_depends_on_its_own_noise_and_code_alone(trained, images):
    noise = generate.draw_noise(trained, 5, seed=1)
    all_of_them = generate.sample(trained, noise, Told(image=images, eps=images), "ddim", 4, seed=0)
    two = generate.sample(trained, noise[3:], Told(image=images[3:], eps=images[3:]), "ddim", 4, seed=0)
    np.testing.assert_allclose(all_of_them[3:], two, atol=1e-5)
    assert all_of_them.shape == images.shape and np.all(np.abs(all_of_them) <= 1)


@pytest.mark.slow
def test_images_go_to_noise_and_back(trained, images):
    """A model trained for 20 steps has a smooth, dull field: 200 Heun steps each way follow it to 1e-2."""
    noise = generate.encode(trained, images, Told(image=images, eps=images), "heun", 200)
    assert not np.allclose(noise, images, atol=0.1)
    back = generate.sample(trained, noise, Told(image=images, eps=images), "heun", 200, seed=0, clip=False)
    assert float(np.sqrt(np.mean((back - images) ** 2))) < 1e-2
