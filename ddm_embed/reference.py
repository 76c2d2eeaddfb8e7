"""README's tables of config fields, made of the lines that define them and the comments beside these."""

import inspect
import re
from collections.abc import Callable

from ml_collections import ConfigDict

LINE = re.compile(r"\s+(c|\w+)\.(\w+) = (.+?)  # (.+)")


def table(make: Callable[[], ConfigDict]) -> str:
    """A Markdown table: field, default, what.

    Args:
      make: `config.default`, `config.probe_default` or `config.sample_default`; a line of it that sets a field ends in
        two spaces and a comment.
    """
    rows = ["| field | default | what |", "| --- | --- | --- |"]
    for match in filter(None, map(LINE.fullmatch, inspect.getsource(make).splitlines())):
        room, field, value, comment = match.groups()
        name = field if room == "c" else f"{room}.{field}"
        placeholder = re.fullmatch(r"placeholder\((\w+)\)", value)
        value = f"none ({placeholder.group(1)})" if placeholder else f"`{value}`"
        rows.append(f"| `{name}` | {value} | {comment} |")
    return "\n".join(rows)
