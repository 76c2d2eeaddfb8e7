import os
import pickle
import shutil
import subprocess
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from conftest import ROOT, run_program
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from ddm_embed import Embedder
from ddm_embed import config as config_lib
from ddm_embed.data.image_file import Rules
from ddm_embed.data.inputs import as_model_input
from ddm_embed.data.sequences import Scale
from ddm_embed.data.sources import open_source
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.train import pretrain
from ddm_embed.train.loop import Outcome
from ddm_embed.train.pretrain import _size_below, patch_for

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * (255 / 16)).astype(np.uint8)[..., None]
SMALL = {
    "model.width": 8, "model.heads": 1, "model.depth": 1, "model.encoder_depth": 1, "embedding.dim": 4,
    "optimizer.warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def embedder(tiny_run):
    return Embedder.from_run(tiny_run[1])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Fitted in a work directory of its own; do not write into it."""
    workdir = tmp_path_factory.mktemp("fitted") / "run"
    return Embedder(steps=3, batch_size=8, config=SMALL, workdir=workdir).fit(IMAGES[:40])


def test_arrays_of_every_kind_give_the_same_embeddings(embedder):
    from PIL import Image

    images = IMAGES[:6]
    expected = embedder.transform(images)
    assert expected.shape == (6, 8) and expected.dtype == np.float32 and isinstance(expected, np.ndarray)
    kinds = {
        "grey": images[..., 0],
        "JAX": jnp.asarray(images),
        "floats": images / 255.0,
        "rows": images.reshape(6, 64) / 255,
        "16 bits": images.astype(np.uint16) * 257,
        "integers": images.astype(np.int64),
        "list": list(images),
        "PIL": [Image.fromarray(image[..., 0]) for image in images],
        "tuple": tuple(images),
        "iterator": iter(images),
        "rows as tuples": tuple(map(tuple, images.reshape(6, 64).tolist())),
        "colour": [Image.fromarray(image[..., 0]).convert("RGB") for image in images],
    }
    for name, kind in kinds.items():
        np.testing.assert_allclose(embedder.transform(kind), expected, atol=1e-6, err_msg=name)


def test_files_and_folders_are_read(embedder, tmp_path):
    from PIL import Image

    paths = [tmp_path / f"{place}.png" for place in range(5)]
    for path, image in zip(paths, IMAGES, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    expected = embedder.transform(IMAGES[:5])
    np.testing.assert_array_equal(embedder.transform(tmp_path), expected)
    np.testing.assert_array_equal(embedder.transform(str(tmp_path)), expected)
    np.testing.assert_array_equal(embedder.transform(paths), expected)
    np.testing.assert_array_equal(embedder.transform(paths[2]), expected[2:3])
    for column in (np.array(list(map(str, paths))), np.array(paths, object), pandas.Series(paths), iter(paths)):
        np.testing.assert_array_equal(embedder.transform(column), expected)
    (tmp_path / "6.png").write_text("not an image")
    with pytest.raises(UserError, match=r"6\.png: not a readable image"):
        embedder.transform(tmp_path)


def test_other_sizes_are_resized_with_one_warning(embedder):
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.transform(IMAGES[:3])
    large = np.repeat(np.repeat(IMAGES[:3], 4, axis=1), 5, axis=2)  # 32x40: to 8x10, of which the middle 8x8 is kept
    with pytest.warns(UserWarning, match="3 of 3 images are not 8x8") as seen:
        found = embedder.transform(large)
    assert len(seen) == 1
    opened = [Image.fromarray(image[..., 0]) for image in large]
    small = [image.resize((10, 8), Image.Resampling.LANCZOS, reducing_gap=3.0) for image in opened]
    cut = np.stack([np.asarray(image)[:, 1:9, None] for image in small])
    np.testing.assert_array_equal(found, embedder.transform(cut))
    with pytest.warns(UserWarning, match="1 of 1 images are not 8x8"):  # not ten images in rows
        assert len(embedder.transform(Image.fromarray(np.zeros((10, 64), np.uint8)))) == 1
    with pytest.warns(UserWarning, match="nearly black"):
        embedder.transform(IMAGES[:3].astype(np.uint16))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (DIGITS.images[:4], "values from 0 to 16; expected 0 to 1: set value_range"),
        (np.full((2, 8, 8), np.nan), "expected 0 to 1"),
        (np.zeros((8, 8, 3), np.uint8), "looks like one colour image"),
        (np.zeros((2, 8, 8, 1), complex), "type complex"),
        (np.zeros((2, 3, 8, 8), np.uint8), "looks like channels first"),
        (None, "images as NoneType; expected an array"),
        ([b"a.png"], "images as bytes; expected an array"),
        (np.zeros(8, np.uint8), "expected"),
        ([], "no images"),
        ("nowhere/at/all", "no such folder or file"),
        ([np.zeros((4, 4, 2), np.uint8)], "2 channels; this model takes 1"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(embedder, images, message):
    with pytest.raises(UserError, match=message) as error:
        embedder.transform(images)
    assert "\n" not in str(error.value)


def test_no_image_has_no_embedding(embedder):
    for side in (8, 16):
        assert embedder.transform(np.zeros((0, side, side, 1), np.uint8)).shape == (0, 8)


def test_black_and_white_may_be_said(tiny_run, embedder):
    told = Embedder(run=str(tiny_run[1]), value_range=(0, 16))
    np.testing.assert_allclose(told.transform(DIGITS.images[:9]), embedder.transform(IMAGES[:9]), atol=1e-6)


def test_one_level_several_and_all(embedder):
    whole = embedder.trajectory(IMAGES[:4])
    assert whole.shape == (4, 13, 8)
    np.testing.assert_array_equal(embedder.transform(IMAGES[:4], "all"), whole.reshape(4, -1))
    levels = embedder.levels("all")
    np.testing.assert_array_equal(embedder.transform(IMAGES[:4], levels[6]), whole[:, 6])
    np.testing.assert_array_equal(embedder.transform(IMAGES[:4], levels[3:5]), whole[:, 3:5].reshape(4, -1))
    np.testing.assert_array_equal(embedder.transform(IMAGES[:4]), embedder.transform(IMAGES[:4], 0.2))
    assert not np.allclose(whole[:, 0], whole[:, 12], atol=1e-6)  # t matters, if little after 20 steps
    for t in ("some", 1.1, [0.2, -1], ["a"], [None], [[0.1, 0.2]], {"a": 1}):
        with pytest.raises(UserError):
            embedder.transform(IMAGES[:4], t)


def test_its_entries_have_names(tiny_run, embedder):
    assert list(embedder.get_feature_names_out()[:2]) == ["z_0", "z_1"] and len(embedder.get_feature_names_out()) == 8
    several = Embedder(run=str(tiny_run[1]), t=[0.1, 0.5], feature="denoiser_1")
    names = several.get_feature_names_out()
    assert names[0] == "denoiser_1_t0.1_0" and len(names) == several.transform(IMAGES[:2]).shape[1] == 32


def test_parameters_are_set_got_and_cloned(tiny_run):
    embedder = Embedder(run=str(tiny_run[1]), t=0.4)
    assert clone(embedder).get_params() == embedder.get_params()
    embedder.set_params(t=[0.1, 0.2])
    assert embedder.transform(IMAGES[:2]).shape == (2, 16)


def test_another_run_that_is_set_takes_the_place_of_the_first(tiny_run, tmp_path):
    shutil.copytree(tiny_run[1], tmp_path / "other")
    embedder = Embedder.from_run(tiny_run[1])
    embedder.set_params(run=str(tmp_path / "other"))
    embedder.transform(IMAGES[:2])
    assert embedder.frozen_.place == str(tmp_path / "other")
    assert embedder.set_params(run=str(tiny_run[1])).fit(IMAGES[:2]).frozen_.place == str(tiny_run[1])


def test_a_pickled_embedder_needs_no_run_directory(tiny_run, tmp_path):
    shutil.copytree(tiny_run[1], tmp_path / "run")
    opened = Embedder.from_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.transform(IMAGES[:3]), opened.transform(IMAGES[:3]))


def test_clones_of_an_embedder_share_what_was_compiled_until_the_run_changes(tiny_run, tmp_path):
    shutil.copytree(tiny_run[1], tmp_path / "run")
    first, second = (Embedder(run=str(tmp_path / "run"), t=t) for t in (0.1, 0.5))
    first.transform(IMAGES[:3])
    assert clone(second).fit(IMAGES[:3])._opened() is first.frozen_
    os.utime(tmp_path / "run" / "config.json", ns=(1, 1))
    assert clone(second).fit(IMAGES[:3])._opened() is not first.frozen_


def test_a_pipeline_searches_noise_levels_of_a_trained_run(tiny_run):
    pipeline = make_pipeline(Embedder(run=str(tiny_run[1])), LogisticRegression(max_iter=200))
    search = GridSearchCV(pipeline, {"embedder__t": [0.1, 0.9, [0.1, 0.9]]}, cv=2, error_score="raise")
    search.fit(IMAGES[:60], DIGITS.target[:60])
    assert search.predict(IMAGES[:5]).shape == (5,)
    assert np.all(np.isfinite(search.cv_results_["mean_test_score"]))


@pytest.mark.slow
def test_fit_pretrains_without_labels_and_repeats_itself(fitted):
    again = Embedder(steps=3, batch_size=8, config=SMALL).fit(IMAGES[:40], y=np.arange(40))
    np.testing.assert_array_equal(again.transform(IMAGES[:5]), fitted.transform(IMAGES[:5]))
    other = Embedder(steps=3, batch_size=8, config=SMALL, random_state=1).fit(IMAGES[:40])
    assert np.abs(other.transform(IMAGES[:5]) - fitted.transform(IMAGES[:5])).max() > 1e-3
    assert fitted.frozen_.image_shape == (8, 8, 1) and fitted.frozen_.step == 3


def test_a_work_directory_is_kept_and_is_a_run_like_others(fitted, tmp_path):
    same = Embedder.from_run(fitted.workdir)
    np.testing.assert_array_equal(same.transform(IMAGES[:5]), fitted.transform(IMAGES[:5]))
    shutil.copytree(fitted.workdir, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").read_config().data.name.startswith("arrays:")
    for others in (255 - IMAGES[:40], IMAGES[:41], np.ones((40, 64))):
        with pytest.raises(UserError, match="holds a run of other images; name another"):
            Embedder(steps=3, batch_size=8, config=SMALL, workdir=tmp_path / "run").fit(others)
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "data" / "train_images.npy"), IMAGES[:40])


def config_of(monkeypatch, embedder, images):
    """The config that `fit` would train by."""
    seen = []
    monkeypatch.setattr(pretrain, "train", lambda config, _: seen.append(config) or Outcome(0, finished=False))
    with pytest.raises(KeyboardInterrupt, match="stopped at step 0"):
        embedder.fit(images)
    return seen[0]


def test_a_whole_config_trains_on_the_images_given(monkeypatch):
    found = config_of(monkeypatch, Embedder(config=config_lib.default()), np.zeros((6, 8, 12, 2), np.uint8))
    assert found.data.name.startswith("arrays:") and found.model.width == config_lib.default().model.width


def test_patches_divide_the_images_of_a_folder(tmp_path, monkeypatch):
    from PIL import Image

    for place in range(4):
        Image.fromarray(np.zeros((56, 112), np.uint8)).save(tmp_path / f"{place}.png")
    found = config_of(monkeypatch, Embedder(steps=np.int64(2), batch_size=2), tmp_path)
    assert found.model.variant == "Ti/8" and found.data.image_size is None
    found = config_of(monkeypatch, Embedder(config=config_lib.default(), image_size=28), tmp_path)
    assert found.data.image_size == 28 and found.data.name == f"folder:{tmp_path}"


@pytest.mark.slow
def test_fit_takes_a_folder_of_images_of_many_sizes(tmp_path):
    from PIL import Image

    for place, side in enumerate((8, 9, 16, 20, 31, 12)):
        Image.fromarray(np.full((side, side + 1, 3), 40 * place, np.uint8)).save(tmp_path / f"{place}.png")
    with pytest.raises(UserError, match="image_size"):
        Embedder(steps=2, batch_size=2, config=SMALL).fit(tmp_path)
    assert _size_below(tmp_path) == (8, 9)
    embedder = Embedder(steps=2, batch_size=2, config=SMALL, image_size=8).fit(tmp_path)
    with pytest.warns(UserWarning, match="5 of 6|6 of 6"):
        assert embedder.transform(tmp_path).shape == (6, 4)


@pytest.mark.slow
def test_sequences_are_fitted_and_embedded():
    waves = np.sin(np.linspace(0, 9, 32) * np.arange(1, 31)[:, None])
    rows = Embedder(steps=2, batch_size=4, config=SMALL).fit(waves)
    assert rows.frozen_.image_shape == (1, 32, 1) and rows.n_features_in_ == 32
    shifted = rows.transform(waves * 3 + 1)
    assert np.abs(shifted - rows.transform(waves)).max() > 1e-4
    again = pickle.loads(pickle.dumps(rows))  # fitted in a directory that is gone
    np.testing.assert_array_equal(again.transform(waves), rows.transform(waves))
    with pytest.raises(ValueError, match="expecting 32 features"):
        rows.transform(waves[:, :31])
    with pytest.raises(UserError, match="set kind='images' or kind='sequences'"):
        Embedder(steps=2).fit(np.zeros((5, 8, 2)))


def test_sequences_of_several_channels_are_taken_where_their_kind_is_said(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        pretrain, "train", lambda config, _: shapes.append(open_source(config).image_shape) or Outcome(0, False)
    )
    with pytest.raises(KeyboardInterrupt, match="stopped at step 0"):
        Embedder(steps=2, batch_size=4, config=SMALL, kind="sequences").fit(
            np.ones((30, 32, 2)) * np.arange(32)[:, None]
        )
    assert shapes == [(1, 32, 2)]
    with pytest.raises(UserError, match="length 31 with 2 channels; this model takes length 32 with 2"):
        as_model_input(np.zeros((3, 31, 2)), (1, 32, 2), (0, 1), Scale(np.zeros(2), np.ones(2)), Rules())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"config": {"model.wdth": 8}}, r"did you mean config\.model\.width"),
        ({"config": {"model.width": "wide"}}, "wrong type"),
        ({"arm": "dmm"}, "use one of ddm"),
        ({"steps": "many"}, "steps='many'; expected a whole number"),
        ({"image_size": (8, 8)}, "image_size=.*expected a whole number"),
        ({"value_range": 255}, "expected .black, white."),
        ({"config": "configs/digits.py"}, "expected fields and values"),
        ({"feature": "code"}, "use one of z, encoder_1"),
        ({"t": 7}, "noise levels between 0"),
        ({"kind": "movies"}, "use auto, images or sequences"),
        ({"steps": 0}, "steps=0; expected a whole number"),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_work(parameters, message):
    with pytest.raises(UserError, match=message):
        Embedder(**parameters).fit(IMAGES[:20] / 255)


def test_a_wrong_feature_or_level_is_refused_when_a_run_is_opened(tiny_run):
    for wrong in ({"feature": "code"}, {"t": "some"}):
        with pytest.raises(UserError):
            Embedder.from_run(tiny_run[1], **wrong)


def test_an_embedder_that_has_learned_nothing_says_so():
    with pytest.raises(NotFittedError, match="call fit, or give it a run"):
        Embedder().transform(IMAGES[:2])
    with pytest.raises(UserError, match="holds no run"):
        Embedder.from_run("nowhere")
    with pytest.raises(UserError, match="holds no whole export"):
        Embedder.from_export("nowhere")


@pytest.mark.slow
def test_fitting_away_from_the_main_thread_works():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(Embedder(steps=2, batch_size=8, config=SMALL).fit, IMAGES[:20])
        assert fit.result().transform(IMAGES[:2]).shape == (2, 4)


def test_patches_leave_enough_tokens():
    sides = {8: 2, 16: 4, 28: 4, 32: 4, 64: 8, 96: 12, 128: 16, 224: 16, 7: 1, 31: 1}
    assert {side: patch_for((side, side)) for side in sides} == sides
    assert patch_for((1, 64)) == 8 and patch_for((1, 3)) == 1 and patch_for((32, 48)) == 4


def test_one_call_reads_images_into_no_more_than_the_model_takes(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((3000, 3000), np.uint8)).save(tmp_path / "large.png")
    with pytest.warns(UserWarning, match="resized"):
        found = as_model_input([tmp_path / "large.png"], (8, 8, 1), (0, 1), None, Rules())
    assert found.shape == (1, 8, 8, 1)


@pytest.mark.slow
def test_scikit_learns_estimator_checks_pass():
    from sklearn.utils.estimator_checks import check_estimator

    outcomes = check_estimator(Embedder(steps=2, batch_size=4, config=SMALL), on_fail=None, on_skip=None)
    failed = {o["check_name"]: o["exception"] for o in outcomes if o["status"] not in ("passed", "skipped")}
    assert not failed and len(outcomes) > 40


def test_a_data_frame_is_named_by_the_levels_of_the_call(tiny_run):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    embedder = Embedder.from_run(tiny_run[1], feature="z", t=0.2).set_output(transform="pandas")
    width = embedder.transform(images).shape[1]
    frame = embedder.transform(images, t=[0.0, 0.5])
    assert (
        frame.shape == (2, 2 * width)
        and list(frame.columns[:1]) == ["z_t0_0"]
        and frame.columns[-1] == f"z_t0.5_{width - 1}"
    )
    assert list(embedder.get_feature_names_out()) == [f"z_{i}" for i in range(width)]  # of the parameter, as before
    assert embedder.transform(images).shape == (2, width)
    close = [0.1234567, 0.12345671, 0.5, 0.5]
    names = list(embedder.transform(images, t=close).columns[::width])
    assert names == ["z_t0.1234567_0", "z_t0.12345671_0", "z_t0.5_0", "z_t0.5_2_0"]


def test_in_a_forked_process_it_says_at_once_that_it_would_hang(tiny_run):
    embedder = Embedder.from_run(tiny_run[1])
    embedder.transform(np.zeros((2, 8, 8, 1), np.uint8))
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's own, of the fork
        child = os.fork()
    if child == 0:
        images = np.zeros((2, 8, 8, 1), np.uint8)
        for use in (lambda: embedder.transform(images), lambda: open_run(tiny_run[1])):
            try:
                use()
            except UserError as error:
                os.write(writer, f"{error}\n".encode())
        os._exit(0)
    os.close(writer)
    said = os.fdopen(reader).read().splitlines()
    os.waitpid(child, 0)
    assert len(said) == 2 and all("spawn" in line and "threads" in line for line in said)


def test_a_home_is_meant_by_a_tilde(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_run[1], tmp_path / "run")
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photos" / label / "1.png")
    embedder = Embedder.from_run("~/run")
    assert embedder.transform("~/photos").shape == embedder.transform(["~/photos/a/1.png", "~/photos/b/1.png"]).shape
    told = run_program("ddm_embed.embed", "--workdir=~/run", "--images=~/photos", "--out=~/out.npz")
    assert told.returncode == 0 and (tmp_path / "out.npz").exists()
    config = config_lib.default()
    config.data.name = "folder:~/photos"
    assert open_source(config).classes == ("a", "b")


def test_importing_the_package_alone_stays_instant():
    code = "import sys, ddm_embed; assert 'jax' not in sys.modules; ddm_embed.Embedder; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
