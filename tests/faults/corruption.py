"""Files of checkpoints flipped, cut short, emptied or deleted: the run goes on from the one before."""

import random
import shutil
from pathlib import Path

import runs
from runs import INTERVAL, Reference, Trial

WAYS = ("flip", "cut", "empty", "delete")


def run_with(faults: list, folder: Path, reference: Reference, seed: int) -> list[Trial]:
    """A copy of the finished run for each fault, one file of whose newest checkpoint is damaged; of every fifth copy,
    of the newest two."""
    rng, trials = random.Random(seed), []
    kinds = shuffled_kinds(reference.workdir / "checkpoints" / str(reference.steps), rng)
    for number in range(len(faults)):
        workdir = folder / f"run_{number}"
        shutil.copytree(reference.workdir, workdir)
        newest = runs.checkpoint_steps(workdir)[::-1][: 2 if number % 5 == 4 else 1]
        for step in newest:
            name = rng.choice(kinds[number % len(kinds)])
            harm(workdir / "checkpoints" / str(step) / name, WAYS[number % len(WAYS)], rng)
        lost = reference.steps - runs.kept(workdir)
        problem = runs.finish(runs.command(workdir, reference.steps), workdir, folder / "log.txt", reference)
        if lost and not problem and not (workdir / "corrupt" / str(newest[0])).is_dir():
            problem = "the damaged checkpoint was not set aside"
        trials.append(Trial("checkpoint damaged", lost, len(newest) * INTERVAL, 0.0, 0.0, problem).judged())
        shutil.rmtree(workdir)
    return trials


def shuffled_kinds(checkpoint: Path, rng: random.Random) -> list[list[str]]:
    """The checkpoint's files by kind: a file of its own name, or the data of one item."""
    kinds: dict[str, list[str]] = {}
    for file in sorted(file for file in checkpoint.rglob("*") if file.is_file()):
        name = str(file.relative_to(checkpoint))
        kinds.setdefault(f"{file.parent}" if file.parent.name == "d" else name, []).append(name)
    shuffled = list(kinds.values())
    rng.shuffle(shuffled)
    # commit_success.txt is a mark that some stores need; its loss is no loss of data.
    return [names for names in shuffled if not names[0].endswith("commit_success.txt")]


def harm(file: Path, way: str, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if way == "delete":
        file.unlink()
    elif way == "flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2 if way == "cut" else 0])
