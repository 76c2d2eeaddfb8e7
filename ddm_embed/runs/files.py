"""Files of run directories, on a disk or in Google Cloud Storage: how each is read, checked, and written whole."""

import io
import json
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddm_embed import json_reader
from ddm_embed.errors import UserError, store_errors

if TYPE_CHECKING:
    import numpy as np

PATIENCE = 60.0  # seconds that a store may take to answer at all; gcsfs itself gives up after about 35


def place(text: str) -> Path:
    """The path that a flag names; one of a store, gs://BUCKET/PATH, has the same methods, by way of etils.

    Raises:
      UserError: no such store is known, the library that reaches it is missing, or the bucket cannot be read.
    """
    if "://" not in text:
        return Path(text)
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
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def read_json(path: Path, mend: str, form: Any = dict) -> Any:
    """The value in a JSON file; `mend` and `form` as of `json_reader.read`.

    Raises:
      UserError: it is no JSON, or of another form. OSError: it cannot be read; a missing file is FileNotFoundError or
        NotADirectoryError.
    """
    return json_reader.read(path.read_bytes(), path, mend, form)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Raises as `write_whole`."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def read_arrays(path: Path, mend: str) -> "dict[str, np.ndarray]":
    """The arrays of an .npz file, by name.

    Raises:
      UserError: it is not one; ends with `mend`. OSError: it cannot be read.
    """
    import numpy as np  # each program imports this module to show its help

    content = io.BytesIO(path.read_bytes())
    try:
        if not zipfile.is_zipfile(content):  # NumPy would take a single array, too
            raise ValueError("it is no .npz file")
        content.seek(0)
        with np.load(content) as archive:
            return dict(archive)
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not readable ({error}); {mend}") from error


def write_arrays(path: Path, arrays: "dict[str, np.ndarray]") -> None:
    """Writes arrays as one compressed .npz; raises as `write_whole`."""
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def stamps(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """(name, time of last change, bytes) of those files and folders that exist: equal as long as none has changed."""
    there = [path for path in sorted(paths) if path.exists()]
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in there)


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
