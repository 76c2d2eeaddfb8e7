"""Writes a run's encoder as a folder to copy, to publish, and to use without the run or without this package.

    python -m ddm_embed.export --workdir W --out DIR [--feature NAME] [--t T] [--license NAME]

W is the directory of a run. DIR, which must not exist or be empty, gets the averaged parameters as safetensors, the
config, a serialised program of jax.export that gives one feature, a model card with the run's measured results and
limits, an example, and export.json, which holds the SHA-256 of each: see `ddm_embed.features.exported`.
"""

import re
import sys
from functools import partial

from absl import flags

from ddm_embed import cli
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags()
_string = partial(flags.DEFINE_string, flag_values=FLAGS)
_string("out", None, "Folder to write; it must not exist, or be empty.")
_string("feature", None, "Which feature the program gives; the probe's choice if not given.")
_string("license", "unknown", "Of the weights, as a hub names it: apache-2.0, cc-by-4.0, other.")
flags.DEFINE_float(
    "t", None, "Its noise level unless another is asked for; the probe's choice if not given.", flag_values=FLAGS
)


def body(given: flags.FlagValues, arguments: list[str]) -> int:
    from ddm_embed.data.sources import names_place
    from ddm_embed.export import written
    from ddm_embed.features.exported import is_export
    from ddm_embed.features.run import open_run

    cli.check_flags(given, arguments, ("workdir", "out"), "--workdir runs/digits --out exports/digits")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", given.license):
        raise UserError(f"--license={given.license!r}: expected a hub's name of a licence, such as apache-2.0 or mit")
    out, workdir = files.place(given.out), files.place(given.workdir)
    written.check_free(out)
    if is_export(workdir):
        raise UserError(f"--workdir {workdir} is an export already; copy the folder, or name the run it was made of")

    run, documents = open_run(workdir), written.read_documents(workdir)
    choice = written.choose(run, documents, given.feature, given.t)
    sizes = written.write(out, run, choice, documents, given.license)

    for name, size in sizes.items():
        print(f"{name:<22}{size / 2**20:10.2f} MiB")
    print(f"{choice.feature} at t = {choice.t:g} ({choice.by}); step {run.step}")
    data = run.config.data
    if data.data_dir or names_place(data.name):
        print(f"note: config.json says where the images are on this machine: {data.data_dir or data.name}")
    print(f"{out}: read README.md in it before you publish it")
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body)


if __name__ == "__main__":
    sys.exit(main())
