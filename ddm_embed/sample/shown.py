"""What pictures are of, and the words on them."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from ddm_embed.data import splits
from ddm_embed.data.augment import to_float
from ddm_embed.data.types import Source, Split, read_all, subset
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run, open_run
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.sample import needs
from ddm_embed.sample.generate import embed, over_batch, tell_of
from ddm_embed.validate import validate

Images = Float[np.ndarray, "number height width channel"]


class Shown(NamedTuple):
    """images, train: images in [-1, 1], of which no one is in both. labels: those of `train`, None where there are
    none. names: of the classes, by label. beside: other runs on the same data, to set beside the first."""

    images: Images
    train: Images
    labels: Int[np.ndarray, " number"] | None
    names: tuple[str, ...] | None = None
    beside: tuple[Run, ...] = ()


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
    if reason := needs.code(other, run) or needs.denoiser(other, run):
        raise UserError(f"config.beside: {workdir} will not do, since `detail` {reason}")
    fields = ("name", "data_dir", "image_size", "test_fraction")
    if any(other.data[field] != run.data[field] for field in fields):
        raise UserError(f"config.beside: {workdir} was trained on other images; name runs on {run.data.name}")
    directory.check_data(source)
    return open_run(workdir, other)


def levels(trained: Run, config: ConfigDict) -> list[float]:
    """The noise levels at which codes are looked at: one stands for all of a static code of the image."""
    return [config.times[0]] if trained.static("z") else list(config.times)


def embed_at(trained: Run, images: Images, times: list[float], seed: int) -> Float[np.ndarray, "time number dim"]:
    """z of images at each t, [time, number, dim]; of a Gaussian code the mean."""

    def body(params, told):
        def at(t):
            return embed(trained, params, told.image, told.eps, jnp.full(len(told.image), t)).z

        return jax.lax.map(at, jnp.asarray(times, jnp.float32)).swapaxes(0, 1)

    return over_batch(trained, body)(tell_of(images, seed)).swapaxes(0, 1)


def whose(trained: Run) -> str:
    return f"{trained.config.name}, step {trained.step}"


def way(config: ConfigDict) -> str:
    return f"{config.sampler}, {config.steps} steps"


def rmse(a: Images, b: Images) -> str:
    return f"RMSE {np.sqrt(np.mean((a - b) ** 2)):.2f}"
