"""One of several processes killed, stopped or asked to end at random moments: all must end, and say where they were."""

import contextlib
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import runs
from runs import ROOT, STOPPED, Reference, Trial

WATCHDOG, CONNECT = 30, 60  # seconds
SLACK = 10  # seconds: of looking at the clock, and of writing the stacks on a busy machine
MOMENTS = {"start": 1, "train": 2, "save": 2}
STACK = re.compile(r'^  File ".*", line \d+', re.MULTILINE)
REFUSED = "could not join the other processes"


class Started:
    """A start of the run by launch/local: the processes' numbers in the system, and what they have written."""

    def __init__(self, folder: Path, reference: Reference, processes: int):
        self._number = processes
        self.workdir, self.logs = folder / "run", folder / "logs"
        self.output = self.logs / "process_0.log"  # and the launcher's own
        self._from = {log: log.stat().st_size for log in self.logs.glob("*")}
        # The launcher waits longer than the watchdog: what hangs is seen to hang, and not ended by the launcher.
        launcher = ["--processes", processes, "--devices-per-process", 1, "--grace", 300, "--logs", self.logs, "--"]
        program = [*runs.command(self.workdir, reference.steps), "--watchdog_seconds", WATCHDOG]
        arguments = [sys.executable, ROOT / "launch" / "local", *launcher, *program, "--connect_seconds", CONNECT]
        self.launcher = runs.start([str(part) for part in arguments], self.output)
        self.pids = {}
        runs.wait_until(self._announced, self.launcher)

    def _announced(self) -> bool:
        self.pids = {int(i): int(pid) for i, pid in re.findall(r"^process (\d+): pid (\d+)", self.text(0), re.M)}
        return len(self.pids) == self._number

    def text(self, process: int) -> str:
        """What a process has written since this start."""
        log = self.logs / f"process_{process}.log"
        if not log.exists():
            return ""
        with log.open("rb") as content:
            content.seek(self._from.get(log, 0))
            return content.read().decode(errors="replace")

    def gone(self, process: int) -> bool:
        """Whether a process has ended; the launcher says so."""
        return re.search(rf"^process {process}: (killed|exit)", self.text(0), re.MULTILINE) is not None

    def send(self, process: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[process], number)


def run_with(
    numbers: list[signal.Signals], folder: Path, reference: Reference, seed: int, processes: int = 4
) -> list[Trial]:
    """One run of several processes, one of which is sent a signal and then, started again, the next, until it ends."""
    rng, trials = random.Random(seed), []
    for number in numbers:
        started = Started(folder, reference, processes)
        moment = rng.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        runs.wait_for_moment(moment, started.workdir, started.launcher, 1.5 * reference.startup, rng)
        victim = rng.randrange(processes)
        if any(started.gone(process) for process in started.pids):
            started.launcher.wait()
            break  # it came to its end first
        trials.append(disturb(number, started, victim).judged())
    problem = finish(folder, reference, processes)
    return [trial._replace(problem=trial.problem or problem) for trial in trials]


def disturb(number: signal.Signals, started: Started, victim: int) -> Trial:
    """Sends one process the signal, and sees the others end."""
    others = [process for process in started.pids if process != victim]
    before = [started.text(process) for process in started.pids]
    began = time.monotonic()
    started.send(victim, number)
    runs.wait_until(lambda: all(map(started.gone, others)), started.launcher)
    seconds = time.monotonic() - began
    started.send(victim, signal.SIGKILL)  # a stopped one stays until its machine goes
    in_time = runs.ended(started.launcher)
    code = started.launcher.returncode
    texts = [started.text(process) for process in others]
    loss = runs.loss(started.workdir)
    # While they wait for one another to start, the bound is another flag's, and an error says what is missing.
    joined = not any(REFUSED in text for text in texts)
    problem = ""
    if not in_time:
        problem = "the launcher hung"
    elif code != STOPPED and joined:
        problem = f"exit code {code} of the launcher"
    elif joined and began_to_work(before) and number != signal.SIGTERM:
        silent = [process for process, text in zip(others, texts, strict=True) if not STACK.search(text)]
        problem = f"no stack trace of {silent}" if silent else ""
    bound = (WATCHDOG if joined else CONNECT) + SLACK
    whom = "process 0" if victim == 0 else "another"
    name = f"{number.name} to {whom} of {len(started.pids)}{'' if joined else ', not yet joined'}"
    return Trial(name, loss.steps, loss.allowed, seconds, bound, problem, loss.saving)


def began_to_work(texts: list[str]) -> bool:
    """Whether the processes had joined when the signal came, as far as they had told."""
    return any("process 0 of" in text for text in texts)


def finish(folder: Path, reference: Reference, processes: int) -> str:
    """Starts the run a last time and lets it end; what differs from the undisturbed one, or nothing."""
    started = Started(folder, reference, processes)
    if not runs.ended(started.launcher):
        return "hung when started again"
    if started.launcher.returncode:
        return f"exit code {started.launcher.returncode} when started again; see {started.output}"
    return runs.difference(started.workdir, reference, exact=False)
