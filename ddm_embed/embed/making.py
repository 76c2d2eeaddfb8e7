"""Makes a file of embeddings: reads images ahead in threads, embeds chunk by chunk, goes on where it was stopped.

Chunks outlive a kill in FILE.parts/, each there whole or not at all.

FILE.parts/plan.json       what the chunks are of: fingerprint, feature, t, images with size and time of last change;
                           and how many images a chunk has
FILE.parts/00000012.npz    chunk 12: `embedding` float32 [m, time, dim] and `position` int64 [m] of the m images that
                           could be read, and `bad`, the JSON of [position, reason] of the others
"""

import datetime
import errno
import hashlib
import io
import json
import logging
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float, Int, Shaped
from tqdm import tqdm

from ddm_embed import __version__, json_reader
from ddm_embed.embed import layout
from ddm_embed.embed.listing import Input, Listing, Unreadable
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run
from ddm_embed.json_reader import sealed
from ddm_embed.runs.files import check_no_links, locked, read_arrays, read_json, write_json, write_whole

logger = logging.getLogger("ddm_embed")

CHUNK = 256  # images, at least: what a kill may cost
AHEAD = 2  # chunks that are read before their turn
SECONDS = 10.0  # between two lines of progress

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1.05  # of the bytes that embeddings take, names and headers included

Images = Shaped[np.ndarray, "number height width channel"]


class Job(NamedTuple):
    """What is asked for: an encoder, its feature and noise levels, and images."""

    run: Run
    feature: str
    times: tuple[float, ...]
    chosen_by: str
    listing: Listing


class Outcome(NamedTuple):
    """What stands in the file: how many images have a row, (name, reason) of those that have none, and whether it was
    finished before."""

    number: int
    bad: list[tuple[str, str]]
    before: bool


class Part(NamedTuple):
    """A chunk: the embeddings of those of its images that could be read, where these stand, and (position, reason) of
    the others."""

    embedding: Float[np.ndarray, "number time dim"]
    positions: Int[np.ndarray, " number"]
    bad: list[tuple[int, str]]


def make(job: Job, out: Path, batch_size: int | None, threads: int) -> Outcome:
    """Writes the file, or finds that it is there; what an earlier start made is not made again.

    Args:
      job: what to embed. out: the file. batch_size: images at a time; what suits the device if None. threads: that
      read images.

    Raises:
      UserError: the file or its parts are of another job, no image can be read, or the disk is full.
    """
    batch = batch_size or job.run.batch_size()
    plan = make_plan(job, max(CHUNK, batch))
    if out.exists():
        return _finished(out, plan)
    with opened(out, plan) as (folder, plan):
        if out.exists():  # by another process, between the look and the lock
            return _finished(out, plan)
        number, size = len(job.listing.names), plan["chunk"]
        chunks = [range(start, min(start + size, number)) for start in range(0, number, size)]
        dim = job.run.width(job.feature)
        shape = len(job.times), dim
        missing = [i for i, chunk in enumerate(chunks) if read_part(folder, i, chunk, shape) is None]
        check_room(out, number, len(job.times), dim, 1 - len(missing) / max(len(chunks), 1))
        if 0 < len(missing) < len(chunks):
            logger.info(
                "going on: %d of %d images are in %s", number - sum(len(chunks[i]) for i in missing), number, folder
            )
        _embed(job, folder, chunks, missing, batch, threads)
        outcome = _assemble(job, folder, chunks, out, dim, digest(plan))
        remove(folder)
        return outcome


def make_plan(job: Job, chunk: int) -> dict[str, Any]:
    """All that shapes the file; a file and its parts belong to the plan that they were made by."""
    listing = job.listing
    named = listing.names if len(listing.stamps) == len(listing.names) else [f"{len(listing.names)} rows"]
    return {
        "format": layout.FORMAT,
        "fingerprint": job.run.fingerprint(),
        "feature": job.feature,
        "t": [float(t) for t in job.times],
        "images": str(listing.root.absolute()),
        "files": [[name, *stamp] for name, stamp in zip(named, listing.stamps, strict=True)],
        "labels": listing.labels,
        "chunk": chunk,
    }


def _finished(out: Path, plan: dict[str, Any]) -> Outcome:
    metadata = layout.read_metadata(out)
    if metadata.get("plan") != digest(plan):
        fields = ("fingerprint", "feature", "t", "images")
        changed = [field for field in fields if metadata.get(field) != plan[field]]
        what = ", ".join(changed) or "the list of images, or their times of last change,"
        raise UserError(f"--out {out} is there and of another job ({what} differ); name another file, or delete it")
    remove(folder_of(out))  # killed between the last two steps
    return Outcome(metadata["number"], [tuple(pair) for pair in metadata["bad"]], True)


def _embed(job: Job, folder: Path, chunks: list[range], missing: list[int], batch: int, threads: int) -> None:
    # Filled up to whole batches, so that one program makes them all: one of another size gives other last bits.
    size = min(batch, sum(map(len, chunks)))
    bar = Progress(sum(len(chunks[i]) for i in missing))
    with bar:
        for i, images, positions, bad in read_ahead(job.listing, [(i, chunks[i]) for i in missing], threads):
            embedding = np.zeros((0, len(job.times), job.run.width(job.feature)), np.float32)
            if len(images):
                full = np.pad(images, ((0, -len(images) % size), (0, 0), (0, 0), (0, 0)))
                embedding = job.run.embed(full, job.times, job.feature, batch_size=batch)[: len(images)]
            finite = np.all(np.isfinite(embedding), axis=(1, 2))
            if not np.all(finite):
                name = job.listing.names[positions[int(np.argmin(finite))]]
                raise UserError(f"the embedding of {name} is not finite: the run in {job.run.place} is broken")
            write_part(folder, i, Part(embedding, positions, bad))
            bar.add(len(chunks[i]))


def read_ahead(
    listing: Listing, chunks: Sequence[tuple[int, range]], threads: int
) -> Iterator[tuple[int, Images, np.ndarray, list[tuple[int, str]]]]:
    """(chunk, images, their positions, (position, reason) of those that cannot be read), in order."""

    def read(position: int) -> Input | str:
        try:
            return listing.read(position)
        except Unreadable as error:
            return str(error)

    waiting: deque[tuple[int, range, list[Future]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        left = deque(chunks)
        while left or waiting:
            while left and len(waiting) <= AHEAD:
                i, positions = left.popleft()
                waiting.append((i, positions, [pool.submit(read, position) for position in positions]))
            i, positions, futures = waiting.popleft()
            found = {position: future.result() for position, future in zip(positions, futures, strict=True)}
            bad = [(position, reason) for position, reason in found.items() if isinstance(reason, str)]
            good = [position for position in positions if not isinstance(found[position], str)]
            yield i, np.stack([found[p] for p in good]) if good else np.zeros(0), np.array(good, np.int64), bad
    finally:
        pool.shutdown(cancel_futures=True)


def _assemble(job: Job, folder: Path, chunks: list[range], out: Path, dim: int, plan: str) -> Outcome:
    listing, run = job.listing, job.run
    positions, bad = [], list(listing.closed)

    def parts() -> Iterator[Part]:
        for i, chunk in enumerate(chunks):
            part = read_part(folder, i, chunk, (len(job.times), dim))
            if part is None:
                raise UserError(f"{folder}: chunk {i} can no longer be read; give the same command again to mend it")
            yield part

    for part in parts():
        positions += part.positions.tolist()
        bad += [(listing.names[position], reason) for position, reason in part.bad]
    if not positions:
        remove(folder)
        raise UserError(f"--images {listing.root}: none can be read, of {len(bad)}; {bad[0][0]}: {bad[0][1]}")
    metadata = {
        "format": layout.FORMAT,
        "feature": job.feature,
        "t": [float(t) for t in job.times],
        "chosen_by": job.chosen_by,
        "run": run.place,
        "step": run.step,
        "fingerprint": run.fingerprint(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "images": str(listing.root.absolute()),
        "number": len(positions),
        "dim": dim,
        "bad": bad,
        "notes": listing.notes,
        "plan": plan,
        "ddm_embed": __version__,
    }
    unfinished = folder / f"unfinished{out.suffix}"
    with no_room(folder):
        layout.remove(unfinished)
        try:
            blocks = (part.embedding for part in parts())
            names, labels = ([column[position] for position in positions] for column in (listing.names, listing.labels))
            layout.write(unfinished, names, labels, blocks, metadata)
        except OSError:
            layout.remove(unfinished)
            raise
        unfinished.rename(out)
    return Outcome(len(positions), bad, False)


class Progress:
    """A bar on a terminal; elsewhere a line every ten seconds, with images/s and the time left."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._total, self._done = total, 0
        self._begin = self._said = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        if self._done:
            seconds = time.perf_counter() - self._begin
            logger.info("embedded %d images in %.1f s: %.0f images/s", self._done, seconds, self._done / seconds)

    def add(self, number: int) -> None:
        self._done += number
        self._bar.update(number)
        now = time.perf_counter()
        if self._bar.disable and now - self._said > SECONDS:
            self._said, rate = now, self._done / (now - self._begin)
            left = tqdm.format_interval((self._total - self._done) / rate)
            logger.info("%d of %d images  %.0f images/s  ETA %s", self._done, self._total, rate, left)


class PlanForm(TypedDict):
    """plan.json, as `make_plan` makes it."""

    format: int
    fingerprint: str
    feature: str
    t: list[float]
    images: str
    files: list[list]
    labels: list[str]
    chunk: int


def digest(plan: dict[str, Any]) -> str:
    """SHA-256 of a plan but for its chunk size, which changes nothing in what is made."""
    kept = {name: value for name, value in plan.items() if name != "chunk"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def folder_of(out: Path) -> Path:
    """Where the chunks of a file lie."""
    return out.with_name(out.name + ".parts")


@contextmanager
def opened(out: Path, plan: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, plan) of the chunks of `out`, kept to this process: begun now, or those that an earlier start left.

    Raises:
      UserError: they are of another plan, another process is at them, or they cannot be written.
    """
    folder = folder_of(out)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_no_links(folder)
            stack.enter_context(locked(folder / "lock"))
        except BlockingIOError as error:
            raise UserError(f"--out {out}: another process is writing it; wait for it or stop it") from error
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror or error}); choose another") from error
        yield folder, _agree(folder, plan)


def _agree(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    file = folder / "plan.json"
    try:
        before = read_json(file, f"delete {folder} to begin anew", PlanForm, largest=math.inf)
    except FileNotFoundError:
        with no_room(folder):
            write_json(file, sealed(plan))
        return plan
    if before["chunk"] < 1:
        raise UserError(f"{file}: chunk is {before['chunk']}, expected 1 or more; delete {folder} to begin anew")
    if digest(before) != digest(plan):
        raise UserError(f"{folder} is of another job: {difference(before, plan)}; finish that one or delete the folder")
    return before


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In which way two plans differ, in words."""
    for field in ("format", "fingerprint", "feature", "t", "images"):
        if before.get(field) != now[field]:
            kept = f"{before.get(field)}, now {now[field]}"
            return f"{field} was {kept[:200]}" if field != "fingerprint" else "it was made by another run or step"
    old, new = ({str(row[:1]): row[1:] for row in plan["files"]} for plan in (before, now))
    gone, come = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    changed = [name for name in old.keys() & new.keys() if old[name] != new[name]]
    if not gone and not come and not changed:
        return "the images are listed or labelled otherwise"
    named = f" ({min(changed)[2:-2]})" if changed else ""
    return f"of its images {gone} are gone, {come} are new and {len(changed)} have changed{named}"


def write_part(folder: Path, chunk: int, part: Part) -> None:
    """Raises UserError if the disk is full."""
    content = io.BytesIO()
    np.savez(content, embedding=part.embedding, position=part.positions, bad=np.array(json.dumps(part.bad)))
    with no_room(folder):
        write_whole(_file(folder, chunk), content.getvalue())


def read_part(folder: Path, chunk: int, images: range, shape: tuple[int, int]) -> Part | None:
    """A chunk; None if it is not there, or was damaged: then it is to be made again.

    Args:
      images: positions of the images that it is of. shape: (time, dim) of an embedding.
    """
    try:
        found = read_arrays(_file(folder, chunk), "", ("embedding", "position", "bad"))
        bad = json_reader.read(str(found["bad"]), "", "", list[list])
    except (OSError, UserError):  # the machine went down while it was written
        return None
    embedding, positions = found["embedding"], found["position"]
    sound = (
        (embedding.dtype, positions.dtype, positions.ndim) == (np.float32, np.int64, 1)
        and embedding.shape == (len(positions), *shape)
        and np.all(np.isfinite(embedding))
        and all(list(map(type, pair)) == [int, str] for pair in bad)
        and sorted(positions.tolist() + [position for position, _ in bad]) == list(images)
        and np.all(np.diff(positions) > 0)
    )
    return Part(embedding, positions, [(position, reason) for position, reason in bad]) if sound else None


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:08d}.npz"


def remove(folder: Path) -> None:
    """Removes the chunks once the file stands."""
    shutil.rmtree(folder, ignore_errors=True)


def check_room(out: Path, images: int, levels: int, dim: int, done: float) -> None:
    """Raises UserError if the chunks still to be made and the file do not fit on the disk; `done`: the share made."""
    needed = SPARE * 4 * images * levels * dim * (2 - done)
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(
            f"--out {out} takes {needed / 2**20:,.1f} MiB while it is made, and its disk has {free / 2**20:,.1f}; "
            "make room, choose another --out, or fewer levels with --t"
        )


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """Says of a full disk what is kept and how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"the disk of {folder.parent} is full ({error.strerror}); what is done is kept in {folder}: make room and "
            "give the same command again"
        ) from error
