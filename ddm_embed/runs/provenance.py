"""What would be needed to get the same figures again: packages, devices, commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("ddm_embed", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def versions() -> dict[str, Any]:
    """Packages, Python, devices and the commit of this code; `dirty`: whether it has changed since that commit."""
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
