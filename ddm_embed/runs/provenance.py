"""Where a figure comes from: configs, seeds, packages, devices, commit; what is needed to get it again."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any, TypedDict

import jax
from ml_collections import ConfigDict

from ddm_embed import config as config_lib

PACKAGES = ("ddm_embed", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class Versions(TypedDict, total=False):
    """commit: of this code, None where it is installed without its repository. dirty: whether it has changed since."""

    packages: dict[str, str | None]
    python: str
    platform: str
    devices: list[str]
    processes: int
    commit: str | None
    dirty: bool | None


def versions() -> Versions:
    """Of this process, as versions.json notes them."""
    commit = _git("rev-parse", "HEAD")
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--", ".")),
    }


def manifest(run: ConfigDict, config: ConfigDict, dataset: str) -> dict[str, Any]:
    """The run's and the probe's configs as hashes, seeds, commit, versions, device and time.

    config_hash: of the run's config but for its name, its seed and the fields that do not shape results, so that runs
    which differ in nothing but the seed have one.
    """
    found = versions()
    devices = jax.devices()
    return {
        "run": run.name,
        "config_hash": fingerprint(run),
        "probe_hash": fingerprint(config),
        "commit": found["commit"],
        "dirty": found["dirty"],
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "versions": found["packages"],
        "python": found["python"],
        "device": f"{devices[0].device_kind} x {len(devices)}",
        "dataset": dataset,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def fingerprint(config: ConfigDict) -> str:
    """SHA-256 of what shapes a config's results but for its seeds: not its name, nor the fields that a resumed run may
    change."""
    left_out = ("name", "seed", "train.seed")
    flat = config_lib.flatten(config).items()
    kept = {name: value for name, value in flat if name not in left_out and not config_lib.is_free(name)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _git(*arguments: str) -> str | None:
    """What git says about this package's folder; None where it is installed without its repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a checkout, or a package that this run does without
