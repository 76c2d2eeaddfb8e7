"""Signals to a run of one process, at random moments."""

import random
import signal
import time
from pathlib import Path

import runs
from runs import STOPPED, Reference, Trial

MOMENTS = {"start": 2, "train": 3, "save": 5}
TERM_BOUND = 30.0  # seconds that Kubernetes gives a pod to end


def run_with(numbers: list[signal.Signals], folder: Path, reference: Reference, seed: int) -> list[Trial]:
    """One run, sent one signal after another until it ends, which may be before the last; then it is let end."""
    rng, trials = random.Random(seed), []
    workdir, log = folder / "run", folder / "log.txt"
    command = runs.command(workdir, reference.steps)
    for number in numbers:
        process = runs.start(command, log)
        moment = rng.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        runs.wait_for_moment(moment, workdir, process, reference.startup, rng)
        if process.poll() is not None:
            break  # it came to its end first
        begin = time.monotonic()
        process.send_signal(number)
        in_time = runs.ended(process)
        trials.append(examine(number, process.returncode, in_time, time.monotonic() - begin, workdir).judged())
    problem = runs.finish(command, workdir, log, reference)
    return [trial._replace(problem=trial.problem or problem) for trial in trials]


def examine(number: signal.Signals, code: int, in_time: bool, seconds: float, workdir: Path) -> Trial:
    """What a signal has left behind."""
    loss = runs.loss(workdir)
    if number == signal.SIGKILL:
        return Trial("SIGKILL", loss.steps, loss.allowed, seconds, bound=5.0, saving=loss.saving)
    problem = "" if in_time and code in (STOPPED, 0, -number) else f"exit code {code}"
    # Before training begins nothing is there to be saved: the signal ends it as it would any program.
    allowed = loss.allowed if code == -number else 0
    return Trial(number.name, loss.steps, allowed, seconds, TERM_BOUND, problem, loss.saving)
