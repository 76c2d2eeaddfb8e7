import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import awkward
import numpy as np
import pytest
from conftest import ROOT, refused, run_program
from PIL import Image

from ddm_embed.data.image_file import Rules, decode
from ddm_embed.data.sequences import Scale
from ddm_embed.embed import layout, making
from ddm_embed.embed.listing import Unreadable, list_images
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run

# As a slow disk would: enough for a signal to come in between.
SLOW = """
import runpy, time
from ddm_embed.data import image_file
decode = image_file.decode
image_file.decode = lambda *given, **more: (time.sleep(0.02), decode(*given, **more))[1]
runpy.run_module("ddm_embed.embed", run_name="__main__", alter_sys=True)
"""
NUMBER = 600  # images: three chunks


@pytest.fixture(scope="module")
def frozen(tiny_run):
    return open_run(tiny_run[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes, each image another."""
    root = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (NUMBER, 8, 8), np.uint8)
    for i, pixels in enumerate(noise):
        path = root / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def job(frozen, place, times=(0.0, 0.5), feature="z"):
    return making.Job(frozen, feature, times, "a test", list_images(place, frozen))


def make(frozen, place, out, **more):
    return making.make(job(frozen, place, **more), out, None, 2)


def test_every_awkward_file_is_embedded_or_named_with_its_reason(frozen, tmp_path):
    awkward.make(tmp_path / "images")
    outcome = make(frozen, tmp_path / "images", tmp_path / "out.npz")
    found = layout.read(tmp_path / "out.npz")
    assert sorted(found.names) == sorted(awkward.GOOD) and len(outcome.bad) == len(awkward.BAD)
    for name, reason in outcome.bad:
        assert awkward.BAD[name] in reason, (name, reason)
    assert found.metadata["bad"] == [list(pair) for pair in outcome.bad]
    assert {name: label for name, label in zip(found.names, found.labels, strict=True)} == {
        name: name.split("/")[0] for name in awkward.GOOD
    }
    flat = frozen.embed(np.full((1, 8, 8, 1), 100, np.uint8), (0.0, 0.5), "z")[0]
    for name, embedding in zip(found.names, found.embedding, strict=True):
        if awkward.GOOD[name] is not None:
            np.testing.assert_allclose(embedding, flat, atol=1e-6, err_msg=name)


def test_links_that_are_not_followed_are_said(frozen, tmp_path):
    awkward.make(tmp_path)
    assert list_images(tmp_path, frozen).notes == [
        "round: a link to a folder that holds it; left out",
        "plain/up: a link to a folder; not followed",
        "left out: 1 .txt, 1 without a suffix",
    ]


def test_what_is_written_beside_train_and_test_changes_no_label(frozen, tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    before = list_images(tmp_path, frozen)
    assert dict(zip(before.names, before.labels, strict=True)) == {
        "4.png": "", "train/a/1.png": "a", "train/b/2.png": "b", "test/a/3.png": "",
    }  # fmt: skip
    (tmp_path / "out.npz.parts").mkdir()
    assert list_images(tmp_path, frozen)[1:4] == before[1:4]


@pytest.mark.parametrize("make_place", [lambda p: p.mkdir(), lambda p: None, lambda p: p.write_text("a")])
def test_a_place_without_images_is_refused(frozen, tmp_path, make_place):
    make_place(tmp_path / "place")
    with pytest.raises(UserError, match=r"--images .*place: (holds no images|no such file|expected a folder)"):
        list_images(tmp_path / "place", frozen)


def test_where_nothing_can_be_read_no_file_is_written(frozen, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("a text")
    with pytest.raises(UserError, match=r"none can be read, of 1; a\.png: not a readable image"):
        make(frozen, tmp_path / "images", tmp_path / "out.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_labels_are_the_first_folder_where_it_tells_images_apart(frozen, tmp_path):
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/deep/3.png", "other/train/4.png", "one/only/5.png"):
        path = tmp_path / ("owner" if name.startswith("t") else "mixed" if name.startswith("other") else "one") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    Image.new("L", (8, 8)).save(tmp_path / "mixed" / "loose.png")
    (tmp_path / "mixed" / "second").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "mixed" / "second" / "a.png")

    def labels(place):
        listing = list_images(tmp_path / place, frozen)
        return dict(zip(listing.names, listing.labels, strict=True))

    assert labels("owner") == {"train/cat/1.png": "cat", "train/dog/2.png": "dog", "test/cat/deep/3.png": ""}
    assert labels("mixed") == {"loose.png": "", "other/train/4.png": "other", "second/a.png": "second"}
    assert set(labels("one").values()) == {""}


def test_a_file_and_rows_of_an_array_are_embedded_like_a_folder(frozen, photos, tmp_path):
    make(frozen, photos, tmp_path / "folder.npz")
    folder = layout.read(tmp_path / "folder.npz")
    files = [photos / name for name in folder.names]
    make(frozen, files[7], tmp_path / "one.npz")
    images = np.stack([decode(file, (8, 8, 1), False, Rules()) for file in files])
    np.save(tmp_path / "train_images.npy", images)
    np.save(tmp_path / "train_labels.npy", np.arange(NUMBER) % 3)
    make(frozen, tmp_path / "train_images.npy", tmp_path / "rows.npz")
    one, rows = layout.read(tmp_path / "one.npz"), layout.read(tmp_path / "rows.npz")
    assert one.names == [files[7].name] and rows.names[:3] == ["0", "1", "2"] and rows.labels[:3] == ["0", "1", "2"]
    np.testing.assert_array_equal(rows.embedding, folder.embedding)
    np.testing.assert_allclose(one.embedding[0], folder.embedding[7], atol=1e-6)
    np.testing.assert_allclose(folder.embedding, frozen.embed(images, (0.0, 0.5), "z"), atol=1e-6)
    assert len(frozen._programs) <= 3  # a program a size of batch: chunks bring none of their own


def test_sequences_are_standardised_and_gaps_in_them_named(tmp_path):
    scale = Scale(np.array([1, 2], np.float32), np.array([2, 4], np.float32))
    stub = SimpleNamespace(image_shape=(1, 5, 2), scale=scale)
    raw = np.ones((3, 5, 2))
    raw[1, 3] = np.nan
    np.save(tmp_path / "a.npy", raw)
    listing = list_images(tmp_path / "a.npy", stub)
    assert listing.read(0).shape == (1, 5, 2) and listing.read(0).dtype == np.float32
    np.testing.assert_array_equal(listing.read(2)[0, 0], [0, -0.25])
    with pytest.raises(Unreadable, match="NaN"):
        listing.read(1)
    np.save(tmp_path / "a.npy", np.ones((3, 4, 2)))
    with pytest.raises(UserError, match=r"expected numbers \[number, 5, 2\]"):
        list_images(tmp_path / "a.npy", stub)


def start(run, photos, out, *more):
    command = [sys.executable, "-c", SLOW, "--workdir", run, "--images", photos, "--out", out, "--threads=2", *more]
    return subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for_a_part(process, out):
    part = making.folder_of(out) / "00000000.npz"
    while process.poll() is None and not part.exists():
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()


@pytest.mark.slow
def test_killed_half_way_it_goes_on_and_neither_repeats_nor_loses_an_image(tiny_run, frozen, photos, tmp_path):
    out = tmp_path / "out.npz"
    process = start(tiny_run[1], photos, out, "--t=0,0.5", "--feature=z")
    wait_for_a_part(process, out)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not out.exists()
    made = {f.name: f.stat().st_mtime_ns for f in making.folder_of(out).glob("0*.npz")}
    assert 1 <= len(made) < 3
    again = run_program(
        "ddm_embed.embed", "--workdir", tiny_run[1], "--images", photos, "--out", out, "--t=0,0.5", "--feature=z"
    )
    assert again.returncode == 0 and f"going on: {256 * len(made)} of {NUMBER} images" in again.stderr, again.stderr
    assert f"embedded {NUMBER - 256 * len(made)} images" in again.stderr
    assert not making.folder_of(out).exists()
    make(frozen, photos, tmp_path / "undisturbed.npz")
    found, expected = layout.read(out), layout.read(tmp_path / "undisturbed.npz")
    assert found.names == expected.names and len(set(found.names)) == NUMBER and found.labels == expected.labels
    np.testing.assert_array_equal(found.embedding, expected.embedding)


@pytest.mark.slow
def test_sigterm_ends_with_its_own_code_and_says_how_to_go_on(tiny_run, photos, tmp_path):
    out = tmp_path / "out.parquet"
    process = start(tiny_run[1], photos, out)
    wait_for_a_part(process, out)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and errors.splitlines()[-1] == "stopped; run the same command again to go on"
    assert not out.exists() and making.folder_of(out).exists()


def test_a_finished_file_is_left_alone_and_another_jobs_refused(frozen, photos, tmp_path):
    out = tmp_path / "out.npz"
    assert not make(frozen, photos, out).before
    stamp = out.stat().st_mtime_ns
    making.folder_of(out).mkdir()  # as after a kill between the last two steps
    assert make(frozen, photos, out).before and out.stat().st_mtime_ns == stamp and not making.folder_of(out).exists()
    with pytest.raises(UserError, match=r"of another job \(t differ"):
        make(frozen, photos, out, times=(0.3,))
    out.write_bytes(b"something else")
    with pytest.raises(UserError, match="not a file of embeddings"):
        make(frozen, photos, out)


def test_parts_of_another_job_are_refused_with_what_differs(frozen, photos, tmp_path):
    out, copy = tmp_path / "out.npz", tmp_path / "copy"
    shutil.copytree(photos, copy)
    plan = making.make_plan(job(frozen, copy), making.CHUNK)
    with making.opened(out, plan), pytest.raises(UserError, match="another process is writing it"):
        make(frozen, copy, out)
    for changed, message in (({"times": (0.5,)}, "t was"), ({"feature": "encoder_1"}, "feature was z, now encoder_1")):
        with pytest.raises(UserError, match=f"is of another job: {message}"):
            make(frozen, copy, out, **changed)
    (copy / "a" / "0.png").touch()
    (copy / "b" / "1.png").unlink()
    with pytest.raises(UserError, match=r"of its images 1 are gone, 0 are new and 1 have changed \(a/0\.png\)"):
        make(frozen, copy, out)


def test_a_damaged_part_is_made_again(frozen, photos, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"

    def stop(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(layout, "write", stop)
        with pytest.raises(UserError, match="make room and give the same command again"):
            make(frozen, photos, out)
    for number, size in ((0, 1000), (1, 0)):
        os.truncate(making.folder_of(out) / f"{number:08d}.npz", size)
    make(frozen, photos, out)
    assert len(layout.read(out).names) == NUMBER


def test_a_plan_with_any_third_bit_flipped_is_refused_or_the_same(tmp_path):
    out, files = tmp_path / "out.npz", [["a.png", 10, 5], ["b.png", 11, 6]]
    plan = {"format": 1, "fingerprint": "ab", "feature": "z", "t": [0.5], "images": "/x", "files": files}
    plan |= {"labels": ["a", ""], "chunk": 3200}
    with making.opened(out, plan) as (folder, _):
        written = (folder / "plan.json").read_bytes()
    for place in range(0, 8 * len(written), 3):
        flipped = bytearray(written)
        flipped[place // 8] ^= 1 << place % 8
        (folder / "plan.json").write_bytes(flipped)
        try:
            with making.opened(out, plan) as (_, found):
                assert {name: found[name] for name in plan} == plan
        except UserError as error:
            assert str(folder) in str(error)


SOUND = {"embedding": np.zeros((2, 1, 3), np.float32), "position": np.array([5, 7]), "bad": np.array('[[6, "cut"]]')}


@pytest.mark.parametrize(
    "change",
    [
        {"position": np.array([5, 8])}, {"position": np.array([7, 5])}, {"position": np.array([5.0, 7.0])},
        {"bad": np.array("[]")}, {"bad": np.array('[[7, "cut"]]')}, {"bad": np.array("[6]")}, {"bad": np.array(1.0)},
        {"embedding": np.full((2, 1, 3), np.nan, np.float32)}, {"embedding": np.zeros((2, 1, 4), np.float32)},
        {"embedding": np.zeros((3, 1, 3), np.float32)}, {"embedding": np.zeros((2, 1, 3))},
    ],
)  # fmt: skip
def test_a_part_of_other_images_or_of_another_shape_is_made_again(tmp_path, change):
    np.savez(tmp_path / "00000001.npz", **SOUND)
    assert making.read_part(tmp_path, 1, range(5, 8), (1, 3)).bad == [(6, "cut")]
    np.savez(tmp_path / "00000001.npz", **SOUND | change)
    assert making.read_part(tmp_path, 1, range(5, 8), (1, 3)) is None


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_was_done_is_kept(tiny_run, photos, tmp_path):
    out = tmp_path / "out.npz"
    arguments = ["--workdir", tiny_run[1], "--images", photos, "--out", out, "--t=all", "--feature=denoiser_1"]
    # Files of this process may grow to so many bytes: more than a chunk takes, less than the whole.
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, -1))\n" + SLOW
    command = [sys.executable, "-c", limited, *map(str, arguments)]
    # Its compiled programs are larger than that, too.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)
    assert process.returncode == 1, process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith(f"error: the disk of {tmp_path} is full") and "give the same command again" in last
    assert not out.exists() and len(list(making.folder_of(out).glob("0*.npz"))) == 3
    again = run_program("ddm_embed.embed", *arguments)
    assert again.returncode == 0 and "embedded" not in again.stderr, again.stderr


def test_a_disk_too_small_is_refused_before_the_work(frozen, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match=r"MiB while it is made, and its disk has 0\.0; make room"):
        make(frozen, photos, tmp_path / "out.npz")


def test_an_embedding_that_is_not_finite_is_no_result(frozen, photos, tmp_path, monkeypatch):
    def broken(images, times, *_, **__):
        return np.full((len(images), len(times), 8), np.nan, np.float32)

    monkeypatch.setattr(frozen, "embed", broken)
    with pytest.raises(UserError, match=r"the embedding of a/0\.png is not finite"):
        make(frozen, photos, tmp_path / "out.npz")


def test_the_program_tells_of_bad_files_by_its_code(tiny_run, tmp_path):
    awkward.make(tmp_path / "images")
    arguments = ["--workdir", tiny_run[1], "--images", tmp_path / "images", "--out", tmp_path / "out.npz"]
    first = run_program("ddm_embed.embed", *arguments)
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stderr
    assert "not embedded: plain/text.png: not a readable image" in first.stderr
    assert "5 images could not be read; mend or remove them, or give --skip-bad" in first.stderr
    assert f"{tmp_path}/out.npz is written: 12 images, 1 noise levels, 8 numbers each" in first.stdout
    again = run_program("ddm_embed.embed", *arguments, "--skip-bad")
    assert again.returncode == 0 and "is finished already: 12 images" in again.stdout, again.stderr
    with np.load(tmp_path / "out.npz") as archive:
        metadata = json.loads(str(archive["metadata"]))
    assert metadata["t"] == [pytest.approx(0.2)] and "not been probed" in metadata["chosen_by"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=a.csv"], "a.csv: expected a name that ends in .npz, .parquet, .zarr"),
        (["--out=gs://bucket/a.npz"], "write to a path of this machine's files"),
        (["--t=0.1;0.2"], "--t=0.1;0.2: expected noise levels"),
        (["--t=1.5"], "expected noise levels between 0"),
        (["--feature=y"], "this run has none of that name; use one of z,"),
        (["--workdir=/no/such/run"], "/no/such/run"),
        (["--images="], "--images is missing"),
        (["rest"], "unexpected argument 'rest'"),
    ],
)
def test_bad_flags_are_refused_in_one_line(tiny_run, photos, tmp_path, flags, message):
    given = [f"--workdir={tiny_run[1]}", f"--images={photos}", f"--out={tmp_path}/out.npz"]
    assert message in refused(run_program("ddm_embed.embed", *given, *flags))
    assert list(tmp_path.iterdir()) == []
