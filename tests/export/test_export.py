import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, made_once, refused, run_program, tiny_config
from probed import make_results, write_run
from random_run import make_frozen
from safetensors.numpy import load_file

from ddm_embed import Embedder, arms
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.export import written
from ddm_embed.export.card import Documents, Measured
from ddm_embed.export.written import exact, serialised
from ddm_embed.features import exported
from ddm_embed.features.exported import open_any
from ddm_embed.features.run import open_run

NOTHING = Documents({"train_images": 7}, {}, Measured([], []))


def images_of(number, image_shape=(8, 8, 1)):
    return np.random.default_rng(number).integers(0, 256, (number, *image_shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def export(tiny_run, tmp_path_factory):
    """(frozen, folder) of the tiny run's export; do not write into it."""
    _, workdir = tiny_run
    frozen = open_run(workdir)

    def make(out):
        written.write(out, frozen, frozen.choice, written.read_documents(workdir), "mit")

    return frozen, made_once(tmp_path_factory, "export", make)


@pytest.fixture
def copied(export, tmp_path):
    return Path(shutil.copytree(export[1], tmp_path / "copy"))


ALONE = """
import sys
sys.modules["ddm_embed"] = sys.modules["flax"] = None  # no import of them succeeds
import numpy as np, jax
from jax import export
from safetensors.numpy import load_file
folder, images, out = sys.argv[1:]
weights = load_file(folder + "/weights.safetensors")
program = jax.jit(export.deserialize(bytearray(open(folder + "/embed.jax_export", "rb").read())).call)
found = {}
for name, image in np.load(images).items():
    for t in (0.0, 0.2, 1.0):
        found[f"{name}/{t}"] = program(weights, image, np.float32(t))
np.savez(out, **found)
"""


def test_run_export_and_a_program_that_knows_neither_agree_for_batches_of_every_size(export, tmp_path):
    frozen, out = export
    reopened = exported.open_export(out)
    batches = {str(number): images_of(number) for number in (1, 7, 64)}
    np.savez(tmp_path / "images.npz", **batches)
    arguments = [str(out), str(tmp_path / "images.npz"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *arguments], check=True, cwd=tmp_path, timeout=240)
    found = np.load(tmp_path / "found.npz")
    for name, images in batches.items():
        of_run, of_export = (handle.embed(images, (0.0, 0.2, 1.0)) for handle in (frozen, reopened))
        np.testing.assert_array_equal(of_export, of_run)
        alone = np.stack([found[f"{name}/{t}"] for t in (0.0, 0.2, 1.0)], axis=1)
        np.testing.assert_allclose(alone, of_run, rtol=0, atol=1e-6)
        assert alone.dtype == np.float32 and np.std(alone) > 0.01


def test_an_export_says_what_its_run_is(export):
    frozen, out = export
    reopened = exported.open_export(out)
    for name in ("image_shape", "step", "choice", "levels", "names", "scale", "classes"):
        assert getattr(reopened, name) == getattr(frozen, name), name
    assert reopened.fingerprint() == frozen.fingerprint() and reopened.place == str(out)
    ours, theirs = (json.loads((place / "config.json").read_text()) for place in (out, Path(frozen.place)))
    assert ours.items() == {name: value for name, value in theirs.items() if name not in ("sealed", "sha256")}.items()
    weights = load_file(out / "weights.safetensors")
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert "encoder/block_0/attention/qkv/kernel" in weights


def test_one_changed_byte_of_any_file_is_refused(copied):
    for file in sorted(copied.iterdir()):
        content = file.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(
                UserError, match=rf"{file.name}.* (has changed since it was written|not readable as JSON)"
            ) as error:
                exported.open_export(copied)
            assert "\n" not in str(error.value)
        file.write_bytes(content)
    assert len(list(copied.iterdir())) == 6
    exported.open_export(copied)


def test_a_truncated_missing_or_empty_file_is_refused(copied):
    for file in sorted(copied.iterdir()):
        content = file.read_bytes()
        for kept in (content[:-1], content[: len(content) // 2], b""):
            file.write_bytes(kept)
            with pytest.raises(
                UserError, match=f"{file.name}.* (has changed since it was written|not readable as JSON)"
            ):
                exported.open_export(copied)
        file.unlink()
        with pytest.raises(UserError, match=r"is missing|holds no whole export"):
            exported.open_export(copied)
        file.write_bytes(content)


def test_space_in_the_manifest_is_a_change_too(copied):
    manifest = copied / "export.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())))
    with pytest.raises(UserError, match="has changed"):
        exported.open_export(copied)


def test_what_is_left_of_an_export_is_not_taken_for_a_run(copied):
    (copied / "export.json").unlink()
    with pytest.raises(UserError, match="holds no whole export"):
        open_any(copied)


def test_an_embedder_of_an_export_embeds_as_that_of_the_run(export):
    frozen, out = export
    images = images_of(9)[..., 0]
    for t in (None, 0.5, "all"):
        found = Embedder.from_export(out).transform(images, t=t)
        np.testing.assert_array_equal(found, Embedder.from_run(frozen.place).transform(images, t=t))


def test_a_hubs_own_files_beside_an_export_are_left_alone(copied):
    (copied / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (copied / ".cache").mkdir()
    exported.open_export(copied)


def test_a_pointer_of_git_lfs_is_told_from_damage(copied):
    (copied / "weights.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UserError, match="git lfs pull"):
        exported.open_export(copied)


def reseal(folder, **fields):
    """Writes export.json anew for the files as they are."""
    manifest = json.loads((folder / "export.json").read_text()) | fields
    kept = {name: value for name, value in manifest.items() if name not in ("format", "files", "sha256")}
    contents = {name: (folder / name).read_bytes() for name in exported.FILES}
    (folder / "export.json").write_text(exported.manifest_text(kept, contents))


def test_a_newer_format_is_refused_and_says_so(copied):
    manifest = json.loads((copied / "export.json").read_text())
    (copied / "export.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(UserError, match="is of format 2 and this version of ddm_embed reads up to 1; update"):
        exported.open_export(copied)


def test_a_config_of_a_newer_version_is_refused_and_names_that_version(copied):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["rotary"] = True
    (copied / "config.json").write_text(json.dumps(config))
    reseal(copied, written_by="9.9")
    with pytest.raises(UserError, match=r"config.model.rotary: no such field.*written by ddm_embed 9\.9: update"):
        exported.open_export(copied)


def test_weights_that_do_not_fit_the_config_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    config["embedding"]["dim"] = 9
    (copied / "config.json").write_text(json.dumps(config))
    reseal(copied)
    with pytest.raises(UserError, match=r"code_in/kernel is float32\[8, 16\], the model has float32\[9, 16\]"):
        exported.open_export(copied)


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("image_shape", [8, 8], "not of a run"),
        ("image_shape", [8, -8, 1], "not of a run"),
        ("image_shape", ["8", 8, 1], "image_shape.0 is .* expected an integer"),
        ("levels", [0.5, 7.0], "not of a run"),
        ("t", "0.5", "t is .* expected a number"),
        ("step", -1, "not of a run"),
        ("files", [], "files is .* expected an object"),
        ("scale", {"mean": 1}, "scale.mean is 1, expected a list"),
    ],
)
def test_a_forged_manifest_is_refused_in_one_line(copied, field, value, reason):
    manifest = json.loads((copied / "export.json").read_text()) | {field: value}
    manifest = {name: value for name, value in manifest.items() if name != "sha256"}
    (copied / "export.json").write_text(exported._sealed(manifest))
    with pytest.raises(UserError, match=rf"export\.json: .*{reason}"):
        exported.open_export(copied)


@pytest.mark.parametrize(
    "tensors, reason",
    [
        ({"encoder": ("F32", [1]), "encoder/b": ("F32", [1])}, "not a file of safetensors|the model has"),
        ({"encoder/b": ("BF16", [2])}, "not a file of safetensors|the model has"),
        ({"encoder/b": ("F32", [1])}, "the model has"),
        ({}, "the model has"),
    ],
)
def test_forged_weights_are_refused_in_one_line(copied, tensors, reason):
    header, place = {}, 0
    for name, (dtype, shape) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + 4]}
        place += 4
    text = json.dumps(header).encode()
    (copied / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * place)
    reseal(copied)
    with pytest.raises(UserError, match=reason):
        exported.open_export(copied)


def test_a_forged_config_is_refused_in_one_line(copied):
    config = json.loads((copied / "config.json").read_text())
    config["model"]["width"] = 2**40
    (copied / "config.json").write_text(json.dumps(config))
    reseal(copied)
    with pytest.raises(UserError, match=r"config\.model\.width=1099511627776; expected"):
        exported.open_export(copied)


@pytest.mark.parametrize("name", ["export.json", "weights.safetensors", "config.json"])
def test_a_pipe_in_an_export_is_not_waited_for(copied, name):
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(UserError, match=f"{name}: not a regular file"):
        exported.open_export(copied)


ARMS = {name: {} for name in arms.ARMS} | {"wide resnet": {"model.encoder": "wrn-10-1"}, "scan": {"model.scan": True}}


@pytest.mark.parametrize(
    "name", [name if name == "mae" else pytest.param(name, marks=pytest.mark.slow) for name in ARMS]
)
def test_every_arm_can_be_exported(name, tmp_path):
    config = tiny_config()
    with config.unlocked():
        arms.ARMS.get(name, arms.ARMS["ddm"])(config)
    config.update_from_flattened_dict(ARMS[name])
    frozen = make_frozen(config)
    assert ("z" in frozen.names) == (name not in ("mae", "ddae", "ddae-pp"))
    agree(frozen, images_of(3), tmp_path)


@pytest.mark.slow
def test_sequences_can_be_exported_with_their_scale(tmp_path):
    scale = Scale(np.array([100.0, -1.0], np.float32), np.array([7.0, 0.1], np.float32))
    frozen = make_frozen(tiny_config(**{"model.variant": "Ti/4"}), (1, 16, 2), scale)
    raw = np.random.default_rng(0).normal(90, 20, (3, 16, 2))
    reopened = agree(frozen, scale.apply(raw)[:, None], tmp_path)
    np.testing.assert_array_equal(reopened.scale.mean, scale.mean)
    np.testing.assert_array_equal(reopened.scale.std, scale.std)

    np.save(tmp_path / "raw.npy", raw)
    example(tmp_path / "out", tmp_path / "raw.npy", tmp_path / "embeddings.npy")
    expected = frozen.embed(scale.apply(raw)[:, None], [0.3])[:, 0]
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, rtol=1e-5, atol=1e-5)


def agree(frozen, images, tmp_path):
    """Exports; asserts that the run, the export and the program give the same."""
    written.write(tmp_path / "out", frozen, frozen.choice, NOTHING, "unknown")
    reopened = exported.open_export(tmp_path / "out")
    expected = frozen.embed(images, [0.3])
    np.testing.assert_array_equal(reopened.embed(images, [0.3]), expected)
    embed = jax.export.deserialize(bytearray((tmp_path / "out" / "embed.jax_export").read_bytes()))
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    found = jax.jit(embed.call)(weights, images, np.float32(0.3))
    np.testing.assert_allclose(found, expected[:, 0], rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))
    assert np.std(found, axis=0).max() > 1e-3, "the same for every image"
    return reopened


def test_the_program_is_for_all_platforms_and_computes_in_float32_whatever_the_config_says():
    frozen = make_frozen(tiny_config(**{"model.dtype": "bfloat16"}))
    embed = jax.export.deserialize(bytearray(serialised(frozen, "z")))
    assert embed.platforms == ("cpu", "cuda", "tpu")
    text = embed.mlir_module()
    assert "bf16" not in text and "precision = [HIGHEST, HIGHEST]" in text
    assert frozen.config.model.dtype == "bfloat16" and exact(frozen).config.model.dtype == "float32"


def example(folder, *arguments):
    """Runs example.py with nothing of this package in reach."""
    code = "import sys, runpy; sys.modules['ddm_embed'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    code = code.replace("runpy.run", "sys.argv = sys.argv[1:]; runpy.run").replace("sys.argv[1]", "sys.argv[0]")
    command = [sys.executable, "-I", "-c", code, str(folder / "example.py"), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240, cwd=folder.parent).stdout


@pytest.mark.slow
def test_the_example_gives_the_embeddings(export, tmp_path):
    frozen, out = export
    np.save(tmp_path / "images.npy", images_of(5))
    assert "float32 (5, 8)" in example(out, tmp_path / "images.npy", tmp_path / "embeddings.npy")
    expected = frozen.embed(images_of(5), [frozen.choice.t])[:, 0]
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, rtol=0, atol=1e-6)
    assert "float32 (2, 8)" in example(out)


def test_a_write_that_fails_leaves_nothing(export, tmp_path, monkeypatch):
    frozen, _ = export

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        written.write(tmp_path / "out", frozen, frozen.choice, NOTHING, "mit")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from ddm_embed.export import written
sync, synced = os.fsync, []
def fsync(file):
    synced.append(sync(file))
    if len(synced) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
written.write_folder(Path(sys.argv[1]), {"a": b"1", "b": b"2", "c": b"3"})
"""


def test_a_killed_write_leaves_no_folder_of_that_name_and_the_next_one_succeeds(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], timeout=240, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert [place.name.startswith(".out.") for place in tmp_path.iterdir()] == [True]
    written.check_free(tmp_path / "out")
    written.write_folder(tmp_path / "out", {"a": b"1"})
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a"]


def test_an_export_is_not_written_over_anything(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for place, reason in (("full", "is not empty"), ("full/mine.txt", "is a file")):
        with pytest.raises(UserError, match=reason):
            written.check_free(tmp_path / place)
    for place in (".", ".."):
        with pytest.raises(UserError, match="expected the name of a new folder"):
            written.check_free(Path(place))
    (tmp_path / "empty").mkdir()
    written.check_free(tmp_path / "empty")
    written.check_free(tmp_path / "new" / "place")
    assert (tmp_path / "full" / "mine.txt").read_text() == "x"


def test_another_feature_is_exported_at_the_level_where_the_probe_held_it_best(tmp_path):
    frozen, results = make_frozen(tiny_config(), feature="z"), make_results()
    write_run(tmp_path, results, predictions=False)
    (tmp_path / "data.json").write_text(json.dumps({"train_images": 7, "image_shape": [8, 8, 1]}))
    documents = written.read_documents(tmp_path)
    points = [p for p in results["profile"] if (p["protocol"], p["feature"]) == ("ridge", "encoder_1")]
    best = max(points, key=lambda point: point["validation_accuracy"])["t"]
    assert written.choose(frozen, documents, "encoder_1", None)[:2] == ("encoder_1", best)
    assert written.choose(frozen, documents, None, None) == frozen.choice
    assert written.choose(frozen, NOTHING, "encoder_1", None)[:2] == ("encoder_1", 0.3)
    assert written.choose(frozen, documents, "encoder_1", 0.7)[:2] == ("encoder_1", 0.7)
    with pytest.raises(UserError, match="'encoder_9'"):
        written.choose(frozen, documents, "encoder_9", None)
    with pytest.raises(UserError, match="between 0"):
        written.choose(frozen, documents, None, 1.5)


def test_the_program_exports_and_refuses_in_one_line(tiny_run, tmp_path):
    _, workdir = tiny_run
    done = run_program("ddm_embed.export", "--workdir", workdir, "--out", tmp_path / "out", "--feature", "denoiser_2")
    assert done.returncode == 0, done.stderr
    assert exported.open_export(tmp_path / "out").choice.feature == "denoiser_2"
    done = run_program("ddm_embed.export", "--workdir", workdir, "--out", tmp_path / "out")
    assert done.returncode == 1 and "is not empty" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_what_cannot_be_exported_is_refused_with_the_reason(export, tmp_path):
    run, out, new = export[0].place, export[1], tmp_path / "new"
    for reason, arguments in {
        "--workdir is missing": ["--out", new],
        "--out is missing": ["--workdir", run],
        "holds no run": ["--workdir", tmp_path, "--out", new],
        "expected a hub's name": ["--workdir", run, "--out", new, "--license=My licence"],
        "is an export already": ["--workdir", out, "--out", new],
        "unexpected argument 'z'": ["--workdir", run, "--out", new, "z"],
    }.items():
        assert reason in refused(run_program("ddm_embed.export", *arguments))
    assert not list(tmp_path.iterdir())
