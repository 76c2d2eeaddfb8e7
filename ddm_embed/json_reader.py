"""The one reader of JSON: whatever a text holds, it comes out of the form that was asked for, or is refused in a line.

What is `sealed` holds the SHA-256 of what it says, which tells damage and accidents, not forgery.

A form is a `TypedDict`, or dict, list, str, int, float, bool, or one of these with its entries' forms, such as
list[int] and dict[str, float]; `form | None`; and Any.
"""

import hashlib
import json
import math
import types
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from ddm_embed.errors import UserError

MARK, SEAL = "sealed", "sha256"  # the first field and the last, so that no damage in one place takes both
DEEPEST = 64  # objects and lists within one another
DIGITS = 19  # of an integer
WORDS = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number", bool: "true or false"}


def read(text: str | bytes, file: Any, mend: str, form: Any = dict, check_seal: bool = True) -> Any:
    """The value that a text stands for.

    Args:
      text: bytes are UTF-8. file, mend: where it is, and what the user can do about it, for the message.
      form: of the value; an object may have more fields than it names. check_seal: whether to compare a digest and take
        it away.

    Raises:
      UserError: it is no JSON, is nested too deeply, is of another form, or has changed since it was sealed.
    """
    try:
        found = json.loads(text.decode() if isinstance(text, bytes) else text, parse_int=_integer)
        if _deeper(found, DEEPEST):
            raise ValueError(f"more than {DEEPEST} levels deep")
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON
        raise UserError(f"{file}: not readable as JSON ({error}); {mend}") from error
    check(found, form, file, mend)
    if check_seal and isinstance(found, dict) and (SEAL in found or MARK in found):
        digest, _ = found.pop(SEAL, None), found.pop(MARK, None)
        if digest != _digest(found):
            mend += f' (if you changed it, delete its "{MARK}" and "{SEAL}")'
            raise UserError(f"{file}: has changed since it was written; {mend}")
    return found


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The same object with its digest."""
    return {MARK: True} | value | {SEAL: _digest(json.loads(json.dumps(value)))}  # as it is read: every key a text


def check(found: Any, form: Any, file: Any, mend: str) -> None:
    """Raises UserError unless a JSON value is of the form."""
    if wrong := _wrong(found, form, ""):
        raise UserError(f"{file}: {wrong}; {mend}")


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner if isinstance(item, (dict, list)))


def _wrong(value: Any, form: Any, at: str) -> str | None:
    """Where a JSON value is not of a form, and what was expected there; None where it is."""
    if form is Any:
        return None
    if isinstance(form, types.UnionType):  # X | None
        return None if value is None else _wrong(value, get_args(form)[0], at)
    kind = dict if is_typeddict(form) else get_origin(form) or form
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
        return f"{f'{at} is' if at else 'holds'} {_shown(value)}, expected {WORDS[kind]}"
    if kind is float and not math.isfinite(value):
        return f"{at} is {value}, expected a finite number"
    inner = []
    if is_typeddict(form):
        lacking = [name for name in sorted(form.__required_keys__) if name not in value]
        if lacking:
            return f"{f'{at} is ' if at else ''}without {', '.join(lacking)}"
        inner = [(value[name], hint, name) for name, hint in get_type_hints(form).items() if name in value]
    elif kind is dict and get_args(form):
        inner = [(item, get_args(form)[1], name) for name, item in value.items()]
    elif kind is list and get_args(form):
        inner = [(item, get_args(form)[0], str(place)) for place, item in enumerate(value)]
    return next(filter(None, (_wrong(item, hint, f"{at}.{name}".lstrip(".")) for item, hint, name in inner)), None)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
