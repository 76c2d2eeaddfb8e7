import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from ddm_embed.data.sequences import Scale
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import Source, Split
from ddm_embed.errors import UserError
from ddm_embed.runs import files
from ddm_embed.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    """A run that has begun and saved nothing."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.prepare(tiny_config())
    directory.check_data(source(6))
    directory.note_classes((3, 7, 40))
    return directory


def source(number, scale=None):
    return Source("arrays:x", Split(np.zeros((number, 8, 8, 1), np.uint8), None), None, None, scale)


def test_what_a_run_notes_is_read_again(run):
    assert run.read_config().to_dict() == tiny_config().to_dict()
    assert run.read_data() == {"train_images": 6, "test_images": None, "image_shape": [8, 8, 1]}
    assert run.read_classes() == (3, 7, 40) and run.read_versions()["packages"]["jax"]


def test_a_run_is_kept_to_its_config_data_and_classes(run):
    for same in (lambda: run.check_config(tiny_config()), lambda: run.check_data(source(6))):
        same()
    run.note_classes((3, 7, 40))
    with pytest.raises(UserError, match=r"holds a run of another config: train.seed was 0, is 1"):
        run.check_config(tiny_config(**{"train.seed": 1}))
    with pytest.raises(UserError, match=r"arrays:x has changed since the run in .* began \(train_images was 6, is 5"):
        run.check_data(source(5))
    with pytest.raises(UserError, match="has changed since"):
        run.check_data(source(6, Scale(np.zeros(1, np.float32), np.ones(1, np.float32))))
    with pytest.raises(UserError, match=r"began with the classes \(3, 7, 40\), now they are \(3, 7\)"):
        run.note_classes((3, 7))


def test_a_start_that_saved_nothing_binds_nobody(run):
    run.prepare(tiny_config(**{"train.seed": 1}))
    run.check_data(source(5))
    assert run.read_config().train.seed == 1 and run.read_data()["train_images"] == 5


def test_checkpoints_without_a_config_are_left_alone(run, tiny_run):
    os.symlink(tiny_run[1] / "checkpoints", run.path / "checkpoints")
    (run.path / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints but no config.json"):
        run.prepare(tiny_config())


def test_what_is_not_there_is_said(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=r"holds no run \(no config.json\); train one first"):
        run.read_config()
    with pytest.raises(UserError, match=r"has not begun \(no data.json\); train it"):
        run.read_data()
    with pytest.raises(UserError, match=r"classes.json is missing: the run's classifier"):
        run.read_classes()
    with pytest.raises(UserError, match="does not see what process 0 wrote there"):
        run.check_shared()
    assert run.read_versions() == {} and run.probes() == []


BROKEN = {
    "empty": b"",
    "torn": b'{"image_shape": [8, ',
    "not UTF-8": b'{"image_shape": "\xff"}',
    "too deep": b"[" * 100_000,
    "too long a number": b'{"image_shape": [' + b"8" * 10_000 + b"]}",
    "another type": b"3",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["config", "data", "classes"])
def test_what_cannot_be_read_is_one_line_that_names_the_file_and_the_mend(run, name, content):
    (run.path / f"{name}.json").write_bytes(content)
    with pytest.raises(UserError, match=f"^{run.path}/{name}.json: .*; restore it") as error:
        getattr(run, f"read_{name}")()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": "8x8"}, 'image_shape is "8x8", expected a list'),
        ({"image_shape": [8, 8, "1"]}, r'image_shape.2 is "1", expected an integer'),
        ({"image_shape": [8, 8]}, r"image_shape is \[8, 8\], expected"),
        ({"image_shape": [8, 8, 0]}, r"image_shape is \[8, 8, 0\], expected"),
        ({"train_images": "many"}, 'train_images is "many", expected an integer'),
        ({"scale": {"mean": [0.0]}}, "scale is without std"),
        ({"scale": {"mean": [0.0], "std": [None]}}, "scale.std.0 is null, expected a number"),
    ],
)
def test_a_note_of_another_form_is_refused_naming_the_field(run, changes, message):
    noted = run.read_data()
    (run.path / "data.json").write_text(json.dumps(noted | changes))
    with pytest.raises(UserError, match=f"data.json: {message}.*; restore it, or train again"):
        run.read_data()
    (run.path / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"data.json: without image_shape"):
        run.read_data()


def test_arrays_are_kept_for_a_run_until_it_has_begun(run, tmp_path):
    images = np.arange(2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.uint8)
    new = RunDirectory(tmp_path / "new")
    new.keep_arrays(np.zeros((3, 16, 2), np.float32))
    new.keep_arrays(images)  # nothing came of the first
    assert [file.name for file in new.arrays.iterdir()] == ["train_images.npy"]
    np.testing.assert_array_equal(np.load(new.arrays / "train_images.npy"), images)
    with pytest.raises(UserError, match="holds a run of other images"):
        run.keep_arrays(images)


def test_a_second_run_in_the_same_directory_is_refused(run):
    with run.locked(), pytest.raises(UserError, match="another process is training in it"), run.locked():
        pass
    with run.locked():
        pass


def test_stamps_change_with_what_readers_depend_on_and_with_nothing_else(run):
    before = run.stamps()
    (run.path / "metrics.jsonl").write_text("{}")
    run.make_pictures()
    assert run.stamps() == before
    os.utime(run.path / "config.json", ns=(1, 1))
    changed = run.stamps()
    run.probe("linear").write({}, {}, {})
    assert len({before, changed, run.stamps()}) == 3


def folder_of_images(root, value=0):
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((8, 8), value + i, np.uint8)).save(root / label / f"{i}.png")
    return f"folder:{root}"


@pytest.fixture
def moved(tmp_path):
    """A run on a folder that has begun, and where both lie since."""
    config = tiny_config(**{"data.name": folder_of_images(tmp_path / "images")})
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.prepare(config)
    directory.check_data(open_source(config))
    (tmp_path / "run" / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "run").rename(tmp_path / "renamed")
    (tmp_path / "images").rename(tmp_path / "photos")
    return RunDirectory(tmp_path / "renamed"), config, tmp_path


def test_a_moved_run_reads_its_moved_images_where_the_user_says_they_lie(moved):
    directory, _, here = moved
    with pytest.raises(UserError, match="no such folder"):
        directory.open_data(directory.read_config())
    assert len(directory.open_data(directory.read_config(), f"folder:{here}/photos").train) == 32
    for other in (f"arrays:{here}/photos", "digits"):
        with pytest.raises(UserError, match=r"the run was trained on folder:.*; give the place where that lies now"):
            directory.open_data(directory.read_config(), other)
    (here / "photos" / "a" / "0.png").rename(here / "photos" / "a" / "new.png")
    with pytest.raises(UserError, match=r"has changed since .* \(digest was of some names or values, is of others\)"):
        directory.open_data(directory.read_config(), f"folder:{here}/photos")


def test_training_goes_on_under_another_name_with_images_in_another_place(moved):
    directory, config, here = moved
    config.name, config.data.name = "another", f"folder:{here}/photos"
    directory.prepare(config)
    directory.check_data(open_source(config))
    config.data.name = "digits"
    with pytest.raises(UserError, match=r"data\.name was 'folder:.*', is 'digits'"):
        directory.prepare(config)


def test_arrays_that_a_run_keeps_move_with_it(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.keep_arrays(np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8))
    config = tiny_config(**{"data.name": f"arrays:{directory.arrays}"})
    directory.prepare(config)
    directory.check_data(open_source(config))
    (tmp_path / "run").rename(tmp_path / "renamed")
    moved = RunDirectory(tmp_path / "renamed")
    assert len(moved.open_data(moved.read_config()).train) == 30


def test_a_run_that_noted_no_digest_is_read(moved):
    directory, _, here = moved
    noted = json.loads((directory.path / "data.json").read_text())
    del noted["digest"]
    (directory.path / "data.json").write_text(
        json.dumps({k: v for k, v in noted.items() if k not in ("sealed", "sha256")})
    )
    assert len(directory.open_data(directory.read_config(), f"folder:{here}/photos").train) == 32


@pytest.mark.parametrize("name", ["sweep[lr=1e-3]", "a*b", "a\\b", "why?", os.fsdecode(b"caf\xe9"), "a[b]/run"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_path_that_checkpoints_cannot_be_read_from_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, name, relative
):
    path = tmp_path / name
    if relative:  # the part of the path that is not typed counts too
        path.mkdir(parents=True)
        monkeypatch.chdir(path)
        path = Path("run")
    with pytest.raises(UserError, match="checkpoints cannot be read from a path with"), RunDirectory(path).locked():
        pass
    assert not path.exists()


def test_a_path_with_other_signs_is_taken(tmp_path):
    with RunDirectory(tmp_path / "a b=1,{c}(d)%20#$ü").locked():
        pass


def test_stamps_of_what_goes_while_it_is_looked_at_are_left_out(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert files.stamps([tmp_path / "link", tmp_path / "none"]) == ()
