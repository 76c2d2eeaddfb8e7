"""Rewrites the parts of the documents that are made from the code: python docs/generate.py

A part stands between the lines `<!-- generated: NAME -->` and `<!-- end -->`. A test fails while one is stale.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from ddm_embed import arms, config, reference
from ddm_embed.sample.pictures import PICTURES

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; a `|` in a cell is escaped."""
    lines = [head, ("---",) * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods() -> str:
    """What each arm's docstring says after its first line."""
    told = {name: " ".join(inspect.getdoc(arm).partition("\n")[2].split()) for name, arm in arms.arms().items()}
    return "\n".join(f"* **`{name}`**: {plain(rest)}" for name, rest in told.items() if rest)


def plain(text: str) -> str:
    """Text in which only backticks mean something to Markdown."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<!\w)_|_(?!\w)|[*<\[\]]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "config of a run": lambda: reference.table(config.default),
    "config of the probe": lambda: reference.table(config.probe_default),
    "config of the pictures": lambda: reference.table(config.sample_default),
    "config of a study": lambda: reference.table(config.study_default),
    "arms": methods,
    "pictures": lambda: table(
        ("`--picture=`", "what is drawn"), [(f"`{name}`", picture.what) for name, picture in PICTURES.items()]
    ),
}


def generated(text: str) -> str:
    """The document with each of its generated parts as the code has it now."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text()
        if (after := generated(before)) != before:
            page.write_text(after)
            print(f"{page.name}: rewritten")
