"""Where a figure comes from: what every number in a table carries."""

import datetime
import hashlib
import json
from typing import Any

import jax
from ml_collections import ConfigDict

from ddm_embed import config as config_lib
from ddm_embed.runs import provenance


def manifest(run: ConfigDict, config: ConfigDict, dataset: str) -> dict[str, Any]:
    """The run's and the probe's configs as hashes, seeds, commit, versions, device and time.

    config_hash: of the run's config but for its name, its seed and the fields that do not shape results, so that runs
    which differ in nothing but the seed have one.
    """
    versions = provenance.versions()
    devices = jax.devices()
    return {
        "run": run.name,
        "config_hash": fingerprint(run),
        "probe_hash": fingerprint(config),
        "commit": versions["commit"],
        "dirty": versions["dirty"],
        "seeds": {"train": run.train.seed, "probe": config.seed},
        "versions": versions["packages"],
        "python": versions["python"],
        "device": f"{devices[0].device_kind} x {len(devices)}",
        "dataset": dataset,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def fingerprint(config: ConfigDict) -> str:
    """SHA-256 of what shapes a config's results but for its seeds: not its name, nor the fields that a resumed run may
    change."""
    left_out = ("name", "seed", "train.seed", *config_lib.FREE_FIELDS)
    kept = {name: value for name, value in config_lib.flatten(config).items() if not name.startswith(left_out)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
