"""The pictures of a run: what each needs, and how it is drawn.

After the figures of Mittal et al., arXiv 2105.14257, and their released code.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from ddm_embed.decode.detail import measure
from ddm_embed.decode.generate import (
    Told,
    denoiser,
    draw_noise,
    embed,
    encode,
    guess_in_one_step,
    over_batch,
    sample,
)
from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.figure import image_grid, place_grid
from ddm_embed.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("ddm_embed")

Images = Float[np.ndarray, "number height width channel"]


class Shown(NamedTuple):
    """What the pictures are of: images and training images in [-1, 1], the latter's labels (None where there are
    none), and other runs on the same data to set beside the first."""

    images: Images
    train: Images
    labels: Int[np.ndarray, " number"] | None
    beside: tuple[Trained, ...] = ()


class Picture(NamedTuple):
    """A picture: what it shows, in a line; what it needs of a run, of `needs.NEEDS`; how it is drawn."""

    what: str
    needs: tuple[str, ...]
    draw: Callable[[Trained, Shown, ConfigDict], "Figure"]


def reconstructions(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    images = shown.images
    noise = draw_noise(trained, len(images), config.seed)
    columns, labels = [images], ["image\n"]

    def add(told: Told, label: str) -> None:
        made = sample(trained, noise, told, config.sampler, config.steps, config.seed)
        columns.append(made)
        labels.append(f"{label}\n{_rmse(made, images)}")

    levels = _levels(trained, config)
    if len(levels) > 1:
        add(Told(image=images), "z at each t")
    for t in levels:
        add(Told(z=_embed(trained, images, t)), f"z at t={t:g}" if len(levels) > 1 else "from z")
    title = f"{_whose(trained)}: images decoded from noise and their z ({_way(config)})"
    return image_grid(np.stack(columns, axis=1), labels, None, title)


def one_z(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    images, many = shown.images, config.samples
    told = Told(image=np.repeat(images, many, axis=0))
    noise = draw_noise(trained, len(images) * many, config.seed)
    made = sample(trained, noise, told, config.sampler, config.steps, config.seed)
    grid = np.concatenate([images[:, None], made.reshape(len(images), many, *images.shape[1:])], axis=1)
    labels = ["image"] + [f"noise {i}" for i in range(1, many + 1)]
    return image_grid(grid, labels, None, f"{_whose(trained)}: many samples from one z ({_way(config)})")


def interpolation(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    pairs, many = len(shown.images) // 2, config.samples
    images = shown.images[: 2 * pairs]
    first, second = (np.repeat(part, many, axis=0) for part in (images[::2], images[1::2]))
    shares = np.linspace(0, 1, many, dtype=np.float32)
    noise = np.repeat(draw_noise(trained, pairs, config.seed), many, axis=0)
    told = Told(image=first, other=second, share=np.tile(shares, pairs))
    made = sample(trained, noise, told, config.sampler, config.steps, config.seed)
    made = made.reshape(pairs, many, *images.shape[1:])
    grid = np.concatenate([images[::2, None], made, images[1::2, None]], axis=1)
    way = "along the sphere" if trained.config.embedding.sphere else "along a line"
    labels = ["image A", *(f"{share:.2f}" for share in shares), "image B"]
    return image_grid(grid, labels, None, f"{_whose(trained)}: from A's z to B's {way}, noise fixed ({_way(config)})")


def wrong_z(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib.figure import Figure

    images = shown.images[:6]
    number, levels = len(images), list(config.times[1::2] or config.times)
    own, other = (index.ravel() for index in np.meshgrid(np.arange(number), np.arange(number), indexing="ij"))

    def guess(params, batch):
        image, told = batch
        eps = jax.random.normal(jax.random.key(config.seed), image.shape)
        guesses = [guess_in_one_step(trained, params, image, eps, Told(image=told), t)[0] for t in levels]
        return jnp.stack(guesses, axis=1)

    guesses = over_batch(trained, guess)((images[own], images[other]))  # (N * N, T, H, W, C)
    side = 0.75 * (number + 1)
    figure = Figure(figsize=(side * len(levels) + 0.5, side + 0.9), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(levels)))
    blank, right = np.full((1, 1, *images.shape[1:]), np.nan), own == other
    for axes, t, made in zip(panels, levels, guesses.swapaxes(0, 1), strict=True):
        body = np.concatenate([images[:, None], made.reshape(number, number, *images.shape[1:])], axis=1)
        head = np.concatenate([blank, images[None]], axis=1)
        place_grid(axes, np.concatenate([head, body]), [], None)
        errors = _rmse(made[right], images[own[right]]), _rmse(made[~right], images[own[~right]])
        axes.set_title(f"t={t:g}: own z {errors[0]}, another's {errors[1]}", fontsize=8)
        axes.set_ylabel("noised and denoised in one step", fontsize=8)
        axes.set_xlabel("with the z of the image above", fontsize=8)
    figure.suptitle(f"{_whose(trained)}: an image denoised with another's z", fontsize=11)
    return figure


def code_scatter(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    levels = _levels(trained, config)[::2]
    figure = Figure(figsize=(3.6 * len(levels) + 1.2, 4.1), layout="constrained")
    for axes, t in zip(np.atleast_1d(figure.subplots(1, len(levels))), levels, strict=True):
        codes = _embed(trained, shown.train, t)
        for label in [None] if shown.labels is None else np.unique(shown.labels)[:20]:
            chosen = slice(None) if label is None else shown.labels == label
            color = "tab:blue" if label is None else colormaps["tab20" if shown.labels.max() > 9 else "tab10"](label)
            axes.plot(*codes[chosen].T, ".", markersize=3, color=color, label=label)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"t={t:g}" if trained.config.embedding.timed else "static code", fontsize=10)
        axes.set(xlabel="z 1", ylabel="z 2")
        axes.grid(alpha=0.3)
    if shown.labels is not None:
        outside = dict(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        axes.legend(title="class", fontsize=8, markerscale=3, **outside)
    figure.suptitle(f"{_whose(trained)}: codes of {len(shown.train)} training images", fontsize=11)
    return figure


def code_grid(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    side, reach = 10, config.grid_range
    across = np.linspace(-reach, reach, side, dtype=np.float32)
    codes = np.stack(np.meshgrid(across, across[::-1]), axis=-1).reshape(-1, 2)
    noise = np.repeat(draw_noise(trained, 1, config.seed), side**2, axis=0)
    made = sample(trained, noise, Told(z=codes), config.sampler, config.steps, config.seed)
    names = [f"{value:.2f}" for value in across]
    title = f"{_whose(trained)}: decoded codes, noise fixed ({_way(config)})"
    figure = image_grid(made.reshape(side, side, *made.shape[1:]), names, names[::-1], title)
    figure.axes[0].set(xlabel="z 1", ylabel="z 2")
    return figure


def trajectory(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    images = shown.images[:4]
    process, kind = trained.objective.process, trained.objective.prediction
    times = sampler_lib.time_grid(process, config.sampler, config.steps)
    told = Told(image=images) if trained.networks.encode else Told()

    def body(params, batch):
        x, told = batch
        key, denoise = jax.random.key(config.seed), denoiser(trained, params, told)
        _, path = sampler_lib.integrate(denoise, process, kind, x, times, key, config.sampler, True, keep_path=True)
        return path.xt.swapaxes(0, 1), path.x0.swapaxes(0, 1)

    xt, x0 = over_batch(trained, body)((draw_noise(trained, len(images), config.seed), told))
    at = np.unique(np.linspace(0, len(times) - 2, 9).round().astype(int))
    # x_t is shown at the size that the network sees, with the image's variance taken for 1.
    size = np.sqrt(sum(np.square(part) for part in process.marginal(times[at])))[:, None, None, None]
    rows = [row for i in range(len(images)) for row in (xt[i][at] / size, x0[i][at])]
    names = [name for _ in images for name in ("$x_t$", "guess\nof $x_0$")]
    given = "told the z of an image" if trained.networks.encode else "told nothing"
    title = f"{_whose(trained)}: from noise to image, {given} ({_way(config)})"
    return image_grid(np.stack(rows), [f"t={times[i]:.2f}" for i in at], names, title)


def loss(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    from matplotlib.figure import Figure

    levels = np.linspace(0.02, 0.98, 25)
    own, has_code = shown.train, trained.networks.encode is not None
    told = {"own z": Told(image=own), "another image's z": Told(image=np.roll(own, 1, axis=0))} if has_code else {}
    if not has_code or trained.config.embedding.drop:
        told["no z"] = Told()

    def body(params, batch):
        image, told = batch
        eps = jax.random.normal(jax.random.key(config.seed), image.shape)

        def error(t):
            return jnp.mean((guess_in_one_step(trained, params, image, eps, told, t)[1] - eps) ** 2, axis=(1, 2, 3))

        return jax.lax.map(error, jnp.asarray(levels, jnp.float32)).T

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, what), color in zip(told.items(), ("tab:blue", "tab:red", "0.4"), strict=False):
        errors = over_batch(trained, body)((own, what))  # (N, T)
        mean, deviation = errors.mean(0), errors.std(0) / np.sqrt(len(errors))
        axes.plot(levels, mean, label=name, color=color)
        axes.fill_between(levels, mean - 2 * deviation, mean + 2 * deviation, alpha=0.2, color=color, linewidth=0)
    axes.axhline(1.0, linestyle=":", color="0.5", label="guessing no noise")
    axes.set(yscale="log", xlabel="noise level t  (0: clean image, 1: noise)", ylabel="squared error of eps, a pixel")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9)
    title = f"{_whose(trained)}: denoising error of {len(own)} training images, $\\pm$ 2 standard errors"
    axes.set_title(title, fontsize=11)
    return figure


def detail(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    columns, labels = [shown.images], ["image\n\n\n"]
    for run in (trained, *shown.beside):
        diffusion = run.config.diffusion
        fixed = diffusion.timesteps == "fixed"
        t = diffusion.fixed_t if fixed else config.times[len(config.times) // 2]
        kept = measure(run, shown.train, shown.labels, shown.images, t)
        law = f"t={diffusion.fixed_t:g} alone" if fixed else f"{diffusion.timesteps} t"
        facts = [
            "" if kept.class_accuracy is None else f"class {kept.class_accuracy:.2f}",
            f"pixels {1 - kept.pixel_error:.2f}",
            "" if kept.nats is None else f"{kept.nats:.0f} nats",
        ]
        logger.info("%s, trained at %s: z at t=%g keeps: %s", run.config.name, law, t, "  ".join(filter(None, facts)))
        labels.append("\n".join([law, *facts]))
        columns.append(kept.readout)
    read = "classes right, share of the pixels' variance kept"
    title = f"{trained.config.name}: read back from z by ridge regression\n{read}"
    return image_grid(np.stack(columns, axis=1), labels, None, title)


def samples(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    noise = draw_noise(trained, config.images * config.samples, config.seed)
    made = sample(trained, noise, Told(), config.sampler, config.steps, config.seed)
    grid = made.reshape(config.images, config.samples, *made.shape[1:])
    return image_grid(grid, [""] * config.samples, None, f"{_whose(trained)}: samples without a z ({_way(config)})")


def inversion(trained: Trained, shown: Shown, config: ConfigDict) -> "Figure":
    images = shown.images
    told = Told(image=images) if trained.networks.encode else Told()
    noise = encode(trained, images, told, config.sampler, config.steps)
    back = sample(trained, noise, told, config.sampler, config.steps, config.seed, clip=False)
    visible = noise / (3 * np.std(noise))
    labels = ["image\n", "its noise\n", f"decoded\n{_rmse(back, images)}"]
    title = f"{_whose(trained)}: to noise and back\n({_way(config)})"
    return image_grid(np.stack([images, visible, back], axis=1), labels, None, title)


def _levels(trained: Trained, config: ConfigDict) -> list[float]:
    """The noise levels at which codes are looked at: one stands for all of a static code of the image."""
    static = not trained.config.embedding.timed and trained.config.embedding.input == "x0"
    return [config.times[0]] if static else list(config.times)


def _embed(trained: Trained, images: Images, t: float) -> Float[np.ndarray, "number dim"]:
    return over_batch(trained, lambda params, image: embed(trained, params, image, jnp.full(len(image), t)))(images)


def _whose(trained: Trained) -> str:
    return f"{trained.config.name}, step {trained.step}"


def _way(config: ConfigDict) -> str:
    return f"{config.sampler}, {config.steps} steps"


def _rmse(a: Images, b: Images) -> str:
    return f"RMSE {np.sqrt(np.mean((a - b) ** 2)):.2f}"


PICTURES = {
    "reconstructions": Picture(
        "images decoded from noise and their z, at several t", ("code", "solver"), reconstructions
    ),
    "one_z": Picture("many samples from one z", ("code", "solver"), one_z),
    "interpolation": Picture("from the z of one image to that of another", ("code", "solver"), interpolation),
    "wrong_z": Picture("each image denoised in one step with each other's z", ("code",), wrong_z),
    "code_scatter": Picture("codes of 2 entries, coloured by class", ("code", "plane"), code_scatter),
    "code_grid": Picture("a square of codes of 2 entries, decoded", ("code", "plane", "flat", "solver"), code_grid),
    "trajectory": Picture("x_t and the guess of x_0 on the way from noise to image", ("solver",), trajectory),
    "loss": Picture("denoising error over t, told the right z, a wrong one or none", (), loss),
    "detail": Picture("what z keeps, class and pixels, beside other runs of the same data", ("code",), detail),
    "samples": Picture("samples without a z", ("no_code", "solver"), samples),
    "inversion": Picture("images carried to noise by the ODE and back", ("ode", "solver"), inversion),
}
