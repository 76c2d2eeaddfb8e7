"""Sets the probe results of several runs side by side, with errors over seeds and paired tests.

    python -m ddm_embed.compare RUN [RUN ...] [--out DIR] [--probe NAME]

RUN is a run directory that was probed. Runs that differ in their seeds alone are one row. Prints the table, and writes
compare.md, compare.csv, compare.html and compare.png into DIR.
"""

import sys

from absl import flags

from ddm_embed import cli
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags()
flags.DEFINE_string("out", "compare", "Directory for the files.", flag_values=FLAGS)
flags.DEFINE_string(
    "probe", None, "Which probe of each run, by its config.name; all of them by default.", flag_values=FLAGS
)


def body(given: flags.FlagValues, runs: list[str]) -> int:
    from ddm_embed.compare import report
    from ddm_embed.compare import table as tables
    from ddm_embed.compare.runs import read_runs

    if not runs:
        raise UserError(
            "no run is given; name run directories, as in python -m ddm_embed.compare runs/digits runs/other"
        )
    if given.workdir:
        raise UserError(
            f"--workdir={given.workdir}: runs are given without a flag, as in python -m ddm_embed.compare RUN"
        )
    out = files.place(given.out)
    out.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be written, not after the work
    found, left_out = tables.compare(read_runs([files.place(run) for run in runs], given.probe))
    print(report.text(found, left_out), flush=True)
    written = report.write(found, left_out, out)
    print("\n" + ", ".join(map(str, written)))
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body)


if __name__ == "__main__":
    sys.exit(main())
