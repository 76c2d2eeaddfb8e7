"""Sequences through the same programs as images: training, probing, drawing; scikit-learn's digits, scanned line by
line as signals of 64 samples, stand for real ones."""

import shutil

import jax
import jax.numpy as jnp
import make_signals
import numpy as np
import pytest
from conftest import flags_of, made_once, run_once, run_program, tiny_config, tiny_models
from PIL import Image
from scipy.signal import chirp, spectrogram
from sklearn.linear_model import Ridge

from ddm_embed import arms
from ddm_embed import config as config_lib
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import read_all
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run
from ddm_embed.methods.build import make_models, make_networks, make_objective
from ddm_embed.models.layers import positions
from ddm_embed.models.patches import cut, entries, grid, join, sides, tokens
from ddm_embed.preflight.compiled import estimate, here
from ddm_embed.probe import evaluate as protocol
from ddm_embed.probe.pixels import pixel_features
from ddm_embed.report.page import publish
from ddm_embed.train.loop import train


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """300 of the digits as signals to train on, and 100 to test."""

    def make(folder):
        sequences, labels, _ = make_signals.digits()
        folder.mkdir()
        make_signals.write(folder, sequences[:400], labels[:400], np.arange(400) >= 300)

    return made_once(tmp_path_factory, "signals", make)


@pytest.fixture(scope="module")
def signal_run(signals, tmp_path_factory):
    """(config, workdir) of a finished run on the signals."""
    config = config_of(signals, **{"train.picture_every": 20, "embedding.drop": 0.1, "data.augment": "crop"})
    return run_once(tmp_path_factory, "signal_run", config)


def config_of(signals, **changes):
    return tiny_config(**{"data.name": f"arrays:{signals}", "model.variant": "Ti/8"} | changes)


def quick_probe(**changes):
    probe = config_lib.probe_default()
    probe.update_from_flattened_dict({"times": (0.0, 0.5), "noise_draws": 2, "measure_images": 40} | changes)
    return probe


def test_a_patch_of_a_sequence_is_a_run_of_its_samples():
    sequence = jnp.arange(2 * 24 * 3, dtype=jnp.float32).reshape(2, 1, 24, 3)
    pieces = cut(sequence, 8)
    assert sides(sequence.shape, 8) == (1, 8) and grid(sequence.shape, 8) == (1, 3)
    assert pieces.shape == (2, tokens(sequence.shape, 8), entries(sequence.shape, 8)) == (2, 3, 24)
    np.testing.assert_array_equal(pieces[1, 2], sequence[1, 0, 16:24].ravel())
    np.testing.assert_array_equal(join(pieces, sequence.shape, 8), sequence)


def test_patches_of_images_are_as_they_were():
    image = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    pieces = cut(image, 2)
    np.testing.assert_array_equal(pieces[0, 1], image[0, :2, 2:4].ravel())
    np.testing.assert_array_equal(join(pieces, image.shape, 2), image)
    assert sides((4, 4, 1), 4) == (4, 4) and positions(1, 5, 16).shape == (5, 16)


def test_the_operations_of_a_sequence_are_those_of_an_image_of_as_many_patches():
    """64 samples in runs of 16 are 4 patches of 16 numbers, as are 8x8 pixels in squares of 4x4."""
    for method in ("diffusion", "mae"):
        sequence = tiny_models((1, 64, 3), method, **{"model.variant": "Ti/16"})
        image = tiny_models((8, 8, 3), method)
        assert sequence.forward_flops() == image.forward_flops()


# Every network that is built otherwise for a sequence: encoder and denoiser, decoders of a code and of masked patches,
# and convolutions. What else the arms differ in knows nothing of the images' shape.
@pytest.mark.parametrize("arm", ["mae", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("ddm", "vae", "wrn"))])
def test_every_network_has_a_finite_loss_and_gradient_on_sequences(arm):
    config = tiny_config(**{"model.variant": "Ti/8", "data.augment": "crop"})
    if arm == "wrn":
        config.model.encoder = "wrn-10-1"  # its 3x3 kernels see one row: a convolution in time
    else:
        arms.apply(arm, config)
    objective = make_objective(config)
    shape = (1, 24, 2)
    models = make_models(config, shape)
    params = jax.jit(models.init)(jax.random.key(0))
    x0 = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    networks = make_networks(models, config)

    def loss(p):
        draws = objective.draw(jax.random.key(2), x0, x0[:, :, ::-1], config.embedding.dim)
        return objective.loss(networks, p, params, x0, draws)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert any(np.any(g != 0) for g in jax.tree.leaves(grads))


@pytest.mark.slow  # the embedder fits and embeds sequences in the quick stage
def test_a_run_is_trained_probed_and_reported(signal_run, tmp_path):
    config, workdir = signal_run
    probe = quick_probe(protocols=("ridge", "knn"))
    evaluation = protocol.evaluate(config, probe, workdir)
    assert evaluation.results["kind"] == "sequences"
    # The raw signal is what ridge regression makes of the numbers themselves.
    assert 0.8 < evaluation.results["baselines"]["pixels"] <= 1
    thumbnails = evaluation.atlas["map/thumbnails"]
    assert thumbnails.dtype == np.uint8 and thumbnails.shape[1:] == (24, 32, 3) and thumbnails.min() < 100
    publish(evaluation, tmp_path / "probe" / "linear")
    page = (tmp_path / "probe" / "linear" / "report.html").read_text()
    assert "raw signal" in page and "From pixels" not in page
    assert (workdir / "samples" / "00000020.png").stat().st_size > 10_000


def test_the_raw_signal_probe_is_ridge_regression_on_the_standardised_numbers(signals):

    images = read_all(open_source(config_of(signals)).train.images, 1)
    train, test = pixel_features(images[:200], images[200:], np.arange(200))["pixels"]
    np.testing.assert_array_equal(train, images[:200].reshape(200, -1))
    raw = np.load(signals / "train_sequences.npy")
    targets = np.eye(10)[np.load(signals / "train_labels.npy")]
    ours = Ridge(alpha=1.0).fit(np.asarray(train), targets[:200]).predict(np.asarray(test))
    theirs = Ridge(alpha=raw.std() ** 2).fit(raw[:200], targets[:200]).predict(raw[200:])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_long_and_wide_sequences_are_averaged_down_for_the_raw_probe():
    def dim(length, channels):
        raw = jax.ShapeDtypeStruct((3, 1, length, channels), np.float32)
        return jax.eval_shape(lambda x: pixel_features(x, x, np.arange(3))["pixels"][0], raw).shape[1]

    assert dim(10_000, 1) == 4096 and dim(77, 768) == 5 * 768 and dim(64, 3) == 192


@pytest.mark.slow
def test_a_streamed_run_ends_as_a_resident_one(signal_run, signals, tmp_path):
    config, workdir = signal_run
    config = config_of(signals, **{"embedding.drop": 0.1, "data.augment": "crop", "data.resident_gib": 0.0})
    train(config, tmp_path / "run")
    a, b = (open_run(place).params for place in (workdir, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_a_resumed_run_refuses_other_sequences(signal_run, signals, tmp_path):
    config, workdir = signal_run[0].copy_and_resolve_references(), tmp_path / "run"
    shutil.copytree(signal_run[1], workdir)
    shutil.copytree(signals, tmp_path / "signals")
    np.save(tmp_path / "signals" / "train_sequences.npy", 2 * np.load(signals / "train_sequences.npy"))
    config.data.name = f"arrays:{tmp_path / 'signals'}"
    (workdir / "config.json").write_text(config_lib.to_json(config))
    with pytest.raises(UserError, match="scale was"):
        train(config, workdir)


@pytest.mark.slow
def test_protocols_that_draw_views_judge_sequences(signal_run):
    """The others see features alone."""
    config, workdir = signal_run
    protocols = ("ridge", "ddae", "finetune")
    short = "epochs=2;iterations=0;learning_rates=(1e-3,);batch_size=32"
    probe = quick_probe(protocols=protocols, recipe=short, shots=(1,), shot_draws=2, measures=False)
    judged = protocol.evaluate(config, probe, workdir).results["protocols"]
    assert judged["ddae*"]["settings"]["views"] == "crop" and judged["finetune*"]["settings"]["views"] == "crop"
    assert all(0 < entry["test_accuracy"] <= 1 for entry in judged.values())


@pytest.mark.slow
@pytest.mark.parametrize("picture", ["wrong_z", "detail"])
def test_pictures_of_every_layout_show_sequences(signal_run, tmp_path, picture):
    """A grid, a grid with figures beside it, curves, and what a code keeps; the others differ in what is sampled."""
    workdir = shutil.copytree(signal_run[1], tmp_path / "run")
    quick = ("--config.steps=4", "--config.images=2", "--config.samples=3", "--config.training_images=40")
    process = run_program("ddm_embed.sample", "--workdir", workdir, f"--picture={picture}", *quick)
    assert process.returncode == 0, process.stderr
    assert (workdir / "samples" / f"{picture}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_programs_take_sequences(signals, tmp_path):
    config = config_of(signals, **{"train.steps": 6, "optimizer.warmup_steps": 2})
    process = run_program("ddm_embed.main", *flags_of(config), "--workdir", tmp_path / "run")
    assert process.returncode == 0, process.stderr
    quick = ("--config.times=0.0,0.5", "--config.noise_draws=1", "--config.measure_images=20")
    process = run_program("ddm_embed.probe", "--workdir", tmp_path / "run", *quick)
    assert process.returncode == 0 and "raw signal" in process.stdout, process.stderr


@pytest.mark.slow
def test_preflight_compiles_the_step_of_sequences_as_training_does(signals):
    found = estimate(config_of(signals), (1, 64, 1), here())
    assert found.fits and found.batch_bytes == 16 * 64 * 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 24, 1)])
def test_spectrograms_are_trained_on_and_drawn_as_images(shape, tmp_path):
    """Grey and wide, or tall; the same from arrays and from a folder."""
    found = spectrograms(24, shape[:2])
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "train_images.npy", found)
    np.save(tmp_path / "arrays" / "train_labels.npy", np.arange(24) // 12)
    for i, grey in enumerate(found):
        (tmp_path / "folder" / str(i // 12)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "folder" / str(i // 12) / f"{i:02}.png")
    folder, arrays = (open_source(tiny_config(**{"data.name": f"{k}:{tmp_path / k}"})) for k in ("folder", "arrays"))
    np.testing.assert_array_equal(read_all(folder.train.images, 1), read_all(arrays.train.images, 1))
    changes = {"data.name": f"arrays:{tmp_path / 'arrays'}", "data.augment": "crop+flip", "train.picture_every": 3}
    config = tiny_config(**changes | {"train.steps": 3, "optimizer.warmup_steps": 1, "train.batch_size": 8})
    assert train(config, tmp_path / "run").finished
    evaluation = protocol.evaluate(config, quick_probe(protocols=("ridge",), measure_images=10), tmp_path / "run")
    assert evaluation.atlas["map/thumbnails"].shape[1:] == shape and evaluation.results["kind"] == "images"
    publish(evaluation, tmp_path / "run" / "probe" / "linear")


def spectrograms(number, shape):
    """Of noisy chirps, uint8 [number, height, width]."""
    rng, found = np.random.default_rng(0), []
    for _ in range(number):
        wave = chirp(np.linspace(0, 1, 2000), rng.uniform(50, 400), 1, rng.uniform(50, 400))
        power = spectrogram(wave + 0.1 * rng.normal(size=2000), nperseg=64, noverlap=0)[2]
        level = np.log(power[: shape[0], : shape[1]] + 1e-9)
        grey = Image.fromarray(np.uint8(255 * (level - level.min()) / np.ptp(level)))
        found.append(np.array(grey.resize(shape[::-1])))
    return np.stack(found)


@pytest.mark.slow
def test_text_embeddings_are_sequences_of_tokens(tmp_path):
    """Precomputed: [number, tokens, dim], a patch a token."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train_sequences.npy", rng.normal(size=(40, 6, 32)).astype(np.float16))
    config = config_of(tmp_path, **{"model.variant": "Ti/1", "train.steps": 2, "optimizer.warmup_steps": 1})
    assert train(config, tmp_path / "run").finished
