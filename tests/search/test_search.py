import re
import shutil

import numpy as np
import pytest
from conftest import refused, run_program
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from ddm_embed.embed import layout, making
from ddm_embed.embed.layout import Embeddings
from ddm_embed.embed.listing import list_images
from ddm_embed.errors import UserError
from ddm_embed.features.run import open_run
from ddm_embed.search import neighbours


def embeddings(number=40, labels=None, seed=0):
    embedding = np.random.default_rng(seed).normal(size=(number, 2, 6)).astype(np.float32) + 3
    names = [f"{i}.png" for i in range(number)]
    return Embeddings(names, labels or [""] * number, np.array([0.0, 0.5], np.float32), embedding, {})


@pytest.fixture(scope="module")
def embedded(tiny_run, tmp_path_factory):
    """(images, file, run): embeddings of dark and bright images, in a folder each."""
    root = tmp_path_factory.mktemp("search")
    for i in range(24):  # textures: codes of plain greys are alike but for rounding
        path = root / "images" / ("dark" if i % 2 else "bright") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shades = np.random.default_rng(i).integers(0, 60, (8, 8), np.uint8)
        Image.fromarray(shades + np.uint8(0 if i % 2 else 180)).save(path)
    frozen = open_run(tiny_run[1])
    job = making.Job(frozen, "encoder_1", (0.0, 0.9), "a test", list_images(root / "images", frozen))
    making.make(job, root / "out.npz", None, 2)
    return root / "images", root / "out.npz", tiny_run[1]


def test_neighbours_are_those_of_scikit_learn_on_centred_embeddings():
    found = embeddings()
    levels = neighbours.nearest(found, found.embedding[3], 5, own=3)
    for place, level in enumerate(levels):
        x = found.embedding[:, place] - found.embedding[:, place].mean(axis=0)
        distance, positions = NearestNeighbors(n_neighbors=6, metric="cosine").fit(x).kneighbors(x[3:4])
        assert positions[0, 0] == 3 and level.positions.tolist() == positions[0, 1:].tolist()
        np.testing.assert_allclose(level.similarity, 1 - distance[0, 1:], atol=1e-5)


def test_more_neighbours_than_there_are_is_refused():
    found = embeddings(number=5)
    assert len(neighbours.nearest(found, found.embedding[0], 5, own=None)[0].positions) == 5
    with pytest.raises(UserError, match="--k=5: the file has 4 images to choose from; ask for 1 to 4"):
        neighbours.nearest(found, found.embedding[0], 5, own=0)


def test_agreement_and_distance_are_those_of_neighbours_and_of_random_pairs():
    """Codes that are the class at one level and noise at the other; pixels that are the class."""
    classes = np.arange(200) % 4
    found = embeddings(200, [str(c) for c in classes])
    found.embedding[:, 0] = np.eye(6)[classes] + 0.01 * found.embedding[:, 0]
    over, chance = neighbours.changes(
        found, 10, lambda name: np.full((2, 2, 1), 50 * classes[int(name[:-4])], np.uint8), 2
    )
    assert np.mean(over[0].agreement) == 1 and np.mean(over[0].distance) == 0
    assert np.mean(over[1].agreement) == pytest.approx(0.25, abs=0.05)
    assert np.mean(chance.agreement) == pytest.approx(0.25, abs=0.05)
    assert np.mean(chance.distance) == pytest.approx(50 * 1.25, rel=0.15)  # mean |a - b| of two of 0, 1, 2, 3
    text = neighbours.table(over, chance)
    assert re.search(r"t = 0\.5 against t = 0: neighbours share the label less often \(-7\d points, .*\)", text)
    assert re.search(r"t = 0\.5 against t = 0: neighbours are farther apart \(\+\d+, .*\) in pixels", text)


def test_a_difference_within_its_error_is_said_to_be_none():
    x = np.random.default_rng(0).normal(size=1000)
    assert neighbours.difference(x, x[::-1], "more", "as much", "less", "").startswith("as much")
    assert neighbours.difference(x + 1, x, "more", "as much", "less", "").startswith("more (+1, ")


def test_without_labels_or_images_nothing_is_claimed_of_them():
    over, chance = neighbours.changes(embeddings(), 3, None, 1)
    assert "against" not in neighbours.table(over, chance) and "%" not in neighbours.table(over, chance)


def test_the_program_prints_neighbours_at_every_level_and_draws_them(embedded, tmp_path):
    images, file, run = embedded
    arguments = ["--workdir", run, "--embeddings", file, "--k=4"]
    drawn = ["--picture", tmp_path / "n.png", "--map", tmp_path / "m.png"]
    done = run_program("ddm_embed.search", *arguments, "--query", images / "dark" / "1.png", *drawn)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^ +\d  +([\d.-]+)  (dark|bright) +(.*)$", done.stdout, re.MULTILINE)
    assert len(lines) == 8 and {label for _, label, _ in lines} == {"dark"}
    assert not any(name == "dark/1.png" for *_, name in lines)
    assert "t = 0.9  (4 of 4: dark)" in done.stdout and "any two" in done.stdout
    for name, rows in (("n.png", 2), ("m.png", 2)):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 200 and picture.height > 100 * rows
    named = run_program("ddm_embed.search", *arguments, "--query=dark/1.png")
    assert named.stdout.splitlines()[2:] == [
        line for line in done.stdout.splitlines()[2:] if not line.startswith(str(tmp_path))
    ]


def test_an_image_from_elsewhere_is_embedded_as_the_file_was(embedded, tmp_path):
    images, file, run = embedded
    shutil.copy(images / "dark" / "1.png", tmp_path / "copy.png")
    done = run_program(
        "ddm_embed.search", "--workdir", run, "--embeddings", file, "--k=1", "--query", tmp_path / "copy.png"
    )
    assert re.findall(r"^ +1  +1\.000  dark +dark/1\.png$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    (tmp_path / "copy.png").write_text("a text")
    bad = run_program("ddm_embed.search", "--workdir", run, "--embeddings", file, "--query", tmp_path / "copy.png")
    assert "copy.png: not a readable image" in refused(bad)


def test_embeddings_of_another_run_are_refused(embedded, tmp_path):
    images, file, run = embedded
    found = layout.read(file)
    other = found.metadata | {"fingerprint": "0", "run": "runs/other"}
    layout.write(tmp_path / "other.npz", found.names, found.labels, iter([found.embedding]), other)
    query = images / "dark" / "1.png"
    done = run_program("ddm_embed.search", "--workdir", run, "--embeddings", tmp_path / "other.npz", "--query", query)
    assert "was made by runs/other at step 20" in refused(done)
