"""Files of run directories, on a disk or in Google Cloud Storage: how each is read, checked, and written whole."""

import contextlib
import fcntl
import io
import json
import logging
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddm_embed import json_reader
from ddm_embed.errors import UserError, store_errors

if TYPE_CHECKING:
    import numpy as np

LARGEST = 1 << 28  # bytes of a JSON file, or of what small arrays inflate to
INFLATED = 100  # times its size that a larger file of arrays may inflate to
# What zipfile and NumPy raise on a file that is cut short, damaged or something else.
UNREADABLE = (ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError, RuntimeError)
UNREADABLE += (struct.error, zipfile.BadZipFile, zlib.error)
PATIENCE = 60.0  # seconds that a store may take to answer at all; gcsfs itself gives up after about 35


def place(text: str) -> Path:
    """The path that a flag names; one of a store, gs://BUCKET/PATH, has the same methods, by way of etils.

    Raises:
      UserError: no such store is known, the library that reaches it is missing, or the bucket cannot be read.
    """
    if "://" not in text:
        return Path(os.path.expanduser(text))
    if not re.fullmatch("gs://[^/]+/+[^/].*", text):
        raise UserError(f"{text}: not a place for a run; give gs://BUCKET/PATH, or a path of this machine's files")
    os.environ.setdefault("EPATH_USE_TF", "false")  # else etils loads TensorFlow wherever that is installed
    try:
        import gcsfs  # slow to import, as is etils, and only a store needs them
        from fsspec.config import conf
    except ImportError as error:
        raise UserError(f"{text} needs gcsfs ({error}); pip install -e '.[gcs]'") from error
    from etils import epath

    # Listings are kept for ever by default, and TensorStore and other processes write what they would not show. The
    # rest is what etils asks for: alike, they share one connection.
    conf.setdefault("gcs", {}).update(use_listings_cache=False, finalize_on_close=True)
    # What it logs with a traceback it raises too.
    logging.getLogger("gcsfs").addFilter(lambda record: record.exc_info is None)
    bucket = text.split("/")[2]
    try:
        gcsfs.GCSFileSystem().ls(bucket, max_results=1, timeout=PATIENCE)
    except FileNotFoundError as error:
        raise UserError(f"{text}: there is no bucket {bucket}; create it, or name another") from error
    except (OSError, ValueError, *store_errors()) as error:
        raise UserError(f"{text}: {_refusal(error)}") from error
    return epath.Path(text)


def is_store(path: Path) -> bool:
    """Whether a path is a store's, where files are written whole, and nothing is appended to or locked."""
    return not isinstance(path, Path)


def absolute(path: Path) -> Path:
    """From the root; a store's path begins there."""
    return path if is_store(path) else path.absolute()


def check_name(path: Path) -> None:
    """Raises UserError if checkpoints could not be read from there: Orbax looks for their files by patterns, in which
    these signs stand for others."""
    text = str(absolute(path))
    wrong = [sign for sign in "[*?\\" if sign in text]
    if text.encode(errors="ignore").decode() != text:
        wrong.append("a sign that is not UTF-8")
    if wrong:
        raise UserError(
            f"--workdir {text}: checkpoints cannot be read from a path with {' and '.join(wrong)}; rename it"
        )


def write_whole(path: Path, content: str | bytes) -> None:
    """Whole or not at all, also if the process is killed; makes its folder.

    Raises:
      UserError: a store refuses it. OSError: a disk does.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_store(path):
        try:
            path.write_bytes(data)
        except (OSError, *store_errors()) as error:
            raise UserError(f"{path} could not be written: {_refusal(error)}") from error
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("xb") as content:
        content.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside this one where nothing is, for a file that takes its place once it is whole. Neither is followed
    where it is a link. An OSError names the file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed, or a link that a stranger laid
    try:
        yield temporary
    except OSError as error:
        if error.filename is None:  # as of a limit on the size of files
            error.filename = str(path)
        raise
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps what a file stands for to this process, as long as it lives.

    Raises:
      BlockingIOError: another process has it. OSError: the file cannot be made, or is a link.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(number, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def check_no_links(folder: Path) -> None:
    """Raises UserError where something in a folder is a link: what is written there would land elsewhere. The folder
    itself is the user's choice, and may be one."""
    if is_store(folder):
        return
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *names)):
            if path.is_symlink():
                raise UserError(f"{path}: a link, which would lead what is written there elsewhere; remove it")


def read_bytes(path: Path, mend: str, largest: float = LARGEST) -> bytes:
    """A file's content.

    Raises:
      UserError: it is no regular file, such as a pipe, or is larger; ends with `mend`. OSError: it cannot be read; a
        missing file is FileNotFoundError or NotADirectoryError.
    """
    size = check_regular(path, mend)
    if size > largest:
        raise UserError(f"{path}: {size / 2**20:.0f} MiB, expected {largest / 2**20:.0f} at most; {mend}")
    return path.read_bytes()


def check_regular(path: Path, mend: str) -> int:
    """Bytes of a file, 0 in a store; raises as `read_bytes` but for the size: to open a pipe is to wait for ever."""
    if is_store(path):
        return 0
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: not a regular file; {mend}")
    return found.st_size


def read_json(path: Path, mend: str, form: Any = dict, largest: float = LARGEST) -> Any:
    """The value in a JSON file; `mend` and `form` as of `json_reader.read`.

    Raises:
      UserError: it is no JSON, of another form, or has changed since it was sealed. OSError: as of `read_bytes`.
    """
    return json_reader.read(read_bytes(path, mend, largest), path, mend, form)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Raises as `write_whole`."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def read_arrays(path: Path, mend: str, names: tuple[str, ...] | None = None) -> "dict[str, np.ndarray]":
    """The arrays of an .npz file, by name; each is as it was written, which the file's checksums tell.

    Args:
      path: of the file. mend: what to do about one that is not readable. names: of the arrays to read; all if None.

    Raises:
      UserError: it is not one, lacks an array, or would inflate to much more than its size. OSError: as of
        `read_bytes`.
    """
    import numpy as np  # each program imports this module to show its help

    check_regular(path, mend)
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes()) if is_store(path) else path) as archive:
            there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: there[name] for name in (there if names is None else names)}
            size = sum(info.file_size for info in wanted.values())
            if size > max(LARGEST, INFLATED * sum(info.compress_size for info in wanted.values())):
                raise ValueError(f"it would inflate to {size / 2**30:.1f} GiB")
            arrays = {}
            for name, info in wanted.items():
                with archive.open(info) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
                    if stream.read(1):  # reads to the end too, where zipfile compares the checksum
                        raise ValueError(f"{name} is longer than its shape")
            return arrays
    except UNREADABLE as error:
        raise UserError(f"{path}: not readable ({error}); {mend}") from error


def pack(arrays: "dict[str, np.ndarray]") -> bytes:
    """Arrays as one compressed .npz."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def stamps(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """(name, time of last change, bytes) of those files and folders that exist: equal as long as none has changed."""
    found = []
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # it may go while it is looked at
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a store below a folder, under its name from there; from one listing."""
    from fsspec.core import url_to_fs

    store, root = url_to_fs(str(folder))
    return {name.removeprefix(root + "/"): found["size"] for name, found in store.find(root, detail=True).items()}


def move(folder: Path, target: Path) -> None:
    """Moves a folder and all that is in it, to where nothing is; a store moves file by file."""
    if not is_store(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    from fsspec.core import url_to_fs

    store, root = url_to_fs(str(folder))
    for name in sizes(folder):
        store.mv(f"{root}/{name}", f"{target}/{name}")


def _refusal(error: Exception) -> str:
    """In one line what the store, or the way to it, had to say, and what to see to."""
    reason = (str(error) or "no answer in time").splitlines()[-1]
    return (
        f"Google Cloud Storage failed or refused ({reason}); see that this machine reaches it and that its account may "
        "read and write the bucket's objects (gcloud auth application-default login; roles/storage.objectUser)"
    )
