"""Work that outlives a kill: chunks of embeddings in FILE.parts/, each there whole or not at all.

FILE.parts/plan.json       what the chunks are of: fingerprint, feature, t, images with size and time of last change
FILE.parts/00000012.npz    chunk 12: `embedding` float32 [m, time, dim] and `position` int64 [m] of the m images that
                           could be read, and `bad`, the JSON of [position, reason] of the others
"""

import errno
import fcntl
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ddm_embed.errors import UserError
from ddm_embed.runs.files import write_whole

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1.05  # of the bytes that embeddings take, names and headers included


class Part(NamedTuple):
    """A chunk: the embeddings of those of its images that could be read, where these stand, and (position, reason) of
    the others."""

    embedding: Float[np.ndarray, "number time dim"]
    positions: Int[np.ndarray, " number"]
    bad: list[tuple[int, str]]


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}); choose another") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out}: another process is writing it; wait for it or stop it") from error
        yield folder, _agree(folder, plan)


def _agree(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    file = folder / "plan.json"
    if not file.exists():
        with no_room(folder):
            write_whole(file, json.dumps(plan))
        return plan
    try:
        before = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); delete {folder} to begin anew") from error
    if digest(before) != digest(plan):
        raise UserError(f"{folder} is of another job: {difference(before, plan)}; finish that one or delete the folder")
    return before


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In which way two plans differ, in words."""
    for field in ("format", "fingerprint", "feature", "t", "images"):
        if before.get(field) != now[field]:
            kept = f"{before.get(field)}, now {now[field]}"
            return f"{field} was {kept[:200]}" if field != "fingerprint" else "it was made by another run or step"
    old, new = ({name: rest for name, *rest in plan["files"]} for plan in (before, now))
    gone, come = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    changed = [name for name in old.keys() & new.keys() if old[name] != new[name]]
    if not gone and not come and not changed:
        return "the images are listed or labelled otherwise"
    named = f" ({min(changed)})" if changed else ""
    return f"of its images {gone} are gone, {come} are new and {len(changed)} have changed{named}"


def write_part(folder: Path, chunk: int, part: Part) -> None:
    """Raises UserError if the disk is full."""
    content = io.BytesIO()
    np.savez(content, embedding=part.embedding, position=part.positions, bad=np.array(json.dumps(part.bad)))
    with no_room(folder):
        write_whole(_file(folder, chunk), content.getvalue())


def read_part(folder: Path, chunk: int) -> Part | None:
    """A chunk; None if it is not there, or was damaged: then it is to be made again."""
    try:
        with np.load(_file(folder, chunk)) as found:
            bad = [(position, reason) for position, reason in json.loads(str(found["bad"]))]
            return Part(found["embedding"], found["position"], bad)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):  # the machine went down while it was written
        return None


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
