"""What a run logs of itself: metrics.jsonl, and the same as an event file for TensorBoard."""

import json
import logging
import math
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ddm_embed.errors import UserError
from ddm_embed.runs.files import is_store, write_whole

logger = logging.getLogger("ddm_embed")

LINES, BOARD = "metrics.jsonl", "tensorboard"  # in a run directory
FLUSH_SECONDS = 30.0  # the event file is synced, which may take its time


class MetricWriter:
    """Appends to W/metrics.jsonl and W/tensorboard; a resumed run drops the lines that it is about to write again.

    An object store takes files whole: there they are kept in a local directory and copied after every line. One that
    does not answer does not end a run before a checkpoint cannot be saved.
    """

    def __init__(self, workdir: Path, start: int):
        self._workdir, self._local = workdir, None
        kept = _lines_until(workdir / LINES, start)
        if is_store(workdir):
            self._local = tempfile.TemporaryDirectory()
            workdir = Path(self._local.name)
        write_whole(workdir / LINES, "".join(kept))
        self._file = (workdir / LINES).open("a")
        self._board = Board(workdir / BOARD, start)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        self._board.write(step, values)
        if self._local is not None:
            self._board.flush()
        try:
            self._copy()
        except UserError as error:
            logger.warning("%s; the next line takes it along", error)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        self._copy()
        if self._local is not None:
            self._local.cleanup()

    def _copy(self) -> None:
        if self._local is None:
            return
        folder = Path(self._local.name)
        for file in (file for file in folder.rglob("*") if file.is_file()):
            write_whole(self._workdir / str(file.relative_to(folder)), file.read_bytes())


class Board:
    """An event file for TensorBoard, which is told to drop the steps beyond `start` of a run that was killed.

    tensorboardX's SummaryWriter writes in a thread, and blocks for ever once that has met a full disk.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter  # imports protobuf; only a process that writes needs it
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if start:
            self._writer.write_event(
                Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.START))
            )
        self._flushed = -math.inf

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()


def last_step(workdir: Path) -> int:
    """The step of the last line that a run has logged; 0 where there is none."""
    lines = _lines_until(workdir / LINES, 2**31)
    return json.loads(lines[-1])["step"] if lines else 0


def _lines_until(path: Path, step: int) -> list[str]:
    """The file's lines up to a step, without what a killed process left unfinished, or a disk unreadable."""
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []
    kept = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
    return kept
