"""Draws pictures of what a run's embeddings hold and of what its denoiser makes of them.

    python -m ddm_embed.sample --workdir W --picture NAME [--config.FIELD=VALUE ...]
    python -m ddm_embed.sample --list

W is the directory of a run, NAME one of those that --list names, or `all`. FIELD is one of sampler, steps, images,
times and the others in `ddm_embed.config.sample_default`. The PNG is written to W/samples/NAME.png.
"""

import sys

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags()
flags.DEFINE_string(
    "picture", None, "Which picture; --list names them; all: each that this run allows.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "list", False, "Name the pictures, and with --workdir which of them this run allows.", flag_values=FLAGS
)


def body(given: flags.FlagValues, config: ConfigDict) -> int:
    from ddm_embed.drawing import save
    from ddm_embed.features.run import open_run
    from ddm_embed.runs.directory import RunDirectory
    from ddm_embed.sample.pictures import PICTURES, choose, obstacle, restore_beside
    from ddm_embed.validate import validate, validate_sample

    validate_sample(config)
    workdir = files.place(given.workdir) if given.workdir else None
    run = RunDirectory(workdir).read_config() if workdir else None
    refused = {name: run and obstacle(picture, run, config) for name, picture in PICTURES.items()}
    if given.list:
        for name, picture in PICTURES.items():
            print(
                f"{name:<16} {picture.what}" + (f"\n{'':<16} not of this run: {refused[name]}" if refused[name] else "")
            )
        return 0
    if workdir is None:
        raise UserError("--workdir is missing; give the directory of a run, such as --workdir runs/digits")
    if given.picture != "all" and given.picture not in PICTURES:
        given = "--picture is missing" if given.picture is None else f"--picture={given.picture}: no such picture"
        raise UserError(f"{given}; use all or one of {', '.join(PICTURES)}")
    if refused.get(given.picture):
        raise UserError(f"--picture={given.picture} {refused[given.picture]}")

    validate(run)
    directory = RunDirectory(workdir)
    directory.make_pictures()  # fails now if it cannot be written, not after the work
    source = directory.open_data(run, config.data)
    trained = open_run(workdir, run)
    beside = tuple(restore_beside(files.place(place), run, source) for place in filter(None, config.beside.split(",")))
    shown = choose(source, run, config)._replace(beside=beside)
    for name in [given.picture] if given.picture != "all" else [name for name in PICTURES if not refused[name]]:
        path = directory.picture(name)
        save(PICTURES[name].draw(trained, shown, config), path)
        print(path, flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body, config_lib.sample_default)


if __name__ == "__main__":
    sys.exit(main())
