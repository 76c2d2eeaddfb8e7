"""Sets the probe results of several runs side by side, with errors over seeds and paired tests.

    python -m ddm_embed.compare RUN [RUN ...] [--out DIR] [--probe NAME]

RUN is a run directory that was probed. Runs that differ in their seeds alone are one row. Prints the table, and writes
compare.md, compare.csv, compare.html and compare.png into DIR.
"""

from absl import flags

from ddm_embed import cli
from ddm_embed.compare import report
from ddm_embed.compare import table as tables
from ddm_embed.compare.runs import read_runs
from ddm_embed.errors import UserError
from ddm_embed.runs import files

OUT = flags.DEFINE_string("out", "compare", "Directory for the files.")
PROBE = flags.DEFINE_string("probe", None, "Which probe of each run, by its config.name; all of them by default.")


def main(runs: list[str]) -> int:
    if not runs:
        raise UserError(
            "no run is given; name run directories, as in python -m ddm_embed.compare runs/digits runs/other"
        )
    if cli.WORKDIR.value:
        raise UserError(
            f"--workdir={cli.WORKDIR.value}: runs are given without a flag, as in python -m ddm_embed.compare RUN"
        )
    out = files.place(OUT.value)
    out.mkdir(parents=True, exist_ok=True)  # fails now if it cannot be written, not after the work
    found, left_out = tables.compare(read_runs([files.place(run) for run in runs], PROBE.value))
    print(report.text(found, left_out), flush=True)
    written = report.write(found, left_out, out)
    print("\n" + ", ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    cli.launch_on_arguments(main)
