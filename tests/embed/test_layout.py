import builtins
import json

import numpy as np
import pytest

from ddm_embed.embed import layout
from ddm_embed.errors import UserError

NAMES, LABELS, TIMES, DIM = ["a/ü 日.png", "b/with space.png", "c.png"], ["a", "b", ""], [0.0, 0.3], 5
METADATA = {"format": 1, "feature": "z", "t": TIMES, "number": 3, "dim": DIM, "bad": [["d.png", "cut"]]}


@pytest.fixture(params=layout.SUFFIXES)
def written(request, tmp_path):
    """(path, embedding) of a file that was written in two blocks."""
    path = tmp_path / f"out{request.param}"
    embedding = np.random.default_rng(0).normal(size=(3, 2, DIM)).astype(np.float32)
    layout.write(path, NAMES, LABELS, iter([embedding[:2], embedding[2:]]), METADATA)
    return path, embedding


def test_every_layout_gives_back_what_was_written(written):
    path, embedding = written
    found = layout.read(path)
    assert found.names == NAMES and found.labels == LABELS and found.metadata == METADATA
    np.testing.assert_array_equal(found.embedding, embedding)
    np.testing.assert_array_equal(found.times, np.float32(TIMES))


def test_every_layout_is_readable_without_this_package(written):
    path, embedding = written
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            names, labels, times, read = (found[key] for key in ("name", "label", "t", "embedding"))
            metadata = json.loads(str(found["metadata"]))
    elif path.suffix == ".zarr":
        zarr = pytest.importorskip("zarr")
        found = zarr.open(str(path), mode="r")
        names, labels, times, read = (found[key][:] for key in ("name", "label", "t", "embedding"))
        metadata = dict(found.attrs)
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        assert columns["t"] == pytest.approx(TIMES * 3)
        names, labels, times = columns["name"][::2], columns["label"][::2], np.float32(columns["t"][:2])
        read = np.stack(columns["embedding"]).astype(np.float32).reshape(3, 2, DIM)
        metadata = json.loads(table.schema.metadata[b"ddm_embed"])
    assert list(names) == NAMES and list(labels) == LABELS and metadata == METADATA
    np.testing.assert_array_equal(read, embedding)
    np.testing.assert_array_equal(times, np.float32(TIMES))


def test_pandas_reads_a_parquet_as_its_docstring_says(tmp_path):
    pandas = pytest.importorskip("pandas")
    embedding = np.arange(3 * 2 * DIM, dtype=np.float32).reshape(3, 2, DIM)
    layout.write(tmp_path / "a.parquet", NAMES, LABELS, iter([embedding]), METADATA)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.stack(frame.embedding).reshape(3, 2, DIM), embedding)
    assert len(frame[frame.t == np.float32(0.3)]) == 3


def test_a_file_cut_short_or_of_another_kind_is_refused_in_one_line(written):
    path, _ = written
    if path.is_dir():
        (path / "embedding" / ".zarray").unlink()
    else:
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"not a (whole )?file of embeddings") as refused:
        layout.read(path)
    assert str(path) in str(refused.value)
    layout.remove(path)
    with pytest.raises(UserError, match="no such file"):
        layout.read(path)


def test_a_file_of_a_newer_layout_is_refused(tmp_path):
    newer = METADATA | {"format": 2}
    layout.write(tmp_path / "a.npz", NAMES, LABELS, iter([np.zeros((3, 2, DIM), np.float32)]), newer)
    with pytest.raises(UserError, match="of layout 2, and this package reads 1; upgrade ddm_embed"):
        layout.read(tmp_path / "a.npz")


def test_zarr_that_is_missing_is_said_at_once_with_its_extra(tmp_path, monkeypatch):
    find = builtins.__import__

    def without(name, *rest, **more):
        if name == "zarr":
            raise ImportError("No module named 'zarr'")
        return find(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"a \.zarr needs zarr .*pip install -e '\.\[zarr\]', or write \.npz"):
        layout.check_format(tmp_path / "a.zarr")
