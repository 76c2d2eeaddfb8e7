from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from ddm_embed.data import augment, pipeline, sequences
from ddm_embed.data.image_file import Rules
from ddm_embed.data.inputs import as_model_input
from ddm_embed.data.sequences import Scale
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import read_all
from ddm_embed.embed.listing import Unreadable, _list_rows
from ddm_embed.errors import UserError
from ddm_embed.parallel.mesh import make_mesh
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.validate import validate_against


@pytest.fixture
def folder(tmp_path):
    """Sequences of 24 samples and 3 channels, of which the last is constant, in units of their own."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(40, 24, 3)) * [100, 1e-3, 0] + [1e5, -7, 4.1]
    np.save(tmp_path / "train_sequences.npy", raw)
    np.save(tmp_path / "train_labels.npy", np.arange(40) % 2)
    np.save(tmp_path / "test_sequences.npy", raw[:8])
    np.save(tmp_path / "test_labels.npy", np.arange(8) % 2)
    return tmp_path


def config_of(folder, **changes):
    return tiny_config(**{"data.name": f"arrays:{folder}"} | changes)


def test_sequences_are_images_of_height_one_standardised_by_the_training_file(folder, monkeypatch):
    monkeypatch.setattr(sequences, "CHUNK_BYTES", 7 * 24 * 3 * 8)
    source = open_source(config_of(folder))
    raw = np.load(folder / "train_sequences.npy")
    seen = read_all(source.train.images, 2, chunk=9)
    assert seen.shape == (40, 1, 24, 3) and seen.dtype == np.float32 and source.image_shape == (1, 24, 3)
    np.testing.assert_allclose(seen[..., :2].mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(seen[..., :2].std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert np.all(np.abs(seen[..., 2]) < 1e-6) and source.scale.std[2] == 1
    np.testing.assert_allclose(source.scale.mean, raw.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(source.scale.std[:2], raw.std(axis=(0, 1))[:2], rtol=1e-6)
    assert isinstance(source.train.images.raw, np.memmap)
    np.testing.assert_array_equal(read_all(source.test.images, 1), seen[:8])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float16, np.float32, np.int64])
def test_any_number_type_and_a_missing_channel_axis_will_do(tmp_path, dtype):
    raw = np.random.default_rng(0).integers(0, 200, (10, 16)).astype(dtype)
    np.save(tmp_path / "train_sequences.npy", raw)
    source = open_source(config_of(tmp_path))
    assert source.train.images.shape == (10, 1, 16, 1) and source.train.images[np.arange(3)].dtype == np.float32


def test_a_large_offset_does_not_swallow_the_signal(tmp_path):
    signal = np.sin(np.linspace(0, 20, 400)).reshape(10, 40)
    np.save(tmp_path / "train_sequences.npy", signal + 1e9)
    seen = read_all(open_source(config_of(tmp_path)).train.images, 1).ravel()
    assert np.corrcoef(seen, signal.ravel())[0, 1] > 0.9999 and abs(seen.std() - 1) < 1e-3


def test_a_labelled_set_without_a_test_file_keeps_some_and_their_scale(folder):
    (folder / "test_sequences.npy").unlink()
    source = open_source(config_of(folder))
    assert (len(source.train), len(source.test)) == (32, 8) and source.scale is not None
    assert source.train.images.dtype == np.float32


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train_sequences", np.zeros((3, 4, 2, 2)), "expected numbers"),
        ("train_sequences", np.zeros((3, 4), bool), "expected numbers"),
        ("train_sequences", np.zeros((3, 0, 2)), "expected numbers"),
        ("train_sequences", np.full((3, 24, 3), np.nan), r"train_sequences\.npy: sequence 0 holds NaN or infinity"),
        ("test_sequences", np.r_[np.zeros((5, 24, 3)), np.full((1, 24, 3), np.inf)], r"test_.*: sequence 5 holds NaN"),
        ("train_sequences", np.array([[0, 1e-60]] * 12 + [[0, 0]] * 12)[..., None], "another unit"),
        ("train_sequences", np.array([[0, 1e300]] * 40)[..., None], "another unit"),
        ("test_sequences", np.zeros((8, 24, 2)), r"test sequences of \[24, 2\], train sequences of \[24, 3\]"),
        ("train_labels", np.zeros(3, np.int64), "expected class numbers"),
        ("train_images", np.zeros((3, 4, 4), np.uint8), "both"),
    ],
)
def test_arrays_that_are_no_sequences_are_refused(folder, file, array, message):
    np.save(folder / f"{file}.npy", array)
    with pytest.raises(UserError, match=message):
        open_source(config_of(folder))


def test_a_run_notes_the_scale_and_refuses_another(folder, tmp_path):
    run = RunDirectory(tmp_path)
    source = open_source(config_of(folder))
    run.check_data(source)
    run.check_data(source)
    kept = Scale.from_json(run.read_data()["scale"])
    np.testing.assert_array_equal(kept, source.scale)
    np.save(folder / "train_sequences.npy", np.load(folder / "train_sequences.npy") * 1.01)
    with pytest.raises(UserError, match="has changed since"):
        run.check_data(open_source(config_of(folder)))


@pytest.mark.parametrize("value", [1e300, -1e30, 1e12])
def test_a_value_that_would_overflow_is_said_where_it_comes_in(folder, value, tmp_path):
    run = SimpleNamespace(scale=open_source(config_of(folder)).scale, image_shape=(1, 24, 3))
    rows = np.random.default_rng(1).normal(size=(6, 24, 3))
    rows[4, 7, 1] = value
    far = "a value more than 1e[+]06 standard deviations away"
    np.save(tmp_path / "rows.npy", rows)
    read = _list_rows(tmp_path / "rows.npy", run).read
    assert read(3).shape == (1, 24, 3)
    with pytest.raises(Unreadable, match=f"holds {far}"):
        read(4)
    with pytest.raises(UserError, match=f"sequences that hold {far}"):
        as_model_input(rows, run.image_shape, (0, 1), run.scale, Rules())
    np.save(folder / "test_sequences.npy", rows)
    with pytest.raises(UserError, match=rf"test_sequences\.npy: sequence 4 holds {far}"):
        open_source(config_of(folder))


@pytest.mark.slow
def test_streamed_and_resident_batches_are_the_same(folder):
    images = open_source(config_of(folder)).train.images
    order, mesh = pipeline.Order(40, 16, 0), make_mesh(1, 1, devices=jax.devices()[:1])
    resident, streamed = (pipeline.batches(images, order, mesh, 1, kept, threads=2) for kept in (True, False))
    for _ in range(3):
        a, b = next(resident)["image"], next(streamed)["image"]
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


def test_what_is_kept_on_the_devices_is_counted_in_bytes(folder):
    images = open_source(config_of(folder)).train.images
    mesh = make_mesh(1, 1, devices=jax.devices()[:1])
    assert pipeline.fits(images, 4 * 40 * 24 * 3 / 2**30, mesh)
    assert not pipeline.fits(images, (4 * 40 * 24 * 3 - 1) / 2**30, mesh)


def test_a_crop_shifts_in_time_over_reflected_ends():
    sequence = jnp.asarray(np.random.default_rng(0).normal(size=(200, 1, 16, 2)), jnp.float32)
    np.testing.assert_array_equal(augment.to_float(sequence), sequence)
    views = augment.augment(jax.random.key(0), sequence, "crop", 3)
    padded = np.pad(sequence, ((0, 0), (0, 0), (3, 3), (0, 0)), mode="reflect")
    shifts = [
        [s for s in range(7) if np.array_equal(view, row[:, s : s + 16])]
        for view, row in zip(views, padded, strict=True)
    ]
    assert all(shifts) and {s for found in shifts for s in found} == set(range(7))


@pytest.mark.parametrize("kind", ["flip", "crop+flip", "resized+flip", "simclr"])
def test_views_that_make_another_sequence_are_refused(kind):
    with pytest.raises(UserError, match="use crop, which shifts it in time"):
        validate_against(tiny_config(**{"data.augment": kind}), (1, 24, 3), 1, "cpu")


def test_a_patch_must_divide_the_length_alone():
    validate_against(tiny_config(**{"model.variant": "Ti/8"}), (1, 24, 3), 1, "cpu")
    with pytest.raises(UserError, match=r"sequences of 24 samples; use a patch of 1, 2, 3, 4, 6, 8, 12, 24$"):
        validate_against(tiny_config(**{"model.variant": "Ti/5"}), (1, 24, 3), 1, "cpu")
    with pytest.raises(UserError, match="are one patch"):
        validate_against(tiny_config(**{"model.variant": "Ti/24", "objective.name": "mae"}), (1, 24, 3), 1, "cpu")
