"""Draws pictures of what a run's embeddings hold and of what its denoiser makes of them.

    python -m ddm_embed.sample --workdir W --picture NAME [--config.FIELD=VALUE ...]
    python -m ddm_embed.sample --list

W is the directory of a run, NAME one of those that --list names, or `all`. FIELD is one of sampler, steps, images,
times and the others in `ddm_embed.config.sample_default`. The PNG is written to W/samples/NAME.png.
"""

from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.data import splits
from ddm_embed.data.augment import to_float
from ddm_embed.data.sources import check_same, open_source
from ddm_embed.data.types import Source, Split, read_all, subset
from ddm_embed.drawing import save
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run, open_run
from ddm_embed.runs import files
from ddm_embed.sample import needs
from ddm_embed.sample.needs import obstacle
from ddm_embed.sample.pictures import PICTURES
from ddm_embed.sample.shown import Shown
from ddm_embed.validate import validate, validate_sample

PICTURE = flags.DEFINE_string("picture", None, "Which picture; --list names them; all: each that this run allows.")
LIST = flags.DEFINE_bool("list", False, "Name the pictures, and with --workdir which of them this run allows.")


def main(config: ConfigDict) -> int:
    validate_sample(config)
    workdir = files.place(cli.WORKDIR.value) if cli.WORKDIR.value else None
    run = config_lib.read(workdir) if workdir else None
    refused = {name: run and obstacle(picture.needs, run, config) for name, picture in PICTURES.items()}
    if LIST.value:
        for name, picture in PICTURES.items():
            print(
                f"{name:<16} {picture.what}" + (f"\n{'':<16} not of this run: {refused[name]}" if refused[name] else "")
            )
        return 0
    if workdir is None:
        raise UserError("--workdir is missing; give the directory of a run, such as --workdir runs/digits")
    if PICTURE.value != "all" and PICTURE.value not in PICTURES:
        given = "--picture is missing" if PICTURE.value is None else f"--picture={PICTURE.value}: no such picture"
        raise UserError(f"{given}; use all or one of {', '.join(PICTURES)}")
    if refused.get(PICTURE.value):
        raise UserError(f"--picture={PICTURE.value} {refused[PICTURE.value]}")

    validate(run)
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)  # fails now if it cannot be written, not after the work
    source = open_source(run)
    check_same(source, workdir / "data.json")
    trained = open_run(workdir, run)
    beside = tuple(restore_beside(files.place(place), run, source) for place in filter(None, config.beside.split(",")))
    shown = choose(source, run, config)._replace(beside=beside)
    for name in [PICTURE.value] if PICTURE.value != "all" else [name for name in PICTURES if not refused[name]]:
        path = folder / f"{name}.png"
        save(PICTURES[name].draw(trained, shown, config), path)
        print(path, flush=True)
    return 0


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
    other = config_lib.read(workdir)
    validate(other)
    if reason := needs.code(other, run) or needs.denoiser(other, run):
        raise UserError(f"config.beside: {workdir} will not do, since `detail` {reason}")
    fields = ("name", "data_dir", "image_size", "test_fraction")
    if any(other.data[field] != run.data[field] for field in fields):
        raise UserError(f"config.beside: {workdir} was trained on other images; name runs on {run.data.name}")
    check_same(source, workdir / "data.json")
    return open_run(workdir, other)


if __name__ == "__main__":
    cli.launch(main, config_lib.sample_default(), config_required=False)
