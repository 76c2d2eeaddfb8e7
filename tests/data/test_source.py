import errno
import os
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from ddm_embed import config as config_lib
from ddm_embed.data.folder import images_below
from ddm_embed.data.image_file import Rules, decode
from ddm_embed.data.sources import open_source
from ddm_embed.data.types import read_all
from ddm_embed.errors import UserError


def data_config(name, **changes):
    c = config_lib.default()
    c.data.name = name
    c.data.update(changes)
    return c


def test_digits_are_scikit_learns_split_once_and_for_all():
    source = open_source(data_config("digits"))
    assert source.train.images.shape == (1297, 8, 8, 1) and len(source.test) == 500
    assert source.train.images.dtype == np.uint8 and source.train.images.max() == 255
    everything = np.concatenate([source.train.read_labels(), source.test.read_labels()])
    assert np.bincount(everything).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    rows = {image.tobytes() for image in source.train.images}
    assert not any(image.tobytes() in rows for image in source.test.images)


def test_digits_are_the_same_bits_from_scikit_learns_file_and_through_its_reader(monkeypatch):
    images, labels = load_digits().images, load_digits().target
    order = np.random.RandomState(0).permutation(len(images))
    for found in (True, False):
        if not found:
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        source = open_source(data_config("digits"))
        for split, places in ((source.train, order[:1297]), (source.test, order[1297:])):
            expected = np.round(images[places] * (255 / 16)).astype(np.uint8)[..., None]
            assert split.images.dtype == np.uint8 and np.array_equal(split.images, expected)
            assert split.read_labels().dtype == np.int32 and np.array_equal(split.read_labels(), labels[places])


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train_images.npy", rng.integers(0, 256, (20, 6, 4, 5), dtype=np.uint8))
    np.save(tmp_path / "train_labels.npy", np.arange(20) % 3)
    return tmp_path


def test_arrays_of_any_size_and_channels_are_memory_mapped(arrays):
    np.save(arrays / "test_images.npy", np.zeros((7, 6, 4, 5), np.uint8))
    source = open_source(data_config(f"arrays:{arrays}"))
    assert source.image_shape == (6, 4, 5) and isinstance(source.train.images, np.memmap)
    assert len(source.test) == 7 and source.test.read_labels is None


def test_a_labelled_dataset_without_a_test_split_keeps_one_from_training(arrays):
    source = open_source(data_config(f"arrays:{arrays}", test_fraction=0.25))
    assert (len(source.train), len(source.test)) == (15, 5)
    both = np.concatenate([read_all(source.train.images, 2), read_all(source.test.images, 2)])
    original = np.load(arrays / "train_images.npy")
    assert {a.tobytes() for a in both} == {a.tobytes() for a in original}
    for split in (source.train, source.test):
        for image, label in zip(split.images[np.arange(len(split))], split.read_labels(), strict=True):
            place = next(i for i, a in enumerate(original) if np.array_equal(a, image))
            assert label == place % 3


def test_an_unlabelled_dataset_trains_on_everything(arrays):
    (arrays / "train_labels.npy").unlink()
    source = open_source(data_config(f"arrays:{arrays}"))
    assert len(source.train) == 20 and source.test is None and source.train.read_labels is None


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train_images", np.zeros((3, 6, 4), np.float32), "expected uint8"),
        ("train_labels", np.zeros(3, np.int64), "expected class numbers"),
        ("train_labels", np.full(20, -1), "expected class numbers"),
        ("test_images", np.zeros((3, 5, 5, 5), np.uint8), "test images of"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused(arrays, file, array, message):
    np.save(arrays / f"{file}.npy", array)
    with pytest.raises(UserError, match=message):
        open_source(data_config(f"arrays:{arrays}"))


def test_a_truncated_array_file_is_named(arrays):
    whole = (arrays / "train_images.npy").read_bytes()
    (arrays / "train_images.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train_images\.npy"):
        open_source(data_config(f"arrays:{arrays}"))


@pytest.mark.parametrize("name", ["digit", "tfds:", "folder", "arrays:/no/such/place", "folder:/no/such/place"])
def test_a_dataset_that_is_not_there_is_refused(name):
    with pytest.raises(UserError):
        open_source(data_config(name))


def picture(path, shape, value, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.full(shape, value, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def test_a_folder_of_classes(tmp_path):
    for number, name in enumerate(("ant", "bee", "cat")):
        for i in range(4):
            picture(tmp_path / name / f"{i}.png", (8, 6, 3), 10 * number + i)
    source = open_source(data_config(f"folder:{tmp_path}", test_fraction=0.0))
    assert source.classes == ("ant", "bee", "cat") and source.image_shape == (8, 6, 3)
    images = read_all(source.train.images, 2, chunk=5)
    assert (images[:, 0, 0, 0] // 10).tolist() == source.train.read_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_class_may_be_called_train_and_one_class_is_none(tmp_path):
    for name in ("car", "train"):
        picture(tmp_path / "two" / name / "a.png", (4, 4), 9)
    picture(tmp_path / "one" / "images" / "a.png", (4, 4), 9)
    assert open_source(data_config(f"folder:{tmp_path}/two", test_fraction=0.0)).classes == ("car", "train")
    only = open_source(data_config(f"folder:{tmp_path}/one"))
    assert only.classes is None and only.train.read_labels is None


def test_a_folder_that_its_owner_has_split(tmp_path):
    for half, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / half / name / f"{i}.png", (4, 4), 9)
    source = open_source(data_config(f"folder:{tmp_path}"))
    assert (len(source.train), len(source.test), source.image_shape) == (8, 4, (4, 4, 1))
    (tmp_path / "notes").mkdir()  # no images in it, so no class either
    assert len(open_source(data_config(f"folder:{tmp_path}")).train) == 8


def test_images_of_several_sizes_and_kinds_are_brought_to_one(tmp_path):
    picture(tmp_path / "grey.png", (10, 20), 100)
    picture(tmp_path / "colour.jpg", (30, 12, 3), 100)
    picture(tmp_path / "see through.png", (9, 9, 3), 100, "RGBA")
    Image.fromarray(np.full((9, 9), 100 * 257, np.uint16)).save(tmp_path / "deep.png")
    picture(tmp_path / "palette.gif", (9, 9, 3), 100, "P")
    with pytest.raises(UserError, match=r"set config\.data\.image_size"):
        open_source(data_config(f"folder:{tmp_path}"))
    source = open_source(data_config(f"folder:{tmp_path}", image_size=8))
    images = read_all(source.train.images, 2)
    assert images.shape == (5, 8, 8, 3) and source.train.read_labels is None
    assert np.all(np.abs(images.astype(int) - 100) <= 4)


def test_a_link_that_leads_back_up_is_no_class(tmp_path):
    for name in ("ant", "bee"):
        picture(tmp_path / "images" / name / "a.png", (4, 4), 9)
    (tmp_path / "images" / "again").symlink_to("..")
    (tmp_path / "images" / "self").symlink_to(".")
    (tmp_path / "images" / "ant" / "up").symlink_to("../..")
    (tmp_path / "images" / "round").symlink_to("round")
    picture(tmp_path / "elsewhere" / "deep" / "c.png", (4, 4), 9)
    (tmp_path / "images" / "cat").symlink_to("../elsewhere")  # a class may lie elsewhere
    source = open_source(data_config(f"folder:{tmp_path}/images", test_fraction=0.0))
    assert source.classes == ("ant", "bee", "cat") and len(source.train) == 3
    assert len(images_below(tmp_path / "images")) == 3


def test_what_is_left_out_is_told_wherever_it_lies(tmp_path, caplog):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        picture(tmp_path / "images" / place / "a.png", (4, 4), 9)
    picture(tmp_path / "elsewhere" / "c.png", (4, 4), 9)
    (tmp_path / "images" / "train" / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "train" / "a" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "images" / "train" / "a" / "pipe.png")
    for name in ("__MACOSX", "train/.ipynb_checkpoints", "notes"):
        (tmp_path / "images" / name).mkdir()
    (tmp_path / "images" / "notes" / "a.txt").write_text("of another kind")
    source = open_source(data_config(f"folder:{tmp_path}/images"))
    assert len(source.train) == len(source.test) == 2
    assert "train/b/more: a link to a folder; not followed" in caplog.text
    assert "left out: 1 .txt, 2 hidden, 2 links to nothing, or no files" in caplog.text


def test_a_folder_or_file_that_cannot_be_read_is_refused_and_loses_no_class(tmp_path, monkeypatch):
    for name in ("ant", "bee"):
        picture(tmp_path / name / "a.png", (4, 4), 9)
    closed, status = [], Path.stat

    def refusing(function):
        def called(path, *args, **kwargs):
            if Path(path) in closed and (function is not status or path.suffix):  # a closed folder's own may be read
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *args, **kwargs)

        return called

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))  # a test may be root, who may read all
    monkeypatch.setattr(Path, "stat", refusing(status))
    for closed[:] in ([tmp_path / "bee" / "a.png"], [tmp_path / "bee"]):
        for read in (lambda: open_source(data_config(f"folder:{tmp_path}")), lambda: images_below(tmp_path)):
            with pytest.raises(UserError, match=rf"{closed[0]}: cannot be read \(Permission denied\)"):
                read()


def test_an_unreadable_image_is_named(tmp_path):
    picture(tmp_path / "good.png", (8, 8), 1)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png: not a readable image"):
        open_source(data_config(f"folder:{tmp_path}"))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(tmp_path / "text.png")
    whole = (tmp_path / "text.png").read_bytes()
    (tmp_path / "text.png").write_bytes(whole[: len(whole) // 2])
    source = open_source(data_config(f"folder:{tmp_path}"))  # the header is sound
    with pytest.raises(UserError, match=r"text\.png: not a readable image"):
        read_all(source.train.images, 2)


def test_whatever_pillow_raises_on_damage_names_the_file(tmp_path):
    picture(tmp_path / "a.jpg", (8, 8), 1)
    exif = Image.Exif()
    exif[0x0112], exif[0x829A] = 6, 0.5
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    refused = 0
    for place in range(20, 130):  # by Pillow 13.0.0 one of these is a struct.error
        damaged = bytearray(whole)
        damaged[place] = 16
        (tmp_path / "a.jpg").write_bytes(damaged)
        try:
            assert decode(tmp_path / "a.jpg", (8, 8, 1), True, Rules()).shape == (8, 8, 1)
        except UserError as error:
            refused += 1
            assert "a.jpg: not a readable image" in str(error)
    assert refused


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no images here")
    with pytest.raises(UserError, match="holds no images"):
        open_source(data_config(f"folder:{tmp_path}"))


def test_tfds_is_read_as_prepared(tfds_dir):
    source = open_source(data_config("tfds:cifar10", data_dir=str(tfds_dir)))
    assert source.train.images.shape == (50000, 32, 32, 3) and len(source.test) == 10000
    assert source.classes[0] == "airplane" and len(source.classes) == 10
    images = source.train.images[np.array([5, 3])]
    assert images.dtype == np.uint8 and np.array_equal(images[1], source.train.images[np.array([3])][0])
    labels = source.test.read_labels()
    assert np.bincount(labels).tolist() == [1000] * 10


def prepared(monkeypatch, label, **splits):
    """Puts a dataset of TFDS in the place of all others: images 2x2 of value i, whose label is i too."""

    class Records(list):
        def __getitems__(self, positions):
            return [self[i] for i in positions]

    def as_data_source(split, decoders=None):
        return Records({"image": np.full((2, 2, 1), i, np.uint8), "label": np.int64(i)} for i in range(splits[split]))

    features = {"image": tfds.features.Image(shape=(2, 2, 1)), "label": label}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(splits=splits, features=features), as_data_source=as_data_source
    )
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)


def test_integers_of_tfds_without_names_are_class_numbers_and_its_validation_images_are_kept_apart(monkeypatch):
    prepared(monkeypatch, tfds.features.Scalar(np.int64), train=6, validation=3, test=2)
    source = open_source(data_config("tfds:any"))
    assert source.classes is None and source.train.read_labels().tolist() == [0, 1, 2, 3, 4, 5]
    assert (len(source.train), len(source.validation), len(source.test)) == (6, 3, 2)
    assert source.validation.read_labels().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "label", [tfds.features.Scalar(np.float32), tfds.features.Text(), tfds.features.Tensor(shape=(2,), dtype=np.int64)]
)
def test_labels_of_tfds_that_are_no_class_numbers_are_refused_in_one_line(monkeypatch, label):
    prepared(monkeypatch, label, train=6)
    with pytest.raises(UserError, match=r"its labels are .*; expected class numbers, a ClassLabel or one integer"):
        open_source(data_config("tfds:any"))


def test_an_unprepared_tfds_dataset_says_how_to_prepare_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="download_and_prepare"):
        open_source(data_config("tfds:cifar10", data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="knows no dataset"):
        open_source(data_config("tfds:cifar11", data_dir=str(tmp_path)))
