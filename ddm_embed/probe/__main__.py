"""Measures what a run's embeddings are worth.

    python -m ddm_embed.probe --workdir W [--config configs/probe.py] [--config.FIELD=VALUE ...]

W is the directory of a run. FIELD is one of times, strengths, neighbours and the others in configs/probe.py's default.
"""

import sys

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags(processes=True)


def body(given: flags.FlagValues, config: ConfigDict) -> int:
    from ddm_embed.parallel import distributed
    from ddm_embed.probe import evaluate as protocol
    from ddm_embed.report.page import publish
    from ddm_embed.runs.directory import RunDirectory
    from ddm_embed.validate import validate_probe

    if not given.workdir:
        raise UserError("--workdir is missing; give the directory of a run, such as --workdir runs/digits")
    validate_probe(config)
    with distributed.together():
        workdir = files.place(given.workdir)
        directory = RunDirectory(workdir)
        folder, run = directory.probe(config.name), directory.read_config()
        folder.make()  # fails now if it cannot be written, not after the work
    evaluation = protocol.evaluate(run, config, workdir)
    if distributed.is_lead():
        publish(evaluation, folder.path)
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body, config_lib.probe_default)


if __name__ == "__main__":
    sys.exit(main())
