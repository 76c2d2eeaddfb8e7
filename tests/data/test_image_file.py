"""Image files as users have them: training, `embed` and `Embedder` read each to the same bits, which are Pillow's."""

import logging

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image, ImageOps

from ddm_embed import config as config_lib
from ddm_embed.data import image_file
from ddm_embed.data.image_file import Rules, header, rules_of
from ddm_embed.data.inputs import as_model_input
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import read_all
from ddm_embed.embed.listing import list_folder
from ddm_embed.errors import UserError

NOISE = np.random.default_rng(0)


def folder_config(folder, **changes):
    return tiny_config(**{"data.name": f"folder:{folder}", "data.test_fraction": 0.0} | changes)


def read(folder, **changes):
    """uint8 [number, height, width, channel] of a folder, the same by all three ways."""
    config = folder_config(folder, **changes)
    rules, source = rules_of(config.data), open_source(config)
    trained = read_all(source.train.images, 2)
    listing = list_folder(folder, source.image_shape, rules)
    embedded = np.stack([listing.read(i) for i in range(len(listing.names))])
    files = [folder / name for name in listing.names]
    shown = as_model_input(files, source.image_shape, (0, 1), None, rules)
    opened = as_model_input([Image.open(file) for file in files], source.image_shape, (0, 1), None, rules)
    assert trained.tobytes() == embedded.tobytes() == shown.tobytes() == opened.tobytes()
    return trained


def noise(*shape):
    return NOISE.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".webp"])
def test_an_image_stored_on_its_side_is_set_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[image_file.ORIENTATION] = orientation
    file = tmp_path / f"a{suffix}"
    Image.fromarray(noise(4, 12, 3)).save(file, exif=exif)
    with Image.open(file) as stored:
        assert image_file.describe(stored) == (((12, 4) if orientation >= 5 else (4, 12)), False)
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        assert image_file.describe(stored) == (expected.shape[:2], False)  # also once it is loaded
    assert header(file) == (expected.shape[:2], False)
    np.testing.assert_array_equal(read(tmp_path)[0], expected)


def test_a_png_with_its_exif_behind_the_pixels_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[image_file.ORIENTATION] = 6
    Image.fromarray(noise(4, 12)).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = int.from_bytes(content[start : start + 4], "big") + 12
    end = content.index(b"IEND") - 4
    moved = content[:start] + content[start + length : end] + content[start : start + length] + content[end:]
    (tmp_path / "a.png").write_bytes(moved)
    assert read(tmp_path).shape == (1, 12, 4, 1)


def test_an_image_of_another_size_is_refused_and_never_reshaped(tmp_path):
    image = Image.fromarray(noise(4, 12))
    with pytest.raises(ValueError, match="4x12 pixels, expected 12x4"):
        image_file.to_pixels(image, (12, 4, 1), False, Rules())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_the_background(tmp_path, mode):
    ink = np.zeros((6, 6, 4), np.uint8)  # black on nothing
    ink[2:4, 2:4, 3] = 255
    image = Image.fromarray(ink)
    if mode == "P":
        image = Image.fromarray((ink[..., 3] // 255).astype(np.uint8), "L").convert("P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    ground = ink[..., 3:] == 0
    for background, value in (("white", 255), ("#404040", 64)):
        found = read(tmp_path, **{"data.background": background})[0]
        assert np.all(found == np.where(ground, value, 0))
    assert np.all(read(tmp_path, **{"data.background": "none"})[0] <= 9)  # as before there was a choice
    with pytest.raises(UserError, match=r"data\.background='snow white'; expected a colour"):
        open_source(folder_config(tmp_path, **{"data.background": "snow white"}))


def test_a_half_transparent_pixel_is_mixed(tmp_path):
    Image.fromarray(np.full((2, 2, 4), (200, 0, 0, 51), np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path)[0, 0, 0], [244, 204, 204])  # a fifth of the red, four of the white


def test_runs_from_before_there_was_a_background_go_on_dropping_alpha():
    saved = config_lib.flatten(config_lib.default())
    for name in ("data.background", "data.bit_depth"):
        del saved[name]

    def older(data_name):
        rooms = {}
        for name, value in (saved | {"data.name": data_name}).items():
            *room, last = name.split(".")
            (rooms.setdefault(room[0], {}) if room else rooms)[last] = value
        return config_lib.from_dict(rooms, config_lib.default())

    assert rules_of(older("folder:x").data) == Rules("none", 16) and rules_of(older("digits").data) == Rules()
    for name in ("folder:x", "digits"):  # whose fingerprints stay
        assert "background" not in config_lib.identity(older(name))
    new = config_lib.default()
    new.data.name = "folder:x"
    assert "background" in config_lib.identity(new)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_deep_images_are_scaled_by_the_bits_that_hold_their_values(tmp_path, bits, caplog):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * ((2**bits - 1) // 63)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values[::-1]).save(tmp_path / "b.tif")
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, **{"data.bit_depth": bits})
    assert np.array_equal(found[0, ..., 0], values >> (bits - 8)) and not caplog.messages
    if bits < 16:
        with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match=f"set it to {bits} if white is"):
            read(tmp_path)
        assert f"hold values of {values.max()} at most and become nearly black" in caplog.messages[0]
    if bits > 8:
        with pytest.raises(UserError, match=f"a value of {values.max()}, too large for config.data.bit_depth=8"):
            read_all(open_source(folder_config(tmp_path, **{"data.bit_depth": 8})).train.images, 1)


def test_further_pages_are_spoken_of(tmp_path, caplog):
    pages = [Image.fromarray(noise(6, 6)) for _ in range(3)]
    pages[0].save(tmp_path / "scan.tiff", save_all=True, append_images=pages[1:])
    pages[0].convert("P").save(tmp_path / "wave.gif", save_all=True, append_images=pages[1:])
    Image.fromarray(noise(6, 6)).save(tmp_path / "one.tiff")
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="pages or frames"):
        read(tmp_path)
    assert "scan.tiff holds several pages or frames, as 1 more do: the first of each is read" in caplog.messages[0]


def test_whatever_pillow_opens_is_read_and_all_else_is_counted(tmp_path, caplog):
    image = Image.fromarray(noise(16, 16, 3))
    written = {".jfif": "JPEG", ".jpe": "JPEG", ".avif": "AVIF", ".jp2": "JPEG2000", ".PNG": "PNG", ".tga": "TGA"}
    written[""] = "PNG"
    for number, (suffix, name) in enumerate(written.items()):
        image.save(tmp_path / f"{number}{suffix}", format=name)
    for name in ("notes.txt", "clip.mp4", "movie.mp4", "LICENSE", "drawing.eps"):
        (tmp_path / name).write_text("%!PS-Adobe-3.0 EPSF-3.0")
    for name in (".DS_Store", "._0.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0" * 20)
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == len(written)
    line = "left out: 1 .eps, 2 .mp4, 1 .txt, 3 hidden, 1 without a suffix"
    assert caplog.messages[0].endswith(line)
    assert list_folder(tmp_path, (16, 16, 3), Rules()).notes == [line]


def test_what_systems_leave_behind_is_no_class(tmp_path, caplog):
    for name in ("ant", "bee", ".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails"):
        (tmp_path / name / "inside" / "@eaDir").mkdir(parents=True)
        Image.fromarray(noise(6, 6)).save(tmp_path / name / "inside" / "a.png")
        Image.fromarray(noise(6, 6)).save(tmp_path / name / "inside" / "@eaDir" / "a.png")
    with caplog.at_level(logging.INFO):
        source = open_source(folder_config(tmp_path))
    assert source.classes == ("ant", "bee") and len(source.train) == 2
    assert caplog.messages[0] == f"folder:{tmp_path}: train 2; 2 classes (ant 1, bee 1)"
    assert caplog.messages[1].endswith("left out: 6 hidden") and len(caplog.messages) == 2
    assert list_folder(tmp_path, (6, 6, 1), Rules()).labels == ["ant", "bee"]


def split_folder(root, **counts):
    """Images of two classes, so many of each, below each of these folders."""
    for split, count in counts.items():
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise(6, 6)).save(root / split / label / f"{i}.png")


@pytest.mark.parametrize("train, val, test", [("train", "val", "test"), ("Training", "VALID", "Testing")])
def test_a_split_folder_is_read_as_split(tmp_path, caplog, train, val, test):
    split_folder(tmp_path, **{train: 3, val: 2, test: 1})
    with caplog.at_level(logging.INFO):
        source = open_source(folder_config(tmp_path))
    assert (len(source.train), len(source.validation), len(source.test)) == (6, 4, 2)
    assert caplog.messages == [f"folder:{tmp_path}: train 6, validation 4, test 2; 2 classes (ant 3, bee 3)"]
    assert source.validation.read_labels().tolist() == [0, 0, 1, 1] and source.classes == ("ant", "bee")
    listing = list_folder(tmp_path, (6, 6, 1), Rules())
    assert len(listing.names) == 12 and sorted(set(listing.labels)) == ["ant", "bee"]


def test_validation_images_without_test_images_leave_a_share_of_train_to_test_on(tmp_path):
    split_folder(tmp_path, train=5, validation=2)
    source = open_source(folder_config(tmp_path, **{"data.test_fraction": 0.2}))
    assert (len(source.train), len(source.validation), len(source.test)) == (8, 4, 2)


@pytest.mark.parametrize(
    "folders, reason",
    [
        (("train", "test", "extra"), "holds extra, test, train, of which some are splits, but extra is none"),
        (("train", "val", "valid"), "val and valid are one split"),
        (("val", "test"), "no train"),
    ],
)
def test_a_folder_that_can_be_read_in_two_ways_is_refused(tmp_path, folders, reason):
    split_folder(tmp_path, **dict.fromkeys(folders, 1))
    with pytest.raises(UserError, match=f"{reason}.*expected train, val and test, or one sub-folder a class"):
        open_source(folder_config(tmp_path))


def test_unlabelled_test_images_beside_labelled_training_images_say_what_to_do(tmp_path):
    split_folder(tmp_path, train=2)
    (tmp_path / "test").mkdir()
    Image.fromarray(noise(6, 6)).save(tmp_path / "test" / "a.png")
    reason = "train has 2 classes .ant, bee., test has no classes; sort the images of test .* or move test elsewhere"
    with pytest.raises(UserError, match=reason):
        open_source(folder_config(tmp_path))


@pytest.mark.parametrize("shape", [(5, 1, 32, 32), (5, 3, 32, 32)])
def test_arrays_with_channels_first_are_refused(tmp_path, shape):
    np.save(tmp_path / "train_images.npy", noise(*shape))
    with pytest.raises(UserError, match=r"train_images\.npy: .* looks like channels first; .*transpose\(0, 2, 3, 1\)"):
        open_source(tiny_config(**{"data.name": f"arrays:{tmp_path}"}))
