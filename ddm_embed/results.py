"""results.json, what a probe found: its form, how it is written, and how it is read."""

import json
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from ddm_embed import json_reader
from ddm_embed.errors import UserError

BASELINES = ("pixels", "pca", "random_relu")  # what heads read in place of a run's features
STANDARDISED = "pixels_standardised"  # read as `pixels` by a head that tells held-out images better by them
LARGEST_CONFUSION = 100  # classes whose confusion is in results.json; that of more is in atlas.npz, sparse
BASELINE_HEADS = ("ridge", "knn")  # the protocols whose heads read them
COLLAPSED = "z has collapsed"  # what the warning of a run begins with whose codes are nearly one direction
JOINT = "@levels"  # how the names of features end that are read at several noise levels, side by side
TRAJECTORY = "trajectory_"  # what the names of protocols that read several noise levels begin with


class Point(TypedDict):
    """A feature at a noise level under a protocol, at its best hyper-parameter, judged on held-out training images.

    levels: the noise levels of one that is read at several, side by side; its t is None, its name ends in `JOINT`.
    """

    protocol: str
    feature: str
    t: float | None
    levels: NotRequired[list[float]]
    hyper: NotRequired[float | None]
    validation_accuracy: float | None


class Chosen(TypedDict, total=False):
    """The point that a protocol chose."""

    feature: str | None
    t: float | None
    levels: list[float]
    hyper: float | None
    validation_accuracy: float | None


class OfEncoder(TypedDict, total=False):
    """What a protocol chose among the encoder's features alone, z and its layers, and its test accuracy."""

    selected: Chosen
    test_accuracy: float | None
    test_accuracy_std: float | None
    test_accuracy_draws: list[float] | None


class Protocol(TypedDict):
    """What a protocol is, what it chose, and its test accuracy: mean, deviation and each of its draws.

    encoder: of those that choose among all features, the same of the encoder's.
    """

    settings: NotRequired[dict[str, Any] | None]
    hyper: NotRequired[str | None]
    selected: NotRequired[Chosen | None]
    test_accuracy: float | None
    test_accuracy_std: NotRequired[float | None]
    test_accuracy_draws: NotRequired[list[float] | None]
    encoder: NotRequired[OfEncoder | None]


class Definition(TypedDict, total=False):
    """What all protocols have in common: of its fields those that programs need."""

    times: list[float]
    training_images: int
    test_images: int
    noise_draws: int


class Seeds(TypedDict):
    """Of the training and of the probe."""

    train: int
    probe: int


class Manifest(TypedDict, total=False):
    """What the figures come from, see `runs.provenance.manifest`."""

    run: str
    config_hash: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str | None]
    python: str
    device: str
    created: str


class Results(TypedDict, total=False):
    """All that results.json holds. Without labels there is nothing from `protocol` to `confusion`.

    The first of `protocols` is the main one, whose choice and accuracy stand at the top too. A baseline's key is given
    by `baseline_key`. predictions: the SHA-256 of predictions.npz, None without: it tells that both are of one probe.
    train_flops: operations of the training up to the checkpoint, as MFU counts them.
    """

    dataset: str
    kind: str
    name: str
    checkpoint_step: int
    train_flops: float
    seeds: Seeds | None
    classes: list[str] | None
    warnings: list[str] | None
    protocol: Definition | None
    protocols: dict[str, Protocol] | None
    profile: list[Point] | None
    selected: Chosen | None
    test_accuracy: float | None
    test_accuracy_std: float | None
    test_accuracy_draws: list[float] | None
    baselines: dict[str, float | None] | None
    baseline_choices: dict[str, Chosen | None] | None
    confusion: list[list[int]] | None
    predictions: str | None
    measures: dict[str, Any] | None
    timing: dict[str, Any] | None
    manifest: Manifest


class Baseline(NamedTuple):
    """A baseline under one head. key: its name in results.json and predictions.npz."""

    key: str
    accuracy: float
    selected: Chosen


def baseline_key(baseline: str, protocol: str) -> str:
    """`pixels` is ridge's, whatever other protocols there are and in whatever order; `pixels_knn` is that of knn."""
    return baseline if protocol == "ridge" else f"{baseline}_{protocol}"


def encoder_key(protocol: str) -> str:
    """What figures of the encoder's features alone are called."""
    return f"{protocol}, encoder"


def baseline_of(results: Results, protocol: str | None, baseline: str = "pixels") -> Baseline | None:
    """A baseline under this protocol's own head; None where that head was not run on it."""
    key = baseline_key(baseline, protocol or "")
    accuracy = (results.get("baselines") or {}).get(key)
    return None if accuracy is None else Baseline(key, accuracy, (results.get("baseline_choices") or {}).get(key) or {})


def varied(protocol: Protocol) -> str:
    """What the draws differ in that `test_accuracy_std` is the deviation over, with n - 1."""
    return "labels" if "draws" in (protocol.get("settings") or {}) else "noise"


def has_collapsed(results: Results) -> bool:
    """Whether the probe warns that the run's codes have collapsed."""
    return any(line.startswith(COLLAPSED) for line in results.get("warnings") or [])


def main_protocol(results: Results) -> str | None:
    """The first protocol's name; None where none was run."""
    return next(iter(results.get("protocols") or {}), None)


def at_levels(chosen: Chosen) -> str:
    """At which noise level a feature was chosen, as `t=0.3`, or at how many; nothing of what knows none."""
    if chosen.get("levels"):
        return f"{len(chosen['levels'])} levels side by side"
    return "" if chosen.get("t") is None else f"t={chosen['t']:g}"


def of_one_level(results: Results) -> Chosen | None:
    """What the main protocol chose, or the best of one noise level, where it chose several side by side."""
    chosen, main = results.get("selected"), main_protocol(results)
    if not chosen or not chosen.get("levels"):
        return chosen
    points = [p for p in results.get("profile") or [] if p["protocol"] == main and p["t"] is not None]
    return max(points, key=lambda point: point["validation_accuracy"] or 0, default=None)


def trajectory_readers(results: Results) -> dict[str, Protocol]:
    """The protocols that read a trajectory, under their readers' names; `single` is the best single level."""
    found = results.get("protocols") or {}
    return {name.removeprefix(TRAJECTORY): found[name] for name in found if name.startswith(TRAJECTORY)}


def figures(accuracy: list[float]) -> dict[str, Any]:
    """The test accuracies of every draw, as results.json has them."""
    return {
        "test_accuracy": float(np.mean(accuracy)),
        "test_accuracy_std": float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        "test_accuracy_draws": accuracy,
    }


def labelled(
    definition: dict[str, Any],
    protocols: dict[str, Protocol],
    profile: list[Point],
    baselines: dict[str, tuple[float, Chosen]],
    confusion: list[list[int]] | None,
) -> Results:
    """The part of the results that labels made.

    Args:
      definition: what all protocols have in common. protocols: the main one first. profile: every point of all.
      baselines: test accuracy and choice, by `baseline_key`. confusion: of the main protocol's first draw, how many
        images of each class (rows) were given to each; None of more than `LARGEST_CONFUSION` classes.
    """
    main = next(iter(protocols.values()))
    return {
        "protocol": definition,
        "protocols": protocols,
        "profile": profile,
        "selected": main["selected"],
        **figures(main["test_accuracy_draws"]),
        "baselines": {key: accuracy for key, (accuracy, _) in baselines.items()},
        "baseline_choices": {key: chosen for key, (_, chosen) in baselines.items()},
        "confusion": confusion,
    }


def write(results: Results) -> str:
    """The text of results.json."""
    return json.dumps(json_reader.sealed(results), indent=1) + "\n"


def read(text: str | bytes, file: Any, mend: str, required: tuple[str, ...] = ()) -> Results:
    """The results in a text of any version.

    Args:
      text: of results.json. file, mend: where it is, and what to do about it, for messages.
      required: fields that must be there, those of fields after a dot: `manifest.run`.

    Raises:
      UserError: it is no JSON object, lacks a required field, or has one of another type.
    """
    found = json_reader.read(text, file, mend)
    outer = [name for name in required if "." not in name and name not in found]
    lacking = outer or [name for name in required if "." in name and not _has(found, *name.split("."))]
    if lacking:
        raise UserError(f"{file}: of an older version, without {', '.join(lacking)}; {mend}")
    json_reader.check(found, Results, file, mend)
    return found


def _has(found: dict[str, Any], outer: str, inner: str) -> bool:
    return isinstance(found.get(outer), dict) and inner in found[outer]
