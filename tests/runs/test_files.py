import sys
from pathlib import Path

import pytest

from ddm_embed.errors import UserError
from ddm_embed.runs import files


def test_a_path_of_this_machine_is_taken_as_it_is():
    assert files.place("runs/digits") == Path("runs/digits") and not files.is_store(Path("runs/digits"))


def test_without_gcsfs_a_store_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # importing it raises ImportError, as if it were not installed
    with pytest.raises(UserError, match=r"gs://bucket/run needs gcsfs .*; pip install -e '.\[gcs\]'"):
        files.place("gs://bucket/run")


@pytest.mark.parametrize("text", ["s3://bucket/run", "gs://bucket", "gs://", "gs://bucket/", "file:///runs"])
def test_what_names_no_place_in_a_known_store_is_refused(text):
    with pytest.raises(UserError, match="not a place for a run; give gs://BUCKET/PATH"):
        files.place(text)


@pytest.mark.parametrize("content", ["text\n", b"\x00bytes"])
def test_a_file_is_written_whole_with_its_folder(content, tmp_path):
    path = tmp_path / "folder" / "file"
    files.write_whole(path, "what was there before, and longer")
    files.write_whole(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, "before")

    def full(*_) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, "after")
    assert path.read_text() == "before"


def test_a_folder_is_moved_with_all_that_is_in_it(tmp_path):
    files.write_whole(tmp_path / "a" / "inner" / "file", "text")
    files.move(tmp_path / "a", tmp_path / "aside" / "b")
    assert (tmp_path / "aside" / "b" / "inner" / "file").read_text() == "text" and not (tmp_path / "a").exists()
