"""One field of a config, as a specification: what defaults, checks, help and documents are made of."""

from typing import Any, NamedTuple


class Field(NamedTuple):
    """One field of a config: all that is said of it.

    Attributes:
      default: its value; a type in place of a value: none, unless one of that type is given.
      what: a line for help and documents. choices: the values that it may have; any if None.
      least, most: its range, both allowed; None for no bound.
      needs: (another field, values): it has no effect unless that one has one of these values.
      free: whether a resumed run may change it: it says where and how often, not what is computed.
      added: whether there are runs from before it, all of which did what the default says: at its default it is no part
        of a run's identity.
    """

    default: Any
    what: str
    choices: tuple | None = None
    least: float | None = None
    most: float | None = None
    needs: tuple[str, tuple] | None = None
    free: bool = False
    added: bool = False
