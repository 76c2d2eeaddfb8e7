"""What may be shown on a terminal: names of files, classes and runs are a stranger's, and could move the cursor."""

import logging
import re
from typing import TextIO

# Control characters but for line feed and tab, marks that turn the direction of writing, and what is no text at all.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with what a terminal would obey written out, such as \\x1b; lines and tabs stay."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """As `plain`, without line breaks."""
    return plain(text).replace("\n", "\\n")


class PlainStream:
    """A text stream whose writes are `plain`."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(plain(text))

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


class PlainFormatter(logging.Formatter):
    """Log records whose text is `plain`."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))
