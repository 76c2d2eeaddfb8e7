"""Finds the images of a file of embeddings that are nearest to an image, at every noise level in the file.

    python -m ddm_embed.search --workdir W --embeddings FILE --query IMAGE [--k 8] [--picture PNG] [--map PNG]

W is the run, or the export, that FILE was made by (`python -m ddm_embed.embed --t all`). IMAGE is an image file, or the
name of an image in FILE; that one itself is left out. Of sequences it is a name, or a .npy of one. --picture draws the
query and its neighbours, a row a noise level; --map draws all images by principal components and t-SNE.
"""

import sys
from functools import partial
from pathlib import Path

from absl import flags

from ddm_embed import cli
from ddm_embed.errors import UserError
from ddm_embed.runs import files

FLAGS = cli.new_flags()
_string = partial(flags.DEFINE_string, flag_values=FLAGS)
_string("embeddings", None, "A file that python -m ddm_embed.embed wrote.")
_string("query", None, "An image file, or the name of an image in the file.")
flags.DEFINE_integer("k", 8, "How many neighbours.", 1, flag_values=FLAGS)
_string("picture", None, "A PNG to draw the query and its neighbours into.")
_string("map", None, "A PNG to draw a map of all images into.")

MAP_SEED = 0


def body(given: flags.FlagValues, arguments: list[str]) -> int:
    from ddm_embed.drawing import save
    from ddm_embed.embed import layout
    from ddm_embed.embed.listing import Input, Unreadable, path_of, reader_of
    from ddm_embed.features.exported import open_any
    from ddm_embed.search import neighbours

    example = "--workdir runs/digits --embeddings photos.npz --query one.png"
    cli.check_flags(given, arguments, ("workdir", "embeddings", "query"), example)
    for name in ("picture", "map"):
        if given[name].value and Path(given[name].value).suffix != ".png":
            raise UserError(f"--{name}={given[name].value}: expected a name that ends in .png")
    found = layout.read(files.place(given.embeddings))
    run = open_any(files.place(given.workdir))
    if found.metadata["fingerprint"] != run.fingerprint():
        raise UserError(
            f"{given.embeddings} was made by {found.metadata['run']} at step {found.metadata['step']}, and "
            f"{given.workdir} is another run or step; name that one, or embed again"
        )
    root = Path(found.metadata["images"])
    there = root.exists() and (run.scale is None or root.suffix == ".npy")
    read = reader_of(root, run) if there else None
    query, image, own = neighbours.find_query(given.query, found, run, root, given.embeddings)
    levels = neighbours.nearest(found, query, given.k, own)
    label = "" if own is None else found.labels[own]
    neighbours.print_levels(found, levels, given.query, label)
    unit = "from 0 to 255" if run.scale is None else "in standard deviations"
    neighbours.print_changes(found, given.k, root, read, unit)
    if given.picture:

        def show(name: str) -> Input | None:
            try:
                return None if read is None else neighbours.look_at(path_of(root, name), read, name)
            except Unreadable:
                return None

        shown = image if image is not None else show(found.names[own])
        save(neighbours.draw(found, levels, shown, label, show), files.place(given.picture))
        print(given.picture)
    if given.map:
        save(neighbours.map_of(found, query if own is None else found.embedding[own], MAP_SEED), files.place(given.map))
        print(given.map)
    return 0


def main(argv: list[str] | None = None) -> int:
    return cli.run(argv, __doc__, FLAGS, body)


if __name__ == "__main__":
    sys.exit(main())
