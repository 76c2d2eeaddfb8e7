"""A file of embeddings: .npz, .parquet or .zarr, each readable without this package.

There are n images, T noise levels and codes of dim numbers. Images that could not be read have no row.

    .npz      numpy.load(FILE): name str [n], label str [n], t float32 [T], embedding float32 [n, T, dim], and metadata,
              a str that is JSON. Nothing is pickled.
    .zarr     zarr.open(FILE), of Zarr's format 2: arrays of the same names and shapes; the metadata are attributes.
    .parquet  a row an image and level, image by image: name string, label string, t float32, embedding a list of
              dim float32. numpy.stack(frame.embedding).reshape(n, T, dim) gives the array back. The metadata are in the
              schema's, as JSON under `ddm_embed`.

`name` is the path below the folder, or the row's number; `label` is "" where it is not known. Metadata:

    format        1, of this layout                   created       when, UTC
    feature       such as "z"                         images        the folder or file that was embedded
    t             the levels                          number, dim   n and dim
    chosen_by     who chose feature and t             bad           [name, reason] of each image without a row
    run, step     which run or export, at which step  plan          digest of all that shapes this file
    fingerprint   of config, step and parameters      ddm_embed     version of the package
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from ddm_embed import json_reader
from ddm_embed.errors import UserError
from ddm_embed.runs.files import UNREADABLE, check_regular, read_arrays

FORMAT = 1
SUFFIXES = (".npz", ".parquet", ".zarr")
COLUMNS = ("name", "label", "embedding")
ZARR_CHUNK = 1 << 22  # bytes

Embedding = Float[np.ndarray, "number time dim"]


class Metadata(TypedDict):
    """As above."""

    format: int
    feature: str
    t: list[float]
    chosen_by: NotRequired[str]
    run: NotRequired[str]
    step: NotRequired[int]
    fingerprint: NotRequired[str]
    created: NotRequired[str]
    images: NotRequired[str]
    number: int
    dim: int
    bad: list[list[str]]
    plan: NotRequired[str]
    ddm_embed: NotRequired[str]


class Embeddings(NamedTuple):
    """What such a file holds."""

    names: list[str]
    labels: list[str]
    times: Float[np.ndarray, " time"]
    embedding: Embedding
    metadata: Metadata


def check_format(path: Path) -> None:
    """Raises UserError unless the suffix is known and what it takes is installed."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if path.suffix == ".zarr":
        _zarr()


def write(
    path: Path, names: list[str], labels: list[str], blocks: Iterator[Embedding], metadata: dict[str, Any]
) -> None:
    """Writes a file whose rows come block by block, so that they are never all in memory.

    Args:
      path: where, by its suffix how; not yet there. names, labels: of every row.
      blocks: the rows' embeddings, in order. metadata: as above, with `t` and `dim`.

    Raises:
      OSError: the disk refuses it; something unfinished may be left.
    """
    {".npz": _write_npz, ".parquet": _write_parquet, ".zarr": _write_zarr}[path.suffix](
        path, names, labels, blocks, metadata
    )


def read(path: Path) -> Embeddings:
    """Reads it whole.

    Raises:
      UserError: it is not there, is no file of embeddings, or of a newer layout.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; python -m ddm_embed.embed writes one")
    check_format(path)
    metadata = read_metadata(path)
    shape = metadata["number"], len(metadata["t"]), metadata["dim"]
    try:
        if path.suffix == ".npz":
            arrays = read_arrays(path, "not a whole file of embeddings; make it again", COLUMNS)
            found = [arrays[key] for key in COLUMNS]
        elif path.suffix == ".zarr":
            group = _zarr().open_group(str(path), mode="r")
            found = [group[key][...] for key in COLUMNS]
        else:
            found = _read_parquet(path, metadata)
        for key, column, wanted in zip(COLUMNS, found, (shape[:1], shape[:1], shape), strict=True):
            if column.shape != wanted or (column.dtype.kind == "f") != (key == "embedding"):
                raise ValueError(f"{key} is {column.dtype}{list(column.shape)}, its metadata say {list(wanted)}")
        names, labels, embedding = found[0].tolist(), found[1].tolist(), np.asarray(found[2], np.float32)
    except _unreadable() as error:
        raise UserError(f"{path}: not a whole file of embeddings ({error}); make it again") from error
    return Embeddings(names, labels, np.asarray(metadata["t"], np.float32), embedding, metadata)


def read_metadata(path: Path) -> Metadata:
    """The metadata alone.

    Raises:
      UserError: it is no file of embeddings, or of a newer layout.
    """
    mend = "not a file of embeddings; python -m ddm_embed.embed writes one"
    try:
        if path.suffix == ".npz":
            text = str(read_arrays(path, mend, ("metadata",))["metadata"])
        elif path.suffix == ".zarr":
            text = json.dumps(_zarr().open_group(str(path), mode="r").attrs.asdict())
        else:
            import pyarrow.parquet as pq  # 0.3 s, and only this format needs it

            check_regular(path, mend)
            text = pq.read_schema(path).metadata[b"ddm_embed"]
        version = json_reader.read(text, path, mend).get("format")
        if version != FORMAT and type(version) is int:
            raise UserError(f"{path}: of layout {version}, and this package reads {FORMAT}; upgrade ddm_embed")
        metadata = json_reader.read(text, path, mend, Metadata)
        if min(metadata["number"], metadata["dim"], len(metadata["t"])) < 1:
            raise ValueError("it holds nothing")
    except _unreadable() as error:
        raise UserError(f"{path}: not readable ({error}); {mend}") from error
    return metadata


def remove(path: Path) -> None:
    """Removes a file of embeddings, of which a .zarr is a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unreadable() -> tuple[type[Exception], ...]:
    """What the readers raise on a file that is cut short or is something else; pyarrow's errors are of these too."""
    return (*UNREADABLE, OSError, IndexError)


def _write_npz(path, names, labels, blocks, metadata) -> None:
    shape = (len(names), len(metadata["t"]), metadata["dim"])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in {
                "name": np.array(names, np.str_),
                "label": np.array(labels, np.str_),
                "t": np.array(metadata["t"], np.float32),
                "metadata": np.array(json.dumps(metadata)),
            }.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, value, allow_pickle=False)
            with archive.open("embedding.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for block in blocks:
                    entry.write(np.ascontiguousarray(block, "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(path, names, labels, blocks, metadata) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, dim = np.array(metadata["t"], np.float32), metadata["dim"]
    fields = [
        ("name", pa.string()),
        ("label", pa.string()),
        ("t", pa.float32()),
        ("embedding", pa.list_(pa.float32(), dim)),
    ]
    schema = pa.schema(fields, metadata={"ddm_embed": json.dumps(metadata)})
    start = 0
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            for block in blocks:
                stop = start + len(block)
                columns = [
                    pa.array(np.repeat(np.array(names[start:stop], object), len(times)), pa.string()),
                    pa.array(np.repeat(np.array(labels[start:stop], object), len(times)), pa.string()),
                    pa.array(np.tile(times, len(block))),
                    pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim),
                ]
                writer.write_table(pa.table(columns, schema=schema))
                start = stop
        file.flush()
        os.fsync(file.fileno())


def _read_parquet(path: Path, metadata: dict[str, Any]) -> list[np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
    levels, dim = len(metadata["t"]), metadata["dim"]
    names, labels = (np.array(table[key].to_pylist()[::levels], object) for key in ("name", "label"))
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return [names, labels, flat.reshape(len(names), levels, dim)]


def _write_zarr(path, names, labels, blocks, metadata) -> None:
    times, dim = np.array(metadata["t"], np.float32), metadata["dim"]
    group = _zarr().open_group(str(path), mode="w", zarr_format=2, attributes=metadata)  # 2: read by every version
    group.create_array("name", data=np.array(names, np.str_))
    group.create_array("label", data=np.array(labels, np.str_))
    group.create_array("t", data=times)
    rows = max(1, ZARR_CHUNK // (4 * len(times) * dim))
    shape = (len(names), len(times), dim)
    array = group.create_array("embedding", shape=shape, chunks=(min(rows, len(names)), *shape[1:]), dtype="float32")
    start = 0
    for block in blocks:
        array[start : start + len(block)] = block
        start += len(block)


def _zarr():
    try:
        import zarr  # half a second, and optional
    except ImportError as error:
        raise UserError(f"a .zarr needs zarr ({error}); pip install -e '.[zarr]', or write .npz or .parquet") from error
    return zarr
