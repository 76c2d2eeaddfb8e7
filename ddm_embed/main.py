"""Trains a run, or resumes it, and probes it when it ends.

    python -m ddm_embed.main --config FILE[:key=value,...] [--config.FIELD=VALUE ...] [--workdir W]

FILE is a config such as configs/digits.py, FIELD any field of docs/config.md, such as train.steps. W is the
run directory, runs/NAME of the config by default; gs://BUCKET/PATH too. Exit codes: 0 finished, 75 start the same
command again (saved after SIGTERM or Ctrl-C, or another process was lost), 1 error. For several processes, see
launch/README.md.
"""

import logging
import sys

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.runs import files

FLAGS = cli.new_flags(processes=True)

logger = logging.getLogger("ddm_embed")


def body(given: flags.FlagValues, config: ConfigDict) -> int:
    from ddm_embed.parallel import distributed
    from ddm_embed.probe import evaluate as protocol
    from ddm_embed.report.page import publish
    from ddm_embed.runs.directory import RunDirectory
    from ddm_embed.train.loop import train

    with distributed.together():
        workdir = files.place(given.workdir or f"runs/{config.name}")
    outcome = train(config, workdir)
    if not outcome.finished:
        logger.info("saved at step %d of %d; run the same command again to go on", outcome.step, config.train.steps)
        return cli.STOPPED
    if outcome.nothing_to_do:
        logger.info("%s is finished: step %d of %d", workdir, outcome.step, config.train.steps)
    if not config.probe.after_training:
        return 0
    probe = config_lib.probe_default()
    folder = RunDirectory(workdir).probe(probe.name)
    if outcome.nothing_to_do and distributed.from_lead(folder.is_done):
        logger.info("its probe's results are in %s", folder.path)
        return 0
    evaluation = protocol.evaluate(config, probe, workdir)
    if distributed.is_lead():
        publish(evaluation, folder.path)
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body, config_lib.default, config_required=True)


if __name__ == "__main__":
    sys.exit(main())
