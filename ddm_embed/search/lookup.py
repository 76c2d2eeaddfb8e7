"""A query looked up in a file of embeddings: found or embedded, its neighbours printed."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ddm_embed.embed.layout import Embeddings
from ddm_embed.embed.listing import Input, Unreadable, list_images
from ddm_embed.errors import UserError
from ddm_embed.features.run import Run
from ddm_embed.search import neighbours

LOOKED_AT = 128  # pixels, of the longer side of an image in a picture
THREADS = min(16, os.cpu_count() or 1)


def find_query(
    query: str, found: Embeddings, frozen: Run, root: Path, file: str
) -> tuple[Float[np.ndarray, "time dim"], Input | None, int | None]:
    """(embedding, what to draw, position in the file): an image of the file has the last, another one has the second.

    Args:
      root: where the images of the file are. file: its name.

    Raises:
      UserError: it is neither a file nor a name, or cannot be read.
    """
    path, places = Path(query), {name: i for i, name in enumerate(found.names)}
    if not path.is_file():
        if query not in places:
            raise UserError(f"--query {query}: neither a file nor the name of an image in {file}")
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


def print_levels(found: Embeddings, levels: list[neighbours.Level], query: str, label: str) -> None:
    known = any(found.labels)
    of = f", labelled {label}" if label else ""
    print(f"nearest to {query}{of}, in {found.metadata['feature']}, among {len(found.names)} images (cosine)")
    width = max((len(found.labels[i]) for level in levels for i in level.positions), default=0)
    for level in sorted(levels, key=lambda level: -level.t):
        labels = [found.labels[i] for i in level.positions]
        most, count = neighbours.most_frequent(labels)
        print(f"\nt = {level.t:g}" + (f"  ({count} of {len(labels)}: {most or 'no label'})" if known else ""))
        for rank, (i, similarity) in enumerate(zip(level.positions, level.similarity, strict=True), 1):
            print(
                f"{rank:>4}  {similarity:6.3f}  " + (f"{found.labels[i]:<{width}}  " if known else "") + found.names[i]
            )


def print_changes(found: Embeddings, k: int, root: Path, read, unit: str) -> None:
    over, chance = neighbours.changes(found, k, read, THREADS)
    queries = min(len(found.names), neighbours.QUERIES)
    print(
        f"\nover the noise levels: {queries} images of the file against their {k} nearest others; pixels, of "
        + (f"{min(queries, neighbours.PIXEL_QUERIES)} of them, {unit}" if read else f"none: {root} is not there")
    )
    print(neighbours.table(over, chance), flush=True)
