"""The data sources: what `config.data.name` may name. A source is one file of this folder and one line at the end of
this one; a source from elsewhere calls `register` itself, for instance in the user's config file.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from ddm_embed.data.types import Source, subset
from ddm_embed.errors import UserError

HOLD_OUT_SEED = 0  # of splits drawn from the training images: part of the dataset, not of a run

Open = Callable[[str, ConfigDict], Source]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of source. usage: what a user writes, "folder:PATH". open: see `register`."""

    usage: str
    open: Open
    resizes: bool

    @property
    def takes_rest(self) -> bool:
        return ":" in self.usage


KINDS: dict[str, Kind] = {}


def register(usage: str, open_source: Open | str, resizes: bool = False) -> None:
    """Adds a source, or replaces the one of the same name.

    Args:
      usage: "toy", or "toy:PATH" of a source that needs a rest after its name; messages and pages show it.
      open_source: (the rest after the colon, `config.data`) -> Source; reads no more than it must to know the shapes
        and raises UserError if it cannot. Or a module's name, imported when first used, that has an `open_source`.
      resizes: whether it heeds `config.data.image_size`.
    """

    def imported(rest: str, data: ConfigDict) -> Source:
        return importlib.import_module(open_source).open_source(rest, data)

    KINDS[usage.partition(":")[0]] = Kind(usage, imported if isinstance(open_source, str) else open_source, resizes)


def usages(kinds: list[Kind] | None = None) -> str:
    """The sources as a message lists them: "digits, tfds:NAME or folder:PATH"."""
    names = [kind.usage for kind in (KINDS.values() if kinds is None else kinds)]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def names_place(name: str) -> bool:
    """Whether `config.data.name` says where something lies on this machine."""
    kind = KINDS.get(name.partition(":")[0])
    return kind is not None and kind.usage.endswith(":PATH")


def open_source(config: ConfigDict) -> Source:
    """Opens the dataset that `config.data` names, reading no more than it must to know the shapes.

    Raises:
      UserError: it is not there, or it cannot be read; the message says how to mend it.
    """
    name, colon, rest = config.data.name.partition(":")
    kind = KINDS.get(name)
    if config.data.image_size is not None and not (kind and kind.resizes):
        resized = usages([kind for kind in KINDS.values() if kind.resizes])
        raise UserError(f"config.data.image_size={config.data.image_size}: only {resized} is resized; leave it out")
    if kind is None or bool(rest) != kind.takes_rest or bool(colon) != kind.takes_rest:
        raise UserError(f"config.data.name={config.data.name!r}; use {usages()}")
    source = kind.open(os.path.expanduser(rest) if names_place(name) else rest, config.data)
    if source.test is None and source.train.read_labels is not None and config.data.test_fraction > 0:
        source = _hold_out(source, config.data.test_fraction, "test")
    fraction = config.get("objective", {}).get("held_out", 0)
    if source.validation is None and source.train.read_labels is not None and fraction > 0:
        source = dataclasses.replace(_hold_out(source, fraction, "validation"), kept_apart=True)
    return source


def _hold_out(source: Source, fraction: float, split: str) -> Source:
    """The source with a share of its training images as another split."""
    number = len(source.train)
    held = round(number * fraction)
    if not 0 < held < number:
        return source
    order = np.random.default_rng(HOLD_OUT_SEED).permutation(number)
    parts = {"train": np.sort(order[held:]), split: np.sort(order[:held])}
    return dataclasses.replace(source, **{name: subset(source.train, part) for name, part in parts.items()})


register("digits", "ddm_embed.data.digits")
register("tfds:NAME", "ddm_embed.data.tfds")
register("folder:PATH", "ddm_embed.data.folder", resizes=True)
register("arrays:PATH", "ddm_embed.data.arrays")
