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
from pathlib import Path

from absl import flags

from ddm_embed import cli
from ddm_embed.embed import layout, making
from ddm_embed.embed.listing import list_images
from ddm_embed.errors import UserError
from ddm_embed.features.exported import open_any
from ddm_embed.features.run import Run, check_levels
from ddm_embed.runs import files
from ddm_embed.validate import check_feature

IMAGES = flags.DEFINE_string("images", None, "A folder of images, an image, or a .npy of images or sequences.")
OUT = flags.DEFINE_string("out", None, "The file to write: .npz, .parquet or .zarr.")
TIMES = flags.DEFINE_string("t", None, "Noise levels with commas between, or all; the probe's choice by default.")
FEATURE = flags.DEFINE_string("feature", None, "Such as z or encoder_2; the probe's choice by default.")
SKIP_BAD = flags.DEFINE_bool("skip-bad", False, "End with code 0 also where images could not be read.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images at a time; what suits the device by default.", 1)
THREADS = flags.DEFINE_integer("threads", min(16, os.cpu_count() or 1), "Threads that read images.", 1)

SHOWN = 20  # bad images that are listed on the screen

logger = logging.getLogger("ddm_embed")


def main(arguments: list[str]) -> int:
    try:
        # As Ctrl-C does: chunks are written whole or not at all, so any moment is a good one to stop.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return embed(arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("stopped; run the same command again to go on", file=sys.stderr)
        return cli.STOPPED


def embed(arguments: list[str]) -> int:
    example = "--workdir runs/digits --images photos --out photos.npz"
    cli.check_flags(arguments, (cli.WORKDIR, IMAGES, OUT), example)
    if "://" in OUT.value:
        raise UserError(f"--out {OUT.value}: write to a path of this machine's files, and copy it from there")
    out = Path(OUT.value)
    layout.check_format(out)
    frozen = open_any(files.place(cli.WORKDIR.value))
    feature = frozen.choice.feature if FEATURE.value is None else FEATURE.value
    check_feature(feature, frozen.names)
    times = read_times(TIMES.value, frozen)
    listing = list_images(Path(IMAGES.value), frozen)
    for note in listing.notes:
        logger.info("%s", note)
    levels = ", ".join(f"{t:g}" for t in times)
    by = [frozen.choice.by if asked is None else "the command line" for asked in (FEATURE.value, TIMES.value)]
    chosen_by = by[0] if by[0] == by[1] else f"feature: {by[0]}; t: {by[1]}"
    logger.info("%d images; %s at t = %s (chosen by %s)", len(listing.names), feature, levels, chosen_by)
    outcome = making.make(making.Job(frozen, feature, times, chosen_by, listing), out, BATCH_SIZE.value, THREADS.value)
    said = "is finished already" if outcome.before else "is written"
    print(f"{out} {said}: {outcome.number} images, {len(times)} noise levels, {frozen.width(feature)} numbers each")
    return report_bad(outcome.bad)


def read_times(text: str | None, frozen: Run) -> tuple[float, ...]:
    """The noise levels that `--t` asks for.

    Raises:
      UserError: what is given is no level.
    """
    if text is None:
        return (frozen.choice.t,)
    if text == "all":
        return tuple(frozen.levels)
    try:
        times = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise UserError(f"--t={text}: expected noise levels from 0 to 1, as in --t=0,0.2,0.5, or --t=all") from error
    check_levels(times)
    return times


def report_bad(bad: list[tuple[str, str]]) -> int:
    """Lists the images that have no row; the exit code."""
    for name, reason in bad[:SHOWN]:
        print(f"not embedded: {name}: {reason}", file=sys.stderr)
    if len(bad) > SHOWN:
        print(f"not embedded: and {len(bad) - SHOWN} more; all are in the file's metadata, `bad`", file=sys.stderr)
    if not bad:
        return 0
    hint = "" if SKIP_BAD.value else "; mend or remove them, or give --skip-bad to end with code 0"
    print(f"{len(bad)} images could not be read{hint}", file=sys.stderr)
    return 0 if SKIP_BAD.value else 1


if __name__ == "__main__":
    cli.launch_on_arguments(main)
