"""The parts of the report that show images: neighbours over noise level, the map, and samples."""

import json
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ddm_embed.probe.atlas import Atlas
from ddm_embed.report import charts, document

PICTURES = 1_000_000  # bytes, of all samples together


def neighbours(atlas: Atlas, classes: list[str] | None) -> str:
    """A card a query: the image, and a row a noise level of its neighbours; other classes than its own are marked."""
    if "strips/images" not in atlas:
        return ""
    own, others = atlas.get("strips/query_labels"), atlas.get("strips/labels")
    labelled = classes is not None and own is not None and others is not None
    cards = []
    for place, query in enumerate(atlas["strips/queries"]):
        name = classes[own[place]] if labelled else f"query {place + 1}"
        rows = []
        for level, t in enumerate(atlas["strips/times"]):
            images, kinds = atlas["strips/images"][level, place], others[level, place] if labelled else None
            shown = "".join(
                _image(
                    image, classes[kinds[i]] if labelled else f"neighbour {i + 1}", labelled and kinds[i] != own[place]
                )
                for i, image in enumerate(images)
            )
            same = f"<small>{np.sum(kinds == own[place])}/{len(images)}</small>" if labelled else ""
            rows.append(f'<div class="strip"><span>t={t:g}{same}</span>{shown}</div>')
        head = f'<div class="query">{_image(query, f"query: {name}", False)}<b>{escape(name)}</b></div>'
        cards.append(f'<li class="card">{head}<div class="strips">{"".join(rows)}</div></li>')
    return f'<ul class="cards">{"".join(cards)}</ul>'


def _image(image: UInt8[np.ndarray, "height width channel"], name: str, other: bool) -> str:
    mark = ' class="other"' if other else ""
    name = escape(f"{name} (another class)" if other else name)
    return f'<img{mark} src="{document.picture(image)}" alt="{name}" title="{name}">'


def map_of(atlas: Atlas, classes: list[str] | None) -> str:
    """PCA and t-SNE, one behind the other's tab, the legend of classes, and the images for who points at one."""
    if "map/pca" not in atlas:
        return ""
    labels = atlas.get("map/labels")
    names = classes if labels is not None else None
    first, second = (f"{100 * share:.0f} %" for share in atlas["map/explained"])
    told = f"first two principal components: {first} and {second} of the variance"
    drawn = {"PCA": (atlas["map/pca"], told)}
    if "map/tsne" in atlas:
        told = f"t-SNE, perplexity {float(atlas['map/perplexity']):g}, begun from PCA, seed {int(atlas['map/seed'])}"
        drawn = {"t-SNE": (atlas["map/tsne"], f"{told}; distances between groups mean little")} | drawn
    panels = {
        name: charts.scatter(points, labels, names, f"{name} map of the images") + f'<p class="note">{told}</p>'
        for name, (points, told) in drawn.items()
    }
    legend = _class_legend(labels, names) if names else ""
    thumbnails = _sprite(atlas["map/thumbnails"]) if "map/thumbnails" in atlas else ""
    data = f' data-names="{escape(json.dumps(names))}"' if names else ""
    return f'<div class="atlas"{data}><div>{tabs("map", panels)}</div><div>{legend}{thumbnails}</div></div>'


def _class_legend(labels: np.ndarray, names: list[str]) -> str:
    present = np.unique(labels)
    items = "".join(
        f'<button type="button" aria-pressed="true" data-class="{kind}" style="--c:{charts.class_style(kind)[0]}">'
        f'<i class="{charts.class_style(kind)[1]}"></i>{escape(names[kind])}</button>'
        for kind in present[:40]
    )
    more = f'<p class="note">and {len(present) - 40} more classes</p>' if len(present) > 40 else ""
    again = '<p class="note">Colours repeat; point at an image for its class.</p>' if len(present) > 20 else ""
    return (
        f'<div class="legend tall" role="group" aria-label="Classes; press to show or hide">{items}</div>{more}{again}'
    )


def _sprite(images: UInt8[np.ndarray, "number height width channel"]) -> str:
    """All images of the map in one; page.js shows the one pointed at."""
    count, height, width, channels = images.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    grid = np.zeros((down * across, height, width, channels), np.uint8)
    grid[:count] = images
    grid = grid.reshape(down, across, height, width, channels).transpose(0, 2, 1, 3, 4)
    uri = document.picture(grid.reshape(down * height, across * width, channels))
    return (
        f'<div class="pointed" aria-hidden="true" data-sprite="{uri}" data-cell="{across} {down} {width} {height}">'
        "<i></i><span>Point at the map to see an image.</span></div>"
    )


def tabs(group: str, panels: dict[str, str]) -> str:
    """Panels of which one is seen; the choice needs no script."""
    if len(panels) == 1:
        return "".join(panels.values())
    parts = []
    for place, (name, content) in enumerate(panels.items()):
        own = f"{group}-{place}"
        parts.append(
            f'<input type="radio" name="{group}" id="{own}"{" checked" * (place == 0)}>'
            f'<label for="{own}">{escape(name)}</label><div class="panel">{content}</div>'
        )
    return f'<div class="tabs" role="group" aria-label="{group}">{"".join(parts)}</div>'


def samples(paths: list[Path]) -> str:
    """Pictures of W/samples, each under its name."""
    most = min(250_000, PICTURES // max(len(paths), 1))
    figures = (
        f'<figure><img class="figure" src="{document.picture_file(path, most)}" alt="{escape(path.stem)}">'
        f"<figcaption>{escape(path.stem.replace('_', ' '))}</figcaption></figure>"
        for path in paths
    )
    return f'<div class="figures">{"".join(figures)}</div>' if paths else ""
