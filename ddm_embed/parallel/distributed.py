"""Several processes as one program: how they start, agree, and end when one of them is lost.

Alone, a process leads itself, agrees with itself, and nothing here does anything.
"""

import faulthandler
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Shaped

from ddm_embed.errors import UserError, store_errors
from ddm_embed.parallel.cluster import Start

logger = logging.getLogger("ddm_embed")

MESSAGE = 4096  # bytes of what a process tells the others at once
NOT_JOINED = (
    "could not join the other processes ({}); see that all are started, that process 0 can be reached, or give "
    "--cluster none for a single process"
)
UNHURRIED = 3600.0  # seconds
STUCK = (
    "no progress for %.0f s: ending this process, whose threads are where this says. If it was slow and not stuck, "
    "raise --watchdog_seconds"
)
LOST = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Cc]onnection (closed|reset)|[Gg]loo|[Hh]eartbeat")


def start(how: Start | None, num_processes: int | None, timeout: int, heartbeat: int) -> None:
    """Joins the other processes, before anything else is asked of JAX.

    Args:
      how: from `cluster.find`; None is a process alone.
      num_processes: how many are expected; None takes as many as come.
      timeout: seconds to wait for the others. heartbeat: seconds without a sign of life after which one is lost.

    Raises:
      UserError: they were not found or did not come, or they are not as many as expected.
    """
    if how is not None:
        # JAX, whose time is up later, would abort the process without saying what is missing.
        late = threading.Timer(timeout, _give_up, [f"{how.how}: they were not all there after {timeout} s"])
        late.daemon = True
        late.start()
        os.environ.setdefault("grpc_proxy", "")  # what http_proxy names is not between the processes of a run
        try:
            jax.distributed.initialize(
                **how.arguments, initialization_timeout=timeout + 30, heartbeat_timeout_seconds=heartbeat
            )
        except (RuntimeError, ValueError, OSError) as error:  # JAX's own errors are RuntimeErrors
            alone = isinstance(error, ValueError) and "coordinator_address" in str(error)
            if not (alone and how.may_be_alone):
                raise UserError(NOT_JOINED.format(f"{how.how}: {str(error).splitlines()[0]}")) from error
        finally:
            late.cancel()
    found = jax.process_count()
    if num_processes is not None and found != num_processes:
        raise UserError(f"--num_processes {num_processes} were expected and {found} came")


def _give_up(reason: str) -> None:
    """Ends the process as a UserError would, from a thread while the main one waits."""
    print(f"error: {NOT_JOINED.format(reason)}", file=sys.stderr, flush=True)
    os._exit(1)


def is_lead() -> bool:
    """Whether this is process 0, which writes what is written once."""
    return jax.process_index() == 0


@contextmanager
def together() -> Iterator[None]:
    """What one process refuses in the block, all refuse; no process may wait for another within it.

    Raises:
      UserError: of the first process that raised one, in all of them. OSError counts as one.
    """
    problem = ""
    try:
        yield
    except (UserError, OSError, *store_errors()) as error:
        if jax.process_count() == 1:
            raise
        problem = str(error) or type(error).__name__
    problems = [text for text in _tell(problem) if text]
    if problems:
        raise UserError(problems[0])


def from_lead(make: Callable[[], Any]) -> Any:
    """What `make` returns in process 0, for all; plain enough for JSON.

    Raises:
      UserError: `make` raised one, or an OSError, in process 0.
    """
    if jax.process_count() == 1:
        return make()
    value = None
    with together():
        if is_lead():
            value = make()
    return json.loads(_tell(json.dumps(value))[0])


def _tell(text: str) -> list[str]:
    """What every process tells, in order; the rest of what is longer than `MESSAGE` is cut off."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode()[:MESSAGE], np.uint8)
    rows = multihost_utils.process_allgather(np.pad(data, (0, MESSAGE - len(data))))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]


def in_turns(column: Shaped[Array, "round ..."]) -> Shaped[Array, "all ..."]:
    """Rows of all processes, one of each in turn: process 0's first, process 1's first, ... process 0's second, ..."""
    if jax.process_count() == 1:
        return column
    rows = multihost_utils.process_allgather(np.asarray(column))  # (process, round, ...)
    return jnp.asarray(np.swapaxes(rows, 0, 1).reshape(-1, *column.shape[1:]))


def stop_asked(step: int) -> bool:
    """Whether all processes are to stop after this step, because one was sent SIGTERM; asked at every step by all."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def lost_another(error: Exception) -> bool:
    """Whether an error of JAX, or one that Orbax made of it, means that another process has gone.

    A collective that fails in a save is raised as a plain ValueError, which names gloo.
    """

    def tells(e: BaseException | None) -> bool:
        if isinstance(e, jax.errors.JaxRuntimeError):
            return LOST.search(str(e)) is not None
        return isinstance(e, ValueError) and "gloo" in str(e).lower()

    return jax.process_count() > 1 and (tells(error) or tells(error.__cause__))


class Watchdog:
    """Ends this process when it makes no progress: all threads' stacks are written, then `end` is called.

    Args:
      seconds: without a `beat`, after which it ends.
      end: what is called then; it must not return to the program.
    """

    def __init__(self, seconds: float, end: Callable[[], None]):
        self._seconds, self._end = seconds, end
        self._allowed, self._last, self._closed = seconds, time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, allow: float = 0) -> None:
        """Work goes on; the next beat comes within `seconds`, or `allow` where that is longer."""
        self._last, self._allowed = time.monotonic(), max(self._seconds, allow)

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            quiet = time.monotonic() - self._last
            if quiet > self._allowed:
                logger.error(STUCK, quiet)
                faulthandler.dump_traceback(all_threads=True)
                self._end()
                return


_watchdog: Watchdog | None = None


def watch(seconds: float, code: int) -> None:
    """From now on the process exits with `code` when `progress` is not called for so many seconds."""
    global _watchdog
    _watchdog = Watchdog(seconds, end=lambda: os._exit(code))


def progress(allow: float = 0) -> None:
    """Tells the watchdog, where there is one, that work goes on; and of what comes next, that it may take longer."""
    if _watchdog is not None:
        _watchdog.beat(allow)


@contextmanager
def unhurried() -> Iterator[None]:
    """Work in which no process waits for another, and at whose end all do, such as compiling: it may take an hour.

    A process that is lost meanwhile is missed all the same, by its heartbeat.
    """
    progress(UNHURRIED)
    with together():
        yield
    progress()
