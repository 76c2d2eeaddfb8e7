"""Measures what a run's embeddings are worth.

    python -m ddm_embed.probe --workdir W [--config configs/probe.py] [--config.FIELD=VALUE ...]

W is the directory of a run. FIELD is one of times, strengths, neighbours and the others in configs/probe.py's default.
"""

from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.parallel import distributed
from ddm_embed.probe import evaluate as protocol
from ddm_embed.report.publish import publish
from ddm_embed.runs import files
from ddm_embed.validate import validate_probe


def main(config: ConfigDict) -> int:
    if not cli.WORKDIR.value:
        raise UserError("--workdir is missing; give the directory of a run, such as --workdir runs/digits")
    validate_probe(config)
    with distributed.together():
        workdir = files.place(cli.WORKDIR.value)
        folder = workdir / "probe" / config.name
        run = config_lib.read(workdir)
        folder.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be written, not after the work
    evaluation = protocol.evaluate(run, config, workdir)
    if distributed.is_lead():
        publish(evaluation, folder)
    return 0


if __name__ == "__main__":
    cli.launch(main, config_lib.probe_default(), config_required=False, processes=True)
