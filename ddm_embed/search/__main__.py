"""Finds the images of a file of embeddings that are nearest to an image, at every noise level in the file.

    python -m ddm_embed.search --workdir W --embeddings FILE --query IMAGE [--k 8] [--picture PNG] [--map PNG]

W is the run, or the export, that FILE was made by (`python -m ddm_embed.embed --t all`). IMAGE is an image file, or the
name of an image in FILE; that one itself is left out. Of sequences it is a name, or a .npy of one. --picture draws the
query and its neighbours, a row a noise level; --map draws all images by principal components and t-SNE.
"""

import os
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float

from ddm_embed import cli
from ddm_embed.drawing import save
from ddm_embed.embed import layout
from ddm_embed.embed.layout import Embeddings
from ddm_embed.embed.listing import Input, Unreadable, list_images, path_of, reader_of
from ddm_embed.errors import UserError
from ddm_embed.features.exported import open_any
from ddm_embed.features.run import Run
from ddm_embed.runs import files
from ddm_embed.search import drawn, nearest

EMBEDDINGS = flags.DEFINE_string("embeddings", None, "A file that python -m ddm_embed.embed wrote.")
QUERY = flags.DEFINE_string("query", None, "An image file, or the name of an image in the file.")
K = flags.DEFINE_integer("k", 8, "How many neighbours.", 1)
PICTURE = flags.DEFINE_string("picture", None, "A PNG to draw the query and its neighbours into.")
MAP = flags.DEFINE_string("map", None, "A PNG to draw a map of all images into.")

LOOKED_AT = 128  # pixels, of the longer side of an image in a picture
MAP_SEED = 0
THREADS = min(16, os.cpu_count() or 1)


def main(arguments: list[str]) -> int:
    example = "--workdir runs/digits --embeddings photos.npz --query one.png"
    cli.check_flags(arguments, (cli.WORKDIR, EMBEDDINGS, QUERY), example)
    for flag in (PICTURE, MAP):
        if flag.value and Path(flag.value).suffix != ".png":
            raise UserError(f"--{flag.name}={flag.value}: expected a name that ends in .png")
    found = layout.read(Path(EMBEDDINGS.value))
    frozen = open_any(files.place(cli.WORKDIR.value))
    if found.metadata["fingerprint"] != frozen.fingerprint():
        raise UserError(
            f"{EMBEDDINGS.value} was made by {found.metadata['run']} at step {found.metadata['step']}, and "
            f"{cli.WORKDIR.value} is another run or step; name that one, or embed again"
        )
    root = Path(found.metadata["images"])
    there = root.exists() and (frozen.scale is None or root.suffix == ".npy")
    read = reader_of(root, frozen) if there else None
    query, image, own = find_query(QUERY.value, found, frozen, root)
    levels = nearest.nearest(found, query, K.value, own)
    label = "" if own is None else found.labels[own]
    print_levels(found, levels, label)
    print_changes(found, root, read, "from 0 to 255" if frozen.scale is None else "in standard deviations")
    if PICTURE.value:

        def show(name: str) -> Input | None:
            try:
                return None if read is None else look_at(path_of(root, name), read, name)
            except Unreadable:
                return None

        shown = image if image is not None else show(found.names[own])
        save(drawn.neighbours(found, levels, shown, label, show), Path(PICTURE.value))
        print(PICTURE.value)
    if MAP.value:
        save(drawn.map_of(found, query if own is None else found.embedding[own], MAP_SEED), Path(MAP.value))
        print(MAP.value)
    return 0


def find_query(
    query: str, found: Embeddings, frozen: Run, root: Path
) -> tuple[Float[np.ndarray, "time dim"], Input | None, int | None]:
    """(embedding, what to draw, position in the file): an image of the file has the last, another one has the second.

    Raises:
      UserError: it is neither a file nor a name, or cannot be read.
    """
    path, places = Path(query), {name: i for i, name in enumerate(found.names)}
    if not path.is_file():
        if query not in places:
            raise UserError(f"--query {query}: neither a file nor the name of an image in {EMBEDDINGS.value}")
        return found.embedding[places[query]], None, places[query]
    try:
        name = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        name = None
    if name in places:
        return found.embedding[places[name]], None, places[name]
    listing = list_images(path, frozen)
    if len(listing.names) != 1:
        raise UserError(f"--query {query}: {len(listing.names)} rows; expected one, or the name of a row in the file")
    try:
        image = listing.read(0)
    except Unreadable as error:
        raise UserError(f"--query {query}: {error}") from error
    embedding = frozen.embed(image[None], found.metadata["t"], found.metadata["feature"])
    return embedding[0], look_at(path, lambda _: image, ""), None


def look_at(file: Path, read, name: str) -> Input:
    """An image as its file has it, small; a row of an array, or a sequence, as the model takes it."""
    from PIL import Image, ImageOps

    image = read(name)  # also says if it cannot be read
    if file.suffix == ".npy":
        return image
    with Image.open(file) as opened:
        opened = ImageOps.exif_transpose(opened)
        if opened.mode not in ("L", "RGB"):  # as the model takes it: what else there is has a way of its own to grey
            return image
        opened.thumbnail((LOOKED_AT, LOOKED_AT))
        return np.atleast_3d(np.asarray(opened))


def print_levels(found: Embeddings, levels: list[nearest.Level], label: str) -> None:
    known = any(found.labels)
    of = f", labelled {label}" if label else ""
    print(f"nearest to {QUERY.value}{of}, in {found.metadata['feature']}, among {len(found.names)} images (cosine)")
    width = max((len(found.labels[i]) for level in levels for i in level.positions), default=0)
    for level in sorted(levels, key=lambda level: -level.t):
        labels = [found.labels[i] for i in level.positions]
        most, count = nearest.most_frequent(labels)
        print(f"\nt = {level.t:g}" + (f"  ({count} of {len(labels)}: {most or 'no label'})" if known else ""))
        for rank, (i, similarity) in enumerate(zip(level.positions, level.similarity, strict=True), 1):
            print(
                f"{rank:>4}  {similarity:6.3f}  " + (f"{found.labels[i]:<{width}}  " if known else "") + found.names[i]
            )


def print_changes(found: Embeddings, root: Path, read, unit: str) -> None:
    over, chance = nearest.changes(found, K.value, read, THREADS)
    queries = min(len(found.names), nearest.QUERIES)
    print(
        f"\nover the noise levels: {queries} images of the file against their {K.value} nearest others; pixels, of "
        + (f"{min(queries, nearest.PIXEL_QUERIES)} of them, {unit}" if read else f"none: {root} is not there")
    )
    print(nearest.table(over, chance), flush=True)


if __name__ == "__main__":
    cli.launch_on_arguments(main)
