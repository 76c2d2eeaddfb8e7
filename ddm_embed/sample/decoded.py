"""Pictures of what a solver makes of noise and codes: (trained, shown, config) -> figure."""

from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.drawing import image_grid
from ddm_embed.features.run import Run
from ddm_embed.sample.generate import (
    Shown,
    Told,
    bounded,
    denoiser,
    draw_noise,
    embed_at,
    encode,
    levels,
    over_batch,
    rmse,
    sample,
    stream,
    tell_of,
    way,
    whose,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of_images(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    images, times = shown.images, levels(trained, config)
    number, solver = len(images), (config.sampler, config.steps, config.seed)
    noise = draw_noise(trained, number, config.seed)
    columns = {"image\n": images}
    if len(times) > 1:
        made = sample(trained, noise, tell_of(images, config.seed), *solver)
        columns[f"z at each t\n{rmse(made, images)}"] = made
    codes = embed_at(trained, images, times, config.seed)
    fixed = Told(z=codes.reshape(len(times) * number, -1))
    made = sample(trained, np.tile(noise, (len(times), 1, 1, 1)), fixed, *solver).reshape(-1, *images.shape)
    for t, column in zip(times, made, strict=True):
        name = f"z at t={t:g}" if len(times) > 1 else "from z"
        columns[f"{name}\n{rmse(column, images)}"] = column
    title = f"{whose(trained)}: images decoded from noise and their z ({way(config)})"
    return image_grid(np.stack(list(columns.values()), axis=1), list(columns), None, title)


def one_z(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    images, many = shown.images, config.samples
    told = tell_of(images, config.seed)
    told = Told(image=np.repeat(images, many, axis=0), eps=np.repeat(told.eps, many, axis=0))
    noise = draw_noise(trained, len(images) * many, config.seed)
    made = sample(trained, noise, told, config.sampler, config.steps, config.seed)
    grid = np.concatenate([images[:, None], made.reshape(len(images), many, *images.shape[1:])], axis=1)
    labels = ["image"] + [f"noise {i}" for i in range(1, many + 1)]
    return image_grid(grid, labels, None, f"{whose(trained)}: many samples from one z ({way(config)})")


def interpolation(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    pairs, many = len(shown.images) // 2, config.samples
    images = shown.images[: 2 * pairs]
    eps = tell_of(images[::2], config.seed).eps
    noise = draw_noise(trained, pairs, config.seed)
    first, second, eps, noise = (np.repeat(part, many, axis=0) for part in (images[::2], images[1::2], eps, noise))
    shares = np.linspace(0, 1, many, dtype=np.float32)
    told = Told(image=first, eps=eps, other=second, share=np.tile(shares, pairs))
    made = sample(trained, noise, told, config.sampler, config.steps, config.seed)
    grid = np.concatenate([images[::2, None], made.reshape(pairs, many, *images.shape[1:]), images[1::2, None]], axis=1)
    path = "along the sphere" if trained.config.embedding.sphere else "along a line"
    labels = ["image A", *(f"{share:.2f}" for share in shares), "image B"]
    return image_grid(grid, labels, None, f"{whose(trained)}: from A's z to B's {path}, noise fixed ({way(config)})")


def code_grid(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    side, reach = 10, config.grid_range
    across = np.linspace(-reach, reach, side, dtype=np.float32)
    codes = np.stack(np.meshgrid(across, across[::-1]), axis=-1).reshape(-1, 2)
    noise = np.repeat(draw_noise(trained, 1, config.seed), side**2, axis=0)
    made = sample(trained, noise, Told(z=codes), config.sampler, config.steps, config.seed)
    names = [f"{value:.2f}" for value in across]
    kept = "z the same at every t, " if trained.config.embedding.timed else ""
    title = f"{whose(trained)}: decoded codes, {kept}noise fixed ({way(config)})"
    figure = image_grid(made.reshape(side, side, *made.shape[1:]), names, names[::-1], title)
    figure.axes[0].set(xlabel="z 1", ylabel="z 2")
    return figure


def trajectory(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    images = shown.images[:4]
    process, kind = trained.objective.process, trained.objective.prediction
    times = sampler_lib.time_grid(process, config.sampler, config.steps)
    told = tell_of(images, config.seed) if trained.networks.encode else Told()
    key, clip = stream(config.seed, "steps"), bounded(trained)

    def body(params, batch):
        x, told = batch
        denoise = denoiser(trained, params, told)
        _, path = sampler_lib.integrate(denoise, process, kind, x, times, key, config.sampler, clip, keep_path=True)
        return path.xt.swapaxes(0, 1), path.x0.swapaxes(0, 1)

    xt, x0 = over_batch(trained, body)((draw_noise(trained, len(images), config.seed), told))
    at = np.unique(np.linspace(0, len(times) - 2, 9).round().astype(int))
    # x_t is shown at the size that the network sees, with the image's variance taken for 1.
    size = np.sqrt(sum(np.square(part) for part in process.marginal(times[at])))[:, None, None, None]
    rows = [row for i in range(len(images)) for row in (xt[i][at] / size, x0[i][at])]
    names = [name for _ in images for name in ("$x_t$", "guess\nof $x_0$")]
    given = "told the z of an image" if trained.networks.encode else "told nothing"
    title = f"{whose(trained)}: from noise to image, {given} ({way(config)})"
    return image_grid(np.stack(rows), [f"t={times[i]:.2f}" for i in at], names, title)


def samples(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    noise = draw_noise(trained, config.images * config.samples, config.seed)
    made = sample(trained, noise, Told(), config.sampler, config.steps, config.seed)
    grid = made.reshape(config.images, config.samples, *made.shape[1:])
    return image_grid(grid, [""] * config.samples, None, f"{whose(trained)}: samples without a z ({way(config)})")


def inversion(trained: Run, shown: Shown, config: ConfigDict) -> "Figure":
    images = shown.images
    told = tell_of(images, config.seed) if trained.networks.encode else Told()
    noise = encode(trained, images, told, config.sampler, config.steps)
    back = sample(trained, noise, told, config.sampler, config.steps, config.seed, clip=False)
    visible = noise / (3 * np.std(noise))
    labels = ["image\n", "its noise\n", f"decoded\n{rmse(back, images)}"]
    title = f"{whose(trained)}: to noise and back\n({way(config)})"
    return image_grid(np.stack([images, visible, back], axis=1), labels, None, title)
