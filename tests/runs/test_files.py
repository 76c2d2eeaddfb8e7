import re
import resource
import shutil
import sys
from pathlib import Path

import pytest

from ddm_embed.errors import UserError
from ddm_embed.runs import files
from ddm_embed.runs.directory import RunDirectory


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


def test_a_write_that_fails_leaves_the_file_as_it_was_and_names_it(tmp_path):
    path = tmp_path / "file"
    files.write_whole(path, "before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{re.escape(str(path))}'"):
            files.write_whole(path, "after" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "before"


@pytest.mark.parametrize("name", ["config.json", "config.json.tmp"])
def test_a_link_is_replaced_and_not_followed(tmp_path, name):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    files.write_whole(tmp_path / "config.json", "{}")
    assert (tmp_path / "elsewhere").read_text() == "precious" and (tmp_path / "config.json").read_text() == "{}"


def test_a_lock_that_is_a_link_is_not_opened(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), files.locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    "name", [".lock", "corrupt", "samples", "tensorboard", "checkpoints/10.orbax-tmp", "probe/linear"]
)
def test_a_run_with_a_link_in_it_is_not_written_to(tiny_run, tmp_path, name):
    run = shutil.copytree(tiny_run[1], tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    directory = RunDirectory(run)
    reason = f"{re.escape(str(run / name))}: a link, which would lead what is written there elsewhere; remove it"
    with pytest.raises(UserError, match=reason), directory.locked():
        pass
    with pytest.raises(UserError, match=reason):
        directory.make_pictures()
    if name.startswith("probe"):
        with pytest.raises(UserError, match=reason):
            directory.probe("linear").make()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_is_moved_with_all_that_is_in_it(tmp_path):
    files.write_whole(tmp_path / "a" / "inner" / "file", "text")
    files.move(tmp_path / "a", tmp_path / "aside" / "b")
    assert (tmp_path / "aside" / "b" / "inner" / "file").read_text() == "text" and not (tmp_path / "a").exists()


def test_a_run_directory_may_itself_be_a_link(tiny_run, tmp_path):
    shutil.copytree(tiny_run[1], tmp_path / "run")
    (tmp_path / "here").symlink_to(tmp_path / "run")
    with RunDirectory(tmp_path / "here").locked():
        RunDirectory(tmp_path / "here").probe("linear").make()
