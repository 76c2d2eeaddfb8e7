"""Makes a file of embeddings: reads images ahead in threads, embeds chunk by chunk, goes on where it was stopped."""

import datetime
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from tqdm import tqdm

from ddm_embed import __version__
from ddm_embed.embed import layout, parts
from ddm_embed.embed.listing import Input, Listing, Unreadable
from ddm_embed.embed.parts import Part
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run

logger = logging.getLogger("ddm_embed")

CHUNK = 256  # images, at least: what a kill may cost
AHEAD = 2  # chunks that are read before their turn
SECONDS = 10.0  # between two lines of progress

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
    with parts.opened(out, plan) as (folder, plan):
        if out.exists():  # by another process, between the look and the lock
            return _finished(out, plan)
        number, size = len(job.listing.names), plan["chunk"]
        chunks = [range(start, min(start + size, number)) for start in range(0, number, size)]
        missing = [i for i in range(len(chunks)) if parts.read_part(folder, i) is None]
        dim = job.run.width(job.feature)
        parts.check_room(out, number, len(job.times), dim, 1 - len(missing) / max(len(chunks), 1))
        if 0 < len(missing) < len(chunks):
            logger.info(
                "going on: %d of %d images are in %s", number - sum(len(chunks[i]) for i in missing), number, folder
            )
        _embed(job, folder, chunks, missing, batch, threads)
        outcome = _assemble(job, folder, len(chunks), out, dim, parts.digest(plan))
        parts.remove(folder)
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
    if metadata["plan"] != parts.digest(plan):
        fields = ("fingerprint", "feature", "t", "images")
        changed = [field for field in fields if metadata[field] != plan[field]]
        what = ", ".join(changed) or "the list of images, or their times of last change,"
        raise UserError(f"--out {out} is there and of another job ({what} differ); name another file, or delete it")
    parts.remove(parts.folder_of(out))  # killed between the last two steps
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
            parts.write_part(folder, i, Part(embedding, positions, bad))
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


def _assemble(job: Job, folder: Path, number: int, out: Path, dim: int, plan: str) -> Outcome:
    listing, run = job.listing, job.run
    positions, bad = [], list(listing.closed)
    for i in range(number):
        part = _again(folder, i)
        positions += part.positions.tolist()
        bad += [(listing.names[position], reason) for position, reason in part.bad]
    if not positions:
        parts.remove(folder)
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
        "plan": plan,
        "ddm_embed": __version__,
    }
    unfinished = folder / f"unfinished{out.suffix}"
    with parts.no_room(folder):
        layout.remove(unfinished)
        try:
            blocks = (_again(folder, i).embedding for i in range(number))
            names, labels = ([column[position] for position in positions] for column in (listing.names, listing.labels))
            layout.write(unfinished, names, labels, blocks, metadata)
        except OSError:
            layout.remove(unfinished)
            raise
        unfinished.rename(out)
    return Outcome(len(positions), bad, False)


def _again(folder: Path, chunk: int) -> Part:
    part = parts.read_part(folder, chunk)
    if part is None:
        raise UserError(f"{folder}: chunk {chunk} can no longer be read; give the same command again to make it anew")
    return part


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
