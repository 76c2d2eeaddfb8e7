"""The arms of a comparison, each a preset of a method: `--config configs/digits.py:arm=vdrl`.

Every arm keeps the config's data, sizes, optimizer and length, so that arms of one config are trained under one budget.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from ddm_embed import methods
from ddm_embed.errors import UserError


def arms() -> Mapping[str, Callable[[ConfigDict], None]]:
    """Every registered method's presets, by name; the docstring of each has its equation and source."""
    return {name: preset for method in methods.all_methods() for name, preset in method.presets.items()}


def __getattr__(name: str):
    if name == "ARMS":  # looked up anew, so that a method registered later is among them
        return arms()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def apply(arm: str, c: ConfigDict) -> None:
    """Makes the config the arm's; any but `ddm` is added to its name, so that runs/NAME are different directories.

    Raises:
      UserError: there is no such arm.
    """
    known = arms()
    if arm not in known:
        raise UserError(f"config argument 'arm={arm}'; use one of {', '.join(known)}")
    known[arm](c)
    if arm != "ddm":
        c.name = f"{c.name}_{arm.replace('-', '_')}"
