"""Embeddings by scikit-learn's conventions: `from ddm_embed import Embedder`."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ddm_embed import config as config_lib
from ddm_embed.data.image_file import rules_of
from ddm_embed.data.inputs import as_model_input, as_sequences, as_uint8
from ddm_embed.errors import UserError
from ddm_embed.features.exported import open_export, open_once
from ddm_embed.features.run import Run, check_levels, open_run
from ddm_embed.runs import files
from ddm_embed.train.pretrain import change, pretrain

Levels = float | Sequence[float] | str | None


class Embedder(TransformerMixin, BaseEstimator):
    """Images in, embeddings out; a transformer of scikit-learn's, for pipelines and grid searches.

    With `run` it embeds by what that run or export has learned, and `fit` changes nothing. Without, `fit` pretrains on
    the images that it is given, and never looks at labels.

        Embedder.from_run("runs/digits").transform(images)
        make_pipeline(Embedder(run="runs/digits"), LogisticRegression()).fit(images, labels)
        Embedder(steps=2000, image_size=32).fit("photos").transform("photos")

    Args:
      run: a run directory or an export. t: noise level that `transform` reads; several, which it puts side by side;
        "all", those of the probe; None, the one that the run's probe chose. feature: such as z, encoder_2 or
        denoiser_1; None, what the probe chose.
      config: fields that take the place of what the parameters below make of them, {"model.depth": 6}, or a whole
        config; not data.name, for the images are those that `fit` is given. arm: the method, one of
        `ddm_embed.arms.ARMS`. steps, batch_size: of the training. image_size: side that images of a folder
        or a list are resized to. kind: "images" or "sequences", where an array could be either; "auto" decides by its
        axes. workdir: a run directory to train in, which resumes and stays; else a temporary one. value_range: black
        and white in arrays of floats. random_state: of the training.

    Attributes:
      frozen_: the opened run, of `ddm_embed.features.run`. run_: the `run` that it was opened from; None where it was
        pretrained. n_features_in_: where it was fitted to rows of numbers.
    """

    def __init__(
        self,
        run=None,
        *,
        t: Levels = None,
        feature=None,
        config=None,
        arm="ddm",
        steps=1000,
        batch_size=64,
        image_size=None,
        kind="auto",
        workdir=None,
        value_range=(0.0, 1.0),
        random_state=0,
    ):
        self.run, self.t, self.feature = run, t, feature
        self.config, self.arm, self.steps, self.batch_size = config, arm, steps, batch_size
        self.image_size, self.kind, self.workdir = image_size, kind, workdir
        self.value_range, self.random_state = value_range, random_state

    @classmethod
    def from_run(cls, workdir: str | Path, **parameters: Any) -> Self:
        """An embedder of a trained run, opened.

        Raises:
          UserError: there is no run, or no sound checkpoint of it, or it has no such feature.
        """
        embedder = cls(run=str(workdir), **parameters)
        embedder._opened()
        return embedder

    @classmethod
    def from_export(cls, folder: str | Path, **parameters: Any) -> Self:
        """An embedder of what `python -m ddm_embed.export` wrote, opened.

        Raises:
          UserError: it is not there, or not as it was written.
        """
        embedder = cls(run=str(folder), **parameters)
        embedder._open(open_export)
        return embedder

    def fit(self, images: Any, y: Any = None) -> Self:
        """Pretrains on images, or opens `run` where that is given.

        Args:
          images: arrays uint8 [number, height, width, channel] or [number, height, width], floats within
            `value_range`; PIL images; a list of these or of files; a folder. Sequences: [number, length, channel], or
            rows of numbers [number, length]. y: ignored.

        Raises:
          UserError: they are none of these, cannot be read, or cannot be trained on.
        """
        if self.run is not None:
            self._opened()
            return self
        if self.t is not None:
            _numbers(self.t)
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31 - 1)
        shown = _folder(images) or self._training_array(images)
        steps, batch_size = _whole("steps", self.steps), _whole("batch_size", self.batch_size)
        settings = dict(arm=self.arm, steps=steps, batch_size=batch_size, seed=int(seed), feature=self.feature)
        with tempfile.TemporaryDirectory(prefix="ddm_embed_") as temporary:
            workdir = Path(temporary) / "run" if self.workdir is None else files.place(str(self.workdir))
            pretrain(shown, workdir, self._side(), _flat(self.config), **settings)
            run = open_run(workdir)
            self.frozen_ = run.replace(chosen=(run.choice, run.levels))  # read before a temporary directory goes
        self.run_ = None
        return self

    def transform(self, images: Any, t: Levels = None) -> Float[np.ndarray, "number dim"]:
        """Embeddings, float32 [number, dim]; of several noise levels side by side.

        Args:
          images: as for `fit`; of any size, resized with a warning. t: in place of the parameter.

        Raises:
          UserError: as `fit`; a noise level outside [0, 1].
          NotFittedError: neither `run` was given nor `fit` called.
        """
        found = self.trajectory(images, self.t if t is None else t)
        if t is not None and _wraps(self):  # scikit-learn asks for the names of what it wraps, and for nothing else
            self._named = t
        return found.reshape(len(found), found.shape[1] * found.shape[2])

    def trajectory(self, images: Any, t: Levels = "all") -> Float[np.ndarray, "number time dim"]:
        """As `transform`, with an axis of the noise levels."""
        run = self._opened()
        if _is_table(images) and (run.scale is not None or hasattr(self, "n_features_in_")):
            images = validate_data(self, images, reset=False, dtype="numeric")
        rules = rules_of(run.config.data)
        shown = as_model_input(images, run.image_shape, self.value_range, run.scale, rules)
        return run.embed(shown, self.levels(t), self.feature)

    def levels(self, t: Levels = None) -> list[float]:
        """The noise levels that a `t` stands for.

        Raises:
          UserError: it is neither a number, nor several, nor "all".
        """
        run = self._opened()
        if t is None:
            return [run.choice.t]
        return _numbers(t) or list(run.levels)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the entries that `transform` gives: FEATURE_I, or FEATURE_tT_I where there are several levels."""
        named = self.__dict__.pop("_named", None)
        run, levels = self._opened(), self.levels(self.t if named is None else named)
        feature = self.feature or run.choice.feature
        told = [f"{feature}_t{text}" for text in _distinct(levels)] if len(levels) > 1 else [feature]
        return np.array([f"{name}_{i}" for name in told for i in range(run.width(feature))], dtype=object)

    def _opened(self) -> Run:
        if self.run is not None and getattr(self, "run_", None) != self.run:  # set_params may name another one
            self._open(open_once)
        if not hasattr(self, "frozen_"):
            raise NotFittedError("this Embedder has learned nothing yet: call fit, or give it a run")
        return self.frozen_

    def _open(self, open_place: Callable[[Path], Run]) -> None:
        run = open_place(files.place(str(self.run)))
        if self.feature is not None:
            run.check_feature(self.feature)
        if self.t is not None:
            _numbers(self.t)
        self.frozen_, self.run_ = run, self.run

    def _side(self) -> int | None:
        return None if self.image_size is None else _whole("image_size", self.image_size)

    def _training_array(self, images: Any) -> np.ndarray:
        """uint8 [number, height, width, channel], or float sequences [number, length, channel]."""
        if _is_table(images):
            images = validate_data(self, images, dtype="numeric", ensure_min_samples=2)
        if self.kind not in ("auto", "images", "sequences"):
            raise UserError(f"kind={self.kind!r}; use auto, images or sequences")
        axes = np.ndim(images) if hasattr(images, "ndim") else None
        if self.kind == "sequences" or (self.kind == "auto" and axes == 2):
            return as_sequences(images)
        if self.kind == "auto" and axes == 3 and images.dtype != np.uint8:
            raise UserError(
                f"an array of {images.dtype} {list(images.shape)} may be grey images or sequences; set kind='images' "
                "or kind='sequences'"
            )
        config = config_lib.default()
        change(config, {k: v for k, v in _flat(self.config).items() if k in ("data.background", "data.bit_depth")})
        return as_uint8(images, self._side(), self.value_range, rules_of(config.data))

    def __sklearn_is_fitted__(self) -> bool:
        return self.run is not None or hasattr(self, "frozen_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = True
        tags.requires_fit = self.run is None
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes in
        return tags


def _wraps(embedder: Embedder) -> bool:
    """Whether scikit-learn makes a data frame of what `transform` gives."""
    own = getattr(embedder, "_sklearn_output_config", {})
    return own.get("transform", get_config()["transform_output"]) != "default"


def _distinct(levels: list[float]) -> list[str]:
    """The levels as texts, short where that tells them apart; equal ones are numbered."""
    short = [f"{t:g}" for t in levels]
    texts = short if len(set(short)) == len(set(levels)) else [repr(t) for t in levels]
    return [text if levels[:i].count(t) == 0 else f"{text}_{levels[:i].count(t) + 1}"
            for i, (text, t) in enumerate(zip(texts, levels, strict=True))]  # fmt: skip


def _folder(images: Any) -> Path | None:
    return Path(os.path.expanduser(images)) if isinstance(images, (str, Path)) else None


def _is_table(images: Any) -> bool:
    """Whether these are rows of numbers, as other estimators take."""
    if isinstance(images, (str, Path)):
        return False
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        return array.ndim < 3 and array.dtype.kind != "U" and (array.ndim == 2 or array.dtype != object)
    if isinstance(images, Sequence):
        return len(images) > 0 and isinstance(images[0], (int, float, list, tuple))
    return hasattr(images, "shape")  # a sparse matrix, which scikit-learn refuses in words of its own


def _numbers(t: float | Sequence[float] | str) -> list[float]:
    """The noise levels that are given as numbers; none for "all".

    Raises:
      UserError: they are no levels.
    """
    if isinstance(t, str) and t == "all":
        return []
    try:
        if isinstance(t, str):
            raise ValueError
        levels = [float(level) for level in np.atleast_1d(t)]
    except (TypeError, ValueError) as error:
        raise UserError(f't={t!r}: expected a number, several, "all", or None for the probe\'s choice') from error
    check_levels(levels)
    return levels


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise UserError(f"{name}={value!r}; expected a whole number from 1 on")
    return int(value)


def _flat(config: ConfigDict | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is not None and not isinstance(config, (ConfigDict, Mapping)):
        raise UserError(f"config={config!r}; expected fields and values, such as {{'model.depth': 6}}, or a ConfigDict")
    return {} if config is None else config_lib.flatten(config)
