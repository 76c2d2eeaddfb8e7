"""Storage that is full, read-only, slow, or answers nothing for a while."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import runs
from runs import STOPPED, Reference, Trial

SLOW = 6.0  # seconds that each checkpoint takes longer
ERROR_BOUND = 60.0  # seconds until a run without room or leave has said so, of which starting takes most

# As a user's storage might be: each save waits before its digest, while it is written and not yet in its place.
SLOWED = f"""
import runpy, time
from ddm_embed.runs.checkpoint import Checkpoints
write = Checkpoints._write_digest
Checkpoints._write_digest = lambda self: (time.sleep({SLOW}), write(self))
runpy.run_module("ddm_embed.main", run_name="__main__", alter_sys=True)
"""


class Refused(Exception):
    """The machine does not let this user make file systems."""


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A file system of its own at a place.

    Raises:
      Refused: the user may not mount, or the machine lacks what it takes.
    """
    place.mkdir(parents=True)
    system("mount", *options, str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def system(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(f"{command[0]}: {getattr(error, 'stderr', '') or error}".strip()) from error


def full(folder: Path, room: int, reference: Reference) -> Trial:
    """A disk that fills up in training until `room` bytes are left; later there is room again."""
    disk = folder / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=16m", "none"):
        workdir, log = disk / "run", folder / "log.txt"
        process = runs.start(runs.command(workdir, reference.steps), log)
        runs.wait_until(lambda: len(runs.checkpoint_steps(workdir)) >= 2, process)
        fill(disk / "filler", room)
        began = time.monotonic()
        in_time = runs.ended(process)
        seconds, loss = time.monotonic() - began, runs.loss(workdir)
        problem = error_of(process.returncode if in_time else None, log)
        (disk / "filler").unlink()
        problem = problem or runs.finish(runs.command(workdir, reference.steps), workdir, log, reference)
    return Trial("disk full", loss.steps, loss.allowed, seconds, ERROR_BOUND, problem, loss.saving).judged()


def fill(file: Path, room: int) -> None:
    """Writes until nothing fits, then gives back `room` bytes."""
    with file.open("wb", buffering=0) as filler:
        size = 0
        with contextlib.suppress(OSError):
            while True:
                size += filler.write(bytes(4096))
        filler.truncate(max(0, size - room))


def error_of(code: int | None, log: Path) -> str:
    """What is wrong with how a run refused to go on, of which one line must say why; or nothing."""
    text = log.read_text(errors="replace")
    said = [line for line in text.splitlines() if line.startswith("error: ")]
    if code is None:
        return "hung"
    if code != 1:
        return f"exit code {code} where 1 was expected"
    return "" if len(said) == 1 and "Traceback" not in text else f"not one clear message, but {said}; see {log}"


def read_only(folder: Path, reference: Reference) -> Trial:
    """A disk that may only be read when a killed run is started again; later it may be written."""
    disk = folder / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=16m", "none"):
        workdir, log = disk / "run", folder / "log.txt"
        process = runs.start(runs.command(workdir, reference.steps), folder / "first.txt")
        runs.wait_until(lambda: len(runs.checkpoint_steps(workdir)) >= 2, process)
        process.kill()
        process.wait()
        loss = runs.loss(workdir)
        system("mount", "-o", "remount,ro", str(disk))
        began = time.monotonic()
        process = runs.start(runs.command(workdir, reference.steps), log)
        in_time = runs.ended(process)
        seconds = time.monotonic() - began
        problem = error_of(process.returncode if in_time else None, log)
        system("mount", "-o", "remount,rw", str(disk))
        problem = problem or runs.finish(runs.command(workdir, reference.steps), workdir, log, reference)
    return Trial("read-only disk", loss.steps, loss.allowed, seconds, ERROR_BOUND, problem, loss.saving).judged()


def slow(folder: Path, reference: Reference) -> Trial:
    """Checkpoints that take `SLOW` seconds longer, and SIGTERM in the midst of one."""
    workdir, log = folder / "run", folder / "log.txt"
    command = runs.command(workdir, reference.steps)
    process = runs.start([sys.executable, "-c", SLOWED, *command[3:]], log)
    runs.wait_until(lambda: runs.saving(workdir), process)
    at = runs.done(workdir)
    went_on = runs.wait_until(lambda: runs.done(workdir) > at and runs.saving(workdir), process, SLOW)
    process.send_signal(signal.SIGTERM)
    return stop(process, folder, reference, "slow storage", "" if went_on else "training waited for the save")


def stalled(folder: Path, reference: Reference) -> Trial:
    """A disk that answers nothing for `SLOW` seconds (fsfreeze), in which SIGTERM comes."""
    image, disk = folder / "image", folder / "disk"
    folder.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    system("mkfs.ext4", "-q", str(image))
    with mounted(disk, "-o", "loop", str(image)):
        process = runs.start(runs.command(disk / "run", reference.steps), folder / "log.txt")
        runs.wait_until(lambda: runs.saving(disk / "run"), process)
        system("fsfreeze", "--freeze", str(disk))
        try:
            time.sleep(SLOW / 2)
            process.send_signal(signal.SIGTERM)
            time.sleep(SLOW / 2)
            problem = "" if process.poll() is None else f"ended with exit code {process.returncode} in the stall"
        finally:
            system("fsfreeze", "--unfreeze", str(disk))
        return stop(process, disk, reference, "stalled storage", problem)


def stop(process: subprocess.Popen, folder: Path, reference: Reference, fault: str, problem: str) -> Trial:
    """Sees a run that was sent SIGTERM save whole, and go on later."""
    workdir = folder / "run"
    began = time.monotonic()
    in_time = runs.ended(process)
    took, lost = time.monotonic() - began, runs.done(workdir) - runs.kept(workdir)
    if not in_time or process.returncode != STOPPED:
        problem = problem or f"exit code {process.returncode} where {STOPPED} was expected"
    command = runs.command(workdir, reference.steps)
    problem = problem or runs.finish(command, workdir, folder / "log.txt", reference)
    return Trial(fault, lost, 0, took, 2 * SLOW + 30.0, problem).judged()
