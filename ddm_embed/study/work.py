"""The runs of a study, carried out in processes of their own: one after another, or one a GPU."""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ddm_embed.cli import STOPPED
from ddm_embed.errors import UserError
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.runs.files import read_json, write_json
from ddm_embed.runs.log import last_step
from ddm_embed.study.plan import Run

logger = logging.getLogger("ddm_embed")

NOTE, TELL = 10.0, 60.0  # seconds after which the time taken is noted, and progress is told
DEVICES = "import json, jax; print(json.dumps([device.platform for device in jax.local_devices()]))"
SECONDS = "seconds.json"  # in the study's directory: how long each run has taken until now


def find_devices() -> tuple[str, int]:
    """(platform, number) of this machine's devices, asked of a process that ends, since whoever asks holds them.

    Raises:
      UserError: JAX finds none.
    """
    found = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True)
    if found.returncode:
        raise UserError(
            f"JAX has no device to run on: {(found.stderr.strip().splitlines() or ['it says nothing'])[-1]}"
        )
    platforms = json.loads(found.stdout.splitlines()[-1])
    return platforms[0], len(platforms)


def devices_of_a_run(runs: list[Run], platform: str, number: int) -> int:
    """One of several GPUs, unless a run splits its model or its batch; else all."""
    split = any(max(run.config.mesh.values()) > 1 for run in runs)
    return 1 if platform == "gpu" and not split else number


def places(runs: list[Run], platform: str, number: int) -> list[dict[str, str]]:
    """The environments of runs that are done at once."""
    if devices_of_a_run(runs, platform, number) == number:
        return [{}]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in visible.split(",")]


def read_seconds(workdir: Path) -> dict[str, float]:
    """How long each run has taken until now, by name; nothing but what is told depends on it."""
    try:
        return read_json(workdir / SECONDS, "delete it", dict[str, float])
    except (FileNotFoundError, UserError):
        return {}


def carry_out(runs: list[Run], workdir: Path, environments: list[dict[str, str]]) -> dict[str, str | None]:
    """Trains and probes what is missing; the runs that were not done, each with its error, None if it was stopped.

    Raises:
      KeyboardInterrupt: a signal asked to stop; the processes were asked to, too, and training has saved.
    """
    todo = [run for run in runs if not run.is_done()]
    logger.info(
        "%d of %d runs are done; %d at once, logs in %s",
        len(runs) - len(todo),
        len(runs),
        len(environments),
        workdir / "logs",
    )
    free: queue.SimpleQueue = queue.SimpleQueue()
    for environment in environments:
        free.put(environment)
    clock, children, ended = Clock(workdir), Children(), {}

    def do(run: Run) -> str | None:
        environment = free.get()
        clock.begin(run.name)
        try:
            return _do(run, workdir, environment, children)
        finally:
            clock.end(run.name)
            free.put(environment)

    told, left = time.monotonic(), list(todo)
    with ThreadPoolExecutor(len(environments)) as pool, stopping(children):
        pending = {pool.submit(do, run): run for run in todo}
        try:
            while pending:
                for future in wait(pending, NOTE, FIRST_COMPLETED).done:
                    run = pending.pop(future)
                    left.remove(run)
                    if (why := future.result()) != "":
                        ended[run.name] = why
                    logger.info("%s: %s; %s", run.name, _said(why), progress(runs, left, clock, len(environments)))
                clock.note()
                if pending and time.monotonic() - told > TELL:
                    told = time.monotonic()
                    logger.info("%s", progress(runs, left, clock, len(environments)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ended


def _said(why: str | None) -> str:
    return "done" if why == "" else "stopped" if why is None else f"failed, {why}"


def _do(run: Run, workdir: Path, environment: dict[str, str], children: "Children") -> str | None:
    """Does what there is to do of a run: "", or its error, or None if it was stopped."""
    log = workdir / "logs" / f"{run.name}.log"
    log.parent.mkdir(exist_ok=True)
    _wait_for_others(run, children)
    for stage in ("train", "probe"):
        if stage not in run.stages():
            continue
        with log.open("ab") as out:
            begin = out.tell()
            out.write(f"$ python -m {' '.join(run.command(stage))}\n".encode())
            out.flush()
            code = children.run([sys.executable, "-m", *run.command(stage)], out, environment)
        if code is None or code == STOPPED or code < 0:
            return None
        if code:
            lines = log.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")] or lines
            return f"{errors[-1].removeprefix('error: ')} ({log})"
    return "" if run.is_done() else f"its probe ended without the results that were asked for ({log})"


def _wait_for_others(run: Run, children: "Children") -> None:
    """Waits while another process trains in the run's directory, as one does whose study was killed."""
    told = False
    while RunDirectory(run.path).is_locked() and not children.stopped.is_set():
        if not told:
            logger.info("%s: another process trains in %s; waiting for it", run.name, run.path)
        told = True
        children.stopped.wait(1)


class Children:
    """The processes at work; once they are stopped no other begins."""

    def __init__(self):
        self.stopped, self._lock, self._processes = threading.Event(), threading.Lock(), set()

    def run(self, command: list[str], out, environment: dict[str, str]) -> int | None:
        """The exit code of a command, its output in a file; None if it is not begun any more."""
        with self._lock:
            if self.stopped.is_set():
                return None
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | environment
            )
            self._processes.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self) -> None:
        """Asks them to save and end."""
        with self._lock:
            self.stopped.set()
            for process in self._processes:
                process.terminate()


@contextmanager
def stopping(children: Children) -> Iterator[None]:
    """Within it SIGTERM and SIGHUP are what Ctrl-C is; the children are stopped where it is left by an exception."""
    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        if before[number] != signal.SIG_IGN:  # as nohup has SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    except BaseException:
        logger.info("stopping: training saves first")
        children.stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Clock:
    """How long each run takes, over all times that it was begun; what was noted survives a kill."""

    def __init__(self, workdir: Path):
        self._workdir, self._seconds, self._begun = workdir, read_seconds(workdir), {}
        self._lock = threading.RLock()  # each run is begun and ended by a thread of its own

    def begin(self, name: str) -> None:
        with self._lock:
            self._begun[name] = time.monotonic()

    def end(self, name: str) -> None:
        with self._lock:
            self._seconds[name] = self.of(name)
            del self._begun[name]
            self.note()

    def of(self, name: str) -> float:
        with self._lock:
            begun = self._begun.get(name)
            return self._seconds.get(name, 0.0) + (0.0 if begun is None else time.monotonic() - begun)

    def at_work(self) -> set[str]:
        with self._lock:
            return set(self._begun)

    def note(self) -> None:
        with self._lock:
            names = {*self._seconds, *self._begun}
            write_json(self._workdir / SECONDS, {name: round(self.of(name), 1) for name in names})


def progress(runs: list[Run], left: list[Run], clock: Clock, at_once: int) -> str:
    """A line of the log: what is done, how far the runs at work are, and the time that is left."""
    steps = [f"{run.name} at step {last_step(run.path)} of {run.steps}" for run in left if run.name in clock.at_work()]
    done = [run for run in runs if run not in left]
    seconds = time_left(done, left, {run.name: clock.of(run.name) for run in runs})
    eta = "not known yet" if seconds is None else tqdm.format_interval(seconds / at_once)
    return "; ".join([f"{len(done)} of {len(runs)} runs done", *steps, f"ETA {eta}"])


def time_left(done: list[Run], left: list[Run], seconds: dict[str, float]) -> float | None:
    """Seconds of work that are left: a run takes what others of its arm took, or else the mean of all; None if none was
    timed."""
    timed = [run for run in done if seconds.get(run.name)]
    if not timed:
        return None
    total = 0.0
    for run in left:
        like = [seconds[one.name] for one in timed if one.arm == run.arm] or [seconds[one.name] for one in timed]
        total += max(0.0, sum(like) / len(like) - seconds.get(run.name, 0.0))
    return total
