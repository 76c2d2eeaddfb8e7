"""A trained encoder as a folder that can be copied, published and used without its run, or without this package.

DIR/export.json        format, what the encoder takes and gives, and the SHA-256 of every other file and of itself
DIR/config.json        the run's config
DIR/weights.safetensors  averaged parameters, float32, under names such as encoder/block_0/mlp_in/kernel
DIR/embed.jax_export   a program of jax.export: (weights by name, images, t) -> embeddings
DIR/README.md, DIR/example.py  a model card, and the program in use with nothing but jax, safetensors and numpy

Digests tell damage and accidents, not forgery: who can change a file can write its digest too. Files that export.json
does not name, such as a hub's own, are left alone.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from ddm_embed import config as config_lib
from ddm_embed import json_reader
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.features.choice import Choice
from ddm_embed.features.run import Run, open_run
from ddm_embed.reproducible import reproducible
from ddm_embed.runs import files
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.validate import validate

FORMAT = 1  # raised when a reader of the one before would misread it
MANIFEST = "export.json"
CONFIG, WEIGHTS, PROGRAM, CARD, EXAMPLE = (
    "config.json", "weights.safetensors", "embed.jax_export", "README.md", "example.py",
)  # fmt: skip
FILES = (CONFIG, WEIGHTS, PROGRAM, CARD, EXAMPLE)


class Manifest(TypedDict):
    """export.json, but for `format` and `sha256`; see docs/export.md."""

    image_shape: list[int]
    images: str
    feature: str
    t: float
    chosen_by: str
    dim: int
    features: list[str]
    levels: list[float]
    scale: dict[str, list[float]] | None
    classes: int | None
    step: int
    fingerprint: str
    written_by: str
    jax: str
    files: dict[str, str]


AGAIN = "copy or download the export again, or write it anew with python -m ddm_embed.export --workdir W --out DIR"

Flat = dict[str, Float[np.ndarray, "..."]]

KEPT = 4  # handles, the last opened
_OPENED: dict[str, tuple[tuple, Run]] = {}


def is_export(place: Path) -> bool:
    """Whether a folder is an export, or what is left of one."""
    return (place / MANIFEST).exists() or (place / WEIGHTS).exists()


@reproducible()
def open_export(place: Path) -> Run:
    """The encoder of an export, each of whose files is as it was written.

    Raises:
      UserError: there is no export, it is of a newer format, a file is missing or has changed, or the weights do not
        fit the config under this version of the code.
    """
    manifest = read_manifest(place)
    contents = {name: _read(place / name, manifest["files"].get(name)) for name in FILES}
    try:
        saved = json_reader.read(contents[CONFIG], place / CONFIG, AGAIN)
        config = config_lib.from_dict(saved, config_lib.default())
        validate(config)
    except UserError as error:
        raise UserError(
            f"{place}: {error}; it was written by ddm_embed {manifest['written_by']}: update this installation"
        ) from error
    try:
        params = nested(safetensors.load(contents[WEIGHTS]))
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:  # also types NumPy lacks
        raise UserError(f"{place}/{WEIGHTS} is not a file of safetensors ({error}); {AGAIN}") from error
    run = Run(
        config=config,
        image_shape=tuple(manifest["image_shape"]),
        params=params,
        step=manifest["step"],
        place=str(place),
        scale=Scale.from_json(manifest["scale"]),
        classes=manifest["classes"],
        chosen=(Choice(manifest["feature"], manifest["t"], manifest["chosen_by"]), tuple(manifest["levels"])),
    )
    _check_weights(run, manifest["written_by"])
    return run


def open_any(place: Path) -> Run:
    """A run directory, or what `python -m ddm_embed.export` wrote.

    Raises:
      UserError: it is neither, or not as it was written.
    """
    return open_export(place) if is_export(place) else open_run(place)


def open_once(place: Path) -> Run:
    """As `open_any`; the same handle, and its compiled programs, as long as nothing there has changed.

    The clones that a grid search makes would else each restore and compile.
    """
    if files.is_store(place):
        return open_any(place)
    name = str(place.absolute())
    state = RunDirectory(place).stamps() + files.stamps(place / file for file in (MANIFEST, *FILES))
    if name not in _OPENED or _OPENED[name][0] != state:
        _OPENED[name] = state, open_any(place)
        while len(_OPENED) > KEPT:
            _OPENED.pop(next(iter(_OPENED)))
    return _OPENED[name][1]


def manifest_text(fields: dict[str, Any], contents: dict[str, bytes]) -> str:
    """export.json for these fields and files; the one text that stands for them.

    Args:
      fields: those of `Manifest` but `files`. contents: of every other file.
    """
    files = {name: sha256(content) for name, content in contents.items()}
    return _sealed({"format": FORMAT} | fields | {"files": files})


def read_manifest(place: Path) -> dict[str, Any]:
    """What export.json says, once it is known to be as it was written.

    Raises:
      UserError: it is missing, of a newer format, or has changed.
    """
    path = place / MANIFEST
    try:
        content = files.read_bytes(path, AGAIN)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{place} holds no whole export (no {MANIFEST}); {AGAIN}") from error
    manifest = json_reader.read(content, path, AGAIN, check_seal=False)  # a newer format may have another
    form = manifest.get("format")
    if type(form) is int and form > FORMAT:
        raise UserError(
            f"{path} is of format {form} and this version of ddm_embed reads up to {FORMAT}; update ddm_embed, or "
            "export again with this version"
        )
    if form != FORMAT or content.decode() != _sealed({k: v for k, v in manifest.items() if k != "sha256"}):
        raise UserError(f"{path} has changed since it was written; {AGAIN}")
    json_reader.check(manifest, Manifest, path, AGAIN)
    shape, levels = manifest["image_shape"], [manifest["t"], *manifest["levels"]]
    if len(shape) != 3 or min(shape) < 1 or not all(0 <= t <= 1 for t in levels) or manifest["step"] < 0:
        raise UserError(f"{path}: image_shape {shape}, step {manifest['step']}, levels {levels}: not of a run; {AGAIN}")
    return manifest


def flat(params: Any) -> Flat:
    """{"encoder/block_0/mlp_in/kernel": array} of nested parameters."""
    return {name: np.ascontiguousarray(leaf) for name, leaf in _leaves(params)}


def nested(weights: Flat) -> dict[str, Any]:
    """What `flat` was given."""
    params: dict[str, Any] = {}
    for name, array in weights.items():
        *rooms, last = name.split("/")
        room = params
        for part in rooms:
            room = room.setdefault(part, {})
        room[last] = array
    return params


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sealed(manifest: dict[str, Any]) -> str:
    """The manifest as text, with the digest of what it says at its end."""
    digest = sha256(json.dumps(manifest, sort_keys=True).encode())
    return json.dumps(manifest | {"sha256": digest}, indent=2) + "\n"


def _read(path: Path, digest: str | None) -> bytes:
    """A file's content, once it is known to be as it was written."""
    try:
        content = files.read_bytes(path, AGAIN, largest=math.inf)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {AGAIN}") from error
    if content.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs in place of the file; run git lfs pull there, or hf download")
    if sha256(content) != digest:
        raise UserError(f"{path} has changed since it was written; {AGAIN}")
    return content


def _check_weights(run: Run, version: str) -> None:
    """Raises UserError unless the model that this code builds from the config has these very parameters."""
    wanted = jax.eval_shape(run.models.init, jax.random.key(0))
    wanted, found = ({name: (a.shape, a.dtype) for name, a in _leaves(tree)} for tree in (wanted, run.host_params()))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{run.place}/{WEIGHTS}: {name} is {_show(found.get(name))}, the model has "
                f"{_show(wanted.get(name))}; the export was written by another version of the code, ddm_embed {version}"
            )


def _leaves(params: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [("/".join(part.key for part in path), leaf) for path, leaf in leaves]


def _show(leaf: tuple | None) -> str:
    return "missing" if leaf is None else f"{leaf[1]}{list(leaf[0])}"
