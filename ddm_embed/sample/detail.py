"""What a code keeps of an image: its class, its pixels, and at what price."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddm_embed.features.run import Run
from ddm_embed.heads import linear
from ddm_embed.methods.diffusion import gaussian_kl
from ddm_embed.sample.generate import embed, over_batch, stream, tell_of

Images = Float[np.ndarray, "number height width channel"]

STRENGTHS = tuple(10.0**k for k in range(-4, 3))  # of ridge, relative to the number of images


class Detail(NamedTuple):
    """How well ridge regression from z does on training images held out from it.

    class_accuracy: share of classes right, None without labels. pixel_error: squared error of the pixels over their
    variance, 0 for all kept and 1 for none. nats: mean KL of a Gaussian code to N(0, I), None of another. readout
    [number, height, width, channel]: the shown images as regressed from their z.
    """

    class_accuracy: float | None
    pixel_error: float
    nats: float | None
    readout: Images


def measure(
    trained: Run, train: Images, labels: Int[np.ndarray, " number"] | None, shown: Images, t: float, seed: int = 0
) -> Detail:
    """Reads class and pixels back from z at t, as the denoiser is told it: a Gaussian code is drawn.

    Args:
      trained: a run with an encoder.
      train: images in [-1, 1], ten or more, in any order; a seeded four fifths fit, a tenth chooses the strength, the
        last tenth judges.
      labels: their classes. shown: images to regress from their z, not among `train`.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    train, labels = train[order], None if labels is None else labels[order]
    z, nats = codes(trained, train, t, seed)
    z_shown, _ = codes(trained, shown, t, seed)
    a, b = int(0.8 * len(train)), int(0.9 * len(train))
    fit, choose, judge, read = linear.standardise(z[:a], z[a:b], z[b:], z_shown)

    flat = jnp.asarray(train.reshape(len(train), -1))
    weights, bias = linear.ridge(fit, flat[:a], jnp.asarray(STRENGTHS))
    errors = [jnp.mean((choose @ w + c - flat[a:b]) ** 2) for w, c in zip(weights, bias, strict=True)]
    best = int(np.argmin(errors))
    guess = judge @ weights[best] + bias[best]
    variance = jnp.mean((flat[b:] - jnp.mean(flat[:a], axis=0)) ** 2)
    readout = np.asarray(read @ weights[best] + bias[best]).reshape(shown.shape)

    accuracy = None
    if labels is not None:
        _, numbers = np.unique(labels, return_inverse=True)
        targets = jax.nn.one_hot(numbers[:a], numbers.max() + 1)
        weights, bias = linear.ridge(fit, targets, jnp.asarray(STRENGTHS))
        chosen = int(jnp.argmax(linear.accuracy(linear.linear_predict(choose, weights, bias), numbers[a:b])))
        accuracy = float(linear.accuracy(linear.linear_predict(judge, weights, bias)[chosen], numbers[b:]))
    return Detail(accuracy, float(jnp.mean((guess - flat[b:]) ** 2) / variance), nats, readout)


def codes(trained: Run, images: Images, t: float, seed: int) -> tuple[Float[Array, "number dim"], float | None]:
    """z [number, dim] as the denoiser is told it, and the mean KL of a Gaussian code."""

    def body(params, batch):
        told, noise = batch
        embedding = embed(trained, params, told.image, told.eps, jnp.full(len(told.image), t))
        if embedding.log_variance is None:
            return embedding.z, jnp.zeros(len(embedding.z))
        drawn = embedding.z + jnp.exp(embedding.log_variance / 2) * noise
        return drawn, gaussian_kl(embedding.z, embedding.log_variance)

    noise = jax.random.normal(stream(seed, "code"), (len(images), trained.config.embedding.dim))
    z, kl = over_batch(trained, body)((tell_of(images, seed), np.asarray(noise)))
    return jnp.asarray(z), float(np.mean(kl)) if trained.config.embedding.gaussian else None
