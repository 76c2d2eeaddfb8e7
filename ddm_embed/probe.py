"""Measures what a run's embeddings are worth.

    python -m ddm_embed.probe --workdir W [--config configs/probe.py] [--config.FIELD=VALUE ...]

W is the directory of a run. FIELD is one of times, strengths, neighbours and the others in configs/probe.py's default.
"""

from pathlib import Path

from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.evaluate import protocol, report
from ddm_embed.validate import validate_probe


def main(config: ConfigDict) -> int:
    if not cli.WORKDIR.value:
        raise UserError("--workdir is missing; give the directory of a run, such as --workdir runs/digits")
    validate_probe(config)
    workdir = Path(cli.WORKDIR.value)
    run = config_lib.read(workdir)
    folder = workdir / "probe" / config.name
    folder.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be written, not after the work
    report.publish(protocol.evaluate(run, config, workdir), folder)
    return 0


if __name__ == "__main__":
    cli.launch(main, config_lib.probe_default(), config_required=False)
