"""The one exception that a program shows to its user as a single line."""


class UserError(Exception):
    """Something the user can mend: the message names what, its value, what was expected and how to mend it."""
