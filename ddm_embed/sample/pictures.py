"""The pictures of a run, by name, after the figures of Mittal et al., arXiv 2105.14257, and their released code.

A picture is a function and one line at the end of this file. One from elsewhere calls `register` itself, for instance
in the config file that the program is given.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddm_embed import methods
from ddm_embed.data import splits
from ddm_embed.data.augment import to_float
from ddm_embed.data.types import Source, Split, read_all, subset
from ddm_embed.diffusion import sampler as sampler_lib
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run, open_run
from ddm_embed.reproducible import reproducible
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.sample import decoded, measured
from ddm_embed.sample.generate import Shown
from ddm_embed.validate import validate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Need = Callable[[ConfigDict, ConfigDict], str | None]
Draw = Callable[[Run, Shown, ConfigDict], "Figure"]


class Picture(NamedTuple):
    """A picture: what it shows, in a line; how it is drawn; what it needs of a run."""

    what: str
    draw: Draw
    needs: tuple[Need, ...]


PICTURES: dict[str, Picture] = {}


def register(name: str, what: str, draw: Draw, *needs: Need) -> None:
    """Adds a picture, or replaces the one of the same name.

    Args:
      name: what `--picture` calls it. what: it shows, in a line. draw: (run, images, the program's config) -> figure.
      needs: (the run's config, the program's) -> why it cannot be drawn of this run, and the mend; None where it can.
        Besides, every picture needs a denoiser.
    """
    PICTURES[name] = Picture(what, reproducible()(draw), needs)


def obstacle(picture: Picture, run: ConfigDict, config: ConfigDict) -> str | None:
    """The first of its needs that the run does not meet, and the mend; None if it meets all.

    Args:
      run: the run's config. config: the program's.
    """
    return next(filter(None, (need(run, config) for need in (denoiser, *picture.needs))), None)


def choose(source: Source, run: ConfigDict, config: ConfigDict) -> Shown:
    """A seeded choice of test images (training images where there are none), and of other, labelled training images.

    Raises:
      UserError: there are too few.
    """

    def read(split: Split) -> np.ndarray:
        return to_float(read_all(split.images, run.data.threads))

    if source.test is not None:
        shown, rest = splits.sample(source.test, config.images, config.seed), source.train
    else:
        order = np.random.default_rng(config.seed).permutation(len(source.train))
        shown, rest = (subset(source.train, np.sort(part)) for part in (order[: config.images], order[config.images :]))
    train = splits.sample(rest, config.training_images, config.seed)
    if len(shown) < 2 or len(train) < 10:
        raise UserError(f"{source.name} has too few images: pictures show 2 or more, and measure on 10 or more others")
    return Shown(read(shown), read(train), train.read_labels and train.read_labels(), source.classes)


def restore_beside(workdir: Path, run: ConfigDict, source: Source) -> Run:
    """Another run, to set beside this one.

    Raises:
      UserError: it has no encoder, or was trained on other images.
    """
    directory = RunDirectory(workdir)
    other = directory.read_config()
    validate(other)
    if reason := code(other, run) or denoiser(other, run):
        raise UserError(f"config.beside: {workdir} will not do, since `detail` {reason}")
    fields = ("name", "data_dir", "image_size", "background", "bit_depth", "test_fraction")
    if any(other.data[field] != run.data[field] for field in fields):
        raise UserError(f"config.beside: {workdir} was trained on other images; name runs on {run.data.name}")
    directory.check_data(source)
    return open_run(workdir, other)


def denoiser(run: ConfigDict, config: ConfigDict) -> str | None:
    if not methods.of(run).process:
        return (
            f"is made with a diffusion model's denoiser, and this run's objective is {run.objective.name}; train one "
            "with --config.objective.name=diffusion, or another arm="
        )
    return None


def code(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.input == "none":
        return "needs a code, and this run has no encoder; train one with --config.embedding.input=x0"
    return None


def solver(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.diffusion.timesteps == "fixed":
        return (
            "needs a solver, which needs the score at every t, and this run was trained at "
            f"t={run.diffusion.fixed_t:g} alone; train one with --config.diffusion.timesteps=stratified"
        )
    return None


def ode(run: ConfigDict, config: ConfigDict) -> str | None:
    if config.sampler not in sampler_lib.ODE_SAMPLERS:
        choices = ", ".join(sampler_lib.ODE_SAMPLERS)
        return f"runs an ODE both ways, and {config.sampler} adds noise; use a --config.sampler of {choices}"
    return None


def no_code(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.input != "none" and run.embedding.drop == 0:
        return (
            "draws images without a code, and this run's denoiser was told one in every step; "
            "train one with --config.embedding.drop=0.1, or see --picture=one_z"
        )
    return None


def plane(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.dim != 2:
        return (
            f"needs a code of 2 entries, and this run's has {run.embedding.dim}; "
            "train one with --config.embedding.dim=2"
        )
    return None


def flat(run: ConfigDict, config: ConfigDict) -> str | None:
    if run.embedding.sphere:
        return (
            "decodes a square of codes, and this run's lie on a circle; train one with --config.embedding.sphere=False"
        )
    return None


def signal(run: ConfigDict, config: ConfigDict) -> str | None:
    last = methods.of(run).process(run).last
    if max(config.times) > last:
        return (
            f"guesses the image from x_t, which at t={max(config.times):g} holds next to nothing of it under "
            f"{run.diffusion.process}; use --config.times of at most {last:g}"
        )
    return None


register("reconstructions", "images decoded from noise and their z, at several t", decoded.of_images, code, solver)
register("one_z", "many samples from one z", decoded.one_z, code, solver)
register("interpolation", "from the z of one image to that of another", decoded.interpolation, code, solver)
register("wrong_z", "each image denoised in one step with each other's z", measured.wrong_z, code, signal)
register("code_scatter", "codes of 2 entries, coloured by class", measured.code_scatter, code, plane)
register("code_grid", "a square of codes of 2 entries, decoded", decoded.code_grid, code, plane, flat, solver)
register("trajectory", "x_t and the guess of x_0 on the way from noise to image", decoded.trajectory, solver)
register("loss", "denoising error over t, told the right z, a wrong one or none", measured.loss)
register("detail", "what z keeps, class and pixels, beside other runs of the same data", measured.detail, code)
register("samples", "samples without a z", decoded.samples, no_code, solver)
register("inversion", "images carried to noise by the ODE and back", decoded.inversion, ode, solver)
