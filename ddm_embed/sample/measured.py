"""Pictures of what codes hold and what they are worth to the denoiser: (trained, shown, config) -> figure."""

import logging
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ddm_embed.diffusion.objective import gaussian_kl
from ddm_embed.drawing import TRACE, image_grid, place_grid
from ddm_embed.features.run import Run
from ddm_embed.heads import linear
from ddm_embed.sample.generate import (
    Made,
    Shown,
    Told,
    bounded,
    embed,
    embed_at,
    guess_in_one_step,
    levels,
    over_batch,
    rmse,
    stream,
    tell_of,
    whose,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("ddm_embed")

NAMED = 20  # most classes that a legend names
STRENGTHS = tuple(10.0**k for k in range(-4, 3))  # of ridge, relative to the number of images


def wrong_z(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib.figure import Figure

    images, times = shown.images[:6], list(config.times)
    number = len(images)
    own, other = (index.ravel() for index in np.meshgrid(np.arange(number), np.arange(number), indexing="ij"))
    eps = jax.random.normal(stream(config.seed, "denoiser"), images.shape)
    codes = jax.tree.map(lambda a: a[other], tell_of(images, config.seed))

    def guess(params, batch):
        guesses = [guess_in_one_step(trained, params, *batch, t)[0] for t in times]
        guesses = jnp.stack(guesses, axis=1)
        return jnp.clip(guesses, -1, 1) if bounded(trained) else guesses

    guesses = over_batch(trained, guess)((images[own], np.asarray(eps)[own], codes))  # (N * N, T, H, W, C)
    side = 0.75 * (number + 1)
    tall = side if bounded(trained) else side * TRACE[0] / TRACE[1]
    figure = Figure(figsize=(side * len(times) + 0.5, tall + 0.9), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(times)))
    blank, right = np.full((1, 1, *images.shape[1:]), np.nan), own == other
    for axes, t, made in zip(panels, times, guesses.swapaxes(0, 1), strict=True):
        body = np.concatenate([images[:, None], made.reshape(number, number, *images.shape[1:])], axis=1)
        head = np.concatenate([blank, images[None]], axis=1)
        place_grid(axes, np.concatenate([head, body]), [], None)
        errors = rmse(made[right], images[own[right]]), rmse(made[~right], images[own[~right]])
        axes.set_title(f"t={t:g}: own z {errors[0]}, another's {errors[1]}", fontsize=8)
        axes.set_ylabel("noised and denoised in one step", fontsize=8)
        axes.set_xlabel("with the z of the image above", fontsize=8)
    figure.suptitle(f"{whose(trained)}: an image denoised with another's z", fontsize=11)
    return figure


def code_scatter(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    times = levels(trained, config)
    classes, rank = (None,), np.zeros(len(shown.train), int)
    if shown.labels is not None:
        classes, rank = np.unique(shown.labels, return_inverse=True)
    few = len(classes) <= NAMED
    colors = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors if few else colormaps["turbo"](
        np.linspace(0, 1, len(classes))
    )  # fmt: skip
    figure = Figure(figsize=(3.6 * len(times) + 1.6, 4.1), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(times)))
    for axes, t, codes in zip(panels, times, embed_at(trained, shown.train, times, config.seed), strict=True):
        for i, label in enumerate(classes):
            name = label if shown.names is None or label is None else shown.names[label]
            axes.plot(*codes[rank == i].T, ".", markersize=3, color=colors[i], label=name)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"t={t:g}" if len(times) > 1 or trained.config.embedding.timed else "static code", fontsize=10)
        axes.set(xlabel="z 1", ylabel="z 2")
        axes.grid(alpha=0.3)
    if few and shown.labels is not None:
        outside = dict(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        panels[-1].legend(title="class", fontsize=8, markerscale=3, **outside)
    colored = "" if few else f", coloured by their {len(classes)} classes"
    figure.suptitle(f"{whose(trained)}: codes of {len(shown.train)} training images{colored}", fontsize=11)
    return figure


def loss(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib.figure import Figure

    times, images = np.linspace(0.02, 0.98, 25), shown.train
    has_code, mean = trained.networks.encode is not None, " (its mean)" if trained.config.embedding.gaussian else ""
    told = {}
    if has_code:
        right = tell_of(images, config.seed)
        told[f"own z{mean}"] = right
        told[f"another image's z{mean}"] = jax.tree.map(lambda a: np.roll(a, 1, axis=0), right)
    if not has_code or trained.config.embedding.drop:
        told["no z"] = Told()

    def body(params, batch):
        image, eps, told = batch

        def error(t):
            _, guess = guess_in_one_step(trained, params, image, eps, told, t)
            return jnp.mean((guess - eps) ** 2, axis=(1, 2, 3))

        return jax.lax.map(error, jnp.asarray(times, jnp.float32)).T

    eps, measure_errors = jax.random.normal(stream(config.seed, "denoiser"), images.shape), over_batch(trained, body)
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, what), color in zip(told.items(), ("tab:blue", "tab:red", "0.4"), strict=False):
        errors = measure_errors((images, np.asarray(eps), what))  # (N, T)
        mean, deviation = errors.mean(0), errors.std(0) / np.sqrt(len(errors))
        axes.plot(times, mean, label=name, color=color)
        axes.fill_between(times, mean - 2 * deviation, mean + 2 * deviation, alpha=0.2, color=color, linewidth=0)
    axes.axhline(1.0, linestyle=":", color="0.5", label="guessing no noise")
    axes.set(yscale="log", xlabel="noise level t  (0: clean image, 1: noise)", ylabel="squared error of eps, a pixel")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9)
    title = f"{whose(trained)}: denoising error of {len(images)} training images, $\\pm$ 2 standard errors"
    axes.set_title(title, fontsize=11)
    return figure


def detail(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    columns, labels = [shown.images], ["image"]
    numbers = "pixels" if bounded(trained) else "samples"
    for run in (trained, *shown.beside):
        diffusion = run.config.diffusion
        fixed = diffusion.timesteps == "fixed"
        t = diffusion.fixed_t if fixed else config.times[len(config.times) // 2]
        kept = read_back(run, shown.train, shown.labels, shown.images, t, config.seed)
        law = f"t={diffusion.fixed_t:g} alone" if fixed else f"{diffusion.timesteps} t"
        facts = [f"z at t={t:g}"]
        facts += [] if kept.class_accuracy is None else [f"class {kept.class_accuracy:.2f}"]
        facts += [f"{numbers} {1 - kept.pixel_error:.2f}"] + ([] if kept.nats is None else [f"{kept.nats:.0f} nats"])
        logger.info("%s, trained at %s: %s", run.config.name, law, ", ".join(facts))
        name = run.config.name.replace("_", " ")
        labels.append("\n".join(textwrap.wrap(f"{name}: {law}", 13) + facts))
        columns.append(kept.readout)
    lines = max(label.count("\n") for label in labels)
    labels = [label + "\n" * (lines - label.count("\n")) for label in labels]
    read = f"share of classes right, share of the {numbers}' variance kept"
    title = f"images read back from z by ridge regression\n{read}"
    return image_grid(np.stack(columns, axis=1), labels, None, title)


class Detail(NamedTuple):
    """How well ridge regression from z does on training images held out from it.

    class_accuracy: share of classes right, None without labels. pixel_error: squared error of the pixels over their
    variance, 0 for all kept and 1 for none. nats: mean KL of a Gaussian code to N(0, I), None of another. readout
    [number, height, width, channel]: the shown images as regressed from their z.
    """

    class_accuracy: float | None
    pixel_error: float
    nats: float | None
    readout: Made


def read_back(
    trained: Run, train: Made, labels: Int[np.ndarray, " number"] | None, shown: Made, t: float, seed: int = 0
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


def codes(trained: Run, images: Made, t: float, seed: int) -> tuple[Float[Array, "number dim"], float | None]:
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
