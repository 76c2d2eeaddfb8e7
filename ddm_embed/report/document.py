"""HTML pages that are whole in one file: style, script and images inside, and nothing asked of a network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8

BESIDE = Path(__file__).parent
SMALL = 40  # pixels: larger pictures are stored as JPEG

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body
<script>
$script</script>
</body>
</html>
""")


def document(title: str, body: str) -> str:
    """A whole page around a body that is HTML already; the policy in its head forbids the browser any request."""
    style, script = ((BESIDE / name).read_text() for name in ("page.css", "page.js"))
    return PAGE.substitute(title=escape(title), style=style, body=body, script=script)


def section(name: str, title: str, content: str, note: str = "") -> str:
    """A titled part that others can link to as #name, or nothing where it has no content; title and note are text."""
    if not content:
        return ""
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{told}{content}</section>'


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, numbers: int = 1) -> str:
    """A table in a box of its own that scrolls where it is too wide.

    Args:
      head: names of columns, plain text. rows: cells, HTML; the first of a row names it.
      caption: what it shows, plain text. numbers: the first column that is set to the right, as numbers are.
    """

    def aligned(place: int) -> str:
        return ' class="number"' if place >= numbers else ""

    heads = "".join(f'<th scope="col"{aligned(i)}>{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td{aligned(i)}>{cell}</td>" for i, cell in enumerate(cells, 1))
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(image: UInt8[np.ndarray, "height width channel"], small: bool | None = None) -> str:
    """The image as a data URI: PNG where it is small, or so told; JPEG where it is not."""
    from PIL import Image

    shown = image[..., 0] if image.shape[-1] != 3 else image
    if not (small if small is not None else max(image.shape[:2]) <= SMALL):
        return _encoded(Image.fromarray(shown), "JPEG", quality=82)
    return _encoded(Image.fromarray(shown), "PNG", optimize=True)


def picture_file(data: bytes, most_bytes: int) -> str:
    """A PNG file as a data URI; one of more bytes becomes JPEG, and narrower until it is small enough."""
    from PIL import Image

    if len(data) <= most_bytes:
        return "data:image/png;base64," + base64.b64encode(data).decode()
    with Image.open(io.BytesIO(data)) as image:
        shown = image.convert("RGB")
    for width in (1400, 1000, 700, 500):
        shown.thumbnail((width, 10 * width))
        uri = _encoded(shown, "JPEG", quality=80)
        if len(uri) <= 4 / 3 * most_bytes:
            break
    return uri


def _encoded(image, form: str, **options) -> str:
    content = io.BytesIO()
    image.save(content, form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(content.getvalue()).decode()
