"""The reference of config fields, made of their specifications.

    python -m ddm_embed.reference

writes `fields.tsv` beside this module: what the programs' `--help` says of fields without running what defines them.
"""

import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

FIELDS = Path(__file__).with_name("fields.tsv")

Row = tuple[str, str, str]  # field, default, what


def rows(make: Callable[[], ConfigDict]) -> list[Row]:
    """Each field of a config with its default and what it is; those of one room, `model.`, stand together.

    Args:
      make: `config.default`, or one of the others, such as `config.probe_default`.
    """
    from ddm_embed import config

    others = {
        config.probe_default: config.PROBE, config.sample_default: config.SAMPLE, config.study_default: config.STUDY,
    }  # fmt: skip
    fields = others[make] if make in others else config.run_fields()
    rooms = list(dict.fromkeys(name.rpartition(".")[0] for name in fields))
    together = sorted(fields.items(), key=lambda item: rooms.index(item[0].rpartition(".")[0]))
    return [(name, shown(field.default), field.what) for name, field in together]


def shown(default: Any) -> str:
    """A default as it is typed."""
    if isinstance(default, type):
        return f"none ({default.__name__})"
    return f'"{default}"' if isinstance(default, str) else str(default)


def table(make: Callable[[], ConfigDict]) -> str:
    """A Markdown table of `rows`."""
    lines = ["| field | default | what |", "| --- | --- | --- |"]
    for field, value, what in rows(make):
        shown = value if value.startswith("none (") else f"`{value}`"
        lines.append(f"| `{field}` | {shown} | {what} |")
    return "\n".join(lines)


def shipped(config: str) -> list[Row]:
    """`rows` as they are in the package's file. config: the name of the function that makes it."""
    lines = [line.split("\t") for line in FIELDS.read_text().splitlines()]
    return [tuple(parts) for name, *parts in lines if name == config]


def to_tsv() -> str:
    """The package's file: a line a field, config, field, default and what."""
    from ddm_embed import config

    makers = (config.default, config.probe_default, config.sample_default, config.study_default)
    return "".join("\t".join((make.__name__, *row)) + "\n" for make in makers for row in rows(make))


def columns(rows: Iterable[Row]) -> str:
    """Plain text: the name with its default, and beside it what it is, in lines of up to 110 characters."""
    lines, indent = [], 42
    for name, value, what in rows:
        first = f"  {name}={value}"
        body = textwrap.wrap(what, 110 - indent, break_on_hyphens=False)
        if len(first) > indent - 2:
            lines.append(first)
            first = ""
        lines.append(f"{first:<{indent}}{body[0] if body else ''}")
        lines += [" " * indent + line for line in body[1:]]
    return "\n".join(lines)


if __name__ == "__main__":
    FIELDS.write_text(to_tsv())
    print(FIELDS)
