"""A tiny run in processes of its own, to be disturbed; and what it must come to all the same."""

import atexit
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import ROOT, flags_of, saved_arrays, tiny_config

from ddm_embed.runs.checkpoint import checkpoint_steps, damage

INTERVAL, STOPPED = 5, 75  # steps between checkpoints; exit code
PATIENCE = 300.0  # seconds after which a process that does not end counts as hung

Arrays = dict[str, np.ndarray]


class Trial(NamedTuple):
    """One fault and what came of it. lost: steps, of which `allowed` may be; seconds: until all had ended, `bound` at
    most; problem: what broke a promise, or nothing. saving: whether a checkpoint was being written."""

    fault: str
    lost: int
    allowed: int
    seconds: float
    bound: float
    problem: str = ""
    saving: bool = False

    def judged(self) -> "Trial":
        """The same with its problem, if it lost too much or took too long."""
        if self.problem:
            return self
        if self.lost > self.allowed:
            return self._replace(problem=f"lost {self.lost} steps, more than {self.allowed}")
        if self.seconds > self.bound:
            return self._replace(problem=f"took {self.seconds:.0f} s to end, more than {self.bound:.0f} s")
        return self


class Reference(NamedTuple):
    """What an undisturbed run comes to: its curve, its last checkpoint, and the seconds until it took a step."""

    workdir: Path
    steps: int
    curve: dict[int, float]
    arrays: Arrays
    startup: float


def command(workdir: Path, steps: int) -> list[str]:
    """That of a run which tells its loss at every step and saves every `INTERVAL`."""
    changes = {"train.steps": steps, "train.checkpoint_every": INTERVAL, "train.log_every": 1}
    changes |= {"optimizer.learning_rate": 1e-3, "model.depth": 1}
    return [sys.executable, "-m", "ddm_embed.main", *flags_of(tiny_config(**changes)), "--workdir", str(workdir)]


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    """A process whose output is added to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cached = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # so that a start costs little
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | cached
        )
    atexit.register(process.kill)  # whatever becomes of who started it
    return process


def make_reference(folder: Path, steps: int) -> Reference:
    """Runs it once undisturbed, and again to its first step, now that all is compiled."""
    process = start(command(folder / "whole", steps), folder / "log.txt")
    assert ended(process) and process.returncode == 0, (folder / "log.txt").read_text()
    begin = time.monotonic()
    process = start(command(folder / "first", steps), folder / "log.txt")
    wait_until(lambda: done(folder / "first") > 0, process)
    startup = time.monotonic() - begin
    process.kill()
    process.wait()
    whole = folder / "whole"
    return Reference(whole, steps, curve(whole), saved_arrays(whole, steps), startup)


def curve(workdir: Path) -> dict[int, float]:
    """step -> loss, of whole lines."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    values = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {value["step"]: value["loss"] for value in values}


def done(workdir: Path) -> int:
    """The last step that the run has told of."""
    return max(curve(workdir), default=0)


def kept(workdir: Path) -> int:
    """The step of the newest sound checkpoint, or 0."""
    steps = checkpoint_steps(workdir)
    return max((s for s in steps if damage(workdir / "checkpoints" / str(s)) is None), default=0)


class Loss(NamedTuple):
    """Steps that a run must take again, how many these may be, and whether a checkpoint was still being written."""

    steps: int
    allowed: int
    saving: bool


def loss(workdir: Path) -> Loss:
    """What a run that has ended has lost: the steps since its newest checkpoint that was wholly written."""
    last, newest = done(workdir), kept(workdir)
    saving = newest < (last - 1) // INTERVAL * INTERVAL  # begun before the steps after it
    return Loss(last - newest, 2 * INTERVAL if saving else INTERVAL, saving)


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written, or one was left unfinished."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def wait_until(met: Callable[[], bool], process: subprocess.Popen, seconds: float = PATIENCE) -> bool:
    """Whether the condition was met while the process ran."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if met():
            return True
        time.sleep(0.002)
    return False


def ended(process: subprocess.Popen) -> bool:
    """Whether the process ends within `PATIENCE`; it is killed if not."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    return True


def wait_for_moment(moment: str, workdir: Path, process: subprocess.Popen, startup: float, rng: random.Random) -> None:
    """Returns at some time in the start, in training, or in a save that begins after this was called."""
    before = done(workdir), set((workdir / "checkpoints").glob("*"))
    if moment == "start":
        wait_until(lambda: False, process, rng.uniform(0, startup))
        return
    wait_until(lambda: done(workdir) not in (before[0], 0), process)
    wait_until(lambda: False, process, rng.expovariate(2))
    if moment == "save":
        wait_until(lambda: saving(workdir), process)
        time.sleep(rng.uniform(0, 0.1))


def finish(arguments: list[str], workdir: Path, log: Path, reference: Reference, exact: bool = True) -> str:
    """Starts the run a last time and lets it end; what differs from the undisturbed one, or nothing."""
    process = start(arguments, log)
    if not ended(process):
        return "hung when started again"
    if process.returncode:
        return f"exit code {process.returncode} when started again; see {log}"
    return difference(workdir, reference, exact)


def difference(workdir: Path, reference: Reference, exact: bool) -> str:
    """What differs from the undisturbed run, or nothing. Several processes add in another order: not exact."""
    found = curve(workdir)
    if list(found) != list(reference.curve):
        return "metrics.jsonl has other steps than the undisturbed run"
    gap = max(abs(found[step] - loss) for step, loss in reference.curve.items())
    if gap > (0 if exact else 1e-5):
        return f"the loss differs from the undisturbed run's by {gap:.2g}"
    if exact:
        arrays = saved_arrays(workdir, reference.steps)
        changed = [name for name, array in reference.arrays.items() if arrays[name].tobytes() != array.tobytes()]
        if changed or arrays.keys() != reference.arrays.keys():
            return f"the last checkpoint differs from the undisturbed run's in {len(changed)} arrays"
    return ""
