"""Images at hand -> a trained run, as `python -m ddm_embed.main` makes one."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from ddm_embed import arms
from ddm_embed import config as config_lib
from ddm_embed.data.folder import images_below
from ddm_embed.data.image_file import header
from ddm_embed.errors import UserError
from ddm_embed.methods.build import make_models
from ddm_embed.models.build import base_of
from ddm_embed.runs.directory import RunDirectory
from ddm_embed.train.loop import train
from ddm_embed.validate import check_feature, validate

TOKENS = {28: 7, 0: 4}  # along a side of so many pixels or more, at least: patches are the largest that leave so many
LARGEST_PATCH = 16
SMALLEST = 2  # images that can be told apart


def pretrain(
    shown: Path | Num[np.ndarray, "number *shape"],
    workdir: Path,
    image_size: int | None,
    changes: dict[str, Any],
    *,
    arm: str,
    steps: int,
    batch_size: int,
    seed: int,
    feature: str | None = None,
) -> None:
    """Trains in `workdir`, or goes on where it was left.

    Args:
      shown: a folder; images uint8 [number, height, width, channel]; or sequences [number, length, channel]. Arrays are
        kept in the directory, so that the run can be resumed and probed.
      image_size: side that a folder's images are resized to. changes: of the config's fields, by dotted name; data.name
        is what is shown. feature: one that the run must have.

    Raises:
      UserError: as `train`; fewer than two images; `workdir` holds a run of others; the run would lack the feature.
      KeyboardInterrupt: a signal asked to stop; what was trained is saved in `workdir`.
    """
    config = config_lib.default()
    config.name = workdir.name
    if isinstance(shown, Path):
        name = f"folder:{shown}"
        size = (image_size,) * 2 if image_size else _size_below(shown)
    else:
        if len(shown) < SMALLEST:
            raise UserError(f"{len(shown)} image is too little to learn from; give more, tens at least")
        name = f"arrays:{RunDirectory(workdir).arrays}"
        size = (1, shown.shape[1]) if shown.ndim == 3 else shown.shape[1:3]
    config.data.test_fraction = 0.0  # whoever fits wants all images used; labels of a folder are left alone
    config.model.variant = f"Ti/{patch_for(size)}" if size else "Ti/4"
    config.model.depth, config.model.encoder_depth = 4, 2  # for a laptop
    config.optimizer.learning_rate, config.optimizer.ema_decay = 2e-3, 0.995
    config.optimizer.warmup_steps = min(100, steps // 10)
    config.train.steps, config.train.batch_size, config.train.seed = steps, batch_size, seed
    config.train.log_every, config.train.picture_every = max(1, steps // 10), 0
    config.probe.after_training = False
    arms.apply(arm, config)
    config.embedding.dim = 128
    change(config, changes)
    config.data.name = name
    if isinstance(shown, Path):
        config.data.image_size = config.data.image_size or image_size
    validate(config)
    if feature is not None and size:
        check_feature(base_of(feature), make_models(config, (*size, 1), classes=1).features)
    if not isinstance(shown, Path):
        RunDirectory(workdir).keep_arrays(shown)
    outcome = train(config, workdir)
    if not outcome.finished:
        raise KeyboardInterrupt(f"stopped at step {outcome.step} of {config.train.steps}")


def _size_below(folder: Path) -> tuple[int, int] | None:
    """(height, width) of a folder's first image; None where there is none, which training will say."""
    files = images_below(folder) if folder.is_dir() else []
    return header(files[0])[0] if files else None


def change(config: ConfigDict, changes: dict[str, Any]) -> None:
    """Sets fields by their dotted names.

    Raises:
      UserError: there is no such field, or the value is of another type.
    """
    for name, value in changes.items():
        config_lib.check_field(name, config_lib.default())
        try:
            config.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
        except TypeError as error:
            raise UserError(f"config: {name}={value!r} is of the wrong type ({error})") from error


def patch_for(size: tuple[int, int]) -> int:
    """The largest patch that divides both sides, is at most 16 and leaves 7 tokens or more along the shorter one, or 4
    where that has less than 28 pixels; 1 if there is none. Of a sequence, whose height is 1, the length alone counts.
    """
    sides = [side for side in size if side > 1] or [1]
    shorter = min(sides)
    tokens = next(least for pixels, least in TOKENS.items() if shorter >= pixels)
    fitting = [p for p in range(1, LARGEST_PATCH + 1) if all(side % p == 0 for side in sides)]
    return max((p for p in fitting if shorter // p >= tokens), default=1)
