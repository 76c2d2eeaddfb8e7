"""A folder of all that folders of images hold in practice."""

import os

import numpy as np
from PIL import Image

GOOD = {  # name -> grey level that the run's 8x8 image must have, or None
    "plain/grey.png": 100,
    "plain/deep.png": 100,
    "plain/see-through.png": 100,
    "plain/ink.jpg": None,
    "plain/dot.png": 100,
    "plain/strip.png": 100,
    "plain/loud.JPG": None,
    "odd names/ü ñ 日本.png": 100,
    "odd names/with  two spaces .png": 100,
    "odd names/below/further.png": 100,
    "odd names/\\xff.png": 100,
    "huge/huge.png": 100,
}
BAD = {  # name -> a word of the reason
    "plain/text.png": "cannot identify",
    "plain/cut.jpg": "truncated",
    "plain/nothing.png": "a link to nothing",
    "plain/empty.png": "cannot identify",
    "plain/pipe.png": "no file",
}


def make(root):
    """Writes it; 17 files that are named as images, of which 12 are."""

    def flat(name, shape=(12, 12), value=100, mode=None):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.full(shape, value, np.uint8))
        (image.convert(mode) if mode else image).save(path)
        return path

    flat("plain/grey.png")
    flat("plain/see-through.png", (12, 12, 3), mode="RGBA")
    flat("plain/ink.jpg", (12, 12, 3), mode="CMYK")
    flat("plain/dot.png", (1, 1))
    flat("plain/strip.png", (1, 60000))
    Image.fromarray(np.full((12, 12), 100 * 257, np.uint16)).save(root / "plain/deep.png")
    flat("plain/loud.JPG", (12, 12, 3), value=200)
    for name in ("odd names/ü ñ 日本.png", "odd names/with  two spaces .png", "odd names/below/further.png"):
        flat(name)
    os.rename(root / "odd names/below/further.png", os.fsencode(root / "odd names") + b"/\xff.png")  # no UTF-8
    flat("odd names/below/further.png")
    flat("huge/huge.png", (8000, 8000))
    (root / "plain/text.png").write_text("a text")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(root / "plain/cut.jpg")
    os.truncate(root / "plain/cut.jpg", 2000)
    (root / "plain/empty.png").touch()
    (root / "plain/nothing.png").symlink_to("no such file.png")
    os.mkfifo(root / "plain/pipe.png")  # to open it would wait for ever
    (root / "plain/notes.txt").write_text("of no interest")
    (root / "empty").mkdir()
    (root / "round").symlink_to(".")
    (root / "plain/up").symlink_to("..")
    (root / "plain/self").symlink_to("self")
