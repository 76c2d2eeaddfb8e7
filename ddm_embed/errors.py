"""The exceptions that a program shows to its user as a single line."""

import sys


class UserError(Exception):
    """Something the user can mend: the message names what, its value, what was expected and how to mend it."""


def store_errors() -> tuple[type[Exception], ...]:
    """What reaching a store may raise that is no OSError; nothing in a program that uses none."""
    if sys.modules.get("gcsfs") is None:
        return ()
    from aiohttp import ClientError
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError

    return ClientError, HttpError, GoogleAuthError
