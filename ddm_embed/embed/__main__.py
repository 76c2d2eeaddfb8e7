"""Embeds images, or sequences, and keeps the embeddings in a file.

    python -m ddm_embed.embed --workdir W --images PATH --out FILE [--t T,T | --t all] [--feature F] [--skip-bad]

W is the directory of a run, or an export. PATH is a folder of images with its sub-folders, an image, or a .npy: uint8
[number, height, width, channel], of sequences [number, length, channel]. FILE ends in .npz, .parquet or .zarr;
`ddm_embed/embed/layout.py` says what is in it. Without --t and --feature they are what the probe chose.

Stopped in any way, the same command goes on. It ends with code 1 where images could not be read, which it lists, unless
--skip-bad is given; the others are in FILE either way.
"""

import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from absl import flags

from ddm_embed import cli
from ddm_embed.errors import UserError
from ddm_embed.runs import files
from ddm_embed.terminal import one_line

if TYPE_CHECKING:
    from ddm_embed.features.run import Run

FLAGS = cli.new_flags()
_string, _integer = (partial(define, flag_values=FLAGS) for define in (flags.DEFINE_string, flags.DEFINE_integer))
_string("images", None, "A folder of images, an image, or a .npy of images or sequences.")
_string("out", None, "The file to write: .npz, .parquet or .zarr.")
_string("t", None, "Noise levels with commas between, or all; the probe's choice by default.")
_string("feature", None, "Such as z or encoder_2; the probe's choice by default.")
flags.DEFINE_bool("skip-bad", False, "End with code 0 also where images could not be read.", flag_values=FLAGS)
_integer("batch_size", None, "Images at a time; what suits the device by default.", 1)
_integer("threads", min(16, os.cpu_count() or 1), "Threads that read images.", 1)

SHOWN = 20  # bad images that are listed on the screen

logger = logging.getLogger("ddm_embed")


def body(given: flags.FlagValues, arguments: list[str]) -> int:
    # As Ctrl-C does: chunks are written whole or not at all, so any moment is a good one to stop.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        return embed(given, arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def embed(given: flags.FlagValues, arguments: list[str]) -> int:
    from ddm_embed.embed import layout, making
    from ddm_embed.embed.listing import list_images
    from ddm_embed.features.exported import open_any

    example = "--workdir runs/digits --images photos --out photos.npz"
    cli.check_flags(given, arguments, ("workdir", "images", "out"), example)
    if "://" in given.out:
        raise UserError(f"--out {given.out}: write to a path of this machine's files, and copy it from there")
    out = files.place(given.out)
    layout.check_format(out)
    run = open_any(files.place(given.workdir))
    feature = run.choice.feature if given.feature is None else given.feature
    run.check_feature(feature)
    times = read_times(given.t, run)
    listing = list_images(files.place(given.images), run)
    for note in listing.notes:
        logger.info("%s", note)
    levels = ", ".join(f"{t:g}" for t in times)
    by = [run.choice.by if asked is None else "the command line" for asked in (given.feature, given.t)]
    chosen_by = by[0] if by[0] == by[1] else f"feature: {by[0]}; t: {by[1]}"
    logger.info("%d images; %s at t = %s (chosen by %s)", len(listing.names), feature, levels, chosen_by)
    outcome = making.make(making.Job(run, feature, times, chosen_by, listing), out, given.batch_size, given.threads)
    said = "is finished already" if outcome.before else "is written"
    print(f"{out} {said}: {outcome.number} images, {len(times)} noise levels, {run.width(feature)} numbers each")
    return report_bad(outcome.bad, given["skip-bad"].value)


def read_times(text: str | None, run: "Run") -> tuple[float, ...]:
    """The noise levels that `--t` asks for.

    Raises:
      UserError: what is given is no level.
    """
    from ddm_embed.features.run import check_levels

    if text is None:
        return (run.choice.t,)
    if text == "all":
        return tuple(run.levels)
    try:
        times = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise UserError(f"--t={text}: expected noise levels from 0 to 1, as in --t=0,0.2,0.5, or --t=all") from error
    check_levels(times)
    return times


def report_bad(bad: list[tuple[str, str]], skip: bool) -> int:
    """Lists the images that have no row; the exit code."""
    for name, reason in bad[:SHOWN]:
        print(one_line(f"not embedded: {name}: {reason}"), file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"not embedded: and {len(bad) - SHOWN} more; all are in the file's metadata, `bad`", file=sys.stderr)
    if not bad:
        return 0
    hint = "" if skip else "; mend or remove them, or give --skip-bad to end with code 0"
    print(f"{len(bad)} images could not be read{hint}", file=sys.stderr)
    return 0 if skip else 1


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body)


if __name__ == "__main__":
    sys.exit(main())
