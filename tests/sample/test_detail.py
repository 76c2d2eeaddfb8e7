from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ddm_embed.data.sources import open_source
from ddm_embed.diffusion.objective import gaussian_kl
from ddm_embed.features.run import open_run
from ddm_embed.methods.method import Networks
from ddm_embed.sample import measured
from ddm_embed.sample.measured import read_back


@pytest.fixture(scope="module")
def digits(tiny_run):
    config, workdir = tiny_run
    source = open_source(config)
    images = source.train.images[np.arange(1000)].astype(np.float32) / 127.5 - 1
    return open_run(workdir), images, source.train.read_labels()[:1000]


def told(trained, encode, gaussian=False):
    """The run with another encoder."""
    config = trained.config.copy_and_resolve_references()
    config.embedding.gaussian = gaussian
    other = trained.replace(config=config)
    other.networks = Networks(trained.networks.denoise, encode)
    return other


def test_a_code_that_is_the_image_keeps_all_its_pixels(digits):
    trained, images, labels = digits
    whole = told(trained, lambda params, x, t: SimpleNamespace(z=x.reshape(len(x), -1), log_variance=None))
    kept = read_back(whole, images, labels, images[:4], 0.5)
    assert kept.pixel_error < 1e-3 and kept.class_accuracy > 0.85 and kept.nats is None
    np.testing.assert_allclose(kept.readout, images[:4], atol=0.1)


def test_a_code_of_nothing_keeps_nothing(digits):
    trained, images, labels = digits
    blank = told(trained, lambda params, x, t: SimpleNamespace(z=jnp.ones((len(x), 3)), log_variance=None))
    kept = read_back(blank, images, labels, images[:4], 0.5)
    assert kept.pixel_error == pytest.approx(1.0, abs=0.05)
    assert kept.class_accuracy < 0.25  # of ten classes; 100 images judge, three standard errors are 0.09


def test_figures_agree_with_scikit_learn(digits):
    trained, images, labels = digits

    def encode(params, x, t):
        return SimpleNamespace(z=x.reshape(len(x), -1)[:, 10:40:3], log_variance=None)

    kept = read_back(told(trained, encode), images, labels, images[:4], 0.5)
    flat = images[np.random.default_rng(0).permutation(1000)].reshape(1000, -1)
    z = flat[:, 10:40:3]
    z = (z - z[:800].mean(0)) / z[:800].std(0)
    fits = [Ridge(alpha=s * 800).fit(z[:800], flat[:800]) for s in measured.STRENGTHS]
    best = min(fits, key=lambda fit: np.mean((fit.predict(z[800:900]) - flat[800:900]) ** 2))
    error = np.mean((best.predict(z[900:]) - flat[900:]) ** 2) / np.mean((flat[900:] - flat[:800].mean(0)) ** 2)
    assert kept.pixel_error == pytest.approx(error, rel=1e-3)


def test_images_in_the_order_of_their_classes_are_measured_as_in_any_other(digits):
    trained, images, labels = digits
    whole = told(trained, lambda params, x, t: SimpleNamespace(z=x.reshape(len(x), -1), log_variance=None))
    order = np.argsort(labels)
    kept = read_back(whole, images[order], labels[order], images[:4], 0.5)
    assert kept.pixel_error < 1e-3 and kept.class_accuracy > 0.85


def test_a_gaussian_code_is_read_as_it_is_told_with_its_noise(digits):
    trained, images, labels = digits

    def encode(log_variance):
        def encode_at(params, x, t):
            z = x.reshape(len(x), -1)[:, 20:52:4]  # 8 entries, as the config says
            return SimpleNamespace(z=z, log_variance=jnp.full_like(z, log_variance))

        return told(trained, encode_at, gaussian=True)

    sharp, blurred = (read_back(encode(v), images, labels, images[:4], 0.5) for v in (-12.0, 2.0))
    assert sharp.pixel_error < 0.8 and blurred.pixel_error > sharp.pixel_error + 0.1
    flat = jnp.asarray(images.reshape(1000, -1)[:, 20:52:4])
    expected = float(jnp.mean(gaussian_kl(flat, jnp.full_like(flat, 2.0))))
    assert blurred.nats == pytest.approx(expected, rel=1e-4)


def test_without_labels_pixels_are_measured_all_the_same(digits):
    trained, images, _ = digits
    kept = read_back(trained, images, None, images[:4], 0.5)
    assert kept.class_accuracy is None and 0 < kept.pixel_error < 1.2
