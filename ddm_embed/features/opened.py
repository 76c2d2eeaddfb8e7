"""Opens what holds a trained encoder: a run directory, or an export."""

import json
from pathlib import Path

import jax

from ddm_embed import config as config_lib
from ddm_embed.data import labels
from ddm_embed.data.sequences import Scale
from ddm_embed.errors import UserError
from ddm_embed.features.choice import choose, is_timeless
from ddm_embed.features.exported import FILES, MANIFEST, is_export, open_export
from ddm_embed.features.run import Frozen
from ddm_embed.features.trained import restore
from ddm_embed.methods.system import SUPERVISED
from ddm_embed.runs import files
from ddm_embed.validate import validate

KEPT = 4  # handles, the last opened
_OPENED: dict[str, tuple[tuple, Frozen]] = {}


def open_any(place: Path) -> Frozen:
    """A run directory, or what `python -m ddm_embed.export` wrote.

    Raises:
      UserError: it is neither, or not as it was written.
    """
    return open_export(place) if is_export(place) else open_run(place)


def open_once(place: Path) -> Frozen:
    """As `open_any`; the same handle, and its compiled programs, as long as nothing there has changed.

    The clones that a grid search makes would else each restore and compile.
    """
    if files.is_store(place):
        return open_any(place)
    name = str(place.absolute())
    named = {"data.json", "classes.json", "checkpoints", MANIFEST, *FILES}
    watched = {place / file for file in named} | {*place.glob("checkpoints/*"), *place.glob("probe/*/results.json")}
    state = tuple((str(w), w.stat().st_mtime_ns, w.stat().st_size) for w in sorted(watched) if w.exists())
    if name not in _OPENED or _OPENED[name][0] != state:
        _OPENED[name] = state, open_any(place)
        while len(_OPENED) > KEPT:
            _OPENED.pop(next(iter(_OPENED)))
    return _OPENED[name][1]


def open_run(workdir: Path) -> Frozen:
    """The averaged parameters of a run's newest sound checkpoint, and the choice of its probe.

    Raises:
      UserError: there is no run, no sound checkpoint, or one that does not fit the config.
    """
    config = config_lib.read(workdir)
    validate(config)
    try:
        data = json.loads((workdir / "data.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"--workdir {workdir} holds a run that has not begun (no data.json); train it") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{workdir}/data.json is not JSON ({error}); restore it, or train again") from error
    image_shape = tuple(data["image_shape"])
    scale = Scale.from_json(data["scale"]) if data.get("scale") else None
    trained = restore(config, workdir, image_shape)
    classes = len(labels.noted(workdir / "classes.json")) if config.objective.name == SUPERVISED else None
    choice, levels = choose(workdir, trained.models, is_timeless(config, trained.models))
    params = jax.device_get(trained.params)
    return Frozen(config, image_shape, params, trained.step, choice, levels, scale, str(workdir), classes)
