"""Kills `embed` at random moments, starts it again until it has finished, and compares with an undisturbed run.

    python tests/embed/kills.py RUN IMAGES [--trials 12] [--seed 0]

RUN is a trained run, IMAGES a folder of some hundred images. Every file must be the same, name by name, bit by bit.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ddm_embed.embed import layout, making


def command(run, images, out) -> list[str]:
    return [
        sys.executable, "-m", "ddm_embed.embed", "--workdir", run, "--images", images, "--out", str(out), "--t=all",
        "--threads=2",
    ]  # fmt: skip


def main(run: str, images: str, trials: int, seed: int) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        expected, begin = Path(folder, "expected.npz"), time.perf_counter()
        subprocess.run(command(run, images, expected), check=True, capture_output=True)
        whole = time.perf_counter() - begin
        reference = layout.read(expected)
        kills = went_on = 0
        for trial in range(trials):
            out = Path(folder, f"{trial}{layout.SUFFIXES[trial % len(layout.SUFFIXES)]}")
            while True:
                process = subprocess.Popen(command(run, images, out), stderr=subprocess.PIPE, text=True)
                try:
                    # Half of the kills come near the end, where the file is put together.
                    _, errors = process.communicate(timeout=whole * draw.choice([draw.random(), draw.gauss(0.9, 0.05)]))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    kills += 1
            assert process.returncode == 0, errors
            went_on += "going on" in errors
            found = layout.read(out)
            assert found.names == reference.names and found.labels == reference.labels
            assert np.array_equal(found.embedding, reference.embedding)
            assert not making.folder_of(out).exists()
        print(f"{trials} files, {kills} kills, {went_on} ended by going on: all as undisturbed ({whole:.1f} s each)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("images")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
