"""Trains, probes and compares the runs of a study, and writes its table and figure.

    python -m ddm_embed.study configs/studies/NAME.py [--dry-run] [--config.FIELD=VALUE ...] [--workdir W]

W, by default runs/studies/NAME, gets a run directory for each arm and seed, which are trained one after another, or one
a GPU. The same command again goes on where it was. Exit codes: 0 finished, 75 start the same command again, 1 a run
failed, which is named.
"""

import contextlib
import shlex
import sys
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ddm_embed import cli
from ddm_embed import config as config_lib
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags()
flags.DEFINE_bool("dry-run", False, "Tell what would be done, and for how long; do nothing.", flag_values=FLAGS)


def body(given: flags.FlagValues, config: ConfigDict, command: str) -> int:
    from ddm_embed.study import forecast, plan, work

    workdir = files.place(given.workdir or f"runs/studies/{config.name}")
    if files.is_store(workdir):
        raise UserError(f"--workdir {workdir}: a study locks its runs, which a store cannot; give a path on a disk")
    runs = plan.make(config, workdir)
    if given["dry-run"].value:
        print(forecast.text(runs, workdir))
        return 0
    devices = work.find_devices()
    plan.check_images(runs, *devices)
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(workdir / "study.lock"))
        except BlockingIOError as error:
            raise UserError(f"--workdir {workdir}: another process does this study; wait for it or stop it") from error
        ended = work.carry_out(runs, workdir, work.places(runs, *devices))
        return _tell(config, runs, workdir, ended, command)


def _tell(config: ConfigDict, runs: list, workdir: Path, ended: dict[str, str | None], command: str) -> int:
    """Writes what can be written of the runs that are done; the exit code. ended: as `work.carry_out` gives it."""
    from ddm_embed.study import written

    done = [run for run in runs if run.is_done()]
    if done:
        print(written.write(config, done, [run for run in runs if run not in done], workdir, command), flush=True)
    failed = [f"{name}: {why}" for name, why in ended.items() if why]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; {'; '.join(failed)}. Mend it and run the same command again: "
            "what is done is kept"
        )
    if ended:
        print(f"{', '.join(ended)} stopped; run the same command again to go on", file=sys.stderr)
        return cli.STOPPED
    return 0


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "ddm_embed.study", *words])
    doing = partial(body, command=command)
    return cli.run(argv, __doc__, FLAGS, doing, config_lib.study_default, config_required=True, room="studies")


if __name__ == "__main__":
    sys.exit(main())
