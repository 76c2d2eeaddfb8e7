"""What a stranger sends is data: nothing in it is imported, leads elsewhere, or moves the cursor."""

import json
import logging
import shutil
import sys

import numpy as np
import pytest
from conftest import refused, run_program
from PIL import Image

from ddm_embed import config as config_lib
from ddm_embed.compare.report import _inert
from ddm_embed.data.sources import open_source
from ddm_embed.data.tfds import check_features
from ddm_embed.embed import layout
from ddm_embed.embed.listing import Unreadable, path_of, reader_of
from ddm_embed.errors import UserError
from ddm_embed.features.exported import open_export
from ddm_embed.features.run import open_run
from ddm_embed.terminal import PlainFormatter, one_line, plain

HOSTILE = "\x1b[2J\x07\u202egnp.\x9b"


def gift(folder, tiny_run):
    """A run whose config names a module that lies beside it, which leaves a mark when it is imported."""
    shutil.copytree(tiny_run[1], folder / "run")
    (folder / "gift.py").write_text(f"open({str(folder / 'mark')!r}, 'w'); f = lambda t, alpha, sigma: t")
    file = folder / "run" / "config.json"
    config = json.loads(file.read_text())
    config["diffusion"]["weight"] = "gift:f"
    del config["sealed"], config["sha256"]
    file.write_text(json.dumps(config))
    return folder / "run"


@pytest.mark.slow
def test_no_reader_imports_what_a_run_or_an_export_names(tiny_run, tmp_path, monkeypatch):
    run = gift(tmp_path, tiny_run)
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 1), np.uint8))
    monkeypatch.syspath_prepend(tmp_path)
    workdir, quick = f"--workdir={run}", ("--config.training_images=40", "--config.steps=2", "--config.images=2")
    probing = ("--config.times=0.2,", "--config.measures=False", "--config.noise_draws=1", "--config.protocols=ridge,")
    for program, *arguments in (
        ("embed", workdir, f"--images={tmp_path}/images.npy", f"--out={tmp_path}/out.npz"),
        ("search", workdir, f"--embeddings={tmp_path}/out.npz", "--query=0", "--k=1"),
        ("sample", workdir, "--picture=samples", *quick),
        ("sample", workdir, "--picture=loss", *quick),
        ("probe", workdir, "--config.training_images=100", "--config.selection_images=100", *probing),
        ("export", workdir, f"--out={tmp_path}/export"),
        ("embed", f"--workdir={tmp_path}/export", f"--images={tmp_path}/images.npy", f"--out={tmp_path}/again.npz"),
    ):
        told = run_program(f"ddm_embed.{program}", *arguments)
        assert told.returncode == 0 or "needs" in told.stderr or "draws images without" in told.stderr, told.stderr
    assert open_export(tmp_path / "export").config.diffusion.weight == "gift:f"
    assert open_run(run).objective.process and "gift" not in sys.modules and not (tmp_path / "mark").exists()
    refused(run_program("ddm_embed.probe", f"--workdir={tmp_path}/export"))
    assert "gift" not in sys.modules


def test_classes_that_a_prepared_dataset_names_are_tfdss_own(tmp_path):
    def write(**fields):
        (tmp_path / "any" / "1.0.0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "any" / "1.0.0" / "features.json").write_text(json.dumps({"featuresDict": [fields]}))

    write(pythonClassName="tensorflow_datasets.core.features.text_feature.Text")
    check_features(tmp_path)
    for key in ("pythonClassName", "python_class_name"):
        for name in ("gift.f", "tensorflow_datasets", "tensorflow_datasets_of_mine.F", "os.system"):
            write(**{key: name})
            with pytest.raises(UserError, match=f"the class {name} is none of TFDS's own, and is not imported"):
                check_features(tmp_path)
    config = config_lib.default()
    config.data.update(name="tfds:any", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="is none of TFDS's own"):
        open_source(config)
    config.data.name = "tfds:../any"
    with pytest.raises(UserError, match="expected NAME, NAME/VARIANT or either with :VERSION"):
        open_source(config)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_names_in_a_file_of_embeddings_stay_below_their_folder(name, tmp_path, tiny_run):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    with pytest.raises(Unreadable, match="leads out of the folder"):
        path_of(tmp_path / "images", name)
    with pytest.raises(Unreadable, match="leads out of the folder"):
        reader_of(tmp_path / "images", open_run(tiny_run[1]))(name)


@pytest.mark.parametrize("name", ["-1", "3", "one", "1e0", ""])
def test_a_row_that_is_none_is_not_read(name, tmp_path, tiny_run):
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 1), np.uint8))
    read = reader_of(tmp_path / "images.npy", open_run(tiny_run[1]))
    assert read("2").shape == (8, 8, 1)
    with pytest.raises(Unreadable, match="no row of this number"):
        read(name)


def test_what_a_terminal_would_obey_is_written_out():
    assert plain(HOSTILE) == "\\x1b[2J\\x07\\u202egnp.\\x9b" and plain("a\tb\nc é 漢") == "a\tb\nc é 漢"
    assert one_line("a\nerror: b\r\udc80") == "a\\nerror: b\\r\\udc80"
    record = logging.LogRecord("x", logging.INFO, "", 0, "of %s", (HOSTILE,), None)
    assert PlainFormatter("%(message)s").format(record) == f"of {plain(HOSTILE)}"


def test_programs_print_hostile_names_written_out(tiny_run, tmp_path):
    for label in ("a\x1b[2Ja", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / label / f"{HOSTILE}.png")
    (tmp_path / "images" / "b" / f"bad{HOSTILE}.png").write_bytes(b"no image")
    workdir, out = f"--workdir={tiny_run[1]}", tmp_path / "out.npz"
    embedded = run_program("ddm_embed.embed", workdir, f"--images={tmp_path}/images", f"--out={out}", "--skip-bad")
    query = layout.read(out).names[0]
    found = run_program("ddm_embed.search", workdir, f"--embeddings={out}", f"--query={query}", "--k=1")
    missing = run_program("ddm_embed.probe", f"--workdir={tmp_path}/{HOSTILE}")
    for told in (embedded, found, missing):
        text = told.stdout + told.stderr
        assert plain(text) == text and "\\x1b[2J" in text, text
    assert (embedded.returncode, found.returncode, missing.returncode) == (0, 0, 1)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+1", "-1+1", "\t=1", "\r=1"])
def test_no_cell_of_a_comparison_is_a_formula(name):
    assert _inert(name) == f"'{name}"


@pytest.mark.parametrize("number", ["-0.25", "0.5", 3, "-1e-05", "ddm"])
def test_numbers_and_names_stay_in_a_comparison(number):
    assert _inert(number) == number
