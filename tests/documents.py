"""The documents' blocks of code, and a place where they run at reduced length."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import ROOT
from PIL import Image

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]

# Flags appended to a program's own, where the last one counts: few steps of tiny networks, few images and levels.
TINY = "--config.model.width=16 --config.model.heads=2 --config.model.encoder_depth=1 --config.train.batch_size=16"
TINY += " --config.embedding.dim=8 --config.optimizer.warmup_steps=1 --config.train.picture_every=0"
SHORT = {
    "ddm_embed.main": f"{TINY} --config.model.depth=2 --config.train.steps=4 --config.probe.after_training=False",
    "ddm_embed.preflight": f"{TINY} --config.model.depth=2 --config.mesh.fsdp=1 --image=8x8x1 --topology=here",
    "ddm_embed.probe": "--config.noise_draws=1 --config.times=0.2,0.7 --config.measure_images=40 --config.shot_draws=2 "
    "--config.selection_images=200 --config.training_images=200 --config.reader_epochs=1 --config.reader_width=8 "
    "--config.reader_levels=2, --config.semi_draws=1",
    "ddm_embed.study": "--config.arms=random --config.seeds=0, --config.probe_overrides=times=(0.2,)",
    "ddm_embed.sample": "--config.steps=2 --config.images=2 --config.samples=2 --config.training_images=40",
}
# TFDS datasets need not be there: images of the same shape take their place. The pods' patches suit larger images.
IN_PLACE = {
    "configs/fashion_mnist.py": "--config.data.name=arrays:made/28x28x1",
    "configs/studies/fashion_mnist.py": "--config.overrides=data.name=arrays:made/28x28x1",
    "configs/studies/cifar10.py": "--config.overrides=data.name=arrays:made/32x32x3 "
    "--config.base=cifar10:variant=Ti/8,steps=2000",
    "configs/cifar10.py": "--config.data.name=arrays:made/32x32x3",
    "configs/imagenet256_xl.py": "--config.model.variant=XL/4",
}


class Block(NamedTuple):
    """A fenced block, or a command within a line: `python` with a file or flags, `pip install`."""

    document: str
    line: int
    sections: tuple[str, ...]  # the headings that it stands under, from the document's own
    language: str
    text: str


INLINE = re.compile(r"`((?:python [^`]*(?: --|\.py)|pip install )[^`]+)`")


def blocks(path: Path, *languages: str) -> list[Block]:
    """The blocks of these languages; commands within lines are `inline`, if they are whole."""
    found, sections, fence, body = [], (), None, []
    name = str(path.relative_to(ROOT))
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        if fence is None and (not line or line.startswith(("#", "```"))):  # a paragraph has ended
            commands = INLINE.findall(" ".join(body))
            found += [Block(name, number - len(body), sections, "inline", text) for text in commands]
            body = []
        if line.startswith("```"):
            if fence is not None:
                found.append(Block(name, number - len(body), sections, fence, "\n".join(body)))
            fence, body = (line[3:], []) if fence is None else (None, [])
        elif fence is None and (heading := re.match("(#+) (.+)", line)):
            sections = (*sections[: len(heading.group(1)) - 1], heading.group(2))
        else:
            body.append(line)
    assert fence is None, f"{path}: a block does not end"
    return [block for block in found if block.language in languages]


def shim(place: Path, *lines: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    place.chmod(place.stat().st_mode | stat.S_IXUSR)


def make_sandbox(folder: Path, run: Path | None = None) -> Path:
    """A folder with what the documents' commands name: configs, launchers, datasets and runs.

    `python` there gives the programs the flags of `SHORT`, and the launchers to clouds `--dry-run`.

    Args:
      run: a tiny finished run on the digits, which takes the place of runs/digits.
    """
    folder.mkdir(parents=True)
    for name in ("configs", "tests", "ddm_embed"):
        (folder / name).symlink_to(ROOT / name)
    cases = [f'  *" -m {module} "*) more="{flags}" ;;' for module, flags in SHORT.items()]
    images = [f'  *"{config}"*) more="$more {flags}" ;;' for config, flags in IN_PLACE.items()]
    python = shlex.quote(sys.executable)
    chosen = ['case " $* " in', *cases, "esac", 'case "$* $more" in', *images, "esac"]
    shim(folder / "bin" / "python", 'more=""', *chosen, f'exec {python} "$@" $more')
    shim(folder / "bin" / "pip", 'echo "pip $*: not in this test" >&2; exit 3')
    for name in ("tpu", "gke", "slurm"):
        shim(folder / "launch" / name, f'exec {shlex.quote(str(ROOT / "launch" / name))} "$1" --dry-run "${{@:2}}"')
    shim(folder / "launch" / "local", f'exec {python} {shlex.quote(str(ROOT / "launch" / "local"))} "$@"')

    rng = np.random.default_rng(0)
    for shape in ((28, 28, 1), (32, 32, 3)):
        made = folder / "made" / "x".join(map(str, shape))
        made.mkdir(parents=True)
        for split, number in (("train", 80), ("test", 30)):
            np.save(made / f"{split}_images.npy", rng.integers(0, 256, (number, *shape), np.uint8))
            np.save(made / f"{split}_labels.npy", np.arange(number) % 4)
    write_digits(folder / "photos", number=60)
    if run:
        shutil.copytree(run, folder / "runs" / "digits")
    return folder


def write_digits(folder: Path, number: int) -> None:
    """The first digits as PNG files, a folder a class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for place in range(number):
        file = folder / str(digits.target[place]) / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[place] * (255 / 16)).astype(np.uint8)).save(file)


def execute(text: str, language: str, sandbox: Path, timeout: float, **more: str) -> subprocess.CompletedProcess:
    """Runs a block in the sandbox: sh by bash, which stops at the first failure, python by the sandbox's python;
    with `more` in its environment."""
    environment = os.environ | {
        "PATH": f"{sandbox / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "Agg",
        **more,
    }
    if language == "python":
        (sandbox / "block.py").write_text(text)
        command = ["python", "block.py"]
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
    command[0] = shutil.which(command[0], path=environment["PATH"])
    return subprocess.run(
        command, cwd=sandbox, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
